#include "tools/bench/steady.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "tools/bench/arguments.h"
#include "tools/bench/main.h"
#include "tools/bench/process.h"
#include "tools/bench/progress.h"
#include "tools/bench/report.h"
#include "tools/bench/turnover.h"

namespace larder::bench {
namespace {

using Clock = std::chrono::steady_clock;
using tools::Json;

struct SteadyArguments {
  double seconds = 600;
  double bucket = 10;
  double window = 60;
  std::int64_t processes = 2;
  std::int64_t segment_mb = 64;
  std::int64_t value_bytes = 1000;
  std::int64_t seed = 1;
  std::string policy = "lfu";
  std::string directory = "/dev/shm";
  bool no_pin = false;
  bool keep = false;
  bool json = false;
  bool progress = false;
};

constexpr std::size_t kKeyBytes = 24;
constexpr std::size_t kMaxBuckets = 100'000;

// What the processes share; only ever added to.
struct Counters {
  std::atomic<std::uint64_t> operations;
  std::atomic<std::uint64_t> gets;
  std::atomic<std::uint64_t> hits;
  std::atomic<std::uint64_t> failed_sets;
  std::atomic<std::uint64_t> wrong_values;
};

// One process' operations: half of them gets; of the rest most are sets, some with a life of
// milliseconds, some removals. There are four times as many keys as fit.
class Mix {
 public:
  Mix(Cache& cache, const SteadyArguments& a, std::uint64_t index)
      : cache_(cache),
        keys_(4 * (static_cast<std::uint64_t>(a.segment_mb) << 20) /
              (static_cast<std::uint64_t>(a.value_bytes) + kKeyBytes)),
        sizes_(true, static_cast<std::size_t>(a.value_bytes)),
        key_(kKeyBytes),
        value_(sizes_.most()),
        random_(static_cast<std::uint64_t>(a.seed) * 1000 + index) {}

  void step(Counters& counters) {
    constexpr std::uint64_t kOperations = 256;
    for (std::uint64_t i = 0; i < kOperations; ++i) one(counters);
    counters.operations.fetch_add(kOperations, std::memory_order_relaxed);
  }

 private:
  void one(Counters& counters) {
    const std::uint64_t number = some_key();
    const std::string_view key = key_.of(number);
    const std::uint64_t drawn = random_() % 100;
    if (drawn < 50) {
      get(counters, number, key);
    } else if (drawn < 95) {
      constexpr std::chrono::milliseconds kLong{3'600'000};
      const std::chrono::milliseconds shortly(10 + random_() % 1000);
      const std::string_view value = value_.of(number, sizes_.draw(random_));
      if (!cache_.set(key, value, drawn < 85 ? kLong : shortly).ok()) add(counters.failed_sets);
    } else {
      (void)cache_.remove(key);
    }
  }

  void get(Counters& counters, std::uint64_t number, std::string_view key) {
    add(counters.gets);
    if (!cache_.get(key, lookup_).ok() || !lookup_.hit()) return;
    add(counters.hits);
    if (!NumberedValue::is_of(lookup_.value, number)) add(counters.wrong_values);
  }

  // Some keys are asked for more often than others: the cube of an even draw.
  std::uint64_t some_key() {
    const double even = std::uniform_real_distribution<double>()(random_);
    return static_cast<std::uint64_t>(even * even * even * static_cast<double>(keys_));
  }
  static void add(std::atomic<std::uint64_t>& counter) {
    counter.fetch_add(1, std::memory_order_relaxed);
  }

  Cache& cache_;
  const std::uint64_t keys_;
  Sizes sizes_;
  NumberedKey key_;
  NumberedValue value_;
  std::mt19937_64 random_;
  Lookup lookup_;
};

class Steady {
 public:
  explicit Steady(const SteadyArguments& a)
      : a_(a), cpus_(usable_cpus()), counters_(1), progress_(a.progress) {}

  Status run() {
    if (!counters_.ok()) return no_process();
    if (Status status = open(); !status.ok()) return status;
    std::vector<std::unique_ptr<Child>> workers;
    for (std::int64_t i = 0; i < a_.processes; ++i) {
      workers.push_back(std::make_unique<Child>([&, i] { work(static_cast<std::uint32_t>(i)); }));
      if (!workers.back()->ok()) return no_process();
    }
    if (Status status = watch(workers); !status.ok()) return status;
    (*stop_)[0].store(true);
    for (auto& worker : workers) {
      const std::string end = worker->wait();
      if (end != "exit status 0") return {Code::kInternal, "a worker died: " + end};
    }
    stats_ = cache_->stats();
    if (a_.keep) scratch_->keep();
    return judge();
  }

  void print() const {
    if (a_.json) {
      std::printf("%s\n", json().dump(-1, ' ', true).c_str());
      return;
    }
    using enum tools::Table::Align;
    tools::Table table({{"SECONDS", kRight}, {"OPS/S", kRight}});
    for (std::size_t i = 0; i < rates_.size(); ++i) {
      table.add({fixed(a_.bucket * static_cast<double>(i + 1), 1), fixed(rates_[i], 0)});
    }
    table.print(stdout);
    std::printf("\nlast %g s / second %g s: %.3f\n", window_seconds(), window_seconds(), figure());
    std::printf("failed sets: %llu; hits: %s; parts of the segment add up\n",
                static_cast<unsigned long long>(counters_[0].failed_sets.load()),
                tools::format_share(counters_[0].hits, counters_[0].gets).c_str());
    if (a_.keep) {
      std::printf("kept: shmctl --directory %s check bench\n", scratch_->path().c_str());
    }
  }

 private:
  Status open() {
    auto scratch = Scratch::make(a_.directory);
    if (!scratch) return scratch.status();
    scratch_.emplace(std::move(*scratch));
    Options options;
    options.name = "bench";
    options.directory = scratch_->path();
    options.segment_bytes = static_cast<std::uint64_t>(a_.segment_mb) << 20;
    options.policy = policy_of(a_.policy);
    auto cache = Cache::open(options);
    if (!cache) return cache.status();
    cache_.emplace(std::move(*cache));
    stop_ = std::make_unique<Shared<std::atomic<bool>>>(1);
    return stop_->ok() ? Status() : no_process();
  }

  void work(std::uint32_t index) {
    if (!a_.no_pin) pin(cpus_, index);
    if (!cache_->start().ok()) _exit(1);
    Mix mix(*cache_, a_, index);
    while (!(*stop_)[0].load(std::memory_order_relaxed)) mix.step(counters_[0]);
    const Cache leave(std::move(*cache_));
  }

  // Looks at the count at the end of each stretch.
  Status watch(const std::vector<std::unique_ptr<Child>>& workers) {
    const auto buckets = static_cast<std::size_t>(std::lround(a_.seconds / a_.bucket));
    progress_.expect(buckets);
    const auto start = Clock::now();
    auto before = start;
    std::uint64_t counted = 0;
    for (std::size_t i = 0; i < buckets; ++i) {
      progress_.step(rates_.empty() ? "steady" : fixed(rates_.back(), 0) + " operations a second");
      const auto end =
          start + std::chrono::duration<double>(a_.bucket * static_cast<double>(i + 1));
      for (auto now = Clock::now(); now < end; now = Clock::now()) {
        wait_a_moment(std::min(0.5, std::chrono::duration<double>(end - now).count()));
        if (interrupted()) return interruption();
        for (const auto& worker : workers) {
          if (worker->ended()) return {Code::kInternal, "a worker died"};
        }
      }
      const auto now = Clock::now();
      const std::uint64_t all = counters_[0].operations.load();
      rates_.push_back(static_cast<double>(all - counted) /
                       std::chrono::duration<double>(now - before).count());
      counted = all;
      before = now;
    }
    progress_.clear();
    return {};
  }

  Status judge() const {
    if (const std::uint64_t wrong = counters_[0].wrong_values; wrong != 0) {
      return {Code::kInternal,
              std::to_string(wrong) + " reads returned another key's value: a defect of larder"};
    }
    const std::uint64_t sum = stats_.live_bytes + stats_.pinned_bytes + stats_.free_bytes +
                              stats_.index_bytes + stats_.metadata_bytes;
    if (sum != stats_.segment_bytes) {
      return {Code::kInternal, "the parts of the segment add up to " + std::to_string(sum) +
                                   " bytes, not to its " + std::to_string(stats_.segment_bytes)};
    }
    return {};
  }

  // Of buckets; a third of a short run.
  std::size_t window() const {
    const auto wanted = static_cast<std::size_t>(std::lround(a_.window / a_.bucket));
    return std::clamp<std::size_t>(wanted, 1, rates_.size() / 3);
  }
  double window_seconds() const { return a_.bucket * static_cast<double>(window()); }
  double figure() const {
    const auto mean = [&](std::size_t first) {
      double sum = 0;
      for (std::size_t i = first; i < first + window(); ++i) sum += rates_[i];
      return sum / static_cast<double>(window());
    };
    return mean(rates_.size() - window()) / mean(window());
  }

  Json json() const {
    return {{"machine", machine_json()},
            {"settings",
             {{"mode", "steady"},
              {"seconds", a_.seconds},
              {"bucket", a_.bucket},
              {"window", window_seconds()},
              {"processes", a_.processes},
              {"segment_bytes", stats_.segment_bytes},
              {"value_bytes", a_.value_bytes},
              {"policy", a_.policy}}},
            {"ops_per_second", rates_},
            {"last_to_second", figure()},
            {"gets", counters_[0].gets.load()},
            {"hits", counters_[0].hits.load()},
            {"failed_sets", counters_[0].failed_sets.load()},
            {"evictions", stats_.evictions},
            {"expirations", stats_.expirations},
            {"entries", stats_.entries},
            {"space",
             {{"live", stats_.live_bytes},
              {"pinned", stats_.pinned_bytes},
              {"free", stats_.free_bytes},
              {"index", stats_.index_bytes},
              {"metadata", stats_.metadata_bytes}}},
            {"kept", a_.keep ? Json(scratch_->path()) : Json(nullptr)},
            {"figure", figure()},
            {"samples", rates_}};
  }

  const SteadyArguments& a_;
  const std::vector<int> cpus_;
  Shared<Counters> counters_;
  Progress progress_;
  std::optional<Scratch> scratch_;
  std::optional<Cache> cache_;
  std::unique_ptr<Shared<std::atomic<bool>>> stop_;
  std::vector<double> rates_;
  Stats stats_;
};

std::string wrong(const SteadyArguments& a) {
  if (!in_range(a.bucket, 0.05, 3600)) return "--bucket must be 0.05 to 3600";
  if (!in_range(a.seconds, 3 * a.bucket, 1e6)) {
    return "--seconds must be at least three times --bucket, at most 1000000";
  }
  if (a.seconds / a.bucket > kMaxBuckets) return "--bucket is too short for so many --seconds";
  if (!in_range(a.window, a.bucket, 1e6)) return "--window must be at least --bucket";
  return {};
}

void declare_options(CLI::App& app, SteadyArguments& a) {
  app.add_option("--seconds", a.seconds, "how long")->capture_default_str();
  app.add_option("--bucket", a.bucket, "seconds of one line")->capture_default_str();
  app.add_option("--window", a.window, "seconds that are compared: the second such, and the last")
      ->capture_default_str();
  add_processes(app, a.processes, "how many at once");
  add_segment_mb(app, a.segment_mb, "the segment's size in MiB", 4);
  add_one(app, "--value-bytes", a.value_bytes, "the median of values; 64 times it is the most",
          CLI::Range(std::int64_t{1}, std::int64_t{100'000}));
  add_seed(app, a.seed, "of operations and sizes", std::int64_t{1} << 50);
  add_policy(app, a.policy);
  add_directory(app, a.directory, "where the segment is made, a tmpfs");
  add_no_pin(app, a.no_pin);
  app.add_flag("--keep", a.keep, "leave the segment behind, for shmctl check");
  add_json(app, a.json);
  add_progress(app, a.progress);
}

}  // namespace

void declare_steady(CLI::App& parent, int& exit_status) {
  CLI::App* app = parent.add_subcommand("steady", "Whether a full segment stays as fast as it was");
  auto arguments = std::make_shared<SteadyArguments>();
  declare_options(*app, *arguments);
  app->callback([arguments, &exit_status] {
    if (const std::string what = wrong(*arguments); !what.empty()) {
      exit_status = exit_status_of({Code::kInvalidArgument, what});
      return;
    }
    install_interrupt_handlers();
    Steady steady(*arguments);
    Status status = steady.run();
    if (status.ok()) steady.print();
    exit_status = exit_status_of(status);
  });
}

}  // namespace larder::bench
