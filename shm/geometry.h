// Where everything is in a segment: a function of its size and of the bound on its entries.
//
// A segment whose superblock says anything else is refused, so whoever changes plan_geometry()
// raises kLayoutVersion: else programs of before take new segments for damaged ones.
#pragma once

#include <cstdint>

#include "larder/status.h"
#include "shm/layout.h"

namespace larder::shm {

inline constexpr std::uint64_t kSegmentMinBytes = 512ull << 10;
inline constexpr std::uint64_t kSegmentMaxBytes = 16ull << 40;

// kInvalidArgument outside the bounds. `max_entries`: 0 for as many as fit.
Result<Geometry> plan_geometry(std::uint64_t bytes, std::uint64_t max_entries = 0);

}  // namespace larder::shm
