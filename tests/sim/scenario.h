// Named schedules: each broke a draft of the protocol once. The same objects as in the runs by
// chance, but every step is written down. Each passes, and fails when its cure is taken out: a cure
// of the driver's by `without`, one of the library's by a patch of mutants/ that names the
// scenario.
#pragma once

#include <string_view>
#include <vector>

#include "tests/sim/ground.h"
#include "tests/sim/world.h"

namespace larder::sim {

class Stage;

struct Scenario {
  std::string_view name;
  std::string_view text;
  std::string_view cure;  // of kCures; empty: it is in the library
  void (*play)(Stage& stage);
};
const std::vector<Scenario>& scenarios();

std::vector<Violation> play(Ground& ground, const Scenario& scenario, const Cures& cures,
                            bool tells);

}  // namespace larder::sim
