// How long a host of four workers goes without a leader when the one that leads is killed or
// stopped.
#pragma once

#include <cstdint>
#include <vector>

namespace larder::leader {

// A turn lasts from the signal until a change that another host makes after it is read from this
// host's segment, in sync: a new leader was elected, has subscribed, has read the log's end, and
// has applied an event to the table.
struct Handovers {
  std::vector<double> ms;  // one for each turn, in their order
  // After each turn: values in the segment that are not those that Redis has, and what the segment
  // itself counts as written by a deposed leader.
  std::uint64_t stale_term_writes = 0;
  std::uint64_t stale_term_refused = 0;  // tried, and stopped from it
  std::uint64_t leader_changes = 0;
};

// SIGKILL at a random moment between two heartbeats; the host then gets a new worker.
Handovers kill_leaders(unsigned turns, std::uint64_t seed);
// SIGSTOP in the midst of events, SIGCONT when another leads and events flow again.
Handovers stop_leaders(unsigned turns, std::uint64_t seed);

}  // namespace larder::leader
