// Load leases: one process fetches, the others wait, and no death or delay leaves them waiting.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <deque>
#include <thread>

#include "shm/load.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using namespace std::chrono_literals;
using test::counted;
using test::Forked;
using test::Home;
using test::put;
using test::read;
using test::Steps;

constexpr auto kLong = 600'000ms;  // no test sits it out
constexpr auto kPatience = 30'000ms;

Claimed claim(Table& table, std::string_view key, LoadLease& lease,
              std::chrono::milliseconds length = kLong) {
  return table.claim_load(key, length, lease);
}

// What a loader does with what it fetched.
Stored keep(Table& table, std::string_view key, std::string_view value, const LoadLease& lease) {
  return table.fill({key, value}, table.sample(key), {}, lease);
}

std::uint32_t loads(Table& table) { return totals(table.segment()).loads; }

// Another key that shares the claim word of `key`; `same_tag`: and its tag.
std::string neighbour_of(Segment& segment, const std::string& key, bool same_tag) {
  const std::uint64_t hash = segment.hash(key);
  const std::uint64_t mask = segment.geometry().load_count - 1;
  for (int i = 0;; ++i) {
    std::string other = "neighbour-" + std::to_string(i);
    const std::uint64_t its = segment.hash(other);
    const bool tags_agree = its >> (64 - kLoadTagBits) == hash >> (64 - kLoadTagBits);
    if ((its & mask) == (hash & mask) && tags_agree == same_tag) return other;
  }
}

}  // namespace

TEST_CASE("who claims a load first has it; others are told to wait until it ends") {
  Home home;
  auto table = home.table();
  LoadLease mine;
  LoadLease other;
  REQUIRE(claim(*table, "k", mine) == Claimed::kMine);
  CHECK(loads(*table) == 1);
  CHECK(claim(*table, "k", other) == Claimed::kOther);
  CHECK(other.word == nullptr);
  CHECK_FALSE(table->wait_for_load("k", 0ms));
  CHECK_FALSE(table->wait_for_load("k", 30ms));
  CHECK(keep(*table, "k", "loaded", mine) == Stored::kStored);
  CHECK(Loads::end(mine));
  CHECK(mine.word == nullptr);
  CHECK(loads(*table) == 0);
  CHECK(table->wait_for_load("k", 0ms));
  CHECK(read(*table, "k") == "loaded");
  CHECK(claim(*table, "k", other) == Claimed::kMine);
  CHECK(Loads::end(other));
  CHECK(counted(*table, Counter::kLoads) == 2);
  CHECK(counted(*table, Counter::kLoadsTakenOver) == 0);
}

TEST_CASE("a load ends once, and one that was never claimed cannot end") {
  Home home;
  auto table = home.table();
  LoadLease mine;
  CHECK_FALSE(Loads::is_held(mine));
  CHECK_FALSE(Loads::end(mine));
  REQUIRE(claim(*table, "k", mine) == Claimed::kMine);
  LoadLease copy = mine;
  CHECK(Loads::is_held(copy));
  CHECK(Loads::end(mine));
  CHECK_FALSE(Loads::is_held(copy));
  CHECK_FALSE(Loads::end(copy));
  CHECK(keep(*table, "k", "late", copy) == Stored::kRefused);
  CHECK_FALSE(read(*table, "k"));
}

TEST_CASE("a load is taken over when its time is over, and its former holder can do no harm") {
  Home home;
  auto table = home.table();
  LoadLease slow;
  LoadLease next;
  REQUIRE(claim(*table, "k", slow, 1ms) == Claimed::kMine);
  REQUIRE(table->wait_for_load("k", kPatience));
  REQUIRE(claim(*table, "k", next) == Claimed::kMine);
  CHECK_FALSE(Loads::is_held(slow));
  CHECK(keep(*table, "k", "fetched long ago", slow) == Stored::kRefused);
  CHECK_FALSE(read(*table, "k"));
  CHECK(keep(*table, "k", "news", next) == Stored::kStored);
  CHECK(keep(*table, "k", "fetched long ago", slow) == Stored::kRefused);
  CHECK_FALSE(Loads::end(slow));
  CHECK(loads(*table) == 1);  // next's
  CHECK(Loads::end(next));
  CHECK(read(*table, "k") == "news");
  CHECK(counted(*table, Counter::kLoadsTakenOver) == 1);
}

TEST_CASE("of two keys at one word the second is loaded without a lease, unless the tags agree") {
  Home home;
  auto table = home.table();
  const std::string stranger = neighbour_of(table->segment(), "k", false);
  const std::string alike = neighbour_of(table->segment(), "k", true);
  LoadLease mine;
  LoadLease other;
  REQUIRE(claim(*table, "k", mine) == Claimed::kMine);
  CHECK(claim(*table, stranger, other) == Claimed::kNoWord);
  CHECK(table->wait_for_load(stranger, 0ms));
  CHECK(claim(*table, alike, other) == Claimed::kOther);
  CHECK(Loads::end(mine));
  CHECK(claim(*table, stranger, other) == Claimed::kMine);
  CHECK(Loads::end(other));
}

TEST_CASE("a claim that nobody ends is cleared when its time is over, before that comes round") {
  Home home;
  auto table = home.table();
  LoadLease forgotten;
  REQUIRE(claim(*table, "k", forgotten, 1ms) == Claimed::kMine);
  REQUIRE(table->wait_for_load("k", kPatience));
  CHECK(loads(*table) == 1);
  CHECK(table->reap() == 0);
  CHECK(loads(*table) == 0);
  CHECK_FALSE(Loads::is_held(forgotten));
}

TEST_CASE("a lease is no longer than the longest, and its word may hold any bits") {
  Home home;
  auto table = home.table();
  LoadLease mine;
  REQUIRE(claim(*table, "k", mine, std::chrono::milliseconds::max()) == Claimed::kMine);
  Atomic<std::uint64_t>& word = *mine.word;
  LoadLease other;
  CHECK(claim(*table, "k", other) == Claimed::kOther);
  // Further in the future than a lease can be: damage, or left three days ago.
  const std::uint64_t tag = mine.claim >> 56 << 56;
  const auto owner = static_cast<std::uint32_t>(mine.claim);
  for (const std::uint64_t until : {0x400ull, 0x7fffffull, 0x800000ull, 0xc00000ull}) {
    const std::uint64_t units = (mine.claim >> 32) + until + 1;
    word.store(tag | (units & 0xffffff) << 32 | owner);
    REQUIRE(claim(*table, "k", other) == Claimed::kMine);
    REQUIRE(Loads::end(other));
  }
  test::Random random(1);
  for (int i = 0; i < 20'000; ++i) {
    // A claim of ours may look alive; then nothing but its time ends it.
    word.store(random.next() << 10 | owner_place(owner));
    const Claimed claimed = claim(*table, "k", other);
    if (claimed == Claimed::kMine) REQUIRE(Loads::end(other));
    (void)table->wait_for_load("k", 0ms);
  }
  word.store(0);
}

TEST_CASE("64 threads that miss one key fetch it once, and all see what was fetched") {
  Home home;
  auto table = home.table();
  std::atomic<int> fetched{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> all;
  for (int i = 0; i < 64; ++i) {
    all.emplace_back([&] {
      for (;;) {
        if (const auto value = read(*table, "k")) {
          if (*value != "fetched") ++wrong;
          return;
        }
        LoadLease lease;
        if (claim(*table, "k", lease) == Claimed::kMine) {
          // Another's load may have ended between our look and our claim.
          if (!table->contains("k")) {
            ++fetched;
            std::this_thread::sleep_for(20ms);
            if (keep(*table, "k", "fetched", lease) != Stored::kStored) ++wrong;
          }
          Loads::end(lease);
        } else {
          (void)table->wait_for_load("k", kPatience);
        }
      }
    });
  }
  for (auto& thread : all) thread.join();
  CHECK(fetched == 1);
  CHECK(wrong == 0);
  CHECK(loads(*table) == 0);
}

TEST_CASE("64 processes that miss one key fetch it once; killed in it, once more") {
  struct Shared {
    std::atomic<int> fetched;
    std::atomic<int> done;
  };
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  REQUIRE(shared != MAP_FAILED);
  // A segment with places for all.
  Home home(16u << 20);
  auto table = home.table();
  std::deque<Forked> all;
  for (int i = 0; i < 64; ++i) {
    all.emplace_back([&](Steps& steps) {
      auto own = home.table();
      for (;;) {
        if (const auto value = read(*own, "k")) {
          CHILD_REQUIRE(*value == "fetched");
          shared->done.fetch_add(1);
          return 0;
        }
        LoadLease lease;
        if (claim(*own, "k", lease) == Claimed::kMine) {
          if (own->contains("k")) {
            Loads::end(lease);
            continue;
          }
          // The first of them never returns.
          if (shared->fetched.fetch_add(1) == 0) {
            steps.reached();
            steps.wait_for_death();
          }
          CHILD_REQUIRE(keep(*own, "k", "fetched", lease) == Stored::kStored);
          CHILD_REQUIRE(Loads::end(lease));
        } else {
          (void)own->wait_for_load("k", 600'000ms);
        }
      }
    });
  }
  // Only the one that fetches reports.
  std::optional<std::size_t> first;
  while (!first) {
    for (std::size_t i = 0; i < all.size() && !first; ++i) {
      if (all[i].await_step(1ms)) first = i;
    }
  }
  CHECK(shared->done == 0);
  all[*first].kill_now();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i != *first) CHECK(all[i].wait() == 0);
  }
  CHECK(shared->fetched == 2);
  CHECK(shared->done == 63);
  CHECK(table->reap() == 1);
  CHECK(loads(*table) == 0);
  CHECK(test::faults(table->segment()) == "");
  munmap(shared, sizeof(Shared));
}

TEST_CASE("a loader that is stopped is passed by when its time is over, and resumes harmlessly") {
  Home home;
  auto table = home.table();
  Forked slow([&](Steps& steps) {
    auto own = home.table();
    LoadLease lease;
    CHILD_REQUIRE(claim(*own, "k", lease, 1ms) == Claimed::kMine);
    const Sample sample = own->sample("k");
    steps.stop();
    CHILD_REQUIRE(own->fill({"k", "fetched long ago"}, sample, {}, lease) == Stored::kRefused);
    CHILD_REQUIRE(!Loads::end(lease));
    return 0;
  });
  REQUIRE(slow.await_stopped());
  REQUIRE(table->wait_for_load("k", kPatience));
  LoadLease mine;
  REQUIRE(claim(*table, "k", mine) == Claimed::kMine);
  REQUIRE(keep(*table, "k", "news", mine) == Stored::kStored);
  slow.signal(SIGCONT);
  CHECK(slow.wait() == 0);
  CHECK(read(*table, "k") == "news");
  CHECK(Loads::is_held(mine));
  CHECK(Loads::end(mine));
}

TEST_CASE("the load of the dead is taken over at once by whoever asks, without a reaper") {
  Home home;
  auto table = home.table();
  Forked loader([&](Steps& steps) {
    auto own = home.table();
    LoadLease lease;
    CHILD_REQUIRE(claim(*own, "k", lease) == Claimed::kMine);
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(loader.await_step());
  LoadLease mine;
  CHECK(claim(*table, "k", mine) == Claimed::kOther);
  loader.kill_now();
  CHECK(table->wait_for_load("k", kPatience));
  CHECK(claim(*table, "k", mine) == Claimed::kMine);
  // Whoever reaps the dead one leaves what is no longer its.
  CHECK(table->reap() == 1);
  CHECK(Loads::is_held(mine));
  CHECK(Loads::end(mine));
}

TEST_CASE("who leaves, or is reaped, leaves no load behind, and wakes who waits for it") {
  for (const bool killed : {false, true}) {
    CAPTURE(killed);
    Home home;
    auto table = home.table();
    Forked loader([&](Steps& steps) {
      auto own = home.table();
      LoadLease lease;
      CHILD_REQUIRE(claim(*own, "k", lease) == Claimed::kMine);
      steps.reached();
      if (killed) return steps.wait_for_death();
      steps.wait();
      own->processes().leave();
      return 0;
    });
    REQUIRE(loader.await_step());
    CHECK(loads(*table) == 1);
    std::thread waiter([&] { CHECK(table->wait_for_load("k", kPatience)); });
    if (killed) {
      loader.kill_now();
      CHECK(table->reap() == 1);
    } else {
      loader.go_on();
      CHECK(loader.wait() == 0);
    }
    waiter.join();
    CHECK(loads(*table) == 0);
  }
}

TEST_CASE("a forked child neither holds nor ends the load of its parent") {
  Home home;
  auto table = home.table();
  LoadLease mine;
  REQUIRE(claim(*table, "k", mine) == Claimed::kMine);
  Forked child([&](Steps&) {
    LoadLease copy = mine;
    CHILD_REQUIRE(!Loads::is_held(copy));
    CHILD_REQUIRE(keep(*table, "k", "the child's", copy) == Stored::kRefused);
    CHILD_REQUIRE(!Loads::end(copy));
    LoadLease own;
    CHILD_REQUIRE(claim(*table, "k", own) == Claimed::kOther);
    return 0;
  });
  CHECK(child.wait() == 0);
  CHECK(Loads::is_held(mine));
  CHECK(Loads::end(mine));
}

}  // namespace larder::shm
