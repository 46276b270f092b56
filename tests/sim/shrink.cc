#include "tests/sim/shrink.h"

#include <algorithm>

namespace larder::sim {

std::vector<std::uint64_t> shrunk(Ground& ground, std::uint64_t seed, const RunOptions& options) {
  Coverage unused;
  std::vector<std::uint64_t> steps = steps_of(seed, options.steps);
  const Outcome whole = run(ground, unused, seed, steps, options);
  if (whole.violations.empty()) return steps;
  const Property property = whole.violations.front().property;
  steps.resize(whole.steps);

  const auto fails = [&](const std::vector<std::uint64_t>& fewer) {
    const Outcome outcome = run(ground, unused, seed, fewer, options);
    return !outcome.violations.empty() && outcome.violations.front().property == property;
  };
  for (std::size_t length = steps.size(); length > 0;) {
    bool shorter = false;
    for (std::size_t at = 0; at < steps.size();) {
      std::vector<std::uint64_t> fewer = steps;
      const auto begin = fewer.begin() + static_cast<long>(at);
      fewer.erase(begin, begin + static_cast<long>(std::min(length, fewer.size() - at)));
      if (fails(fewer)) {
        steps = std::move(fewer);
        shorter = true;
      } else {
        at += length;
      }
    }
    if (length == 1 && shorter) continue;
    length /= 2;
  }
  return steps;
}

}  // namespace larder::sim
