#include "shm/inspect.h"

#include <algorithm>

#include "shm/clock.h"
#include "shm/entry.h"
#include "shm/lease.h"
#include "shm/process.h"
#include "shm/racy_copy.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr int kAttempts = 16;

void add_counters(const CounterBlock& block, Totals& totals) {
  for (std::size_t i = 0; i < kCounters; ++i) totals.counters[i] += block.values[i].load(kRelaxed);
}

// Copies out the entry of one slot; nothing when the slot is empty or would not hold still.
std::optional<EntryInfo> read_slot(Segment& segment, std::uint32_t stripe, Bucket& bucket,
                                   std::size_t number, std::string* value) {
  const HotWords& hot = segment.superblock().hot;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::uint32_t version = bucket.version.load(kAcquire);
    const std::uint32_t word = bucket.slots[number].load(kAcquire);
    if (word == 0) return std::nullopt;
    const auto entry = read_entry(segment, stripe, word);
    EntryInfo info{};
    if (entry) {
      assign_from_shared(info.key, entry->key(), entry->header.key_bytes());
      if (value != nullptr) assign_from_shared(*value, entry->value(), entry->header.value_bytes());
    }
    if (version_after_copy(bucket.version) != version) continue;
    if (!entry) return std::nullopt;
    info.value_bytes = entry->header.value_bytes();
    info.expires_ms = entry->header.expires_ms();
    info.reach_seq = entry->header.reach_seq();
    info.base_seq = entry->base();
    info.epoch = entry->header.epoch();
    info.stripe = stripe;
    info.use = bucket.use[number].load(kRelaxed);
    info.source = entry->header.source();
    info.live = is_current(entry->header, hot.epoch.load(kAcquire), hot.floor.load(kAcquire)) &&
                !is_expired(entry->header);
    return info;
  }
  return std::nullopt;
}

std::uint32_t named_leader(Segment& segment) {
  return leader_owner(segment.superblock().sync.leader.load(kAcquire));
}

// The leader's place, if the process that led is still the one in it; else 0.
std::uint32_t leader_place(Segment& segment) {
  const std::uint32_t owner = named_leader(segment);
  const std::uint32_t index = owner_place(owner);
  if (index == 0 || index >= segment.geometry().place_count) return 0;
  const std::uint64_t state = segment.place(index).state.load(kAcquire);
  return state_alive(state) && make_owner(index, state_incarnation(state)) == owner ? index : 0;
}

}  // namespace

Totals totals(Segment& segment) {
  const Geometry& g = segment.geometry();
  Totals sum;
  add_counters(segment.superblock().departed, sum);
  for (std::uint32_t i = 1; i < g.place_count; ++i) {
    const Place& place = segment.place(i);
    add_counters(place.counters, sum);
    add_counters(place.thread_counters, sum);
    for (const auto& pin : place.pins) sum.pins += pin.load(kRelaxed) != 0;
    if (state_alive(place.state.load(kRelaxed))) ++sum.processes;
  }
  for (std::uint32_t i = 0; i < g.load_count; ++i)
    sum.loads += segment.claim_word(i).load(kRelaxed) != 0;
  for (std::uint32_t i = 0; i < g.stripe_count; ++i) {
    const Stripe& stripe = segment.stripe(i);
    sum.entries += stripe.entries.load(kRelaxed);
    sum.payload_bytes += stripe.payload_bytes.load(kRelaxed);
    // Counts that may be damaged still have to add up.
    const std::uint64_t live =
        std::min<std::uint64_t>(stripe.live_granules.load(kRelaxed) * kGranule, g.arena_bytes());
    std::uint64_t pinned = 0;
    for (const auto& run : stripe.quarantine) pinned += (run.load(kRelaxed) >> 32) * kGranule;
    pinned = std::min(pinned, g.arena_bytes() - live);
    sum.live_bytes += live;
    sum.pinned_bytes += pinned;
    sum.free_bytes += g.arena_bytes() - live - pinned;
    if (stripe.lock.load(kRelaxed) != 0) ++sum.locked_stripes;
    if (stripe.bypass.load(kRelaxed) != 0) ++sum.bypassed_stripes;
  }
  sum.arena_bytes = g.stripe_count * g.arena_bytes();
  sum.index_bytes = g.maps_offset - g.buckets_offset;
  sum.metadata_bytes = g.segment_bytes - sum.arena_bytes - sum.index_bytes;
  return sum;
}

std::vector<ProcessInfo> processes(Segment& segment) {
  const Geometry& g = segment.geometry();
  std::vector<std::uint32_t> held(g.place_count, 0);
  for (std::uint32_t i = 0; i < g.stripe_count; ++i) {
    const std::uint32_t place = owner_place(segment.stripe(i).lock.load(kRelaxed));
    if (place < g.place_count) ++held[place];
  }
  const std::uint32_t leader = leader_place(segment);
  std::vector<ProcessInfo> all;
  for (std::uint32_t i = 1; i < g.place_count; ++i) {
    const Place& place = segment.place(i);
    const std::uint64_t state = place.state.load(kAcquire);
    if (!state_alive(state)) continue;
    all.push_back({i, state_incarnation(state), place.pid.load(kRelaxed),
                   place.pid_namespace.load(kRelaxed), place.attached_ms.load(kRelaxed),
                   i == leader, held[i]});
  }
  return all;
}

namespace {

bool is_reachable(Segment& segment, std::uint32_t stripe, std::uint32_t granule,
                  std::string_view key) {
  const KeyPlace at = place_of(segment, segment.hash(key));
  if (at.stripe != stripe) return false;
  for (const std::uint32_t b : {at.home, at.other}) {
    for (const auto& slot : segment.bucket(stripe, b).slots) {
      const std::uint32_t word = slot.load(kAcquire);
      if (word != 0 && slot_granule(word) == granule) return true;
    }
  }
  return false;
}

}  // namespace

std::vector<PinInfo> pins(Segment& segment) {
  const Geometry& g = segment.geometry();
  std::vector<PinInfo> all;
  for (std::uint32_t i = 1; i < g.place_count; ++i) {
    for (const auto& word : segment.place(i).pins) {
      const std::uint64_t pin = word.load(kAcquire);
      const auto stripe = static_cast<std::uint32_t>(pin >> 32 & ~(1u << 31));
      const auto granule = static_cast<std::uint32_t>(pin);
      if (pin == 0 || pin == kClaimedPin || stripe >= g.stripe_count) continue;
      PinInfo info{i, stripe, granule, {}, 0, false};
      if (const auto entry = read_entry(segment, stripe, make_slot(0, granule & kGranuleMask))) {
        assign_from_shared(info.key, entry->key(), entry->header.key_bytes());
        info.value_bytes = entry->header.value_bytes();
        info.reachable = is_reachable(segment, stripe, granule, info.key);
      }
      all.push_back(std::move(info));
    }
  }
  return all;
}

std::array<std::uint64_t, kSyncCounters> sync_counters(Segment& segment) {
  std::array<std::uint64_t, kSyncCounters> counts;
  for (std::size_t i = 0; i < kSyncCounters; ++i) {
    counts[i] = segment.superblock().sync_counters.values[i].load(kRelaxed);
  }
  return counts;
}

LeaderInfo leader(Segment& segment) {
  const Superblock& block = segment.superblock();
  LeaderInfo info{};
  info.term = block.sync.term.load(kAcquire);
  info.place = owner_place(named_leader(segment));
  if (const std::uint32_t index = leader_place(segment); index != 0) {
    info.pid = segment.place(index).pid.load(kRelaxed);
  }
  info.heartbeat = block.sync.heartbeat.load(kRelaxed);
  info.lease_left_ms = Lease::of(block.hot).left_ms();
  info.follows = info.lease_left_ms != 0 && block.sync.lease_term.load(kAcquire) == info.term;
  info.epoch = block.hot.epoch.load(kAcquire) & ~kClosedEpoch;
  info.cursor = {block.sync.cursor_seq.load(kRelaxed), block.sync.cursor_nonce.load(kRelaxed)};
  info.head_seq = block.sync.head_seq.load(kRelaxed);
  info.log_end_seq = block.sync.log_end_seq.load(kRelaxed);
  const std::uint64_t answered = block.sync.answered_ms.load(kRelaxed);
  const std::uint64_t now = coarse_now().ms;
  info.answered_ms_ago = answered == 0 || answered > now ? UINT64_MAX : now - answered;
  const std::uint64_t floor = block.hot.floor.load(kRelaxed);
  info.floor_seq = floor >> 48 == (info.epoch & 0xffff) ? floor & kMaxSeq : 0;
  return info;
}

void for_each_entry(Segment& segment, const std::function<bool(const EntryInfo&)>& visit) {
  const Geometry& g = segment.geometry();
  for (std::uint32_t s = 0; s < g.stripe_count; ++s) {
    const std::uint32_t buckets = buckets_in_use(g, segment.stripe(s).index.load(kAcquire));
    for (std::uint32_t b = 0; b < buckets; ++b) {
      Bucket& bucket = segment.bucket(s, b);
      for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
        const auto info = read_slot(segment, s, bucket, i, nullptr);
        if (info && !visit(*info)) return;
      }
    }
  }
}

GuardInfo find_guard(Segment& segment, std::string_view key) {
  const std::uint64_t hash = segment.hash(key);
  const std::uint32_t stripe = stripe_of(segment.geometry(), hash);
  const Guard& guard = segment.guard(stripe, guard_index(segment.geometry(), hash));
  return {guard.epoch.load(kRelaxed), guard.seq.load(kRelaxed), guard.count.load(kRelaxed),
          segment.stripe(stripe).bypass.load(kRelaxed) != 0};
}

std::optional<EntryInfo> find_entry(Segment& segment, std::string_view key, std::string& value) {
  const std::uint64_t hash = segment.hash(key);
  const KeyPlace place = place_of(segment, hash);
  for (const std::uint32_t b : {place.home, place.other}) {
    Bucket& bucket = segment.bucket(place.stripe, b);
    for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
      if (!slot_matches(bucket.slots[i].load(kAcquire), hash)) continue;
      auto info = read_slot(segment, place.stripe, bucket, i, &value);
      if (info && info->key == key) return info;
    }
  }
  return std::nullopt;
}

}  // namespace larder::shm
