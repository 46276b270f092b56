// Sleeping on a 32-bit word of the segment until another process changes it.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <cstdint>

namespace larder::shm {

// Between two looks at whether the one that is waited for lives.
inline constexpr std::uint64_t kWaitSliceMs = 10;

// Returns when woken, at once when `word` is not `expected`, after `ms`, or for no reason.
// Shared between processes, so without FUTEX_PRIVATE_FLAG.
inline void futex_wait(const void* word, std::uint32_t expected, std::uint64_t ms) noexcept {
  const timespec timeout{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000) * 1'000'000};
  syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

inline void futex_wake(const void* word, int most = INT_MAX) noexcept {
  syscall(SYS_futex, word, FUTEX_WAKE, most, nullptr, nullptr, 0);
}

}  // namespace larder::shm
