#include "tests/leader/handover.h"

#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "tests/shm/fixture.h"
#include "tests/support/two_hosts.h"

namespace larder::leader {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using test::await;
using test::TwoHosts;
using test::Worker;

constexpr auto kPatience = 60s;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

bool sabotaged(std::string_view how) {
  const char* wanted = std::getenv("LARDER_SABOTAGE");
  return wanted != nullptr && wanted == how;
}

class Turns {
 public:
  explicit Turns(std::uint64_t seed) : random_(seed) {}

  void kill_leader() {
    rest();
    Worker& victim = hosts_.a.leader();
    const std::uint64_t term = hosts_.a.view.leader().term;
    const auto begin = Clock::now();
    victim.signal(sabotaged("stop-instead") ? SIGSTOP : SIGKILL);
    note(begin, term, hosts_.a.other_than(victim));
    victim.kill();
    hosts_.a.remove(victim);
    hosts_.a.workers.emplace_back(hosts_.a.cache);
    audit();
  }

  void stop_leader() {
    rest();
    Worker& stopped = hosts_.a.leader();
    Worker& reader = hosts_.a.other_than(stopped);
    change_keys(random_.below(200));
    const std::uint64_t term = hosts_.a.view.leader().term;
    const auto begin = Clock::now();
    stopped.stop();
    change_keys(20);
    note(begin, term, reader);
    stopped.signal(SIGCONT);
    // One subscription a host: it has noticed.
    require(await([&] { return hosts_.subscribers() == 2; }, kPatience),
            "the former leader does not step down");
    audit();
  }

  Handovers result() {
    const Stats stats = hosts_.a.cache.stats();
    seen_.stale_term_writes += stats.stale_term_writes;
    seen_.stale_term_refused = stats.stale_term_refused;
    seen_.leader_changes = stats.leader_changes;
    return seen_;
  }

 private:
  // Into the midst of a heartbeat, with something in the segment.
  void rest() {
    change_keys(50);
    hosts_.catch_up();
    std::this_thread::sleep_for(std::chrono::milliseconds(random_.below(250)));
  }

  void change_keys(std::uint64_t how_often) {
    Worker& writer = hosts_.b.workers[0];
    for (std::uint64_t i = 0; i < how_often; ++i) {
      const std::string key = "key:" + std::to_string(random_.below(40));
      const bool removes = random_.one_in(5);
      const std::string value = std::to_string(++changes_);
      require((removes ? writer.remove(key) : writer.set(key, value)).ok(),
              "B cannot change a key");
    }
  }

  void note(Clock::time_point begin, std::uint64_t term, Worker& reader) {
    // What the former leader still does between the signal and its end does not count.
    while (hosts_.a.view.leader().term == term || !hosts_.a.view.in_sync()) {
      require(Clock::now() < begin + kPatience, "nobody was elected");
      std::this_thread::sleep_for(200us);
    }
    const auto took = hosts_.until_a_applies_an_event(reader, begin, kPatience);
    require(took.has_value(), "nobody took over");
    seen_.ms.push_back(std::chrono::duration<double, std::milli>(*took).count());
  }

  void audit() {
    if (sabotaged("stale-write")) write_stale();
    const auto wrong = hosts_.wrong_at_a();
    for (const std::string& key : wrong) std::fprintf(stderr, "wrong value of %s\n", key.c_str());
    seen_.stale_term_writes += wrong.size();
  }

  // What no deposed leader may do.
  void write_stale() {
    hosts_.catch_up();
    const Options& options = hosts_.a.cache.options();
    auto segment = shm::Segment::attach(shm::Segment::path_of(options.directory, options.name),
                                        shm::Access::kReadWrite);
    require(segment.ok(), "cannot attach to A's segment");
    shm::Table table(std::move(*segment), {});
    require(table.set({"key:0", "stale"}) == shm::Stored::kStored, "cannot store at A");
  }

  TwoHosts hosts_{4, 1};
  test::Random random_;
  std::uint64_t changes_ = 0;
  Handovers seen_;
};

}  // namespace

Handovers kill_leaders(unsigned turns, std::uint64_t seed) {
  Turns run(seed);
  for (unsigned i = 0; i < turns; ++i) run.kill_leader();
  return run.result();
}

Handovers stop_leaders(unsigned turns, std::uint64_t seed) {
  Turns run(seed);
  for (unsigned i = 0; i < turns; ++i) run.stop_leader();
  return run.result();
}

}  // namespace larder::leader
