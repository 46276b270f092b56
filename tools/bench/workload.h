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

enum class Kind {
  kGetHit,  // every key is there
  kSet,     // overwrites
  kMixed,   // 95 % get, 5 % set
  kStorm,   // every process overwrites and reads the same few keys, one for one
  kLarge,   // as mixed, with values of 64 KiB to 1 MiB
  kInsert,  // sets of keys that were evicted long ago, into what is full
};
inline constexpr Kind kKinds[] = {Kind::kGetHit, Kind::kSet,   Kind::kMixed,
                                  Kind::kStorm,  Kind::kLarge, Kind::kInsert};
std::string kind_name(Kind kind);
bool has_sets(Kind kind);

enum class Distribution { kUniform, kZipf };

inline constexpr double kZipfExponent = 0.99;
inline constexpr std::uint32_t kStormKeys = 16;
inline constexpr std::uint32_t kLargeKeys = 1'000;  // at most
inline constexpr std::uint32_t kLargeLeastBytes = 64u << 10;
inline constexpr std::uint32_t kLargeMostBytes = 1u << 20;

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

// Draws the numbers of a hash: the same for the same input in every process.
std::uint64_t mix(std::uint64_t number) noexcept;

// The value of key `number`: its number first, so that every hit can be checked, then filler. All
// of one length, or each key's of its own, spread evenly over the orders of magnitude.
class Values {
 public:
  Values(std::size_t least_bytes, std::size_t most_bytes)
      : least_(least_bytes), most_(most_bytes), bytes_(most_bytes, 'v') {}
  std::size_t most_bytes() const noexcept { return most_; }
  std::size_t size_of(std::uint32_t number) const noexcept {
    return least_ == most_ ? most_ : drawn_size(number);
  }
  // Valid until the next call.
  std::string_view of(std::uint32_t number) noexcept {
    const std::string_view value(bytes_.data(), size_of(number));
    std::memcpy(bytes_.data(), &number, marked(value));
    return value;
  }
  bool is_of(std::string_view value, std::uint32_t number) const noexcept {
    return value.size() == size_of(number) &&
           std::memcmp(value.data(), &number, marked(value)) == 0;
  }

 private:
  static std::size_t marked(std::string_view value) noexcept {
    return std::min(value.size(), sizeof(std::uint32_t));
  }
  std::size_t drawn_size(std::uint32_t number) const noexcept;
  std::size_t least_;
  std::size_t most_;
  std::string bytes_;
};

// One operation: a key's number, and whether it is set or read.
struct Operation {
  std::uint32_t key : 31;
  std::uint32_t is_set : 1;
};
static_assert(sizeof(Operation) == 4);
inline constexpr std::uint32_t kMaxKeys = 1u << 30;

// How many keys a workload has when `keys` of them are to be held.
std::uint32_t keys_of(Kind kind, std::uint32_t keys);

// Operations to be walked round and round; the number is a power of two. `share` (0 to 1): where in
// the round of new keys an insert begins, so that no two processes insert the same at a time.
std::vector<Operation> plan(Kind kind, Distribution distribution, std::uint32_t keys,
                            std::uint64_t seed, double share);

}  // namespace larder::bench
