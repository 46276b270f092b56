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
    app.add_option(
           "--variant", a.backends,
           "larder: into a reused buffer; larder-fresh: a value of its own; larder-many: 32 "
           "keys at once; larder-view: pinned, not copied")
        ->delimiter(',')
        ->check(CLI::IsMember(names_where(true)))
        ->capture_default_str();
    return;
  }
  a.backends = backend_names();
  app.add_option("--against", a.backends, "which ones; larder is always among them")
      ->delimiter(',')
      ->check(CLI::IsMember(backend_names()))
      ->capture_default_str();
}

void declare_workload(CLI::App& app, Arguments& a) {
  std::vector<std::string> kinds;
  for (const Kind kind : kKinds) kinds.push_back(kind_name(kind));
  app.add_option("--workload", a.workloads,
                 "get-hit; set (overwrites); mixed (95 % get, 5 % set); storm (all overwrite and "
                 "read the same 16 keys); large (mixed, 64 KiB to 1 MiB); insert (evicting)")
      ->delimiter(',')
      ->check(CLI::IsMember(kinds))
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
  app.add_option("--distribution", a.distributions,
                 "which keys are asked for: uniform, zipf (exponent 0.99)")
      ->delimiter(',')
      ->check(CLI::IsMember({"uniform", "zipf"}))
      ->capture_default_str();
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
  app.add_option("--repeats", a.repeats, "of each line, in new processes")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000}))
      ->capture_default_str();
  app.add_option("--seed", a.seed, "of the order of keys")
      ->check(CLI::Range(std::int64_t{0}, INT64_MAX))
      ->capture_default_str();
  app.add_option("--policy", a.policy, "what larder keeps when it is full")
      ->check(CLI::IsMember({"lfu", "lru"}))
      ->capture_default_str();
  app.add_flag("--redis", a.redis, "larder with a Redis of its own: a leader runs, sets go there");
  app.add_option("--directory", a.directory, "where segments and files are made, a tmpfs")
      ->take_last()
      ->capture_default_str();
  app.add_option("--segment-mb", a.segment_mb, "larder's size in MiB; 0: room for all keys")
      ->check(CLI::Range(std::int64_t{0}, kMaxSegmentMb))
      ->capture_default_str();
  app.add_flag("--no-pin", a.no_pin, "let processes move between cores");
  app.add_flag("--json", a.json, "print JSON with every sample, in one line, instead of the table");
  app.add_flag("--progress", a.progress, "say on stderr how far it is, also where no one watches");
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

}  // namespace larder::bench
