// larder-bench: how fast the cache of this host is.
//
// Start reading here, then run.cc (who does what when), workload.cc (which keys), report.cc.
#include <dirent.h>
#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "tools/bench/report.h"
#include "tools/bench/run.h"
#include "tools/bench/workload.h"

namespace larder::bench {
namespace {

enum Exit : int { kFine = 0, kFailed = 1, kUsage = 2, kInterrupted = 130 };

constexpr std::int64_t kMaxProcesses = 256;
constexpr std::int64_t kMaxSegmentMb = std::int64_t{16} << 20;

struct Arguments {
  std::vector<std::string> workloads{"get-hit", "set", "mixed"};
  std::vector<std::int64_t> processes{1};
  std::vector<std::int64_t> value_bytes{64, 1024};
  std::int64_t keys = 100'000;
  std::int64_t key_bytes = 24;
  std::string distribution = "uniform";
  double seconds = 1;
  double warmup = 0.2;
  std::int64_t repeats = 5;
  std::int64_t seed = 1;
  std::string policy = "lfu";
  std::string directory = "/dev/shm";
  std::int64_t segment_mb = 0;
  bool no_pin = false;
  bool json = false;
};

void declare(CLI::App& app, Arguments& a) {
  app.add_option("--workload", a.workloads, "get-hit, set (overwrites), mixed (95 % get, 5 % set)")
      ->delimiter(',')
      ->check(CLI::IsMember({"get-hit", "set", "mixed"}))
      ->capture_default_str();
  app.add_option("--processes", a.processes, "how many at once, e.g. 1,2,4")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, kMaxProcesses))
      ->capture_default_str();
  app.add_option("--value-bytes", a.value_bytes, "sizes of values, e.g. 64,1024")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{512} << 20))
      ->capture_default_str();
  app.add_option("--keys", a.keys, "different keys, all stored before the clock starts")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{100'000'000}))
      ->capture_default_str();
  app.add_option("--key-bytes", a.key_bytes, "length of a key")
      ->check(CLI::Range(std::int64_t{5}, std::int64_t{kKeyMaxBytes}))
      ->capture_default_str();
  app.add_option("--distribution", a.distribution,
                 "which keys are asked for; zipf has exponent 0.99")
      ->check(CLI::IsMember({"uniform", "zipf"}))
      ->capture_default_str();
  app.add_option("--seconds", a.seconds, "length of one repeat, 0.01 to 600")
      ->capture_default_str();
  app.add_option("--warmup", a.warmup, "seconds before each repeat, 0 to 600")
      ->capture_default_str();
  app.add_option("--repeats", a.repeats, "of each line, in new processes")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000}))
      ->capture_default_str();
  app.add_option("--seed", a.seed, "of the order of keys")
      ->check(CLI::Range(std::int64_t{0}, INT64_MAX))
      ->capture_default_str();
  app.add_option("--policy", a.policy, "what the cache keeps when it is full")
      ->check(CLI::IsMember({"lfu", "lru"}))
      ->capture_default_str();
  app.add_option("--directory", a.directory, "where the segment is made, a tmpfs")
      ->take_last()
      ->capture_default_str();
  app.add_option("--segment-mb", a.segment_mb, "its size in MiB; 0: room for all keys")
      ->check(CLI::Range(std::int64_t{0}, kMaxSegmentMb))
      ->capture_default_str();
  app.add_flag("--no-pin", a.no_pin, "let processes move between cores");
  app.add_flag("--json", a.json, "print JSON with every sample, in one line, instead of the table");
  app.footer(
      "ns/op: of one process; median, least and most of every process in every repeat. A get\n"
      "copies the value out and checks whose it is; picking the key is part of the figure.\n"
      "Each line has a segment of its own, removed at the end.\n"
      "\n"
      "Exit status: 0 done; 1 failed, the message says why; 2 wrong usage; 130 interrupted.");
}

bool in_range(double value, double least, double most) {
  return value >= least && value <= most;  // false for NaN
}

// What CLI11 cannot check; empty: fine.
std::string wrong(const Arguments& a) {
  if (!in_range(a.seconds, 0.01, 600)) return "--seconds must be 0.01 to 600";
  if (!in_range(a.warmup, 0, 600)) return "--warmup must be 0 to 600";
  const std::size_t least = Keys::least_bytes(static_cast<std::uint32_t>(a.keys));
  if (static_cast<std::size_t>(a.key_bytes) < least) {
    return "--key-bytes must be at least " + std::to_string(least) + " to tell " +
           std::to_string(a.keys) + " keys apart";
  }
  if (a.segment_mb != 0 && a.segment_mb < 4) return "--segment-mb must be 0 or at least 4";
  return {};
}

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) cpus.push_back(i);
  }
  return cpus;
}

// Room for every key at a value size. Twice the bytes, for overwrites leave dead entries until
// their page is recycled; and index slots enough that hardly a bucket overflows, which takes a
// segment of about 768 bytes a key, of which a sixteenth is index.
std::uint64_t segment_bytes_for(const Arguments& a, std::int64_t value_bytes) {
  if (a.segment_mb != 0) return static_cast<std::uint64_t>(a.segment_mb) << 20;
  constexpr std::int64_t kOverhead = 64;
  const std::int64_t a_key =
      std::max<std::int64_t>(2 * (kOverhead + a.key_bytes + value_bytes), 768);
  const auto bytes = static_cast<std::uint64_t>(a.keys) * static_cast<std::uint64_t>(a_key);
  constexpr std::uint64_t kMb = 1 << 20;
  return ((bytes >> 20) + 16) * kMb;
}

// The name of a segment that is ours alone, and its files' end.
class OwnSegment {
 public:
  explicit OwnSegment(std::string directory) : directory_(std::move(directory)) {
    const std::string base = "larder-bench-" + std::to_string(getpid());
    name_ = base;
    // Another PID namespace may share the directory, or a killed run may have left its segment.
    for (int i = 2; ::access((directory_ + "/" + file_name()).c_str(), F_OK) == 0; ++i) {
      name_ = base + "-" + std::to_string(i);
    }
  }
  ~OwnSegment() {
    DIR* directory = opendir(directory_.c_str());
    if (directory == nullptr) return;
    std::vector<std::string> files;
    while (const dirent* entry = readdir(directory)) {
      const std::string file = entry->d_name;
      if (file == file_name() || file.starts_with(file_name() + ".")) files.push_back(file);
    }
    closedir(directory);
    for (const auto& file : files) ::unlink((directory_ + "/" + file).c_str());
  }
  OwnSegment(const OwnSegment&) = delete;
  OwnSegment& operator=(const OwnSegment&) = delete;

  const std::string& name() const { return name_; }

 private:
  std::string file_name() const { return "larder." + name_; }
  std::string directory_;
  std::string name_;
};

// What the samples of one repeat say about the run itself; ok: they count.
Status judge(const std::vector<Sample>& samples, const RunOptions& options, std::int64_t keys,
             std::uint64_t segment_bytes) {
  for (const Sample& sample : samples) {
    if (sample.wrong_values != 0) {
      return {Code::kInternal, std::to_string(sample.wrong_values) +
                                   " reads returned another key's value: a defect of larder"};
    }
    const bool misses = sample.absent_before != 0 || sample.hits != sample.reads;
    if (options.kind == Kind::kGetHit && misses) {
      return {Code::kNoSpace,
              std::to_string(sample.absent_before) + " of " + std::to_string(keys) +
                  " keys do not fit a segment of " + tools::format_bytes(segment_bytes) +
                  ", so this would not measure hits; raise --segment-mb, or measure 'mixed'"};
    }
  }
  return {};
}

class Bench {
 public:
  explicit Bench(const Arguments& arguments)
      : a_(arguments),
        keys_(static_cast<std::uint32_t>(a_.keys), static_cast<std::size_t>(a_.key_bytes)),
        cpus_(usable_cpus()) {}

  Status run_all() {
    warn();
    for (const std::int64_t value_bytes : a_.value_bytes) {
      for (const auto& workload : a_.workloads) {
        for (const std::int64_t processes : a_.processes) {
          RunOptions options;
          options.kind = kind_of(workload);
          options.distribution =
              a_.distribution == "zipf" ? Distribution::kZipf : Distribution::kUniform;
          options.processes = static_cast<std::uint32_t>(processes);
          options.value_bytes = static_cast<std::size_t>(value_bytes);
          options.warmup_seconds = a_.warmup;
          options.seconds = a_.seconds;
          if (!a_.no_pin) options.cpus = cpus_;
          if (Status status = run_case(options); !status.ok()) return status;
        }
      }
    }
    return {};
  }

  void print() const {
    warn_if_disturbed();
    if (a_.json) {
      std::printf("%s\n", json_of(cases_, settings()).dump(-1, ' ', true).c_str());
      return;
    }
    std::printf("%lld keys of %lld bytes, %s; %lld repeats of %g s\n\n",
                static_cast<long long>(a_.keys), static_cast<long long>(a_.key_bytes),
                a_.distribution.c_str(), static_cast<long long>(a_.repeats), a_.seconds);
    table_of(cases_).print(stdout);
  }

 private:
  static Kind kind_of(const std::string& name) {
    for (const Kind kind : {Kind::kGetHit, Kind::kSet}) {
      if (name == kind_name(kind)) return kind;
    }
    return Kind::kMixed;
  }

  void warn() const {
    const std::int64_t most = *std::max_element(a_.processes.begin(), a_.processes.end());
    if (cpus_.empty() || most <= static_cast<std::int64_t>(cpus_.size())) return;
    std::fprintf(stderr,
                 "larder-bench: warning: %lld processes on %zu usable cores: they will wait for "
                 "each other, and ns/op includes that\n",
                 static_cast<long long>(most), cpus_.size());
  }

  // A case that shared its cores measured the neighbours too.
  void warn_if_disturbed() const {
    constexpr double kQuiet = 0.95;
    const auto disturbed = [&](const Case& one) {
      return one.processes <= cpus_.size() && cpu_share(one) < kQuiet;
    };
    if (std::none_of(cases_.begin(), cases_.end(), disturbed)) return;
    std::fprintf(stderr,
                 "larder-bench: warning: other programs ran on the same cores (see CORE TIME, or "
                 "cpu_share); the figures are too high\n");
  }

  Status run_case(RunOptions options) {
    Case one{options.kind,
             options.value_bytes,
             options.processes,
             segment_bytes_for(a_, static_cast<std::int64_t>(options.value_bytes)),
             {}};
    const OwnSegment own(a_.directory);
    Options cache_options;
    cache_options.name = own.name();
    cache_options.directory = a_.directory;
    cache_options.segment_bytes = one.segment_bytes;
    cache_options.value_max_bytes =
        std::max<std::uint64_t>(cache_options.value_max_bytes, options.value_bytes);
    cache_options.policy = a_.policy == "lru" ? Policy::kLru : Policy::kLfu;
    auto cache = Cache::open(cache_options);
    if (!cache) return cache.status();
    if (Status status = fill(*cache, keys_, options.value_bytes); !status.ok()) return status;
    for (std::int64_t i = 0; i < a_.repeats; ++i) {
      // Another order in each repeat, the same in the same repeat of every run of this program.
      options.seed = static_cast<std::uint64_t>(a_.seed + i * kMaxProcesses);
      auto samples = run(*cache, keys_, options);
      if (!samples) return samples.status();
      if (Status s = judge(*samples, options, a_.keys, one.segment_bytes); !s.ok()) return s;
      one.repeats.push_back(std::move(*samples));
    }
    cases_.push_back(std::move(one));
    return {};
  }

  tools::Json settings() const {
    return {{"keys", a_.keys},
            {"key_bytes", a_.key_bytes},
            {"distribution", a_.distribution},
            {"seconds", a_.seconds},
            {"warmup", a_.warmup},
            {"repeats", a_.repeats},
            {"seed", a_.seed},
            {"policy", a_.policy},
            {"pinned", !a_.no_pin},
            {"usable_cpus", cpus_.size()}};
  }

  const Arguments& a_;
  const Keys keys_;
  const std::vector<int> cpus_;
  std::vector<Case> cases_;
};

int run_main(int argc, char** argv) {
  CLI::App app("Measures larder's local cache with N processes on this host.", "larder-bench");
  Arguments arguments;
  declare(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kFine : kUsage;
  }
  if (const std::string what = wrong(arguments); !what.empty()) {
    std::fprintf(stderr, "larder-bench: %s\nRun with --help for more information.\n", what.c_str());
    return kUsage;
  }
  install_interrupt_handlers();
  Bench bench(arguments);
  const Status status = bench.run_all();
  if (interrupted()) return kInterrupted;
  if (!status.ok()) {
    std::fprintf(stderr, "larder-bench: %s\n", tools::escape(status.message()).c_str());
    return kFailed;
  }
  bench.print();
  return std::fflush(stdout) == 0 ? kFine : kFailed;
}

}  // namespace
}  // namespace larder::bench

int main(int argc, char** argv) {
  try {
    return larder::bench::run_main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "larder-bench: %s\n", error.what());
    return larder::bench::kFailed;
  }
}
