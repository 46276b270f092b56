// Many processes at once: creating one segment, removing it, killed while they do.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

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
    for (const auto& file : std::filesystem::directory_iterator(home.dir.path()))
      CHECK(file.path().extension() != ".tmp");
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

}  // namespace larder::shm
