// Which change wins: stamps, guards, terms, the bypass. What the leader and callers do is played by
// the test, with log positions of its own.
#include <doctest/doctest.h>

#include <deque>
#include <map>
#include <thread>

#include "shm/clock.h"
#include "shm/history.h"
#include "shm/lock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

using test::Home;
using test::Random;
using test::read;

// The nonce that our log gave to a seq.
ChangeId id(std::uint64_t seq) { return {seq, seq * 1'000'003 + 17}; }

// One host: its table, and the leader's words as a leader writes them.
struct Host {
  Home home;
  std::unique_ptr<Table> table = home.table();
  std::uint64_t term = *table->begin_term();
  History history{table->segment()};

  SyncWords& words() { return table->segment().superblock().sync; }
  std::uint32_t stripe_of(std::string_view key) {
    Segment& segment = table->segment();
    return place_of(segment, segment.hash(key)).stripe;
  }
  Stripe& stripe(std::string_view key) { return table->segment().stripe(stripe_of(key)); }

  Applied event(Change::Kind kind, std::string_view key, std::string_view value, ChangeId change) {
    if (!change.none()) (void)history.follow(change);
    if (!change.none()) words().head_seq.store(change.seq);
    const Applied applied = table->apply({kind, {key, value}, change}, term);
    if (!change.none() && applied != Applied::kStaleTerm) move_cursor(change);
    return applied;
  }
  Applied set_event(std::string_view key, std::string_view value, std::uint64_t seq) {
    return event(Change::Kind::kSet, key, value, id(seq));
  }
  Applied drop_event(std::string_view key, std::uint64_t seq) {
    return event(Change::Kind::kDrop, key, {}, id(seq));
  }
  void move_cursor(ChangeId to) {
    words().head_seq.store(to.seq);
    words().cursor_seq.store(to.seq);
    words().cursor_nonce.store(to.nonce);
  }
  Sample sample(std::string_view key) { return table->sample(key); }
  Stored fill(std::string_view key, std::string_view value, std::uint64_t reach) {
    return table->fill({key, value}, sample(key), id(reach));
  }
  auto get(std::string_view key) { return read(*table, key); }
  std::string faults() { return test::faults(table->segment()); }
};

// Another live process that is inside a stripe and does not come out.
class Intruder {
 public:
  Intruder(Host& host, std::string_view key)
      : table_(host.home.table()), stripe_(host.stripe(key)) {
    self_ = *table_->processes().self();
    REQUIRE(acquire(stripe_, self_, table_->processes(), std::chrono::milliseconds(0)) ==
            Acquired::kClean);
  }
  ~Intruder() { leave(); }
  void leave() {
    if (self_ != 0) CHECK(release(stripe_, self_));
    self_ = 0;
  }

 private:
  std::unique_ptr<Table> table_;
  Stripe& stripe_;
  std::uint32_t self_;
};

}  // namespace

// ---- an event meets an entry ------------------------------------------------------------------

TEST_CASE("an event up to an entry's base is old") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.fill("k", "filled", 15) == Stored::kStored);
  CHECK(host.set_event("k", "old", 9) == Applied::kOld);
  CHECK(host.drop_event("k", 10) == Applied::kOld);
  CHECK(host.get("k") == "filled");
}

TEST_CASE("an event with the entry's own id confirms it") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.table->set({"k", "mine"}, host.sample("k"), id(15)) == Stored::kStored);
  CHECK(host.set_event("k", "mine", 15) == Applied::kOld);
  CHECK(host.get("k") == "mine");
  CHECK(host.table->set({"l", "mine"}, host.sample("l"), id(16)) == Stored::kStored);
  CHECK(host.drop_event("l", 16) == Applied::kOld);  // set_with_invalidate hears itself
  CHECK(host.get("l") == "mine");
}

TEST_CASE("an event that is older than this host's own removal does not bring the value back") {
  Host host;
  CHECK(host.table->remove("k", host.sample("k"), id(11)) == Stored::kStored);
  host.set_event("k", "removed since", 10);
  CHECK(host.get("k") == std::nullopt);
  CHECK(host.set_event("k", "newer", 12) == Applied::kApplied);
  CHECK(host.get("k") == "newer");
}

TEST_CASE("an event that is older than this host's own change is not served in its place") {
  Host host;
  const std::string huge(4u << 20, 'x');  // too large for a stripe: Redis alone has it
  CHECK(host.table->set({"k", huge}, host.sample("k"), id(21)) == Stored::kTooLarge);
  host.set_event("k", "older", 20);
  CHECK(host.get("k") == std::nullopt);
}

TEST_CASE("an event between base and reach drops the entry: it may or may not contain the change") {
  Host host;
  for (const auto kind : {Change::Kind::kSet, Change::Kind::kDrop}) {
    for (const std::uint64_t seq : {11, 14}) {
      CAPTURE(seq);
      host.move_cursor(id(10));
      const std::string key = "k" + std::to_string(seq) + std::to_string(static_cast<int>(kind));
      CHECK(host.fill(key, "filled", 15) == Stored::kStored);
      CHECK(host.event(kind, key, "news", id(seq)) == Applied::kApplied);
      CHECK_FALSE(host.get(key).has_value());
    }
  }
  // The entry's seq under another nonce is another history.
  host.move_cursor(id(10));
  CHECK(host.fill("other", "filled", 15) == Stored::kStored);
  CHECK(host.event(Change::Kind::kSet, "other", "news", {15, 1}) == Applied::kApplied);
  CHECK_FALSE(host.get("other").has_value());
  CHECK(host.faults().empty());
}

TEST_CASE("an event beyond an entry's reach is applied") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.fill("k", "filled", 15) == Stored::kStored);
  CHECK(host.set_event("k", "news", 16) == Applied::kApplied);
  CHECK(host.get("k") == "news");
  CHECK(host.drop_event("k", 17) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.set_event("unknown", "pushed", 18) == Applied::kApplied);
  CHECK(host.get("unknown") == "pushed");
}

TEST_CASE("a base that lies further back than the entry can say counts as the beginning") {
  Host host;
  const std::uint64_t far = 10ull << 32;
  host.move_cursor(id(5));
  const Sample sample = host.sample("k");
  (void)host.history.follow(id(far));
  host.move_cursor(id(far));
  CHECK(host.table->fill({"k", "filled"}, sample, id(far)) == Stored::kStored);
  // Between base and reach, though further back than the lag can say: not old.
  CHECK(host.drop_event("k", far / 2) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
}

TEST_CASE("an event of this epoch replaces an entry of an earlier one, whatever its stamps") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.fill("k", "filled", 900) == Stored::kStored);
  host.table->raise_epoch();
  CHECK(host.set_event("k", "news", 22) == Applied::kApplied);
  CHECK(host.get("k") == "news");
}

TEST_CASE("an event without an id drops or replaces, and refuses what was asked before it") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.fill("k", "filled", 15) == Stored::kStored);
  const Sample before = host.sample("k");
  CHECK(host.event(Change::Kind::kDrop, "k", {}, {}) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.table->fill({"k", "late"}, before, id(20)) == Stored::kRefused);
  CHECK(host.table->set({"k", "late"}, before, id(21)) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.event(Change::Kind::kSet, "k", "trusted", {}) == Applied::kApplied);
  CHECK(host.get("k") == "trusted");
  CHECK(host.set_event("k", "news", 22) == Applied::kApplied);
  CHECK(host.get("k") == "news");
}

// ---- late replies -----------------------------------------------------------------------------

TEST_CASE(
    "a reply that is older than an applied event is refused, also for a key that is not held") {
  Host host;
  host.move_cursor(id(10));
  const Sample early = host.sample("k");
  CHECK(host.drop_event("k", 20) == Applied::kApplied);
  CHECK(host.table->fill({"k", "late"}, early, id(15)) == Stored::kRefused);
  CHECK(host.table->fill({"k", "late"}, host.sample("k"), id(15)) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(test::counted(*host.table, Counter::kStoresRefused) == 2);
  // One that knows of the event is kept, sampled early or not.
  CHECK(host.table->fill({"k", "fresh"}, early, id(20)) == Stored::kStored);
  CHECK(host.get("k") == "fresh");
}

TEST_CASE("a reply that is older than one's own set is refused and does not disturb it") {
  Host host;
  const Sample early = host.sample("k");
  CHECK(host.table->set({"k", "mine"}, host.sample("k"), id(20)) == Stored::kStored);
  CHECK(host.table->fill({"k", "late"}, early, id(15)) == Stored::kRefused);
  CHECK(host.get("k") == "mine");
  CHECK(host.table->set({"k", "earlier"}, early, id(19)) == Stored::kRefused);
  CHECK(host.get("k") == "mine");
  CHECK(host.table->set({"k", "later"}, early, id(21)) == Stored::kStored);
  CHECK(host.get("k") == "later");
}

TEST_CASE(
    "a reply that is older than one's own set is refused, also when that is not held any more") {
  Host host;
  const Sample early = host.sample("k");
  CHECK(host.table->set({"k", "mine"}, host.sample("k"), id(20)) == Stored::kStored);
  CHECK(host.table->drop("k") == Stored::kStored);  // or evicted
  CHECK(host.table->fill({"k", "late"}, early, id(19)) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
  // Nor when it was never held, because it did not fit.
  CHECK(host.table->set({"l", std::string(4 << 20, 'x')}, host.sample("l"), id(30)) ==
        Stored::kTooLarge);
  CHECK(host.table->fill({"l", "late"}, early, id(29)) == Stored::kRefused);
  CHECK_FALSE(host.get("l").has_value());
}

TEST_CASE("a reply that is older than one's own removal is refused") {
  Host host;
  const Sample early = host.sample("k");
  CHECK(host.fill("k", "filled", 15) == Stored::kStored);
  CHECK(host.table->remove("k", host.sample("k"), id(20)) == Stored::kStored);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.table->fill({"k", "late"}, early, id(19)) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
  // The removal itself can be late.
  CHECK(host.fill("k", "newer", 30) == Stored::kStored);
  CHECK(host.table->remove("k", early, id(25)) == Stored::kRefused);
  CHECK(host.get("k") == "newer");
}

TEST_CASE("a reply of a new epoch is refused when one's own change began in the one before") {
  Host host;
  const Sample before = host.sample("k");
  host.table->raise_epoch();
  const Sample asked = host.sample("k");  // and Redis answers before it takes the change
  SUBCASE("a set") { CHECK(host.table->set({"k", "new"}, before, id(8)) == Stored::kRefused); }
  SUBCASE("a removal") { CHECK(host.table->remove("k", before, id(8)) == Stored::kStored); }
  CHECK(host.table->fill({"k", "old"}, asked, id(7)) == Stored::kRefused);
  CHECK(host.get("k") == std::nullopt);
  CHECK(host.fill("k", "new", 8) == Stored::kStored);
}

TEST_CASE("a set that is overtaken takes the older copy with it") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.fill("k", "filled", 15) == Stored::kStored);
  const Sample sample = host.sample("k");
  host.event(Change::Kind::kDrop, "another key", {}, {});  // perhaps of another guard
  CHECK(host.drop_event("k", 40) == Applied::kApplied);
  CHECK(host.fill("k", "fresh", 40) == Stored::kStored);
  CHECK(History(host.table->segment()).follow(id(30)));
  CHECK(host.table->set({"k", "mine"}, sample, id(30)) == Stored::kRefused);
  CHECK(host.get("k") == "fresh");
  CHECK(host.table->raise_epoch() == sample.epoch + 1);
  CHECK(host.table->fill({"k", "late"}, sample, id(50)) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
}

TEST_CASE("one's own change leaves no copy of before when the log has begun anew") {
  Host host;
  host.move_cursor(id(20));
  CHECK(host.fill("k", "old", 25) == Stored::kStored);
  const ChangeId first{1, 99};  // by its number older than what is held
  SUBCASE("a set") {
    CHECK(host.table->set({"k", "new"}, host.sample("k"), first) == Stored::kRefused);
  }
  SUBCASE("a removal") {
    CHECK(host.table->remove("k", host.sample("k"), first) == Stored::kStored);
  }
  CHECK_FALSE(host.get("k").has_value());
}

TEST_CASE("a reply from before what was followed when it was asked for is refused") {
  Host host;
  CHECK(host.drop_event("k", 20) == Applied::kApplied);
  CHECK(History(host.table->segment()).follow(id(19)));
  host.table->raise_epoch();  // no guard knows of the event any more
  // A replica that lags answers.
  CHECK(host.fill("k", "old", 19) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.fill("k", "new", 21) == Stored::kStored);
}

TEST_CASE("an event of before one's own change stores nothing, even if the epoch rose meanwhile") {
  Host host;
  host.move_cursor(id(10));
  const Sample before = host.sample("k");
  host.table->raise_epoch();
  SUBCASE("a set") { CHECK(host.table->set({"k", "mine"}, before, id(15)) == Stored::kRefused); }
  SUBCASE("a removal") { CHECK(host.table->remove("k", before, id(15)) == Stored::kStored); }
  CHECK(host.set_event("k", "older", 12) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.set_event("k", "newer", 16) == Applied::kApplied);
  CHECK(host.get("k") == "newer");
}

TEST_CASE("nor if the epoch rose afterwards") {
  Host host;
  host.move_cursor(id(10));
  CHECK(host.table->remove("k", host.sample("k"), id(15)) == Stored::kStored);
  host.table->raise_epoch();
  const Sample before = host.sample("k");
  CHECK(host.set_event("k", "older", 12) == Applied::kApplied);
  CHECK(host.drop_event("another", 13) == Applied::kApplied);
  CHECK(host.set_event("k", "old", 14) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.table->fill({"k", "late"}, before, id(13)) == Stored::kRefused);
  CHECK(host.set_event("k", "newer", 16) == Applied::kApplied);
  CHECK(host.get("k") == "newer");
}

TEST_CASE("nor of before one's own clear, whenever the epoch rises") {
  Host host;
  host.move_cursor(id(10));
  const std::uint64_t epoch = host.sample("k").epoch;
  SUBCASE("after it") {
    host.table->raise_floor(epoch, 15);
    host.table->raise_epoch();
  }
  SUBCASE("while it is under way") {
    host.table->raise_epoch();
    host.table->raise_floor(epoch, 15);
  }
  CHECK(host.set_event("k", "older", 12) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.set_event("k", "newer", 16) == Applied::kApplied);
  CHECK(host.get("k") == "newer");
}

TEST_CASE("nor if an older clear is heard of after the epoch rose") {
  Host host;
  host.table->raise_floor(host.sample("k").epoch, 13);  // one's own
  host.table->raise_epoch();
  host.history.forget();
  host.table->raise_floor(host.sample("k").epoch, 3);
  CHECK(host.set_event("k", "of before", 11) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.set_event("k", "of after", 14) == Applied::kApplied);
  CHECK(host.get("k") == "of after");
}

// A server that lags does not know of it, and a guard of before the raise tells nothing.
TEST_CASE("a reply that does not know of the event being applied is refused") {
  Host host;
  CHECK(host.table->set({"k", "own"}, host.sample("k"), id(50)) == Stored::kStored);
  host.table->raise_epoch();
  host.history.forget();
  host.move_cursor(id(20));
  host.words().head_seq.store(21);
  CHECK(host.table->apply({Change::Kind::kSet, {"k", "new"}, id(21)}, host.term) ==
        Applied::kApplied);
  const Sample sample = host.sample("k");  // the cursor has not moved yet
  (void)host.history.follow(id(20));
  CHECK(host.table->fill({"k", "old"}, sample, id(20)) == Stored::kRefused);
  host.move_cursor(id(21));
  CHECK_FALSE(host.get("k").has_value());
}

TEST_CASE("where the log began anew long ago, a guard of before keeps no value out") {
  Host host;
  CHECK(host.drop_event("k", 1'000'000) == Applied::kApplied);
  host.table->raise_epoch();
  CHECK(host.set_event("k", "v", 5) == Applied::kApplied);
  CHECK(host.get("k") == "v");
}

TEST_CASE("after one's own change in a log that began anew, no reply that is under way is kept") {
  Host host;
  CHECK(host.drop_event("k", 20) == Applied::kApplied);
  const Sample before = host.sample("k");
  CHECK(host.table->set({"k", "mine"}, host.sample("k"), {1, 99}) == Stored::kRefused);
  CHECK(host.table->fill({"k", "old"}, before, id(20)) == Stored::kRefused);
  CHECK_FALSE(host.get("k").has_value());
}

TEST_CASE("after a copy was dropped that may have been read, nothing older is kept") {
  Host host;
  host.move_cursor(id(5));
  CHECK(host.fill("k", "ten", 10) == Stored::kStored);
  SUBCASE("by an event that it may not contain") {
    CHECK(host.drop_event("k", 6) == Applied::kApplied);
  }
  SUBCASE("by an event without an id") {
    CHECK(host.event(Change::Kind::kDrop, "k", {}, {}) == Applied::kApplied);
  }
  SUBCASE("by a change whose outcome is not known") {
    CHECK(host.table->drop("k") == Stored::kStored);
  }
  CHECK(History(host.table->segment()).rest_on(id(9)));
  CHECK(host.fill("k", "nine", 9) == Stored::kRefused);
  CHECK(host.set_event("k", "nine", 9) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
  CHECK(host.set_event("k", "ten", 10) == Applied::kApplied);
  CHECK(host.get("k") == "ten");
}

TEST_CASE("a guard of an earlier epoch refuses nothing") {
  Host host;
  CHECK(host.drop_event("k", 1'000'000) == Applied::kApplied);
  CHECK(host.fill("k", "v", 5) == Stored::kRefused);
  host.table->raise_epoch();
  host.history.forget();
  host.move_cursor({});
  CHECK(host.fill("k", "v", 5) == Stored::kStored);  // a log that began anew
  CHECK(host.get("k") == "v");
}

TEST_CASE("a change whose outcome is not known drops the copy, however new") {
  Host host;
  CHECK(host.fill("k", "v", 500) == Stored::kStored);
  CHECK(host.table->drop("k") == Stored::kStored);
  CHECK_FALSE(host.get("k").has_value());
}

// ---- terms ------------------------------------------------------------------------------------

TEST_CASE("a leader that was replaced writes nothing") {
  Host host;
  CHECK(host.fill("k", "v", 5) == Stored::kStored);
  const std::uint64_t stale = host.term;
  CHECK(host.table->term_is_current(stale));
  auto other = host.home.table();
  const auto newer = other->begin_term();
  REQUIRE(newer.ok());
  CHECK(*newer == stale + 1);
  CHECK_FALSE(host.table->term_is_current(stale));
  CHECK(host.set_event("k", "stale", 10) == Applied::kStaleTerm);
  CHECK(host.event(Change::Kind::kDrop, "k", {}, {}) == Applied::kStaleTerm);
  CHECK(host.get("k") == "v");
  host.words().head_seq.store(0);                    // as the newest leader repeats it
  CHECK(host.fill("k", "w", 9) == Stored::kStored);  // not even its guard was raised
  CHECK(other->apply({Change::Kind::kDrop, {"k", {}}, id(10)}, *newer) == Applied::kApplied);
  CHECK_FALSE(host.get("k").has_value());
}

TEST_CASE("who was stopped in an election that another has won since changes nothing") {
  Host host;
  const std::uint64_t seen = host.term;
  auto other = host.home.table();
  const auto newer = other->begin_term(seen);
  REQUIRE(newer.ok());
  CHECK(*newer == seen + 1);
  CHECK(host.table->begin_term(seen).code() == Code::kAlreadyExists);
  CHECK(host.table->begin_term(seen, false).code() == Code::kAlreadyExists);
  CHECK(other->term_is_current(*newer));
  CHECK_FALSE(other->leader_awaits_lock());
}

TEST_CASE("who leads without the lock is asked for no more when a newer term has begun") {
  Host host;
  const auto term = host.table->begin_term(host.term, false);
  REQUIRE(term.ok());
  auto other = host.home.table();
  CHECK(other->leader_awaits_lock());
  // The next one dies before it puts its name down.
  host.words().term.fetch_add(1);
  CHECK_FALSE(other->leader_awaits_lock());
}

TEST_CASE("a leader whose term was not sealed because a stripe was locked is sealed by the wipe") {
  Host host;
  CHECK(host.fill("k", "v", 5) == Stored::kStored);
  auto other = host.home.table();
  Intruder intruder(host, "k");
  const auto newer = other->begin_term();  // waits its time, then bypasses that stripe
  REQUIRE(newer.ok());
  CHECK_FALSE(host.get("k").has_value());
  // The old leader finds neither lock nor term.
  CHECK(host.set_event("k", "stale", 10) == Applied::kStaleTerm);
  intruder.leave();
  CHECK(host.set_event("k", "stale", 11) == Applied::kStaleTerm);
  CHECK(host.stripe("k").term.load() == *newer);
  CHECK(other->apply({Change::Kind::kSet, {"k", "news"}, id(12)}, *newer) == Applied::kApplied);
  CHECK(host.get("k") == "news");
  CHECK(host.faults().empty());
}

TEST_CASE("a stripe that carries a term from nowhere is sealed by the next leader") {
  Host host;
  host.stripe("k").term.store(UINT64_MAX);
  CHECK(host.set_event("k", "v", 5) == Applied::kStaleTerm);
  host.term = *host.table->begin_term();
  CHECK(host.set_event("k", "v", 6) == Applied::kApplied);
  CHECK(host.get("k") == "v");
}

TEST_CASE("a leader that is overtaken while it seals does not unseal what the newer one sealed") {
  Host host;
  auto other = host.home.table();
  {
    // The first leader of the two waits for this stripe; meanwhile the second raises the term.
    Intruder intruder(host, "k");
    std::thread first([&] { (void)host.table->begin_term(); });
    CHECK(test::await([&] { return (host.stripe("k").lock.load() & kWaiters) != 0; }));
    host.words().term.fetch_add(1);
    host.stripe("k").term.store(host.words().term.load());  // and has sealed it already
    intruder.leave();
    first.join();
  }
  CHECK(host.stripe("k").term.load() == host.words().term.load());
}

// ---- the bypass -------------------------------------------------------------------------------

TEST_CASE("an event that cannot get the lock makes readers miss until the stripe was wiped") {
  Host host;
  host.move_cursor(id(100));
  host.words().head_seq.store(100);
  const auto keys = test::keys_of_stripe(host.table->segment(), host.stripe_of("k"), 3);
  for (const std::string& key : keys) CHECK(host.fill(key, "old", 105) == Stored::kStored);
  // Somebody's reply is under way: it has read the old value, with reach 110.
  const Sample under_way = host.sample(keys[0]);
  Intruder intruder(host, "k");
  CHECK(host.drop_event(keys[0], 120) == Applied::kDeferred);
  for (const std::string& key : keys) CHECK_FALSE(host.get(key).has_value());
  // Behind the bypass the leader only tries, and callers' stores wait no longer than they may.
  const std::uint64_t begun = now_ms();
  CHECK(host.drop_event(keys[1], 121) == Applied::kDeferred);
  CHECK(now_ms() - begun < 40);
  CHECK(host.table->fill({keys[0], "old"}, under_way, id(110)) == Stored::kBusy);
  intruder.leave();
  // Still: nobody wiped yet.
  CHECK_FALSE(host.get(keys[2]).has_value());
  // The next to come in wipes, and the old reply finds a guard that knows of 121.
  CHECK(host.table->fill({keys[0], "old"}, under_way, id(110)) == Stored::kRefused);
  CHECK(test::counted(*host.table, Counter::kWipes) == 1);
  CHECK(host.stripe("k").bypass.load() == 0);
  for (const std::string& key : keys) CHECK_FALSE(host.get(key).has_value());
  // Asked anew, but of somebody who lags behind: refused for its reach.
  CHECK(host.fill(keys[0], "old", 110) == Stored::kRefused);
  CHECK(host.fill(keys[0], "fresh", 121) == Stored::kStored);
  CHECK(host.get(keys[0]) == "fresh");
  CHECK(host.faults().empty());
}

TEST_CASE("one's own change that cannot get the lock does not leave the older value readable") {
  Host host;
  for (const bool removal : {false, true}) {
    CAPTURE(removal);
    CHECK(host.table->set({"k", "old"}, host.sample("k"), {}) == Stored::kStored);
    CHECK(host.get("k") == "old");
    {
      Intruder intruder(host, "k");
      const Sample sample = host.sample("k");
      CHECK((removal ? host.table->remove("k", sample, id(50))
                     : host.table->set({"k", "new"}, sample, id(50))) == Stored::kBusy);
      CHECK_FALSE(host.get("k").has_value());
    }
    // The event of an older change comes first: it wipes, and is not what is read then.
    CHECK(host.set_event("k", "older", 49) == Applied::kApplied);
    CHECK(test::counted(*host.table, Counter::kWipes) == (removal ? 2 : 1));
    CHECK_FALSE(host.get("k").has_value());
    host.table->raise_epoch();  // the wipe's guards are of no concern to the next round
  }
  CHECK(test::counted(*host.table, Counter::kLockTimeouts) == 2);
}

TEST_CASE("a fill that cannot get the lock changes nothing") {
  Host host;
  CHECK(host.fill("k", "held", 5) == Stored::kStored);
  Intruder intruder(host, "k");
  CHECK(host.fill("k", "new", 6) == Stored::kBusy);
  CHECK(host.get("k") == "held");
}

TEST_CASE("a bypass is lifted by whoever comes in next, be it only to store another key") {
  Host host;
  const auto keys = test::keys_of_stripe(host.table->segment(), host.stripe_of("k"), 2);
  CHECK(host.fill(keys[0], "v", 5) == Stored::kStored);
  host.stripe("k").bypass.fetch_add(3);
  CHECK_FALSE(host.get(keys[0]).has_value());
  CHECK(host.fill(keys[1], "v", 5) == Stored::kRefused);  // sampled before the wipe that it made
  CHECK(host.stripe("k").bypass.load() == 0);
  CHECK_FALSE(host.get(keys[0]).has_value());
  CHECK(host.fill(keys[1], "v", 5) == Stored::kStored);
  CHECK(host.get(keys[1]) == "v");
}

// ---- the rules together -----------------------------------------------------------------------

namespace {

// Redis, the network and a host, at the pace of a random number generator. Whatever the order in
// which replies and events arrive: no value is read that is older than the newest event applied to
// its key.
class Storm {
 public:
  explicit Storm(std::uint64_t seed) : random_(seed) {}

  void run(int turns) {
    for (int turn = 0; turn < turns; ++turn) {
      one_turn();
      const std::string key = any_key();
      const auto seen = host_.get(key);
      if (!seen) continue;
      ++hits_;
      const auto version = test::number_of(key, *seen);
      REQUIRE(version.has_value());
      REQUIRE(*version >= applied_[key]);
      REQUIRE(*version <= log_);
    }
    CHECK(hits_ > static_cast<std::uint64_t>(turns) / 20);
    CHECK(host_.faults().empty());
  }

 private:
  struct Reply {
    std::string key;
    std::uint64_t version;  // 0: a removal
    Sample sample;
    std::uint64_t reach;
    bool own;
  };
  struct Event {
    std::string key;
    bool push;
    std::uint64_t seq;
  };

  std::string any_key() { return "storm-" + std::to_string(random_.below(6)); }

  void change(const std::string& key, bool removal) {
    redis_[key] = removal ? 0 : ++log_;
    if (removal) ++log_;
    last_change_[key] = log_;
    events_.push_back({key, !removal && random_.one_in(2), log_});
  }

  void one_turn() {
    const std::string key = any_key();
    switch (random_.below(8)) {
      case 0:  // another host
        return change(key, random_.one_in(4));
      case 1: {  // our own change; Redis has it, its reply is under way
        const Sample sample = host_.sample(key);
        for (std::uint64_t others = random_.below(3); others > 0; --others)
          change(any_key(), false);
        const bool removal = random_.one_in(4);
        change(key, removal);
        replies_.push_back({key, removal ? 0 : log_, sample, log_, true});
        return;
      }
      case 2:
      case 3: {  // a fill; Redis has answered
        const Sample sample = host_.sample(key);
        for (std::uint64_t others = random_.below(3); others > 0; --others)
          change(any_key(), false);
        if (redis_[key] == 0) return;
        replies_.push_back({key, redis_[key], sample, log_, false});
        return;
      }
      case 4:
      case 5: {  // some reply arrives, in any order
        if (replies_.empty()) return;
        const std::size_t which = random_.below(replies_.size());
        const Reply reply = replies_[which];
        replies_.erase(replies_.begin() + static_cast<std::ptrdiff_t>(which));
        return arrive(reply);
      }
      case 6: {  // the leader's next event
        if (events_.empty()) return;
        const Event event = events_.front();
        events_.pop_front();
        const std::string value =
            event.push ? test::make_value(event.key, event.seq, 40) : std::string();
        host_.event(event.push ? Change::Kind::kSet : Change::Kind::kDrop, event.key, value,
                    id(event.seq));
        applied_[event.key] = event.seq;
        return;
      }
      default:
        if (random_.one_in(50)) {  // the connection broke: as the leader does, end first
          events_.clear();
          host_.table->raise_epoch();
          host_.history.forget();
          (void)host_.history.follow(id(log_));
          host_.words().head_seq.store(log_);
          host_.move_cursor(id(log_));
          applied_ = last_change_;
        } else if (random_.one_in(20)) {  // somebody was late and left a bypass
          host_.stripe(key).bypass.fetch_add(1);
        }
    }
  }

  void arrive(const Reply& reply) {
    if (reply.version == 0) {
      (void)host_.table->remove(reply.key, reply.sample, id(reply.reach));
      return;
    }
    const std::string value = test::make_value(reply.key, reply.version, 40);
    const Record record{reply.key, value};
    (void)(reply.own ? host_.table->set(record, reply.sample, id(reply.reach))
                     : host_.table->fill(record, reply.sample, id(reply.reach)));
  }

  Random random_;
  Host host_;
  std::uint64_t log_ = 0;
  std::map<std::string, std::uint64_t> redis_;  // 0: none
  std::map<std::string, std::uint64_t> last_change_;
  std::map<std::string, std::uint64_t> applied_;
  std::deque<Event> events_;
  std::vector<Reply> replies_;
  std::uint64_t hits_ = 0;
};

}  // namespace

TEST_CASE("in any order of replies and events, no read is older than the last event of its key") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    Storm(seed).run(4000);
  }
}

}  // namespace larder::shm
