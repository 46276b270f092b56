// What a stripe remembers of entries that are gone: how often they were used. So a key that comes
// back goes on where it left, and need not earn its place anew.
//
// A line of 64 bytes is 32 cells of 16 bits. Cell 0 is {next:5, epoch:4}; the others are {tag:12,
// frequency:4}, frequency 0 being an empty cell. A key has one line, by its hash. A line ages when
// it is touched: frequencies are halved once for each epoch since, just as those in the slots'
// words, so that both can be compared at any time. (That matters: in a loop that is a little too
// long for the cache, every difference between the two scales is a wrong decision.)
//
// Derived; any bit pattern is legal. Used under the stripe's lock. Tags rather than the counters of
// a count-min sketch, because only the absent are remembered: at two to four bytes an entry, tags
// keep more hits, and a counter that many keys share flatters newcomers.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>

#include "shm/lanes.h"
#include "shm/layout.h"

namespace larder::shm {

inline constexpr std::uint32_t kMaxFrequency = 15;
inline constexpr std::uint32_t kEpochMask = 7;  // epochs are counted modulo 8

constexpr std::uint32_t aged_by(std::uint32_t frequency, std::uint32_t epochs) noexcept {
  return frequency >> std::min(epochs & kEpochMask, 4u);
}

class SketchLine {
 public:
  static constexpr std::size_t kWords = 8;

  // The line of a key, aged to `epoch`. `sketch` must not be shorter than a line.
  SketchLine(std::span<Atomic<std::uint64_t>> sketch, std::uint64_t hash,
             std::uint32_t epoch) noexcept
      : words_(words_of(sketch, mix(hash))),
        tag_(static_cast<std::uint32_t>(mix(hash) >> 48) & kTagMask) {
    std::array<std::uint64_t, kWords> loaded;
    for (std::size_t i = 0; i < kWords; ++i) loaded[i] = words_[i].load(std::memory_order_relaxed);
    cells_ = std::bit_cast<Cells>(loaded);
    age(epoch & kEpochMask);
  }

  // Fetches the line of a key that will be asked for soon.
  static void prefetch(std::span<Atomic<std::uint64_t>> sketch, std::uint64_t hash) noexcept {
    __builtin_prefetch(words_of(sketch, mix(hash)).data(), 1);
  }

  // How often the key was used, 0 if nothing is known of it; it is forgotten, being back.
  std::uint32_t take() noexcept {
    Lanes taken{};
    for (Lanes& cells : cells_) {
      const Lanes match = equal((cells ^ all(tag_)) & all(kTagMask), Lanes{}) & ~header_mask(cells);
      taken |= cells & match;
      cells &= ~match;
    }
    std::uint32_t frequency = 0;
    for (std::uint32_t i = 0; i < kLanes; ++i) frequency |= taken[i] & kMaxFrequency;
    return frequency;
  }

  // Remembers the key in place of the one with the least uses, of several the one that was written
  // longest ago.
  void put(std::uint32_t frequency) noexcept {
    const std::uint32_t next = header() >> kEpochBits & (kCells - 1);
    Lanes number = {0, 1, 2, 3, 4, 5, 6, 7};
    Lanes least = all(0x7fff);
    for (Lanes& cells : cells_) {
      const Lanes turn = (number - all(next)) & all(kCells - 1);
      const Lanes rank = ((cells & all(kMaxFrequency)) * kCells + turn) | (header_mask(cells) >> 1);
      least = select(less(rank, least), rank, least);
      number += all(kLanes);
    }
    std::uint32_t first = 0x7fff;
    for (std::uint32_t i = 0; i < kLanes; ++i) first = std::min<std::uint32_t>(first, least[i]);
    const std::uint32_t cell = (first + next) & (kCells - 1);
    cells_[cell / kLanes][cell % kLanes] =
        static_cast<std::uint16_t>(tag_ | std::min(frequency, kMaxFrequency));
    set_header(cell + 1);
  }

  void store() const noexcept {
    const auto stored = std::bit_cast<std::array<std::uint64_t, kWords>>(cells_);
    for (std::size_t i = 0; i < kWords; ++i) words_[i].store(stored[i], std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint32_t kCells = 32;
  static constexpr std::uint32_t kTagMask = 0xffff & ~kMaxFrequency;
  static constexpr std::uint32_t kEpochBits = 4;
  using Cells = std::array<Lanes, kCells / kLanes>;

  // Not the bits of the hash that chose stripe, bucket and tag.
  static std::uint64_t mix(std::uint64_t hash) noexcept {
    hash *= 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
  }
  static std::span<Atomic<std::uint64_t>> words_of(std::span<Atomic<std::uint64_t>> sketch,
                                                   std::uint64_t mixed) noexcept {
    const std::uint64_t lines = sketch.size() / kWords;
    return sketch.subspan(((mixed & 0xffffffff) * lines >> 32) * kWords, kWords);
  }

  void age(std::uint32_t epoch) noexcept {
    const std::uint32_t before = header();
    const std::uint32_t epochs = (epoch - before) & kEpochMask;
    epoch_ = epoch;
    if (epochs == 0) return;
    for (Lanes& cells : cells_) {
      const Lanes frequency = (cells & all(kMaxFrequency)) >> std::min(epochs, 4u);
      cells = (cells & all(kTagMask)) | frequency;
    }
    set_header(before >> kEpochBits);
  }

  // All ones for cell 0.
  Lanes header_mask(const Lanes& cells) const noexcept {
    Lanes mask{};
    if (&cells == &cells_[0]) mask[0] = 0xffff;
    return mask;
  }
  std::uint32_t header() const noexcept { return cells_[0][0]; }
  void set_header(std::uint32_t next) noexcept {
    cells_[0][0] = static_cast<std::uint16_t>((next & (kCells - 1)) << kEpochBits | epoch_);
  }

  std::span<Atomic<std::uint64_t>> words_;
  Cells cells_;
  std::uint32_t epoch_ = 0;
  std::uint32_t tag_ = 0;
};

}  // namespace larder::shm
