// Tells a forked child from its parent, at the price of one load.
#pragma once

#include <atomic>
#include <cstdint>

namespace larder::shm {

namespace detail {
extern std::atomic<std::uint64_t>* wiped_page;  // the kernel hands a child this page full of zeros
std::uint64_t new_generation() noexcept;
}  // namespace detail

// A number, never 0, that is the same throughout a process and another one in every child that it
// forks, however it forks (the kernel clears the page behind it; no atfork handler is involved).
// Threads: any.
inline std::uint64_t fork_generation() noexcept {
  const std::uint64_t here = detail::wiped_page->load(std::memory_order_acquire);
  return here != 0 ? here : detail::new_generation();
}

}  // namespace larder::shm
