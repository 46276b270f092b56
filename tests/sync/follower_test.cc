// The protocol, one rule a test, and then all of them at random against a model.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "src/sync/follower.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace larder::sync {
namespace {

using shm::Counter;
using shm::SyncCounter;
using Calls = std::vector<std::string>;

ChangeId id(std::uint64_t seq, std::uint64_t branch = 7) { return {seq, seq == 0 ? 0 : branch}; }

std::string text(ChangeId change) {
  return std::to_string(change.seq) + "-" + std::to_string(change.nonce);
}

std::string payload(const Event& event) {
  return event_head(event, WireFormat::kJson) + event_tail(event, WireFormat::kJson);
}

Event set_event(ChangeId change, ChangeId prev, std::string key, std::string value) {
  Event event;
  event.action = Action::kSet;
  event.key = std::move(key);
  event.value = std::move(value);
  event.sender = "other";
  event.id = change;
  event.prev = prev;
  return event;
}

// The change `seq` of a history in which nothing special happens.
std::string change(std::uint64_t seq, const std::string& key = "k", std::uint64_t branch = 7) {
  return payload(set_event(id(seq, branch), id(seq - 1, branch), key, "v" + std::to_string(seq)));
}

std::string go_event(Action action, const std::string& key, const std::string& value = {}) {
  Event event;
  event.action = action;
  event.key = key;
  event.value = value;
  event.sender = "go";
  return payload(event);
}

// Writes down every call that has an effect, in order.
class RecordingHost : public Host {
 public:
  Calls calls;
  std::map<Counter, int> counts;
  std::map<SyncCounter, int> sync_counts;
  std::vector<std::string> logged;
  std::vector<std::string> held_keys;
  bool is_leader = true;
  ApplyOutcome outcome = ApplyOutcome::kApplied;
  int applies_until_deposed = -1;

  Calls take_calls() { return std::exchange(calls, {}); }

  int disagrees = 0;  // so many times something held rests on another change than the head
  std::uint64_t is_ahead = 0;
  bool heard = false;  // of a change without an id, in this epoch
  std::vector<ChangeId> known;

  bool leading() override { return is_leader; }
  bool set_head(ChangeId change_id) override {
    calls.push_back("head " + text(change_id));
    known.push_back(change_id);
    return disagrees-- <= 0;
  }
  bool begin_at(ChangeId end) override { return set_head(end); }
  bool knows(ChangeId change_id) override {
    return std::find(known.begin(), known.end(), change_id) != known.end();
  }
  std::uint64_t ahead() override { return is_ahead; }
  bool heard_without_id() override { return heard; }
  void hear_without_id() override { heard = true; }
  ApplyOutcome apply(const Event& event) override {
    if (applies_until_deposed == 0) return ApplyOutcome::kStaleTerm;
    --applies_until_deposed;
    std::string call = std::string(action_name(event.action)) + " " + event.key;
    if (event.action == Action::kSet) call += "=" + event.value;
    if (!event.id.none()) call += " @" + std::to_string(event.id.seq);
    calls.push_back(call);
    if (event.action != Action::kSet) std::erase(held_keys, event.key);
    return outcome;
  }
  void set_cursor(ChangeId change_id) override { calls.push_back("cursor " + text(change_id)); }
  void raise_epoch(RaiseReason reason) override {
    calls.push_back("epoch " + std::string(reason_name(reason)));
    known.clear();
    is_ahead = 0;
  }
  void raise_floor(std::uint64_t seq) override { calls.push_back("floor " + std::to_string(seq)); }
  void clear_all() override { calls.push_back("clear all"); }
  bool holds(std::string_view key) override {
    return std::find(held_keys.begin(), held_keys.end(), key) != held_keys.end();
  }
  void refetch(std::string_view key) override { calls.push_back("refetch " + std::string(key)); }
  void extend_lease(shm::CoarseTime asked) override {
    calls.push_back("lease " + std::to_string(asked.ms));
  }
  void count(Counter counter) override { ++counts[counter]; }
  void count(SyncCounter counter) override { ++sync_counts[counter]; }
  void log(LogLevel, std::string_view message) override { logged.emplace_back(message); }
};

// The changes `from` to `to` of a log in which nothing special happens, and its end.
LogPage page(std::uint64_t from, std::uint64_t to, std::uint64_t branch = 7) {
  LogPage page;
  for (std::uint64_t seq = from; seq <= to; ++seq) {
    page.rows.push_back({id(seq, branch), id(seq - 1, branch), Action::kSet, {"k"}});
  }
  page.end = id(to, branch);
  return page;
}
LogPage empty_log() { return {}; }

ProbeAnswer probed(ChangeId end, std::uint64_t asked_ms = 1000) {
  ProbeAnswer answer;
  answer.is_primary = true;
  answer.end = end;
  answer.asked = {asked_ms, asked_ms};
  return answer;
}

// A follower that follows from change 5 on, its history of calls forgotten.
struct At5 {
  RecordingHost host;
  Follower follower;

  explicit At5(FollowerOptions options = {}) : follower(host, std::move(options), id(5)) {
    REQUIRE(follower.subscribed() == Next::kReadLog);
    host.known = {id(5)};
    REQUIRE(follower.log_page(page(5, 5)) == Next::kProbe);
    REQUIRE(follower.is_following());
    host.calls.clear();
    host.counts.clear();
  }
};

// One that nobody has followed before, asked to read the log.
struct New {
  RecordingHost host;
  Follower follower;

  explicit New(FollowerOptions options = {}) : follower(host, std::move(options), {}) {
    REQUIRE(follower.subscribed() == Next::kReadLog);
    // Schedule 11: raised before the end was read, it would let in fills that the end hides.
    REQUIRE(host.calls.empty());
  }
};

// ---- subscribing ------------------------------------------------------------------------------

TEST_CASE(
    "where nobody has followed, the end is read, then the epoch raised, then the cursor set") {
  New at;
  CHECK(at.follower.log_page(page(1, 5)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch new", "head 5-7", "cursor 5-7"});
  CHECK(at.follower.cursor() == id(5));
  CHECK(at.follower.is_following());
}

TEST_CASE("messages before the confirmation are ignored") {
  RecordingHost host;
  Follower follower(host, {}, {});
  CHECK(follower.message(change(1)) == Next::kNothing);
  CHECK(follower.log_page(page(1, 1)) == Next::kNothing);
  CHECK(follower.probe(probed(id(1))) == Next::kNothing);
  CHECK(host.calls.empty());
  CHECK_FALSE(follower.is_following());
}

TEST_CASE("an empty log is an end like any other, and the first change follows it") {
  New at;
  CHECK(at.follower.message(change(1)) == Next::kNothing);
  CHECK(at.follower.log_page(empty_log()) == Next::kProbe);
  CHECK(at.follower.is_following());
  CHECK(at.follower.cursor() == id(1));
}

TEST_CASE("nothing is followed between lost and subscribed") {
  At5 at;
  at.follower.lost();
  at.host.calls.clear();
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.follower.log_page(page(5, 6)) == Next::kNothing);
  CHECK(at.follower.probe(probed(id(5))) == Next::kNothing);
  CHECK(at.follower.lost() == Next::kNothing);
  CHECK(at.host.calls.empty());
  CHECK_FALSE(at.follower.is_following());
}

// ---- the log rule -----------------------------------------------------------------------------

TEST_CASE("a resumed subscription to a log that has not moved costs nothing") {
  At5 at;
  CHECK(at.follower.lost() == Next::kNothing);
  CHECK(at.follower.subscribed() == Next::kReadLog);
  CHECK(at.follower.log_page(page(5, 5)) == Next::kProbe);
  CHECK(at.host.calls.empty());
}

TEST_CASE("what was changed meanwhile is dropped, and nothing else") {
  At5 at;
  at.follower.lost();
  at.follower.subscribed();
  LogPage log = page(5, 5);
  log.rows.push_back({id(6), id(5), Action::kSet, {"a"}});
  log.rows.push_back({id(7), id(6), Action::kDelete, {"b"}});
  log.rows.push_back({id(8), id(7), Action::kDeleteMany, {"c", "d"}});
  log.rows.push_back({id(9), id(8), Action::kClear, {""}});
  log.end = id(9);
  CHECK(at.follower.log_page(log) == Next::kProbe);
  CHECK(at.host.calls == Calls{"head 6-7", "invalidate a @6", "cursor 6-7", "head 7-7",
                               "delete b @7", "cursor 7-7", "head 8-7", "delete c @8",
                               "delete d @8", "cursor 8-7", "head 9-7", "floor 9", "cursor 9-7"});
}

TEST_CASE("a new leader goes on where the former one stopped") {
  RecordingHost host;
  Follower follower(host, {}, id(5));
  CHECK(follower.subscribed() == Next::kReadLog);
  CHECK(follower.log_page(page(5, 7)) == Next::kProbe);
  CHECK(host.calls == Calls{"head 6-7", "invalidate k @6", "cursor 6-7", "head 7-7",
                            "invalidate k @7", "cursor 7-7"});
}

TEST_CASE("a long log is read page after page, each from the cursor on") {
  At5 at;
  at.follower.lost();
  at.follower.subscribed();
  LogPage first = page(5, 7);
  first.end = id(9);
  CHECK(at.follower.log_page(first) == Next::kReadLog);
  CHECK_FALSE(at.follower.is_following());
  CHECK(at.follower.cursor() == id(7));
  CHECK(at.follower.log_page(page(7, 9)) == Next::kProbe);
  CHECK(at.follower.cursor() == id(9));
}

TEST_CASE("a log that has no cursor any more costs everything") {
  LogPage trimmed = page(7, 9);
  LogPage other = page(5, 9, 8);
  LogPage shorter = page(2, 4);
  LogPage strange = page(5, 5);  // the row behind the cursor is not of our making
  strange.rows.push_back({id(6), {}, Action::kInvalidate, {}});
  strange.end = id(6);
  LogPage torn = page(5, 5);
  torn.rows.push_back({id(7), id(6), Action::kSet, {"k"}});
  torn.end = id(7);
  LogPage hollow = page(5, 5);  // rows behind the cursor were removed
  hollow.end = id(9);
  for (const LogPage& log : {trimmed, other, shorter, strange, torn, hollow, empty_log()}) {
    At5 at;
    at.follower.lost();
    at.follower.subscribed();
    CHECK(at.follower.log_page(log) == Next::kProbe);
    CHECK(at.host.calls ==
          Calls{"epoch log_lost", "head " + text(log.end), "cursor " + text(log.end)});
    CHECK(at.follower.cursor() == log.end);
  }
}

// Schedule 9: trimmed between two pages.
TEST_CASE("each page begins with the last id applied, or the log was trimmed meanwhile") {
  At5 at;
  at.follower.lost();
  at.follower.subscribed();
  LogPage first = page(5, 7);
  first.end = id(20);
  REQUIRE(at.follower.log_page(first) == Next::kReadLog);
  at.host.calls.clear();
  CHECK(at.follower.log_page(page(9, 20)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch log_lost", "head 20-7", "cursor 20-7"});
}

TEST_CASE("a log that grows faster than it is read costs everything") {
  FollowerOptions options;
  options.pages_max = 3;
  At5 at(options);
  at.follower.lost();
  at.follower.subscribed();
  for (std::uint64_t seq = 6; seq <= 8; ++seq) {
    LogPage log = page(seq - 1, seq);
    log.end = id(1000 + seq);
    CHECK(at.follower.log_page(log) == (seq < 8 ? Next::kReadLog : Next::kProbe));
  }
  CHECK(at.host.calls.back() == "cursor 1008-7");
  CHECK(std::count(at.host.calls.begin(), at.host.calls.end(), "epoch behind") == 1);
}

// Schedule 1: 6 was answered to a worker, and then lost by a failover.
TEST_CASE("a log that ends before what something held rests on has lost a change") {
  At5 at;
  at.follower.lost();
  at.host.is_ahead = 6;
  at.follower.subscribed();
  CHECK(at.follower.log_page(page(5, 5)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch diverged", "head 5-7", "cursor 5-7"});
}

TEST_CASE("what a worker took after the question may be missing in the answer") {
  At5 at;
  at.follower.lost();
  at.follower.subscribed();
  at.host.is_ahead = 6;
  CHECK(at.follower.log_page(page(5, 5)) == Next::kProbe);
  CHECK(at.host.calls.empty());
}

TEST_CASE("another change under a number that something held rests on costs everything") {
  At5 at;
  at.host.disagrees = 1;
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.host.take_calls() ==
        Calls{"head 6-7", "epoch diverged", "head 6-7", "set k=v6 @6", "cursor 6-7"});
  at.follower.lost();
  at.follower.subscribed();
  at.host.disagrees = 1;
  CHECK(at.follower.log_page(page(6, 7)) == Next::kProbe);
  CHECK(at.host.calls ==
        Calls{"head 7-7", "epoch diverged", "head 7-7", "invalidate k @7", "cursor 7-7"});
}

TEST_CASE("what is stored on another change right after everything was dropped goes too") {
  At5 at;
  at.host.disagrees = 2;
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.host.calls == Calls{"head 6-7", "epoch diverged", "head 6-7", "epoch diverged",
                               "head 6-7", "set k=v6 @6", "cursor 6-7"});
}

// ---- the lease --------------------------------------------------------------------------------

TEST_CASE("a probe that saw the cursor extends the lease from when it was sent") {
  At5 at;
  CHECK(at.follower.probe(probed(id(5), 1234)) == Next::kNothing);
  CHECK(at.host.calls == Calls{"lease 1234"});
}

TEST_CASE("so does one that saw a change which was followed by the time of the answer") {
  At5 at;
  at.follower.message(change(6));
  at.follower.message(change(7));
  at.host.calls.clear();
  CHECK(at.follower.probe(probed(id(6), 1234)) == Next::kNothing);
  CHECK(at.host.calls == Calls{"lease 1234"});
}

TEST_CASE("one that saw what is still on the way extends it when that has arrived") {
  At5 at;
  CHECK(at.follower.probe(probed(id(7), 1234)) == Next::kNothing);
  CHECK(at.host.calls.empty());
  at.follower.message(change(6));
  CHECK(at.host.calls.back() == "cursor 6-7");
  at.follower.message(change(7));
  CHECK(at.host.calls.back() == "lease 1234");
}

TEST_CASE("what a worker has noted is not followed yet") {
  At5 at;
  at.host.known.push_back(id(6));
  CHECK(at.follower.probe(probed(id(6))) == Next::kNothing);
  CHECK(at.host.calls.empty());
}

// Schedule 7: the last message is lost, and nothing follows.
TEST_CASE("what does not arrive for a heartbeat is read from the log") {
  At5 at;
  CHECK(at.follower.probe(probed(id(6), 1000)) == Next::kNothing);
  CHECK(at.follower.probe(probed(id(6), 1200)) == Next::kReadLog);
  CHECK(at.follower.log_page(page(5, 6)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"head 6-7", "invalidate k @6", "cursor 6-7"});
  CHECK(at.follower.probe(probed(id(6), 1400)) == Next::kNothing);
  CHECK(at.host.calls.back() == "lease 1400");
}

TEST_CASE("a channel that brings nothing, twice in a row, is subscribed anew") {
  At5 at;
  at.follower.probe(probed(id(6)));
  CHECK(at.follower.probe(probed(id(6))) == Next::kReadLog);
  CHECK(at.follower.log_page(page(5, 6)) == Next::kProbe);
  at.follower.probe(probed(id(7)));
  CHECK(at.follower.probe(probed(id(7))) == Next::kResubscribe);
  CHECK_FALSE(at.follower.is_following());
  CHECK(at.follower.subscribed() == Next::kReadLog);
}

TEST_CASE("between the two a lease that was extended shows that it was only slow") {
  At5 at;
  at.follower.probe(probed(id(6)));
  CHECK(at.follower.probe(probed(id(6))) == Next::kReadLog);
  at.follower.log_page(page(5, 6));
  at.follower.probe(probed(id(6)));
  at.follower.probe(probed(id(7)));
  CHECK(at.follower.probe(probed(id(7))) == Next::kReadLog);
}

// Schedule 7: the connection stays, nothing is published.
TEST_CASE("a log that was emptied is noticed without a change") {
  At5 at;
  CHECK(at.follower.probe(probed({})) == Next::kNothing);
  CHECK(at.follower.probe(probed({})) == Next::kReadLog);
  CHECK(at.follower.log_page(empty_log()) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch log_lost", "head 0-0", "cursor 0-0"});
  CHECK(at.follower.probe(probed({}, 1234)) == Next::kNothing);
  CHECK(at.host.calls.back() == "lease 1234");
}

TEST_CASE("a log that ends before what something held rested on is read, and no lease given") {
  At5 at;
  ProbeAnswer answer = probed(id(5));
  answer.ahead = 6;
  CHECK(at.follower.probe(answer) == Next::kReadLog);
  CHECK(at.host.calls.empty());
}

// As after a failover, before anything was changed.
TEST_CASE("a log that ends before the cursor is read, although its end was followed once") {
  At5 at;
  at.follower.message(change(6));
  ProbeAnswer answer = probed(id(5));
  answer.ahead = at.follower.ahead();
  at.host.calls.clear();
  CHECK(at.follower.probe(answer) == Next::kReadLog);
  CHECK(at.follower.log_page(page(4, 5)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch log_lost", "head 5-7", "cursor 5-7"});
}

// Schedule 8: the old primary was demoted, and answers as a lagging replica.
TEST_CASE("a replica gives no lease, and is left") {
  At5 at;
  ProbeAnswer answer = probed(id(5));
  answer.is_primary = false;
  CHECK(at.follower.probe(answer) == Next::kResubscribe);
  CHECK(at.host.calls.empty());
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.host.calls.empty());
}

// ---- the chain --------------------------------------------------------------------------------

TEST_CASE("the cursor's successor is applied between head and cursor") {
  At5 at;
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.host.calls == Calls{"head 6-7", "set k=v6 @6", "cursor 6-7"});
  CHECK(at.host.counts[Counter::kEventsApplied] == 1);
  CHECK(at.follower.is_following());
}

TEST_CASE("an event that the host already contains moves the cursor and counts as old") {
  At5 at;
  at.host.outcome = ApplyOutcome::kOld;
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.follower.cursor() == id(6));
  CHECK(at.host.counts[Counter::kEventsOld] == 1);
}

TEST_CASE("a deferred event counts as applied, for readers miss there until it is made good") {
  At5 at;
  at.host.outcome = ApplyOutcome::kDeferred;
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.follower.cursor() == id(6));
  CHECK(at.host.counts[Counter::kEventsApplied] == 1);
}

TEST_CASE("an exact id applied recently is a repeat and has no effect") {
  At5 at;
  for (std::uint64_t seq = 6; seq <= 9; ++seq) at.follower.message(change(seq));
  at.host.calls.clear();
  CHECK(at.follower.message(change(7)) == Next::kNothing);
  CHECK(at.follower.message(change(9)) == Next::kNothing);
  CHECK(at.follower.message(change(5)) == Next::kNothing);  // the end itself
  CHECK(at.host.calls.empty());
  CHECK(at.host.counts[Counter::kEventsOld] == 3);
  CHECK(at.follower.message(change(10)) == Next::kNothing);
  CHECK(at.follower.is_following());
}

TEST_CASE("a repeat of long ago is no longer known: the log is read, and nothing is lost") {
  At5 at;
  for (std::uint64_t seq = 6; seq <= 9; ++seq) at.follower.message(change(seq));
  at.host.known = {id(9)};
  at.host.calls.clear();
  CHECK(at.follower.message(change(6)) == Next::kReadLog);
  CHECK(at.follower.log_page(page(9, 9)) == Next::kProbe);
  CHECK(at.host.calls.empty());
}

TEST_CASE("a gap is filled from the log before anything else is applied") {
  At5 at;
  CHECK(at.follower.message(change(7)) == Next::kReadLog);
  CHECK_FALSE(at.follower.is_following());
  CHECK(at.follower.message(change(8)) == Next::kNothing);
  CHECK(at.host.take_calls().empty());
  CHECK(at.follower.log_page(page(5, 7)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"head 6-7", "invalidate k @6", "cursor 6-7", "head 7-7",
                               "invalidate k @7", "cursor 7-7", "head 8-7", "set k=v8 @8",
                               "cursor 8-7"});
}

TEST_CASE("what the leader meets is counted") {
  At5 at;
  auto& counts = at.host.sync_counts;
  counts.clear();
  (void)at.follower.message(change(7));
  CHECK(counts[SyncCounter::kGaps] == 1);
  CHECK(counts[SyncCounter::kLogReadings] == 1);
  (void)at.follower.log_page(page(5, 7));
  CHECK(counts[SyncCounter::kReplayed] == 2);
  (void)at.follower.lost();
  CHECK(counts[SyncCounter::kSubscriptions] == 0);
  (void)at.follower.subscribed();
  CHECK(counts[SyncCounter::kSubscriptions] == 1);
  CHECK(counts[SyncCounter::kLogReadings] == 2);
  CHECK(counts[SyncCounter::kGaps] == 1);  // to subscribe anew is no gap
}

TEST_CASE("however many events arrive after a gap, the log is asked for once") {
  At5 at;
  CHECK(at.follower.message(change(7)) == Next::kReadLog);
  for (std::uint64_t seq = 9; seq < 60; seq += 2) {
    CHECK(at.follower.message(change(seq)) == Next::kNothing);
  }
  CHECK(at.host.calls.empty());
}

// Schedules 1 and 9: the primary died before it replicated 5; the new one counts on from 4.
TEST_CASE("another history's change with the cursor's number is a divergence") {
  At5 at;
  CHECK(at.follower.message(payload(set_event(id(5, 8), id(4), "k", "new"))) == Next::kReadLog);
  LogPage log = page(1, 4);
  log.rows.push_back({id(5, 8), id(4), Action::kSet, {"k"}});
  log.end = id(5, 8);
  CHECK(at.follower.log_page(log) == Next::kProbe);
  CHECK(at.host.calls.front() == "epoch log_lost");
  CHECK(at.follower.message(payload(set_event(id(6, 8), id(5, 8), "k", "w"))) == Next::kNothing);
  CHECK(at.follower.is_following());
}

TEST_CASE("another history that numbers on from the cursor is told by its nonce") {
  At5 at;
  CHECK(at.follower.message(payload(set_event(id(6, 8), id(5, 8), "k", "new"))) == Next::kReadLog);
  CHECK(at.host.calls.empty());
}

// Schedule 7: the connection stays, the log counts from one again.
TEST_CASE("a log that starts again on a living connection is seen at its first change") {
  At5 at;
  CHECK(at.follower.message(payload(set_event(id(1, 8), {}, "k", "new"))) == Next::kReadLog);
  CHECK(at.follower.log_page(page(1, 1, 8)) == Next::kProbe);
  CHECK(at.follower.cursor() == id(1, 8));
}

TEST_CASE("an id that does not grow is never a successor") {
  At5 at;
  CHECK(at.follower.message(payload(set_event(id(5, 8), id(5), "k", "x"))) == Next::kReadLog);
  CHECK(at.host.calls.empty());
}

// ---- what arrives before the log --------------------------------------------------------------

TEST_CASE("held events up to the end are contained in it and those behind it are applied") {
  New at;
  for (std::uint64_t seq = 3; seq <= 6; ++seq) {
    CHECK(at.follower.message(change(seq)) == Next::kNothing);
  }
  CHECK(at.host.take_calls().empty());
  CHECK(at.follower.log_page(page(1, 5)) == Next::kProbe);
  CHECK(at.host.calls ==
        Calls{"epoch new", "head 5-7", "cursor 5-7", "head 6-7", "set k=v6 @6", "cursor 6-7"});
  CHECK(at.host.counts[Counter::kEventsOld] == 3);
}

TEST_CASE("held events that all came after the end must continue from it") {
  New at;
  at.follower.message(change(6));
  at.follower.message(change(7));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kProbe);
  CHECK(at.follower.cursor() == id(7));
  CHECK(at.follower.is_following());
}

TEST_CASE("a held event that does not continue from the end has the log read on") {
  New at;
  at.follower.message(change(7));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
  CHECK_FALSE(at.follower.is_following());
  at.host.calls.clear();
  // 7 arrived before this question, so the answer contains it and it is not asked a third time.
  CHECK(at.follower.log_page(page(5, 7)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"head 6-7", "invalidate k @6", "cursor 6-7", "head 7-7",
                               "invalidate k @7", "cursor 7-7"});
}

TEST_CASE("a held event with the end's number and another nonce has the log read again") {
  New at;
  at.follower.message(change(5, "k", 8));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
  CHECK_FALSE(at.follower.is_following());
}

// Schedule 7 within the round trip of a reading: end 5 was read, then FLUSHALL, then a change.
TEST_CASE("a held event that is before the end only by its number is not taken for contained") {
  New at;
  at.follower.message(payload(set_event(id(1, 8), {}, "k", "new")));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
  CHECK_FALSE(at.follower.is_following());
}

TEST_CASE("a held event before the end by arrival and behind it by number is a divergence") {
  New at;
  at.follower.message(change(9, "k", 8));
  at.follower.message(change(5));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
  CHECK_FALSE(at.follower.is_following());
}

TEST_CASE("a loss behind the end is seen among the held events") {
  New at;
  for (const std::uint64_t seq : {4, 5, 7}) at.follower.message(change(seq));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
}

// Schedule 9: a reading must not bring the next one, however busy the channel is.
TEST_CASE("on a channel that is never quiet one reading is enough") {
  for (const std::uint64_t per_trip : {1, 2, 17, 1000}) {
    New at;
    std::uint64_t published = 0;
    const auto busy = [&] {
      for (std::uint64_t i = 0; i < per_trip; ++i) {
        REQUIRE(at.follower.message(change(++published)) == Next::kNothing);
      }
    };
    busy();                               // on the way to Redis
    const std::uint64_t end = published;  // read here
    busy();                               // on the way back
    CHECK(at.follower.log_page(page(1, end)) == Next::kProbe);
    CHECK(at.follower.is_following());
    busy();
    CHECK(at.follower.cursor() == id(published));

    const std::uint64_t cursor = published;
    published += 1;  // lost
    REQUIRE(at.follower.message(change(++published)) == Next::kReadLog);
    busy();
    const std::uint64_t second = published;
    busy();
    CHECK(at.follower.log_page(page(cursor, second)) == Next::kProbe);
    CHECK(at.follower.cursor() == id(published));
    CHECK(at.follower.is_following());
  }
}

TEST_CASE("too many held events have the log read on, asked for once") {
  FollowerOptions options;
  options.held_max_events = 3;
  New at(options);
  for (std::uint64_t seq = 6; seq <= 20; ++seq) {
    CHECK(at.follower.message(change(seq)) == Next::kNothing);
  }
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
  CHECK(at.host.calls == Calls{"epoch new", "head 5-7", "cursor 5-7"});
  CHECK(at.follower.log_page(page(5, 20)) == Next::kProbe);
  CHECK(at.follower.cursor() == id(20));
  CHECK(std::count(at.host.calls.begin(), at.host.calls.end(), "epoch new") == 1);
}

TEST_CASE("as many held events as are allowed are no overflow") {
  FollowerOptions options;
  options.held_max_events = 3;
  New at(options);
  for (std::uint64_t seq = 6; seq <= 8; ++seq) at.follower.message(change(seq));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kProbe);
  CHECK(at.follower.cursor() == id(8));
}

TEST_CASE("too many held bytes have the log read on") {
  FollowerOptions options;
  options.held_max_bytes = 1000;
  New at(options);
  at.follower.message(payload(set_event(id(6), id(5), "k", std::string(2000, 'x'))));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kReadLog);
}

// ---- peers without ids ------------------------------------------------------------------------

TEST_CASE("a set without an id only drops, and is fetched again if the host held the key") {
  At5 at;
  at.host.held_keys = {"k"};
  CHECK(at.follower.message(go_event(Action::kSet, "k", "old?")) == Next::kNothing);
  CHECK(at.host.take_calls() == Calls{"invalidate k", "refetch k"});
  CHECK(at.follower.message(go_event(Action::kSet, "cold", "old?")) == Next::kNothing);
  CHECK(at.host.calls == Calls{"invalidate cold"});
  CHECK(at.host.counts[Counter::kEventsWithoutId] == 2);
  CHECK(at.host.counts[Counter::kEventsApplied] == 2);
  CHECK(at.follower.cursor() == id(5));
}

TEST_CASE("a trusted set without an id is stored as it came") {
  FollowerOptions options;
  options.go_peers = GoPeers::kTrust;
  At5 at(options);
  at.host.held_keys = {"k"};
  CHECK(at.follower.message(go_event(Action::kSet, "k", "new")) == Next::kNothing);
  CHECK(at.host.calls == Calls{"set k=new"});
}

TEST_CASE("an invalidation and a delete without an id are applied and leave the cursor alone") {
  At5 at;
  at.host.held_keys = {"a", "b"};
  at.follower.message(go_event(Action::kInvalidate, "a"));
  at.follower.message(go_event(Action::kDelete, "b"));
  CHECK(at.host.calls == Calls{"invalidate a", "delete b"});
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.follower.is_following());
}

TEST_CASE("a clear without an id drops everything held") {
  At5 at;
  CHECK(at.follower.message(go_event(Action::kClear, "*")) == Next::kNothing);
  CHECK(at.host.calls == Calls{"clear all"});
  CHECK(at.follower.cursor() == id(5));
}

TEST_CASE("events without an id that were held take effect in order of arrival") {
  New at;
  at.follower.message(go_event(Action::kDelete, "before"));
  at.follower.message(change(5));
  at.follower.message(go_event(Action::kDelete, "between"));
  at.follower.message(change(6));
  CHECK(at.follower.log_page(page(1, 5)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch new", "head 5-7", "cursor 5-7", "delete before",
                               "delete between", "head 6-7", "set k=v6 @6", "cursor 6-7"});
}

// Schedule 12: what such a peer sent meanwhile is in no log.
TEST_CASE("once a change without an id was heard, any interruption costs everything") {
  At5 at;
  at.follower.message(go_event(Action::kDelete, "k"));
  CHECK(at.host.heard);
  at.follower.lost();
  at.follower.subscribed();
  at.host.calls.clear();
  CHECK(at.follower.log_page(page(5, 6)) == Next::kProbe);
  CHECK(at.host.take_calls() == Calls{"epoch without_id", "head 6-7", "cursor 6-7"});
  at.follower.lost();
  at.follower.subscribed();
  CHECK(at.follower.log_page(page(6, 6)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch without_id", "head 6-7", "cursor 6-7"});
}

TEST_CASE("so does one that was heard before it could take effect") {
  At5 at;
  at.follower.lost();
  SUBCASE("for the log had not been asked for") {
    at.follower.message(go_event(Action::kDelete, "k"));
  }
  SUBCASE("for the log was being read, and that came to nothing") {
    at.follower.subscribed();
    at.follower.message(go_event(Action::kDelete, "k"));
    at.follower.lost();
  }
  CHECK(at.host.calls.empty());
  at.follower.subscribed();
  CHECK(at.follower.log_page(page(5, 5)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch without_id", "head 5-7", "cursor 5-7"});
}

TEST_CASE("so does one that was held and had to be dropped") {
  FollowerOptions options;
  options.held_max_events = 3;
  At5 at(options);
  at.follower.lost();
  at.follower.subscribed();
  for (int i = 0; i < 10; ++i) at.follower.message(go_event(Action::kDelete, "k"));
  CHECK(at.follower.log_page(page(5, 5)) == Next::kReadLog);
  CHECK(at.follower.log_page(page(5, 5)) == Next::kProbe);
  CHECK(at.host.calls == Calls{"epoch without_id", "head 5-7", "cursor 5-7"});
}

TEST_CASE("a peer without ids under another prefix is no concern of ours") {
  FollowerOptions options;
  options.key_prefix = "app:";
  At5 at(options);
  at.follower.message(go_event(Action::kDelete, "other"));
  CHECK_FALSE(at.host.heard);
}

TEST_CASE("a set without an id outside our prefix is foreign") {
  FollowerOptions options;
  options.key_prefix = "app:";
  At5 at(options);
  at.host.held_keys = {"k"};
  at.follower.message(go_event(Action::kSet, "k", "v"));
  at.follower.message(go_event(Action::kDelete, "k"));
  CHECK(at.host.calls.empty());
  CHECK(at.host.counts[Counter::kEventsForeign] == 2);
}

// ---- events that are not ours -----------------------------------------------------------------

TEST_CASE("another database's events belong to another chain") {
  FollowerOptions options;
  options.database = 2;
  At5 at(options);
  Event foreign = set_event(id(900), id(899), "k", "v");
  foreign.database = 3;
  CHECK(at.follower.message(payload(foreign)) == Next::kNothing);
  CHECK(at.host.take_calls().empty());
  CHECK(at.host.counts[Counter::kEventsForeign] == 1);
  CHECK(at.follower.is_following());

  Event own = set_event(id(6), id(5), "k", "v");
  own.database = 2;
  CHECK(at.follower.message(payload(own)) == Next::kNothing);
  CHECK(at.follower.cursor() == id(6));
}

TEST_CASE("another prefix's key moves the cursor and has no effect") {
  FollowerOptions options;
  options.key_prefix = "app:";
  At5 at(options);
  CHECK(at.follower.message(change(6, "other:k")) == Next::kNothing);
  CHECK(at.host.take_calls() == Calls{"head 6-7", "cursor 6-7"});
  CHECK(at.host.counts[Counter::kEventsForeign] == 1);
  CHECK(at.follower.message(change(7, "app:k")) == Next::kNothing);
  CHECK(at.host.calls == Calls{"head 7-7", "set app:k=v7 @7", "cursor 7-7"});
}

TEST_CASE("a clear sets a floor when the two prefixes share keys and else only moves the cursor") {
  struct Case {
    const char* ours;
    const char* theirs;
    bool shared;
  };
  for (const Case& c : {Case{"", "", true}, Case{"a:", "", true}, Case{"", "a:", true},
                        Case{"a:", "a:", true}, Case{"a:", "a:b:", true}, Case{"a:b:", "a:", true},
                        Case{"a:", "b:", false}, Case{"a:b", "a:c", false}}) {
    CAPTURE(c.ours);
    CAPTURE(c.theirs);
    FollowerOptions options;
    options.key_prefix = c.ours;
    At5 at(options);
    Event clear;
    clear.action = Action::kClear;
    clear.key = "*";
    clear.prefix = c.theirs;
    clear.sender = "other";
    clear.id = id(6);
    clear.prev = id(5);
    CHECK(at.follower.message(payload(clear)) == Next::kNothing);
    const Calls shared = {"head 6-7", "floor 6", "cursor 6-7"};
    const Calls apart = {"head 6-7", "cursor 6-7"};
    CHECK(at.host.calls == (c.shared ? shared : apart));
    CHECK(at.host.counts[Counter::kEventsForeign] == (c.shared ? 0 : 1));
  }
}

TEST_CASE("a delete of many deletes each key under our prefix by the same change") {
  FollowerOptions options;
  options.key_prefix = "app:";
  At5 at(options);
  Event many;
  many.action = Action::kDeleteMany;
  many.keys = {"app:a", "x:b", "app:c"};
  many.sender = "other";
  many.id = id(6);
  many.prev = id(5);
  CHECK(at.follower.message(payload(many)) == Next::kNothing);
  CHECK(at.host.take_calls() ==
        Calls{"head 6-7", "delete app:a @6", "delete app:c @6", "cursor 6-7"});
  CHECK(at.host.counts[Counter::kEventsApplied] == 1);

  many.keys = {"x:b"};
  many.id = id(7);
  many.prev = id(6);
  CHECK(at.follower.message(payload(many)) == Next::kNothing);
  CHECK(at.host.calls == Calls{"head 7-7", "cursor 7-7"});
  CHECK(at.host.counts[Counter::kEventsForeign] == 1);
}

// ---- malformed --------------------------------------------------------------------------------

TEST_CASE("malformed payloads are counted, logged now and then, and harm nothing") {
  At5 at;
  for (int i = 0; i < 100; ++i) CHECK(at.follower.message("garbage") == Next::kNothing);
  CHECK(at.follower.message("") == Next::kNothing);
  CHECK(at.host.counts[Counter::kEventsMalformed] == 101);
  CHECK(at.host.logged.size() == 7);  // 1, 2, 4, ... 64
  CHECK(at.host.calls.empty());
  CHECK(at.follower.message(change(6)) == Next::kNothing);
  CHECK(at.follower.is_following());
}

TEST_CASE("a real event that arrives damaged shows as a gap at the next one") {
  At5 at;
  const std::string whole = change(6);
  CHECK(at.follower.message(whole.substr(0, whole.size() / 2)) == Next::kNothing);
  CHECK(at.follower.message(change(7)) == Next::kReadLog);
}

// ---- losing the lead --------------------------------------------------------------------------

TEST_CASE("a stale term resigns at once: the cursor stays and nothing is touched any more") {
  At5 at;
  at.host.outcome = ApplyOutcome::kStaleTerm;
  CHECK(at.follower.message(change(6)) == Next::kResign);
  CHECK(at.follower.cursor() == id(5));
  at.host.calls.clear();
  CHECK(at.follower.message(change(6)) == Next::kResign);
  CHECK(at.follower.lost() == Next::kResign);
  CHECK(at.follower.subscribed() == Next::kResign);
  CHECK(at.follower.log_page(page(5, 6)) == Next::kResign);
  CHECK(at.host.calls.empty());
}

TEST_CASE("a stale term in the middle of many keys leaves the cursor behind the event") {
  At5 at;
  at.host.applies_until_deposed = 1;
  Event many;
  many.action = Action::kDeleteMany;
  many.keys = {"a", "b", "c"};
  many.sender = "other";
  many.id = id(6);
  many.prev = id(5);
  CHECK(at.follower.message(payload(many)) == Next::kResign);
  CHECK(at.host.calls == Calls{"head 6-7", "delete a @6"});
}

TEST_CASE("a stale term at a set without an id resigns without fetching") {
  At5 at;
  at.host.held_keys = {"k"};
  at.host.applies_until_deposed = 0;
  CHECK(at.follower.message(go_event(Action::kSet, "k", "v")) == Next::kResign);
  CHECK(at.host.calls.empty());
}

// Schedule 8: the leader was stopped, another took over, and then it wakes with its mail.
TEST_CASE("a leader that wakes up deposed touches nothing, whatever it hears first") {
  const std::string mail = change(6);
  for (int input = 0; input < 5; ++input) {
    CAPTURE(input);
    At5 at;
    if (input == 2) {
      REQUIRE(at.follower.message(change(7)) == Next::kReadLog);
      at.host.calls.clear();
    }
    at.host.is_leader = false;
    const Next next = input == 0   ? at.follower.message(mail)
                      : input == 1 ? at.follower.lost()
                      : input == 2 ? at.follower.log_page(page(5, 7))
                      : input == 3 ? at.follower.probe(probed(id(5)))
                                   : at.follower.subscribed();
    CHECK(next == Next::kResign);
    CHECK(at.host.calls.empty());
    CHECK_FALSE(at.follower.is_following());
  }
}

TEST_CASE("who does not lead when it starts says nothing") {
  RecordingHost host;
  host.is_leader = false;
  Follower follower(host, {}, id(5));
  CHECK(follower.subscribed() == Next::kResign);
  CHECK(host.calls.empty());
}

// ---- at random --------------------------------------------------------------------------------

using Values = std::map<std::string, std::string>;

// What Redis knows: values, the log, and the values as they were at each change.
class ModelServer {
 public:
  explicit ModelServer(std::mt19937_64& random) : random_(random) { past_[0] = {}; }

  ChangeId end() const { return end_; }
  LogPage page_from(ChangeId from, std::size_t most) const {
    LogPage page;
    page.end = end_;
    for (const LogPage::Row& row : log_) {
      const bool is_before =
          row.id.seq < from.seq || (row.id.seq == from.seq && row.id.nonce < from.nonce);
      if (!is_before && page.rows.size() < most) page.rows.push_back(row);
    }
    return page;
  }
  const Values& values() const { return values_; }
  const Values& values_at(ChangeId at) const { return past_.at(at.nonce); }

  // Returns the event.
  std::string write() {
    Event event;
    event.sender = "other";
    event.key = "k" + std::to_string(random_() % 6);
    event.prev = end_;
    event.id = {end_.seq + 1, random_() | 1};
    if (random_() % 4 == 0) {
      event.action = Action::kDelete;
      values_.erase(event.key);
    } else {
      event.action = Action::kSet;
      event.value = "v" + std::to_string(random_() % 1000);
      values_[event.key] = event.value;
    }
    end_ = event.id;
    log_.push_back({event.id, event.prev, event.action, {event.key}});
    past_[end_.nonce] = values_;
    return payload(event);
  }

  // A failover to a replica that lags, or an emptied database: the last changes never happened.
  void roll_back(std::size_t changes) {
    log_.resize(log_.size() - std::min(changes, log_.size()));
    end_ = log_.empty() ? ChangeId{} : log_.back().id;
    values_ = past_.at(end_.nonce);
  }

 private:
  std::mt19937_64& random_;
  Values values_;
  ChangeId end_;
  std::vector<LogPage::Row> log_;
  std::map<std::uint64_t, Values> past_;
};

// A host that reads every key again as soon as the epoch was raised. Whatever it holds must always
// be what the log says at its cursor.
class ModelHost : public Host {
 public:
  explicit ModelHost(const ModelServer& server) : server_(server) {}

  Values held;
  int leases = 0;
  int raises = 0;
  int faults = 0;

  bool leading() override { return true; }
  bool set_head(ChangeId change_id) override {
    head_ = change_id;
    known_.insert(change_id.nonce);
    return true;
  }
  bool begin_at(ChangeId end) override { return set_head(end); }
  bool knows(ChangeId change_id) override { return known_.contains(change_id.nonce); }
  std::uint64_t ahead() override { return 0; }
  bool heard_without_id() override { return false; }
  void hear_without_id() override { ++faults; }
  ApplyOutcome apply(const Event& event) override {
    faults += event.id != head_ || event.prev != cursor_ || raised_;
    if (event.action == Action::kSet)
      held[event.key] = event.value;
    else
      held.erase(event.key);
    return ApplyOutcome::kApplied;
  }
  void set_cursor(ChangeId change_id) override {
    faults += change_id != head_;
    cursor_ = change_id;
    const Values& values = server_.values_at(change_id);
    if (raised_) held = values;
    raised_ = false;
    for (const auto& [key, value] : held) {
      const auto found = values.find(key);
      faults += found == values.end() || found->second != value;
    }
  }
  void raise_epoch(RaiseReason) override {
    held.clear();
    known_.clear();
    raised_ = true;
    ++raises;
  }
  void raise_floor(std::uint64_t) override { ++faults; }
  void clear_all() override { ++faults; }
  bool holds(std::string_view) override { return false; }
  void refetch(std::string_view) override { ++faults; }
  void extend_lease(shm::CoarseTime) override { ++leases; }
  void count(Counter) override {}
  void count(SyncCounter) override {}
  void log(LogLevel, std::string_view) override {}

 private:
  const ModelServer& server_;
  ChangeId head_;
  ChangeId cursor_;
  std::set<std::uint64_t> known_;  // nonces
  bool raised_ = false;
};

struct Faults {
  unsigned drop, repeat, swap, damage, roll_back, disconnect;  // per thousand
};

// One run: writes, a channel that may misbehave, readings that take a while.
class Run {
 public:
  Run(std::uint64_t seed, Faults faults)
      : random_(seed), faults_(faults), server_(random_), host_(server_), follower_(host_, {}, {}) {
    (void)server_.write();  // nothing to begin from is nothing to go on from
    heed(follower_.subscribed());
  }

  void steps(int count) {
    for (int i = 0; i < count; ++i) {
      step();
      check();
    }
  }

  // Faults end; two probes later everything must be well.
  void heal() {
    faults_ = {};
    for (int i = 0; i < 3; ++i) {
      settle();
      heed(probe());
    }
    settle();
    CHECK(follower_.is_following());
    CHECK(follower_.cursor() == server_.end());
    const int before = host_.leases;
    heed(probe());
    CHECK(host_.leases == before + 1);
    check();
  }

  const ModelHost& host() const { return host_; }
  bool saw_trouble() const { return trouble_; }

 private:
  bool chance(unsigned per_thousand) { return random_() % 1000 < per_thousand; }

  void step() {
    switch (random_() % 4) {
      case 0:
        publish(server_.write());
        break;
      case 1:
        if (!channel_.empty()) deliver();
        break;
      case 2:
        if (!read_) break;
        if (!page_) page_ = read();
        // Mostly as Subscription does it: after everything published before the reading.
        else if (channel_.empty() || random_() % 10 == 0)
          answer();
        break;
      default:
        misbehave();
    }
  }

  void publish(std::string event) { channel_.push_back(std::move(event)); }

  void settle() {
    while (!channel_.empty()) deliver();
    while (read_) answer();
  }

  void deliver() {
    if (channel_.size() > 1 && chance(faults_.swap)) {
      std::swap(channel_[0], channel_[1]);
      trouble_ = true;
    }
    std::string event = channel_.front();
    if (chance(faults_.repeat)) channel_.push_front(channel_.front());
    channel_.pop_front();
    if (chance(faults_.drop)) {
      trouble_ = true;
      return;
    }
    if (chance(faults_.damage)) {
      event.resize(event.size() / 2);
      trouble_ = true;
    }
    heed(follower_.message(event));
  }

  void misbehave() {
    if (chance(faults_.disconnect)) {
      trouble_ = true;
      channel_.clear();
      read_ = false;
      heed(follower_.lost());
      heed(follower_.subscribed());
    }
    if (chance(faults_.roll_back)) {
      trouble_ = true;
      server_.roll_back(1 + random_() % 8);
    }
  }

  void heed(Next next) {
    CHECK(next != Next::kResign);
    if (next == Next::kResubscribe) {
      channel_.clear();
      read_ = false;
      next = follower_.subscribed();
    }
    if (next == Next::kProbe) next = probe();
    if (next != Next::kReadLog) return;
    CHECK_FALSE(read_);  // one question at a time
    read_ = true;
    page_.reset();
  }

  Next probe() {
    ProbeAnswer answer = probed(server_.end());
    answer.ahead = follower_.ahead();
    return follower_.probe(answer);
  }

  LogPage read() const { return server_.page_from(follower_.cursor(), 4); }

  void answer() {
    const LogPage page = page_ ? *page_ : read();
    read_ = false;
    page_.reset();
    heed(follower_.log_page(page));
  }

  void check() {
    CHECK(host_.faults == 0);
    // What is held and not in the values any more was changed behind the cursor.
    if (!follower_.is_following() || follower_.cursor() != server_.end()) return;
    for (const auto& [key, value] : host_.held) CHECK(server_.values().at(key) == value);
  }

  std::mt19937_64 random_;
  Faults faults_;
  ModelServer server_;
  ModelHost host_;
  Follower follower_;
  std::deque<std::string> channel_;
  bool read_ = false;            // the log was asked for
  std::optional<LogPage> page_;  // and read
  bool trouble_ = false;
};

TEST_CASE("without faults one raise, the first, is enough and the host always equals the log") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    Run run(seed, {});
    run.steps(300);
    run.heal();
    CHECK(run.host().raises == 1);
  }
}

TEST_CASE("drops, repeats, swaps, damage, rollbacks and disconnects never leave a wrong value") {
  const Faults mild = {20, 20, 20, 10, 5, 5};
  const Faults wild = {150, 150, 150, 50, 50, 30};
  for (const Faults& faults : {mild, wild}) {
    int troubled = 0;
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
      CAPTURE(seed);
      Run run(seed, faults);
      run.steps(400);
      run.heal();
      troubled += run.saw_trouble();
    }
    CHECK(troubled > 250);  // the faults did happen
  }
}

TEST_CASE("all faults but a lost history cost nothing that did not change") {
  const Faults faults = {150, 150, 150, 50, 0, 30};
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Run run(seed, faults);
    run.steps(400);
    run.heal();
    CHECK(run.host().raises == 1);
  }
}

}  // namespace
}  // namespace larder::sync
