// What `run` and `compare` are asked for, and the check of it; and the options that every
// subcommand declares alike.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "tools/bench/workload.h"

namespace larder::bench {

struct Arguments {
  bool compare = false;
  std::vector<std::string> backends;  // larder's, and in a comparison the others'
  std::vector<std::string> workloads{"get-hit", "set", "mixed"};
  std::vector<std::string> distributions{"uniform"};
  std::vector<std::int64_t> processes{1};
  std::vector<std::int64_t> value_bytes{64, 1024};
  std::int64_t keys = 100'000;
  std::int64_t key_bytes = 24;
  double seconds = 1;
  double warmup = 0.2;
  std::int64_t repeats = 5;
  std::int64_t seed = 1;
  double ttl = 3600;
  bool writer = false;
  bool latency = false;
  std::string policy = "lfu";
  std::string directory = "/dev/shm";
  std::int64_t segment_mb = 0;
  bool redis = false;
  bool no_pin = false;
  bool json = false;
  bool progress = false;
};

inline constexpr std::int64_t kMaxProcesses = 256;
inline constexpr std::int64_t kMaxSegmentMb = std::int64_t{16} << 20;

void declare(CLI::App& app, Arguments& arguments);
// What CLI11 cannot check, as a sentence; empty: fine.
std::string wrong(const Arguments& arguments);
bool in_range(double value, double least, double most);  // false for NaN

Kind kind_of(const std::string& workload);
std::chrono::milliseconds ttl_of(double seconds);

// ---- options of every subcommand ----------------------------------------------------------------
//
// The variable that an option fills outlives the app; what it holds is the default that --help
// tells.

// One value that must be valid.
template <class Value>
void add_one(CLI::App& app, const char* name, Value& value, const char* about,
             const CLI::Validator& valid) {
  app.add_option(name, value, about)->check(valid)->capture_default_str();
}
// Several, with commas between them.
template <class Value>
void add_list(CLI::App& app, const char* name, std::vector<Value>& values, const char* about,
              const CLI::Validator& valid) {
  app.add_option(name, values, about)->delimiter(',')->check(valid)->capture_default_str();
}

void add_processes(CLI::App& app, std::int64_t& processes, const char* about);
void add_repeats(CLI::App& app, std::int64_t& repeats, const char* about);
void add_segment_mb(CLI::App& app, std::int64_t& segment_mb, const char* about, std::int64_t least);
void add_seed(CLI::App& app, std::int64_t& seed, const char* about, std::int64_t most = INT64_MAX);
void add_policy(CLI::App& app, std::string& policy);
void add_directory(CLI::App& app, std::string& directory, const char* about);
void add_no_pin(CLI::App& app, bool& no_pin);
void add_json(CLI::App& app, bool& json);
void add_progress(CLI::App& app, bool& progress);

// Of what add_policy lets through.
Policy policy_of(const std::string& policy);

}  // namespace larder::bench
