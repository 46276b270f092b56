// What the fuzz targets share. Each is one function of bytes, linked either with libFuzzer or with
// corpus.cc, which runs it on files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace larder::fuzz {

// A promise that was broken ends the program; libFuzzer then keeps the input.
inline void require(bool holds, std::string_view promise) {
  if (holds) return;
  std::fprintf(stderr, "broken: %.*s\n", static_cast<int>(promise.size()), promise.data());
  std::abort();
}

// Takes an input apart, from front to back; zeros behind its end.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < bytes && !rest_.empty(); ++i) {
      all |= std::uint64_t{static_cast<unsigned char>(rest_[0])} << 8 * i;
      rest_.remove_prefix(1);
    }
    return all;
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(number(1)); }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace larder::fuzz
