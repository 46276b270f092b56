// What a cache's hit ratio is compared with, computed rather than measured: exact
// least-recently-used, and the best that any policy could have done.
//
// A request is "get; on a miss, put"; the cache starts cold.
//
// Pure functions. `requests` are numbers below `unique`, as in a Trace.
#pragma once

#include <cstdint>
#include <span>

namespace larder::bench {

// Hits of a cache of `entries` (at least 1) that drops what was used longest ago.
std::uint64_t exact_lru_hits(std::span<const std::uint32_t> requests, std::uint32_t unique,
                             std::uint64_t entries);

// The same where number i takes sizes[i] of `bytes`. What is larger than all of it is not kept.
std::uint64_t exact_byte_lru_hits(std::span<const std::uint32_t> requests,
                                  std::span<const std::uint32_t> sizes, std::uint64_t bytes);

// The most hits that any policy can have with `entries` (at least 1), which may also leave out what
// it just fetched: keep what is asked for again soonest (L. A. Belady, 1966). Only for entries that
// are alike: with sizes the optimum is NP-hard, and no bound is computed here.
std::uint64_t optimum_hits(std::span<const std::uint32_t> requests, std::uint32_t unique,
                           std::uint64_t entries);

}  // namespace larder::bench
