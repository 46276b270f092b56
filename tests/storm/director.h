// The director: starts the workers, kills, stops and disturbs them at random, starts others in
// their place, and watches that none is stuck.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/storm/worker.h"

namespace larder::storm {

struct StormOptions {
  double seconds = 20;
  unsigned workers = 8;
  std::uint64_t seed = 1;
  bool namespaces = false;
};

struct Outcome {
  std::uint64_t kills = 0;     // SIGKILL by the director
  std::uint64_t ambushes = 0;  // SIGKILL by a timer, in the midst of a change
  std::uint64_t stops = 0;
  std::uint64_t long_stops = 0;    // beyond every bound of liveness
  std::uint64_t replacements = 0;  // told to become a fresh program, wherever they were
  std::uint64_t exits = 0;         // ended by themselves, anywhere or politely
  std::uint64_t crashes = 0;       // ended as nobody told them to
  std::uint64_t stuck = 0;
  std::uint64_t pid_pairs = 0;  // most at a time of two workers with one pid
  std::string refused;          // why there can be no namespaces here
};

Outcome direct(const StormOptions& options, const Life& life);

}  // namespace larder::storm
