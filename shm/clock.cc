#include "shm/clock.h"

namespace larder::shm {

namespace {

std::uint64_t ms_by(clockid_t clock) noexcept {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace

std::uint64_t now_ms() noexcept { return ms_by(CLOCK_BOOTTIME); }

CoarseTime coarse_now() noexcept {
  return {ms_by(CLOCK_MONOTONIC_COARSE), ms_by(CLOCK_REALTIME_COARSE)};
}

namespace detail {

constexpr std::uint64_t kFarMs = 2000;

std::atomic<std::uint64_t> far_ms{0};
std::atomic<std::int64_t> looked_second{-1};

// Threads may race; each stores a time before the second that vouches for it.
bool look_whether_past(std::uint64_t deadline_ms) noexcept {
  const std::int64_t second = ::time(nullptr);
  const std::uint64_t now = now_ms();
  if (looked_second.load(std::memory_order_relaxed) != second) {
    far_ms.store(now + kFarMs, std::memory_order_relaxed);
    looked_second.store(second, std::memory_order_release);
  }
  return deadline_ms <= now;
}

}  // namespace detail
}  // namespace larder::shm
