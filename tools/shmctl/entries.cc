#include "tools/shmctl/entries.h"

#include <atomic>

#include "shm/clock.h"
#include "tools/shmctl/answer.h"

namespace larder::tools {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;

std::string why_not_served(shm::Segment& segment, const shm::EntryInfo& entry) {
  if (segment.stripe(entry.stripe).bypass.load(kRelaxed) != 0) return "bypassed stripe";
  if (entry.live) return {};
  const std::uint64_t epoch = segment.superblock().hot.epoch.load(kRelaxed);
  if (shm::is_closed(epoch)) return "closed segment";
  if (entry.epoch != static_cast<std::uint32_t>(epoch)) return "older epoch";
  const std::uint64_t now = shm::now_ms();
  if (entry.expires_ms != shm::kNeverExpires && entry.expires_ms <= now) return "expired";
  return "cleared";
}

std::optional<std::uint64_t> life_left_ms(const shm::EntryInfo& entry) {
  if (entry.expires_ms == shm::kNeverExpires) return std::nullopt;
  const std::uint64_t now = shm::now_ms();
  return entry.expires_ms > now ? entry.expires_ms - now : 0;
}

void add_bytes(Json& json, const std::string& name, std::string_view bytes) {
  json[name] = is_utf8(bytes) ? Json(bytes) : Json(nullptr);
  json[name + "_base64"] = base64(bytes);
}

const char* source_name(shm::EntrySource source) noexcept {
  switch (source) {
    case shm::EntrySource::kFill:
      return "fill";
    case shm::EntrySource::kOwn:
      return "own set";
    case shm::EntrySource::kEvent:
      return "event";
    case shm::EntrySource::kAlone:
      break;
  }
  return "set without Redis";
}

Json json_of_entry(const shm::EntryInfo& entry, const std::string& why_not) {
  Json json;
  add_bytes(json, "key", entry.key);
  json["value_bytes"] = entry.value_bytes;
  json["expires_in_ms"] = json_or_null(life_left_ms(entry));
  json["served"] = why_not.empty();
  if (!why_not.empty()) json["why_not"] = why_not;
  json["source"] = source_name(entry.source);
  json["stripe"] = entry.stripe;
  json["epoch"] = entry.epoch;
  json["reach_seq"] = entry.reach_seq;
  json["base_seq"] = entry.base_seq;
  json["use"] = entry.use;
  return json;
}

}  // namespace larder::tools
