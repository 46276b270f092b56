// What eviction policies keep in the segment. All of it is derived: zero is a fresh start, any
// other bit pattern is legal too (policies clamp what they read), so neither a crash nor damage can
// do worse than a few odd evictions.
#pragma once

#include <atomic>
#include <cstdint>

namespace larder::shm {

// One per stripe, read and written under its lock, by inserts and evictions.
struct alignas(64) PolicyWords {
  std::atomic<std::uint32_t> inserts;       // since the last tick
  std::atomic<std::uint32_t> hand;          // bucket where the next search begins
  std::atomic<std::uint32_t> full;          // entries when the stripe is full; 0: not yet so
  std::atomic<std::uint32_t> window;        // entries in the window
  std::atomic<std::uint32_t> window_limit;  // what it may still hold; shrinks step by step
  std::atomic<std::uint32_t> window_seen;   // window entries met since the hand passed bucket 0
  std::atomic<std::uint32_t> unasked;       // inserts since the request totals were last looked at
  std::atomic<std::uint32_t> pending_frequency;  // of an evicted key, for the sketch; 0: none
  std::atomic<std::uint64_t> pending_hash;
};
static_assert(sizeof(PolicyWords) == 64);

// One per segment: the climber that moves the border between window and main part. Written under
// some stripe's lock, now by one stripe, now by another; lost updates are harmless.
struct alignas(64) PolicyShared {
  std::atomic<std::uint64_t> requests;  // totals when the climber last took a step
  std::atomic<std::uint64_t> hits;
  std::atomic<std::uint32_t> window_share;  // of the entries, in 1/65536; 0: the start value
  std::atomic<std::uint32_t> step;          // signed, in 1/65536 of the entries; 0: the first step
  std::atomic<std::uint32_t> hit_ratio;     // of the last sample, in 1/65536
  std::atomic<std::uint32_t> rest;          // samples to wait at the end of the range
  std::atomic<std::uint32_t> rests;         // in a row; each is twice as long as the one before
  std::atomic<std::uint32_t> best_share;    // where the hit ratio was best, and how good it was
  std::atomic<std::uint32_t> best_ratio;
};
static_assert(sizeof(PolicyShared) == 64);

}  // namespace larder::shm
