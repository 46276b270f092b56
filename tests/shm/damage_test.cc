// Bytes that no writer of ours wrote: whatever they are, nobody crashes and nobody hangs. Each
// round runs in a child with a deadline.
#include <doctest/doctest.h>

#include <sys/mman.h>

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
  std::vector<Pinned> pinned;
  for (std::uint64_t i = 0; i < 400; ++i) {
    const std::string key = key_of(random.below(3000));
    switch (random.below(10)) {
      case 0: {
        const std::size_t bytes = random.below(random.one_in(20) ? 1u << 20 : 17'000);
        (void)test::put(table, key, std::string(bytes, 'v'));
        break;
      }
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
      case 5: {
        if (const auto view = table.pin(key)) pinned.push_back(*view);
        if (pinned.size() > 20) {
          unpin(pinned.front());
          pinned.erase(pinned.begin());
        }
        break;
      }
      case 6: {
        std::string values[2];
        const std::string other = key_of(i);
        const std::string_view keys[] = {key, other};
        (void)table.get_batch(keys, [&](std::size_t at) -> std::string& { return values[at]; });
        break;
      }
      default:
        (void)table.get(key, value);
    }
  }
  for (const Pinned& each : pinned) unpin(each);
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
    char& byte = *test::at(segment, from + random.below(to - from));
    byte = static_cast<char>(byte ^ 1 << random.below(8));
  }
}

void set_words(Segment& segment, std::uint64_t from, std::uint64_t to, int how_many,
               Random& random) {
  for (int i = 0; i < how_many; ++i) {
    const std::uint64_t at = (from + random.below(to - from - 8)) & ~7ull;
    const std::uint64_t words[] = {0, UINT64_MAX, random.next() << 16 | random.next(),
                                   random.below(segment.geometry().segment_bytes)};
    std::memcpy(test::at(segment, at), &words[random.below(4)], sizeof(std::uint64_t));
  }
}

}  // namespace

TEST_CASE("bits flipped anywhere before the arenas harm nobody") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    survive(
        [](Segment& segment, Random& random) {
          flip_bits(segment, 0, segment.geometry().arenas_offset, 2000, random);
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
        set_words(s, s.geometry().places_offset, s.geometry().loads_offset, 1000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().loads_offset, s.geometry().journal_offset, 1000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().journal_offset, s.geometry().stripes_offset, 1000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().stripes_offset, s.geometry().guards_offset, 30, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().guards_offset, s.geometry().buckets_offset, 500, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().buckets_offset, s.geometry().sketches_offset, 5000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().sketches_offset, s.geometry().maps_offset, 5000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().maps_offset, s.geometry().arenas_offset, 3000, r);
      },
      [](Segment& s, Random& r) {
        set_words(s, s.geometry().arenas_offset, s.geometry().segment_bytes, 50'000, r);
      },
  };
  std::uint64_t seed = 100;
  for (const Damage part : parts) {
    for (int repeat = 0; repeat < 3; ++repeat) survive(part, seed++);
  }
}

TEST_CASE("a segment of nothing but one value harms nobody") {
  survive([](Segment& s, Random&) { std::memset(test::at(s, 0), 0, s.geometry().segment_bytes); },
          1);
  survive(
      [](Segment& s, Random&) { std::memset(test::at(s, 0), 0xff, s.geometry().segment_bytes); },
      2);
  survive([](Segment& s, Random&) { std::memset(test::at(s, 0), 1, s.geometry().segment_bytes); },
          3);
}

TEST_CASE("a key that claims to reach beyond the segment is not compared to its end") {
  constexpr std::uint32_t kClaimed = 65'000;
  Home home;
  Forked child([&](Steps&) {
    // A gap that the segment just fits, and behind it what must not be read: the kernel fills gaps
    // from above.
    const std::size_t bytes = home.segment()->geometry().segment_bytes;
    char* gap = static_cast<char*>(
        mmap(nullptr, bytes + (1u << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    (void)munmap(gap, bytes);
    auto table = home.table();
    Segment& segment = table->segment();
    const Geometry& g = segment.geometry();
    const char* end = test::at(segment, 0) + bytes;
    if (end != gap + bytes) return 2;
    const std::uint32_t last = g.stripe_count - 1;
    const std::string neighbour = test::keys_of_stripe(segment, last, 1)[0];
    (void)test::put(*table, neighbour, "v");
    std::string key(kClaimed, 'k');
    for (std::uint64_t i = 0; stripe_of(g, segment.hash(key)) != last; ++i) {
      std::memcpy(key.data(), &i, sizeof i);
    }
    // A header at the arena's end whose key begins like the one that is asked for, as far as it is
    // there at all.
    const std::uint32_t granule = g.arena_granules - 5;
    char* start = segment.arena(last) + std::uint64_t{granule} * kGranule;
    const std::uint64_t sizes = std::uint64_t{kClaimed} << 32;
    std::memcpy(start, &sizes, sizeof sizes);
    std::memcpy(start + sizeof(EntryHeader), key.data(),
                static_cast<std::size_t>(end - start) - sizeof(EntryHeader));
    const std::uint64_t hash = segment.hash(key);
    segment.bucket(last, place_of(segment, hash).home).slots[0].store(make_slot(hash, granule));
    std::string value;
    return table->get(key, value) ? 1 : 0;
  });
  CHECK(child.wait() == 0);
}

TEST_CASE("a count of entries that lies costs no entry") {
  Home home;
  auto table = home.table();
  fill(*table, 1000);
  Segment& segment = table->segment();
  for (std::uint32_t i = 0; i < segment.geometry().stripe_count; ++i) {
    segment.stripe(i).entries.store(UINT32_MAX / 2);
  }
  for (std::uint64_t i = 1000; i < 1100; ++i) {
    REQUIRE(test::put(*table, key_of(i), "v") == Stored::kStored);
  }
  CHECK(test::counted(*table, Counter::kEvictions) == 0);
  CHECK(test::faults(segment) == "");
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
  const std::string_view all(test::at(segment, 0), segment.geometry().segment_bytes);
  const std::size_t found = all.find(value);
  REQUIRE(found != std::string_view::npos);
  *test::at(segment, found + 50) ^= 1;
  const CheckReport deep = check(segment, {.deep = true, .quiescent = false});
  REQUIRE(deep.violations.size() == 1);
  CHECK(deep.violations[0].find("checksum differs") != std::string::npos);
  CHECK(check(segment, {.deep = false, .quiescent = true}).clean());
}

namespace {

// The slot of a key in stripe 0.
Atomic<std::uint32_t>& slot_of(Segment& segment, const std::string& key) {
  const std::uint64_t hash = segment.hash(key);
  const KeyPlace place = place_of(segment, hash);
  for (const std::uint32_t b : {place.home, place.other}) {
    for (auto& slot : segment.bucket(0, b).slots) {
      const auto entry = read_entry(segment, 0, slot.load());
      if (slot_matches(slot.load(), hash) && entry && entry->key_is(key)) return slot;
    }
  }
  FAIL("no slot of " << key);
  return segment.bucket(0, 0).slots[0];
}

// Null: the bucket is full.
Atomic<std::uint32_t>* empty_slot_in(Segment& segment, std::uint32_t bucket) {
  for (auto& slot : segment.bucket(0, bucket).slots) {
    if (slot.load() == 0) return &slot;
  }
  return nullptr;
}

// As if the owner had died: an owner word of a place that nobody has.
void orphan(Stripe& stripe) { stripe.lock.store(make_owner(40, 7)); }

}  // namespace

TEST_CASE("repair drops what cannot be trusted and keeps the rest") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const Geometry& g = segment.geometry();
  const auto keys = test::keys_of_stripe(segment, 0, 200);
  for (const std::string& key : keys) {
    REQUIRE(test::put(*table, key, test::make_value(key, 1, 200)) == Stored::kStored);
  }
  Stripe& stripe = segment.stripe(0);
  constexpr std::size_t kDropped = 3;
  // A byte changed, a slot that leads nowhere, one that leads into the middle of an entry.
  char* first = segment.arena(0) + slot_granule(slot_of(segment, keys[0]).load()) * kGranule;
  first[sizeof(EntryHeader) + keys[0].size() + 30] ^= 1;
  auto& nowhere = slot_of(segment, keys[1]);
  nowhere.store(nowhere.load() | kGranuleMask);
  auto& middle = slot_of(segment, keys[2]);
  middle.store(middle.load() + 1);
  // A second slot of a key in its own buckets, and one in a bucket where it has no business: the
  // keys stay, once.
  bool twice = false;
  bool astray = false;
  for (std::size_t i = kDropped; i + 1 < keys.size(); ++i) {
    const KeyPlace place = place_of(segment, segment.hash(keys[i]));
    const std::uint32_t word = slot_of(segment, keys[i]).load();
    const std::uint32_t strange = place.home == 0 || place.other == 0 ? 1 : 0;
    const bool strange_is_not_its = place.home != strange && place.other != strange;
    if (auto* empty = empty_slot_in(segment, place.other); empty != nullptr && !twice) {
      twice = true;
      empty->store(word);
    } else if (empty = empty_slot_in(segment, strange); empty != nullptr && strange_is_not_its) {
      astray = true;
      empty->store(word);
    }
    if (twice && astray) break;
  }
  REQUIRE((twice && astray));
  CHECK_FALSE(check(segment, {.deep = true, .quiescent = false}).clean());
  // Derived words may hold anything.
  Random random(1);
  for (std::uint64_t i = 0; i < g.map_words_per_stripe(); ++i) {
    segment.map(0)[i].store(random.next() << 32 | random.next());
  }
  stripe.entries.store(77);
  stripe.live_granules.store(UINT64_MAX);
  stripe.payload_bytes.store(UINT64_MAX);
  stripe.next_granule.store(12345);
  for (auto& hole : stripe.holes) hole.store(static_cast<std::uint32_t>(random.next()));
  stripe.fit_bound.store(0);
  stripe.quarantined.store(5);
  stripe.quarantine[3].store(UINT64_MAX);
  orphan(stripe);

  CHECK(table->drop(keys.back()) == Stored::kStored);
  CHECK(test::counted(*table, Counter::kTakeovers) == 1);
  CHECK(test::faults(segment) == "");
  for (std::size_t i = 0; i < kDropped; ++i) CHECK_FALSE(test::read(*table, keys[i]).has_value());
  for (std::size_t i = kDropped; i + 1 < keys.size(); ++i) {
    const auto value = test::read(*table, keys[i]);
    REQUIRE(value.has_value());
    CHECK(test::number_of(keys[i], *value) == 1);
  }
  CHECK(totals(segment).entries == keys.size() - kDropped - 1);
  // What was dropped is room again.
  for (const std::string& key : keys) {
    REQUIRE(test::put(*table, key, test::make_value(key, 2, 200)) == Stored::kStored);
  }
  CHECK(totals(segment).entries == keys.size());
  CHECK(test::faults(segment) == "");
}

TEST_CASE("repair empties what stands beyond the index in use") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const std::string key = test::keys_of_stripe(segment, 0, 1)[0];
  REQUIRE(test::put(*table, key, "v") == Stored::kStored);
  auto& beyond = segment.bucket(0, segment.geometry().buckets_per_stripe - 1).slots[2];
  beyond.store(slot_of(segment, key).load());
  CHECK_FALSE(check(segment, {.deep = false, .quiescent = false}).clean());
  orphan(segment.stripe(0));
  CHECK(table->drop(key) == Stored::kStored);
  CHECK(beyond.load() == 0);
  CHECK(test::faults(segment) == "");
}

TEST_CASE("with verify_checksums a read of a changed byte is a miss that drops the entry") {
  Home home;
  auto plain = home.table();
  Table verified(home.segment(), TableOptions{.verify_checksums = true});
  Segment& segment = plain->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 8);
  const auto value_of = [](const std::string& key) { return test::make_value(key, 1, 500); };
  const auto damage = [&](const std::string& key) {
    REQUIRE(test::put(*plain, key, value_of(key)) == Stored::kStored);
    const auto entry = read_entry(segment, 0, slot_of(segment, key).load());
    const_cast<char*>(entry->value())[100] ^= 1;
  };
  for (const std::string& key : keys) {
    REQUIRE(test::put(*plain, key, value_of(key)) == Stored::kStored);
    CHECK(test::read(verified, key) == value_of(key));
  }
  std::string value;

  damage(keys[0]);
  CHECK(plain->get(keys[0], value));
  CHECK_FALSE(verified.get(keys[0], value));
  CHECK_FALSE(plain->get(keys[0], value));
  CHECK(test::counted(verified, Counter::kCorrupt) == 1);

  damage(keys[1]);
  const std::string_view asked[] = {keys[2], keys[1], keys[3]};
  std::string values[3];
  CHECK(verified.get_batch(asked, [&](std::size_t i) -> std::string& { return values[i]; }) == 5);
  CHECK(values[2] == value_of(keys[3]));
  CHECK_FALSE(plain->get(keys[1], value));

  damage(keys[4]);
  const auto pinned = verified.pin(keys[4]);
  REQUIRE(pinned.ok());
  CHECK(pinned->word == nullptr);
  CHECK_FALSE(plain->get(keys[4], value));
  CHECK(test::counted(verified, Counter::kCorrupt) == 3);

  // The length too may be what was changed: nothing of its neighbours goes with the entry.
  const auto entry = read_entry(segment, 0, slot_of(segment, keys[5]).load());
  auto* sizes = reinterpret_cast<std::uint64_t*>(const_cast<char*>(entry->start));
  *sizes += 3000;
  CHECK_FALSE(verified.get(keys[5], value));
  CHECK(test::faults(segment) == "");
  for (const std::size_t i : {2, 3, 6, 7})
    CHECK(test::read(verified, keys[i]) == value_of(keys[i]));
  CHECK(test::counted(verified, Counter::kCorrupt) == 4);
}

TEST_CASE("an entry that cannot be dropped now is dropped by a later reader") {
  Home home;
  auto table = home.table();
  Table verified(home.segment(), TableOptions{.verify_checksums = true});
  Segment& segment = table->segment();
  const std::string key = test::keys_of_stripe(segment, 0, 1)[0];
  REQUIRE(test::put(*table, key, test::make_value(key, 1, 500)) == Stored::kStored);
  const auto entry = read_entry(segment, 0, slot_of(segment, key).load());
  const_cast<char*>(entry->value())[100] ^= 1;
  std::string value;
  const auto self = table->processes().self();
  REQUIRE(self.ok());
  segment.stripe(0).lock.store(*self);  // alive, and not letting go
  CHECK_FALSE(verified.get(key, value));
  CHECK(table->get(key, value));
  segment.stripe(0).lock.store(0);
  CHECK_FALSE(verified.get(key, value));
  CHECK_FALSE(table->get(key, value));
  CHECK(test::counted(verified, Counter::kCorrupt) == 2);
}

TEST_CASE("repair keeps one of two entries that overlap, and never a mixture") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 2);
  for (const std::string& key : keys) {
    REQUIRE(test::put(*table, key, test::make_value(key, 1, 2000)) == Stored::kStored);
  }
  // The second entry, whole and with a sound checksum, moved into the first one's value.
  const auto entry = read_entry(segment, 0, slot_of(segment, keys[1]).load());
  REQUIRE(entry.has_value());
  auto& second = slot_of(segment, keys[1]);
  const std::uint32_t into = slot_granule(slot_of(segment, keys[0]).load()) + 20;
  std::memmove(segment.arena(0) + into * kGranule, entry->start, entry->run.granules * kGranule);
  second.store(make_slot(segment.hash(keys[1]), into));
  CHECK_FALSE(check(segment, {.deep = false, .quiescent = true}).clean());
  orphan(segment.stripe(0));
  CHECK(table->drop(test::keys_of_stripe(segment, 0, 3)[2]) == Stored::kStored);
  CHECK(test::faults(segment) == "");
  CHECK_FALSE(test::read(*table, keys[0]).has_value());  // its bytes were changed
  CHECK(test::number_of(keys[1], test::read(*table, keys[1]).value_or("")) == 1);
}

TEST_CASE("a map that knows nothing of what is held harms no value once it was noticed") {
  // The map says that everything is free: new entries are put over old ones. Readers must never
  // see a mixture as long as the checksums of repair tell, and nobody may crash meanwhile.
  Home home(kSegmentMinBytes);
  auto table = home.table();
  Segment& segment = table->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 500);
  for (const std::string& key : keys) {
    REQUIRE(test::put(*table, key, test::make_value(key, 1, 600)) == Stored::kStored);
  }
  for (std::uint64_t i = 0; i < segment.geometry().map_words_per_stripe(); ++i) {
    segment.map(0)[i].store(0);
  }
  for (std::size_t i = 0; i < 50; ++i) {
    (void)test::put(*table, keys[i], test::make_value(keys[i], 2, 900));
  }
  CHECK_FALSE(check(segment, {.deep = true, .quiescent = true}).clean());
  orphan(segment.stripe(0));
  CHECK(table->drop(keys[0]) == Stored::kStored);
  CHECK(test::faults(segment) == "");
  for (const std::string& key : keys) {
    if (const auto value = test::read(*table, key)) CHECK(test::number_of(key, *value).has_value());
  }
}

}  // namespace larder::shm
