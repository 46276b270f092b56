#include "shm/layout.h"

#include <doctest/doctest.h>

#include <cstdint>
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

TEST_CASE("a slot keeps tag and granule apart, and an empty one matches no key") {
  for (const std::uint64_t hash :
       {std::uint64_t{0}, std::uint64_t{0xabcde0123456789f}, UINT64_MAX}) {
    for (const std::uint32_t granule : {0u, 1u, 0x12345u, kArenaMaxGranules - 1}) {
      const std::uint32_t slot = make_slot(hash, granule);
      CHECK(slot != 0);
      CHECK(slot_granule(slot) == granule);
      CHECK(slot_matches(slot, hash));
      CHECK(slot_matches(slot, hash ^ 1));  // same tag
      CHECK_FALSE(slot_matches(slot, hash ^ 1ull << 63));
    }
  }
  CHECK_FALSE(slot_matches(0, 0));
  CHECK(slot_granule(0) >= kArenaMaxGranules);  // outside of every arena
}

TEST_CASE(
    "a pin keeps stripe and granule apart, and is not the word of one that was only claimed") {
  for (const std::uint32_t stripe : {0u, 1u, (1u << 20)}) {
    for (const std::uint32_t granule : {0u, 7u, kArenaMaxGranules - 1}) {
      const std::uint64_t pin = make_pin(stripe, granule);
      CHECK(pin != 0);
      CHECK(pin != kClaimedPin);
      CHECK(static_cast<std::uint32_t>(pin) == granule);
      CHECK(make_pin(stripe + 1, granule) != pin);
      CHECK(make_pin(stripe, granule + 1) != pin);
    }
  }
}

TEST_CASE("a lag is packed exactly up to 15 and never comes out shorter than it went in") {
  std::uint64_t before = 0;
  const auto check = [&](std::uint64_t lag) {
    const std::uint64_t unpacked = unpack_lag(pack_lag(lag));
    CAPTURE(lag);
    REQUIRE(unpacked >= lag);  // a base that is too low is safe, one too high is not
    REQUIRE(unpacked >= before);
    if (lag < 16) REQUIRE(unpacked == lag);
    if (unpacked != UINT64_MAX) REQUIRE(unpacked <= lag + lag / 8);
    before = unpacked;
  };
  for (std::uint64_t lag = 0; lag < 5000; ++lag) check(lag);
  for (int bit = 13; bit < 48; ++bit) {
    for (const std::uint64_t lag : {(1ull << bit) - 1, 1ull << bit, (1ull << bit) + 1}) check(lag);
  }
  check(kMaxSeq);
  CHECK(unpack_lag(kUnknownLag) == UINT64_MAX);
}

}  // namespace larder::shm
