#include "tests/sim/scenario.h"

#include "tests/sim/stage.h"

namespace larder::sim {
namespace {

// ---- 1: a copy rests on a change that Redis loses -----------------------------------------------

// The primary dies before it replicated; its successor gives the same number to another change.
void lose_last_change(Stage& stage) {
  stage.world.fail_over(1, World::Former::kDead);
  stage.world.pass(1000 * kMs);
}

void rollback_of_a_set(Stage& stage) {
  stage.hold_events(0, 50 * kMs);
  stage.set(0, 1, 0);  // stored, ahead of the cursor
  lose_last_change(stage);
  stage.set(1, 1, 1);  // the same number
  stage.heal();
}

void rollback_of_a_fill(Stage& stage) {
  stage.hold_events(0, 50 * kMs);
  stage.set(1, 1, 0);
  stage.worker(0, 1).get(0);
  stage.settle();
  lose_last_change(stage);
  stage.set(1, 1, 1);
  stage.heal();
}

void rollback_without_a_successor(Stage& stage) {
  stage.hold_events(0, 50 * kMs);
  stage.set(0, 1, 0);
  lose_last_change(stage);
  stage.heal();
}

void rollback_and_a_leader_killed_in_its_flush(Stage& stage) {
  Host& host = stage.host(0);
  stage.hold_events(0, 50 * kMs);
  stage.set(0, 1, 0);
  const std::uint64_t lost = host.sync_words().cursor_seq.load() + 1;
  stage.world.fail_over(1, World::Former::kDead);
  ChangeOrder order;
  order.keys = 1u << 1;
  order.number = stage.world.ledger.new_number(1);
  (void)stage.redis().change(order);
  // It has looked at the number, and is about to flush.
  std::function<void()> at_each_moment = [&] {
    if (host.sync_words().head_seq.load() == lost) return host.kill_leader();
    stage.world.interruption = at_each_moment;
  };
  stage.world.interruption = at_each_moment;
  stage.world.pass(500 * kMs);
  stage.world.interruption = nullptr;
  stage.heal();
}

// ---- 2: a fill in two questions -----------------------------------------------------------------

void fill_in_two_questions(Stage& stage) {
  stage.set(1, 0, 0);
  stage.host(0).table.drop(key_name(0));
  stage.worker(0, 1).get(0);
  stage.until_answered();  // where the log ends
  stage.until_answered();  // the value
  stage.worker(1, 1).set(0, 0, true);
  stage.worker(0, 2).get(1);
  stage.hold_events(0, 10 * kMs);
  stage.settle();
  stage.heal();
}

// ---- 7: a probe that finds out ------------------------------------------------------------------

void flushall_is_noticed(Stage& stage) {
  stage.set(0, 1, 0);
  stage.redis().flush_all();
  stage.world.pass(1000 * kMs);
  stage.expect(!stage.holds(0, 0) && !stage.holds(1, 0), "held after FLUSHALL");
  stage.heal();
}

void flushall_and_as_many_changes(Stage& stage) {
  stage.set(0, 1, 0);
  stage.redis().flush_all();
  stage.host(0).partition(100 * kMs);
  stage.host(1).partition(100 * kMs);
  ChangeOrder order;
  order.keys = 1u << 1;
  for (int i = 0; i < 2; ++i) {  // so that the log ends at the same number
    order.number = stage.world.ledger.new_number(1);
    stage.redis().unannounced = 1;
    (void)stage.redis().change(order);
  }
  stage.world.pass(1500 * kMs);
  stage.expect(!stage.holds(0, 0) && !stage.holds(1, 0), "held after FLUSHALL");
  stage.heal();
}

void last_event_lost(Stage& stage) {
  stage.set(0, 1, 0);
  stage.redis().unannounced = 1;
  stage.set(1, 1, 0);
  stage.world.pass(1000 * kMs);
  stage.heal();
}

// ---- 8: a lease that outlives its truth ---------------------------------------------------------

void answer_of_a_probe_waits(Stage& stage) {
  stage.set(0, 1, 0);
  Leader& leader = *stage.host(0).leader();
  const Time now = true_time;
  stage.world.pass(200 * kMs - now % (200 * kMs) + 150);  // asked, and answered by Redis
  leader.commander()->stall(true_time + 900 * kMs);
  leader.subscriber()->stall(true_time + 2500 * kMs);
  stage.set(1, 1, 0);
  stage.world.pass(1100 * kMs);  // longer than T ago, and the answer is here
  stage.worker(0, 1).get(0);
  stage.heal();
}

void leader_stays_with_a_demoted_primary(Stage& stage) {
  stage.set(0, 1, 0);
  stage.world.fail_over(0, World::Former::kReplica);
  Server& old = stage.world.servers.front();
  old.reachable = false;
  old.become_replica_of(stage.redis(), 3000 * kMs);
  ChangeOrder order;
  order.keys = 1u << 0;
  order.number = stage.world.ledger.new_number(0);
  (void)stage.redis().change(order);
  for (int i = 0; i < 20; ++i) {
    stage.world.pass(100 * kMs);
    stage.worker(0, 2).get(0);
  }
  stage.heal();
}

void machine_suspended(Stage& stage) {
  stage.set(0, 1, 0);
  Host& host = stage.host(0);
  host.suspend(5000 * kMs);
  stage.set(1, 1, 0);
  stage.world.pass(5000 * kMs - 20 * Stage::kOneWay - 1);
  host.stop_leader(50 * kMs);
  stage.world.pass(1 * kMs);
  stage.worker(0, 1).get(0);
  stage.heal();
}

// A lease that comes while it stands says nothing of what it copied before.
void reader_stands_between_lease_and_copy(Stage& stage) {
  stage.set(0, 1, 0);
  stage.host(0).partition(2500 * kMs);
  stage.world.pass(100 * kMs);
  stage.set(1, 1, 0);
  stage.world.pass(1500 * kMs);
  stage.world.interruption = [&stage] { stage.heal(); };
  stage.worker(0, 1).get(0);
  stage.heal();
}

// ---- 9: who comes after -------------------------------------------------------------------------

void former_leader_wakes_up(Stage& stage) {
  Host& host = stage.host(0);
  Leader* const former = host.leader();
  const std::uint64_t next = host.sync_words().head_seq.load() + 1;
  // Stopped before an event's effect, until another leads and follows a log that began anew.
  std::function<void()> at_each_moment = [&] {
    if (host.sync_words().head_seq.load() != next) {
      stage.world.interruption = at_each_moment;
      return;
    }
    stage.world.pass(4000 * kMs);
    stage.expect(host.leader() != former, "nobody took over");
    stage.redis().flush_all();
    stage.world.pass(1000 * kMs);
    stage.set(1, 1, 0);
    stage.world.pass(1500 * kMs);
    stage.world.interruption = [&stage] {  // before it goes on, if it does
      for (unsigned i = 0; i < 3; ++i) stage.worker(0, i).get(0);
    };
  };
  stage.world.interruption = at_each_moment;
  stage.set(1, 0, 0);
  stage.settle();
  stage.world.interruption = nullptr;
  stage.heal();
}

void killed_between_event_and_cursor(Stage& stage) {
  stage.set(0, 1, 0);
  Host& host = stage.host(0);
  // Both hosts' leaders come to some moments at each event; at each of them once.
  for (int at = 0; at < 12; ++at) {
    stage.worker(1, 1).set(0, 0, true);
    int moment = 0;
    std::function<void()> at_each_moment = [&] {
      if (moment++ == at) return host.kill_leader();
      stage.world.interruption = at_each_moment;
    };
    stage.world.interruption = at_each_moment;
    stage.world.pass(1500 * kMs);
    stage.world.interruption = nullptr;
    stage.worker(0, 1).get(0);
    stage.settle();
  }
  stage.heal();
}

void change_while_it_subscribes(Stage& stage) {
  stage.set(0, 1, 0);
  Host& host = stage.host(0);
  const std::size_t again = index_of({FollowerState::kFollowing, FollowerInput::kProbe,
                                      sync::Next::kReadLog, FollowerState::kReading});
  const std::uint64_t before = stage.coverage.transitions[again];
  Leader& leader = *host.leader();
  leader.subscriber()->cut(true, true);
  Connection* const old = leader.subscriber();
  while (leader.subscriber() == old) stage.world.pass(50);
  leader.subscriber()->stall(true_time + 30 * kMs);  // it is subscribed late
  stage.world.pass(10 * kMs);
  stage.worker(1, 1).set(0, 0, true);
  stage.world.pass(1000 * kMs);
  stage.expect(stage.coverage.transitions[again] == before, "a change was missed");
  stage.heal();
}

// ---- 10: what failed may have happened ----------------------------------------------------------

void unanswered_change(Stage& stage) {
  stage.set(0, 1, 0);
  stage.hold_events(0, 300 * kMs);
  Worker& worker = stage.worker(0, 1);
  worker.set(0, 0, true);
  stage.until_answered();
  worker.connection->cut(true, true);
  stage.settle();
  stage.expect(!stage.holds(0, 0), "a copy of before is held");
  stage.heal();
}

// ---- 11: a raise of the epoch, and what is under way --------------------------------------------

void fill_across_a_raise(Stage& stage) {
  stage.set(1, 0, 0);
  stage.host(0).table.drop(key_name(0));
  Worker& reader = stage.worker(0, 1);
  reader.get(0);
  for (int i = 0; i < 3; ++i) stage.until_answered();  // where the log ends, and the value
  stage.hold_answer(reader, 900 * kMs);
  stage.set(1, 1, 0);
  stage.redis().trim_log(0);
  // The log has lost the cursor when the leader asks for it.
  stage.host(0).leader()->subscriber()->cut(true, true);
  stage.world.pass(800 * kMs);
  stage.world.pass(300 * kMs);
  stage.heal();
}

void fill_across_a_clear_of_a_peer(Stage& stage) {
  stage.set(1, 0, 0);
  stage.host(0).table.drop(key_name(0));
  Worker& reader = stage.worker(0, 1);
  reader.get(0);
  for (int i = 0; i < 3; ++i) stage.until_answered();  // where the log ends, and the value
  stage.hold_answer(reader, 50 * kMs);
  ChangeOrder clear;
  clear.action = Action::kClear;
  clear.keys = kAllOurKeys;
  stage.redis().plain_change(clear);
  stage.redis().plain_publish(clear, "peer");
  stage.world.pass(100 * kMs);
  stage.expect(!stage.holds(0, 0), "a reply of before the clear is held");
  stage.heal();
}

void stores_after_flushall(Stage& stage) {
  for (int i = 0; i < 5; ++i) stage.set(1, 0, 0);
  stage.redis().flush_all();
  stage.world.pass(1000 * kMs);
  stage.set(1, 1, 0);
  stage.worker(0, 1).get(0);
  stage.settle();
  stage.worker(1, 1).get(0);
  stage.settle();
  stage.host(0).table.drop(key_name(0));
  stage.worker(0, 1).get(0);
  stage.settle();
  stage.expect(stage.holds(0, 0), "nothing is kept after FLUSHALL");
  stage.heal();
}

// ---- 12: peers without ids ----------------------------------------------------------------------

ChangeOrder plain_set(Stage& stage, unsigned key) {
  ChangeOrder order;
  order.keys = static_cast<KeySet>(1u << key);
  order.number = stage.world.ledger.new_number(key);
  return order;
}

void late_answer_after_a_plain_event(Stage& stage) {
  const ChangeOrder first = plain_set(stage, 1);  // so that there are known to be such peers
  stage.redis().plain_change(first);
  stage.redis().plain_publish(first, "peer");
  stage.settle();
  Worker& writer = stage.worker(0, 1);
  writer.set(0, 0, true);
  stage.until_answered();
  stage.hold_answer(writer, 50 * kMs);
  stage.hold_events(0, 1 * kMs);
  stage.world.pass(5 * kMs);
  const ChangeOrder order = plain_set(stage, 0);
  stage.redis().plain_change(order);
  stage.redis().plain_publish(order, "peer");
  stage.world.pass(100 * kMs);
  stage.heal();
}

void plain_event_overtaken(Stage& stage) {
  const ChangeOrder order = plain_set(stage, 0);
  stage.redis().plain_change(order);
  stage.set(1, 1, 0);
  stage.redis().plain_publish(order, "peer");
  stage.world.pass(100 * kMs);
  stage.heal();
}

void plain_event_lost(Stage& stage) {
  const ChangeOrder first = plain_set(stage, 1);
  stage.redis().plain_change(first);
  stage.redis().plain_publish(first, "peer");
  stage.set(0, 1, 0);
  stage.host(0).leader()->subscriber()->cut(true, true);
  const ChangeOrder second = plain_set(stage, 0);
  stage.redis().plain_change(second);
  stage.redis().plain_publish(second, "peer");
  stage.world.pass(1000 * kMs);
  stage.heal();
}

// ---- 13: clear ----------------------------------------------------------------------------------

void clear_of_what_redis_evicted(Stage& stage) {
  stage.set(1, 0, 0);
  stage.redis().evict(0);
  stage.worker(0, 1).clear();
  stage.world.pass(100 * kMs);
  stage.expect(!stage.holds(0, 0) && !stage.holds(1, 0), "held after a clear");
  stage.heal();
}

// ---- 15: limits ---------------------------------------------------------------------------------

void late_event_renews_no_life(Stage& stage) {
  Host& host = stage.host(0);
  host.stop_leader(400 * kMs);
  stage.worker(1, 1).set(0, 300 * kMs, true);
  stage.world.pass(450 * kMs);
  stage.worker(0, 1).get(0);
  stage.heal();
}

// ---- own changes and raises of the epoch --------------------------------------------------------

void own_change_across_a_raise(Stage& stage) {
  stage.set(0, 1, 0);
  stage.hold_events(0, 40 * kMs);
  stage.set(1, 1, 0);
  stage.set(0, 1, 0);
  (void)stage.host(0).table.raise_epoch();  // somebody's clear failed
  // What is held is looked at between the events' effects; what is not, is not asked for.
  std::function<void()> at_each_moment = [&] {
    if (stage.holds(0, 0)) stage.worker(0, 1).get(0);
    stage.world.interruption = at_each_moment;
  };
  stage.world.interruption = at_each_moment;
  stage.world.pass(60 * kMs);
  stage.world.interruption = nullptr;
  stage.heal();
}

void own_change_in_a_log_that_began_anew(Stage& stage) {
  for (int i = 0; i < 3; ++i) stage.set(0, 1, 0);
  stage.redis().lose_log();
  stage.hold_events(0, 10 * kMs);
  stage.worker(0, 2).set(0, 0, true);
  stage.settle();
  stage.expect(!stage.holds(0, 0), "a copy of before one's own change is held");
  stage.heal();
}

}  // namespace

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> kAll = {
      {"rollback-set", "1: a failover loses a set that its host holds; the number is given again",
       "", rollback_of_a_set},
      {"rollback-fill", "1: the same of a fill", "", rollback_of_a_fill},
      {"rollback-end", "1: the same, and nothing is changed afterwards", "",
       rollback_without_a_successor},
      {"rollback-killed", "1: the leader that finds it is killed", "",
       rollback_and_a_leader_killed_in_its_flush},
      {"fill-in-two", "2: a change between the value and the log's end", "fill-asks-end-twice",
       fill_in_two_questions},
      {"flushall", "7: nothing is published", "", flushall_is_noticed},
      {"flushall-same-number", "7: and the log has as many changes again", "",
       flushall_and_as_many_changes},
      {"last-event-lost", "7: and nothing follows it", "", last_event_lost},
      {"probe-waits", "8: the probe's answer waits while the channel is silent",
       "lease-from-asking", answer_of_a_probe_waits},
      {"demoted", "8: the leader's primary is a lagging replica now", "role-asked",
       leader_stays_with_a_demoted_primary},
      {"suspended", "8: the machine sleeps under a lease", "", machine_suspended},
      {"reader-stands", "8: a reader is stopped between the lease and the copy",
       "lease-read-before", reader_stands_between_lease_and_copy},
      {"former-leader", "9: a leader wakes up in the middle of an event", "",
       former_leader_wakes_up},
      {"killed-between", "9: a leader is killed at each moment of an event", "",
       killed_between_event_and_cursor},
      {"subscribed-late", "9: a change between the reading of the log and the subscription",
       "log-after-confirmation", change_while_it_subscribes},
      {"unanswered", "10: a change was made, and its answer lost", "failed-change-drops",
       unanswered_change},
      {"fill-across-raise", "11: the log lost the cursor while a fill was under way", "",
       fill_across_a_raise},
      {"fill-across-clear", "11: a peer cleared while a fill was under way", "",
       fill_across_a_clear_of_a_peer},
      {"stores-after-flushall", "11: guards of before refuse nothing", "", stores_after_flushall},
      {"late-answer", "12: a peer's change between a set and its answer", "",
       late_answer_after_a_plain_event},
      {"plain-overtaken", "12: a peer's event comes after a newer change", "",
       plain_event_overtaken},
      {"plain-lost", "12: a peer's event is lost with the connection", "", plain_event_lost},
      {"clear-evicted", "13: a clear of what only hosts have", "", clear_of_what_redis_evicted},
      {"late-life", "15: an event comes when its value's life is over", "",
       late_event_renews_no_life},
      {"own-across-raise", "an older event after one's own change, and a raise between", "",
       own_change_across_a_raise},
      {"own-in-a-new-log", "one's own change in a log that began anew leaves no older copy", "",
       own_change_in_a_log_that_began_anew},
  };
  return kAll;
}

std::vector<Violation> play(Ground& ground, const Scenario& scenario, const Cures& cures,
                            bool tells) {
  Stage stage(ground, cures, tells);
  scenario.play(stage);
  return stage.world.checker.violations();
}

}  // namespace larder::sim
