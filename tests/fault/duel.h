// Two hosts and one key, again and again: what each is left with.
#pragma once

#include <cstdint>
#include <string>

namespace larder::fault {

struct DuelReport {
  std::uint64_t rounds = 0;
  std::uint64_t met = 0;        // rounds in which both were at it at the same time
  std::uint64_t overtaken = 0;  // of these, in which the reader got the old value
  std::uint64_t compared = 0;   // values that hosts held
  std::uint64_t wrong = 0;      // that Redis does not have
  double seconds = 0;
  std::string failure;
};

// Both set the key, at once.
DuelReport cross(std::uint64_t rounds);
// One reads the key, which it does not hold, while the other sets it.
DuelReport fill_late(std::uint64_t rounds);

}  // namespace larder::fault
