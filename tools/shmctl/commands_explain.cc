// explain: what a host knows of one key, and what a read of it would do now.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "shm/inspect.h"
#include "shm/journal.h"
#include "shm/lease.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/entries.h"
#include "tools/shmctl/notes.h"

namespace larder::tools {
namespace {

struct Known {
  std::optional<shm::EntryInfo> entry;
  std::string why_not;  // it is not served; empty without an entry
  shm::GuardInfo guard;
  shm::LeaderInfo leader;
  std::optional<shm::Journal::Entry> last;  // event about the key that the journal still has
  std::uint64_t unix_ms;                    // now
};

std::optional<shm::Journal::Entry> last_note(shm::Segment& segment, std::string_view key) {
  const shm::Journal journal(segment);
  const std::string_view begin = key.substr(0, shm::kNoteText);
  const auto [first, end] = journal.range();
  for (std::uint64_t number = end; number > first; --number) {
    auto note = journal.read(number - 1);
    const bool about_it = note && note->hash == segment.hash(key) && note->text == begin &&
                          note->happening <= shm::Happening::kDelete;
    if (about_it) return note;
  }
  return std::nullopt;
}

Known look_up(shm::Segment& segment, std::string_view key) {
  Known known;
  std::string value;
  known.entry = shm::find_entry(segment, key, value);
  if (known.entry) known.why_not = why_not_served(segment, *known.entry);
  known.guard = shm::find_guard(segment, key);
  known.leader = shm::leader(segment);
  known.last = last_note(segment, key);
  known.unix_ms = shm::coarse_now().unix_ms;
  return known;
}

bool is_hit(const Known& known) { return known.entry && known.why_not.empty(); }
// Without Redis nobody else changes what is held.
bool is_alone(const Known& known) { return known.leader.place == 0; }

std::string read_line(const Known& known) {
  if (!known.entry) return "miss: nothing is held of it";
  if (!known.why_not.empty()) return "miss: what is held is not served (" + known.why_not + ")";
  if (is_alone(known)) return "hit";
  if (known.leader.lease_left_ms != 0) return "hit: the host holds its lease";
  return "hit, but stale_reads decides: the lease is over";
}

std::string version_line(const Known& known) {
  const std::uint64_t reach = known.entry->reach_seq;
  if (reach == 0) return "none: it was set without Redis";
  const std::uint64_t cursor = known.leader.cursor.seq;
  std::string line = std::to_string(reach);
  if (known.entry->epoch != static_cast<std::uint32_t>(known.leader.epoch)) return line;
  return line + (reach > cursor ? ", ahead of the cursor"
                                : ", " + format_count(cursor - reach, "change") + " ago");
}

std::string age_line(const Known& known) {
  if (!known.last || known.last->id.seq != known.entry->reach_seq) {
    return "unknown: the journal does not have its event";
  }
  return format_ago(known.unix_ms - std::min(known.unix_ms, known.last->unix_ms));
}

std::string guard_line(const Known& known) {
  const shm::GuardInfo& guard = known.guard;
  std::string line = guard.epoch != 0 && guard.epoch == known.leader.epoch
                         ? "change " + std::to_string(guard.seq)
                         : "no change in this epoch";
  if (guard.count != 0) line += ", " + format_count(guard.count, "change") + " without an id";
  return line + "; shared with other keys";
}

void print_known(const Known& known, std::string_view key) {
  Facts facts;
  facts.add("key", escape(key));
  facts.add("a read now", read_line(known));
  if (known.entry) {
    const auto left = life_left_ms(*known.entry);
    facts.add("value", format_bytes(known.entry->value_bytes));
    facts.add("version", version_line(known));
    facts.add("came by", source_name(known.entry->source));
    facts.add("age", age_line(known));
    facts.add("expires", left ? "in " + format_duration(*left) : "never");
    facts.add("epoch", std::to_string(known.entry->epoch) + " of " +
                           std::to_string(known.leader.epoch) + " now");
  }
  facts.add("guard", guard_line(known));
  facts.add("last event", known.last ? note_line(*known.last) : "none that the journal still has");
  facts.print(stdout);
}

void print_known_json(const shm::Segment& segment, const Known& known, std::string_view key) {
  Json json = json_head(segment, is_hit(known) ? kFine : kDegraded);
  add_bytes(json, "key", key);
  json["read"] = read_line(known);
  json["hit"] = is_hit(known);
  json["lease_left_ms"] = known.leader.lease_left_ms;
  json["cursor_seq"] = known.leader.cursor.seq;
  json["epoch"] = known.leader.epoch;
  json["entry"] = known.entry ? json_of_entry(*known.entry, known.why_not) : Json(nullptr);
  json["guard"] = {{"epoch", known.guard.epoch},
                   {"seq", known.guard.seq},
                   {"count", known.guard.count},
                   {"bypassed", known.guard.bypassed}};
  json["last_event"] = known.last ? json_of_note(*known.last) : Json(nullptr);
  print_json(json);
}

}  // namespace

int explain(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const Known known = look_up(*segment, arguments.key);
  if (arguments.json) {
    print_known_json(*segment, known, arguments.key);
  } else {
    print_known(known, arguments.key);
  }
  return is_hit(known) ? kFine : kDegraded;
}

}  // namespace larder::tools
