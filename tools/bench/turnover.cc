#include "tools/bench/turnover.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace larder::bench {

std::string_view NumberedKey::of(std::uint64_t number) {
  for (std::size_t i = bytes_.size(); i > bytes_.size() - kLeastBytes; --i) {
    bytes_[i - 1] = static_cast<char>('0' + number % 10);
    number /= 10;
  }
  return bytes_;
}

std::string_view NumberedValue::of(std::uint64_t number, std::size_t size) {
  std::memcpy(bytes_.data(), &number, std::min(size, sizeof number));
  return {bytes_.data(), size};
}

bool NumberedValue::is_of(std::string_view value, std::uint64_t number) {
  return std::memcmp(value.data(), &number, std::min(value.size(), sizeof number)) == 0;
}

std::size_t Sizes::draw(std::mt19937_64& random) {
  if (!lognormal_) return median_;
  const double size = static_cast<double>(median_) * std::exp(normal_(random));
  return std::clamp<std::size_t>(static_cast<std::size_t>(size), 1, most());
}

}  // namespace larder::bench
