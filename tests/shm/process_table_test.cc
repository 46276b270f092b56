// Places, liveness and leadership, with real processes.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <thread>

#include "shm/lock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::Forked;
using test::Home;
using test::read;
using test::Steps;

// Inside a child: a table of its own in the same segment, with a place.
std::unique_ptr<Table> enter(const Home& home) { return home.table(); }

// A child that has a place and stays until it is killed or told to go.
Forked attached_child(const Home& home) {
  Forked child([&](Steps& steps) {
    auto table = enter(home);
    steps.reached();
    steps.wait();
    table.reset();
    return 0;
  });
  REQUIRE(child.await_step());
  return child;
}

bool lists(Segment& segment, pid_t pid) {
  for (const ProcessInfo& process : processes(segment)) {
    if (process.pid == static_cast<std::uint32_t>(pid)) return true;
  }
  return false;
}

}  // namespace

// ---- places -----------------------------------------------------------------------------------

TEST_CASE("a place is taken by the first change or by join, not by looking") {
  Home home;
  Table table(home.segment(), TableOptions{});
  CHECK(processes(table.segment()).empty());
  CHECK_FALSE(read(table, "k").has_value());
  CHECK(processes(table.segment()).empty());
  CHECK(test::put(table, "k", "v") == Stored::kStored);
  REQUIRE(processes(table.segment()).size() == 1);
  CHECK(lists(table.segment(), getpid()));
  CHECK(table.join().ok());
  CHECK(processes(table.segment()).size() == 1);
}

TEST_CASE("a forked child takes a place of its own and leaves its parent's alone") {
  Home home;
  auto table = home.table();
  const std::uint32_t own = *table->processes().self();
  REQUIRE(test::put(*table, "k", "parent") == Stored::kStored);
  Forked child([&](Steps& steps) {
    CHILD_REQUIRE(table->processes().self_if_registered() == 0);
    CHILD_REQUIRE(read(*table, "k") == "parent");
    CHILD_REQUIRE(table->processes().self_if_registered() == 0);
    CHILD_REQUIRE(test::put(*table, "k", "child") == Stored::kStored);
    CHILD_REQUIRE(table->processes().self_if_registered() != 0);
    CHILD_REQUIRE(owner_place(*table->processes().self()) != owner_place(own));
    steps.reached();
    steps.wait();
    table.reset();  // what the child has ends; the parent's place must not
    return 0;
  });
  REQUIRE(child.await_step());
  CHECK(processes(table->segment()).size() == 2);
  CHECK(read(*table, "k") == "child");
  child.go_on();
  CHECK(child.wait() == 0);
  CHECK(processes(table->segment()).size() == 1);
  CHECK(*table->processes().self() == own);
  CHECK_FALSE(table->processes().is_dead(own));
  // The parent's byte is still held, as others see it.
  Forked other([&](Steps&) {
    CHILD_REQUIRE(table->segment().lock_file()->held_by_other(owner_place(own)));
    return 0;
  });
  CHECK(other.wait() == 0);
}

TEST_CASE("a child that never used the table takes nothing with it when it ends") {
  Home home;
  auto table = home.table();
  REQUIRE(table->processes().try_lead());
  const std::uint32_t own = *table->processes().self();
  Forked child([&](Steps&) {
    table.reset();
    return 0;
  });
  CHECK(child.wait() == 0);
  CHECK(processes(table->segment()).size() == 1);
  Forked other([&](Steps&) {
    LockFile& locks = *table->segment().lock_file();
    CHILD_REQUIRE(locks.held_by_other(owner_place(own)));
    CHILD_REQUIRE(!table->processes().try_lead());
    return 0;
  });
  CHECK(other.wait() == 0);
}

TEST_CASE("grandchildren and their siblings are each told apart") {
  Home home;
  auto table = home.table();
  Forked child([&](Steps&) {
    const std::uint32_t mine = *table->processes().self();
    std::vector<Forked> grandchildren;
    for (int i = 0; i < 3; ++i) {
      grandchildren.emplace_back([&](Steps& steps) {
        const std::uint32_t own = *table->processes().self();
        CHILD_REQUIRE(owner_place(own) != owner_place(mine));
        steps.reached();
        steps.wait();
        return 0;
      });
    }
    for (Forked& each : grandchildren) CHILD_REQUIRE(each.await_step());
    CHILD_REQUIRE(processes(table->segment()).size() == 5);
    for (Forked& each : grandchildren) each.go_on();
    for (Forked& each : grandchildren) CHILD_REQUIRE(each.wait() == 0);
    return 0;
  });
  CHECK(child.wait() == 0);
  CHECK(table->reap() == 4);  // they ended without leaving
}

TEST_CASE("a clean end frees the place at once, a kill leaves it to the reaper") {
  Home home;
  auto table = home.table();
  auto polite = attached_child(home);
  auto killed = attached_child(home);
  CHECK(processes(table->segment()).size() == 3);
  CHECK(table->reap() == 0);  // the living stay
  polite.go_on();
  CHECK(polite.wait() == 0);
  CHECK(processes(table->segment()).size() == 2);
  killed.kill_now();
  CHECK(lists(table->segment(), killed.pid()));
  CHECK(table->reap() == 1);
  CHECK_FALSE(lists(table->segment(), killed.pid()));
  CHECK(processes(table->segment()).size() == 1);
}

TEST_CASE("a zombie is dead") {
  Home home;
  auto table = home.table();
  auto child = attached_child(home);
  child.signal(SIGKILL);
  REQUIRE(child.await_zombie());
  REQUIRE(kill(child.pid(), 0) == 0);  // it still has its pid
  CHECK(table->reap() == 1);
}

TEST_CASE("a stopped process is alive") {
  Home home;
  auto table = home.table();
  auto child = attached_child(home);
  child.signal(SIGSTOP);
  REQUIRE(child.await_stopped());
  CHECK(table->reap() == 0);
  CHECK(lists(table->segment(), child.pid()));
}

TEST_CASE("a process whose first thread has ended is alive, to itself and to others") {
  Home home;
  auto table = home.table();
  static std::unique_ptr<Table> inside;  // the thread outlives the lambda
  Forked child([&](Steps& steps) -> int {
    inside = enter(home);
    std::thread([&steps, pid = getpid()] {
      // Until /proc calls the process a zombie.
      const std::string path = "/proc/" + std::to_string(pid) + "/stat";
      const bool zombie = test::await([&] {
        char text[256] = {};
        FILE* file = std::fopen(path.c_str(), "r");
        if (file == nullptr) return false;
        const bool got = std::fgets(text, sizeof text, file) != nullptr;
        std::fclose(file);
        return got && std::string(text).find(") Z ") != std::string::npos;
      });
      if (!zombie) _exit(2);
      Processes& own = inside->processes();
      if (own.is_dead(*own.self())) _exit(3);
      steps.reached();
      steps.wait();
      _exit(0);
    }).detach();
    syscall(SYS_exit, 0);  // this thread alone
    return 1;
  });
  REQUIRE(child.await_step());
  CHECK(table->reap() == 0);
  child.go_on();
  CHECK(child.wait() == 0);
}

TEST_CASE("the incarnation of a place rises with every process that takes it") {
  Home home;
  auto table = home.table();
  std::uint32_t place = 0;
  std::uint32_t incarnation = 0;
  for (int i = 0; i < 5; ++i) {
    auto child = attached_child(home);
    const auto all = processes(table->segment());
    REQUIRE(all.size() == 2);
    const ProcessInfo& its = all[0].pid == static_cast<std::uint32_t>(getpid()) ? all[1] : all[0];
    if (i > 0) {
      CHECK(its.place == place);
      CHECK(its.incarnation == incarnation + 1);
    }
    place = its.place;
    incarnation = its.incarnation;
    if (i % 2 == 0) {
      child.go_on();
      CHECK(child.wait() == 0);
    } else {
      child.kill_now();
      CHECK(table->reap() == 1);
    }
  }
}

TEST_CASE("a full process table takes the places of the dead, and refuses when all are alive") {
  Home home;
  auto segment = home.segment();
  const std::uint32_t places = segment->geometry().place_count - 1;
  // One child with all places but one.
  Forked crowd([&](Steps& steps) {
    std::vector<std::unique_ptr<Table>> tables;
    for (std::uint32_t i = 0; i + 1 < places; ++i) tables.push_back(enter(home));
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(crowd.await_step());
  auto last = home.table();
  CHECK(processes(*segment).size() == places);
  Table late(segment, TableOptions{test::kShortWait});
  const Status full = late.join();
  CHECK(full.code() == Code::kNoSpace);
  CHECK_MESSAGE(full.message().find(std::to_string(places) + " places") != std::string::npos,
                full.message());
  CHECK(test::put(late, "k", "v") == Stored::kBusy);
  CHECK_FALSE(read(late, "k").has_value());
  crowd.kill_now();
  CHECK(late.join().ok());
  CHECK(processes(*segment).size() == 2);
  CHECK(test::put(late, "k", "v") == Stored::kStored);
  CHECK(test::faults(*segment).empty());
}

// ---- the lock file ----------------------------------------------------------------------------

TEST_CASE("closefrom() does not make a process lock some other file, nor close it") {
  Home home;
  auto table = home.table();
  REQUIRE(table->processes().try_lead());
  Forked careless([&](Steps&) {
    const std::string other_path = home.dir.path() + "/other";
    closefrom(3);
    // The descriptor's number goes to somebody else.
    std::vector<int> others;
    for (int i = 0; i < 64; ++i) {
      others.push_back(::open(other_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      CHILD_REQUIRE(others.back() >= 0);
    }
    CHILD_REQUIRE(!table->processes().try_lead());  // the parent leads
    CHILD_REQUIRE(test::put(*table, "k", "v") == Stored::kStored);
    const std::uint32_t self = *table->processes().self();
    CHILD_REQUIRE(self != 0);
    table.reset();
    for (const int fd : others) CHILD_REQUIRE(fcntl(fd, F_GETFD) >= 0);
    return 0;
  });
  CHECK(careless.wait() == 0);
  CHECK(read(*table, "k") == "v");
  CHECK(processes(table->segment()).size() == 1);
}

namespace {
// The place of another process, which has one.
std::uint32_t place_of(Segment& segment, pid_t pid) {
  for (const ProcessInfo& each : processes(segment)) {
    if (each.pid == static_cast<std::uint32_t>(pid)) return each.place;
  }
  return 0;
}
}  // namespace

TEST_CASE("who closed the lock file by mistake takes its locks again at its next look") {
  Home home;
  auto table = home.table();
  Forked careless([&](Steps& steps) {
    auto own = enter(home);
    CHILD_REQUIRE(own->processes().try_lead());
    closefrom(3);
    steps.stop();
    (void)own->reap();
    steps.stop();
    return 0;
  });
  REQUIRE(careless.await_stopped());
  LockFile& locks = *table->segment().lock_file();
  const std::uint32_t place = place_of(table->segment(), careless.pid());
  REQUIRE(place != 0);
  CHECK_FALSE(locks.held_by_other(place));
  careless.signal(SIGCONT);
  REQUIRE(careless.await_stopped());
  CHECK(locks.held_by_other(place));
  CHECK_FALSE(table->processes().try_lead());
}

TEST_CASE("who lost its locks and its first thread lives in its others") {
  Home home;
  auto table = home.table();
  Forked headless([&](Steps& steps) {
    auto own = enter(home);
    closefrom(3);
    std::thread([&] { steps.wait_for_death(); }).detach();
    syscall(SYS_exit, 0);  // of this thread
    return 0;
  });
  const std::string stat = "/proc/" + std::to_string(headless.pid()) + "/stat";
  REQUIRE(test::await([&] {
    std::string text;
    std::getline(std::ifstream(stat), text);
    return text.find(") Z ") != std::string::npos;
  }));
  const std::uint32_t place = place_of(table->segment(), headless.pid());
  REQUIRE(place != 0);
  CHECK_FALSE(table->segment().lock_file()->held_by_other(place));
  CHECK(table->reap() == 0);
  headless.kill_now();
  CHECK(table->reap() == 1);
}

TEST_CASE("the program that replaced another and only opened" * doctest::skip()) {  // as below
  Home home;
  home.options.directory = std::getenv("LARDER_TEST_FOLDER");
  Table table(home.segment(), {test::kShortWait});
  CHECK(processes(table.segment()).size() == 2);
  table.bury_former_program();
  CHECK(processes(table.segment()).size() == 1);
  CHECK(table.segment().stripe(0).lock.load() == 0);
  CHECK(totals(table.segment()).pins == 0);
}

TEST_CASE("the program that replaced another" * doctest::skip()) {  // run by the next one
  Home home;
  home.options.directory = std::getenv("LARDER_TEST_FOLDER");
  auto table = home.table();
  Segment& segment = table->segment();
  CHECK(processes(segment).size() == 2);
  CHECK(segment.stripe(0).lock.load() == 0);
  CHECK(totals(segment).pins == 0);
  CHECK(test::counted(*table, Counter::kTakeovers) == 1);
  auto another = home.table();  // what this process has now is not given up
  CHECK(another->reap() == 0);
  CHECK(processes(segment).size() == 3);
  CHECK(test::faults(segment) == "");
}

TEST_CASE(
    "what a program had that replaced itself is given up by the new one, under the same pid") {
  const char* replacement = nullptr;
  SUBCASE("that joins") { replacement = "--test-case=the program that replaced another"; }
  SUBCASE("that only opens") {
    replacement = "--test-case=the program that replaced another and only opened";
  }
  Home home;
  auto table = home.table();
  REQUIRE(test::put(*table, "k", "v") == Stored::kStored);
  Forked former([&](Steps&) {
    auto own = enter(home);
    const auto view = own->pin("k");
    CHILD_REQUIRE(view.ok() && view->word != nullptr);
    const std::uint32_t self = *own->processes().self();
    CHILD_REQUIRE(acquire(own->segment().stripe(0), self, own->processes(), test::kShortWait) ==
                  Acquired::kClean);
    setenv("LARDER_TEST_FOLDER", home.dir.path().c_str(), 1);
    execl("/proc/self/exe", "replaced", "--no-skip", replacement, nullptr);
    return 100;
  });
  CHECK(former.wait() == 0);
  CHECK(table->reap() == 0);
  CHECK(processes(table->segment()).size() == 1);
}

TEST_CASE("who joins after it replaced itself waits for whoever is asking about its former place") {
  Home home;
  // A program that is no more: under our pid, but its byte is not held.
  auto former = home.table();
  const std::uint32_t place = owner_place(*former->processes().self());
  former->segment().place(place).program.fetch_add(1);
  former->segment().lock_file()->unlock(place);
  Forked asks([&](Steps& steps) {
    const auto own = home.segment();
    CHILD_REQUIRE(own->lock_file()->lock(place));
    steps.reached();
    steps.wait();
    const timespec while_it_joins{0, 20'000'000};
    nanosleep(&while_it_joins, nullptr);
    return 0;
  });
  REQUIRE(asks.await_step());
  asks.go_on();
  const auto table = home.table();  // joins
  CHECK(processes(table->segment()).size() == 1);
  CHECK(asks.wait() == 0);
}

TEST_CASE(
    "what a program had that was replaced by a stranger to the segment is given up to anyone") {
  Home home;
  auto table = home.table();
  REQUIRE(test::put(*table, "k", "v") == Stored::kStored);
  Forked former([&](Steps& steps) {
    auto own = enter(home);
    const auto view = own->pin("k");
    CHILD_REQUIRE(view.ok() && view->word != nullptr);
    CHILD_REQUIRE(acquire(own->segment().stripe(0), *own->processes().self(), own->processes(),
                          test::kShortWait) == Acquired::kClean);
    steps.reached();
    steps.wait();
    execlp("sleep", "sleep", "1000", nullptr);
    return 100;
  });
  REQUIRE(former.await_step());
  CHECK(table->reap() == 0);
  former.go_on();
  // Its memory goes first, its name changes next; only then does it look replaced.
  CHECK(test::await([&] { return table->reap() == 1; }));
  CHECK(processes(table->segment()).size() == 1);
  CHECK(totals(table->segment()).pins == 0);
  CHECK(table->segment().stripe(0).lock.load() == 0);
  CHECK(test::faults(table->segment()) == "");
  CHECK_FALSE(former.wait(std::chrono::milliseconds(0)));  // its pid lives on
}

// ---- stale names ------------------------------------------------------------------------------

TEST_CASE("who was taken for dead finds another place and does not disturb who has its old one") {
  Home home;
  auto table = home.table();
  auto idle = home.table();
  const auto observer = home.segment();
  const auto rob = [&](Table& robbed) {
    // As a reaper of another PID namespace would, after its grace; then a newcomer takes it.
    const std::uint32_t owner = *robbed.processes().self();
    auto& state = observer->place(owner_place(owner)).state;
    state.store(make_state(owner_incarnation(owner) + 1, PlaceState::kAlive));
    return owner;
  };
  const std::uint32_t before = rob(*table);
  const std::uint32_t idles = rob(*idle);
  CHECK(test::put(*table, "k", "v") == Stored::kStored);
  const std::uint32_t after = *table->processes().self();
  CHECK(owner_place(after) != owner_place(before));
  CHECK(read(*table, "k") == "v");
  table.reset();
  idle.reset();  // without having noticed
  CHECK(state_alive(observer->place(owner_place(before)).state.load()));
  CHECK(state_alive(observer->place(owner_place(idles)).state.load()));
  CHECK_FALSE(state_alive(observer->place(owner_place(after)).state.load()));
}

// ---- leadership -------------------------------------------------------------------------------

TEST_CASE("one process leads; when it dies another can, at once") {
  Home home;
  auto table = home.table();
  Forked leader([&](Steps& steps) {
    auto its = enter(home);
    CHILD_REQUIRE(its->processes().try_lead());
    CHILD_REQUIRE(its->begin_term().ok());
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(leader.await_step());
  CHECK_FALSE(table->processes().try_lead());
  CHECK(table->processes().leader_pid() == leader.pid());
  leader.signal(SIGSTOP);
  REQUIRE(leader.await_stopped());
  CHECK_FALSE(table->processes().try_lead());
  leader.signal(SIGKILL);
  REQUIRE(leader.await_zombie());
  CHECK(
      table->processes().try_lead());  // the kernel released it with the life, not with the zombie
  table->processes().stop_leading();
  CHECK(leader.wait() == 128 + SIGKILL);
}

TEST_CASE("one thread or table of a process leads, and lets go when it stops or ends") {
  Home home;
  auto first = home.table();
  auto second = home.table();
  CHECK(first->processes().try_lead());
  CHECK_FALSE(second->processes().try_lead());
  std::thread([&] { CHECK_FALSE(second->processes().try_lead()); }).join();
  second->processes().stop_leading();  // not its to stop
  CHECK_FALSE(second->processes().try_lead());
  first->processes().stop_leading();
  CHECK(second->processes().try_lead());
  second.reset();
  CHECK(first->processes().try_lead());
  first.reset();
  // Also without ever having had a place.
  auto third = home.table();
  {
    Table visitor(home.segment(), TableOptions{});
    CHECK(visitor.processes().try_lead());
    CHECK_FALSE(third->processes().try_lead());
  }
  CHECK(third->processes().try_lead());
}

TEST_CASE("a child of the leader does not lead, and its end changes nothing") {
  Home home;
  auto table = home.table();
  REQUIRE(table->processes().try_lead());
  Forked child([&](Steps&) {
    CHILD_REQUIRE(!table->processes().try_lead());
    table->processes().stop_leading();
    CHILD_REQUIRE(test::put(*table, "k", "v") == Stored::kStored);
    table->processes().leave();
    table.reset();
    return 0;
  });
  CHECK(child.wait() == 0);
  Forked other([&](Steps&) {
    auto its = enter(home);
    CHILD_REQUIRE(!its->processes().try_lead());
    return 0;
  });
  CHECK(other.wait() == 0);
  table->processes().stop_leading();
  Forked next([&](Steps&) {
    CHILD_REQUIRE(table->processes().try_lead());
    return 0;
  });
  CHECK(next.wait() == 0);
}

TEST_CASE("of many processes that stand for election one wins") {
  Home home;
  auto segment = home.segment();
  std::vector<Forked> candidates;
  for (int i = 0; i < 6; ++i) {
    candidates.emplace_back([&](Steps& steps) {
      auto its = enter(home);
      steps.reached();
      steps.wait();
      const bool won = its->processes().try_lead();
      steps.reached();
      steps.wait();
      return won ? 1 : 0;
    });
  }
  for (Forked& each : candidates) REQUIRE(each.await_step());
  for (Forked& each : candidates) each.go_on();
  for (Forked& each : candidates) REQUIRE(each.await_step());
  for (Forked& each : candidates) each.go_on();
  int winners = 0;
  for (Forked& each : candidates) winners += each.wait().value_or(100);
  CHECK(winners == 1);
}

}  // namespace larder::shm
