#include "shm/geometry.h"

#include <algorithm>
#include <bit>
#include <string>

#include "shm/policy.h"

namespace larder::shm {
namespace {

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

// The offsets follow from the counts.
Geometry place_parts(Geometry g) {
  const auto after = [&g](std::uint64_t offset, std::uint64_t each, std::uint64_t bytes) {
    return round_up(offset + g.stripe_count * each * bytes, kCacheLine);
  };
  g.places_offset = round_up(sizeof(Superblock), kCacheLine);
  g.loads_offset = g.places_offset + std::uint64_t{g.place_count} * sizeof(Place);
  g.journal_offset = round_up(g.loads_offset + std::uint64_t{g.load_count} * 8, kCacheLine);
  g.stripes_offset = g.journal_offset + std::uint64_t{g.note_count} * sizeof(Note);
  g.guards_offset = after(g.stripes_offset, 1, sizeof(Stripe));
  g.buckets_offset = after(g.guards_offset, g.guards_per_stripe, sizeof(Guard));
  g.sketches_offset = after(g.buckets_offset, g.buckets_per_stripe, sizeof(Bucket));
  g.maps_offset = after(g.sketches_offset, g.sketch_per_stripe, 8);
  g.arenas_offset = after(g.maps_offset, g.map_words_per_stripe(), 8);
  return g;
}

// Few and large: a value of 8 MiB fits from 64 MiB on, large and small values even out, and a
// stripe holds enough entries to choose victims among. But at least some, so that writers seldom
// meet.
std::uint32_t stripes_for(std::uint64_t bytes, std::uint64_t max_entries) {
  constexpr std::uint64_t kMiB = 1 << 20;
  constexpr std::uint64_t kLeastEntries = 256;
  std::uint64_t stripes = std::max(
      {std::min<std::uint64_t>(bytes / (2 * kMiB), 4), bytes / (16 * kMiB), std::uint64_t{1}});
  if (max_entries != 0) {
    stripes = std::min(stripes, std::max<std::uint64_t>(max_entries / kLeastEntries, 1));
    stripes = std::max(stripes, std::bit_ceil(bytes / (32 * kMiB) + 1));  // what slots can address
  }
  return static_cast<std::uint32_t>(std::bit_floor(stripes));
}

constexpr std::uint32_t kLeastBuckets = 8;  // in use, of a stripe

// Enough for entries of 150 bytes and more; with a bound on entries, for that many.
std::uint32_t buckets_for(std::uint64_t bytes, std::uint64_t max_entries, std::uint32_t stripes) {
  constexpr std::uint64_t kIndexShare = 29;     // of the segment
  constexpr std::uint64_t kMostIndexShare = 5;  // of it, however many entries are asked for
  constexpr std::uint64_t kSlotsInUse = 85;     // percent
  std::uint64_t buckets = bytes / kIndexShare / stripes / sizeof(Bucket);
  if (max_entries != 0) {
    const std::uint64_t most = std::min(max_entries, bytes);  // an entry has more than one byte
    buckets = std::min(most / stripes * 100 / kSlotsInUse / kSlotsPerBucket + 1,
                       bytes / kMostIndexShare / stripes / sizeof(Bucket));
  }
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(buckets, kLeastBuckets));
}

}  // namespace

Result<Geometry> plan_geometry(std::uint64_t bytes, std::uint64_t max_entries) {
  if (bytes < kSegmentMinBytes || bytes > kSegmentMaxBytes) {
    return {Code::kInvalidArgument, "a segment of " + std::to_string(bytes) +
                                        " bytes is out of bounds; 512 KiB to 16 TiB are possible"};
  }
  Geometry g{};
  g.segment_bytes = bytes;
  g.max_entries = max_entries;
  g.place_count = bytes < (4u << 20)
                      ? 16
                      : static_cast<std::uint32_t>(std::clamp<std::uint64_t>(bytes >> 17, 64, 512));
  // A thousandth of the segment; two loads at a time meet by chance at one word in so many.
  g.load_count =
      static_cast<std::uint32_t>(std::bit_floor(std::clamp<std::uint64_t>(bytes >> 13, 64, 8192)));
  // At most a sixtieth of the segment; of a usual one a two-hundredth.
  g.note_count =
      static_cast<std::uint32_t>(std::bit_floor(std::clamp<std::uint64_t>(bytes >> 14, 64, 2048)));
  g.stripe_count = stripes_for(bytes, max_entries);
  g.buckets_per_stripe = buckets_for(bytes, max_entries, g.stripe_count);
  while (g.buckets_per_stripe >> (g.index_halvings + 1) >= kLeastBuckets) ++g.index_halvings;
  const std::uint32_t step = 1u << g.index_halvings;
  g.buckets_per_stripe = (g.buckets_per_stripe + step - 1) & ~(step - 1);
  g.guards_per_stripe = std::max(16u, std::bit_floor(g.buckets_per_stripe / 8));
  g.sketch_per_stripe = policy_sketch_words(g.buckets_per_stripe);
  const std::uint64_t before = place_parts(g).maps_offset;
  if (before + 64 * kCacheLine * std::uint64_t{g.stripe_count} >= bytes) {
    return {Code::kInvalidArgument, "a segment of " + std::to_string(bytes) +
                                        " bytes has no room for " + std::to_string(max_entries) +
                                        " entries; make segment_bytes larger"};
  }
  // Of what is left a granule takes its 8 bytes, one bit of the map and its part of a summary.
  const std::uint64_t room = (bytes - before) / g.stripe_count;
  const std::uint64_t fixed = kBlockGranules / 8 + 8 + 2 * kCacheLine;  // a last, cut block's map
  constexpr std::uint64_t kPerBlock = kBlockBytes + kBlockGranules / 8 + 8;
  const std::uint64_t granules = (room - std::min(room, fixed)) * kBlockGranules / kPerBlock;
  g.arena_granules =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(granules, kArenaMaxGranules) & ~1ull);
  return place_parts(g);
}

}  // namespace larder::shm
