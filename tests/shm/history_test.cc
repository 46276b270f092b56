// Which changes a copy may rest on.
#include "shm/history.h"

#include <doctest/doctest.h>

#include <string>

#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

struct Host {
  test::Home home;
  std::unique_ptr<Table> table = home.table();
  History history{table->segment()};

  SyncWords& words() { return table->segment().superblock().sync; }
  // As the leader does it.
  bool follow(ChangeId id) {
    const bool agrees = history.follow(id);
    words().cursor_nonce.store(id.nonce);
    words().cursor_seq.store(id.seq);
    return agrees;
  }
};

ChangeId id(std::uint64_t seq, std::uint64_t nonce = 7) { return {seq, nonce}; }

TEST_CASE("a copy may rest on what was followed lately, exactly that") {
  Host host;
  for (std::uint64_t seq = 1; seq <= kHistory + 10; ++seq) REQUIRE(host.follow(id(seq)));
  CHECK(host.history.rest_on(id(kHistory + 10)));
  CHECK(host.history.rest_on(id(11)));
  CHECK_FALSE(host.history.rest_on(id(11, 8)));
  CHECK_FALSE(host.history.rest_on(id(10)));  // too long ago to tell
  CHECK(host.history.ahead() == 0);
}

TEST_CASE("a copy may rest on what is ahead of the cursor, which is noted") {
  Host host;
  host.follow(id(100));
  CHECK(host.history.rest_on(id(103)));
  CHECK(host.history.knows(id(103)));
  CHECK(host.history.ahead() == 103);
  CHECK(host.history.rest_on(id(102)));
  CHECK(host.history.ahead() == 103);
  for (std::uint64_t seq = 101; seq <= 103; ++seq) CHECK(host.follow(id(seq)));
  CHECK(host.history.ahead() == 0);
}

TEST_CASE("but not on what is so far ahead that it cannot be noted") {
  Host host;
  host.follow(id(100));
  CHECK(host.history.rest_on(id(99 + kHistory)));
  CHECK_FALSE(host.history.rest_on(id(100 + kHistory)));  // it would take the cursor's place
  CHECK(host.history.ahead() == 99 + kHistory);
  CHECK(host.history.knows(id(100)));
}

// Schedule 1: Redis answered 101, lost it, and gave the number to another change.
TEST_CASE("another change under a noted number is a divergence, whoever comes first") {
  Host host;
  host.follow(id(100));
  SUBCASE("the leader finds the note") {
    CHECK(host.history.rest_on(id(101)));
    CHECK_FALSE(host.follow(id(101, 8)));
    CHECK_FALSE(host.follow(id(101, 8)));  // the next leader, if that one died
  }
  SUBCASE("a late reply finds the leader gone on") {
    CHECK(host.follow(id(101, 8)));
    CHECK_FALSE(host.history.rest_on(id(101)));
    CHECK(host.follow(id(102, 8)));
    CHECK_FALSE(host.history.rest_on(id(101)));
  }
  SUBCASE("of two replies of two histories the second is refused") {
    CHECK(host.history.rest_on(id(101)));
    CHECK_FALSE(host.history.rest_on(id(101, 8)));
    CHECK(host.history.rest_on(id(101)));
  }
}

// A worker stored between a leader's flush and its new beginning.
TEST_CASE("a log may not begin behind what was noted since all was forgotten") {
  Host host;
  host.follow(id(100));
  host.history.forget();
  const auto begin_at = [&](ChangeId end) {
    host.words().head_seq.store(end.seq);
    return host.history.begin_at(end);
  };
  CHECK(host.history.rest_on(id(120)));  // of this log, or of another
  CHECK_FALSE(begin_at(id(130)));
  CHECK_FALSE(begin_at(id(120, 8)));
  CHECK(begin_at(id(120)));
  CHECK(begin_at(id(110)));
  host.history.forget();
  CHECK(begin_at(id(130)));
  // Nor is anything noted behind it any more, though the cursor has not come so far.
  CHECK_FALSE(host.history.rest_on(id(120)));
  CHECK(host.history.rest_on(id(130)));
  CHECK(host.history.rest_on(id(131)));
  CHECK(begin_at({}));
}

TEST_CASE("numbers that share a word are told apart") {
  Host host;
  host.follow(id(100));
  CHECK(host.history.rest_on(id(101)));
  for (std::uint64_t seq = 101; seq <= 101 + 3 * kHistory; ++seq) CHECK(host.follow(id(seq)));
  CHECK_FALSE(host.history.knows(id(101)));
  CHECK_FALSE(host.history.knows(id(101 + kHistory)));
  CHECK(host.history.knows(id(101 + 3 * kHistory)));
}

TEST_CASE("an empty log is a history only where nothing was followed") {
  Host host;
  CHECK(host.history.rest_on({}));
  host.follow(id(1));
  CHECK_FALSE(host.history.rest_on({}));
}

TEST_CASE("what was noted is forgotten with the epoch") {
  Host host;
  host.follow(id(100));
  CHECK(host.history.rest_on(id(101)));
  host.history.forget();
  CHECK(host.history.ahead() == 0);
  CHECK_FALSE(host.history.knows(id(100)));
  CHECK(host.follow(id(3, 9)));
}

TEST_CASE("nothing is stored that rests on a change of another history") {
  Host host;
  host.follow(id(100));
  const Sample sample = host.table->sample("k");
  CHECK(host.table->set({"k", "lost"}, sample, id(101)) == Stored::kStored);
  CHECK(host.table->set({"other", "x"}, host.table->sample("other"), id(101, 8)) ==
        Stored::kRefused);
  CHECK(host.table->fill({"other", "x"}, host.table->sample("other"), id(101, 8)) ==
        Stored::kRefused);
  std::string value;
  CHECK_FALSE(host.table->get("other", value));
  CHECK(host.table->get("k", value));
}

// What a refused set leaves must not be the value that it was to replace.
TEST_CASE("a set that may not be stored takes the older copy with it") {
  Host host;
  host.follow(id(100));
  CHECK(host.table->set({"k", "old"}, host.table->sample("k"), id(101)) == Stored::kStored);
  CHECK(host.table->set({"k", "new"}, host.table->sample("k"), id(5000)) == Stored::kRefused);
  std::string value;
  CHECK_FALSE(host.table->get("k", value));
}

}  // namespace
}  // namespace larder::shm
