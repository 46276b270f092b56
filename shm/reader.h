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

// A key of a batch on its way to its entry.
struct Approach {
  std::uint64_t hash;
  Bucket* home;
  std::uint32_t stripe;
  std::uint32_t version;     // of the home, before its candidates were looked for
  std::uint32_t candidates;  // slots; 0: none, or not looked for
};

// What a reader found: valid when look() says so afterwards.
struct Seen {
  std::uint32_t granule;
  const char* value;
  std::uint32_t value_bytes;
  EntryHeader header;
};

class Reader {
 public:
  Reader(Segment& segment, const Policy& policy)
      : seed_(segment.superblock().hash_seed),
        stripes_(&segment.stripe(0)),
        buckets_(&segment.bucket(0, 0)),
        arenas_(segment.arena(0)),
        arena_bytes_(segment.geometry().arena_bytes()),
        hot_(segment.superblock().hot),
        policy_(policy),
        stripe_mask_(segment.geometry().stripe_count - 1),
        buckets_per_stripe_(segment.geometry().buckets_per_stripe),
        arena_granules_(segment.geometry().arena_granules) {}

  std::uint64_t hash(std::string_view key) const noexcept { return hash_of_key(key, seed_); }
  std::uint32_t stripe(std::uint64_t hash) const noexcept { return stripe_of(stripe_mask_, hash); }
  Wanted want(std::string_view key) const noexcept {
    const std::uint64_t hash = this->hash(key);
    return {key, hash, stripe(hash)};
  }

  // A look in three steps, for many keys at once: each asks for the memory that the next one wants,
  // and is taken for all keys before the next.
  Approach approach(std::string_view key) const noexcept { return approach(hash(key)); }
  Approach approach(std::uint64_t hash) const noexcept {
    const std::uint32_t in = stripe(hash);
    const std::uint32_t buckets = buckets_in(index_word(stripes_[in]));
    Bucket& home = bucket(in, home_bucket(buckets, hash));
    __builtin_prefetch(&home);
    return {hash, &home, in, 0, 0};
  }
  void approach_entry(Approach& a) const noexcept {
    // acquire: as in look().
    if (stripes_[a.stripe].bypass.load(std::memory_order_acquire) != 0) return;
    a.version = version_of(*a.home);
    a.candidates = slots_with_tag(*a.home, a.hash);
    if (a.candidates == 0) return;
    const auto slot = static_cast<std::size_t>(std::countr_zero(a.candidates));
    const std::uint32_t granule = slot_granule(a.home->slots[slot].load(std::memory_order_relaxed));
    if (granule >= arena_granules_) return;
    const char* start = entry_at(a.stripe, granule);
    for (std::size_t line = 0; line < kAhead; ++line) __builtin_prefetch(start + line * kCacheLine);
  }
  template <class Use>
  [[gnu::always_inline]] Look look(std::string_view key, const Approach& a, bool promote,
                                   Use use) const {
    if (a.candidates != 0) [[likely]] {
      const At at = look_at(stripes_[a.stripe], *a.home, a.version, std::countr_zero(a.candidates),
                            {key, a.hash, a.stripe}, promote, use);
      if (at != At::kOther) [[likely]]
        return static_cast<Look>(at);
    }
    return look_from_start(key, a.hash, promote, use);
  }

  // `use(seen)` may copy what it wants. `promote`: the look counts as a use of the entry.
  template <class Use>
  [[gnu::always_inline]] Look look(const Wanted& wanted, bool promote, Use use) const {
    const Stripe& stripe = stripes_[wanted.stripe];
    // acquire: pairs with the release that raised it; an invalidation may be waiting for its wipe.
    if (stripe.bypass.load(std::memory_order_acquire) != 0) [[unlikely]]
      return Look::kAbsent;
    // Nearly every hit is in its home's first slot of its tag. Anything else is looked for from the
    // start, so that this path need not keep what that one wants: the fewer instructions it has,
    // the more of the next get the processor begins while it waits for the memory of this one.
    // (Going from 335 to 260 of them, the copy apart, took a third off a get of 64 bytes that comes
    // from beyond the second level cache.)
    const std::uint32_t home = home_bucket(buckets_in(index_word(stripe)), wanted.hash);
    Bucket& in = bucket(wanted.stripe, home);
    const std::uint32_t version = version_of(in);
    const std::uint32_t candidates = slots_with_tag(in, wanted.hash);
    if (candidates != 0) [[likely]] {
      const At at =
          look_at(stripe, in, version, std::countr_zero(candidates), wanted, promote, use);
      if (at != At::kOther) [[likely]]
        return static_cast<Look>(at);
    }
    return look_everywhere(wanted.key, wanted.hash, promote, use);
  }

 private:
  // What a slot holds of the key: one of Look, or another key.
  enum class At {
    kFound = static_cast<int>(Look::kFound),
    kAbsent = static_cast<int>(Look::kAbsent),
    kMoved = static_cast<int>(Look::kMoved),
    kOther,
  };

  static constexpr std::size_t kAhead = 3;  // lines of an entry that are asked for

  template <class Use>
  [[gnu::noinline]] Look look_from_start(std::string_view key, std::uint64_t hash, bool promote,
                                         Use use) const {
    return look({key, hash, stripe(hash)}, promote, use);
  }

  // A call with its words in registers: were they a struct in memory, every hit would store it.
  template <class Use>
  [[gnu::noinline]] Look look_everywhere(std::string_view key, std::uint64_t hash, bool promote,
                                         Use use) const {
    const Wanted wanted{key, hash, stripe(hash)};
    const std::uint32_t index = index_word(stripes_[wanted.stripe]);
    const std::uint32_t buckets = buckets_in(index);
    if (index & kIndexGrowing) {
      // A key is where it was, or already where it will be: first there, then here, finds it.
      const Look seen = look_in_both(buckets / 2, wanted, promote, use);
      if (seen != Look::kAbsent) return seen;
    }
    const Look seen = look_in_both(buckets, wanted, promote, use);
    if (seen != Look::kAbsent) return seen;
    return index_word(stripes_[wanted.stripe]) == index ? Look::kAbsent : Look::kMoved;
  }

  template <class Use>
  Look look_in_both(std::uint32_t buckets, const Wanted& wanted, bool promote, Use use) const {
    Bucket& home = bucket(wanted.stripe, home_bucket(buckets, wanted.hash));
    Bucket& other = bucket(wanted.stripe, other_bucket(buckets, wanted.hash));
    const std::uint32_t before = version_of(home);
    Look seen = look_in(home, wanted, promote, use);
    if (seen != Look::kAbsent) return seen;
    // acquire: a key that left its home was stored in the other bucket before.
    std::atomic_thread_fence(std::memory_order_acquire);
    seen = look_in(other, wanted, promote, use);
    if (seen != Look::kAbsent) return seen;
    // A key that comes home meanwhile is seen in neither, and raises the home's version between.
    return version_after_copy(home.version) == before ? Look::kAbsent : Look::kMoved;
  }

  static std::uint32_t index_word(const Stripe& stripe) noexcept {
    // acquire: pairs with the release that ended its growth.
    return stripe.index.load(std::memory_order_acquire);
  }
  std::uint32_t buckets_in(std::uint32_t index_word) const noexcept {
    return buckets_in_use(buckets_per_stripe_, index_word);
  }
  Bucket& bucket(std::uint32_t stripe, std::uint32_t index) const noexcept {
    return buckets_[std::uint64_t{stripe} * buckets_per_stripe_ + index];
  }
  const char* entry_at(std::uint32_t stripe, std::uint32_t granule) const noexcept {
    return arenas_ + stripe * arena_bytes_ + std::uint64_t{granule} * kGranule;
  }

  static std::uint32_t version_of(const Bucket& in) noexcept {
    // acquire: a slot read after this is as new as the version.
    return in.version.load(std::memory_order_acquire);
  }

  template <class Use>
  Look look_in(Bucket& in, const Wanted& wanted, bool promote, Use use) const {
    const Stripe& stripe = stripes_[wanted.stripe];
    const std::uint32_t version = version_of(in);
    std::uint32_t candidates = slots_with_tag(in, wanted.hash);
    if (candidates == 0) return Look::kAbsent;
    for (; candidates != 0; candidates &= candidates - 1) {
      const At at =
          look_at(stripe, in, version, std::countr_zero(candidates), wanted, promote, use);
      if (at != At::kOther) return static_cast<Look>(at);
    }
    return version_after_copy(in.version) == version ? Look::kAbsent : Look::kMoved;
  }

  template <class Use>
  [[gnu::always_inline]] At look_at(const Stripe& stripe, Bucket& in, std::uint32_t version,
                                    int slot, const Wanted& wanted, bool promote, Use use) const {
    const std::string_view key = wanted.key;
    const auto i = static_cast<std::size_t>(slot);
    // acquire: pairs with the release that published the entry (I1).
    const std::uint32_t granule = slot_granule(in.slots[i].load(std::memory_order_acquire));
    if (granule >= arena_granules_ - kHeaderGranules) return At::kOther;
    const char* start = entry_at(wanted.stripe, granule);
    // Its words as they are wanted: loaded together they would go through the stack.
    EntryHeader header{};
    header.sizes = load_word(start, 0);
    // In this order: the key must not be compared with what lies behind the last arena.
    if (!is_within(header, granule) || !is_of(start, header, key)) return At::kOther;
    header.check = load_word(start, 1);
    header.reach = load_word(start, 2);
    const bool current = is_current(header);
    header.life = load_word(start, 3);
    if (current) [[likely]] {
      // Before the copy, so that less is carried across it. A use counted in vain does no harm.
      if (promote) touch(stripe, in.use[i]);
      use(Seen{granule, start + sizeof header + key.size(), header.value_bytes(), header});
    }
    if (version_after_copy(in.version) != version) return At::kMoved;
    return current && !is_expired(header) ? At::kFound : At::kAbsent;
  }

  static constexpr std::uint32_t kHeaderGranules = sizeof(EntryHeader) / kGranule;

  // False: another key with the same tag, or one that is being replaced.
  static bool is_of(const char* start, const EntryHeader& header, std::string_view key) noexcept {
    return header.key_bytes() == key.size() &&
           equals_shared(start + sizeof header, key.data(), key.size());
  }
  // False: being replaced, or damage.
  bool is_within(const EntryHeader& header, std::uint32_t granule) const noexcept {
    return entry_granules(header.key_bytes(), header.value_bytes()) <= arena_granules_ - granule;
  }
  bool is_current(const EntryHeader& header) const noexcept {
    // acquire: pairs with who raised them.
    const HotWords& hot = hot_;
    return shm::is_current(header, hot.epoch.load(std::memory_order_acquire),
                           hot.floor.load(std::memory_order_acquire));
  }

  void touch(const Stripe& stripe, Atomic<std::uint16_t>& use) const noexcept {
    std::uint16_t was = use.load(std::memory_order_relaxed);
    const std::uint32_t tick = stripe.tick.load(std::memory_order_relaxed);
    if (counted(was, tick)) [[likely]]
      return;
    // Lost to another reader, or to the policy itself: then so be it.
    use.compare_exchange_strong(was, policy_.on_hit(was, tick), std::memory_order_relaxed);
  }

  const std::uint64_t seed_;
  const Stripe* const stripes_;
  Bucket* const buckets_;
  const char* const arenas_;
  const std::uint64_t arena_bytes_;
  const HotWords& hot_;
  const Policy& policy_;
  const std::uint32_t stripe_mask_;
  const std::uint32_t buckets_per_stripe_;
  const std::uint32_t arena_granules_;
};

}  // namespace larder::shm
