#include "tools/bench/arguments.h"

#include <algorithm>

#include "tools/bench/backend.h"

namespace larder::bench {
namespace {

std::vector<std::string> names_where(bool larder) {
  std::vector<std::string> names;
  for (const auto& name : backend_names()) {
    if (is_larder(name) == larder) names.push_back(name);
  }
  return names;
}

void declare_backends(CLI::App& app, Arguments& a) {
  a.backends = {"larder"};
  if (!a.compare) {
    add_list(app, "--variant", a.backends,
             "larder: into a reused buffer; larder-fresh: a value of its own; larder-many: 32 "
             "keys at once; larder-view: pinned, not copied; larder-verify: "
             "like larder, with verify_checksums",
             CLI::IsMember(names_where(true)));
    return;
  }
  a.backends = backend_names();
  add_list(app, "--against", a.backends, "which ones; larder is always among them",
           CLI::IsMember(backend_names()));
}

void declare_workload(CLI::App& app, Arguments& a) {
  std::vector<std::string> kinds;
  for (const Kind kind : kKinds) kinds.push_back(kind_name(kind));
  add_list(app, "--workload", a.workloads,
           "get-hit; set (overwrites); mixed (95 % get, 5 % set); storm (all overwrite and "
           "read the same 16 keys); large (mixed, 64 KiB to 1 MiB); insert (evicting)",
           CLI::IsMember(kinds));
  add_list(app, "--processes", a.processes, "how many at once, e.g. 1,2,4",
           CLI::Range(std::int64_t{1}, kMaxProcesses));
  add_list(app, "--value-bytes", a.value_bytes, "sizes of values, e.g. 64,1024",
           CLI::Range(std::int64_t{1}, std::int64_t{512} << 20));
  add_one(app, "--keys", a.keys, "different keys, all stored before the clock starts",
          CLI::Range(std::int64_t{1}, std::int64_t{100'000'000}));
  add_one(app, "--key-bytes", a.key_bytes, "length of a key",
          CLI::Range(std::int64_t{5}, std::int64_t{kKeyMaxBytes}));
  add_list(app, "--distribution", a.distributions,
           "which keys are asked for: uniform, zipf (exponent 0.99)",
           CLI::IsMember({"uniform", "zipf"}));
  app.add_option("--ttl", a.ttl, "life of stored values in seconds; 0: for ever")
      ->capture_default_str();
  app.add_flag("--writer", a.writer,
               "measure each line twice: quiet, and while one more process writes at full speed");
  app.add_flag("--latency", a.latency, "also p50 to p99.9 and the most, in a part of its own");
}

void declare_measurement(CLI::App& app, Arguments& a) {
  app.add_option("--seconds", a.seconds, "length of one repeat, 0.01 to 600")
      ->capture_default_str();
  app.add_option("--warmup", a.warmup, "seconds before each repeat, 0 to 600")
      ->capture_default_str();
  add_repeats(app, a.repeats, "of each line, in new processes");
  add_seed(app, a.seed, "of the order of keys");
  add_policy(app, a.policy);
  app.add_flag("--redis", a.redis, "larder with a Redis of its own: a leader runs, sets go there");
  add_directory(app, a.directory, "where segments and files are made, a tmpfs");
  add_segment_mb(app, a.segment_mb, "larder's size in MiB; 0: room for all keys", 0);
  add_no_pin(app, a.no_pin);
  app.add_flag("--json", a.json, "print JSON with every sample, in one line, instead of the table");
  add_progress(app, a.progress);
}

}  // namespace

void declare(CLI::App& app, Arguments& arguments) {
  declare_backends(app, arguments);
  declare_workload(app, arguments);
  declare_measurement(app, arguments);
  std::string footer =
      "ns/op: of one process; median, least and most of every process in every repeat. A get\n"
      "reads the value and checks whose it is; walking the plan is part of the figure.\n"
      "All lines of one workload, size and distribution are measured in turns, in another order\n"
      "in each repeat, on one segment.\n";
  if (arguments.compare) {
    footer +=
        "LARDER / THIS: larder's time divided by this one's, the median over the repeats.\n"
        "Servers are started on sockets of their own and end with this program. Maps that live\n"
        "within one process are measured in each process on a copy of its own.\n";
  }
  app.footer(footer +
             "\nExit status: 0 done; 1 failed, the message says why; 2 wrong usage; 130 "
             "interrupted.");
}

bool in_range(double value, double least, double most) {
  return value >= least && value <= most;  // false for NaN
}

std::string wrong(const Arguments& a) {
  if (!in_range(a.seconds, 0.01, 600)) return "--seconds must be 0.01 to 600";
  if (!in_range(a.warmup, 0, 600)) return "--warmup must be 0 to 600";
  if (!in_range(a.ttl, 0, 1e8) || (a.ttl > 0 && a.ttl < 0.001)) {
    return "--ttl must be 0 or 0.001 to 100000000";
  }
  for (const auto& workload : a.workloads) {
    constexpr std::int64_t kMostInserted = 10'000'000;
    const Kind kind = kind_of(workload);
    if (kind == Kind::kInsert && a.keys > kMostInserted) {
      return "--keys must be at most " + std::to_string(kMostInserted) + " for insert";
    }
    const std::uint32_t keys = keys_of(kind, static_cast<std::uint32_t>(a.keys));
    const std::size_t least = Keys::least_bytes(keys);
    if (static_cast<std::size_t>(a.key_bytes) < least) {
      return "--key-bytes must be at least " + std::to_string(least) + " to tell " +
             std::to_string(keys) + " keys apart";
    }
  }
  if (a.segment_mb != 0 && a.segment_mb < 4) return "--segment-mb must be 0 or at least 4";
  return {};
}

Kind kind_of(const std::string& workload) {
  for (const Kind kind : kKinds) {
    if (workload == kind_name(kind)) return kind;
  }
  return Kind::kMixed;
}

std::chrono::milliseconds ttl_of(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

// ---- options of every subcommand ----------------------------------------------------------------

void add_processes(CLI::App& app, std::int64_t& processes, const char* about) {
  add_one(app, "--processes", processes, about, CLI::Range(std::int64_t{1}, kMaxProcesses));
}

void add_repeats(CLI::App& app, std::int64_t& repeats, const char* about) {
  add_one(app, "--repeats", repeats, about, CLI::Range(std::int64_t{1}, std::int64_t{1000}));
}

void add_segment_mb(CLI::App& app, std::int64_t& segment_mb, const char* about,
                    std::int64_t least) {
  add_one(app, "--segment-mb", segment_mb, about, CLI::Range(least, kMaxSegmentMb));
}

void add_seed(CLI::App& app, std::int64_t& seed, const char* about, std::int64_t most) {
  add_one(app, "--seed", seed, about, CLI::Range(std::int64_t{0}, most));
}

void add_policy(CLI::App& app, std::string& policy) {
  add_one(app, "--policy", policy, "what larder keeps when it is full",
          CLI::IsMember({"lfu", "lru"}));
}

void add_directory(CLI::App& app, std::string& directory, const char* about) {
  app.add_option("--directory", directory, about)->take_last()->capture_default_str();
}

void add_no_pin(CLI::App& app, bool& no_pin) {
  app.add_flag("--no-pin", no_pin, "let processes move between cores");
}

void add_json(CLI::App& app, bool& json) {
  app.add_flag("--json", json, "print JSON, in one line, instead of the table");
}

void add_progress(CLI::App& app, bool& progress) {
  app.add_flag("--progress", progress, "say on stderr how far it is, also where no one watches");
}

Policy policy_of(const std::string& policy) {
  return policy == "lru" ? Policy::kLru : Policy::kLfu;
}

}  // namespace larder::bench
