// What `run` and `compare` are asked for, and the check of it.
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

}  // namespace larder::bench
