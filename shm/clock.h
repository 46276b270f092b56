// The clock of every deadline in a segment, and the waits of this layer.
#pragma once

#include <cstdint>

namespace larder::shm {

// Milliseconds since boot, suspended time included (CLOCK_BOOTTIME): never steps back, and means
// the same in every process of a host.
std::uint64_t now_ms() noexcept;

}  // namespace larder::shm
