// From a slot to an entry, trusting nothing: every offset is bounds-checked, every header word is
// read once. What comes out may be torn until the bucket's version was found unchanged, but it
// never leads outside the stripe's arena.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "shm/arena.h"
#include "shm/clock.h"
#include "shm/layout.h"
#include "shm/racy_copy.h"
#include "shm/segment.h"

namespace larder::shm {

struct EntryRef {
  Run run;  // within the arena
  const char* start;
  EntryHeader header;

  const char* key() const noexcept { return start + sizeof(EntryHeader); }
  const char* value() const noexcept { return key() + header.key_bytes(); }
  bool key_is(std::string_view wanted) const noexcept {
    return header.key_bytes() == wanted.size() &&
           equals_shared(key(), wanted.data(), wanted.size());
  }
  std::uint64_t payload_bytes() const noexcept {
    return std::uint64_t{header.key_bytes()} + header.value_bytes();
  }
  // An event up to this seq is contained. Rounded down: a base that is too low is safe.
  std::uint64_t base() const noexcept {
    return header.reach_seq() - std::min(header.reach_seq(), unpack_lag(header.lag()));
  }
};

// The entry that begins at a granule; false when that, or what its header says, leaves the arena.
inline bool read_entry_at(const char* arena, std::uint32_t arena_granules, std::uint32_t granule,
                          EntryRef& entry) noexcept {
  constexpr std::uint32_t kHeaderGranules = sizeof(EntryHeader) / kGranule;
  if (granule >= arena_granules || arena_granules - granule < kHeaderGranules) return false;
  entry.start = arena + std::uint64_t{granule} * kGranule;
  entry.header = load_header(entry.start);
  const std::uint64_t granules =
      entry_granules(entry.header.key_bytes(), entry.header.value_bytes());
  if (granules > arena_granules - granule) return false;
  entry.run = {granule, static_cast<std::uint32_t>(granules)};
  return true;
}

inline std::optional<EntryRef> read_entry(Segment& segment, std::uint32_t stripe,
                                          std::uint32_t slot) noexcept {
  EntryRef entry;
  if (!read_entry_at(segment.arena(stripe), segment.geometry().arena_granules, slot_granule(slot),
                     entry)) {
    return std::nullopt;
  }
  return entry;
}

// What a cache may still serve: the current epoch, above the floor, within its life.
inline bool is_current(const EntryHeader& header, std::uint64_t epoch,
                       std::uint64_t floor) noexcept {
  if (header.epoch() != static_cast<std::uint32_t>(epoch)) return false;
  return floor >> 48 != (epoch & 0xffff) || header.reach_seq() >= (floor & kMaxSeq);
}
inline bool is_expired(const EntryHeader& header) noexcept {
  return header.expires_ms() != kNeverExpires && is_past(header.expires_ms());
}

// Where a key lives: a stripe, and two of the `buckets` in use there. The home is filled first, the
// other takes what the home has no slot for. With twice the buckets, what was in bucket b is in 2b
// or 2b + 1.
inline std::uint32_t stripe_of(std::uint32_t mask, std::uint64_t hash) noexcept {
  return static_cast<std::uint32_t>(hash) & mask;
}
inline std::uint32_t stripe_of(const Geometry& g, std::uint64_t hash) noexcept {
  return stripe_of(g.stripe_count - 1, hash);
}
inline std::uint32_t home_bucket(std::uint32_t buckets, std::uint64_t hash) noexcept {
  const auto bits = static_cast<std::uint32_t>(hash >> 16);
  return static_cast<std::uint32_t>(std::uint64_t{bits} * buckets >> 32);
}
inline std::uint32_t other_bucket(std::uint32_t buckets, std::uint64_t hash) noexcept {
  const auto bits = static_cast<std::uint32_t>(hash * 0x9e3779b97f4a7c15ull >> 32);
  return static_cast<std::uint32_t>(std::uint64_t{bits} * buckets >> 32);
}
struct KeyPlace {
  std::uint32_t stripe;
  std::uint32_t home;
  std::uint32_t other;
};
inline KeyPlace place_of(Segment& segment, std::uint64_t hash) noexcept {
  const Geometry& g = segment.geometry();
  const std::uint32_t stripe = stripe_of(g, hash);
  const std::uint32_t buckets =
      buckets_in_use(g, segment.stripe(stripe).index.load(std::memory_order_acquire));
  return {stripe, home_bucket(buckets, hash), other_bucket(buckets, hash)};
}

// Within the key's stripe.
inline std::uint32_t guard_index(const Geometry& g, std::uint64_t hash) noexcept {
  return static_cast<std::uint32_t>(hash * 0x9e3779b97f4a7c15ull >> 24) & (g.guards_per_stripe - 1);
}

}  // namespace larder::shm
