// One run: N processes, forked as prefork servers fork theirs, do one workload at the same time on
// one backend, and report how fast.
//
// The parent has only opened the backend. Processes connect, read every key once, wait for each
// other, warm up, then count operations in batches with one look at the clock each. Where latencies
// are asked for, a second part follows with a clock around each operation, so that the clock does
// not disturb the first. A writer, if there is one, sets keys at full speed all the while.
//
// Crash: a worker that dies or fails ends the run with an error; workers do not outlive the parent.
#pragma once

#include <cstdint>
#include <vector>

#include "larder/status.h"
#include "tools/bench/backend.h"
#include "tools/bench/histogram.h"
#include "tools/bench/workload.h"

namespace larder::bench {

struct RunOptions {
  Kind kind = Kind::kGetHit;
  Distribution distribution = Distribution::kUniform;
  std::uint32_t processes = 1;
  bool writer = false;
  bool latency = false;
  double warmup_seconds = 0.2;
  double seconds = 1;
  std::uint64_t seed = 1;
  std::vector<int> cpus;  // process i is pinned to cpus[i % size]; empty: not pinned
};

// What one process did in the timed part.
struct Sample {
  Counts counts;
  std::uint64_t operations = 0;
  std::uint64_t nanoseconds = 0;
  std::uint64_t cpu_nanoseconds = 0;  // less than that: something else ran on its core
  std::uint64_t absent_before = 0;    // keys not found before warming up: they do not fit

  double ns_per_operation() const {
    return static_cast<double>(nanoseconds) / static_cast<double>(operations);
  }
  double operations_per_second() const { return 1e9 / ns_per_operation(); }
};

struct Repeat {
  std::vector<Sample> samples;  // one a process
  Histogram latency{};          // in ticks, of all processes; empty where it was not asked for
};

// Stores every key, in a process of its own; what is not shared is filled by each process itself.
Status fill(Backend& backend, const Keys& keys, const Values& values);
Result<Repeat> run(Backend& backend, const Keys& keys, const Values& values,
                   const RunOptions& options);

}  // namespace larder::bench
