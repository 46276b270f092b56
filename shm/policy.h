// What is worth keeping. The table asks a policy four things: the word of a newcomer, the word
// after a hit, who goes next, and who of a few is worth the least. A policy keeps one 16-bit word
// per slot, a few words per stripe and per segment (policy_words.h), and a sketch: what it
// remembers of entries that are gone. Any bit pattern in any of them is legal.
//
// The word of a slot: its low ten bits are the tick of the last counted use, the same for every
// policy, so that a reader can tell without a call that a hit is already counted. The other six
// belong to the policy.
//
// Threads: `counted` and `on_hit` are for readers, without a lock. Everything that takes a
// PolicyView is for the holder of the stripe's lock. No call blocks, allocates or throws; each ends
// after a bounded number of steps whatever the memory holds.
// Crash: a call may stop anywhere; nothing needs repair.
//
// One more policy is one more file that implements this and one line in policy_of().
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/layout.h"

namespace larder::shm {

inline constexpr std::uint32_t kUseTickMask = 0x3ff;

// True: a hit at this tick changes nothing, store nothing. A hot key is read by every core without
// a store.
inline bool counted(std::uint16_t use, std::uint32_t tick) noexcept {
  return ((use ^ tick) & kUseTickMask) == 0;
}

// Ticks since the use was counted, modulo 1024: 16 turnovers of a stripe or more, longer than an
// entry stays that nobody uses.
inline std::uint32_t age_of(std::uint16_t use, std::uint32_t tick) noexcept {
  return (tick - use) & kUseTickMask;
}

struct SlotRef {
  std::uint32_t bucket = 0;
  std::uint32_t slot = 0;
  friend bool operator==(const SlotRef&, const SlotRef&) = default;
};

// Local hits and misses of all processes since the segment was made.
struct RequestTotals {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
};

// What a policy sees of a stripe.
struct PolicyView {
  PolicyWords& words;
  Atomic<std::uint32_t>& tick;  // coarse time, counted in inserts; policies use its low ten bits
  PolicyShared& shared;
  std::span<Bucket> buckets;                // of this stripe, at least one
  std::span<Atomic<std::uint64_t>> sketch;  // of this stripe, policy_sketch_words() long
  std::uint32_t entries = 0;                // in this stripe now
  std::uint64_t capacity = 0;               // of the whole segment, in entries; an estimate will do
  RequestTotals (*totals)(const void* context) noexcept = nullptr;  // once in 32 to 1024 inserts
  const void* context = nullptr;
};

// Words that a stripe's sketch takes: a line for two buckets, 3.2 bytes a slot.
constexpr std::uint32_t policy_sketch_words(std::uint32_t buckets) noexcept {
  return (buckets / 2 + buckets % 2) * 8;
}

class Policy {
 public:
  virtual ~Policy() = default;

  // An insert of this key is coming: fetches ahead what `on_insert` will look at. Best before room
  // is made for it.
  virtual void expect(PolicyView& view, std::uint64_t hash) const noexcept {
    static_cast<void>(view), static_cast<void>(hash);
  }

  // The word of an entry that is being inserted under a key that the stripe does not hold. (An
  // overwrite is a use: it keeps the slot's word and counts like a hit.) Before or after
  // `view.entries` counts it.
  virtual std::uint16_t on_insert(PolicyView& view, std::uint64_t hash) const noexcept = 0;

  // The word after a hit; ask only when `counted` says no. Store it by compare-and-exchange from
  // `use`, and leave it at that if it fails: a plain store could undo what `victim` decided.
  virtual std::uint16_t on_hit(std::uint16_t use, std::uint32_t tick) const noexcept = 0;

  // Who goes next, to be asked again until there is room; an empty slot only if all are empty. The
  // caller evicts that entry and reports it with `on_evict`. May reclassify other entries. To ask
  // says that the stripe is full: never ask for another reason.
  virtual SlotRef victim(PolicyView& view) const noexcept = 0;

  // An entry was evicted (its slot is cleared, and its word had better be set to 0: words of empty
  // slots are passed over, and one that is not 0 costs a second search), by the choice of `victim`
  // or of `worth`. `hash` is that of its key, the one that `on_insert` gets.
  virtual void on_evict(PolicyView& view, std::uint16_t use, std::uint64_t hash) const noexcept = 0;

  // An entry left for another reason: removed, expired, found damaged.
  virtual void on_remove(PolicyView& view, std::uint16_t use) const noexcept {
    static_cast<void>(view), static_cast<void>(use);
  }

  // To choose among a few, where `victim` cannot be followed (both buckets of a key are full): the
  // least goes first.
  virtual std::uint32_t worth(std::uint16_t use, std::uint32_t tick) const noexcept = 0;
};

// Counts an insert and returns the tick it belongs to. A tick is 1/ticks_per_turnover of the
// stripe's entries, in inserts.
inline std::uint32_t count_insert(PolicyView& view, std::uint32_t ticks_per_turnover) noexcept {
  PolicyWords& words = view.words;
  std::uint32_t tick = view.tick.load(std::memory_order_relaxed);
  const std::uint32_t inserts = words.inserts.load(std::memory_order_relaxed);
  if (inserts >= view.entries / ticks_per_turnover) {
    view.tick.store(++tick, std::memory_order_relaxed);
    words.inserts.store(1, std::memory_order_relaxed);
  } else {
    words.inserts.store(inserts + 1, std::memory_order_relaxed);
  }
  return tick;
}

// Fetches the buckets that the next search of a hand will begin with.
inline void prefetch_buckets(const PolicyView& view, std::uint32_t from,
                             std::uint32_t count) noexcept {
  const auto end = std::min<std::size_t>(std::size_t{from} + count, view.buckets.size());
  for (std::size_t i = from; i < end; ++i) __builtin_prefetch(&view.buckets[i]);
}

inline constexpr std::uint32_t kPolicyLfu = 0;
inline constexpr std::uint32_t kPolicyLru = 1;

const Policy& policy_lfu() noexcept;
const Policy& policy_lru() noexcept;

// Any number: what a damaged superblock names is served by the default.
inline const Policy& policy_of(std::uint32_t number) noexcept {
  return number == kPolicyLru ? policy_lru() : policy_lfu();
}

}  // namespace larder::shm
