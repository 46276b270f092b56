#include "tools/bench/workload.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>

namespace larder::bench {
namespace {

using Random = std::mt19937_64;

constexpr std::string_view kKeyPrefix = "key:";
constexpr std::uint32_t kLeastOperations = 1u << 16;
constexpr std::uint32_t kMostOperations = 1u << 22;  // 16 MiB in each process

// Draws numbers in proportion to their weights, one table look-up each: the alias method (A. J.
// Walker, 1977), its table built as by M. D. Vose, 1991.
class Alias {
 public:
  explicit Alias(std::vector<double> weights) : keep_(std::move(weights)), other_(keep_.size()) {
    const double mean =
        std::accumulate(keep_.begin(), keep_.end(), 0.0) / static_cast<double>(keep_.size());
    std::vector<std::uint32_t> small;
    std::vector<std::uint32_t> large;
    for (std::uint32_t i = 0; i < keep_.size(); ++i) {
      keep_[i] /= mean;
      (keep_[i] < 1 ? small : large).push_back(i);
    }
    // A small column is filled up to 1 with a part of a large one.
    while (!small.empty() && !large.empty()) {
      const std::uint32_t lacking = small.back();
      const std::uint32_t giving = large.back();
      small.pop_back();
      other_[lacking] = giving;
      keep_[giving] -= 1 - keep_[lacking];
      if (keep_[giving] >= 1) continue;
      large.pop_back();
      small.push_back(giving);
    }
    // What is left is 1 but for rounding.
    for (const std::uint32_t i : small) keep_[i] = 1;
    for (const std::uint32_t i : large) keep_[i] = 1;
  }

  std::uint32_t draw(Random& random) {
    const auto column = std::uniform_int_distribution<std::uint32_t>(
        0, static_cast<std::uint32_t>(keep_.size() - 1))(random);
    return std::uniform_real_distribution<double>()(random) < keep_[column] ? column
                                                                            : other_[column];
  }

 private:
  std::vector<double> keep_;
  std::vector<std::uint32_t> other_;
};

std::vector<double> zipf_weights(std::uint32_t count) {
  std::vector<double> weights(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    weights[i] = std::pow(static_cast<double>(i) + 1, -kZipfExponent);
  }
  return weights;
}

// Which key has which rank: shuffled, for popular keys are not those that were stored first and lie
// side by side. The same in every process, so that all share the hot keys.
std::vector<std::uint32_t> ranks(std::uint32_t count) {
  std::vector<std::uint32_t> keys(count);
  std::iota(keys.begin(), keys.end(), 0u);
  constexpr std::uint64_t kSharedSeed = 20;
  Random random(kSharedSeed);
  std::shuffle(keys.begin(), keys.end(), random);
  return keys;
}

unsigned set_percent(Kind kind) {
  switch (kind) {
    case Kind::kGetHit:
      return 0;
    case Kind::kMixed:
    case Kind::kLarge:
      return 5;
    case Kind::kStorm:
      return 50;
    case Kind::kSet:
    case Kind::kInsert:
      return 100;
  }
  return 0;
}

bool is_set(Kind kind, Random& random) {
  return std::uniform_int_distribution<unsigned>(0, 99)(random) < set_percent(kind);
}

// New keys one after the other, round and round.
std::vector<Operation> plan_inserts(std::uint32_t keys, double share) {
  std::vector<Operation> operations(keys);
  auto next = static_cast<std::uint32_t>(share * static_cast<double>(keys));
  for (Operation& each : operations) {
    each.key = next++ & (keys - 1) & 0x7fffffffu;
    each.is_set = true;
  }
  return operations;
}

}  // namespace

std::string kind_name(Kind kind) {
  switch (kind) {
    case Kind::kGetHit:
      return "get-hit";
    case Kind::kSet:
      return "set";
    case Kind::kMixed:
      return "mixed";
    case Kind::kStorm:
      return "storm";
    case Kind::kLarge:
      return "large";
    case Kind::kInsert:
      return "insert";
  }
  return "unknown";
}

bool has_sets(Kind kind) { return set_percent(kind) != 0; }

// The finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, 2014).
std::uint64_t mix(std::uint64_t number) noexcept {
  number += 0x9e3779b97f4a7c15u;
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
  number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
  return number ^ (number >> 31);
}

std::size_t Values::drawn_size(std::uint32_t number) const noexcept {
  const double drawn = static_cast<double>(mix(number) >> 11) * 0x1p-53;  // 0 to 1
  const double ratio = static_cast<double>(most_) / static_cast<double>(least_);
  return static_cast<std::size_t>(static_cast<double>(least_) * std::pow(ratio, drawn));
}

std::uint32_t keys_of(Kind kind, std::uint32_t keys) {
  switch (kind) {
    case Kind::kStorm:
      return std::min(keys, kStormKeys);
    case Kind::kLarge:
      return std::min(keys, kLargeKeys);
    case Kind::kInsert:
      return std::bit_ceil(4 * keys);  // four times round, a key was evicted long ago
    default:
      return keys;
  }
}

std::size_t Keys::least_bytes(std::uint32_t count) {
  return kKeyPrefix.size() + std::to_string(count - 1).size();
}

Keys::Keys(std::uint32_t count, std::size_t key_bytes) : count_(count), key_bytes_(key_bytes) {
  block_.reserve(count * key_bytes);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string digits = std::to_string(i);
    block_.append(kKeyPrefix);
    block_.append(key_bytes - kKeyPrefix.size() - digits.size(), '0').append(digits);
  }
}

std::vector<Operation> plan(Kind kind, Distribution distribution, std::uint32_t keys,
                            std::uint64_t seed, double share) {
  if (kind == Kind::kInsert) return plan_inserts(keys, share);
  Random random(seed);
  std::vector<Operation> operations(std::bit_ceil(std::clamp(
      keys * std::uint64_t{4}, std::uint64_t{kLeastOperations}, std::uint64_t{kMostOperations})));
  const auto fill = [&](auto&& next_key) {
    for (Operation& each : operations) {
      each.key = next_key() & 0x7fffffffu;
      each.is_set = is_set(kind, random);
    }
  };
  if (distribution == Distribution::kUniform) {
    std::uniform_int_distribution<std::uint32_t> any(0, keys - 1);
    fill([&] { return any(random); });
  } else {
    Alias zipf(zipf_weights(keys));
    const std::vector<std::uint32_t> key_of_rank = ranks(keys);
    fill([&] { return key_of_rank[zipf.draw(random)]; });
  }
  return operations;
}

}  // namespace larder::bench
