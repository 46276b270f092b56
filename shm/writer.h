// What the holder of a stripe's lock may do to it: find, put, erase, make room, wipe, repair.
//
// Invariants kept here
//   I1 a reachable entry is complete: bytes first, then one release store of its slot.
//   I2 a slot is cleared or replaced, then its bucket's version rises, and only then may the bytes
//      that it pointed at be used again; not even then while a pin names them.
//   I3 only the lock's holder writes the stripe's slots, map and guards.
// Killed at any instruction, a writer leaves slots that point at complete entries or nowhere; what
// else it leaves (a map that says too much, versions that did not rise, counts) `repair` makes
// anew.
//
//   writer.cc         slots, entries, guards
//   writer_room.cc    finding room: holes, eviction, compaction, what pins hold back
//   writer_repair.cc  sweeping, wiping, repairing
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "shm/arena.h"
#include "shm/entry.h"
#include "shm/layout.h"
#include "shm/policy.h"
#include "shm/process.h"
#include "shm/segment.h"

namespace larder::shm {

// What an entry is stamped with.
struct Stamp {
  std::uint64_t epoch = 0;
  std::uint64_t base = 0;  // an event up to this seq is already contained
  ChangeId reach;          // the id that Redis answered
  EntrySource source = EntrySource::kAlone;
};

struct NewEntry {
  std::string_view key;
  std::uint64_t hash = 0;  // of the key
  std::string_view value;
  std::uint64_t expires_ms = kNeverExpires;
  Stamp stamp;
};

class Writer {
 public:
  // `processes`' process must hold the lock of `stripe` throughout the writer's life.
  Writer(Segment& segment, std::uint32_t stripe, const Policy& policy, Processes& processes);

  struct Found {
    SlotRef at;
    EntryRef entry;
  };
  // The slot of `key`, whatever epoch its entry is of.
  std::optional<Found> find(std::string_view key, std::uint64_t hash);

  // An entry of so many granules is coming.
  void prefetch_room(std::uint64_t granules) const;
  // Writes an entry and makes it the one that readers find. `held`: what `find` finds of the key.
  // False: it does not fit the arena, or what is pinned leaves no room for it; what was held of the
  // key is gone then.
  bool put(const NewEntry& entry, const std::optional<Found>& held);
  // Like a put that does not fit. Returns false.
  bool give_up(const Found* held);
  void erase(const Found& found);
  // Drops an entry of which nothing may be believed, its length included.
  void discard(SlotRef at);

  Guard& guard_of(std::uint64_t hash);
  // Nothing at or below `seq` may be stored by who asked Redis earlier.
  // A raise of the epoch undoes nothing that a caller here was told: a guard that knows a newer
  // change of an earlier epoch keeps it, and refuses the replies that are under way all the same.
  void raise_guard(Guard& guard, std::uint64_t epoch, std::uint64_t seq);
  void count_guard(Guard& guard);

  // Drops what an epoch raise or a clear made unreadable, once after each.
  void sweep_if_due() {
    const HotWords& hot = segment_.superblock().hot;
    const std::uint64_t epoch = hot.epoch.load(std::memory_order_acquire);
    const std::uint64_t floor = hot.floor.load(std::memory_order_acquire);
    const std::uint32_t index = stripe_.index.load(kRelaxed);
    const bool swept =
        stripe_.swept_epoch.load(kRelaxed) == epoch && stripe_.swept_floor.load(kRelaxed) == floor;
    // Zero is a new segment; a growth that nobody is at is damage, or the dead's.
    if (!swept || index < g_.least_buckets() || index & kIndexGrowing) [[unlikely]]
      sweep(epoch, floor);
  }
  // After the owner before us died: drops what cannot be trusted, makes anew what is derived. May
  // itself be killed anywhere and run again.
  void repair();
  // Empties the stripe so that nothing held before, or asked for before, can appear again: raises
  // every guard to the highest change applied and its count by one, seals the current term, clears,
  // and only then lifts a bypass.
  void wipe();

 private:
  static constexpr std::memory_order kRelaxed = std::memory_order_relaxed;

  // Sorted by their starts. More than these: not complete, ask for each run.
  struct PinnedRuns {
    std::array<Run, 256> runs;
    std::size_t count = 0;
    bool complete() const { return count <= runs.size(); }
    bool contains(std::uint32_t start) const;
    Run* begin() { return runs.data(); }
    Run* end() { return runs.data() + std::min(count, runs.size()); }
    const Run* begin() const { return runs.data(); }
    const Run* end() const { return runs.data() + std::min(count, runs.size()); }
  };

  // ---- slots ----
  Bucket& bucket(std::uint32_t index) { return buckets_[index]; }
  char* bytes_at(std::uint32_t granule) const { return bytes_ + std::uint64_t{granule} * kGranule; }
  Atomic<std::uint32_t>& slot(SlotRef at) { return bucket(at.bucket).slots[at.slot]; }
  Atomic<std::uint16_t>& use(SlotRef at) { return bucket(at.bucket).use[at.slot]; }
  bool read_at(SlotRef at, EntryRef& entry);  // false: it leads nowhere
  std::optional<EntryRef> entry_at(SlotRef at);
  void prefetch_entries(std::uint32_t bucket);
  // visit(SlotRef, word) for every slot that is not empty.
  template <class Visit>
  void for_each_slot(Visit&& visit);
  // A slot that is empty, for a key that has none.
  std::optional<SlotRef> empty_slot(std::uint64_t hash);
  void make_slot_empty(std::uint64_t hash);
  bool shift_one(std::uint64_t hash);
  std::array<std::uint32_t, 2> buckets_of(std::uint64_t hash) const;
  // Never less than the least, whatever damage says.
  std::uint32_t buckets() const {
    return std::max(buckets_in_use(g_, stripe_.index.load(kRelaxed)), g_.least_buckets());
  }
  // False: it is as large as it gets.
  bool grow_index();
  void split_bucket(std::uint32_t index, std::uint32_t from);
  void clear(SlotRef at);
  void make_room_for_one_more(std::uint64_t hash);
  std::optional<SlotRef> slot_of(const EntryRef& entry);
  std::uint64_t hash_of(const EntryRef& entry) const;
  bool is_live(const EntryRef& entry) const;

  // ---- entries ----
  void write_entry(std::uint32_t granule, const NewEntry& entry);
  void publish(SlotRef at, std::uint64_t hash, std::uint32_t granule);
  std::optional<Found> found_at(SlotRef at);
  void count_use(Atomic<std::uint16_t>& use);
  // Clears the slot; what it pointed at is free afterwards, or set aside for who pinned it.
  void unlink(const Found& found);
  void retire(const Found& found);
  void evict(SlotRef at);
  void count_in(std::uint64_t granules, std::uint64_t payload_bytes);
  void count_out(const EntryRef& entry);

  // ---- room ----
  std::optional<std::uint32_t> allocate(std::uint32_t granules);
  std::optional<std::uint32_t> find_room(std::uint32_t granules);
  std::uint32_t take(std::uint32_t start, std::uint32_t granules);
  void push_hole(Run run);
  std::optional<std::uint32_t> pop_hole(std::uint32_t granules);
  void free_run(Run run);
  std::uint64_t free_granules() const;
  std::uint64_t likely_victims(std::uint32_t granules) const;
  bool evict_one();
  std::optional<std::uint32_t> compact(std::uint32_t granules);
  std::optional<std::uint32_t> end_if_fixed(std::uint32_t start, const PinnedRuns& pinned);
  void move_away(const EntryRef& entry);
  bool is_pinned(Run run) const;
  void set_aside(Run run);
  void look_after_set_aside(std::uint32_t turn);
  void release_set_aside();
  // visit(granule) for every pin of this stripe.
  template <class Visit>
  void for_each_pin(Visit&& visit) const;
  PinnedRuns pinned_runs() const;
  bool fits_between_pins(std::uint32_t granules) const;

  // ---- recovery ----
  void sweep(std::uint64_t epoch, std::uint64_t floor);
  bool is_trustworthy(const EntryRef& entry, std::uint32_t word, std::uint32_t bucket);
  void empty_unused_buckets();
  void raise_versions();
  void rebuild();
  void mark_pinned_runs();
  void clear_everything();
  void shrink_empty_index();

  void count(Counter counter, std::uint64_t by = 1) { processes_.count(counter, by); }
  PolicyView policy_view();

  Segment& segment_;
  const Geometry& g_;
  const std::uint32_t index_;
  Stripe& stripe_;
  Bucket* const buckets_;
  char* const bytes_;  // of the arena
  Arena arena_;
  const Policy& policy_;
  Processes& processes_;
  std::uint32_t freed_ = 0;  // where the last run was given back
};

// Whoever visits all slots reads their entries, which are seldom in the cache: those of the buckets
// to come are asked for meanwhile. (A repair of 350,000 entries takes a quarter of the time.)
template <class Visit>
void Writer::for_each_slot(Visit&& visit) {
  constexpr std::uint32_t kAhead = 4;
  for (std::uint32_t b = 0; b < buckets(); ++b) {
    if (b + kAhead < buckets()) prefetch_entries(b + kAhead);
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
      const std::uint32_t word = bucket(b).slots[i].load(std::memory_order_relaxed);
      if (word != 0) visit(SlotRef{b, i}, word);
    }
  }
}

}  // namespace larder::shm
