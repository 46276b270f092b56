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

  Wanted want(std::string_view key) const noexcept {
    const std::uint64_t hash = hash_of_key(key, seed_);
    return {key, hash, stripe_of(g_, hash)};
  }

  // For many keys at once: ask for the memory of all before looking at any.
  void prefetch_bucket(const Wanted& wanted) const noexcept {
    __builtin_prefetch(&bucket(wanted.stripe, home_bucket(g_, wanted.hash)));
  }
  void prefetch_entry(const Wanted& wanted) const noexcept {
    const Bucket& home = bucket(wanted.stripe, home_bucket(g_, wanted.hash));
    const std::uint32_t found = slots_with_tag(home, wanted.hash);
    if (found == 0) {
      __builtin_prefetch(&bucket(wanted.stripe, other_bucket(g_, wanted.hash)));
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
  Look look(const Wanted& wanted, bool promote, Use&& use) const {
    const Look home = look_in(wanted, home_bucket(g_, wanted.hash), promote, use);
    if (home != Look::kAbsent) [[likely]]
      return home;
    return look_in_other(wanted, promote, use);
  }

 private:
  template <class Use>
  [[gnu::noinline]] Look look_in_other(const Wanted& wanted, bool promote, Use&& use) const {
    return look_in(wanted, other_bucket(g_, wanted.hash), promote, use);
  }

  Bucket& bucket(std::uint32_t stripe, std::uint32_t index) const noexcept {
    return buckets_[std::uint64_t{stripe} * g_.buckets_per_stripe + index];
  }
  const char* entry_at(std::uint32_t stripe, std::uint32_t granule) const noexcept {
    return arenas_ + stripe * arena_bytes_ + std::uint64_t{granule} * kGranule;
  }

  template <class Use>
  [[gnu::always_inline]] Look look_in(const Wanted& wanted, std::uint32_t index, bool promote,
                                      Use&& use) const {
    Bucket& in = bucket(wanted.stripe, index);
    // acquire: a slot read after this is as new as the version.
    const std::uint32_t version = in.version.load(std::memory_order_acquire);
    std::uint32_t candidates = slots_with_tag(in, wanted.hash);
    if (candidates == 0) return Look::kAbsent;
    do {
      const auto i = static_cast<std::size_t>(std::countr_zero(candidates));
      // acquire: pairs with the release that published the entry (I1).
      const std::uint32_t granule = slot_granule(in.slots[i].load(std::memory_order_acquire));
      EntryHeader header;
      if (!read_header(wanted, granule, header)) continue;
      const bool live = is_live(header);
      if (live) {
        const char* value = entry_at(wanted.stripe, granule) + sizeof header + wanted.key.size();
        use(Seen{granule, value, header.value_bytes()});
      }
      if (version_after_copy(in.version) != version) return Look::kMoved;
      if (!live) return Look::kAbsent;
      if (promote) touch(wanted.stripe, in.use[i]);
      return Look::kFound;
    } while ((candidates &= candidates - 1) != 0);
    return version_after_copy(in.version) == version ? Look::kAbsent : Look::kMoved;
  }

  // False: another key with the same tag, one that is being replaced, or damage. What is true stays
  // within the arena even if it means nothing.
  bool read_header(const Wanted& wanted, std::uint32_t granule,
                   EntryHeader& header) const noexcept {
    constexpr std::uint32_t kHeaderGranules = sizeof(EntryHeader) / kGranule;
    if (granule >= g_.arena_granules - kHeaderGranules) return false;
    const char* start = entry_at(wanted.stripe, granule);
    header = load_header(start);
    const std::uint64_t bytes = entry_bytes(wanted.key.size(), header.value_bytes());
    const std::uint64_t room = std::uint64_t{g_.arena_granules - granule} * kGranule;
    return header.key_bytes() == wanted.key.size() && bytes <= room &&
           equals_shared(start + sizeof header, wanted.key.data(), wanted.key.size());
  }

  bool is_live(const EntryHeader& header) const noexcept {
    // acquire: pairs with who raised them.
    return is_current(header, hot_.epoch.load(std::memory_order_acquire),
                      hot_.floor.load(std::memory_order_acquire)) &&
           (header.expires_ms() == kNeverExpires || header.expires_ms() > coarse_now_ms());
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
