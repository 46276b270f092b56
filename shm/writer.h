// What the holder of a stripe's lock may do to it: find, put, erase, recycle, wipe, repair.
//
// Invariants kept here
//   I1 a reachable entry is complete: bytes first, then one release store of its slot.
//   I2 a page belongs to the stripe before a slot points into it; its generation is odd from before
//      its last slots are cleared until after, so that no reader mistakes new bytes for old.
//   I3 only the lock's holder writes the stripe's slots, pages and guards.
// Killed at any instruction, a writer leaves slots that point at complete entries or nowhere, at
// worst some dead bytes, a page that is marked as being recycled, and wrong derived counts:
// `repair` mends the last two.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "shm/entry.h"
#include "shm/layout.h"
#include "shm/policy.h"
#include "shm/segment.h"

namespace larder::shm {

// What an entry is stamped with.
struct Stamp {
  std::uint64_t epoch = 0;
  std::uint64_t base = 0;  // an event up to this seq is already contained
  ChangeId reach;          // the id that Redis answered
};

class Writer {
 public:
  // `owner` must hold the lock of `stripe` throughout the writer's life.
  Writer(Segment& segment, std::uint32_t stripe, const Policy& policy, CounterBlock& counters)
      : segment_(segment),
        index_(stripe),
        stripe_(segment.stripe(stripe)),
        policy_(policy),
        counters_(counters) {}

  struct Found {
    Atomic<std::uint64_t>* slot;
    std::uint64_t word;
    EntryRef entry;
  };
  // The slot of `key`, whatever epoch its entry is of.
  std::optional<Found> find(std::string_view key, std::uint64_t hash);

  // Writes an entry and makes it the one that readers find. False: it does not fit a page; what
  // was held of the key is gone then.
  bool put(std::string_view key, std::uint64_t hash, std::string_view value,
           std::uint64_t expires_ms, const Stamp& stamp);
  void erase(const Found& found);

  Guard& guard_of(std::uint64_t hash);
  // Nothing at or below `seq` may be stored by who asked Redis earlier.
  void raise_guard(Guard& guard, std::uint64_t epoch, std::uint64_t seq);
  void count_guard(Guard& guard);

  // After the owner before us died: finishes what it was about, drops what cannot be trusted,
  // recomputes what is derived. May itself be killed anywhere and run again.
  void repair();
  // Empties the stripe so that nothing held before, or asked for before, can appear again: raises
  // every guard to the highest change applied and its count by one, seals the current term, clears,
  // and only then lifts a bypass.
  void wipe();

 private:
  std::uint32_t first_page() const { return index_ * segment_.geometry().pages_per_stripe; }
  std::uint32_t page_count() const { return segment_.geometry().pages_per_stripe; }
  std::uint64_t page_of_offset(std::uint64_t offset) const {
    const Geometry& g = segment_.geometry();
    return (offset - g.pages_offset) / g.page_bytes;
  }
  // `in_range`: 0 to page_count().
  PageDescriptor& page(std::uint32_t in_range) { return segment_.page(first_page() + in_range); }

  // visit(bucket index, slot, word) for every slot that is not empty.
  template <class Visit>
  void for_each_slot(Visit&& visit);
  // visit(slot, word) for those that point into one page.
  template <class Visit>
  void for_each_slot_in_page(std::uint64_t page, Visit&& visit);

  // Where to write `bytes` in the open page; nothing when it has no room.
  std::optional<std::uint64_t> append(std::uint64_t bytes);
  // The same, recycling a page if need be.
  std::optional<std::uint64_t> append_with_room(std::uint64_t bytes);
  void open_page(std::uint32_t in_range);
  std::uint32_t free_page(unsigned& free_pages);
  std::uint32_t choose_victim();
  void recycle(std::uint32_t in_range, std::uint64_t keep_budget);
  void move(Atomic<std::uint64_t>& slot, std::uint64_t word, const EntryRef& entry);
  void release_page(std::uint32_t in_range);

  bool is_trustworthy(const EntryRef& entry, std::uint64_t word, std::uint32_t bucket);
  void forget(Atomic<std::uint64_t>& slot, std::uint64_t word);
  void add_live(std::uint64_t page, std::uint64_t bytes);
  void subtract_live(std::uint64_t page, std::uint64_t bytes);
  Atomic<std::uint8_t>& use_of(Atomic<std::uint64_t>& slot);
  Atomic<std::uint64_t>* free_slot(std::uint64_t hash);
  void advance_tick();
  void count(Counter counter) {
    counters_.values[static_cast<std::size_t>(counter)].fetch_add(1, std::memory_order_relaxed);
  }
  void clear_everything();

  Segment& segment_;
  std::uint32_t index_;
  Stripe& stripe_;
  const Policy& policy_;
  CounterBlock& counters_;
};

// Where a key lives.
struct KeyPlace {
  std::uint32_t stripe;
  std::uint32_t bucket;  // and its neighbour, bucket ^ 1
};
inline KeyPlace place_of(const Geometry& g, std::uint64_t hash) noexcept {
  const auto window = static_cast<std::uint32_t>(hash >> 12);
  return {static_cast<std::uint32_t>(hash) & (g.stripe_count - 1),
          static_cast<std::uint32_t>(std::uint64_t{window} * g.buckets_per_stripe >> 32)};
}

}  // namespace larder::shm
