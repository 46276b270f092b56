#include "shm/clock.h"

#include <time.h>

namespace larder::shm {

std::uint64_t now_ms() noexcept {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

namespace detail {

std::atomic<std::uint64_t> last_cycles{0};
std::atomic<std::uint64_t> last_ms{0};

// Threads may race; each stores a time before the cycles that vouch for it.
std::uint64_t look_at_clock(std::uint64_t cycles) noexcept {
  const std::uint64_t now = now_ms();
  last_ms.store(now, std::memory_order_relaxed);
  last_cycles.store(cycles, std::memory_order_release);
  return now;
}

}  // namespace detail
}  // namespace larder::shm
