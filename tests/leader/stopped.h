// What a process that is stopped inside a stripe's lock costs the others.
#pragma once

#include <vector>

namespace larder::leader {

// The 99.9th percentile of one get, of all readers together.
struct ReadTurn {
  double quiet_ns = 0;    // the writer waits outside of the lock
  double stopped_ns = 0;  // the writer is stopped inside
};
// The same readers get the same keys of one stripe all the while; each turn measures both, in
// alternating order.
std::vector<ReadTurn> read_beside_stopped_writer(unsigned turns);

// How much longer than its lock_timeout the longest of some writers waited that ran into it at the
// same time, for each turn.
std::vector<double> write_behind_stopped_writer_ms(unsigned turns);

}  // namespace larder::leader
