// Many runs, by several processes.
#pragma once

#include <cstdint>

#include "tests/sim/run.h"
#include "tests/sim/summary.h"

namespace larder::sim {

// Seeds `first` to `first + runs - 1`. Ends the program when a job does not come to its end.
Summary run_all(std::uint64_t first, std::uint64_t runs, unsigned jobs, const RunOptions& options);

}  // namespace larder::sim
