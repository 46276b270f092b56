// What a benchmark does: keys, values, and the order in which keys are asked for. Everything is
// computed before timing, so that the timed loop only walks an array.
//
// Threads: none. Errors: none; arguments are checked by the caller.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace larder::bench {

enum class Kind { kGetHit, kSet, kMixed };
enum class Distribution { kUniform, kZipf };

inline constexpr double kZipfExponent = 0.99;
inline constexpr unsigned kMixedSetPercent = 5;

// `count` keys of one length, in one block: "key:00000042".
class Keys {
 public:
  // The least length that keeps `count` keys apart.
  static std::size_t least_bytes(std::uint32_t count);

  Keys(std::uint32_t count, std::size_t key_bytes);
  std::uint32_t count() const noexcept { return count_; }
  std::string_view operator[](std::uint32_t number) const noexcept {
    return {block_.data() + number * key_bytes_, key_bytes_};
  }

 private:
  std::uint32_t count_;
  std::size_t key_bytes_;
  std::string block_;
};

// The value of key `number`: its number first, so that every hit can be checked, then filler.
class Value {
 public:
  explicit Value(std::size_t bytes) : bytes_(bytes, 'v') {}
  std::string_view of(std::uint32_t number) noexcept {
    std::memcpy(bytes_.data(), &number, marked());
    return bytes_;
  }
  bool is_of(std::string_view value, std::uint32_t number) const noexcept {
    return value.size() == bytes_.size() && std::memcmp(value.data(), &number, marked()) == 0;
  }

 private:
  std::size_t marked() const noexcept { return std::min(bytes_.size(), sizeof(std::uint32_t)); }
  std::string bytes_;
};

// One operation: a key's number, and whether it is set or read.
struct Operation {
  std::uint32_t key : 31;
  std::uint32_t is_set : 1;
};
static_assert(sizeof(Operation) == 4);
inline constexpr std::uint32_t kMaxKeys = 1u << 30;

// Operations to be walked round and round. Its length is a power of two.
std::vector<Operation> plan(Kind kind, Distribution distribution, std::uint32_t keys,
                            std::uint64_t seed);

}  // namespace larder::bench
