// keys and get: what is in a segment.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "shm/clock.h"
#include "shm/inspect.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
using shm::Segment;

// ---- entries ----------------------------------------------------------------------------------

// Why a `get` of the library would miss; empty when it would not.
std::string why_not_served(Segment& segment, const shm::EntryInfo& entry) {
  if (segment.stripe(entry.stripe).bypass.load(kRelaxed) != 0) return "bypassed stripe";
  if (entry.live) return {};
  const std::uint64_t epoch = segment.superblock().hot.epoch.load(kRelaxed);
  if (shm::is_closed(epoch)) return "closed segment";
  if (entry.epoch != static_cast<std::uint32_t>(epoch)) return "older epoch";
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

// ---- keys -------------------------------------------------------------------------------------

// Prints keys one by one: there may be millions.
class KeyPrinter {
 public:
  explicit KeyPrinter(const Arguments& arguments) : a_(arguments) {}

  void begin(const Segment& segment) const {
    if (a_.json) {
      std::printf("{\n  \"path\": %s,\n  \"status\": \"fine\",\n  \"keys\": [",
                  one_line(json_text(segment.path())).c_str());
    } else {
      std::printf("%12s  %14s  %sKEY\n", "VALUE BYTES", "EXPIRES IN",
                  a_.all ? "STATE            " : "");
    }
  }

  // False: enough.
  bool add(const shm::EntryInfo& entry, const std::string& why_not) {
    if (a_.limit != 0 && shown_ == a_.limit) {
      more_ = true;
      return false;
    }
    if (a_.json) {
      std::printf("%s\n    %s", shown_ == 0 ? "" : ",",
                  one_line(json_of_entry(entry, why_not)).c_str());
    } else {
      print_line(entry, why_not);
    }
    ++shown_;
    return std::ferror(stdout) == 0;
  }

  void end() const {
    if (a_.json) {
      std::printf("%s],\n  \"more\": %s\n}\n", shown_ == 0 ? "" : "\n  ", more_ ? "true" : "false");
    } else if (more_) {
      std::fprintf(stderr, "shmctl: there are more than --limit %lld keys\n",
                   static_cast<long long>(a_.limit));
    }
  }

 private:
  void print_line(const shm::EntryInfo& entry, const std::string& why_not) const {
    const auto left = life_left_ms(entry);
    std::printf("%12llu  %14s  ", static_cast<unsigned long long>(entry.value_bytes),
                left ? format_duration(*left).c_str() : "never");
    if (a_.all) std::printf("%-15s  ", why_not.empty() ? "served" : why_not.c_str());
    std::printf("%s\n", escape(entry.key).c_str());
  }

  const Arguments& a_;
  std::int64_t shown_ = 0;
  bool more_ = false;
};

}  // namespace

int keys(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  KeyPrinter printer(arguments);
  printer.begin(*segment);
  shm::for_each_entry(*segment, [&](const shm::EntryInfo& entry) {
    if (!entry.key.starts_with(arguments.prefix)) return true;
    const std::string why_not = why_not_served(*segment, entry);
    if (!why_not.empty() && !arguments.all) return true;
    return printer.add(entry, why_not);
  });
  printer.end();
  return kFine;
}

// ---- get --------------------------------------------------------------------------------------

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

}  // namespace larder::tools
