#include "shm/layout.h"

#include <doctest/doctest.h>

#include <fstream>
#include <set>
#include <sstream>

namespace larder::shm {

TEST_CASE("the layout of a segment is the one in layout.golden") {
  std::ifstream file(LAYOUT_GOLDEN);
  REQUIRE_MESSAGE(file.is_open(), "cannot open " LAYOUT_GOLDEN);
  std::ostringstream golden;
  golden << file.rdbuf();
  // A change here changes the signature: segments of the other layout are refused. If that is
  // meant, copy the new text into the file.
  CHECK(layout_text() == golden.str());
}

TEST_CASE("every counter has a name of its own") {
  std::set<std::string> names;
  for (std::size_t i = 0; i < kCounters; ++i) {
    names.insert(counter_name(static_cast<Counter>(i)));
  }
  CHECK(names.size() == kCounters);
}

TEST_CASE("a lock word keeps place and incarnation, and its mark apart from both") {
  for (const std::uint32_t place : {1u, 63u, kMaxPlaces - 1}) {
    for (const std::uint32_t incarnation : {0u, 1u, 77'777u, (1u << kIncarnationBits) - 1}) {
      const std::uint32_t owner = make_owner(place, incarnation);
      CHECK((owner & kWaiters) == 0);
      CHECK(owner_place(owner | kWaiters) == place);
      CHECK(owner_incarnation(owner | kWaiters) == incarnation);
    }
  }
  CHECK(make_owner(5, 1u << kIncarnationBits) == make_owner(5, 0));
}

TEST_CASE("a slot keeps tag and offset apart, and an empty one matches no key") {
  const std::uint64_t hash = 0xabcde0123456789full;
  const std::uint64_t offset = 0x123456788;
  const std::uint64_t slot = make_slot(hash, offset);
  CHECK(slot_offset(slot) == offset);
  CHECK(slot_matches(slot, hash));
  CHECK(slot_matches(slot, hash ^ 1));  // same tag
  CHECK_FALSE(slot_matches(slot, hash ^ 1ull << 63));
  CHECK_FALSE(slot_matches(0, 0));
}

}  // namespace larder::shm
