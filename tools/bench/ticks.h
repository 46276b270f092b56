// The clock around a single operation: the processor's counter where it is steady, else the
// system's monotonic clock. What a look at it costs is measured and printed, never subtracted.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <chrono>
#endif

namespace larder::bench {

// Not before what stands before it is done, and before what stands after it has begun.
inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  unsigned processor;
  const std::uint64_t now = __rdtscp(&processor);
  _mm_lfence();
  return now;
#else
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
#endif
}

struct TickFacts {
  double nanoseconds_per_tick;
  double cost_nanoseconds;  // of two looks with nothing between, the median
};
// Measured once, in some 20 ms.
const TickFacts& tick_facts();

}  // namespace larder::bench
