// Processes stopped (SIGSTOP) at each of their stores into a segment, and continued when others
// have gone on without them.
#include <doctest/doctest.h>

#if defined(__x86_64__)

#include <signal.h>

#include <functional>
#include <string>
#include <vector>

#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/shm/store_counter.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::counted;
using test::Forked;
using test::Home;
using test::read;
using test::Steps;
using test::StoreCounter;

constexpr std::uint32_t kStripe = 0;
constexpr std::chrono::milliseconds kBound{5};  // of a wait that is going to end in vain

ChangeId id(std::uint64_t seq) { return {seq, seq + 1'000'000}; }

// A child that does `work`, stopped at its n-th store.
class StoppedAt {
 public:
  // `prepare` is not watched.
  StoppedAt(Table& table, StoreCounter::Shared* shared, std::uint64_t at,
            const std::function<void(Table&)>& prepare, const std::function<int(Table&)>& work)
      : table_(table), child_([&](Steps&) {
          shared->at = at;
          shared->signal = SIGSTOP;
          (void)table.processes().self();
          prepare(table);
          StoreCounter::watch(table.segment(), shared);
          const int status = work(table);
          StoreCounter::stop();
          table.processes().leave();
          return status;
        }) {
    stopped_ = child_.await_stopped();
  }

  // False: it was done before that store.
  bool stopped() const { return stopped_; }
  // With its own name in the stripe's lock word.
  bool is_inside() const {
    const std::uint32_t word = table_.segment().stripe(kStripe).lock.load();
    return word != 0 && pid_of(owner_place(word)) == static_cast<std::uint32_t>(child_.pid());
  }
  // What `work` returned.
  int go_on() {
    child_.signal(SIGCONT);
    return child_.wait().value_or(-1);
  }

 private:
  std::uint32_t pid_of(std::uint32_t place) const {
    return table_.segment().place(place).pid.load();
  }

  Table& table_;
  Forked child_;
  bool stopped_ = false;
};

// One segment of one stripe with some keys, led by this process.
struct Scene {
  Scene() : table(home.table(kBound)), keys(test::keys_of_stripe(table->segment(), kStripe, 20)) {
    term = *table->begin_term();
  }
  ~Scene() { StoreCounter::unshare(shared); }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  // All keys as Redis has them at `seq`.
  void fill_all(std::uint64_t seq) {
    follow(seq);
    for (const std::string& key : keys) {
      REQUIRE(table->fill({key, "old"}, table->sample(key), id(seq)) == Stored::kStored);
    }
  }
  Applied apply(Change::Kind kind, std::string_view key, std::string_view value,
                std::uint64_t seq) {
    words().head_seq.store(seq);
    const Applied applied = table->apply({kind, {key, value}, id(seq)}, term);
    follow(seq);
    return applied;
  }
  void follow(std::uint64_t seq) { test::follow(table->segment(), id(seq)); }
  SyncWords& words() { return table->segment().superblock().sync; }
  Stripe& stripe() { return table->segment().stripe(kStripe); }
  void check_keys_miss() {
    for (const std::string& key : keys) REQUIRE_FALSE(read(*table, key).has_value());
  }

  Home home{kSegmentMinBytes};
  std::unique_ptr<Table> table;
  std::vector<std::string> keys;
  std::uint64_t term = 0;
  StoreCounter::Shared* shared = StoreCounter::share();
};

// What a process is stopped in the midst of; always a change of keys[0] that is older than the
// event that comes while it is stopped.
struct Work {
  const char* name;
  bool leads;
  std::function<void(Table&, const std::string& key, std::uint64_t seq, std::uint64_t term)> change;
};

const Work kWorks[] = {
    {"fill", false,
     [](Table& its, const std::string& key, std::uint64_t seq, std::uint64_t) {
       (void)its.fill({key, "late"}, its.sample(key), id(seq));
     }},
    {"own change", false,
     [](Table& its, const std::string& key, std::uint64_t seq, std::uint64_t) {
       (void)its.set({key, "late"}, its.sample(key), id(seq));
     }},
    {"own removal", false,
     [](Table& its, const std::string& key, std::uint64_t seq, std::uint64_t) {
       (void)its.remove(key, its.sample(key), id(seq));
     }},
    {"event of a value", true,
     [](Table& its, const std::string& key, std::uint64_t seq, std::uint64_t term) {
       (void)its.apply({Change::Kind::kSet, {key, "late"}, id(seq)}, term);
     }},
    {"event of a removal", true,
     [](Table& its, const std::string& key, std::uint64_t seq, std::uint64_t term) {
       (void)its.apply({Change::Kind::kDrop, {key, {}}, id(seq)}, term);
     }},
};

}  // namespace

TEST_CASE(
    "a process stopped at any store of a change: others read, give up, miss behind a later event, "
    "and never see what it writes when it goes on") {
  for (const Work& work : kWorks) {
    CAPTURE(std::string(work.name));
    Scene scene;
    Table& table = *scene.table;
    const std::string& key = scene.keys[0];
    const std::string& other = scene.keys[1];
    int inside = 0;
    int outside = 0;
    for (std::uint64_t at = 1;; ++at) {
      CAPTURE(at);
      const std::uint64_t seq = at * 10;
      scene.fill_all(seq);
      // A leader is elected, and its term is over when it goes on: then it may write nothing.
      std::uint64_t its_term = scene.term;
      const auto prepare = [&](Table& its) {
        if (work.leads) its_term = *its.begin_term();
      };
      StoppedAt stopped(table, scene.shared, at, prepare, [&](Table& its) {
        work.change(its, key, seq + 1, its_term);
        if (!work.leads || its.term_is_current(its_term)) return 0;
        // The next of its events.
        const Change next{Change::Kind::kSet, {other, "stale"}, id(seq + 1)};
        return its.apply(next, its_term) == Applied::kStaleTerm ? 0 : 1;
      });
      if (!stopped.stopped()) break;

      const bool is_inside = stopped.is_inside();
      ++(is_inside ? inside : outside);
      if (is_inside) {
        for (std::size_t i = 1; i < scene.keys.size(); ++i) {
          REQUIRE(read(table, scene.keys[i]) == "old");
        }
        const auto seen = read(table, key);
        REQUIRE((!seen || *seen == "old" || *seen == "late"));
        REQUIRE(table.fill({other, "w"}, table.sample(other), id(seq)) == Stored::kBusy);
        REQUIRE(read(table, other) == "old");
      }
      if (work.leads) {
        scene.term = *table.begin_term();
        REQUIRE((scene.stripe().bypass.load() != 0) == is_inside);
      }
      const Applied dropped = scene.apply(Change::Kind::kDrop, key, {}, seq + 2);
      REQUIRE((dropped == Applied::kDeferred) == is_inside);
      if (is_inside) scene.check_keys_miss();
      REQUIRE_FALSE(read(table, key).has_value());

      CHECK(stopped.go_on() == 0);
      if (is_inside) scene.check_keys_miss();
      REQUIRE_FALSE(read(table, key).has_value());
      // The next to come in empties what was bypassed.
      REQUIRE(table.drop(other) == Stored::kStored);
      REQUIRE(scene.stripe().bypass.load() == 0);
      REQUIRE(scene.stripe().term.load() == scene.term);
      REQUIRE_FALSE(read(table, key).has_value());
      REQUIRE(scene.apply(Change::Kind::kSet, key, "news", seq + 3) == Applied::kApplied);
      REQUIRE(read(table, key) == "news");
      REQUIRE(test::faults(table.segment()) == "");
    }
    CHECK(inside > 5);
    CHECK(counted(table, Counter::kStaleTermWrites) == 0);
    CHECK(counted(table, Counter::kStaleTermRefused) >= (work.leads ? inside : 0));
    CHECK(counted(table, Counter::kTakeovers) == 0);
    CHECK(counted(table, Counter::kLocksLost) == 0);
    MESSAGE(std::string(work.name)
            << ": stopped " << inside << " times inside the lock, " << outside << " times outside");
  }
}

TEST_CASE(
    "a candidate stopped at any store of its election: of two, only the later one may write") {
  Scene scene;
  Table& table = *scene.table;
  const std::string& key = scene.keys[0];
  constexpr int kRefused = 0;
  constexpr int kApplied = 2;
  constexpr int kNotElected = 3;
  int not_elected = 0;
  int overtaken = 0;
  for (std::uint64_t at = 1;; ++at) {
    CAPTURE(at);
    const std::uint64_t seq = at * 10;
    scene.fill_all(seq);
    StoppedAt stopped(
        table, scene.shared, at, [](Table&) {},
        [&](Table& its) {
          const auto its_term = its.begin_term();
          StoreCounter::stop();
          if (its_term.code() == Code::kAlreadyExists) return kNotElected;
          const Change change{Change::Kind::kSet, {key, "late"}, id(seq + 1)};
          return its.apply(change, *its_term) == Applied::kStaleTerm ? kRefused : kApplied;
        });
    if (!stopped.stopped()) break;
    scene.term = *table.begin_term();
    // Stopped before it raised the term that it had seen, or after.
    const int did = stopped.go_on();
    REQUIRE((did == kNotElected || did == kRefused));
    ++(did == kNotElected ? not_elected : overtaken);
    REQUIRE(table.term_is_current(scene.term));
    REQUIRE(leader(table.segment()).pid == static_cast<std::uint32_t>(getpid()));
    REQUIRE(scene.apply(Change::Kind::kSet, key, "news", seq + 2) == Applied::kApplied);
    REQUIRE(read(table, key) == "news");
    // We have every stripe.
    REQUIRE(table.drop(key) == Stored::kStored);
    REQUIRE(scene.stripe().term.load() == scene.words().term.load());
    REQUIRE(test::faults(table.segment()) == "");
  }
  CHECK(not_elected > 0);
  CHECK(overtaken > 3);
  CHECK(counted(table, Counter::kStaleTermWrites) == 0);
  CHECK(counted(table, Counter::kStaleTermRefused) == static_cast<std::uint64_t>(overtaken));
}

}  // namespace larder::shm

#endif
