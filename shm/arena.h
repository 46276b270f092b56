// Which parts of a stripe's arena are taken. Knows nothing of entries, slots or readers.
//
// An arena is an array of granules of 8 bytes. A run is what one entry occupies. The map has one
// bit a granule: a run of k granules is k - 1 ones and a zero, so that one bit tells both what is
// free and where a run begins (k is at least 2). The arena is cut into blocks only to find room
// quickly: each block's summary says how long its free stretches are, and a free stretch may go on
// into the next block.
//
// Everything here is derived from the slots, which `Writer::rebuild` does: any bit pattern is
// harmless to memory safety, every loop ends, no answer lies outside the arena. A map that lies
// may make two entries overlap, though; the checker finds that.
//
// Used under the stripe's lock only. The sole exception is observers, who get approximate answers.
#pragma once

#include <cstdint>
#include <optional>

#include "shm/layout.h"
#include "shm/segment.h"

namespace larder::shm {

// `granules` from `start` on, counted from the arena's beginning.
struct Run {
  std::uint32_t start = 0;
  std::uint32_t granules = 0;
  std::uint32_t end() const noexcept { return start + granules; }
};

class Arena {
 public:
  Arena(Segment& segment, std::uint32_t stripe) noexcept
      : map_(segment.map(stripe)),
        summaries_(segment.summaries(stripe)),
        granules_(segment.geometry().arena_granules),
        blocks_(segment.geometry().blocks_per_stripe()) {}

  std::uint32_t granules() const noexcept { return granules_; }

  // Is every granule of the run free? False for runs that leave the arena.
  bool is_free(Run run) const noexcept;
  // Is exactly this run, not more and not less, taken?
  bool is_taken(Run run) const noexcept;
  // Marks a free run as taken, and a taken one as free.
  void take(Run run) noexcept;
  void give_back(Run run) noexcept;
  // The free stretch that contains a free granule; its search ends after `limit` either way.
  Run stretch_around(std::uint32_t granule, std::uint32_t limit) const noexcept;
  // The beginning of a free stretch of `granules`, the first at or not far behind `from`.
  std::optional<std::uint32_t> next_fit(std::uint32_t from, std::uint32_t granules) const noexcept;
  // The beginning of a short free stretch that has room for `granules`.
  std::optional<std::uint32_t> best_fit(std::uint32_t granules) noexcept;

  // Where a run could be had at the least cost: a stretch of `granules` with as many free ones as
  // can be found quickly. Begins at a run's beginning or at a free granule.
  std::uint32_t emptiest(std::uint32_t granules) noexcept;
  // Calls visit(start) for every run that begins in [begin, end), and for the one that reaches
  // into it from before.
  template <class Visit>
  void for_each_run(std::uint32_t begin, std::uint32_t end, Visit&& visit) const;

  std::uint64_t count_free() const noexcept;  // looks at the whole map
  void clear() noexcept;                      // everything free

 private:
  // What best_fit needs of a block.
  struct Summary {
    std::uint32_t head;     // free granules at the block's beginning
    std::uint32_t longest;  // longest free stretch within the block
    std::uint32_t tail;     // free granules at its end
    std::uint32_t free;     // free granules in all
  };
  static constexpr std::uint32_t kWordsPerBlock = kBlockGranules / 64;

  bool bit(std::uint32_t granule) const noexcept {
    return map_[granule / 64].load(std::memory_order_relaxed) >> (granule % 64) & 1;
  }
  std::uint64_t free_bits(std::uint32_t word) const noexcept;
  std::uint32_t ones_before(std::uint32_t granule) const noexcept;  // in a row
  std::uint32_t free_length(std::uint32_t from, std::uint32_t limit) const noexcept;
  Summary summary(std::uint32_t block) noexcept;
  Summary summarise(std::uint32_t block) const noexcept;
  std::optional<std::uint32_t> shortest_in(std::uint32_t block, std::uint32_t granules) noexcept;
  template <class Change>
  void change(Run run, Change&& change) noexcept;

  Atomic<std::uint64_t>* map_;
  Atomic<std::uint64_t>* summaries_;
  std::uint32_t granules_;
  std::uint32_t blocks_;
};

template <class Visit>
void Arena::for_each_run(std::uint32_t begin, std::uint32_t end, Visit&& visit) const {
  // A run reaches in from before when the granule before `begin` is taken and not a run's last.
  if (begin > 0 && bit(begin - 1)) {
    visit(begin - 1 - ones_before(begin - 1));
  }
  for (std::uint32_t word = begin / 64; word * 64 < end; ++word) {
    const std::uint64_t bits = map_[word].load(std::memory_order_relaxed);
    const std::uint64_t before =
        word == 0 ? 0 : map_[word - 1].load(std::memory_order_relaxed) >> 63;
    // A one after a zero.
    for (std::uint64_t starts = bits & ~(bits << 1 | before); starts != 0; starts &= starts - 1) {
      const std::uint32_t start = word * 64 + static_cast<std::uint32_t>(__builtin_ctzll(starts));
      if (start >= begin && start < end) visit(start);
    }
  }
}

}  // namespace larder::shm
