// What observers see of a segment: totals, processes, the leader, single entries. Takes no lock and
// writes nothing, so it works on a read-only mapping, on a wedged segment and on a copied file.
// Numbers are each true at some moment; the whole is not one moment.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shm/layout.h"
#include "shm/segment.h"

namespace larder::shm {

struct Totals {
  std::array<std::uint64_t, kCounters> counters{};  // of every process that ever attached
  std::uint64_t entries = 0;
  std::uint64_t payload_bytes = 0;  // keys and values of reachable entries
  // These add up to the segment:
  std::uint64_t live_bytes = 0;      // reachable entries: headers, payload, padding
  std::uint64_t pinned_bytes = 0;    // no longer reachable, but a view still shows them
  std::uint64_t free_bytes = 0;      // of the arenas
  std::uint64_t index_bytes = 0;     // buckets, and what the policy remembers of evicted keys
  std::uint64_t metadata_bytes = 0;  // everything else

  std::uint64_t arena_bytes = 0;  // live, pinned and free
  std::uint32_t pins = 0;         // views held now
  std::uint32_t loads = 0;        // under way now
  std::uint32_t processes = 0;
  std::uint32_t locked_stripes = 0;
  std::uint32_t bypassed_stripes = 0;

  std::uint64_t operator[](Counter counter) const {
    return counters[static_cast<std::size_t>(counter)];
  }
};
Totals totals(Segment& segment);

struct ProcessInfo {
  std::uint32_t place;
  std::uint32_t incarnation;
  std::uint32_t pid;
  std::uint32_t pid_namespace;
  std::uint64_t attached_ms;
  bool leader;
  std::uint32_t held_stripes;
};
std::vector<ProcessInfo> processes(Segment& segment);

// A view that a process holds. While it does, its bytes stay, reachable or not.
struct PinInfo {
  std::uint32_t place;
  std::uint32_t stripe;
  std::uint32_t granule;
  std::string key;  // what is pinned, as far as it can be told
  std::uint64_t value_bytes;
  bool reachable;  // a slot still points at it
};
std::vector<PinInfo> pins(Segment& segment);

// What the leaders of this host met, by SyncCounter.
std::array<std::uint64_t, kSyncCounters> sync_counters(Segment& segment);

struct LeaderInfo {
  std::uint64_t term;
  std::uint32_t place;  // 0: there was none yet
  std::uint32_t pid;    // 0: it has left, or another process has its place
  std::uint64_t heartbeat;
  std::uint64_t lease_left_ms;  // 0: it is over
  bool follows;                 // the lease lasts, and it was this leader that extended it
  std::uint64_t epoch;
  ChangeId cursor;
  std::uint64_t head_seq;
  std::uint64_t log_end_seq;      // that the last probe saw
  std::uint64_t answered_ms_ago;  // since that probe was sent; UINT64_MAX: none was answered
  std::uint64_t floor_seq;        // 0: none in this epoch
};
LeaderInfo leader(Segment& segment);

struct EntryInfo {
  std::string key;
  std::uint64_t value_bytes;
  std::uint64_t expires_ms;  // CLOCK_BOOTTIME; 0: never
  std::uint64_t reach_seq;
  std::uint64_t base_seq;
  std::uint32_t epoch;
  std::uint32_t stripe;
  std::uint16_t use;  // the policy's word
  EntrySource source;
  bool live;  // would be served: this epoch, above the floor, not expired
};
// Every entry that a slot points at, in no order; false stops. Entries that move meanwhile may be
// missed or seen twice.
void for_each_entry(Segment& segment, const std::function<bool(const EntryInfo&)>& visit);
// What late replies for a key, and for those that share its guard, must not overwrite.
struct GuardInfo {
  std::uint64_t epoch;  // 0: of none
  std::uint64_t seq;    // the highest change applied in that epoch, made here, or read and dropped
  std::uint64_t count;  // changes without an id, repairs, wipes
  bool bypassed;        // its stripe: readers miss there
};
GuardInfo find_guard(Segment& segment, std::string_view key);
// One key, whatever its state, and its value.
std::optional<EntryInfo> find_entry(Segment& segment, std::string_view key, std::string& value);

}  // namespace larder::shm
