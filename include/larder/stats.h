// Counters of one segment, summed over every process that ever attached to it.
//
// Taken without stopping anybody: each number is exact at some moment during the call, the whole
// is not one moment.
#pragma once

#include <cstdint>

namespace larder {

struct Stats {
  // Reads and writes.
  std::uint64_t local_hits = 0;     // answered from shared memory
  std::uint64_t local_misses = 0;   // not in shared memory
  std::uint64_t remote_hits = 0;    // then found in Redis
  std::uint64_t remote_misses = 0;  // nor in Redis
  std::uint64_t remote_errors = 0;  // Redis refused, failed or did not answer
  std::uint64_t stale_hits = 0;     // local hits answered while the host was not in sync
  std::uint64_t sets = 0;
  std::uint64_t removes = 0;
  std::uint64_t clears = 0;

  // What became of values.
  std::uint64_t stored = 0;           // copies written into the segment
  std::uint64_t stores_refused = 0;   // late fills and writes that newer changes overtook
  std::uint64_t too_large = 0;        // values that do not fit a stripe of the segment
  std::uint64_t evictions = 0;        // live entries dropped to make room
  std::uint64_t expirations = 0;      // entries found past their life
  std::uint64_t lock_timeouts = 0;    // bounded waits for a stripe that ran out
  std::uint64_t takeovers = 0;        // stripes taken over from a dead process and repaired
  std::uint64_t corrupt = 0;          // reads of changed bytes, found with verify_checksums
  std::uint64_t announced_large = 0;  // sets whose value was above push_max_bytes
  std::uint64_t announced_cold = 0;   // sets of keys that were not held, with push_held_only
  std::uint64_t not_asked = 0;        // calls that were not made, since Redis had not answered
  std::uint64_t wipes = 0;            // stripes emptied because that was the safe thing

  // Sync.
  std::uint64_t events_applied = 0;
  std::uint64_t events_old = 0;         // already contained in what the host holds
  std::uint64_t events_without_id = 0;  // from Go peers
  std::uint64_t events_malformed = 0;
  std::uint64_t events_foreign = 0;  // another prefix, database or format
  std::uint64_t epoch_raises = 0;    // the whole local copy dropped because an event may be lost
  std::uint64_t leader_changes = 0;
  std::uint64_t stale_term_refused = 0;  // events of a deposed leader, which were not applied

  std::uint64_t unpublished = 0;  // changes made here that Redis would not announce
  // Always 0; anything else is a defect worth a report.
  std::uint64_t stale_term_writes = 0;  // an event of a deposed leader was applied
  std::uint64_t locks_lost = 0;         // a stripe's lock was taken from a living process

  // Space, in bytes unless said otherwise.
  std::uint64_t segment_bytes = 0;
  // These five add up to it:
  std::uint64_t live_bytes = 0;      // reachable entries: header, key, value, padding
  std::uint64_t pinned_bytes = 0;    // no longer reachable, but a View still shows them
  std::uint64_t free_bytes = 0;      // room for entries
  std::uint64_t index_bytes = 0;     // the index, and what the policy remembers of evicted keys
  std::uint64_t metadata_bytes = 0;  // the rest
  std::uint64_t arena_bytes = 0;     // live, pinned and free
  std::uint64_t payload_bytes = 0;   // keys and values of reachable entries
  std::uint64_t entries = 0;         // reachable entries, a count
  std::uint64_t views = 0;           // held now, a count
  std::uint64_t processes = 0;       // attached now, a count
  std::uint64_t epoch = 0;           // a number that rises with every epoch raise
  bool in_sync = false;              // the host holds its lease, or there is no Redis
};

}  // namespace larder
