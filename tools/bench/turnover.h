// What `memory` and `steady` store: keys without end, and sizes.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>

namespace larder::bench {

// Key `number`, of a length; valid until the next call.
class NumberedKey {
 public:
  static constexpr std::size_t kLeastBytes = 16;
  explicit NumberedKey(std::size_t bytes) : bytes_(bytes, '0') {}
  std::string_view of(std::uint64_t number);

 private:
  std::string bytes_;
};

// A value of any length up to a bound, that begins with its key's number.
class NumberedValue {
 public:
  explicit NumberedValue(std::size_t most_bytes) : bytes_(most_bytes, 'v') {}
  std::string_view of(std::uint64_t number, std::size_t size);
  static bool is_of(std::string_view value, std::uint64_t number);

 private:
  std::string bytes_;
};

// Sizes around a median: all the same, or with a logarithm that is normal (deviation 1), as sizes
// of real objects roughly are; at most 64 times the median.
class Sizes {
 public:
  Sizes(bool lognormal, std::size_t median) : lognormal_(lognormal), median_(median) {}
  bool lognormal() const { return lognormal_; }
  std::size_t most() const { return lognormal_ ? kMostMedians * median_ : median_; }
  std::size_t draw(std::mt19937_64& random);

 private:
  static constexpr std::size_t kMostMedians = 64;
  bool lognormal_;
  std::size_t median_;
  std::normal_distribution<double> normal_;
};

}  // namespace larder::bench
