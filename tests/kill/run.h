// One operation, killed at each of its instructions.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "tests/kill/operation.h"

namespace larder::kill {

struct RunOptions {
  std::uint64_t judge_every = 1;  // of the states that differ from the one before
  // An instruction that changed the files so often, a copy byte by byte, is judged one time in 64
  // from then on.
  std::uint64_t judge_turns = 256;
  std::size_t real_kills = 20;  // points of an operation where the process is really killed
  std::uint64_t seed = 1;
  bool stop_when_violated = false;
};

struct Report {
  std::uint64_t points = 0;    // instructions after which the process died, in a judged state
  std::uint64_t skipped = 0;   // those in states that were not judged
  std::uint64_t distinct = 0;  // different instructions
  std::uint64_t judged = 0;    // states: the files differed from those of the point before
  std::uint64_t real_kills = 0;
  std::uint64_t real_missed = 0;  // points that were not met again: the clock had gone on, say
  std::vector<std::string> violations;    // the first few
  std::uint64_t violated = 0;             // points with any
  std::set<std::uintptr_t> instructions;  // all that came next at a point
  std::set<std::uintptr_t> stores;        // that changed the files
};

Report kill_everywhere(const Operation& operation, const RunOptions& options);

}  // namespace larder::kill
