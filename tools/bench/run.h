// One run: N processes, forked as prefork servers fork theirs, do one workload at the same time on
// one cache, and report how fast.
//
// The parent only opens the cache. Processes attach, map the whole segment and read every key once,
// wait for each other, warm up, then count operations in batches with one look at the clock each.
//
// Crash: a worker that dies or fails ends the run with an error; workers do not outlive the parent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "larder/status.h"
#include "tools/bench/workload.h"

namespace larder::bench {

struct RunOptions {
  Kind kind = Kind::kGetHit;
  Distribution distribution = Distribution::kUniform;
  std::uint32_t processes = 1;
  std::size_t value_bytes = 64;
  double warmup_seconds = 0.2;
  double seconds = 1;
  std::uint64_t seed = 1;
  std::vector<int> cpus;  // process i is pinned to cpus[i % size]; empty: not pinned
};

// What one process did in the timed part.
struct Sample {
  std::uint64_t operations = 0;
  std::uint64_t nanoseconds = 0;
  std::uint64_t cpu_nanoseconds = 0;  // less than that: something else ran on its core
  std::uint64_t reads = 0;
  std::uint64_t hits = 0;
  std::uint64_t failed_sets = 0;    // a bounded wait for a stripe ran out
  std::uint64_t wrong_values = 0;   // a hit that was not the key's value: a defect of larder
  std::uint64_t absent_before = 0;  // keys not found before warming up: they do not fit

  double ns_per_operation() const {
    return static_cast<double>(nanoseconds) / static_cast<double>(operations);
  }
  double operations_per_second() const { return 1e9 / ns_per_operation(); }
};

// Stores every key, in a process of its own.
Status fill(Cache& cache, const Keys& keys, std::size_t value_bytes);
// One sample a process.
Result<std::vector<Sample>> run(Cache& cache, const Keys& keys, const RunOptions& options);

// To be called first. SIGINT and SIGTERM then end whatever is under way, with kClosed.
void install_interrupt_handlers();
bool interrupted() noexcept;

}  // namespace larder::bench
