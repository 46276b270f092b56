// The whole-segment checker: walks everything and says what no writer of ours can have left.
// Tests call it after every scenario, `shmctl check` calls the same one. It takes no lock and
// writes nothing; on a segment in use it reports only what stood still while it looked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shm/segment.h"

namespace larder::shm {

struct CheckOptions {
  bool deep = false;       // every entry's checksum too: reads all live bytes
  bool quiescent = false;  // nobody is writing: derived counts must be exact, no lock may be held
};

struct CheckReport {
  std::uint64_t entries = 0;
  std::uint64_t payload_bytes = 0;  // keys and values
  std::vector<std::string>
      violations;  // broken invariants: at most 100, then one line with the rest
  std::vector<std::string>
      degradations;  // legal but unhealthy: bypassed stripes, locks of the dead

  std::vector<std::uint32_t> broken_stripes;  // those with violations, in order

  bool clean() const noexcept { return violations.empty(); }
};

CheckReport check(Segment& segment, const CheckOptions& options = {});

}  // namespace larder::shm
