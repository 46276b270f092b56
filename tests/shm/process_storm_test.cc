// Many processes at once: creating one segment, and working on it while they are killed.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "shm/clock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::counted;
using test::Forked;
using test::Home;
using test::Random;
using test::Steps;

// Has the process this file open?
bool opened_by(pid_t pid, const std::string& path) {
  std::error_code error;
  const std::string descriptors = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& each : std::filesystem::directory_iterator(descriptors, error)) {
    if (std::filesystem::read_symlink(each.path(), error) == path) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("eight processes that open one segment at once get one segment") {
  for (int round = 0; round < 5; ++round) {
    Home home;
    std::vector<Forked> openers;
    for (int i = 0; i < 8; ++i) {
      openers.emplace_back([&](Steps& steps) {
        steps.reached();
        steps.wait();
        auto opened = Segment::open(home.options);
        CHILD_REQUIRE(opened.ok());
        (*opened)->superblock().sync.heartbeat.fetch_add(1);  // in the one that all share
        steps.reached();
        steps.wait();
        return (*opened)->created() ? 1 : 0;
      });
    }
    for (Forked& each : openers) REQUIRE(each.await_step());
    for (Forked& each : openers) each.go_on();
    for (Forked& each : openers) REQUIRE(each.await_step());
    for (Forked& each : openers) each.go_on();
    int creators = 0;
    for (Forked& each : openers) creators += each.wait().value_or(100);
    CHECK(creators == 1);
    CHECK(home.segment()->superblock().sync.heartbeat.load() == 8);
  }
}

TEST_CASE("a creator killed at any moment leaves nothing that stops the next, nor half a segment") {
  Random random(3);
  int completed = 0;
  for (int round = 0; round < 60; ++round) {
    Home home;
    // Somebody who looks all the time: what has the name is a whole segment or not there.
    Forked observer([&](Steps& steps) -> int {
      steps.reached();
      for (;;) {
        const auto seen = Segment::attach(home.path(), Access::kReadWrite);
        CHILD_REQUIRE(seen.ok() || seen.code() == Code::kNotFound);
        if (seen) CHILD_REQUIRE((*seen)->superblock().magic == kMagic);
        if (seen) CHILD_REQUIRE((*seen)->superblock().hot.epoch.load() != 0);
      }
    });
    REQUIRE(observer.await_step());
    Forked creator([&](Steps& steps) {
      steps.reached();
      (void)Segment::open(home.options);
      return steps.wait_for_death();
    });
    REQUIRE(creator.await_step());
    // Creation takes about two milliseconds; this is when to kill, not what to wait for.
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::microseconds(random.below(3000));
    while (std::chrono::steady_clock::now() < until) {
    }
    creator.kill_now();
    completed += std::filesystem::exists(home.path());
    auto opened = Segment::open(home.options);
    REQUIRE_MESSAGE(opened.ok(), opened.status().message());
    CHECK(test::faults(**opened).empty());
    CHECK_FALSE(std::filesystem::exists(home.path() + ".tmp"));
    CHECK_FALSE(observer.wait(std::chrono::milliseconds(0)).has_value());  // it saw nothing wrong
  }
  MESSAGE("creation was complete in " << completed << " of 60 rounds");
}

TEST_CASE("segments that come and go under their users: every open gets a whole one") {
  Home home;
  std::vector<Forked> users;
  for (int i = 0; i < 3; ++i) {
    users.emplace_back([&, i](Steps&) {
      Random random(static_cast<std::uint64_t>(i) + 1);
      for (int round = 0; round < 60; ++round) {
        auto opened = Segment::open(home.options);
        CHILD_REQUIRE(opened.ok());
        Table table(*opened, TableOptions{std::chrono::milliseconds(10'000)});
        CHILD_REQUIRE(table.join().ok());
        CHILD_REQUIRE(test::put(table, "k", "v") == Stored::kStored);
        CHILD_REQUIRE(test::read(table, "k") == "v");
        if (random.one_in(3)) {
          const Status removed = Segment::remove(home.options.directory, "test", true);
          CHILD_REQUIRE(removed.ok() || removed.code() == Code::kNotFound);
        }
      }
      return 0;
    });
  }
  for (Forked& user : users) CHECK(user.wait() == 0);
  (void)Segment::remove(home.options.directory, "test", true);
  CHECK(std::filesystem::exists(home.path()) == false);
}

TEST_CASE("a creation lock whose file was removed excludes nobody, and who waited for it knows") {
  Home home;
  const std::string path = home.path() + ".create";
  const auto hold = [&] {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    REQUIRE(flock(fd, LOCK_EX | LOCK_NB) == 0);
    return fd;
  };
  // A remover holds it, an opener waits for it, the remover unlinks it and lets go; by then a
  // creator has made and locked a new one.
  const int removers = hold();
  Forked opener([&](Steps& steps) {
    steps.reached();
    CHILD_REQUIRE(Segment::open(home.options).ok());
    steps.reached();
    return 0;
  });
  REQUIRE(opener.await_step());
  REQUIRE(test::await([&] { return opened_by(opener.pid(), path); }));
  std::filesystem::remove(path);
  const int creators = hold();
  ::close(removers);
  CHECK_FALSE(opener.await_step(std::chrono::milliseconds(60)));
  CHECK_FALSE(std::filesystem::exists(home.path()));
  ::close(creators);
  CHECK(opener.await_step());
  CHECK(opener.wait() == 0);
}

namespace {

constexpr std::uint64_t kKeys = 400;

// Works until it is killed; ends by itself only on a wrong value. Values are of many sizes and a
// small segment, so it turns over all the time.
int work(const Home& home, std::uint64_t seed) {
  Random random(seed);
  auto table = home.table(std::chrono::milliseconds(50));
  std::string value;
  for (std::uint64_t turn = 0;; ++turn) {
    const std::string key = "storm-" + std::to_string(random.below(kKeys));
    switch (random.below(10)) {
      case 0:
        (void)test::erase(*table, key);
        break;
      case 1:
      case 2:
      case 3: {
        const std::size_t bytes = random.one_in(4) ? random.below(15'000) : random.below(600);
        (void)test::put(*table, key, test::make_value(key, turn, bytes));
        break;
      }
      default:
        if (table->get(key, value)) CHILD_REQUIRE(test::number_of(key, value).has_value());
    }
    if (random.one_in(500)) (void)table->reap();
    if (random.one_in(2000)) table->raise_epoch();
    if (random.one_in(3000)) {  // some leave politely, and come back
      table.reset();
      table = home.table(std::chrono::milliseconds(50));
    }
  }
}

}  // namespace

TEST_CASE("processes that are killed again and again leave a sound segment and no wrong value") {
  Home home;
  auto table = home.table();
  Random random(7);
  std::uint64_t seed = 1000;
  const auto start = [&] {
    return std::make_unique<Forked>([&home, mine = ++seed](Steps& steps) {
      steps.reached();
      return work(home, mine);
    });
  };
  std::vector<std::unique_ptr<Forked>> workers;
  for (int i = 0; i < 5; ++i) workers.push_back(start());
  int kills = 0;
  int wrong = 0;
  std::string value;
  // Five seconds, and as long as it takes on a busy machine until enough has happened.
  const std::uint64_t begun = now_ms();
  const auto enough = [&] {
    const std::uint64_t lasted = now_ms() - begun;
    if (lasted < 5000 || lasted > 60'000) return lasted > 60'000;
    return kills >= 100 && counted(*table, Counter::kTakeovers) > 0;
  };
  while (!enough()) {
    // The parent reads meanwhile: the storm goes on for as long as that takes.
    for (std::uint64_t reads = random.below(4000); reads > 0; --reads) {
      const std::string key = "storm-" + std::to_string(random.below(kKeys));
      if (table->get(key, value) && !test::number_of(key, value)) ++wrong;
    }
    auto& victim = workers[random.below(workers.size())];
    REQUIRE(victim->await_step());
    // Nobody ends by himself: that would be a child that saw a wrong value.
    REQUIRE_FALSE(victim->wait(std::chrono::milliseconds(0)).has_value());
    victim->kill_now();
    ++kills;
    victim = start();
  }
  for (auto& each : workers) {
    REQUIRE_FALSE(each->wait(std::chrono::milliseconds(0)).has_value());
    each->kill_now();
  }
  (void)table->reap();
  CHECK(wrong == 0);
  CHECK(kills >= 100);
  CHECK(counted(*table, Counter::kTakeovers) > 0);
  CHECK(counted(*table, Counter::kLocksLost) == 0);
  CHECK(processes(table->segment()).size() == 1);
  // What the reaper did not need to touch is bypassed at most; the next writers serve it.
  for (std::uint32_t s = 0; s < table->segment().geometry().stripe_count; ++s) {
    CHECK(table->drop(test::keys_of_stripe(table->segment(), s, 1)[0]) == Stored::kStored);
  }
  CHECK(test::faults(table->segment()) == "");
  for (std::uint64_t i = 0; i < kKeys; ++i) {
    const std::string key = "storm-" + std::to_string(i);
    if (table->get(key, value)) CHECK(test::number_of(key, value).has_value());
  }
  // It is as good as new.
  for (std::uint64_t i = 0; i < kKeys; ++i) {
    const std::string key = "storm-" + std::to_string(i);
    REQUIRE(test::put(*table, key, "after") == Stored::kStored);
    REQUIRE(test::read(*table, key) == "after");
  }
  MESSAGE(kills << " kills, " << counted(*table, Counter::kTakeovers) << " inside a stripe, "
                << counted(*table, Counter::kWipes) << " wipes");
}

}  // namespace larder::shm
