// One run: hosts, servers and peers, to which a list of steps happens; then everything is healed,
// and all hosts must agree with Redis. Each step is drawn from a seed of its own, so that a list
// from which some were taken out still means something.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/coverage.h"
#include "tests/sim/ground.h"
#include "tests/sim/world.h"

namespace larder::sim {

enum class Fault {
  kCut,        // a connection, with what is under way
  kSilence,    // half-open: nothing arrives, nobody is told
  kStall,      // everything arrives late
  kPartition,  // of a host
  kEventLost,  // the log has it, the channel does not
  kEventTwice,
  kStrangeMessage,  // malformed, of another database
  kRestart,         // of Redis, with all its data
  kOlderData,       // the same without the last changes, or empty
  kFlushAll,
  kLogLost,
  kLogTrimmed,
  kFailover,    // to a replica without the last changes
  kSplitBrain,  // the former primary goes on, apart
  kDemotion,    // the former primary becomes a replica
  kEviction,
  kExpiry,  // values with a life
  kCrash,   // of a worker
  kStop,    // of a worker
  kLeaderDeath,
  kLeaderStop,
  kRestartAll,  // of all workers of a host
  kClockStep,
  kSuspend,    // of a host
  kPlainPeer,  // writes and announces in two steps, without ids
};
inline constexpr unsigned kFaults = 25;
std::string_view fault_name(Fault fault);

enum class Library { kLarder, kBase };

struct RunOptions {
  Library library = Library::kLarder;
  unsigned steps = 300;
  Cures cures;
  bool tells = false;  // each step, as it is taken
};

struct Outcome {
  std::vector<Violation> violations;
  std::array<bool, kFaults> faults{};  // which happened
  std::uint64_t steps = 0;
  std::uint64_t reads = 0;
  std::uint64_t fresh_reads = 0;
  std::uint64_t excused = 0;
  Time largest_staleness = 0;
};

// The seeds of the steps of a run.
std::vector<std::uint64_t> steps_of(std::uint64_t seed, unsigned steps);

Outcome run(Ground& ground, Coverage& coverage, std::uint64_t seed,
            const std::vector<std::uint64_t>& steps, const RunOptions& options);

}  // namespace larder::sim
