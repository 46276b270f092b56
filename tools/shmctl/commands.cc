#include "tools/shmctl/commands.h"

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "shm/check.h"
#include "shm/clock.h"
#include "shm/inspect.h"
#include "shm/policy.h"
#include "shm/process.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
using shm::Segment;

// ---- the target -------------------------------------------------------------------------------

std::string path_of(const Arguments& arguments) {
  if (arguments.target.find('/') != std::string::npos) return arguments.target;
  return Segment::path_of(arguments.directory, arguments.target);
}

// The segment, or nothing after saying why.
std::shared_ptr<Segment> attach(const Arguments& arguments) {
  auto segment = Segment::attach(path_of(arguments), shm::Access::kReadOnly);
  if (segment) return *segment;
  std::string message = segment.status().message();
  if (segment.code() == Code::kNotFound) {
    message += "; `shmctl list` shows what there is, --directory looks elsewhere";
  } else if (segment.code() == Code::kPermissionDenied) {
    message += "; run as the user or group that owns it";
  }
  (void)fail(arguments, kCannotAttach, message);
  return nullptr;
}

std::int64_t unix_ms() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Since when; nothing for a moment of another boot or of a clock that was set back.
std::optional<std::uint64_t> created_ms_ago(const Segment& segment) {
  const std::int64_t then = segment.superblock().created_unix_ms;
  const std::int64_t now = unix_ms();
  if (then <= 0 || then > now) return std::nullopt;
  return static_cast<std::uint64_t>(now - then);
}
std::optional<std::uint64_t> ms_ago(std::uint64_t boottime_ms) {
  const std::uint64_t now = shm::now_ms();
  if (boottime_ms == 0 || boottime_ms > now) return std::nullopt;
  return now - boottime_ms;
}

std::string format_age(std::optional<std::uint64_t> ms) {
  return ms ? format_duration(*ms) : "unknown";
}
std::string format_ago(std::optional<std::uint64_t> ms) {
  return ms ? format_duration(*ms) + " ago" : "at an unknown time";
}
Json json_or_null(std::optional<std::uint64_t> number) {
  return number ? Json(*number) : Json(nullptr);
}

std::string policy_name(std::uint32_t policy) {
  if (policy == shm::kPolicyLfu) return "lfu";
  if (policy == shm::kPolicyLru) return "lru";
  return "unknown (" + std::to_string(policy) + ")";
}

const char* exit_name(int exit) {
  switch (exit) {
    case kFine:
      return "fine";
    case kDegraded:
      return "degraded";
    case kBroken:
      return "broken";
    case kCannotAttach:
      return "cannot attach";
    default:
      return "usage";
  }
}

void print_json(const Json& json) {
  // Everything outside ASCII is escaped: a terminal gets no control character of anybody's key.
  std::printf("%s\n", json.dump(2, ' ', true).c_str());
}

// What every answer starts with.
Json json_head(const Segment& segment, int exit) {
  return {{"path", json_text(segment.path())}, {"status", exit_name(exit)}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

int fail(const Arguments& arguments, int exit, const std::string& message) {
  std::fprintf(stderr, "shmctl: %s\n", escape(message).c_str());
  if (arguments.json) {
    print_json({{"status", exit_name(exit)}, {"error", json_text(message)}});
  }
  return exit;
}

// ---- list -------------------------------------------------------------------------------------

namespace {

Json json_of_listed(const std::string& directory, const std::string& name) {
  const std::string path = Segment::path_of(directory, name);
  Json one{{"name", json_text(name)}, {"path", json_text(path)}};
  auto segment = Segment::attach(path, shm::Access::kReadOnly);
  if (!segment) {
    one["error"] = json_text(segment.status().message());
    return one;
  }
  const shm::Totals totals = shm::totals(**segment);
  one["segment_bytes"] = (*segment)->geometry().segment_bytes;
  one["entries"] = totals.entries;
  one["live_bytes"] = totals.live_bytes;
  one["processes"] = totals.processes;
  one["created_unix_ms"] = (*segment)->superblock().created_unix_ms;
  one["age_ms"] = json_or_null(created_ms_ago(**segment));
  return one;
}

}  // namespace

int list(const Arguments& arguments) {
  DIR* directory = opendir(arguments.directory.c_str());
  if (directory == nullptr) {
    return fail(arguments, kCannotAttach,
                "cannot read the directory " + arguments.directory + ": " + std::strerror(errno));
  }
  closedir(directory);
  const auto names = Segment::list(arguments.directory);
  if (arguments.json) {
    Json all = Json::array();
    for (const auto& name : names) all.push_back(json_of_listed(arguments.directory, name));
    print_json(
        {{"directory", json_text(arguments.directory)}, {"status", "fine"}, {"segments", all}});
    return kFine;
  }
  if (names.empty()) {
    std::printf("no segments in %s\n", escape(arguments.directory).c_str());
    return kFine;
  }
  using enum Table::Align;
  Table table({{"NAME", kLeft},
               {"SIZE", kRight},
               {"LIVE", kRight},
               {"ENTRIES", kRight},
               {"PROCESSES", kRight},
               {"AGE", kRight},
               {"NOTE", kLeft}});
  for (const auto& name : names) {
    auto segment =
        Segment::attach(Segment::path_of(arguments.directory, name), shm::Access::kReadOnly);
    if (!segment) {
      table.add({escape(name), "-", "-", "-", "-", "-", escape(segment.status().message())});
      continue;
    }
    const shm::Totals totals = shm::totals(**segment);
    table.add({escape(name), format_bytes((*segment)->geometry().segment_bytes),
               format_bytes(totals.live_bytes), std::to_string(totals.entries),
               std::to_string(totals.processes), format_age(created_ms_ago(**segment)), ""});
  }
  table.print(stdout);
  return kFine;
}

// ---- info -------------------------------------------------------------------------------------

namespace {

struct Count {
  const char* name;
  std::uint64_t value;
};

std::vector<Count> geometry_of(const Segment& segment) {
  const shm::Geometry& g = segment.geometry();
  return {{"segment_bytes", g.segment_bytes},
          {"place_count", g.place_count},
          {"stripe_count", g.stripe_count},
          {"buckets_per_stripe", g.buckets_per_stripe},
          {"slots_per_bucket", shm::kSlotsPerBucket},
          {"guards_per_stripe", g.guards_per_stripe},
          {"sketch_per_stripe", g.sketch_per_stripe},
          {"arena_bytes", g.arena_bytes()},
          {"max_entries", g.max_entries},
          {"places_offset", g.places_offset},
          {"stripes_offset", g.stripes_offset},
          {"buckets_offset", g.buckets_offset},
          {"guards_offset", g.guards_offset},
          {"sketches_offset", g.sketches_offset},
          {"maps_offset", g.maps_offset},
          {"arenas_offset", g.arenas_offset}};
}

std::string layout_of(const shm::Superblock& block) {
  return std::to_string(block.layout_version) + "/" + format_hex(block.layout_signature);
}

// The lines that tell that something is wrong; shared by `info` and `stat`.
std::vector<std::string> health_lines(const Health& health) {
  std::vector<std::string> lines;
  if (health.bypassed_stripes != 0) {
    lines.push_back("readers miss in " + format_count(health.bypassed_stripes, "bypassed stripe") +
                    " until the next writer there");
  }
  if (!health.dead_locks.empty()) {
    lines.push_back("a process that is gone holds the lock of " +
                    format_count(health.dead_locks.size(), "stripe") +
                    "; the next writer takes it over");
  }
  return lines;
}

void print_health(const Health& health) {
  for (const auto& line : health_lines(health)) std::printf("degraded: %s\n", line.c_str());
}

void print_info(const Segment& segment, const struct ::stat& file) {
  const shm::Superblock& block = segment.superblock();
  char mode[8];
  std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(file.st_mode & 07777));
  Facts facts;
  facts.add("path", escape(segment.path()));
  facts.add("size", format_bytes(segment.geometry().segment_bytes) + " (" +
                        std::to_string(segment.geometry().segment_bytes) + " bytes)");
  facts.add("owner", "user " + std::to_string(file.st_uid) + ", group " +
                         std::to_string(file.st_gid) + ", mode " + mode);
  facts.add("created", format_ago(created_ms_ago(segment)) + " by process " +
                           std::to_string(block.creator_pid));
  facts.add("instance", format_hex(block.instance));
  facts.add("layout", layout_of(block));
  facts.add("policy", policy_name(block.policy));
  std::string name = "made for";
  for (const auto& line : lines_of(segment.binding()))
    facts.add(std::exchange(name, ""), escape(line));
  facts.print(stdout);
  std::printf("\n");
  Facts geometry;
  for (const Count& count : geometry_of(segment)) {
    geometry.add(count.name, std::to_string(count.value));
  }
  geometry.print(stdout);
}

Json json_of_info(const Segment& segment, const struct ::stat& file, int exit) {
  const shm::Superblock& block = segment.superblock();
  Json json = json_head(segment, exit);
  json["segment_bytes"] = segment.geometry().segment_bytes;
  json["owner"] = file.st_uid;
  json["group"] = file.st_gid;
  json["mode"] = file.st_mode & 07777;
  json["created_unix_ms"] = block.created_unix_ms;
  json["age_ms"] = json_or_null(created_ms_ago(segment));
  json["creator_pid"] = block.creator_pid;
  json["instance"] = format_hex(block.instance);
  json["layout"] = {{"version", block.layout_version},
                    {"signature", format_hex(block.layout_signature)}};
  json["policy"] = policy_name(block.policy);
  json["binding"] = Json::array();
  for (const auto& line : lines_of(segment.binding())) json["binding"].push_back(json_text(line));
  for (const Count& count : geometry_of(segment)) json["geometry"][count.name] = count.value;
  return json;
}

}  // namespace

int info(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  struct ::stat file {};
  if (::stat(segment->path().c_str(), &file) != 0) {
    return fail(arguments, kCannotAttach,
                "cannot stat " + segment->path() + ": " + std::strerror(errno));
  }
  const Health found = health(*segment, Liveness(*segment));
  const int exit = found.degraded() ? kDegraded : kFine;
  if (arguments.json) {
    Json json = json_of_info(*segment, file, exit);
    json["degradations"] = health_lines(found);
    print_json(json);
  } else {
    print_info(*segment, file);
    print_health(found);
  }
  return exit;
}

// ---- stat -------------------------------------------------------------------------------------

namespace {

// Where the segment's bytes are; the parts add up to the whole whatever was read.
struct Part {
  const char* name;
  std::uint64_t bytes;
  const char* what;
};

std::vector<Part> space_of(const Segment& segment, const shm::Totals& totals) {
  return {{"live", totals.live_bytes, "reachable entries: headers, keys, values, padding"},
          {"pinned", totals.pinned_bytes, "not reachable any more, but a view still shows them"},
          {"free", totals.free_bytes, "room for entries"},
          {"index", totals.index_bytes, "buckets, and what the policy remembers"},
          {"metadata", totals.metadata_bytes, "superblock, processes, stripes, guards, maps"},
          {"segment", segment.geometry().segment_bytes, "all of the above"}};
}

void print_space(const std::vector<Part>& space) {
  using enum Table::Align;
  Table table({{"SPACE", kLeft}, {"BYTES", kRight}, {"", kRight}, {"OF ALL", kRight}, {"", kLeft}});
  for (const Part& part : space) {
    table.add({part.name, std::to_string(part.bytes), format_bytes(part.bytes),
               format_share(part.bytes, space.back().bytes), part.what});
  }
  table.print(stdout);
}

Json json_of_space(const std::vector<Part>& space) {
  Json json;
  for (const Part& part : space) json[std::string(part.name) + "_bytes"] = part.bytes;
  return json;
}

void print_counters(const shm::Totals& totals) {
  std::size_t width = 0;
  for (std::size_t i = 0; i < shm::kCounters; ++i) {
    width = std::max(width, std::strlen(shm::counter_name(static_cast<shm::Counter>(i))));
  }
  for (std::size_t i = 0; i < shm::kCounters; ++i) {
    std::printf("%-*s  %12llu\n", static_cast<int>(width),
                shm::counter_name(static_cast<shm::Counter>(i)),
                static_cast<unsigned long long>(totals.counters[i]));
  }
}

}  // namespace

int stat(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const shm::Totals totals = shm::totals(*segment);
  const Health found = health(*segment, Liveness(*segment));
  const int exit = found.degraded() ? kDegraded : kFine;
  const std::vector<Part> space = space_of(*segment, totals);
  const std::uint64_t hits = totals[shm::Counter::kLocalHits];
  const std::uint64_t reads = hits + totals[shm::Counter::kLocalMisses];
  const std::uint32_t stripes = segment->geometry().stripe_count;

  if (arguments.json) {
    Json json = json_head(*segment, exit);
    json["entries"] = totals.entries;
    json["processes"] = totals.processes;
    json["hit_ratio"] =
        reads == 0 ? Json(nullptr) : Json(static_cast<double>(hits) / static_cast<double>(reads));
    json["stripes"] = {{"count", stripes},
                       {"locked", found.locked_stripes},
                       {"locked_by_dead", found.dead_locks.size()},
                       {"bypassed", found.bypassed_stripes}};
    json["space"] = json_of_space(space);
    for (std::size_t i = 0; i < shm::kCounters; ++i) {
      json["counters"][shm::counter_name(static_cast<shm::Counter>(i))] = totals.counters[i];
    }
    json["degradations"] = health_lines(found);
    print_json(json);
    return exit;
  }
  Facts facts;
  facts.add("entries", std::to_string(totals.entries));
  facts.add("processes", std::to_string(totals.processes) + " attached");
  facts.add("hit ratio", format_share(hits, reads) + " of local reads");
  facts.add("stripes", std::to_string(stripes) + ", " + std::to_string(found.locked_stripes) +
                           " locked (" + std::to_string(found.dead_locks.size()) +
                           " by the dead), " + std::to_string(found.bypassed_stripes) +
                           " bypassed");
  facts.print(stdout);
  std::printf("\n");
  print_space(space);
  std::printf("\ncounters, of every process that ever attached\n");
  print_counters(totals);
  print_health(found);
  return exit;
}

// ---- keys and get -----------------------------------------------------------------------------

namespace {

// Why a `get` of the library would miss; empty when it would not.
std::string why_not_served(Segment& segment, const shm::EntryInfo& entry) {
  if (segment.stripe(entry.stripe).bypass.load(kRelaxed) != 0) return "bypassed stripe";
  if (entry.live) return {};
  if (entry.epoch != static_cast<std::uint32_t>(segment.superblock().hot.epoch.load(kRelaxed))) {
    return "older epoch";
  }
  const std::uint64_t now = shm::now_ms();
  if (entry.expires_ms != shm::kNeverExpires && entry.expires_ms <= now) return "expired";
  return "cleared";
}

// What is left; nothing: for ever. 0: expired.
std::optional<std::uint64_t> life_left_ms(const shm::EntryInfo& entry) {
  if (entry.expires_ms == shm::kNeverExpires) return std::nullopt;
  const std::uint64_t now = shm::now_ms();
  return entry.expires_ms > now ? entry.expires_ms - now : 0;
}

// Any bytes: as text when they are text, and always as base64.
void add_bytes(Json& json, const std::string& name, std::string_view bytes) {
  json[name] = is_utf8(bytes) ? Json(bytes) : Json(nullptr);
  json[name + "_base64"] = base64(bytes);
}

Json json_of_entry(const shm::EntryInfo& entry, const std::string& why_not) {
  Json json;
  add_bytes(json, "key", entry.key);
  json["value_bytes"] = entry.value_bytes;
  json["expires_in_ms"] = json_or_null(life_left_ms(entry));
  json["served"] = why_not.empty();
  if (!why_not.empty()) json["why_not"] = why_not;
  json["stripe"] = entry.stripe;
  json["epoch"] = entry.epoch;
  json["reach_seq"] = entry.reach_seq;
  json["base_seq"] = entry.base_seq;
  json["use"] = entry.use;
  return json;
}

void print_entry(const shm::EntryInfo& entry, const std::string& why_not, bool with_state) {
  const auto left = life_left_ms(entry);
  std::printf("%12llu  %14s  ", static_cast<unsigned long long>(entry.value_bytes),
              left ? format_duration(*left).c_str() : "never");
  if (with_state) std::printf("%-15s  ", why_not.empty() ? "served" : why_not.c_str());
  std::printf("%s\n", escape(entry.key).c_str());
}

}  // namespace

int keys(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  if (arguments.json) {
    // One by one: there may be millions.
    std::printf("{\n  \"path\": %s,\n  \"status\": \"fine\",\n  \"keys\": [",
                json_text(segment->path()).dump(-1, ' ', true).c_str());
  } else {
    std::printf("%12s  %14s  %sKEY\n", "VALUE BYTES", "EXPIRES IN",
                arguments.all ? "STATE            " : "");
  }
  std::int64_t shown = 0;
  bool more = false;
  shm::for_each_entry(*segment, [&](const shm::EntryInfo& entry) {
    if (!entry.key.starts_with(arguments.prefix)) return true;
    const std::string why_not = why_not_served(*segment, entry);
    if (!why_not.empty() && !arguments.all) return true;
    if (arguments.limit != 0 && shown == arguments.limit) {
      more = true;
      return false;
    }
    if (arguments.json) {
      std::printf("%s\n    %s", shown == 0 ? "" : ",",
                  json_of_entry(entry, why_not).dump(-1, ' ', true).c_str());
    } else {
      print_entry(entry, why_not, arguments.all);
    }
    ++shown;
    return std::ferror(stdout) == 0;
  });
  if (arguments.json) {
    std::printf("%s],\n  \"more\": %s\n}\n", shown == 0 ? "" : "\n  ", more ? "true" : "false");
  } else if (more) {
    std::fprintf(stderr, "shmctl: there are more than --limit %lld keys\n",
                 static_cast<long long>(arguments.limit));
  }
  return kFine;
}

int get(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  std::string value;
  const auto entry = shm::find_entry(*segment, arguments.key, value);
  const std::string why_not = entry ? why_not_served(*segment, *entry) : "";
  if (!entry || !why_not.empty()) {
    std::string message = "key '" + arguments.key + "' is not in " + segment->path();
    if (!why_not.empty()) message += ": an entry is there but not served (" + why_not + ")";
    return fail(arguments, kDegraded, message);
  }
  if (!arguments.json) {
    std::fwrite(value.data(), 1, value.size(), stdout);
    return kFine;
  }
  Json json = json_head(*segment, kFine);
  json.update(json_of_entry(*entry, why_not));
  add_bytes(json, "value", value);
  print_json(json);
  return kFine;
}

// ---- procs and leader -------------------------------------------------------------------------

namespace {

const char* alive_name(Alive alive) {
  return alive == Alive::kYes ? "yes" : alive == Alive::kNo ? "no" : "unknown";
}

// The leader's place may since have gone to another process, which is not the leader.
bool names_leader(Segment& segment, std::uint32_t place, std::uint32_t incarnation) {
  const shm::SyncWords& sync = segment.superblock().sync;
  return sync.leader_place.load(kRelaxed) == place && place != 0 &&
         shm::make_owner(place, sync.leader_incarnation.load(kRelaxed)) ==
             shm::make_owner(place, incarnation);
}

Json json_of_process(const shm::ProcessInfo& process, const Life& life, bool leads) {
  return {
      {"place", process.place},
      {"pid", process.pid},
      {"incarnation", process.incarnation},
      {"pid_namespace", process.pid_namespace},
      {"age_ms", json_or_null(ms_ago(process.attached_ms))},
      {"leader", leads},
      {"held_stripes", process.held_stripes},
      {"alive", life.alive == Alive::kUnknown ? Json(nullptr) : Json(life.alive == Alive::kYes)},
      {"state", life.state}};
}

}  // namespace

int procs(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const Liveness liveness(*segment);
  using enum Table::Align;
  Table table({{"PLACE", kRight},
               {"PID", kRight},
               {"INCARNATION", kRight},
               {"NAMESPACE", kRight},
               {"ATTACHED FOR", kRight},
               {"LEADER", kLeft},
               {"STRIPES HELD", kRight},
               {"ALIVE", kLeft},
               {"STATE", kLeft}});
  Json all = Json::array();
  const auto processes = shm::processes(*segment);
  for (const shm::ProcessInfo& process : processes) {
    const Life life = liveness.of_place(process.place);
    const bool leads = names_leader(*segment, process.place, process.incarnation);
    if (arguments.json) {
      all.push_back(json_of_process(process, life, leads));
      continue;
    }
    table.add({std::to_string(process.place), std::to_string(process.pid),
               std::to_string(process.incarnation), std::to_string(process.pid_namespace),
               format_age(ms_ago(process.attached_ms)), leads ? "yes" : "",
               std::to_string(process.held_stripes), alive_name(life.alive), life.state});
  }
  if (arguments.json) {
    Json json = json_head(*segment, kFine);
    json["processes"] = all;
    print_json(json);
  } else if (processes.empty()) {
    std::printf("no process is attached\n");
  } else {
    table.print(stdout);
  }
  return kFine;
}

int leader(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const shm::LeaderInfo leader = shm::leader(*segment);
  const Alive leading = Liveness(*segment).leading();
  bool in_place = false;
  if (leader.place != 0 && leader.place < segment->geometry().place_count) {
    const std::uint64_t state = segment->place(leader.place).state.load(kRelaxed);
    in_place = shm::state_alive(state) &&
               names_leader(*segment, leader.place, shm::state_incarnation(state));
  }
  const std::uint32_t pid = in_place ? leader.pid : 0;
  if (arguments.json) {
    Json json = json_head(*segment, kFine);
    json["term"] = leader.term;
    json["place"] = leader.place;
    json["pid"] = pid == 0 ? Json(nullptr) : Json(pid);
    json["leading"] = leading == Alive::kUnknown ? Json(nullptr) : Json(leading == Alive::kYes);
    json["heartbeat"] = leader.heartbeat;
    json["in_sync"] = leader.in_sync;
    json["epoch"] = leader.epoch;
    json["cursor"] = {{"seq", leader.cursor.seq}, {"nonce", std::to_string(leader.cursor.nonce)}};
    json["head_seq"] = leader.head_seq;
    json["floor_seq"] = leader.floor_seq;
    print_json(json);
    return kFine;
  }
  Facts facts;
  if (leader.place == 0) {
    facts.add("leader", "none yet (without Redis there is none)");
  } else {
    const std::string who = "place " + std::to_string(leader.place);
    facts.add("leader",
              pid == 0 ? "gone; it had " + who : "process " + std::to_string(pid) + ", " + who);
  }
  facts.add("lock", leading == Alive::kYes  ? "held"
                    : leading == Alive::kNo ? "free: nobody leads now"
                                            : "unknown: no lock file to ask");
  facts.add("term", std::to_string(leader.term));
  facts.add("heartbeat", std::to_string(leader.heartbeat) + " turns");
  facts.add("in sync", leader.in_sync ? "yes" : "no");
  facts.add("epoch", std::to_string(leader.epoch));
  facts.add("cursor", leader.cursor.none() ? "none"
                                           : std::to_string(leader.cursor.seq) + "-" +
                                                 std::to_string(leader.cursor.nonce));
  facts.add("head", leader.head_seq == 0 ? "none" : std::to_string(leader.head_seq));
  facts.add("floor",
            leader.floor_seq == 0 ? "none in this epoch" : std::to_string(leader.floor_seq));
  facts.print(stdout);
  return kFine;
}

// ---- check and rm -----------------------------------------------------------------------------

int check(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  shm::CheckOptions options;
  options.deep = arguments.deep;
  shm::CheckReport report = shm::check(*segment, options);
  // The checker sees a lock of a place that is free or another's; that the process of a place which
  // still stands in its name was killed, only the lock file and /proc tell.
  for (const DeadLock& dead : health(*segment, Liveness(*segment)).dead_locks) {
    if (!dead.place_is_its) continue;
    report.degradations.push_back("stripe " + std::to_string(dead.stripe) + ": locked by process " +
                                  std::to_string(dead.pid) + " (place " +
                                  std::to_string(dead.place) +
                                  "), which is gone; the next writer takes it over");
  }
  const int exit = !report.clean() ? kBroken : !report.degradations.empty() ? kDegraded : kFine;
  if (arguments.json) {
    Json json = json_head(*segment, exit);
    json["deep"] = options.deep;
    json["entries"] = report.entries;
    json["payload_bytes"] = report.payload_bytes;
    json["violations"] = report.violations;
    json["degradations"] = report.degradations;
    print_json(json);
    return exit;
  }
  for (const auto& line : report.violations) std::printf("violation: %s\n", line.c_str());
  for (const auto& line : report.degradations) std::printf("degraded: %s\n", line.c_str());
  std::printf("%s: %s, %s of keys and values%s\n", exit_name(exit),
              format_count(report.entries, "entry").c_str(),
              format_bytes(report.payload_bytes).c_str(),
              options.deep ? ", every checksum compared" : "");
  return exit;
}

int rm(const Arguments& arguments) {
  const std::string path = path_of(arguments);
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == 0 ? "/" : path.substr(0, slash);
  const std::string file = path.substr(slash + 1);
  constexpr std::string_view kPrefix = "larder.";
  if (!file.starts_with(kPrefix) || file.size() == kPrefix.size()) {
    return fail(arguments, kUsage,
                path + " is not named like a segment (larder.NAME); remove a copy with rm(1)");
  }
  const Status removed = Segment::remove(directory, file.substr(kPrefix.size()), arguments.force);
  if (removed.code() == Code::kBusy) return fail(arguments, kDegraded, removed.message());
  if (!removed.ok()) return fail(arguments, kCannotAttach, removed.message());
  if (arguments.json) {
    print_json({{"path", json_text(path)}, {"status", "fine"}, {"removed", true}});
  } else {
    std::printf("removed %s\n", escape(path).c_str());
  }
  return kFine;
}

}  // namespace larder::tools
