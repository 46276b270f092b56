// Tells a forked child from its parent, at the price of one load.
#pragma once

#include <atomic>
#include <cstdint>

namespace larder::shm {

namespace detail {
// The kernel hands a child this page full of zeros.
inline std::atomic<std::uint64_t>* wiped_page = nullptr;
std::uint64_t new_generation() noexcept;
}  // namespace detail

// A number, never 0, that is the same throughout a process and another one in every child that it
// forks, however it forks (the kernel clears the page behind it; no atfork handler is involved).
// Threads: any.
inline std::uint64_t fork_generation() noexcept {
  const std::uint64_t here = detail::wiped_page->load(std::memory_order_acquire);
  return here != 0 ? here : detail::new_generation();
}

// Of nobody yet. Not 0, which is what the page holds in a child that never asked.
inline constexpr std::uint64_t kNoGeneration = UINT64_MAX;

// Is `generation`, which fork_generation() once said, or kNoGeneration, this process's?
inline bool is_here(std::uint64_t generation) noexcept {
  return detail::wiped_page->load(std::memory_order_acquire) == generation;
}

}  // namespace larder::shm
