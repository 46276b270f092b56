// Where a scenario is played: hosts of three workers each, a network without chance.
#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "tests/sim/ground.h"
#include "tests/sim/host.h"
#include "tests/sim/world.h"

namespace larder::sim {

class Stage {
 public:
  static constexpr Time kOneWay = 100;  // of every message

  Stage(Ground& ground, const Cures& cures, bool tells);

  Host& host(unsigned index) { return hosts_[index]; }
  Worker& worker(unsigned host, unsigned index) { return hosts_[host].workers[index]; }
  Server& redis() { return *world.primary; }

  // Until an answer is here, and the events of a change are everywhere.
  void settle() { world.pass(20 * kOneWay); }
  void set(unsigned host, unsigned worker, unsigned key);
  void remove(unsigned host, unsigned worker, unsigned key);
  // Redis has answered, but the answer has not arrived.
  void until_answered() { world.pass(kOneWay + kOneWay / 2); }
  // The answer to this worker waits.
  void hold_answer(Worker& worker, Time time) { worker.connection->stall(true_time + time); }
  // Events do not arrive at the host for so long.
  void hold_events(unsigned host, Time time);
  bool holds(unsigned host, unsigned key);
  void expect(bool met, std::string_view what);
  // Faults are over; all agree after a while.
  void heal();

  Coverage coverage;
  World world;

 private:
  static WorldOptions calm_world(const Cures& cures, bool tells);
  std::deque<Host> hosts_;
};

}  // namespace larder::sim
