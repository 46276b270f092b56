#include "shm/layout.h"

#include "shm/hash.h"

#include <array>
#include <sstream>

namespace larder::shm {

namespace {
constexpr std::array<const char*, kCounters> kCounterNames = {
    "local_hits",
    "local_misses",
    "remote_hits",
    "remote_misses",
    "remote_errors",
    "stale_hits",
    "sets",
    "removes",
    "clears",
    "stored",
    "stores_refused",
    "too_large",
    "evictions",
    "expirations",
    "lock_timeouts",
    "takeovers",
    "wipes",
    "events_applied",
    "events_old",
    "events_without_id",
    "events_malformed",
    "events_foreign",
    "epoch_raises",
    "leader_changes",
    "stale_term_refused",
    "unpublished",
    "stale_term_writes",
    "locks_lost",
    "corrupt",
    "loads",
    "loads_taken_over",
    "load_waits",
    "announced_large",
    "announced_cold",
    "not_asked",
};

constexpr std::array<const char*, kSyncCounters> kSyncCounterNames = {
    "subscriptions",
    "log_readings",
    "gaps",
    "replayed",
    "raises_new",
    "raises_log_lost",
    "raises_diverged",
    "raises_without_id",
    "raises_behind",
    "raises_disturbed",
    "sets_applied",
    "sets_old",
    "sets_deferred",
    "invalidations_applied",
    "invalidations_old",
    "invalidations_deferred",
    "deletes_applied",
    "deletes_old",
    "deletes_deferred",
};
}  // namespace

const char* counter_name(Counter counter) noexcept {
  return kCounterNames[static_cast<std::size_t>(counter)];
}
const char* sync_counter_name(SyncCounter counter) noexcept {
  return kSyncCounterNames[static_cast<std::size_t>(counter)];
}

// Offsets of standard-layout members only; the compiler warns otherwise.
#define FIELD(type, field) \
  out << "  " << #field << " @" << offsetof(type, field) << " +" << sizeof(type::field) << "\n"
#define TYPE(type) out << #type << " " << sizeof(type) << " align " << alignof(type) << "\n"

std::string layout_text() {
  std::ostringstream out;
  out << "layout " << kLayoutVersion << "\n";
  TYPE(Superblock);
  FIELD(Superblock, magic);
  FIELD(Superblock, layout_version);
  FIELD(Superblock, architecture);
  FIELD(Superblock, layout_signature);
  FIELD(Superblock, instance);
  FIELD(Superblock, hash_seed);
  FIELD(Superblock, boot_hash);
  FIELD(Superblock, created_unix_ms);
  FIELD(Superblock, creator_pid);
  FIELD(Superblock, policy);
  FIELD(Superblock, geometry);
  FIELD(Superblock, binding);
  FIELD(Superblock, hot);
  FIELD(Superblock, sync);
  FIELD(Superblock, history);
  FIELD(Superblock, sync_counters);
  FIELD(Superblock, policy_words);
  FIELD(Superblock, pinners);
  FIELD(Superblock, departed);
  TYPE(Geometry);
  FIELD(Geometry, segment_bytes);
  FIELD(Geometry, max_entries);
  FIELD(Geometry, place_count);
  FIELD(Geometry, stripe_count);
  FIELD(Geometry, buckets_per_stripe);
  FIELD(Geometry, index_halvings);
  FIELD(Geometry, guards_per_stripe);
  FIELD(Geometry, sketch_per_stripe);
  FIELD(Geometry, arena_granules);
  FIELD(Geometry, load_count);
  FIELD(Geometry, note_count);
  FIELD(Geometry, places_offset);
  FIELD(Geometry, loads_offset);
  FIELD(Geometry, journal_offset);
  FIELD(Geometry, stripes_offset);
  FIELD(Geometry, guards_offset);
  FIELD(Geometry, buckets_offset);
  FIELD(Geometry, sketches_offset);
  FIELD(Geometry, maps_offset);
  FIELD(Geometry, arenas_offset);
  TYPE(HotWords);
  FIELD(HotWords, epoch);
  FIELD(HotWords, floor);
  FIELD(HotWords, lease_until_ms);
  FIELD(HotWords, lease_until_unix_ms);
  TYPE(SyncWords);
  FIELD(SyncWords, term);
  FIELD(SyncWords, leader);
  FIELD(SyncWords, heartbeat);
  FIELD(SyncWords, cursor_seq);
  FIELD(SyncWords, cursor_nonce);
  FIELD(SyncWords, head_seq);
  FIELD(SyncWords, lease_term);
  FIELD(SyncWords, idless_epoch);
  FIELD(SyncWords, redis_clock_ms);
  FIELD(SyncWords, answered_ms);
  FIELD(SyncWords, log_end_seq);
  FIELD(SyncWords, noted);
  FIELD(SyncWords, cleared_seq);
  TYPE(CounterBlock);
  TYPE(Place);
  FIELD(Place, state);
  FIELD(Place, pid);
  FIELD(Place, pid_namespace);
  FIELD(Place, start_ticks);
  FIELD(Place, attached_ms);
  FIELD(Place, pins_used);
  FIELD(Place, program);
  FIELD(Place, pins);
  FIELD(Place, counters);
  FIELD(Place, thread_counters);
  TYPE(Note);
  FIELD(Note, number);
  FIELD(Note, what);
  FIELD(Note, seq);
  FIELD(Note, nonce);
  FIELD(Note, unix_ms);
  FIELD(Note, hash);
  FIELD(Note, text);
  TYPE(Stripe);
  FIELD(Stripe, bypass);
  FIELD(Stripe, tick);
  FIELD(Stripe, index);
  FIELD(Stripe, lock);
  FIELD(Stripe, deaths);
  FIELD(Stripe, term);
  FIELD(Stripe, swept_epoch);
  FIELD(Stripe, swept_floor);
  FIELD(Stripe, payload_bytes);
  FIELD(Stripe, live_granules);
  FIELD(Stripe, entries);
  FIELD(Stripe, next_granule);
  FIELD(Stripe, fit_bound);
  FIELD(Stripe, quarantined);
  FIELD(Stripe, allocations);
  FIELD(Stripe, quarantine);
  FIELD(Stripe, holes);
  FIELD(Stripe, policy);
  TYPE(Bucket);
  FIELD(Bucket, slots);
  FIELD(Bucket, use);
  FIELD(Bucket, version);
  TYPE(Guard);
  FIELD(Guard, epoch);
  FIELD(Guard, seq);
  FIELD(Guard, count);
  TYPE(EntryHeader);
  FIELD(EntryHeader, sizes);
  FIELD(EntryHeader, check);
  FIELD(EntryHeader, reach);
  FIELD(EntryHeader, life);
  out << "slot tag " << kTagBits << " granule " << kGranule << " slots " << kSlotsPerBucket
      << " block " << kBlockGranules << "\n";
  out << "load tag " << kLoadTagBits << " until " << kLoadUntilBits << " unit " << kLoadUnitBits
      << "\n";
  out << "closed " << kClosedEpoch << "\n";
  out << "lock place " << kPlaceBits << " incarnation " << kIncarnationBits << "\n";
  out << "counters";
  for (const char* name : kCounterNames) out << " " << name;
  out << "\nsync counters";
  for (const char* name : kSyncCounterNames) out << " " << name;
  out << "\n";
  return out.str();
}

#undef FIELD
#undef TYPE

std::uint64_t layout_signature() {
  const std::string text = layout_text();
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace larder::shm
