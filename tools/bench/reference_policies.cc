#include "tools/bench/reference_policies.h"

#include <cstddef>
#include <queue>
#include <vector>

namespace larder::bench {
namespace {

// Numbers in order of their last use: a ring through `unique`, the number that ends them all.
class Recency {
 public:
  explicit Recency(std::uint32_t unique) : end_(unique), links_(std::size_t{unique} + 1) {
    links_[end_] = {end_, end_};
  }

  bool contains(std::uint32_t number) const { return links_[number].kept; }
  std::uint32_t oldest() const { return links_[end_].newer; }

  void insert(std::uint32_t number) {
    const std::uint32_t newest = links_[end_].older;
    links_[number] = {newest, end_, true};
    links_[newest].newer = number;
    links_[end_].older = number;
  }

  void remove(std::uint32_t number) {
    Link& link = links_[number];
    links_[link.older].newer = link.newer;
    links_[link.newer].older = link.older;
    link.kept = false;
  }

 private:
  struct Link {
    std::uint32_t older = 0;
    std::uint32_t newer = 0;
    bool kept = false;
  };
  const std::uint32_t end_;
  std::vector<Link> links_;
};

template <class SizeOf>
std::uint64_t lru_hits(std::span<const std::uint32_t> requests, std::uint32_t unique,
                       std::uint64_t capacity, SizeOf size_of) {
  Recency kept(unique);
  std::uint64_t used = 0;
  std::uint64_t hits = 0;
  for (const std::uint32_t number : requests) {
    if (kept.contains(number)) {
      ++hits;
      kept.remove(number);
      kept.insert(number);
      continue;
    }
    const std::uint64_t size = size_of(number);
    if (size > capacity) continue;
    while (used + size > capacity) {
      used -= size_of(kept.oldest());
      kept.remove(kept.oldest());
    }
    kept.insert(number);
    used += size;
  }
  return hits;
}

// For each request the position of the next one for the same number. Where there is none, a
// position past the end that is that number's alone.
std::vector<std::uint32_t> next_uses(std::span<const std::uint32_t> requests,
                                     std::uint32_t unique) {
  const auto end = static_cast<std::uint32_t>(requests.size());
  std::vector<std::uint32_t> next_of(unique);
  for (std::uint32_t number = 0; number < unique; ++number) next_of[number] = end + number;
  std::vector<std::uint32_t> next(requests.size());
  for (std::uint32_t i = end; i-- > 0;) {
    next[i] = next_of[requests[i]];
    next_of[requests[i]] = i;
  }
  return next;
}

}  // namespace

std::uint64_t exact_lru_hits(std::span<const std::uint32_t> requests, std::uint32_t unique,
                             std::uint64_t entries) {
  return lru_hits(requests, unique, entries, [](std::uint32_t) { return 1u; });
}

std::uint64_t exact_byte_lru_hits(std::span<const std::uint32_t> requests,
                                  std::span<const std::uint32_t> sizes, std::uint64_t bytes) {
  return lru_hits(requests, static_cast<std::uint32_t>(sizes.size()), bytes,
                  [&](std::uint32_t number) { return sizes[number]; });
}

std::uint64_t optimum_hits(std::span<const std::uint32_t> requests, std::uint32_t unique,
                           std::uint64_t entries) {
  const std::vector<std::uint32_t> next = next_uses(requests, unique);
  const auto number_at = [&](std::uint32_t position) {
    return position < requests.size() ? requests[position]
                                      : position - static_cast<std::uint32_t>(requests.size());
  };
  std::vector<bool> kept(unique);
  // When each kept number is used next, the latest on top. A hit leaves its old position behind,
  // which is now past: it lies below every kept number's, so the top is always of a kept one.
  std::priority_queue<std::uint32_t> uses;
  std::uint64_t count = 0;
  std::uint64_t hits = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const std::uint32_t number = requests[i];
    if (kept[number]) {
      ++hits;
    } else if (count < entries) {
      ++count;
      kept[number] = true;
    } else if (next[i] < uses.top()) {
      kept[number_at(uses.top())] = false;
      uses.pop();
      kept[number] = true;
    } else {
      continue;
    }
    uses.push(next[i]);
  }
  return hits;
}

}  // namespace larder::bench
