// What many runs came to. Plain bytes, so that it can be summed up by several processes.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "tests/sim/checker.h"
#include "tests/sim/coverage.h"
#include "tests/sim/run.h"

namespace larder::sim {

struct Summary {
  static constexpr std::size_t kSeedsShown = 20;

  std::uint64_t runs = 0;
  std::uint64_t failed = 0;
  std::array<std::uint64_t, kSeedsShown> failed_seeds{};  // the lowest
  std::uint64_t steps = 0;
  std::uint64_t reads = 0;
  std::uint64_t fresh_reads = 0;
  std::uint64_t excused = 0;
  Time largest_staleness = 0;
  std::array<std::uint64_t, kFaults> faults{};  // runs with each
  std::array<std::uint64_t, kProperties> violated{};
  std::array<std::uint64_t, kProperties> violated_first{};  // the lowest seed
  Coverage coverage;

  void add(std::uint64_t seed, const Outcome& outcome);
  void add(const Summary& other);
  std::size_t seeds_shown() const;
  double share(std::uint64_t part) const;  // of the runs, in percent

 private:
  void note_failed(std::uint64_t seed);
};

// For people, and as one line of JSON.
void print(const Summary& summary);
std::string as_json(const Summary& summary);

}  // namespace larder::sim
