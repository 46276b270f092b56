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

}  // namespace

TEST_CASE("what was stored while a former leader had moved the cursor goes") {
  Leaders leaders;
  leaders.newest.set_cursor({10, 1});
  const std::uint64_t epoch = leaders.epoch();
  leaders.former.set_cursor({3, 7});  // stopped before this store, for long
  CHECK(leaders.epoch() == epoch);
  SUBCASE("with the next event") { leaders.newest.set_cursor({11, 2}); }
  SUBCASE("with the next heartbeat") { leaders.newest.repeat_cursor({10, 1}); }
  CHECK(leaders.epoch() == epoch + 1);
}

TEST_CASE("a leader that moves the cursor alone keeps everything") {
  Leaders leaders;
  const std::uint64_t epoch = leaders.epoch();
  leaders.former.set_cursor({10, 1});
  leaders.newest.set_cursor({11, 2});
  leaders.newest.repeat_cursor({11, 2});
  leaders.newest.set_cursor({12, 3});
  CHECK(leaders.epoch() == epoch);
}

}  // namespace larder::sync
