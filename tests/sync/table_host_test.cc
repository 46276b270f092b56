// What the follower's effects do to a segment, where the table alone does not say it.
#include "src/sync/table_host.h"

#include <doctest/doctest.h>

#include "tests/shm/fixture.h"

namespace larder::sync {
namespace {

class SilentLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};

struct Leaders {
  test::Home home;
  std::unique_ptr<shm::Table> table = home.table();
  SilentLogger logger;
  TableHost former = leader();
  TableHost newest = leader();

  TableHost leader() {
    return {*table, *table->begin_term(), std::chrono::milliseconds(1000), logger,
            [](std::string_view) {}};
  }
  std::uint64_t epoch() { return table->sample("k").epoch; }
};

// As an event has its effects.
void follow(TableHost& leader, ChangeId id) {
  REQUIRE(leader.set_head(id));
  leader.set_cursor(id);
}

}  // namespace

TEST_CASE("what was stored while a former leader had moved the cursor goes") {
  Leaders leaders;
  follow(leaders.newest, {10, 1});
  const std::uint64_t epoch = leaders.epoch();
  shm::SyncWords& words = leaders.table->segment().superblock().sync;
  words.cursor_nonce.store(7);  // the former leader was stopped before these stores, for long
  words.cursor_seq.store(3);
  CHECK(leaders.epoch() == epoch);
  SUBCASE("with the next event") { follow(leaders.newest, {11, 2}); }
  SUBCASE("with the next heartbeat") { leaders.newest.repeat_cursor({10, 1}); }
  CHECK(leaders.epoch() == epoch + 1);
}

TEST_CASE(
    "what was stored after a former leader noted its own history goes, and the note as well") {
  Leaders leaders;
  const ChangeId theirs{10, 7};
  follow(leaders.newest, {10, 1});
  CHECK_FALSE(leaders.former.set_head(theirs));  // stopped before this, in the middle of an event
  leaders.former.raise_epoch(RaiseReason::kDiverged);
  CHECK(leaders.former.set_head(theirs));
  shm::History history(leaders.table->segment());
  CHECK(history.rest_on(theirs));  // a worker that still asks the former primary
  SUBCASE("with the next event") { follow(leaders.newest, {11, 2}); }
  SUBCASE("with the next heartbeat") { leaders.newest.repeat_cursor({10, 1}); }
  const std::uint64_t epoch = leaders.epoch();
  CHECK_FALSE(history.rest_on(theirs));
  leaders.newest.repeat_cursor(leaders.newest.cursor());
  CHECK(leaders.epoch() == epoch);  // once is enough
}

TEST_CASE("what was stored between the flush and the new beginning goes as well") {
  Leaders leaders;
  shm::Table& table = *leaders.table;
  follow(leaders.newest, {10, 1});
  leaders.newest.raise_epoch(RaiseReason::kLogLost);
  const auto store = [&](shm::ChangeId id) {
    return table.fill({"k", "of another log"}, table.sample("k"), id);
  };
  REQUIRE(store({12, 7}) == shm::Stored::kStored);
  CHECK_FALSE(leaders.newest.begin_at({15, 2}));
  CHECK(store({13, 7}) == shm::Stored::kRefused);  // the head stands beyond
  leaders.newest.raise_epoch(RaiseReason::kDiverged);
  CHECK(leaders.newest.begin_at({15, 2}));
  leaders.newest.set_cursor({15, 2});
  CHECK_FALSE(table.contains("k"));
}

TEST_CASE("a leader that moves the cursor alone keeps everything") {
  Leaders leaders;
  const std::uint64_t epoch = leaders.epoch();
  follow(leaders.newest, {10, 1});
  TableHost next = leaders.leader();
  follow(next, {11, 2});
  next.repeat_cursor({11, 2});
  follow(next, {12, 3});
  next.repeat_cursor({12, 3});
  CHECK(leaders.epoch() == epoch);
  next.raise_epoch(RaiseReason::kLogLost);
  follow(next, {1, 9});
  follow(next, {2, 9});
  CHECK(leaders.epoch() == epoch + 1);
}

}  // namespace larder::sync
