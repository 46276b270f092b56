// Time that goes on while the machine sleeps and that all processes of a host agree on.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>

namespace larder::shm {

std::uint64_t now_ms() noexcept;  // CLOCK_BOOTTIME

namespace detail {
extern std::atomic<std::uint64_t> looked_ms;     // what now_ms() said
extern std::atomic<std::int64_t> looked_second;  // in this second of time()
bool look_whether_past(std::uint64_t deadline_ms) noexcept;
}  // namespace detail

// Is now_ms() at or after the deadline? For reads: a look at the clock costs as much as the rest of
// a get, but a look at which second it is costs next to nothing, and says that a deadline which was
// two seconds off when the second began is not past.
inline bool is_past(std::uint64_t deadline_ms) noexcept {
  constexpr std::uint64_t kFarMs = 2000;
  // acquire: the time read next is at least as new as this second.
  if (detail::looked_second.load(std::memory_order_acquire) == ::time(nullptr) &&
      deadline_ms > detail::looked_ms.load(std::memory_order_relaxed) + kFarMs) [[likely]] {
    return false;
  }
  return detail::look_whether_past(deadline_ms);
}

}  // namespace larder::shm
