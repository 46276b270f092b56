// From a slot to an entry, trusting nothing: every offset is bounds-checked, every header word is
// read once. What comes out may be torn until the page's generation was rechecked, but it never
// leads outside the page.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

#include "shm/layout.h"
#include "shm/racy_copy.h"
#include "shm/segment.h"

namespace larder::shm {

struct EntryRef {
  std::uint64_t page;     // index in the whole segment
  std::uint32_t in_page;  // where the entry starts
  std::uint64_t bytes;    // header, key, value and padding; within the page
  const char* start;
  EntryHeader header;

  const char* key() const noexcept { return start + sizeof(EntryHeader); }
  const char* value() const noexcept { return key() + header.key_bytes; }
  bool key_is(std::string_view wanted) const noexcept {
    return header.key_bytes == wanted.size() && equals_shared(key(), wanted.data(), wanted.size());
  }
  std::uint64_t base() const noexcept {
    // Saturated: the true lag may be longer, and only a base that is too low is safe.
    if (header.base_lag == UINT32_MAX) return 0;
    return header.reach_seq - std::min<std::uint64_t>(header.reach_seq, header.base_lag);
  }
};

// The page a slot points into, or nothing for an offset outside the pages.
inline std::optional<std::uint64_t> page_of_slot(const Segment& segment,
                                                 std::uint64_t slot) noexcept {
  const Geometry& g = segment.geometry();
  const std::uint64_t offset = slot_offset(slot);
  if (offset < g.pages_offset) return std::nullopt;
  // A page's size is a power of two, and a division here would cost as much as the rest of a get.
  const std::uint64_t page = (offset - g.pages_offset) >> std::countr_zero(g.page_bytes);
  if (page >= segment.page_count()) return std::nullopt;
  return page;
}

inline std::optional<EntryRef> read_entry(const Segment& segment, std::uint64_t slot) noexcept {
  const auto page = page_of_slot(segment, slot);
  if (!page) return std::nullopt;
  const Geometry& g = segment.geometry();
  EntryRef entry;
  entry.page = *page;
  entry.in_page =
      static_cast<std::uint32_t>((slot_offset(slot) - g.pages_offset) & (g.page_bytes - 1));
  if (entry.in_page + sizeof(EntryHeader) > g.page_bytes) return std::nullopt;
  entry.start = segment.at(slot_offset(slot));
  copy_from_shared(&entry.header, entry.start, sizeof(EntryHeader));
  entry.bytes = entry_bytes(entry.header.key_bytes, entry.header.value_bytes);
  if (entry.bytes > g.page_bytes - entry.in_page) return std::nullopt;
  return entry;
}

// What a cache may still serve: the current epoch, above the floor, within its life.
inline bool is_current(const EntryHeader& header, std::uint64_t epoch,
                       std::uint64_t floor) noexcept {
  if (header.epoch != static_cast<std::uint32_t>(epoch)) return false;
  return floor >> 48 != (epoch & 0xffff) || header.reach_seq >= (floor & kMaxSeq);
}
inline bool is_expired(const EntryHeader& header, std::uint64_t now) noexcept {
  return header.expires_ms != kNeverExpires && header.expires_ms <= now;
}

}  // namespace larder::shm
