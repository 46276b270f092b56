// Calls that reach Redis, beside those that a program without larder makes; and local hits while
// Redis is gone.
#include <signal.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/bench/histogram.h"
#include "tools/bench/sync.h"
#include "tools/bench/sync_bare.h"

namespace larder::bench {
namespace {

constexpr std::string_view kBareChannel = "bare";

// A host has one subscriber, whoever wrote it.
class BareSubscriber {
 public:
  explicit BareSubscriber(Server& redis)
      : child_([this, &redis] {
          Bare bare(redis.socket());
          (void)bare.command({"SUBSCRIBE", kBareChannel});
          (void)ready_.tell();
          for (;;) (void)bare.read();
        }) {
    (void)ready_.hear();
  }

 private:
  Pipe ready_;
  Child child_;
};

template <class Call>
std::uint64_t time_of(Call call) {
  const std::uint64_t begun = monotonic_ns();
  call();
  return monotonic_ns() - begun;
}

struct Pair {
  Histogram larder{};
  Histogram bare{};
  double ratio() const { return larder.quantile(0.5) / bare.quantile(0.5); }
  nlohmann::json json() const {
    return {{"larder_us", larder.quantile(0.5) / 1000}, {"bare_us", bare.quantile(0.5) / 1000}};
  }
};

// In turns, one call each, so that both see the same machine.
class Calls {
 public:
  Calls(const SyncArguments& a, Ground& ground)
      : a_(a),
        cache_(following(ground.host("calls"))),
        subscriber_(ground.redis()),
        bare_(ground.redis().socket()),
        value_(a.value_bytes, 'v') {}

  // `stored`: Redis has the keys, and this host none of them.
  Pair reads(const std::string& prefix, bool stored) {
    for (std::uint64_t i = 0; stored && i < a_.count; ++i) {
      (void)bare_.command({"SET", prefix + std::to_string(i), value_});
    }
    Pair pair;
    for (std::uint64_t i = 0; i < a_.count; ++i) {
      const std::string key = prefix + std::to_string(i);
      Lookup found;
      pair.larder.add(time_of([&] { must(cache_.get(key, found)); }));
      if (found.hit() != stored) must({Code::kInternal, "a wrong answer"});
      pair.bare.add(time_of([&] { (void)bare_.command({"GET", key}); }));
    }
    return pair;
  }

  Pair sets(const std::string& prefix) {
    Pair pair;
    for (std::uint64_t i = 0; i < a_.count; ++i) {
      const std::string key = prefix + std::to_string(i);
      pair.larder.add(time_of([&] { must(cache_.set(key, value_)); }));
      pair.bare.add(time_of([&] { bare_.set_and_publish(key, value_, kBareChannel, value_); }));
    }
    return pair;
  }

 private:
  const SyncArguments& a_;
  Cache cache_;
  BareSubscriber subscriber_;
  Bare bare_;
  const std::string value_;
};

// Changes a second of so many processes together.
template <class Begin>
double writes(const SyncArguments& a, Begin begin) {
  const Shared<std::atomic<std::uint64_t>> done(a.processes + 1);
  std::atomic<std::uint64_t>& running = done[a.processes];
  std::vector<std::unique_ptr<Child>> writers;
  for (std::uint64_t i = 0; i < a.processes; ++i) {
    writers.push_back(std::make_unique<Child>([&, i] {
      auto write = begin();
      running.fetch_add(1);
      for (std::uint64_t number = 0;; ++number) {
        write("key:" + std::to_string(i) + ":" + std::to_string(number % 1000));
        done[i].fetch_add(1, std::memory_order_relaxed);
      }
    }));
  }
  while (running.load() != a.processes && !interrupted()) wait_a_moment(0.01);
  const auto sum = [&] {
    std::uint64_t all = 0;
    for (std::uint64_t i = 0; i < a.processes; ++i) all += done[i].load();
    return all;
  };
  wait_a_moment(0.2);
  const std::uint64_t first = sum();
  const std::uint64_t begun = monotonic_ns();
  wait_a_moment(a.seconds);
  return static_cast<double>(sum() - first) * 1e9 / static_cast<double>(monotonic_ns() - begun);
}

}  // namespace

int measure_calls(const SyncArguments& a) {
  Ground ground(a);
  Calls calls(a, ground);
  nlohmann::json runs = nlohmann::json::array();
  std::vector<double> hits, misses, sets;
  for (std::uint64_t run = 0; run < a.runs; ++run) {
    const std::string prefix = "run:" + std::to_string(run) + ":";
    const Pair hit = calls.reads(prefix, true);
    const Pair miss = calls.reads(prefix + "no:", false);
    const Pair set = calls.sets(prefix);
    hits.push_back(hit.ratio());
    misses.push_back(miss.ratio());
    sets.push_back(set.ratio());
    runs.push_back({{"hit", hit.json()}, {"miss", miss.json()}, {"set", set.json()}});
  }
  const nlohmann::json result = {{"runs", runs},
                                 {"hit_ratios", hits},
                                 {"miss_ratios", misses},
                                 {"set_ratios", sets},
                                 {"hit_ratio", median_of(hits)},
                                 {"miss_ratio", median_of(misses)},
                                 {"set_ratio", median_of(sets)}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

int measure_writers(const SyncArguments& a) {
  Ground ground(a);
  const std::string value(a.value_bytes, 'v');
  const Options options = ground.host("writers");
  Cache cache = must(Cache::open(options));
  const BareSubscriber subscriber(ground.redis());
  std::vector<double> larder, bare, ratios;
  for (std::uint64_t run = 0; run < a.runs; ++run) {
    larder.push_back(writes(a, [&] {
      must(cache.start());
      return [&](const std::string& key) { must(cache.set(key, value)); };
    }));
    bare.push_back(writes(a, [&] {
      const auto connection = std::make_shared<Bare>(ground.redis().socket());
      return [&value, connection](const std::string& key) {
        connection->set_and_publish(key, value, kBareChannel, value);
      };
    }));
    ratios.push_back(larder.back() / bare.back());
  }
  const nlohmann::json result = {
      {"larder", larder}, {"bare", bare}, {"ratios", ratios}, {"ratio", median_of(ratios)}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

int measure_outage(const SyncArguments& a) {
  constexpr std::uint64_t kKeys = 1000;
  constexpr std::uint64_t kLongNs = 5'000'000;  // nothing but a wait for Redis takes so long
  std::vector<double> ratios, medians;
  std::vector<std::uint64_t> waits;
  nlohmann::json runs = nlohmann::json::array();
  for (std::uint64_t run = 0; run < a.runs; ++run) {
    Ground ground(a);
    Cache cache = following(ground.host("outage"));
    const std::string value(a.value_bytes, 'v');
    for (std::uint64_t i = 0; i < kKeys; ++i) must(cache.set("key:" + std::to_string(i), value));
    std::uint64_t waited = 0;
    const auto hits = [&](bool stale) {
      Histogram times{};
      for (std::uint64_t i = 0; i < a.count; ++i) {
        Lookup found;
        const std::uint64_t took =
            time_of([&] { must(cache.get("key:" + std::to_string(i * 7919 % kKeys), found)); });
        if (!found.hit() || found.stale != stale) must({Code::kInternal, "a wrong answer"});
        times.add(took);
        waited += took > kLongNs;
      }
      return times;
    };
    const Histogram before = hits(false);
    waited = 0;
    ground.redis().signal(a.outage == "stop" ? SIGSTOP : SIGKILL);
    while (cache.in_sync() && !interrupted()) wait_a_moment(0.01);
    const Histogram after = hits(true);
    waits.push_back(waited);
    ratios.push_back(after.quantile(0.99) / before.quantile(0.99));
    medians.push_back(after.quantile(0.5) / before.quantile(0.5));
    runs.push_back({{"before_p99_ns", before.quantile(0.99)},
                    {"after_p99_ns", after.quantile(0.99)},
                    {"before_median_ns", before.quantile(0.5)},
                    {"after_median_ns", after.quantile(0.5)},
                    {"after_max_ms", static_cast<double>(after.max()) / 1e6},
                    {"waits", waited}});
    ground.redis().signal(SIGCONT);
  }
  const nlohmann::json result = {{"runs", runs},
                                 {"p99_ratios", ratios},
                                 {"p99_ratio", median_of(ratios)},
                                 {"median_ratio", median_of(medians)},
                                 {"most_waits", *std::max_element(waits.begin(), waits.end())}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace larder::bench
