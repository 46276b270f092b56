// Bytes that no writer of ours wrote: whatever they are, nobody crashes and nobody hangs. Each
// round runs in a child with a deadline.
#include <doctest/doctest.h>

#include <cstring>

#include "shm/entry.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::Forked;
using test::Home;
using test::Random;
using test::Steps;

std::string key_of(std::uint64_t i) { return "damage-" + std::to_string(i); }

void fill(Table& table, std::uint64_t how_many) {
  for (std::uint64_t i = 0; i < how_many; ++i) {
    (void)test::put(table, key_of(i), test::make_value(key_of(i), i, 100 + i % 900));
  }
}

// Everything a process may do to a segment, and an observer beside it.
void use_everything(Home& home, Table& table, Random& random) {
  std::string value;
  for (std::uint64_t i = 0; i < 400; ++i) {
    const std::string key = key_of(random.below(3000));
    switch (random.below(8)) {
      case 0:
        (void)test::put(table, key, test::make_value(key, i, random.below(17'000)));
        break;
      case 1:
        (void)test::erase(table, key);
        break;
      case 2:
        (void)table.fill({key, "filled"}, table.sample(key), {i, i});
        break;
      case 3:
        (void)table.apply({Change::Kind::kSet, {key, "event"}, {i, i}}, i);
        break;
      case 4:
        (void)find_entry(table.segment(), key, value);
        break;
      default:
        (void)table.get(key, value);
    }
  }
  (void)table.reap();
  (void)table.begin_term();
  (void)table.processes().leader_pid();
  (void)check(table.segment(), {.deep = true, .quiescent = true});
  (void)totals(table.segment());
  (void)processes(table.segment());
  (void)leader(table.segment());
  for_each_entry(table.segment(), [](const EntryInfo&) { return true; });
  auto newcomer = Segment::open(home.options);  // refused or not
  if (newcomer) {
    Table other(*newcomer, TableOptions{std::chrono::milliseconds(1)});
    (void)other.join();
    (void)other.get(key_of(1), value);
    (void)test::put(other, key_of(1), "v");
  }
}

// Which bytes, and how they are changed.
using Damage = void (*)(Segment& segment, Random& random);

void survive(Damage damage, std::uint64_t seed) {
  CAPTURE(seed);
  Home home;
  Forked child([&](Steps&) {
    Random random(seed);
    auto table = home.table(std::chrono::milliseconds(1));
    fill(*table, 4000);
    for (int round = 0; round < 4; ++round) {
      damage(table->segment(), random);
      use_everything(home, *table, random);
    }
    return 0;
  });
  CHECK(child.wait() == 0);
}

void flip_bits(Segment& segment, std::uint64_t from, std::uint64_t to, int how_many,
               Random& random) {
  for (int i = 0; i < how_many; ++i) {
    char& byte = *segment.at(from + random.below(to - from));
    byte = static_cast<char>(byte ^ 1 << random.below(8));
  }
}

void set_words(Segment& segment, std::uint64_t from, std::uint64_t to, int how_many,
               Random& random) {
  for (int i = 0; i < how_many; ++i) {
    const std::uint64_t at = (from + random.below(to - from - 8)) & ~7ull;
    const std::uint64_t words[] = {0, UINT64_MAX, random.next() << 16 | random.next(),
                                   random.below(segment.geometry().segment_bytes)};
    std::memcpy(segment.at(at), &words[random.below(4)], sizeof(std::uint64_t));
  }
}

}  // namespace

TEST_CASE("bits flipped anywhere before the pages harm nobody") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    survive(
        [](Segment& segment, Random& random) {
          flip_bits(segment, 0, segment.geometry().pages_offset, 2000, random);
        },
        seed);
  }
}

TEST_CASE("words overwritten anywhere in a segment harm nobody") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    survive(
        [](Segment& segment, Random& random) {
          set_words(segment, 0, segment.geometry().segment_bytes, 5000, random);
        },
        seed);
  }
}

TEST_CASE("each part of a segment may be damaged on its own") {
  const Damage parts[] = {
      [](Segment& s, Random& r) { flip_bits(s, 0, s.geometry().places_offset, 200, r); },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().places_offset, s.geometry().stripes_offset, 200, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().stripes_offset, s.geometry().buckets_offset, 30, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().buckets_offset, s.geometry().guards_offset, 5000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().guards_offset, s.geometry().descriptors_offset, 500, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().descriptors_offset, s.geometry().pages_offset, 300, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().pages_offset, s.geometry().segment_bytes, 50'000, r);
      },
  };
  std::uint64_t seed = 100;
  for (const Damage part : parts) {
    for (int repeat = 0; repeat < 3; ++repeat) survive(part, seed++);
  }
}

TEST_CASE("a segment of nothing but one value harms nobody") {
  survive([](Segment& s, Random&) { std::memset(s.at(0), 0, s.geometry().segment_bytes); }, 1);
  survive([](Segment& s, Random&) { std::memset(s.at(0), 0xff, s.geometry().segment_bytes); }, 2);
  survive([](Segment& s, Random&) { std::memset(s.at(0), 1, s.geometry().segment_bytes); }, 3);
}

TEST_CASE("bytes that change while they are used harm nobody") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    Home home;
    auto table = home.table(std::chrono::milliseconds(1));
    fill(*table, 3000);
    Forked vandal([&](Steps& steps) {
      Random random(seed);
      const Geometry& g = table->segment().geometry();
      steps.reached();
      for (;;) set_words(table->segment(), g.stripes_offset, g.segment_bytes, 100, random);
      return 0;
    });
    Forked victim([&](Steps&) {
      Random random(seed + 10);
      for (int round = 0; round < 5; ++round) use_everything(home, *table, random);
      return 0;
    });
    REQUIRE(vandal.await_step());
    CHECK(victim.wait() == 0);
  }
}

TEST_CASE("a byte that somebody changed is found by a deep check") {
  Home home;
  auto table = home.table();
  fill(*table, 100);
  std::string value;
  REQUIRE(find_entry(table->segment(), key_of(7), value).has_value());
  REQUIRE(test::faults(table->segment()).empty());
  // Some byte of that value.
  Segment& segment = table->segment();
  const std::string_view all(segment.at(0), segment.geometry().segment_bytes);
  const std::size_t at = all.find(value);
  REQUIRE(at != std::string_view::npos);
  *segment.at(at + 50) ^= 1;
  const CheckReport deep = check(segment, {.deep = true, .quiescent = false});
  REQUIRE(deep.violations.size() == 1);
  CHECK(deep.violations[0].find("checksum differs") != std::string::npos);
  CHECK(check(segment, {.deep = false, .quiescent = true}).clean());
}

TEST_CASE("repair drops what cannot be trusted and keeps the rest") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 200);
  for (const std::string& key : keys) {
    REQUIRE(test::put(*table, key, test::make_value(key, 1, 200)) == Stored::kStored);
  }
  Stripe& stripe = segment.stripe(0);
  const auto slot_of = [&](const std::string& key) -> Atomic<std::uint64_t>& {
    const std::uint64_t hash = segment.hash(key);
    const KeyPlace home_of_key = place_of(segment.geometry(), hash);
    for (const std::uint32_t b : {home_of_key.bucket, home_of_key.bucket ^ 1}) {
      for (auto& slot : segment.bucket(0, b).slots) {
        const auto entry = read_entry(segment, slot.load());
        if (slot_matches(slot.load(), hash) && entry && entry->key_is(key)) return slot;
      }
    }
    FAIL("no slot of " << key);
    return segment.bucket(0, 0).slots[0];
  };
  // A byte changed, a slot that leads nowhere, one into another stripe, one beyond what is used.
  segment.at(slot_offset(slot_of(keys[0]).load()))[sizeof(EntryHeader) + keys[0].size() + 30] ^= 1;
  auto& nowhere = slot_of(keys[1]);
  nowhere.store(nowhere.load() | kOffsetMask);
  auto& foreign = slot_of(keys[2]);
  foreign.store((foreign.load() & ~kOffsetMask) |
                segment.page_offset(segment.geometry().pages_per_stripe) / kUnit);
  auto& beyond = slot_of(keys[3]);
  beyond.store(beyond.load() + segment.geometry().page_bytes / kUnit);
  // A page left in the middle of recycling: it is finished.
  const auto page = page_of_slot(segment, slot_of(keys.back()).load());
  std::vector<std::string> in_that_page;
  for (std::size_t i = 4; i < keys.size(); ++i) {
    if (page_of_slot(segment, slot_of(keys[i]).load()) == page) in_that_page.push_back(keys[i]);
  }
  segment.page(*page).generation.fetch_add(1);
  // Derived words may hold anything.
  stripe.entries.store(77);
  stripe.live_bytes.store(UINT64_MAX);
  stripe.open_page.store(12345);
  // As if the owner had died: an owner word of a place that nobody has.
  stripe.lock.store(make_owner(40, 7));

  CHECK(table->drop(keys[4]) == Stored::kStored);
  CHECK(test::counted(*table, Counter::kTakeovers) == 1);
  CHECK(test::faults(segment).empty());
  for (std::size_t i = 0; i < 5; ++i) CHECK_FALSE(test::read(*table, keys[i]).has_value());
  for (const std::string& key : in_that_page) CHECK_FALSE(test::read(*table, key).has_value());
  std::size_t kept = 0;
  for (std::size_t i = 5; i < keys.size(); ++i) {
    const auto value = test::read(*table, keys[i]);
    if (!value) continue;
    ++kept;
    CHECK(test::number_of(keys[i], *value) == 1);
  }
  CHECK(kept >= keys.size() - 5 - in_that_page.size());
  CHECK(in_that_page.size() < 100);
}

}  // namespace larder::shm
