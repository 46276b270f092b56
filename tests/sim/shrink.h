// Cuts a failing run to few steps.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/sim/ground.h"
#include "tests/sim/run.h"

namespace larder::sim {

// Steps of the run of `seed`, none of which can be left out without the violation of the same
// property going too (ddmin, Zeller and Hildebrandt 2002).
std::vector<std::uint64_t> shrunk(Ground& ground, std::uint64_t seed, const RunOptions& options);

}  // namespace larder::sim
