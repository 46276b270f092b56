// Tells a forked child from its parent, at the price of one load.
#pragma once

#include <cstdint>

namespace larder::shm {

// A number, never 0, that is the same throughout a process and another one in every child that it
// forks, however it forks (the kernel clears the page behind it; no atfork handler is involved).
// Threads: any.
std::uint64_t fork_generation() noexcept;

}  // namespace larder::shm
