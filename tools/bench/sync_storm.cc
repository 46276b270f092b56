// A storm of changes from many processes: does the host that hears them keep up, and if it does
// not, does it know? Afterwards whatever it holds is compared with Redis.
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/bench/sync.h"
#include "tools/bench/sync_bare.h"

namespace larder::bench {
namespace {

constexpr std::uint64_t kKeys = 10'000;

std::string key_of(std::uint64_t number) { return "key:" + std::to_string(number); }

// The most memory of its own that this process ever had, in KiB: not that of the segment.
std::uint64_t own_memory_kib() {
  std::ifstream status("/proc/self/status");
  std::uint64_t anonymous = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) anonymous = std::stoull(line.substr(8));
  }
  return anonymous;
}

struct Heard {
  std::uint64_t held;
  std::uint64_t wrong;
  std::uint64_t applied;
  std::uint64_t epoch_raises;
  std::uint64_t memory_before_kib;
  std::uint64_t memory_most_kib;
};

void listen(Cache& cache, Server& redis, Pipe& ready, Pipe& over, Heard& heard) {
  heard.memory_before_kib = heard.memory_most_kib = own_memory_kib();
  (void)ready.tell();
  while (!over.waits(0.05)) {
    heard.memory_most_kib = std::max(heard.memory_most_kib, own_memory_kib());
  }
  // The lease is for what was changed before, so it comes with the last event.
  for (int wait = 0; wait < 20; ++wait) wait_a_moment(0.1);
  while (!cache.in_sync() && !interrupted()) wait_a_moment(0.01);
  Bare bare(redis.socket());
  for (std::uint64_t i = 0; i < kKeys; ++i) {
    Lookup found;
    must(cache.get_local(key_of(i), found));
    if (!found.hit()) continue;
    ++heard.held;
    const auto stored = bare.command({"GET", key_of(i)});
    heard.wrong +=
        stored->str == nullptr || found.value != std::string_view(stored->str, stored->len);
  }
  heard.applied = cache.stats().events_applied;
  heard.epoch_raises = cache.stats().epoch_raises;
}

}  // namespace

int measure_storm(const SyncArguments& a) {
  Ground ground(a);
  const Shared<Heard> heard(1);
  Pipe ready, over;
  Child listener([&] {
    Cache cache = following(ground.host("listener"));
    listen(cache, ground.redis(), ready, over, heard[0]);
  });
  if (!ready.hear()) return 1;
  const std::uint64_t begun = monotonic_ns();
  {
    Cache cache = must(Cache::open(ground.host("writers")));
    std::vector<std::unique_ptr<Child>> writers;
    for (std::uint64_t i = 0; i < a.processes; ++i) {
      writers.push_back(std::make_unique<Child>([&, i] {
        must(cache.start());
        std::string value(a.value_bytes, 'v');
        for (std::uint64_t n = 0; n < a.count / a.processes; ++n) {
          value.replace(0, 20, std::to_string(n * a.processes + i).append(20, '.'), 0, 20);
          must(cache.set(key_of((n * 7919 + i) % kKeys), value));
        }
      }));
    }
    for (auto& writer : writers) {
      if (writer->wait() != "exit status 0") must({Code::kInternal, "a writer failed"});
    }
  }
  const double seconds = static_cast<double>(monotonic_ns() - begun) / 1e9;
  (void)over.tell();
  if (listener.wait() != "exit status 0") must({Code::kInternal, "the listener failed"});
  const nlohmann::json result = {
      {"changes", a.count / a.processes * a.processes},
      {"seconds", seconds},
      {"applied", heard[0].applied},
      {"held", heard[0].held},
      {"wrong", heard[0].wrong},
      {"epoch_raises", heard[0].epoch_raises},
      {"grown_mib",
       static_cast<double>(heard[0].memory_most_kib - heard[0].memory_before_kib) / 1024}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace larder::bench
