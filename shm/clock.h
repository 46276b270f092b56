// Time that goes on while the machine sleeps and that all processes of a host agree on.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>

namespace larder::shm {

std::uint64_t now_ms() noexcept;  // CLOCK_BOOTTIME

// A moment by two clocks so coarse that a look costs a read next to nothing. The first stands still
// while the machine sleeps, the second may be set back: a time is over when either says so.
struct CoarseTime {
  std::uint64_t ms = 0;       // CLOCK_MONOTONIC_COARSE
  std::uint64_t unix_ms = 0;  // CLOCK_REALTIME_COARSE
};
CoarseTime coarse_now() noexcept;
// How far they may lag behind the true time: a tick of the slowest kernel, rounded up.
inline constexpr std::uint64_t kCoarseLagMs = 11;

namespace detail {
// A deadline after far_ms is not past while time() says looked_second. Hidden: reached without a
// table of addresses.
[[gnu::visibility("hidden")]] extern std::atomic<std::uint64_t> far_ms;
[[gnu::visibility("hidden")]] extern std::atomic<std::int64_t> looked_second;
bool look_whether_past(std::uint64_t deadline_ms) noexcept;
}  // namespace detail

// Is now_ms() at or after the deadline? For reads: a look at the clock costs as much as the rest of
// a get, but a look at which second it is costs next to nothing, and says that a deadline which was
// two seconds off when the second began is not past.
inline bool is_past(std::uint64_t deadline_ms) noexcept {
  // acquire: far_ms, read next, is at least as new as this second.
  if (::time(nullptr) == detail::looked_second.load(std::memory_order_acquire) &&
      deadline_ms > detail::far_ms.load(std::memory_order_relaxed)) [[likely]] {
    return false;
  }
  return detail::look_whether_past(deadline_ms);
}

}  // namespace larder::shm
