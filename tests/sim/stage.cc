#include "tests/sim/stage.h"

namespace larder::sim {

WorldOptions Stage::calm_world(const Cures& cures, bool tells) {
  WorldOptions options;
  options.cures = cures;
  options.tells = tells;
  options.delays = {kOneWay, kOneWay, 0, kOneWay};
  options.interrupt_once_in = 0;
  return options;
}

Stage::Stage(Ground& ground, const Cures& cures, bool tells)
    : world(calm_world(cures, tells), coverage, 1) {
  constexpr unsigned kHosts = 2;
  constexpr unsigned kWorkers = 3;
  for (unsigned i = 0; i < kHosts; ++i) {
    hosts_.emplace_back(world, i, ground.fresh_table(i), kWorkers);
  }
  world.pass(500 * kMs);  // everybody follows
  for (Host& each : hosts_) expect(each.follows_with_lease(), "a host does not follow");
  set(0, 0, 3);  // and there is a log
}

void Stage::set(unsigned host, unsigned index, unsigned key) {
  worker(host, index).set(key, 0, true);
  settle();
}

void Stage::remove(unsigned host, unsigned index, unsigned key) {
  worker(host, index).remove(key);
  settle();
}

void Stage::hold_events(unsigned host, Time time) {
  hosts_[host].leader()->subscriber()->stall(true_time + time);
}

bool Stage::holds(unsigned host, unsigned key) {
  return hosts_[host].table.contains(key_name(key));
}

void Stage::expect(bool met, std::string_view what) {
  if (!met) world.checker.violated(Property::kAgreement, std::string(what));
}

void Stage::heal() {
  world.unite();
  world.pass(8000 * kMs);
  for (Host& each : hosts_) {
    expect(each.follows_with_lease(), "a host does not follow with a lease");
    for (unsigned key = 0; key < kOurKeys; ++key) {
      const Reading reading(each.clock);
      std::string text;
      const bool held = each.table.get(key_name(key), text);
      world.checker.healed(each.index, key, each.epoch(), held ? std::optional(text) : std::nullopt,
                           redis());
    }
  }
}

}  // namespace larder::sim
