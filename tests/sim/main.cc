// larder-sim: the protocol under every fault, in virtual time.
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <string>

#include "tests/sim/run.h"

namespace larder::sim {
namespace {

int main_of(int argc, char** argv) {
  std::uint64_t runs = 1000;
  std::uint64_t seed = 1;
  RunOptions options;
  CLI::App app("The protocol under every fault, in virtual time");
  app.add_option("--runs", runs);
  app.add_option("--seed", seed);
  app.add_option("--steps", options.steps);
  CLI11_PARSE(app, argc, argv);
  Ground ground;
  Coverage coverage;
  std::uint64_t failed = 0, reads = 0, fresh = 0, excused = 0;
  Time stalest = 0;
  for (std::uint64_t s = seed; s < seed + runs; ++s) {
    const Outcome o = run(ground, coverage, s, steps_of(s, options.steps), options);
    reads += o.reads;
    fresh += o.fresh_reads;
    excused += o.excused;
    stalest = std::max(stalest, o.largest_staleness);
    if (!o.violations.empty()) {
      ++failed;
      if (failed < 20) std::printf("seed %" PRIu64 ": %s\n", s, o.violations[0].what.c_str());
    }
  }
  std::printf("failed %" PRIu64 " reads %" PRIu64 " fresh %" PRIu64 " excused %" PRIu64
              " stalest %" PRIu64 "\n",
              failed, reads, fresh, excused, stalest);
  for (std::size_t i = 0; i < kTransitions; ++i)
    if (coverage.transitions[i])
      std::printf("%10" PRIu64 " %s\n", coverage.transitions[i], transition_name(i).c_str());
  return failed != 0;
}

}  // namespace
}  // namespace larder::sim

int main(int argc, char** argv) { return larder::sim::main_of(argc, argv); }
