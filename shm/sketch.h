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
             std::uint32_t epoch) noexcept {
    // Not the bits of the hash that chose stripe, bucket and tag.
    hash *= 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
    const std::uint64_t lines = sketch.size() / kWords;
    words_ = sketch.subspan(((hash & 0xffffffff) * lines >> 32) * kWords, kWords);
    tag_ = static_cast<std::uint16_t>(hash >> 48 & ~kFrequencyMask);
    std::array<std::uint64_t, kWords> loaded;
    for (std::size_t i = 0; i < kWords; ++i) loaded[i] = words_[i].load(std::memory_order_relaxed);
    cells_ = std::bit_cast<Cells>(loaded);
    age(epoch & kEpochMask);
  }

  // How often the key was used, 0 if nothing is known of it; it is forgotten, being back.
  std::uint32_t take() noexcept {
    std::uint32_t frequency = 0;
    for (std::size_t i = 1; i < kCells; ++i) {
      const bool match = ((cells_[i] ^ tag_) & ~kFrequencyMask) == 0;
      frequency = std::max<std::uint32_t>(frequency, match ? cells_[i] & kFrequencyMask : 0);
      cells_[i] = match ? std::uint16_t{0} : cells_[i];
    }
    return frequency;
  }

  // Remembers the key in place of the one with the least uses, of several the one that was written
  // longest ago.
  void put(std::uint32_t frequency) noexcept {
    const std::uint32_t next = cells_[0] >> kEpochBits & (kCells - 1);
    std::uint32_t least = ~0u;
    for (std::uint32_t i = 1; i < kCells; ++i) {
      const std::uint32_t turn = (i - next) & (kCells - 1);
      least = std::min(least, (cells_[i] & kFrequencyMask) * kCells + turn);
    }
    const std::uint32_t i = (least + next) & (kCells - 1);
    cells_[i] = static_cast<std::uint16_t>(tag_ | std::min(frequency, kMaxFrequency));
    set_header(i + 1);
  }

  void store() const noexcept {
    const auto stored = std::bit_cast<std::array<std::uint64_t, kWords>>(cells_);
    for (std::size_t i = 0; i < kWords; ++i) words_[i].store(stored[i], std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint32_t kCells = 32;
  static constexpr std::uint32_t kFrequencyMask = 15;
  static constexpr std::uint32_t kEpochBits = 4;
  using Cells = std::array<std::uint16_t, kCells>;

  void age(std::uint32_t epoch) noexcept {
    const std::uint32_t header = cells_[0];
    const std::uint32_t epochs = (epoch - header) & kEpochMask;
    epoch_ = epoch;
    if (epochs == 0) return;
    for (std::uint16_t& cell : cells_) {
      const std::uint32_t frequency = aged_by(cell & kFrequencyMask, epochs);
      cell = static_cast<std::uint16_t>((cell & ~kFrequencyMask) | frequency);
    }
    set_header(header >> kEpochBits);
  }

  void set_header(std::uint32_t next) noexcept {
    cells_[0] = static_cast<std::uint16_t>((next & (kCells - 1)) << kEpochBits | epoch_);
  }

  std::span<Atomic<std::uint64_t>> words_;
  Cells cells_;
  std::uint32_t epoch_ = 0;
  std::uint16_t tag_ = 0;
};

}  // namespace larder::shm
