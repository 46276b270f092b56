#include "tests/sim/world.h"

#include <cinttypes>
#include <cstdio>
#include <utility>

namespace larder::sim {

void World::print(const std::string& sentence) {
  std::printf("%7" PRIu64 ".%03" PRIu64 " ms  %s\n", true_time / kMs, true_time % kMs,
              sentence.c_str());
}

Connection* World::connect(const int& stops) {
  Server* server = primary;
  // An address that is still looked up as it was.
  constexpr unsigned kOldAddressPercent = 25;
  for (Server& other : servers) {
    const bool old = &other != primary && other.reachable && other.up;
    if (old && random->percent(kOldAddressPercent)) server = &other;
  }
  if (!server->up || !server->reachable) return nullptr;
  return &connections.emplace_back(schedule, random, options.delays, *server, stops);
}

bool World::interrupts() {
  if (interruption && nesting_ == 0) return true;
  const unsigned turns = options.interrupt_once_in;
  return !is_calm && turns != 0 && nesting_ == 0 && random->once_in(turns);
}

void World::meanwhile() {
  ++nesting_;
  if (interruption) {
    std::exchange(interruption, {})();
    --nesting_;
    return;
  }
  const bool long_enough_to_be_replaced = random->once_in(3);
  const unsigned steps = static_cast<unsigned>(random->between(1, 6));
  for (unsigned i = 0; i < steps; ++i) {
    if (other_step) other_step();
    pass(random->below(long_enough_to_be_replaced ? 2500 * kMs : 20 * kMs));
  }
  --nesting_;
}

void World::cut_all(const Server& server) {
  for (Connection& connection : connections) {
    if (connection.is_open() && &connection.server() == &server) {
      connection.cut(random->percent(50), random->percent(50));
    }
  }
}

void World::restart(unsigned lost, Time down) {
  Server& server = *primary;
  cut_all(server);
  server.up = false;
  server.restore(lost);
  schedule.in(down, [&server] { server.up = true; });
}

void World::fail_over(unsigned lost, Former former) {
  Server& old = *primary;
  primary = &servers.emplace_back(old, lost);
  if (former != Former::kDead) old.is_one_of_several = primary->is_one_of_several = true;
  if (former == Former::kDead) {
    cut_all(old);
    old.up = false;
  } else if (former == Former::kReplica) {
    old.become_replica_of(*primary, random->between(1, 50) * kMs);
  }
  old.reachable = former != Former::kDead && random->percent(30);
}

void World::unite() {
  for (Server& server : servers) {
    if (&server == primary) continue;
    server.reachable = false;  // its address is forgotten
    if (server.up) server.become_replica_of(*primary, random->between(1, 50) * kMs);
  }
}

}  // namespace larder::sim
