// The base library's algorithm (huykn/distributed-cache v1.0.4), for comparison: in the same world,
// before the same checker. A set changes the pod's own memory, then Redis, then tells the others;
// events of one's own are skipped; a fill keeps what Redis answered; a connection that broke is
// made anew and nothing is read again. There is no lease: every read counts as fresh.
#pragma once

#include <cstdint>

#include "tests/sim/coverage.h"
#include "tests/sim/run.h"

namespace larder::sim {

// As run(), with pods in the place of hosts and the faults that a pod can meet.
Outcome run_base(std::uint64_t seed, const RunOptions& options);

// Without any fault, two pods.
enum class Race {
  kCrossing,  // both set a key within a millisecond
  kLateFill,  // one reads a key that it does not hold while the other sets it
};
// Did a pod end with another value than Redis has?
bool race_ends_stale(Race race, std::uint64_t seed);

}  // namespace larder::sim
