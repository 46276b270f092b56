// Virtual time. clock.cc takes the place of shm/clock.cc: what the simulated hosts call the time is
// the true time, which the simulator moves, seen through the clocks of the host that asks.
#pragma once

#include <cstdint>

namespace larder::sim {

// Since the run began, in microseconds.
using Time = std::uint64_t;
inline constexpr Time kMs = 1000;

inline Time true_time = 0;

// How a host's clocks differ from the true time.
struct HostClock {
  Time suspended = 0;        // so long the monotonic clock stood still
  std::int64_t step_us = 0;  // the real-time clock was set by so much
};

// Whose clocks are read, while it lives.
class Reading {
 public:
  explicit Reading(const HostClock& clock);
  ~Reading();
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

 private:
  const HostClock* before_;
};

// What a Redis server says its time is.
std::uint64_t redis_unix_ms();

}  // namespace larder::sim
