// Time that goes on while the machine sleeps and that all processes of a host agree on.
#pragma once

#include <atomic>
#include <cstdint>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace larder::shm {

std::uint64_t now_ms() noexcept;  // CLOCK_BOOTTIME

namespace detail {
extern std::atomic<std::uint64_t> last_cycles;
extern std::atomic<std::uint64_t> last_ms;
std::uint64_t look_at_clock(std::uint64_t cycles) noexcept;
}  // namespace detail

// The same, up to two milliseconds late: for reads. The processor's cycle counter only tells how
// long the last look at the real clock may be used; a counter that jumps makes for another look.
inline std::uint64_t coarse_now_ms() noexcept {
#if defined(__x86_64__)
  constexpr std::uint64_t kGoodFor = 2'000'000;  // cycles: 2 ms at 1 GHz
  const std::uint64_t cycles = __rdtsc();
  // acquire: the time that is read next is at least as new as this.
  const std::uint64_t since = cycles - detail::last_cycles.load(std::memory_order_acquire);
  if (since < kGoodFor) [[likely]]
    return detail::last_ms.load(std::memory_order_relaxed);
  return detail::look_at_clock(cycles);
#else
  return now_ms();
#endif
}

}  // namespace larder::shm
