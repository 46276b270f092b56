// Schedules: interleavings that broke drafts of the design, each with the number that it had there.
//
//   3   bypass and wipe lose the guards        5   liveness is lost unknowingly
//   4   the lock is stolen from the living     14  pins, forks, a lock file that two segments share
//   6   a value is torn through its run's use for another
//
// What happens when is certain, not likely: processes are stopped where they must stand. The ones
// that are held between two instructions are in schedules_stepped_test.cc (3b, 4a, 4b, 6, 14a).
// 5b and 14d need the whole library and are in tests/process/hosts_test.cc, 14c is in
// tests/api/cache_test.cc. Of each, cures/ has what makes it fail: the cure taken out.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "shm/lock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/shm/holder.h"
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

constexpr std::uint32_t kStripe = 0;
constexpr std::chrono::milliseconds kTry{0};

ChangeId id(std::uint64_t seq) { return {seq, seq + 1'000'000}; }

std::vector<std::string> some_keys(Table& table, std::size_t how_many) {
  return test::keys_of_stripe(table.segment(), kStripe, how_many);
}

// A child that has a place.
Forked member_of(const Home& home) {
  Forked child([&](Steps& steps) {
    auto table = home.table();
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(child.await_step());
  return child;
}

void let_go(Forked& holder) {
  holder.signal(SIGCONT);
  REQUIRE(holder.await_step());
  holder.go_on();
  CHECK(holder.wait() == 0);
}

}  // namespace

// ---- 3: bypass and wipe lose the guards -------------------------------------------------------

TEST_CASE("schedule 3a: an invalidation behind a stopped holder is not lost") {
  Home home;
  auto table = home.table();
  const auto keys = some_keys(*table, 2);
  SyncWords& words = table->segment().superblock().sync;
  const std::uint64_t term = *table->begin_term();
  test::follow(table->segment(), id(100));
  for (const auto& key : keys) {
    REQUIRE(table->fill({key, "old"}, table->sample(key), id(105)) == Stored::kStored);
  }
  // X is stopped in the stripe. Q's fill has read the old value with reach 110.
  auto holder = stopped_holder(home, kStripe);
  Forked filler([&](Steps& steps) {
    auto its = home.table(std::chrono::milliseconds(5));
    const Sample sample = its->sample(keys[0]);
    steps.reached();
    steps.wait();
    // After the leader gave up, before anybody wiped.
    CHILD_REQUIRE(its->fill({keys[0], "old"}, sample, id(110)) == Stored::kBusy);
    steps.reached();
    steps.wait();
    // X is out, and we are the next to come in.
    CHILD_REQUIRE(its->fill({keys[0], "old"}, sample, id(110)) == Stored::kRefused);
    CHILD_REQUIRE(its->fill({keys[0], "old"}, its->sample(keys[0]), id(110)) == Stored::kRefused);
    return 0;
  });
  REQUIRE(filler.await_step());
  // Event 120 cannot get the lock; head and cursor move on.
  words.head_seq.store(120);
  CHECK(table->apply({Change::Kind::kDrop, {keys[0], {}}, id(120)}, term) == Applied::kDeferred);
  test::follow(table->segment(), id(120));
  for (const auto& key : keys) CHECK_FALSE(read(*table, key).has_value());
  filler.go_on();
  REQUIRE(filler.await_step());
  for (const auto& key : keys) CHECK_FALSE(read(*table, key).has_value());
  holder.signal(SIGCONT);
  REQUIRE(holder.await_step());
  // Out, but not wiped: readers go on missing.
  for (const auto& key : keys) CHECK_FALSE(read(*table, key).has_value());
  filler.go_on();
  CHECK(filler.wait() == 0);
  for (const auto& key : keys) CHECK_FALSE(read(*table, key).has_value());
  CHECK(table->segment().stripe(kStripe).bypass.load() == 0);
  CHECK(table->fill({keys[0], "new"}, table->sample(keys[0]), id(120)) == Stored::kStored);
  CHECK(read(*table, keys[0]) == "new");
  CHECK(counted(*table, Counter::kWipes) == 1);
  holder.go_on();
  CHECK(holder.wait() == 0);
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("schedule 3a, of a peer that sends no ids: the count alone tells, and a wipe raises it") {
  Home home;
  auto table = home.table();
  const auto keys = some_keys(*table, 2);
  const std::uint64_t term = *table->begin_term();
  test::follow(table->segment(), id(100));
  auto holder = stopped_holder(home, kStripe);
  const Sample sample = table->sample(keys[0]);  // and Redis answers with the old value
  CHECK(table->apply({Change::Kind::kDrop, {keys[0], {}}, {}}, term) == Applied::kDeferred);
  let_go(holder);
  CHECK(table->drop(keys[1]) == Stored::kStored);  // wipes
  CHECK(counted(*table, Counter::kWipes) == 1);
  CHECK(table->fill({keys[0], "old"}, sample, id(110)) == Stored::kRefused);
  CHECK_FALSE(read(*table, keys[0]).has_value());
}

TEST_CASE("schedule 3c: an old leader writes nothing in a stripe that its successor did not seal") {
  Home home;
  auto old_leader = home.table();
  auto new_leader = home.table();
  const auto keys = some_keys(*old_leader, 2);
  const std::uint64_t old_term = *old_leader->begin_term();
  CHECK(old_leader->apply({Change::Kind::kSet, {keys[0], "first"}, id(5)}, old_term) ==
        Applied::kApplied);
  auto holder = stopped_holder(home, kStripe);
  const std::uint64_t new_term = *new_leader->begin_term();
  CHECK(new_leader->segment().stripe(kStripe).term.load() == old_term);
  let_go(holder);
  CHECK(new_leader->drop(keys[1]) == Stored::kStored);  // wipes
  CHECK(old_leader->apply({Change::Kind::kSet, {keys[0], "stale"}, id(7)}, old_term) ==
        Applied::kStaleTerm);
  CHECK_FALSE(read(*new_leader, keys[0]).has_value());
  CHECK(new_leader->apply({Change::Kind::kSet, {keys[0], "new"}, id(6)}, new_term) ==
        Applied::kApplied);
  CHECK(read(*old_leader, keys[0]) == "new");
}

// ---- 4: the lock is stolen from the living ----------------------------------------------------
//
// Against 4a stand two cures, of which one would do: the incarnation in a name, and the byte that
// is held from the second look until the lock is taken over. Its patch takes both out.

TEST_CASE(
    "schedule 4a, what is left: a stale name of an owner fits no newcomer in the same place") {
  Home home;
  auto table = home.table();
  const std::uint32_t own = *table->processes().self();
  std::uint32_t stale = 0;
  {
    Forked child([&](Steps& steps) {
      auto its = home.table();
      CHILD_REQUIRE(acquire(its->segment().stripe(0), *its->processes().self(), its->processes(),
                            kTry) == Acquired::kClean);
      steps.reached();
      return steps.wait_for_death();
    });
    REQUIRE(child.await_step());
    stale = table->segment().stripe(0).lock.load();
    child.kill_now();
  }
  REQUIRE(table->reap() == 1);
  CHECK(table->segment().stripe(0).lock.load() == 0);  // the reaper released it, repaired
  // A newcomer takes the same place, and the same stripe.
  Forked newcomer([&](Steps& steps) {
    auto its = home.table();
    CHILD_REQUIRE(acquire(its->segment().stripe(0), *its->processes().self(), its->processes(),
                          kTry) == Acquired::kClean);
    steps.reached();
    steps.wait();
    CHILD_REQUIRE(release(its->segment().stripe(0), *its->processes().self()));
    return 0;
  });
  REQUIRE(newcomer.await_step());
  const std::uint32_t fresh = table->segment().stripe(0).lock.load();
  CHECK(owner_place(fresh) == owner_place(stale));
  CHECK(owner_incarnation(fresh) == owner_incarnation(stale) + 1);
  // Who saw the stale word and was descheduled comes back: the dead may be robbed, not the
  // newcomer.
  Stripe& stripe = table->segment().stripe(0);
  bool swapped = false;
  table->processes().with_dead(stale, [&] {
    std::uint32_t expected = stale;
    swapped = stripe.lock.compare_exchange_strong(expected, own);
  });
  CHECK_FALSE(swapped);
  CHECK_FALSE(table->processes().with_dead(fresh, [] {}));
  CHECK(acquire(stripe, own, table->processes(), kTry) == Acquired::kTimeout);
  newcomer.go_on();
  CHECK(newcomer.wait() == 0);
  // And a stale word that is still in a stripe is taken over at once, whoever has the place now.
  stripe.lock.store(stale);
  CHECK(acquire(stripe, own, table->processes(), kTry) == Acquired::kFromDead);
  CHECK(release(stripe, own));
}

TEST_CASE("schedule 4c: two threads of a process do not both take a byte, nor give it back twice") {
  Home home;
  auto table = home.table();
  auto killed = member_of(home);
  const auto observer = home.segment();
  std::uint32_t place = 0;
  for (const ProcessInfo& process : processes(*observer)) {
    if (process.pid == static_cast<std::uint32_t>(killed.pid())) place = process.place;
  }
  REQUIRE(place != 0);
  const std::uint32_t its = make_owner(place, state_incarnation(observer->place(place).state));
  killed.kill_now();
  // Another thread reaps the dead one, and another table takes its place and its byte.
  std::unique_ptr<Table> second;
  const auto other_thread = [&] {
    std::thread([&] {
      CHECK(table->reap() == 1);
      second = home.table();
    }).join();
  };
  ForkMutex& mutex = table->segment().lock_file()->process_mutex();
  CHECK(table->processes().with_dead(its, [&] {
    // Record locks do not keep it out; it waits for this mutex, and comes afterwards.
    if (!mutex.try_lock()) return;
    mutex.unlock();
    other_thread();
  }));
  if (second == nullptr) other_thread();
  const std::uint32_t newcomer = *second->processes().self();
  CHECK(owner_place(newcomer) == place);
  Forked judge([&](Steps&) {
    CHILD_REQUIRE(second->segment().lock_file()->held_by_other(place));
    return 0;
  });
  CHECK(judge.wait() == 0);
}

TEST_CASE(
    "schedule 4c, the reaper: late, it does not take the byte of a table that has the place by "
    "now") {
  Home home;
  auto table = home.table();
  auto killed = member_of(home);
  killed.kill_now();
  std::unique_ptr<Table> second;
  // Between finding it dead and freeing its place: another process reaps it, and another table of
  // this process takes the place.
  CHECK(table->processes().reap([&](std::uint32_t) {
    Forked other([&](Steps&) { return table->reap() == 1 ? 0 : 1; });
    REQUIRE(other.wait() == 0);
    second = home.table();
  }) == 0);
  REQUIRE(second != nullptr);
  const std::uint32_t its = *second->processes().self();
  CHECK_FALSE(second->processes().is_dead(its));
  Forked observer([&](Steps&) {
    CHILD_REQUIRE(second->segment().lock_file()->held_by_other(owner_place(its)));
    return 0;
  });
  CHECK(observer.wait() == 0);
}

// ---- 5: liveness is lost unknowingly ----------------------------------------------------------

TEST_CASE("schedule 5a: a process that lost its record locks is not robbed while it lives") {
  Home home;
  auto table = home.table();
  const auto key = some_keys(*table, 1)[0];
  // Its helper closes everything, while it is in the stripe.
  Forked careless([&](Steps& steps) {
    auto own = home.table();
    const std::uint32_t self = *own->processes().self();
    Stripe& stripe = own->segment().stripe(kStripe);
    CHILD_REQUIRE(acquire(stripe, self, own->processes(), kTry) == Acquired::kClean);
    closefrom(3);
    steps.stop();
    CHILD_REQUIRE(release(stripe, self));  // still ours
    steps.stop();
    return 0;
  });
  REQUIRE(careless.await_stopped());
  const std::uint32_t its = table->segment().stripe(kStripe).lock.load();
  REQUIRE(its != 0);
  REQUIRE_FALSE(table->segment().lock_file()->held_by_other(owner_place(its)));
  CHECK_FALSE(table->processes().is_dead(its));
  CHECK(put(*table, key, "v") == Stored::kBusy);
  CHECK(table->reap() == 0);
  careless.signal(SIGCONT);
  REQUIRE(careless.await_stopped());
  CHECK(table->drop(key) == Stored::kStored);
  CHECK(put(*table, key, "v") == Stored::kStored);
  CHECK(counted(*table, Counter::kTakeovers) == 0);
  careless.kill_now();
  CHECK(table->reap() == 1);
}

// ---- 14: pins, forks, a lock file that two segments share -------------------------------------

TEST_CASE("schedule 14b: a wipe does not free what a view names") {
  Home home(kSegmentMinBytes);  // one stripe
  auto table = home.table();
  REQUIRE(put(*table, "k", test::make_value("k", 1, 20'000)) == Stored::kStored);
  Forked holder([&](Steps& steps) {
    auto own = home.table();
    const auto view = own->pin("k");
    CHILD_REQUIRE(view.ok() && view->word != nullptr);
    steps.reached();
    steps.wait();
    CHILD_REQUIRE(test::number_of("k", view->value) == 1);
    return 0;
  });
  REQUIRE(holder.await_step());
  table->segment().stripe(kStripe).bypass.fetch_add(1);
  CHECK(table->drop("another") == Stored::kStored);
  CHECK(counted(*table, Counter::kWipes) == 1);
  CHECK_FALSE(read(*table, "k").has_value());
  // All the room there is is used again.
  for (int i = 0; counted(*table, Counter::kEvictions) < 100; ++i) {
    const std::string key = "other-" + std::to_string(i);
    REQUIRE(put(*table, key, test::make_value(key, 2, 2000)) == Stored::kStored);
  }
  holder.go_on();
  CHECK(holder.wait() == 0);
}

TEST_CASE("schedule 14e: who removes only the segment's file leaves the next one a lock file") {
  Home home;
  auto old = home.table();
  const std::uint32_t self = *old->processes().self();
  REQUIRE(old->processes().try_lead());
  REQUIRE(unlink(home.path().c_str()) == 0);
  const auto enter = [&home] {
    auto segment = Segment::open(home.options);
    CHILD_REQUIRE(segment.ok());
    auto table = std::make_unique<Table>(*segment, TableOptions{test::kShortWait});
    CHILD_REQUIRE(table->join().ok());
    return table;
  };
  Forked newcomer([&](Steps& steps) {
    auto table = enter();
    CHILD_REQUIRE(table->segment().created());
    // Whoever lives or leads in the old segment is nobody in the new one.
    CHILD_REQUIRE(*table->processes().self() == self);
    CHILD_REQUIRE(table->processes().try_lead());
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(newcomer.await_step());
  Forked another([&](Steps&) {
    auto table = enter();
    CHILD_REQUIRE(!table->segment().created());
    CHILD_REQUIRE(!table->processes().try_lead());
    CHILD_REQUIRE(put(*table, "k", "new") == Stored::kStored);
    return 0;
  });
  CHECK(another.wait() == 0);
  newcomer.kill_now();
  Forked heir([&](Steps&) {
    auto table = enter();
    CHILD_REQUIRE(table->processes().try_lead());
    CHILD_REQUIRE(read(*table, "k") == "new");
    // The old one's are as they were, to a process that is in both.
    CHILD_REQUIRE(old->segment().lock_file()->held_by_other(owner_place(self)));
    CHILD_REQUIRE(!old->processes().try_lead());
    CHILD_REQUIRE(!read(*old, "k").has_value());
    return 0;
  });
  CHECK(heir.wait() == 0);
}

}  // namespace larder::shm
