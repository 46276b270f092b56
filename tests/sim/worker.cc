#include <algorithm>
#include <chrono>
#include <utility>

#include "tests/sim/host.h"

namespace larder::sim {
namespace {

constexpr Time kTimeout = 1000 * kMs;

}  // namespace

struct Worker::LogEnd {
  ChangeId id;
  unsigned replacements;
};

Worker::LogEnd Worker::log_end_of(const Server& server) {
  return {server.log_end(), server.replacements()};
}

std::string Worker::name() const {
  return "host " + std::to_string(host_.index) + ", worker " + std::to_string(index_);
}

// ---- calls, as src/cache.cc makes them ----------------------------------------------------------

void Worker::get(unsigned key) {
  if (!is_free()) return;
  const Reading reading(host_.clock);
  Checker::Read read;
  read.begun = true_time;
  read.host = host_.index;
  read.key = key;
  read.epoch = host_.epoch();
  read.cursor = {host_.sync_words().cursor_seq.load(), host_.sync_words().cursor_nonce.load()};
  read.lease_of = host_.lease_of;
  read.lease_asked = host_.lease_asked;
  read.cursor_of = host_.cursor_of;

  const bool lease_first = host_.world.options.cures.lease_read_before;
  std::string text;
  bool hit = false;
  const auto ask_lease = [&] { read.fresh = shm::Lease::of(host_.hot()).lasts(); };
  const auto copy = [&] { hit = host_.table.get(key_name(key), text); };
  lease_first ? ask_lease() : copy();
  if (host_.world.interrupts() && !host_.stand_still(*this)) return;
  lease_first ? copy() : ask_lease();
  if (!hit) return fetch(key, false);
  read.text = text;
  host_.world.tell([&] { return name() + " reads " + text + (read.fresh ? "" : ", stale"); });
  host_.world.checker.read(read, host_.epoch());
  if (!read.fresh) fetch(key, true);
}

void Worker::fetch(unsigned key, bool holds_copy) {
  Call call;
  call.key = key;
  call.holds_copy = holds_copy;
  call.fill.emplace(host_.table, key_name(key));
  begin(std::move(call));
  // Three questions, with whatever happens in between; in fact they travel together.
  ask([](const Server& server) { return log_end_of(server); },
      [this, key](const LogEnd& before) {
        ask([key](Server& server) { return server.fetch(key); },
            [this, before](const sync::Fetched& answer) { fetch_end(before, answer); });
      });
}

void Worker::fetch_end(const LogEnd& before, const sync::Fetched& answer) {
  const bool compares = host_.world.options.cures.fill_asks_end_twice;
  ask([](const Server& server) { return log_end_of(server); },
      [this, before, compares, answer](const LogEnd& after) {
        // No server replaces its data between what it reads at once.
        if (before.replacements != after.replacements) return fail();
        sync::Fetched whole = answer;
        whole.last = after.id;
        whole.overtaken = compares && before.id != after.id;
        fetched(whole);
      });
}

void Worker::fetched(const sync::Fetched& answer) {
  const Call call = *std::exchange(call_, {});
  host_.world.tell([&] {
    return name() + " gets from server " + std::to_string(connection->server().number) + ": " +
           (answer.value ? *answer.value : key_name(call.key) + " is absent") + ", log at " +
           sync::to_string(answer.last);
  });
  host_.world.checker.keeps_answer(host_.index, call.key, connection->server(), host_.epoch(),
                                   answer.last.none());
  call.fill->finish(host_.table, key_name(call.key), answer, call.holds_copy);
}

void Worker::set(unsigned key, Time ttl, bool announce_value) {
  if (!is_free()) return;
  ChangeOrder order;
  order.keys = static_cast<KeySet>(1u << key);
  order.number = host_.world.ledger.new_number(key);
  order.ttl_ms = ttl / kMs;
  order.announce_value = announce_value;
  change(Kind::kSet, order, ttl);
}

void Worker::remove(unsigned key) {
  if (!is_free()) return;
  ChangeOrder order;
  order.action = Action::kDelete;
  order.keys = static_cast<KeySet>(1u << key);
  change(Kind::kRemove, order, 0);
}

void Worker::change(Kind kind, const ChangeOrder& order, Time ttl) {
  const Reading reading(host_.clock);
  Call call;
  call.kind = kind;
  call.number = order.number;
  while (!(order.keys >> call.key & 1)) ++call.key;
  call.change.emplace(host_.table, key_name(call.key), std::chrono::milliseconds(ttl / kMs));
  begin(std::move(call));
  ask([order](Server& server) { return server.change(order); },
      [this](const std::optional<sync::Written>& answer) { changed(answer); });
}

void Worker::changed(const std::optional<sync::Written>& answer) {
  if (!answer) return fail();
  const Call call = *std::exchange(call_, {});
  Checker& checker = host_.world.checker;
  host_.world.tell([&] {
    return name() + " has " + (call.kind == Kind::kSet ? "set " : "removed ") + key_name(call.key) +
           (call.kind == Kind::kSet ? "=" + std::to_string(call.number) : "") + " as " +
           sync::to_string(answer->id) + " at server " +
           std::to_string(connection->server().number);
  });
  if (call.kind == Kind::kSet) {
    checker.keeps_answer(host_.index, call.key, connection->server(), host_.epoch());
    call.change->finish_set(host_.table, key_name(call.key), host_.world.ledger.text(call.number),
                            answer->id);
  } else {
    call.change->finish_removal(host_.table, key_name(call.key), answer->id);
  }
  checker.completed(host_.index, call.key, Ledger::commit_of(answer->id), connection->server(),
                    host_.epoch());
}

// The keys that Redis has, in one change that names them; then the event that drops what only hosts
// have.
void Worker::clear() {
  if (!is_free()) return;
  const Reading reading(host_.clock);
  Call call;
  call.kind = Kind::kClear;
  call.epoch = host_.epoch();
  begin(std::move(call));
  ask([](Server& server) { return server.scan(); },
      [this](KeySet found) {
        if (found == 0) return order_clear();
        ChangeOrder order;
        order.action = Action::kDeleteMany;
        order.keys = found;
        ask([order](Server& server) { return server.change(order); },
            [this, found](const std::optional<sync::Written>& answer) {
              if (!answer) return fail();
              call_->removed = found;
              call_->removed_by = Ledger::commit_of(answer->id);
              order_clear();
            });
      });
}

void Worker::order_clear() {
  ChangeOrder order;
  order.action = Action::kClear;
  order.keys = kAllOurKeys;
  ask([order](Server& server) { return server.change(order); },
      [this](const std::optional<sync::Written>& answer) { cleared(answer); });
}

void Worker::cleared(const std::optional<sync::Written>& answer) {
  if (!answer) return fail();
  const Call call = *std::exchange(call_, {});
  host_.world.tell([&] { return name() + " has cleared as " + sync::to_string(answer->id); });
  host_.table.raise_floor(call.epoch, answer->id.seq);
  if (host_.epoch() != call.epoch) (void)host_.table.raise_epoch();
  // What Redis had was removed by the change before, or was set since.
  const Server& server = connection->server();
  const CommitIndex commit = Ledger::commit_of(answer->id);
  for (unsigned key = 0; key < kOurKeys; ++key) {
    const auto& changes = server.changes_of(key);
    const bool was_absent = std::binary_search(changes.begin(), changes.end(), commit);
    if (!was_absent && !(call.removed >> key & 1)) continue;
    host_.world.checker.completed(host_.index, key, was_absent ? commit : call.removed_by, server,
                                  host_.epoch());
  }
}

// ---- a call that waits for Redis ----------------------------------------------------------------

void Worker::begin(Call call) {
  call.serial = ++serials_;
  call_ = std::move(call);
}

template <class Ask, class Done>
void Worker::ask(Ask ask, Done done) {
  if (connection == nullptr) connection = host_.connect(stops);
  if (connection == nullptr) return fail();
  connection->cut_off = [this] { fail(); };
  call_->deadline = true_time + kTimeout;
  const std::uint64_t serial = call_->serial;
  host_.world.schedule.at(call_->deadline, [this, serial] {
    if (stops == 0) give_up_if_late(serial);
  });
  connection->ask(std::move(ask), [this, done = std::move(done)](const auto& answer) {
    const Reading reading(host_.clock);
    done(answer);
  });
}

void Worker::give_up_if_late(std::uint64_t serial) {
  if (call_ && call_->serial == serial && call_->deadline <= true_time) fail();
}

// It may or may not have happened.
void Worker::fail() {
  const Reading reading(host_.clock);
  let_go();
  if (!call_) return;
  const Call call = *std::exchange(call_, {});
  host_.world.tell([&] { return name() + " fails on " + key_name(call.key); });
  if (!host_.world.options.cures.failed_change_drops) return;
  if (call.kind == Kind::kClear) {
    (void)host_.table.raise_epoch();
  } else if (call.kind != Kind::kGet) {
    (void)host_.table.drop(key_name(call.key));
  }
}

void Worker::let_go() {
  if (connection != nullptr) connection->close();
  connection = nullptr;
}

void Worker::crash() {
  call_.reset();
  let_go();
  stops = 0;
  ++generation;
}

// Whether it looks at the clock or at the socket first is chance.
void Worker::resume() {
  if (stops != 0) return;
  if (connection != nullptr && host_.world.random->percent(50)) connection->resume();
  if (call_) give_up_if_late(call_->serial);
  if (connection != nullptr) connection->resume();
}

}  // namespace larder::sim
