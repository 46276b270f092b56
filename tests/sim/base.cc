#include "tests/sim/base.h"

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "tests/sim/world.h"

namespace larder::sim {
namespace {

constexpr Time kTimeout = 3000 * kMs;
constexpr Time kSilentTooLong = 6000 * kMs;  // a PING after 3 s, and 3 s for its answer
constexpr std::uint64_t kEpoch = 1;          // it knows of none

class Pod {
 public:
  static constexpr unsigned kCalls = 4;  // at a time

  Pod(World& world, unsigned index) : world_(world), index_(index) { subscribe(); }
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  void get(unsigned key) {
    if (stops_ != 0) return;
    if (held_[key]) return read(key);
    Call* const call = free_call();
    if (call == nullptr) return;
    ask(
        *call, [key](Server& server) { return server.held(key); },
        [this, key](std::uint64_t number) {
          if (number != 0) held_[key] = number;
        });
  }
  void set(unsigned key, Action told) {
    if (stops_ != 0) return;
    ChangeOrder order;
    order.action = told;
    order.keys = static_cast<KeySet>(1u << key);
    order.number = world_.ledger.new_number(key);
    held_[key] = order.number;
    change(order);
  }
  void remove(unsigned key) {
    if (stops_ != 0) return;
    ChangeOrder order;
    order.action = Action::kDelete;
    order.keys = static_cast<KeySet>(1u << key);
    held_[key].reset();
    change(order);
  }
  void clear() {
    if (stops_ != 0) return;
    ChangeOrder order;
    order.action = Action::kClear;
    order.keys = kAllOurKeys;
    held_ = {};
    change(order);
  }

  void crash() {
    held_ = {};
    for (Call& call : calls_) let_go(call);
  }
  void stop(Time time) {
    ++stops_;
    world_.schedule.in(time, [this] {
      --stops_;
      for (Call& call : calls_) {
        if (call.connection != nullptr) call.connection->resume();
      }
      if (subscriber_ != nullptr) subscriber_->resume();
    });
  }
  Connection* subscriber() { return subscriber_; }
  Connection* some_connection(std::uint64_t which) { return calls_[which % kCalls].connection; }
  std::optional<std::uint64_t> holds(unsigned key) const { return held_[key]; }

 private:
  struct Call {
    Connection* connection = nullptr;
    bool busy = false;
    std::uint64_t serial = 0;
  };

  void read(unsigned key) {
    const std::string text = world_.ledger.text(*held_[key]);
    Checker::Read read;
    read.begun = true_time;
    read.host = index_;
    read.key = key;
    read.text = text;
    read.fresh = true;
    read.epoch = kEpoch;
    read.lease_of = read.cursor_of = server_;
    world_.checker.read(read, kEpoch);
  }

  // The change, then the event: two commands.
  void change(const ChangeOrder& order) {
    Call* const call = free_call();
    if (call == nullptr) return;
    ask(
        *call,
        [this, order](Server& server) {
          const std::size_t before = world_.ledger.commits.size();
          server.plain_change(order);
          return world_.ledger.commits.size() > before ? static_cast<CommitIndex>(before)
                                                       : kNeverCommitted;
        },
        [this, call, order](CommitIndex commit) {
          if (commit == kNeverCommitted) return;
          ask(
              *call,
              [this, order, commit](Server& server) {
                server.plain_publish(order, name(), commit);
                return &server;
              },
              [this, order, commit](Server* server) {
                for (unsigned key = 0; key < kOurKeys; ++key) {
                  if (!(order.keys >> key & 1)) continue;
                  world_.checker.completed(index_, key, commit, *server, kEpoch);
                }
              });
        });
  }

  void heard(const Payload& payload) {
    heard_ = true_time;
    const auto event = sync::decode_event(*payload);
    if (!event || event->sender == name()) return;
    for (unsigned key = 0; key < kOurKeys; ++key) {
      if (event->action != Action::kClear && event->key != key_name(key)) continue;
      held_[key].reset();
      if (event->action == Action::kSet) held_[key] = world_.ledger.number_of(key, event->value);
      world_.checker.followed(index_, key, Ledger::commit_of(event->id));
    }
  }

  // ---- connections ----

  void subscribe() {
    subscriber_ = world_.connect(stops_);
    if (subscriber_ == nullptr) {
      return world_.schedule.in(100 * kMs, [this] { subscribe(); });
    }
    server_ = &subscriber_->server();
    heard_ = true_time;
    subscriber_->heard = [this](const Payload& payload) { heard(payload); };
    subscriber_->cut_off = [this] { subscribe_again(); };
    subscriber_->subscribe([] {});
    watch(subscriber_);
  }
  void subscribe_again() {
    subscriber_ = nullptr;
    world_.schedule.in(world_.random->between(8, 512) * kMs, [this] { subscribe(); });
  }
  void watch(Connection* watched) {
    world_.schedule.in(1000 * kMs, [this, watched] {
      if (watched != subscriber_) return;
      if (heard_ + kSilentTooLong > true_time || !watched->is_silent()) return watch(watched);
      watched->close();
      subscribe_again();
    });
  }

  Call* free_call() {
    for (Call& call : calls_) {
      if (!call.busy) return &call;
    }
    return nullptr;
  }
  template <class Ask, class Done>
  void ask(Call& call, Ask ask, Done done) {
    if (call.connection == nullptr) call.connection = world_.connect(stops_);
    if (call.connection == nullptr) return;
    call.busy = true;
    const std::uint64_t serial = ++call.serial;
    call.connection->cut_off = [this, &call] { let_go(call); };
    world_.schedule.in(kTimeout, [this, &call, serial] {
      if (call.busy && call.serial == serial) let_go(call);
    });
    call.connection->ask(std::move(ask), [&call, done = std::move(done)](const auto& answer) {
      call.busy = false;
      done(answer);
    });
  }
  void let_go(Call& call) {
    if (call.connection != nullptr) call.connection->close();
    call.connection = nullptr;
    call.busy = false;
    ++call.serial;
  }

  std::string name() const { return "pod-" + std::to_string(index_); }

  World& world_;
  const unsigned index_;
  std::array<std::optional<std::uint64_t>, kKeys> held_;
  std::array<Call, kCalls> calls_;
  Connection* subscriber_ = nullptr;
  const Server* server_ = nullptr;  // whose events it hears, or heard last
  Time heard_ = 0;
  int stops_ = 0;
};

class BaseRun {
 public:
  BaseRun(Coverage& unused, std::uint64_t seed, const RunOptions& options)
      : random_(seed), world_(world_options(options), unused, seed) {
    world_.checker.excuses = false;
    const std::uint64_t pods = random_.between(2, kHostsMost);
    for (unsigned i = 0; i < pods; ++i) pods_.emplace_back(world_, i);
    world_.pass(100 * kMs);
    world_.random = &random_;
  }

  void step() {
    if (random_.percent(5)) {
      befall();
    } else {
      call();
    }
    world_.pass(random_.once_in(10) ? random_.below(300 * kMs) : random_.below(5 * kMs));
  }
  void heal_and_compare() {
    world_.unite();
    world_.pass(12'000 * kMs);
    for (unsigned i = 0; i < pods_.size(); ++i) {
      for (unsigned key = 0; key < kOurKeys; ++key) {
        const auto held = pods_[i].holds(key);
        world_.checker.healed(i, key, kEpoch,
                              held ? std::optional(world_.ledger.text(*held)) : std::nullopt,
                              *world_.primary);
      }
    }
  }
  Outcome outcome(unsigned steps) const {
    Outcome outcome;
    outcome.violations = world_.checker.violations();
    outcome.faults = faults_;
    outcome.steps = steps;
    outcome.reads = world_.checker.reads();
    outcome.fresh_reads = world_.checker.fresh_reads();
    outcome.largest_staleness = world_.checker.largest_staleness();
    return outcome;
  }

 private:
  static WorldOptions world_options(const RunOptions& options) {
    WorldOptions world;
    world.tells = options.tells;
    world.interrupt_once_in = 0;
    return world;
  }

  void call() {
    Pod& pod = pods_[random_.below(pods_.size())];
    const auto key = static_cast<unsigned>(random_.below(kOurKeys));
    const std::uint64_t kind = random_.below(20);
    if (kind < 13) return pod.get(key);
    if (kind < 16) return pod.set(key, Action::kSet);
    if (kind < 18) return pod.set(key, Action::kInvalidate);
    if (kind < 19) return pod.remove(key);
    if (random_.once_in(4)) pod.clear();
  }

  void befall() {
    constexpr Fault kMet[] = {Fault::kCut,      Fault::kSilence,   Fault::kStall,
                              Fault::kRestart,  Fault::kOlderData, Fault::kFlushAll,
                              Fault::kFailover, Fault::kCrash,     Fault::kStop};
    const Fault fault = kMet[random_.below(std::size(kMet))];
    Pod& pod = pods_[random_.below(pods_.size())];
    if (strike(fault, pod)) faults_[static_cast<unsigned>(fault)] = true;
  }
  bool strike(Fault fault, Pod& pod) {
    const Time time = random_.between(1, 1000) * kMs;
    Connection* const connection =
        random_.percent(50) ? pod.subscriber() : pod.some_connection(random_.next());
    const bool disturbs =
        fault == Fault::kCut || fault == Fault::kSilence || fault == Fault::kStall;
    if (disturbs && (connection == nullptr || !connection->is_open())) return false;
    if (!world_.primary->up) return false;
    switch (fault) {
      case Fault::kCut:
        connection->cut(random_.percent(50), random_.percent(50));
        return true;
      case Fault::kSilence:
        connection->go_silent();
        return true;
      case Fault::kStall:
        connection->stall(true_time + time);
        return true;
      case Fault::kRestart:
      case Fault::kOlderData:
        world_.restart(fault == Fault::kRestart ? 0 : 2, random_.below(300 * kMs));
        return true;
      case Fault::kFlushAll:
        world_.primary->flush_all();
        return true;
      case Fault::kFailover:
        if (world_.servers.size() == 6) return false;
        world_.fail_over(static_cast<unsigned>(random_.below(3)), World::Former::kDead);
        return true;
      case Fault::kCrash:
        pod.crash();
        return true;
      case Fault::kStop:
        pod.stop(time);
        return true;
      default:
        return false;
    }
  }

  Random random_;
  World world_;
  std::deque<Pod> pods_;
  std::array<bool, kFaults> faults_{};
};

}  // namespace

Outcome run_base(std::uint64_t seed, const RunOptions& options) {
  Coverage unused;
  BaseRun one(unused, seed, options);
  for (unsigned i = 0; i < options.steps; ++i) one.step();
  one.heal_and_compare();
  return one.outcome(options.steps);
}

bool race_ends_stale(Race race, std::uint64_t seed) {
  Coverage unused;
  Random random(seed);
  WorldOptions options;
  options.interrupt_once_in = 0;
  World world(options, unused, seed);
  Pod one(world, 0), other(world, 1);
  world.pass(100 * kMs);
  if (race == Race::kLateFill) {
    other.set(0, Action::kSet);
    world.pass(100 * kMs);
    one.crash();  // it holds nothing now
  }
  const Time gap = random.below(race == Race::kCrossing ? 1000 : 300);
  if (race == Race::kCrossing) {
    one.set(0, Action::kSet);
  } else {
    one.get(0);
  }
  world.pass(gap);
  other.set(0, Action::kSet);
  world.pass(1000 * kMs);
  const std::uint64_t has = world.primary->held(0);
  return one.holds(0).value_or(has) != has || other.holds(0).value_or(has) != has;
}

}  // namespace larder::sim
