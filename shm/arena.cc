#include "shm/arena.h"

#include <algorithm>
#include <bit>

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kUnknown = UINT64_MAX;  // a block's summary that has to be made anew

// `count` ones from bit `from` on; count 1 to 64.
constexpr std::uint64_t ones(std::uint32_t from, std::uint32_t count) {
  return ~0ull >> (64 - count) << from;
}

// Without the instruction, which not every x86-64 has, std::popcount calls a function.
std::uint32_t count_ones(std::uint64_t bits) noexcept {
  bits -= bits >> 1 & 0x5555555555555555ull;
  bits = (bits & 0x3333333333333333ull) + (bits >> 2 & 0x3333333333333333ull);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0full;
  return static_cast<std::uint32_t>(bits * 0x0101010101010101ull >> 56);
}

}  // namespace

// ---- single granules --------------------------------------------------------------------------

// A granule is free when its bit is zero and the one before it is: else a run ends in it.
std::uint64_t Arena::free_bits(std::uint32_t word) const noexcept {
  const std::uint64_t bits = map_[word].load(kRelaxed);
  const std::uint64_t before = word == 0 ? 0 : map_[word - 1].load(kRelaxed) >> 63;
  return ~(bits | bits << 1 | before);
}

std::uint32_t Arena::ones_before(std::uint32_t granule) const noexcept {
  std::uint32_t at = granule;
  while (at > 0) {
    const std::uint32_t last = at - 1;
    const std::uint64_t below = map_[last / 64].load(kRelaxed) << (63 - last % 64);
    const auto ones = static_cast<std::uint32_t>(std::countl_one(below));
    at -= std::min(ones, last % 64 + 1);
    if (ones <= last % 64) break;
  }
  return granule - at;
}

// How many granules from `from` on are free, at most `limit`.
std::uint32_t Arena::free_length(std::uint32_t from, std::uint32_t limit) const noexcept {
  std::uint32_t at = from;
  if (from >= granules_) return 0;
  const std::uint32_t end = from + std::min(limit, granules_ - from);
  while (at < end) {
    const std::uint32_t left = 64 - at % 64;
    const auto run = static_cast<std::uint32_t>(std::countr_one(free_bits(at / 64) >> at % 64));
    at += std::min(run, left);
    if (run < left) break;
  }
  return std::min(at, end) - from;
}

bool Arena::is_free(Run run) const noexcept {
  if (run.start >= granules_ || run.granules > granules_ - run.start) return false;
  if (run.granules >= 64 || run.start == 0) {
    return free_length(run.start, run.granules) == run.granules;
  }
  // Its bits and the one before, of one word or two: all zero.
  const std::uint32_t first = run.start - 1;
  const std::uint32_t count = run.granules + 1;
  std::uint64_t bits = map_[first / 64].load(kRelaxed) >> first % 64;
  if (first % 64 + count > 64) bits |= map_[first / 64 + 1].load(kRelaxed) << (64 - first % 64);
  return (bits & ones(0, count)) == 0;
}

bool Arena::is_taken(Run run) const noexcept {
  if (run.start >= granules_ || run.granules > granules_ - run.start || run.granules < 2)
    return false;
  if (run.start > 0 && bit(run.start - 1)) return false;
  for (std::uint32_t g = run.start; g + 1 < run.end(); ++g) {
    if (!bit(g)) return false;
  }
  return !bit(run.end() - 1);
}

Run Arena::stretch_around(std::uint32_t granule, std::uint32_t limit) const noexcept {
  std::uint32_t start = granule;
  while (start > 0 && granule - start < limit) {
    const std::uint32_t last = start - 1;  // is it free, and how many before it?
    const std::uint64_t below = free_bits(last / 64) << (63 - last % 64);
    const auto run = static_cast<std::uint32_t>(std::countl_one(below));
    start -= std::min(run, start);
    if (run <= last % 64) break;
  }
  return {start, free_length(start, granule - start + limit)};
}

// ---- changing ---------------------------------------------------------------------------------

template <class Change>
void Arena::change(Run run, Change&& change) noexcept {
  const std::uint32_t last = run.end() - 1;  // keeps its zero
  for (std::uint32_t at = run.start; at < last;) {
    const std::uint32_t end = std::min((at | 63) + 1, last);
    Atomic<std::uint64_t>& word = map_[at / 64];
    word.store(change(word.load(kRelaxed), ones(at % 64, end - at)), kRelaxed);
    at = end;
  }
  for (std::uint32_t block = run.start / kBlockGranules; block <= last / kBlockGranules; ++block) {
    summaries_[block].store(kUnknown, kRelaxed);
  }
}

void Arena::take(Run run) noexcept {
  change(run, [](std::uint64_t word, std::uint64_t mask) { return word | mask; });
}

void Arena::give_back(Run run) noexcept {
  change(run, [](std::uint64_t word, std::uint64_t mask) { return word & ~mask; });
}

void Arena::clear() noexcept {
  for (std::uint32_t i = 0; i < blocks_ * kWordsPerBlock; ++i) map_[i].store(0, kRelaxed);
  // What the last block has beyond the arena is taken for ever.
  const std::uint32_t end = blocks_ * kBlockGranules;
  if (end > granules_) take({granules_, end - granules_});
  for (std::uint32_t i = 0; i < blocks_; ++i) summaries_[i].store(kUnknown, kRelaxed);
}

// ---- finding room -----------------------------------------------------------------------------

std::optional<std::uint32_t> Arena::next_fit(std::uint32_t from,
                                             std::uint32_t wanted) const noexcept {
  constexpr std::uint32_t kNear = 4096;
  if (from >= granules_) from = 0;
  const std::uint32_t end = from + std::min(kNear, granules_ - from);
  while (from < end) {
    const std::uint64_t bits = free_bits(from / 64) >> from % 64;
    if (bits == 0) {
      from = (from / 64 + 1) * 64;
      continue;
    }
    from += static_cast<std::uint32_t>(std::countr_zero(bits));
    const std::uint32_t length = free_length(from, wanted);
    if (length == wanted) return from;
    from += std::max(length, 1u);
  }
  return std::nullopt;
}

Arena::Summary Arena::summarise(std::uint32_t block) const noexcept {
  Summary s{0, 0, 0, 0};
  std::uint32_t run = 0;
  bool head = true;
  const auto end_run = [&] {
    if (head) s.head = run;
    head = false;
    s.longest = std::max(s.longest, run);
    run = 0;
  };
  for (std::uint32_t word = 0; word < kWordsPerBlock; ++word) {
    std::uint64_t bits = free_bits(block * kWordsPerBlock + word);
    std::uint32_t left = 64;
    while (left > 0) {
      const auto length = std::min(left, static_cast<std::uint32_t>(std::countr_one(bits)));
      run += length;
      s.free += length;
      left -= length;
      if (left == 0) break;
      end_run();
      bits >>= length;  // less than 64: something was left
      const auto taken = std::min(left, static_cast<std::uint32_t>(std::countr_zero(bits)));
      left -= taken;
      if (left > 0) bits >>= taken;
    }
  }
  s.tail = run;
  end_run();
  return s;
}

Arena::Summary Arena::summary(std::uint32_t block) noexcept {
  std::uint64_t word = summaries_[block].load(kRelaxed);
  if (word == kUnknown) {
    const Summary s = summarise(block);
    word = std::uint64_t{s.head} << 48 | std::uint64_t{s.longest} << 32 |
           std::uint64_t{s.tail} << 16 | s.free;
    summaries_[block].store(word, kRelaxed);
  }
  const auto part = [word](int shift) {
    return std::min(static_cast<std::uint32_t>(word >> shift & 0xffff), kBlockGranules);
  };
  return {part(48), part(32), part(16), part(0)};
}

// The shortest stretch within one block that has room; a summary may be damaged, so it is looked
// for, not assumed.
std::optional<std::uint32_t> Arena::shortest_in(std::uint32_t block,
                                                std::uint32_t wanted) noexcept {
  std::uint32_t best = 0;
  std::uint32_t best_length = UINT32_MAX;
  const std::uint32_t end = (block + 1) * kBlockGranules;
  for (std::uint32_t at = block * kBlockGranules; at < end;) {
    const std::uint64_t bits = free_bits(at / 64) >> at % 64;
    if (bits == 0) {
      at = (at / 64 + 1) * 64;
      continue;
    }
    at += static_cast<std::uint32_t>(std::countr_zero(bits));
    const std::uint32_t length = free_length(at, end - at);
    if (length >= wanted && length < best_length) {
      best = at;
      best_length = length;
      if (length == wanted) break;
    }
    at += std::max(length, 1u);
  }
  if (best_length == UINT32_MAX) {
    summaries_[block].store(kUnknown, kRelaxed);  // it promised more than there is
    return std::nullopt;
  }
  return best;
}

std::optional<std::uint32_t> Arena::best_fit(std::uint32_t wanted) noexcept {
  std::uint32_t best_length = UINT32_MAX;
  std::uint32_t best_block = 0;
  std::uint32_t best_start = UINT32_MAX;  // of a stretch that spans blocks
  std::uint32_t reaching = 0;             // free granules that reach the end of the block before
  for (std::uint32_t block = 0; block < blocks_ && best_length != wanted; ++block) {
    const Summary s = summary(block);
    if (s.longest >= wanted && s.longest < best_length) {
      best_length = s.longest;
      best_block = block;
      best_start = UINT32_MAX;
    }
    const std::uint32_t spanning = reaching + s.head;
    if (reaching > 0 && spanning >= wanted && spanning < best_length) {
      best_length = spanning;
      best_start = block * kBlockGranules - reaching;
    }
    reaching = s.head == kBlockGranules ? reaching + kBlockGranules : s.tail;
  }
  if (best_length == UINT32_MAX) return std::nullopt;
  if (best_start == UINT32_MAX) {
    const auto found = shortest_in(best_block, wanted);
    if (!found || is_free({*found, wanted})) return found;
  } else if (is_free({best_start, wanted})) {
    return best_start;
  }
  // Damaged summaries: made anew at the next try.
  for (std::uint32_t i = 0; i < blocks_; ++i) summaries_[i].store(kUnknown, kRelaxed);
  return std::nullopt;
}

std::uint32_t Arena::emptiest(std::uint32_t wanted) noexcept {
  wanted = std::min(wanted, granules_);
  // The row of blocks with the most free granules.
  const std::uint32_t row = std::min((wanted - 1) / kBlockGranules + 1, blocks_);
  std::uint64_t free = 0;
  std::uint64_t most_free = 0;
  std::uint32_t best = 0;
  for (std::uint32_t block = 0; block < blocks_; ++block) {
    free += summary(block).free;
    if (block >= row) free -= std::min<std::uint64_t>(free, summary(block - row).free);
    if (block + 1 >= row && free > most_free) {
      most_free = free;
      best = block + 1 - row;
    }
  }
  const std::uint32_t begin = best * kBlockGranules;
  if (row > 1) return std::min(begin, granules_ - wanted);
  // Within the block: slide over it word by word.
  const std::uint32_t words = (wanted + 63) / 64;
  const std::uint32_t first = begin / 64;
  std::uint32_t in_window = 0;
  std::uint32_t most = 0;
  std::uint32_t start = begin;
  for (std::uint32_t i = 0; i < kWordsPerBlock; ++i) {
    in_window += count_ones(free_bits(first + i));
    if (i >= words) in_window -= std::min(in_window, count_ones(free_bits(first + i - words)));
    if (i + 1 >= words && in_window > most) {
      most = in_window;
      start = (first + i + 1 - words) * 64;
    }
  }
  return std::min(start, granules_ - wanted);
}

std::uint64_t Arena::count_free() const noexcept {
  std::uint64_t free = 0;
  for (std::uint32_t block = 0; block < blocks_; ++block) free += summarise(block).free;
  return free;
}

}  // namespace larder::shm
