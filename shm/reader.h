// Finding an entry without a lock.
//
// A reader notes the version of a bucket, finds the slot, follows it, uses what it finds, and looks
// at the version again: unchanged means that it used one whole entry, see I2 in writer.h. It stores
// nothing but, for an entry that was not used since the stripe's tick moved, the policy's word.
//
// Threads: any. Crash: nothing to leave behind; a pin is cleared by whoever reaps the process.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "shm/clock.h"
#include "shm/entry.h"
#include "shm/hash.h"
#include "shm/layout.h"
#include "shm/policy.h"
#include "shm/racy_copy.h"
#include "shm/segment.h"

namespace larder::shm {

enum class Look {
  kFound,
  kAbsent,
  kMoved,  // a writer changed the bucket meanwhile: what was used means nothing, look again
};

// A key on its way to its entry.
struct Wanted {
  std::string_view key;
  std::uint64_t hash;
  std::uint32_t stripe;
};

// What a reader found: valid when look() says so afterwards.
struct Seen {
  std::uint32_t granule;
  const char* value;
  std::uint32_t value_bytes;
};

class Reader {
 public:
  Reader(Segment& segment, const Policy& policy)
      : g_(segment.geometry()),
        seed_(segment.superblock().hash_seed),
        hot_(segment.superblock().hot),
        stripes_(&segment.stripe(0)),
        buckets_(&segment.bucket(0, 0)),
        arenas_(segment.arena(0)),
        arena_bytes_(g_.arena_bytes()),
        policy_(policy) {}

  std::uint64_t hash(std::string_view key) const noexcept { return hash_of_key(key, seed_); }
  std::uint32_t stripe(std::uint64_t hash) const noexcept { return stripe_of(g_, hash); }
  Wanted want(std::string_view key) const noexcept {
    const std::uint64_t hash = this->hash(key);
    return {key, hash, stripe(hash)};
  }

  // For many keys at once: ask for the memory of all before looking at any.
  void prefetch_bucket(const Wanted& wanted) const noexcept {
    const std::uint32_t buckets = buckets_in_use(g_, index_word(wanted.stripe));
    __builtin_prefetch(&bucket(wanted.stripe, home_bucket(buckets, wanted.hash)));
  }
  void prefetch_entry(const Wanted& wanted) const noexcept {
    const std::uint32_t buckets = buckets_in_use(g_, index_word(wanted.stripe));
    const Bucket& home = bucket(wanted.stripe, home_bucket(buckets, wanted.hash));
    const std::uint32_t found = slots_with_tag(home, wanted.hash);
    if (found == 0) {
      __builtin_prefetch(&bucket(wanted.stripe, other_bucket(buckets, wanted.hash)));
      return;
    }
    const auto slot = static_cast<std::size_t>(std::countr_zero(found));
    const std::uint32_t granule = slot_granule(home.slots[slot].load(std::memory_order_relaxed));
    if (granule >= g_.arena_granules) return;
    const char* start = entry_at(wanted.stripe, granule);
    __builtin_prefetch(start);
    __builtin_prefetch(start + kCacheLine);
    __builtin_prefetch(start + 2 * kCacheLine);
  }

  // `use(seen)` may copy what it wants. `promote`: the look counts as a use of the entry.
  template <class Use>
  [[gnu::always_inline]] Look look(const Wanted& wanted, bool promote, Use use) const {
    return look(wanted.key, wanted.hash, wanted.stripe, promote, use);
  }
  // The same with its words in registers.
  template <class Use>
  [[gnu::always_inline]] Look look(std::string_view key, std::uint64_t hash, std::uint32_t stripe,
                                   bool promote, Use use) const {
    // acquire: pairs with the release that raised it; an invalidation may be waiting for its wipe.
    if (stripes_[stripe].bypass.load(std::memory_order_acquire) != 0) [[unlikely]]
      return Look::kAbsent;
    const std::uint32_t index = index_word(stripe);
    const std::uint32_t home = home_bucket(buckets_in_use(g_, index), hash);
    const Look at_home = look_in(home, key, hash, stripe, promote, use);
    if (at_home != Look::kAbsent) [[likely]]
      return at_home;
    return look_further(index, key, hash, stripe, promote, use);
  }

 private:
  template <class Use>
  [[gnu::noinline]] Look look_further(std::uint32_t index, std::string_view key, std::uint64_t hash,
                                      std::uint32_t stripe, bool promote, Use use) const {
    const std::uint32_t other = other_bucket(buckets_in_use(g_, index), hash);
    const Look at_other = look_in(other, key, hash, stripe, promote, use);
    if (at_other != Look::kAbsent) return at_other;
    // An index that grows meanwhile hides keys for a moment.
    const bool whole = !(index & kIndexGrowing) && index_word(stripe) == index;
    return whole ? Look::kAbsent : Look::kMoved;
  }

  std::uint32_t index_word(std::uint32_t stripe) const noexcept {
    // acquire: pairs with the release that ended its growth.
    return stripes_[stripe].index.load(std::memory_order_acquire);
  }
  Bucket& bucket(std::uint32_t stripe, std::uint32_t index) const noexcept {
    return buckets_[std::uint64_t{stripe} * g_.buckets_per_stripe + index];
  }
  const char* entry_at(std::uint32_t stripe, std::uint32_t granule) const noexcept {
    return arenas_ + stripe * arena_bytes_ + std::uint64_t{granule} * kGranule;
  }

  template <class Use>
  [[gnu::always_inline]] Look look_in(std::uint32_t index, std::string_view key, std::uint64_t hash,
                                      std::uint32_t stripe, bool promote, Use use) const {
    Bucket& in = bucket(stripe, index);
    // acquire: a slot read after this is as new as the version.
    const std::uint32_t version = in.version.load(std::memory_order_acquire);
    std::uint32_t candidates = slots_with_tag(in, hash);
    if (candidates == 0) return Look::kAbsent;
    do {
      const auto i = static_cast<std::size_t>(std::countr_zero(candidates));
      // acquire: pairs with the release that published the entry (I1).
      const std::uint32_t granule = slot_granule(in.slots[i].load(std::memory_order_acquire));
      if (granule >= g_.arena_granules - kHeaderGranules) continue;
      const char* start = entry_at(stripe, granule);
      const EntryHeader header = load_header(start);
      if (!is_of(start, header, key) || !is_within(header, granule)) continue;
      const bool current = is_current(header);
      if (current) use(Seen{granule, start + sizeof header + key.size(), header.value_bytes()});
      if (version_after_copy(in.version) != version) return Look::kMoved;
      if (!current || is_expired(header)) return Look::kAbsent;
      if (promote) touch(stripe, in.use[i]);
      return Look::kFound;
    } while ((candidates &= candidates - 1) != 0);
    return version_after_copy(in.version) == version ? Look::kAbsent : Look::kMoved;
  }

  static constexpr std::uint32_t kHeaderGranules = sizeof(EntryHeader) / kGranule;

  // False: another key with the same tag, or one that is being replaced.
  static bool is_of(const char* start, const EntryHeader& header, std::string_view key) noexcept {
    return header.key_bytes() == key.size() &&
           equals_shared(start + sizeof header, key.data(), key.size());
  }
  // False: being replaced, or damage.
  bool is_within(const EntryHeader& header, std::uint32_t granule) const noexcept {
    return entry_granules(header.key_bytes(), header.value_bytes()) <= g_.arena_granules - granule;
  }
  bool is_current(const EntryHeader& header) const noexcept {
    // acquire: pairs with who raised them.
    return shm::is_current(header, hot_.epoch.load(std::memory_order_acquire),
                           hot_.floor.load(std::memory_order_acquire));
  }

  void touch(std::uint32_t stripe, Atomic<std::uint16_t>& use) const noexcept {
    std::uint16_t was = use.load(std::memory_order_relaxed);
    const std::uint32_t tick = stripes_[stripe].tick.load(std::memory_order_relaxed);
    if (counted(was, tick)) [[likely]]
      return;
    // Lost to another reader, or to the policy itself: then so be it.
    use.compare_exchange_strong(was, policy_.on_hit(was, tick), std::memory_order_relaxed);
  }

  const Geometry g_;
  const std::uint64_t seed_;
  const HotWords& hot_;
  const Stripe* const stripes_;
  Bucket* const buckets_;
  const char* const arenas_;
  const std::uint64_t arena_bytes_;
  const Policy& policy_;
};

}  // namespace larder::shm
