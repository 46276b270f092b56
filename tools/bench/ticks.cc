#include "tools/bench/ticks.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace larder::bench {
namespace {

using Clock = std::chrono::steady_clock;

double measure_scale() {
  const auto start = Clock::now();
  const std::uint64_t first = ticks();
  Clock::duration passed{};
  std::uint64_t last;
  do {
    last = ticks();
    passed = Clock::now() - start;
  } while (passed < std::chrono::milliseconds(20));
  return std::chrono::duration<double, std::nano>(passed).count() /
         static_cast<double>(last - first);
}

double measure_cost() {
  std::vector<std::uint64_t> costs(10'001);
  for (auto& cost : costs) {
    const std::uint64_t before = ticks();
    cost = ticks() - before;
  }
  std::nth_element(costs.begin(), costs.begin() + 5'000, costs.end());
  return static_cast<double>(costs[5'000]);
}

}  // namespace

const TickFacts& tick_facts() {
  static const TickFacts facts = [] {
    const double scale = measure_scale();
    return TickFacts{scale, measure_cost() * scale};
  }();
  return facts;
}

}  // namespace larder::bench
