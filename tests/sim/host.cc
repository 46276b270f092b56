#include "tests/sim/host.h"

#include <algorithm>

namespace larder::sim {
namespace {

constexpr Time kWatch = 200 * kMs;
constexpr Time kHeartbeatLost = 3000 * kMs;

}  // namespace

Host::Host(World& in, unsigned number, shm::Table& held, unsigned worker_count)
    : world(in), index(number), table(held) {
  for (unsigned i = 0; i < worker_count; ++i) workers.emplace_back(*this, i);
  watch();
}

Connection* Host::connect(const int& stops) {
  if (true_time < cut_off_until) return nullptr;
  Connection* made = world.connect(stops);
  if (made != nullptr) connections_.push_back(made);
  return made;
}

// ---- who leads ----------------------------------------------------------------------------------

void Host::watch() {
  world.schedule.in(kWatch, [this] { watch(); });
  if (suspended) return;
  if (leader() != nullptr && leader()->stops == 0) leader_seen_ = true_time;
  if (leader() == nullptr || leader_seen_ + kHeartbeatLost <= true_time) elect();
}

void Host::elect() {
  std::vector<Worker*> candidates;
  for (Worker& worker : workers) {
    const bool leads = std::any_of(leaders_.begin(), leaders_.end(), [&](Leader& one) {
      return !one.is_dead() && &one.process() == &worker;
    });
    if (worker.stops == 0 && !leads) candidates.push_back(&worker);
  }
  if (candidates.empty()) return;
  const Reading reading(clock);
  Worker& winner = *candidates[world.random->below(candidates.size())];
  const auto term = table.begin_term();
  if (!term) return;
  leader_ = &leaders_.emplace_back(*this, winner, *term);
  leader_seen_ = true_time;
  leader_->start();
}

void Host::elect_soon() {
  world.schedule.in(world.random->between(1, 60) * kMs, [this] {
    if (!suspended && leader() == nullptr) elect();
  });
}

bool Host::follows_with_lease() {
  const Reading reading(clock);
  return leader() != nullptr && leader()->is_following() && shm::Lease::of(hot()).lasts();
}

// ---- faults -------------------------------------------------------------------------------------

bool Host::stand_still(Worker& worker) {
  const unsigned generation = worker.generation;
  ++worker.stops;
  world.meanwhile();
  if (worker.generation != generation) return false;
  --worker.stops;
  world.schedule.in(0, [&worker] { worker.resume(); });
  return true;
}

void Host::crash(unsigned worker) { crash(workers[worker]); }

void Host::crash(Worker& worker) {
  worker.crash();
  for (Leader& each : leaders_) {
    if (&each.process() == &worker && !each.is_dead()) each.die();
  }
  if (leader() == nullptr) elect_soon();
}

void Host::restart_all() {
  for (Worker& worker : workers) crash(worker);
}

void Host::stop(unsigned number, Time time) {
  Worker& worker = workers[number];
  if (worker.stops != 0) return;
  ++worker.stops;
  const std::vector<Leader*> stopped = stop_leaders(&worker);
  world.schedule.in(time, [this, &worker, stopped, generation = worker.generation] {
    if (worker.generation != generation) return;
    --worker.stops;
    worker.resume();
    resume_leaders(stopped);
  });
}

// Those of a process, or all.
std::vector<Leader*> Host::stop_leaders(const Worker* process) {
  std::vector<Leader*> stopped;
  for (Leader& each : leaders_) {
    if (process == nullptr || &each.process() == process) stopped.push_back(&each);
  }
  for (Leader* each : stopped) ++each->stops;
  return stopped;
}

void Host::resume_leaders(const std::vector<Leader*>& stopped) {
  for (Leader* each : stopped) {
    --each->stops;
    each->resume();
  }
}

// Its thread alone.
void Host::stop_leader(Time time) {
  Leader* stopped = leader();
  if (stopped == nullptr) return;
  ++stopped->stops;
  world.schedule.in(time, [stopped] {
    --stopped->stops;
    stopped->resume();
  });
}

void Host::kill_leader() {
  if (leader() != nullptr) crash(leader()->process());
}

void Host::suspend(Time time) {
  if (suspended || world.is_meanwhile()) return;
  suspended = true;
  for (Worker& worker : workers) ++worker.stops;
  const std::vector<Leader*> stopped = stop_leaders(nullptr);
  world.schedule.in(time, [this, time, stopped] {
    suspended = false;
    clock.suspended += time;
    leader_seen_ = true_time;
    for (Worker& worker : workers) {
      if (worker.stops > 0) --worker.stops;
      worker.resume();
    }
    resume_leaders(stopped);
  });
}

void Host::partition(Time time) {
  cut_off_until = true_time + time;
  for (Connection* connection : connections_) {
    if (connection->is_open()) connection->stall(cut_off_until);
  }
}

}  // namespace larder::sim
