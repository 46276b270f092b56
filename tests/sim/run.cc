#include "tests/sim/run.h"

#include <algorithm>
#include <cstdio>
#include <deque>

#include "tests/sim/host.h"

namespace larder::sim {
namespace {

constexpr std::string_view kFaultNames[kFaults] = {
    "cut",         "silence",         "stall",      "partition",   "event lost",
    "event twice", "strange message", "restart",    "older data",  "flushall",
    "log lost",    "log trimmed",     "failover",   "split brain", "demotion",
    "eviction",    "expiry",          "crash",      "stop",        "leader death",
    "leader stop", "restart all",     "clock step", "suspend",     "plain peer"};

// What kind of run a seed makes.
struct Profile {
  WorldOptions world;
  unsigned hosts;
  unsigned workers;
  std::array<bool, kFaults> faults{};
  unsigned fault_percent;
  unsigned write_percent;

  explicit Profile(std::uint64_t seed) {
    Random random(seed ^ 0x70726f66696c65);
    hosts = static_cast<unsigned>(random.between(2, kHostsMost));
    workers = static_cast<unsigned>(random.between(1, 4));
    for (bool& fault : faults) fault = random.percent(20);
    faults[seed % kFaults] = true;
    // A clock that is set back while the machine sleeps says nothing.
    if (has(Fault::kSuspend)) faults[static_cast<unsigned>(Fault::kClockStep)] = false;
    fault_percent = random.once_in(3) ? 12 : 5;
    write_percent = random.once_in(2) ? 40 : 15;
    world.server.log_max = random.once_in(3) ? 6 : 32;
    world.server.page_rows = random.between(2, 10);
    world.server.format = random.once_in(2) ? WireFormat::kMsgpack : WireFormat::kJson;
    if (random.once_in(4)) world.interrupt_once_in = 40;
    if (random.once_in(4)) world.delays.slow_percent = 30;
    if (random.once_in(4)) world.delays.slowest = 300 * kMs;
    world.held_max_events = random.once_in(3) ? 2 : 16;
    world.pages_max = random.once_in(3) ? 2 : 10;
  }
  bool has(Fault fault) const { return faults[static_cast<unsigned>(fault)]; }
};

class Run {
 public:
  Run(Ground& ground, Coverage& coverage, std::uint64_t seed, const RunOptions& options)
      : profile_(seed), world_(world_options(profile_, options), coverage, seed) {
    for (unsigned i = 0; i < profile_.hosts; ++i) {
      hosts_.emplace_back(world_, i, ground.fresh_table(i), profile_.workers);
    }
    world_.other_step = [this] { call(); };
    world_.pass(100 * kMs);
  }

  void step(std::uint64_t seed) {
    Random random(seed);
    Random* const before = std::exchange(world_.random, &random);
    if (random.percent(profile_.fault_percent)) {
      befall();
    } else {
      call();
    }
    world_.pass(pause());
    world_.random = before;
    ++outcome_.steps;
  }

  void heal_and_compare() {
    world_.tell([] { return std::string("---- everything is healed"); });
    world_.is_calm = true;
    // Whatever was begun ends: calls, stops, partitions.
    world_.pass(3000 * kMs);
    world_.unite();
    world_.pass(6000 * kMs);
    for (Host& host : hosts_) compare(host);
  }

  Outcome outcome() {
    const Checker& checker = world_.checker;
    outcome_.violations = checker.violations();
    outcome_.reads = checker.reads();
    outcome_.fresh_reads = checker.fresh_reads();
    outcome_.excused = checker.excused();
    outcome_.largest_staleness = checker.largest_staleness();
    return outcome_;
  }
  bool failed() const { return !world_.checker.violations().empty(); }

 private:
  static WorldOptions world_options(const Profile& profile, const RunOptions& options) {
    WorldOptions world = profile.world;
    world.cures = options.cures;
    world.tells = options.tells;
    return world;
  }

  Random& random() { return *world_.random; }
  Host& some_host() { return hosts_[random().below(hosts_.size())]; }
  Worker& some_worker() {
    Host& host = some_host();
    return host.workers[random().below(host.workers.size())];
  }
  unsigned some_key() { return static_cast<unsigned>(random().below(kOurKeys)); }

  Time pause() {
    const std::uint64_t kind = random().below(20);
    if (kind < 8) return random().below(300);
    if (kind < 17) return random().below(5 * kMs);
    if (kind < 19) return random().below(50 * kMs);
    return random().below(600 * kMs);
  }

  // ---- calls ----

  void call() {
    Worker& worker = some_worker();
    if (!random().percent(profile_.write_percent)) return worker.get(some_key());
    const std::uint64_t kind = random().below(20);
    if (kind < 12) return worker.set(some_key(), ttl(), true);
    if (kind < 15) return worker.set(some_key(), ttl(), false);
    if (kind < 18) return worker.remove(some_key());
    if (kind < 19) return worker.clear();
    worker.set(kKeys - 1, 0, true);
  }

  Time ttl() {
    if (!profile_.has(Fault::kExpiry) || random().percent(50)) return 0;
    happened(Fault::kExpiry);
    return random().between(1, 1500) * kMs;
  }

  // ---- faults ----

  // A host that found no log, and did not hear of the first change of one, cannot tell when that
  // log is lost again before it asked: "no log" is no history.
  bool everybody_knows_the_log() {
    if (world_.primary->log_end().none()) return true;
    return std::none_of(hosts_.begin(), hosts_.end(),
                        [](Host& host) { return host.sync_words().cursor_seq.load() == 0; });
  }

  void happened(Fault fault) { outcome_.faults[static_cast<unsigned>(fault)] = true; }

  void befall() {
    std::array<Fault, kFaults> possible;
    std::size_t count = 0;
    for (unsigned i = 0; i < kFaults; ++i) {
      const auto fault = static_cast<Fault>(i);
      if (profile_.faults[i] && fault != Fault::kExpiry) possible[count++] = fault;
    }
    if (count == 0) return call();
    const Fault fault = possible[random().below(count)];
    world_.tell([&] { return "---- " + std::string(fault_name(fault)); });
    if (befall(fault)) happened(fault);
  }

  bool befall(Fault fault) {
    Server& redis = *world_.primary;
    Host& host = some_host();
    const Time while_ = random().between(1, random().once_in(4) ? 4500 : 500) * kMs;
    switch (fault) {
      case Fault::kCut:
      case Fault::kSilence:
      case Fault::kStall:
        return disturb(fault, host, while_);
      case Fault::kPartition:
        host.partition(while_);
        return true;
      case Fault::kEventLost:
        redis.unannounced += 1;
        return true;
      case Fault::kEventTwice:
        redis.announced_twice += 1;
        return true;
      case Fault::kStrangeMessage:
        publish_strange(redis);
        return true;
      case Fault::kRestart:
        return restart(0);
      case Fault::kOlderData:
        return restart(static_cast<unsigned>(random().between(1, 9)));
      case Fault::kFlushAll:
        return everybody_knows_the_log() && (redis.flush_all(), true);
      case Fault::kLogLost:
        return everybody_knows_the_log() && (redis.lose_log(), true);
      case Fault::kLogTrimmed:
        redis.trim_log(random().below(4));
        return true;
      case Fault::kFailover:
        return fail_over(World::Former::kDead);
      case Fault::kSplitBrain:
        return fail_over(World::Former::kIsolated);
      case Fault::kDemotion:
        return fail_over(World::Former::kReplica);
      case Fault::kEviction:
        redis.evict(some_key());
        return true;
      case Fault::kCrash:
        return !host.suspended && (host.crash(some_of(host)), true);
      case Fault::kStop:
        return !host.suspended && (host.stop(some_of(host), while_), true);
      case Fault::kLeaderDeath:
        return !host.suspended && host.leader() != nullptr && (host.kill_leader(), true);
      case Fault::kLeaderStop:
        // Half of them for long enough to be replaced.
        return !host.suspended && host.leader() != nullptr &&
               (host.stop_leader(while_ + (random().percent(50) ? 3000 * kMs : 0)), true);
      case Fault::kRestartAll:
        return !host.suspended && (host.restart_all(), true);
      case Fault::kClockStep:
        host.clock.step_us +=
            (random().percent(50) ? 1 : -1) * static_cast<std::int64_t>(random().below(5000 * kMs));
        return true;
      case Fault::kSuspend:
        host.suspend(while_);
        return true;
      case Fault::kPlainPeer:
        return plain_change(redis);
      case Fault::kExpiry:
        break;
    }
    return false;
  }

  unsigned some_of(const Host& host) {
    return static_cast<unsigned>(random().below(host.workers.size()));
  }

  bool disturb(Fault fault, Host& host, Time time) {
    Connection* connection = host.workers[some_of(host)].connection;
    if (host.leader() != nullptr && random().percent(70)) {
      connection = random().percent(60) ? host.leader()->subscriber() : host.leader()->commander();
    }
    if (connection == nullptr || !connection->is_open()) return false;
    if (fault == Fault::kCut) {
      connection->cut(random().percent(50), random().percent(50));
    } else if (fault == Fault::kSilence) {
      connection->go_silent();
    } else {
      connection->stall(true_time + time);
    }
    return true;
  }

  bool restart(unsigned lost) {
    if (!world_.primary->up || (lost != 0 && !everybody_knows_the_log())) return false;
    world_.restart(lost, random().between(0, 300) * kMs);
    return true;
  }

  bool fail_over(World::Former former) {
    constexpr std::size_t kServersMost = 6;
    if (!world_.primary->up || world_.servers.size() == kServersMost) return false;
    if (!everybody_knows_the_log()) return false;
    world_.fail_over(static_cast<unsigned>(random().below(4)), former);
    return true;
  }

  void publish_strange(Server& redis) {
    sync::Event event;
    event.key = key_name(some_key());
    event.action = Action::kDelete;
    event.database = 1;
    event.id = {random().between(1, 30), 1};
    std::string payload = event_head(event, WireFormat::kJson);
    if (random().percent(50)) payload += event_tail(event, WireFormat::kJson);
    redis.publish_raw(std::move(payload));
  }

  bool plain_change(Server& redis) {
    if (!redis.up) return false;
    constexpr Action kActions[] = {Action::kSet, Action::kInvalidate, Action::kDelete,
                                   Action::kClear};
    ChangeOrder order;
    order.action = kActions[random().below(random().once_in(8) ? 4 : 3)];
    const unsigned key = some_key();
    order.keys = order.action == Action::kClear ? kAllOurKeys : static_cast<KeySet>(1u << key);
    if (order.action == Action::kSet || order.action == Action::kInvalidate) {
      order.number = world_.ledger.new_number(key);
    }
    redis.plain_change(order);
    world_.schedule.in(random().below(2 * kMs), [&redis, order] {
      if (redis.up) redis.plain_publish(order, "peer");
    });
    return true;
  }

  // ---- afterwards ----

  void compare(Host& host) {
    Checker& checker = world_.checker;
    if (!host.follows_with_lease()) {
      checker.violated(Property::kAgreement,
                       "host " + std::to_string(host.index) + " does not follow with a lease");
    }
    for (unsigned key = 0; key < kOurKeys; ++key) {
      const Reading reading(host.clock);
      std::string text;
      const bool holds = host.table.get(key_name(key), text);
      checker.healed(host.index, key, host.epoch(), holds ? std::optional(text) : std::nullopt,
                     *world_.primary);
    }
  }

  const Profile profile_;
  World world_;
  std::deque<Host> hosts_;
  Outcome outcome_;
};

}  // namespace

std::string_view fault_name(Fault fault) { return kFaultNames[static_cast<unsigned>(fault)]; }

std::vector<std::uint64_t> steps_of(std::uint64_t seed, unsigned steps) {
  Random random(seed);
  std::vector<std::uint64_t> seeds(steps);
  for (std::uint64_t& each : seeds) each = random.next();
  return seeds;
}

Outcome run(Ground& ground, Coverage& coverage, std::uint64_t seed,
            const std::vector<std::uint64_t>& steps, const RunOptions& options) {
  Run one(ground, coverage, seed, options);
  for (const std::uint64_t step : steps) {
    one.step(step);
    if (one.failed()) return one.outcome();
  }
  one.heal_and_compare();
  return one.outcome();
}

}  // namespace larder::sim
