// Holders that stop, die and come back: the stripe lock, take-over, repair, wipe and bypass, with
// real processes.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "shm/clock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/shm/holder.h"
#include "tests/shm/store_counter.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::counted;
using test::Forked;
using test::Home;
using test::put;
using test::read;
using test::Steps;
using test::stopped_holder;
#if defined(__x86_64__)
using test::StoreCounter;
#endif

constexpr std::uint32_t kStripe = 0;

ChangeId id(std::uint64_t seq) { return {seq, seq + 1'000'000}; }

std::vector<std::string> some_keys(Table& table, std::size_t how_many) {
  return test::keys_of_stripe(table.segment(), kStripe, how_many);
}

}  // namespace

// ---- stopped ----------------------------------------------------------------------------------

TEST_CASE("a stopped holder is not robbed: readers read on, writers give up within their time") {
  Home home;
  auto table = home.table(std::chrono::milliseconds(60));
  const auto keys = some_keys(*table, 3);
  for (const std::string& key : keys) REQUIRE(put(*table, key, "v") == Stored::kStored);
  auto holder = stopped_holder(home, kStripe);
  for (const std::string& key : keys) CHECK(read(*table, key) == "v");
  const std::uint64_t begun = now_ms();
  CHECK(table->fill({keys[0], "w"}, table->sample(keys[0]), {}) == Stored::kBusy);
  const std::uint64_t waited = now_ms() - begun;
  CHECK(waited >= 60);
  CHECK(waited < 1000);
  for (const std::string& key : keys) CHECK(read(*table, key) == "v");  // a fill raises no bypass
  CHECK(table->reap() == 0);
  CHECK(counted(*table, Counter::kTakeovers) == 0);
  // Other stripes do not mind.
  const auto elsewhere = test::keys_of_stripe(table->segment(), kStripe + 1, 1)[0];
  CHECK(put(*table, elsewhere, "v") == Stored::kStored);
  holder.signal(SIGCONT);
  REQUIRE(holder.await_step());
  CHECK(put(*table, keys[0], "w") == Stored::kStored);
  CHECK(read(*table, keys[1]) == "v");
  holder.go_on();
  CHECK(holder.wait() == 0);
}

TEST_CASE("a writer that waits gets the lock as soon as a stopped holder goes on") {
  Home home;
  auto table = home.table(std::chrono::seconds(20));
  const auto key = some_keys(*table, 1)[0];
  auto holder = stopped_holder(home, kStripe);
  Stored stored = Stored::kBusy;
  std::thread writer([&] { stored = put(*table, key, "v"); });
  // It sleeps behind the holder once it has marked the word.
  CHECK(
      test::await([&] { return (table->segment().stripe(kStripe).lock.load() & kWaiters) != 0; }));
  holder.signal(SIGCONT);
  writer.join();
  CHECK(stored == Stored::kStored);
  CHECK(counted(*table, Counter::kTakeovers) == 0);
  CHECK(read(*table, key) == "v");
}

TEST_CASE("a writer that waits takes over when the holder is killed") {
  Home home;
  auto table = home.table(std::chrono::seconds(20));
  const auto key = some_keys(*table, 1)[0];
  auto holder = stopped_holder(home, kStripe);
  Stored stored = Stored::kBusy;
  std::thread writer([&] { stored = table->set({key, "v"}, table->sample(key), id(1)); });
  CHECK(
      test::await([&] { return (table->segment().stripe(kStripe).lock.load() & kWaiters) != 0; }));
  holder.signal(SIGKILL);
  writer.join();
  CHECK(stored == Stored::kRefused);  // repair raised the guards' counts: sampled before
  CHECK(table->set({key, "v"}, table->sample(key), id(2)) == Stored::kStored);
  CHECK(counted(*table, Counter::kTakeovers) == 1);
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("a leader that was stopped and replaced comes back to find every stripe sealed") {
  Home home;
  auto table = home.table();
  const auto key = some_keys(*table, 1)[0];
  Forked old_leader([&](Steps& steps) {
    auto its = home.table();
    const std::uint64_t term = *its->begin_term();
    CHILD_REQUIRE(its->apply({Change::Kind::kSet, {key, "first"}, id(5)}, term) ==
                  Applied::kApplied);
    steps.stop();
    CHILD_REQUIRE(!its->term_is_current(term));
    CHILD_REQUIRE(its->apply({Change::Kind::kSet, {key, "stale"}, id(7)}, term) ==
                  Applied::kStaleTerm);
    return 0;
  });
  REQUIRE(old_leader.await_stopped());
  CHECK(read(*table, key) == "first");
  const auto term = table->begin_term();
  REQUIRE(term.ok());
  CHECK(table->apply({Change::Kind::kSet, {key, "second"}, id(6)}, *term) == Applied::kApplied);
  old_leader.signal(SIGCONT);
  CHECK(old_leader.wait() == 0);
  CHECK(read(*table, key) == "second");
}

// ---- killed -----------------------------------------------------------------------------------

TEST_CASE("the next writer takes over from a killed holder, and the stripe is sound") {
  Home home;
  auto table = home.table();
  const auto keys = some_keys(*table, 50);
  for (const std::string& key : keys) REQUIRE(put(*table, key, "v") == Stored::kStored);
  auto holder = stopped_holder(home, kStripe);
  holder.kill_now();
  CHECK(read(*table, keys[0]) == "v");  // readers never cared
  CHECK(table->fill({keys[1], "w"}, table->sample(keys[1]), {}) == Stored::kRefused);
  CHECK(counted(*table, Counter::kTakeovers) == 1);
  CHECK(counted(*table, Counter::kWipes) == 0);
  CHECK(read(*table, keys[0]) == "v");
  CHECK(put(*table, keys[1], "w") == Stored::kStored);
  CHECK(test::faults(table->segment()).empty());
  CHECK(table->reap() == 1);
}

TEST_CASE("without Redis, the write that takes over from the dead is itself kept") {
  Home home;
  auto table = home.table();
  const auto key = some_keys(*table, 1)[0];
  auto holder = stopped_holder(home, kStripe);
  holder.kill_now();
  CHECK(table->set({key, "v"}, table->sample(key), {}) == Stored::kStored);
  CHECK(counted(*table, Counter::kTakeovers) == 1);
  CHECK(read(*table, key) == "v");
}

TEST_CASE("a killed holder that is still a zombie is taken over from too") {
  Home home;
  auto table = home.table();
  const auto key = some_keys(*table, 1)[0];
  auto holder = stopped_holder(home, kStripe);
  holder.signal(SIGKILL);
  REQUIRE(holder.await_zombie());
  CHECK(table->drop(key) == Stored::kStored);
  CHECK(counted(*table, Counter::kTakeovers) == 1);
}

TEST_CASE("many writers behind a killed holder: one takes over, all go on") {
  Home home;
  auto table = home.table(std::chrono::seconds(20));
  const auto keys = some_keys(*table, 8);
  auto holder = stopped_holder(home, kStripe);
  std::vector<Forked> writers;
  for (const std::string& key : keys) {
    writers.emplace_back([&](Steps& steps) {
      auto its = home.table(std::chrono::seconds(20));
      steps.reached();
      CHILD_REQUIRE(its->drop(key) == Stored::kStored);
      CHILD_REQUIRE(put(*its, key, "v") == Stored::kStored);
      its.reset();
      return 0;
    });
  }
  std::thread threads[2];
  for (std::thread& thread : threads) {
    thread = std::thread([&] { CHECK(table->drop(keys[0]) == Stored::kStored); });
  }
  for (Forked& writer : writers) REQUIRE(writer.await_step());
  holder.signal(SIGKILL);
  for (Forked& writer : writers) CHECK(writer.wait() == 0);
  for (std::thread& thread : threads) thread.join();
  CHECK(counted(*table, Counter::kTakeovers) == 1);
  CHECK(counted(*table, Counter::kLocksLost) == 0);
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("two threads of one process do not both take over") {
  for (int round = 0; round < 10; ++round) {
    Home home;
    auto table = home.table(std::chrono::seconds(20));
    auto second = home.table(std::chrono::seconds(20));
    const auto keys = some_keys(*table, 4);
    auto holder = stopped_holder(home, kStripe);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < keys.size(); ++t) {
      threads.emplace_back([&, t] {
        Table& mine = t % 2 == 0 ? *table : *second;
        for (int i = 0; i < 50; ++i) (void)put(mine, keys[t], test::make_value(keys[t], 1, 500));
      });
    }
    holder.signal(SIGKILL);
    for (std::thread& thread : threads) thread.join();
    CHECK(counted(*table, Counter::kTakeovers) == 1);
    CHECK(counted(*table, Counter::kLocksLost) == 0);
    CHECK(test::faults(table->segment()).empty());
  }
}

// ---- killed at a certain point ----------------------------------------------------------------

namespace {

// Part of a segment that a child makes read-only: it dies at its first write there, inside the
// lock.
enum class Part { kGuards, kBuckets, kMaps, kArenas };

// Four stripes, of which the one that the tests use lies in the middle: what shares a memory page
// with the first or last bytes of a part belongs to others.
constexpr std::uint64_t kFourStripesBytes = 16u << 20;
constexpr std::uint32_t kMiddle = 2;

void protect(Segment& segment, Part part) {
  const Geometry& g = segment.geometry();
  const auto bounds = [&]() -> std::pair<std::uint64_t, std::uint64_t> {
    switch (part) {
      case Part::kGuards:
        return {g.guards_offset, g.buckets_offset};
      case Part::kBuckets:
        return {g.buckets_offset, g.sketches_offset};
      case Part::kMaps:
        return {g.maps_offset, g.arenas_offset};
      case Part::kArenas:
        return {g.arenas_offset, g.segment_bytes};
    }
    return {};
  }();
  constexpr std::uint64_t kPage = 4096;
  // Whole memory pages; not the one that the stripes' locks are in.
  const std::uint64_t before = part == Part::kGuards ? kPage - 1 : 0;
  const std::uint64_t from = (bounds.first + before) / kPage * kPage;
  const std::uint64_t to = bounds.second / kPage * kPage;
  CHILD_REQUIRE(mprotect(test::at(segment, from), to - from, PROT_READ) == 0);
}

std::vector<std::string> protected_keys(Table& table, std::size_t how_many) {
  REQUIRE(table.segment().geometry().stripe_count == 4);
  return test::keys_of_stripe(table.segment(), kMiddle, how_many);
}

// A child that dies when it first writes to `part` within `work`.
template <class Work>
void die_at(const Home& home, Part part, Work work) {
  Forked child([&](Steps&) {
    auto table = home.table();
    (void)table->processes().self();
    signal(SIGSEGV, SIG_DFL);
    protect(table->segment(), part);
    work(*table);
    return 0;
  });
  CHECK(child.wait() == 128 + SIGSEGV);
}

}  // namespace

TEST_CASE("a writer that dies at its first write to any part leaves what repair can mend") {
  for (const Part part : {Part::kGuards, Part::kBuckets, Part::kMaps, Part::kArenas}) {
    for (const bool push : {false, true}) {
      CAPTURE(static_cast<int>(part));
      CAPTURE(push);
      Home home(kFourStripesBytes);
      auto table = home.table();
      const auto keys = protected_keys(*table, 60);
      for (const std::string& key : keys) {
        REQUIRE(table->set({key, test::make_value(key, 1, 300)}, table->sample(key), id(1)) ==
                Stored::kStored);
      }
      const std::uint64_t term = *table->begin_term();
      die_at(home, part, [&](Table& its) {
        if (push) {
          (void)its.apply({Change::Kind::kSet, {keys[7], "news"}, id(9)}, term);
        } else {
          (void)its.set({keys[7], test::make_value(keys[7], 2, 300)}, its.sample(keys[7]), id(9));
        }
      });
      CHECK(table->segment().stripe(kMiddle).lock.load() != 0);
      // Readers see the old value: the new one was never published.
      for (const std::string& key : keys) {
        const auto seen = read(*table, key);
        REQUIRE(seen.has_value());
        CHECK(test::number_of(key, *seen) == 1);
      }
      CHECK(table->drop(keys[8]) == Stored::kStored);
      CHECK(counted(*table, Counter::kTakeovers) == 1);
      CHECK(test::faults(table->segment()).empty());
      for (std::size_t i = 0; i < keys.size(); ++i) {
        CHECK(read(*table, keys[i]).has_value() == (i != 8));
      }
      CHECK(table->set({keys[7], "later"}, table->sample(keys[7]), id(10)) == Stored::kStored);
      CHECK(read(*table, keys[7]) == "later");
    }
  }
}

TEST_CASE(
    "the third death in a row wipes the stripe, and a success between starts the count anew") {
  Home home(kFourStripesBytes);
  auto table = home.table();
  const auto keys = protected_keys(*table, 30);
  const auto refill = [&] {
    for (const std::string& key : keys) REQUIRE(put(*table, key, "v") == Stored::kStored);
  };
  const auto die_in_put = [&] {
    die_at(home, Part::kArenas, [&](Table& its) { (void)put(its, keys[0], "new"); });
    // Its sample was taken before its own repair, if it made one; try again until it writes.
  };
  const auto die_in_drop = [&] {
    die_at(home, Part::kBuckets, [&](Table& its) { (void)its.drop(keys[0]); });
  };
  refill();
  SUBCASE("three in a row") {
    die_in_put();
    die_in_drop();
    die_in_drop();
    CHECK(table->segment().stripe(kMiddle).deaths.load() == 2);  // each counted by its successor
    CHECK(counted(*table, Counter::kWipes) == 0);
    CHECK(table->drop(keys[1]) == Stored::kStored);
    CHECK(counted(*table, Counter::kWipes) == 1);
    for (const std::string& key : keys) CHECK_FALSE(read(*table, key).has_value());
    CHECK(table->segment().stripe(kMiddle).deaths.load() == 0);
  }
  SUBCASE("two, a success, two") {
    for (int i = 0; i < 2; ++i) {
      die_in_drop();
      die_in_drop();
      CHECK(table->drop(keys[1]) == Stored::kStored);  // mends
      CHECK(table->drop(keys[1]) == Stored::kStored);  // a whole turn of its own
      CHECK(table->segment().stripe(kMiddle).deaths.load() == 0);
    }
    CHECK(counted(*table, Counter::kWipes) == 0);
    CHECK(read(*table, keys[2]) == "v");
  }
  refill();
  CHECK(read(*table, keys[0]) == "v");
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("a wiper that dies half-way leaves the bypass, and the next wipes again") {
  for (const Part part : {Part::kGuards, Part::kBuckets, Part::kMaps}) {
    CAPTURE(static_cast<int>(part));
    Home home(kFourStripesBytes);
    auto table = home.table();
    const auto keys = protected_keys(*table, 30);
    for (const std::string& key : keys) REQUIRE(put(*table, key, "v") == Stored::kStored);
    table->segment().stripe(kMiddle).bypass.fetch_add(1);
    die_at(home, part, [&](Table& its) { (void)its.drop(keys[0]); });
    for (const std::string& key : keys) CHECK_FALSE(read(*table, key).has_value());
    CHECK(table->segment().stripe(kMiddle).bypass.load() == 1);
    CHECK(table->drop(keys[0]) == Stored::kStored);
    CHECK(table->segment().stripe(kMiddle).bypass.load() == 0);
    for (const std::string& key : keys) CHECK_FALSE(read(*table, key).has_value());
    CHECK(test::faults(table->segment()).empty());
  }
}

TEST_CASE("a reader of a bucket that never stands still misses soon, and waits for nobody") {
  Home home;
  auto table = home.table();
  const auto keys = some_keys(*table, 20);
  for (const std::string& key : keys) REQUIRE(put(*table, key, "v") == Stored::kStored);
  auto holder = stopped_holder(home, kStripe);
  Segment& segment = table->segment();
  const KeyPlace place = place_of(segment, segment.hash(keys[0]));
  const auto stir = [&segment, place] {
    segment.bucket(place.stripe, place.home).version.fetch_add(1, std::memory_order_relaxed);
    segment.bucket(place.stripe, place.other).version.fetch_add(1, std::memory_order_relaxed);
  };
  std::atomic<bool> stop{false};
  std::atomic<bool> begun{false};
  std::thread stirring([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      stir();
      begun.store(true, std::memory_order_relaxed);
    }
  });
  CHECK(test::await([&] { return begun.load(); }));
  const std::uint64_t since = now_ms();
  for (int i = 0; i < 2000; ++i) {
    const auto seen = read(*table, keys[0]);
    if (seen) REQUIRE(*seen == "v");
  }
  CHECK(now_ms() - since < 5000);
  CHECK(counted(*table, Counter::kTakeovers) == 0);
  // When the holder dies, who reads on may be the one that mends the stripe, or not; the value
  // stays either way.
  holder.kill_now();
  for (int i = 0; i < 2000; ++i) {
    const auto seen = read(*table, keys[0]);
    if (seen) REQUIRE(*seen == "v");
  }
  stop.store(true);
  stirring.join();
  CHECK(read(*table, keys[0]) == "v");
  CHECK(table->drop(keys[1]) == Stored::kStored);
  CHECK(counted(*table, Counter::kTakeovers) == 1);
  CHECK(test::faults(table->segment()) == "");
}

#if defined(__x86_64__)

namespace {

// Does the work in a child, which is killed at its n-th store into the segment (0: never). Whether
// it was.
bool killed_within(Table& table, StoreCounter::Shared* shared, std::uint64_t kill_at,
                   const std::function<void(Table&)>& work) {
  shared->at = kill_at;
  shared->signal = SIGKILL;
  Forked child([&](Steps&) {
    (void)table.processes().self();
    StoreCounter::watch(table.segment(), shared);
    work(table);
    StoreCounter::stop();
    table.processes().leave();
    return 0;
  });
  const auto status = child.wait();
  REQUIRE((status == 0 || status == 128 + SIGKILL));
  return status != 0;
}

}  // namespace

TEST_CASE(
    "a writer killed at any of its stores leaves old or new, never a mixture; repair likewise") {
  Home home(kSegmentMinBytes);  // one stripe
  auto table = home.table();
  const auto keys = some_keys(*table, 1500);
  std::uint64_t number = 0;
  // A full stripe, so that whoever puts must evict.
  const auto put_next = [&](Table& its, std::uint64_t which) {
    const std::string& key = keys[which % keys.size()];
    (void)put(its, key, test::make_value(key, which, 100 + which % 700));
  };
  for (; number < 3000; ++number) put_next(*table, number);
  REQUIRE(counted(*table, Counter::kEvictions) > 0);

  StoreCounter::Shared* shared = StoreCounter::share();
  const auto run = [&](std::uint64_t kill_at, const std::function<void(Table&)>& work) {
    return killed_within(*table, shared, kill_at, work);
  };
  const auto verify = [&](const char* when) {
    CAPTURE(when);
    for (const std::string& key : keys) {
      const auto seen = read(*table, key);
      if (!seen) continue;
      const auto which = test::number_of(key, *seen);
      REQUIRE(which.has_value());
      REQUIRE(keys[*which % keys.size()] == key);
    }
  };
  const auto write = [&](Table& its) {
    for (std::uint64_t i = 0; i < 40; ++i) put_next(its, number + i);
    for (std::uint64_t i = 0; i < 5; ++i) (void)its.drop(keys[(number + 11 * i) % keys.size()]);
  };
  const auto mend = [&](Table& its) { (void)its.drop(keys[0]); };

  REQUIRE_FALSE(run(0, write));
  const std::uint64_t stores = shared->stores;
  REQUIRE(stores > 500);
  REQUIRE(test::faults(table->segment()) == "");
  test::Random random(4);
  constexpr std::uint64_t kRounds = 150;
  int kills = 0;
  int kills_while_mending = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    number += 40;
    kills += run(1 + stores * round / kRounds + random.below(stores / kRounds + 1), write);
    const bool inside = table->segment().stripe(kStripe).lock.load() != 0;
    if (inside && round % 2 == 0) {
      kills_while_mending += run(1 + random.below(random.one_in(2) ? 60 : 1500), mend);
    }
    if (round % 5 == 0) verify("before repair");
    mend(*table);
    mend(*table);  // a turn without a death: or the third one wipes
    if (round % 5 == 0) verify("after repair");
    CHECK(table->reap() <= 2);
    REQUIRE(test::faults(table->segment()) == "");
  }
  verify("at the end");
  StoreCounter::unshare(shared);
  CHECK(kills > 100);
  CHECK(kills_while_mending > 10);
  CHECK(counted(*table, Counter::kTakeovers) > 100);
  MESSAGE(kills << " kills over " << stores << " stores, " << kills_while_mending
                << " while mending, " << counted(*table, Counter::kTakeovers) << " take-overs, "
                << counted(*table, Counter::kWipes) << " wipes");
}

namespace {

// What a writer is killed in the midst of.
struct Work {
  const char* name;
  std::uint64_t at_least;                                    // stores
  std::function<void(Table&, std::uint64_t round)> prepare;  // by the parent, who lives
  std::function<void(Table&, std::uint64_t round)> write;    // by the child
};

std::string work_key(std::uint64_t i) { return "work-" + std::to_string(i); }

// Numbers tell how often the epoch had been raised.
void put_some(Table& its, std::uint64_t from, int how_many, std::size_t least, std::size_t spread) {
  for (int i = 0; i < how_many; ++i) {
    const std::string key = work_key((from + static_cast<std::uint64_t>(i)) % 1500);
    const std::uint64_t epoch = its.sample(key).epoch;
    (void)put(its, key, test::make_value(key, epoch, least + (from + 37u * i) % spread));
  }
}

void kill_in(const Work& work, std::uint64_t rounds) {
  CAPTURE(std::string(work.name));
  Home home(kSegmentMinBytes);  // one stripe
  auto table = home.table();
  put_some(*table, 0, 3000, 100, 700);
  StoreCounter::Shared* shared = StoreCounter::share();
  const auto run = [&](std::uint64_t kill_at, const std::function<void(Table&)>& what) {
    return killed_within(*table, shared, kill_at, what);
  };
  // Held by the parent all the while: some values that the children overwrite.
  std::vector<Pinned> views;
  std::vector<std::string> pinned_values;
  const auto repin = [&] {
    for (const Pinned& view : views) unpin(view);
    views.clear();
    pinned_values.clear();
    for (std::uint64_t i = 0; views.size() < 10 && i < 1500; ++i) {
      const auto view = table->pin(work_key(i));
      if (!view || view->word == nullptr) continue;
      views.push_back(*view);
      pinned_values.emplace_back(view->value);
    }
  };
  const auto verify = [&] {
    for (std::size_t i = 0; i < views.size(); ++i) REQUIRE((views[i].value == pinned_values[i]));
    const std::uint64_t epoch = table->sample("k").epoch;
    std::string value;
    for (std::uint64_t i = 0; i < 1500; ++i) {
      const std::string key = work_key(i);
      if (table->get(key, value)) REQUIRE(test::number_of(key, value) == epoch);
    }
  };
  work.prepare(*table, 0);
  REQUIRE_FALSE(run(0, [&](Table& its) { work.write(its, 0); }));
  const std::uint64_t stores = shared->stores;
  REQUIRE(stores >= work.at_least);
  REQUIRE(test::faults(table->segment()) == "");
  test::Random random(rounds);
  std::uint64_t kills = 0;
  for (std::uint64_t round = 1; round <= rounds; ++round) {
    CAPTURE(round);
    work.prepare(*table, round);
    if (round % 4 == 1) repin();
    const std::uint64_t at = 1 + stores * (round - 1) / rounds + random.below(stores / rounds + 1);
    kills += run(at, [&](Table& its) { work.write(its, round); });
    // Whoever checks before somebody mends finds what the dead leave, and that is sound.
    REQUIRE(test::faults(table->segment(), false) == "");
    if (round % 3 == 0 && table->segment().stripe(kStripe).lock.load() != 0) {
      (void)run(1 + random.below(2000), [](Table& its) { (void)its.drop("k"); });
    }
    verify();
    // Two turns of one's own: the first mends, the second ends the count of deaths.
    (void)table->drop("k");
    (void)table->drop("k");
    (void)table->reap();
    REQUIRE(test::faults(table->segment()) == "");
    verify();
  }
  for (const Pinned& view : views) unpin(view);
  for (int i = 0; i < 64; ++i) REQUIRE(put(*table, "k", "v") == Stored::kStored);
  CHECK(totals(table->segment()).pinned_bytes == 0);
  CHECK(test::faults(table->segment()) == "");
  CHECK(kills > rounds / 2);
  MESSAGE(std::string(work.name) << ": " << kills << " kills over " << stores << " stores");
  CHECK(counted(*table, Counter::kLocksLost) == 0);
  StoreCounter::unshare(shared);
}

}  // namespace

TEST_CASE("a writer killed anywhere in an overwrite that has to evict leaves a sound stripe") {
  kill_in({"overwrite", 100, [](Table&, std::uint64_t) {},
           [](Table& its, std::uint64_t round) { put_some(its, round * 11, 15, 500, 900); }},
          80);
}

TEST_CASE("a writer killed anywhere in a compaction leaves a sound stripe, nothing moved is torn") {
  kill_in({"compaction", 300,
           [](Table& table, std::uint64_t round) {
             // Full again, and then half of it in holes.
             put_some(table, round * 501, 700, 100, 300);
             for (std::uint64_t i = 0; i < 1500; i += 2) (void)table.drop(work_key(i + round % 2));
           },
           [](Table& its, std::uint64_t round) { put_some(its, round, 2, 7000, 4000); }},
          40);
}

TEST_CASE("a writer killed anywhere in the sweep after an epoch was raised leaves a sound stripe") {
  kill_in({"sweep", 400,
           [](Table& table, std::uint64_t round) { put_some(table, round * 77, 400, 100, 300); },
           [](Table& its, std::uint64_t round) {
             its.raise_epoch();
             put_some(its, round * 13, 3, 100, 300);
           }},
          60);
}

TEST_CASE(
    "a writer killed anywhere while the index of a stripe grows leaves what can be found whole") {
  kill_in({"growth", 1000,
           [](Table& table, std::uint64_t) {
             table.raise_epoch();
             (void)table.drop("k");  // empty, and so small again
           },
           [](Table& its, std::uint64_t round) { put_some(its, round * 13, 250, 40, 20); }},
          60);
}

TEST_CASE("a writer killed anywhere while it sets pinned values aside leaves them as they are") {
  kill_in({"set aside", 100,
           [](Table& table, std::uint64_t round) { put_some(table, round * 5, 60, 100, 300); },
           [](Table& its, std::uint64_t) {
             // The first keys are the pinned ones.
             for (std::uint64_t i = 0; i < 12; ++i) (void)its.drop(work_key(i));
             put_some(its, 0, 12, 200, 300);
           }},
          80);
}

TEST_CASE("a bypass that is raised at any moment of a wipe is served, by that wipe or by another") {
  Home home;
  auto table = home.table();
  const auto keys = some_keys(*table, 2);
  Stripe& stripe = table->segment().stripe(kStripe);
  Guard& guard = table->segment().guard(kStripe, 0);
  StoreCounter::Shared* shared = StoreCounter::share();
  stripe.bypass.fetch_add(1);
  REQUIRE(table->drop(keys[0]) == Stored::kStored);  // the first wipe has more guards to raise
  // How many stores a wipe is, and then: stopped at each of some of them.
  std::uint64_t stores = 0;
  int stopped = 0;
  for (std::uint64_t at = 0; at <= stores; at += at + 40 < stores ? 1 + stores / 40 : 1) {
    CAPTURE(at);
    stripe.bypass.fetch_add(1);
    shared->at = at;
    shared->signal = SIGSTOP;
    Forked wiper([&](Steps& steps) {
      (void)table->processes().self();
      StoreCounter::watch(table->segment(), shared);
      const bool dropped = table->drop(keys[0]) == Stored::kStored;
      StoreCounter::stop();
      table->processes().leave();
      steps.reached();
      return dropped ? 0 : 1;
    });
    std::uint64_t count = guard.count.load();
    if (at == 0) {
      CHECK(wiper.wait() == 0);
      stores = shared->stores;
      REQUIRE(stores > 100);
      continue;
    }
    if (!wiper.await_stopped()) {  // done before that
      CHECK(wiper.wait() == 0);
      break;
    }
    ++stopped;
    // An invalidation that finds the lock taken. Whoever asked Redis before is not to store.
    count = guard.count.load();
    stripe.bypass.fetch_add(1);
    CHECK_FALSE(read(*table, keys[0]).has_value());
    wiper.signal(SIGCONT);
    CHECK(wiper.wait() == 0);
    CHECK(table->drop(keys[1]) == Stored::kStored);
    CHECK(stripe.bypass.load() == 0);
    CHECK(guard.count.load() > count);
  }
  CHECK(stopped > 20);
  StoreCounter::unshare(shared);
  CHECK(test::faults(table->segment()).empty());
}

#endif

}  // namespace larder::shm
