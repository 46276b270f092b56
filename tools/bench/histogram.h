// Durations of single operations, counted in buckets that are 1/64 of their size wide: a percentile
// read from them is less than one percent off.
//
// Plain data, zero at first: may lie in memory that processes share. Threads: one at a time.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace larder::bench {

class Histogram {
 public:
  void add(std::uint64_t value) noexcept {
    ++counts_[bucket(value)];
    most_ = std::max(most_, value);
  }

  void merge(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
    most_ = std::max(most_, other.most_);
  }

  std::uint64_t count() const noexcept {
    std::uint64_t sum = 0;
    for (const std::uint64_t each : counts_) sum += each;
    return sum;
  }

  std::uint64_t max() const noexcept { return most_; }

  // The value that `share` (0 to 1) of all values do not exceed; 0 when there are none.
  double quantile(double share) const noexcept {
    const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(count()));
    std::uint64_t passed = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      passed += counts_[i];
      if (passed > wanted) return std::min(middle(i), static_cast<double>(most_));
    }
    return static_cast<double>(most_);
  }

 private:
  // A power of two has 64 buckets; below 128 each number has its own.
  static constexpr std::size_t kPart = 64;
  static constexpr std::size_t kBuckets = kPart * 59;

  static int shift_of(std::uint64_t value) noexcept {
    return static_cast<int>(std::bit_width(value | 127)) - 7;
  }
  static std::size_t bucket(std::uint64_t value) noexcept {
    const int shift = shift_of(value);
    return static_cast<std::size_t>(shift) * kPart + static_cast<std::size_t>(value >> shift);
  }
  static double middle(std::size_t index) noexcept {
    if (index < 2 * kPart) return static_cast<double>(index);
    const std::size_t shift = index / kPart - 1;
    const std::uint64_t first = static_cast<std::uint64_t>(index - shift * kPart) << shift;
    return static_cast<double>(first) + static_cast<double>(std::uint64_t{1} << shift) / 2;
  }

  std::uint64_t counts_[kBuckets];
  std::uint64_t most_;
};

}  // namespace larder::bench
