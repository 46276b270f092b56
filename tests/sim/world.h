// Everything of one run, but the hosts' segments: they outlive it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/coverage.h"
#include "tests/sim/network.h"
#include "tests/sim/random.h"
#include "tests/sim/redis.h"
#include "tests/sim/schedule.h"

namespace larder::sim {

// What the driver, and not src/, does right. A scenario takes one away.
struct Cures {
  bool lease_from_asking = true;  // not from the answer
  bool log_after_confirmation = true;
  bool role_asked = true;  // of the server, in each probe
  bool failed_change_drops = true;
  bool lease_read_before = true;    // the copy
  bool ahead_from_asking = true;    // of a probe, not from its answer
  bool fill_asks_end_twice = true;  // of the log: before and after the value
};

struct Cure {
  std::string_view name;
  bool Cures::*member;
};
inline constexpr Cure kCures[] = {
    {"lease-from-asking", &Cures::lease_from_asking},
    {"log-after-confirmation", &Cures::log_after_confirmation},
    {"role-asked", &Cures::role_asked},
    {"failed-change-drops", &Cures::failed_change_drops},
    {"lease-read-before", &Cures::lease_read_before},
    {"ahead-from-asking", &Cures::ahead_from_asking},
    {"fill-asks-end-twice", &Cures::fill_asks_end_twice},
};

struct WorldOptions {
  ServerOptions server;
  Delays delays;
  Cures cures;
  std::size_t held_max_events = 16;
  unsigned pages_max = 4;
  unsigned interrupt_once_in = 400;  // moments inside a leader's or reader's steps; 0: never
  bool tells = false;                // what happens, on stdout
};

class World {
 public:
  World(const WorldOptions& how, Coverage& reached, std::uint64_t seed)
      : options(how), coverage(reached), checker(ledger), random(&own_random_), own_random_(seed) {
    true_time = 0;
    servers.emplace_back(ledger, schedule, options.server);
    primary = &servers.back();
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Null: nobody listens there.
  Connection* connect(const int& stops);
  void pass(Time time) { schedule.run_until(true_time + time); }

  const WorldOptions options;
  Coverage& coverage;
  Schedule schedule;
  Ledger ledger;
  Checker checker;
  Random* random;
  std::deque<Server> servers;
  Server* primary = nullptr;
  std::deque<Connection> connections;

  // `what()` is a sentence.
  template <class What>
  void tell(What what) const {
    if (options.tells) print(what());
  }

  // Something else happens now, in the middle of a step, while who takes it stands still. Not
  // within itself.
  void meanwhile();
  bool is_meanwhile() const { return nesting_ > 0; }
  // Is this moment to be interrupted?
  bool interrupts();
  std::function<void()> interruption;  // the next moment is interrupted by this
  bool is_calm = false;                // nothing is interrupted any more
  std::function<void()> other_step;    // what others do meanwhile

  // ---- faults of the servers ----
  void restart(unsigned lost, Time down);
  enum class Former { kDead, kIsolated, kReplica };
  // A replica that lacks the last changes takes over.
  void fail_over(unsigned lost, Former former);
  // Whoever is left follows the primary.
  void unite();

 private:
  void cut_all(const Server& server);
  static void print(const std::string& sentence);

  int nesting_ = 0;
  Random own_random_;
};

}  // namespace larder::sim
