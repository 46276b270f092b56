// What `replay` is asked for, and the rows of its --table.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace larder::bench {

struct ReplayArguments {
  std::vector<std::string> files;
  std::vector<std::uint64_t> entries;
  bool table = false;
  std::string folder;
  std::vector<std::string> policies{"lfu", "lru"};
  bool bytes = false;
  std::int64_t processes = 1;
  std::int64_t repeats = 1;
  std::int64_t jobs = 1;
  std::uint64_t seed = 1;
  std::string directory = "/dev/shm";
  bool json = false;
};

// The rows of --table: traces of databases, disks, sessions, and loops longer than the cache.
struct TableRow {
  const char* trace;
  std::uint64_t entries;
};
inline constexpr TableRow kReplayTable[] = {
    {"arc-OLTP", 1000},     {"arc-OLTP", 2000},     {"arc-OLTP", 5000},     {"arc-P3", 50000},
    {"arc-P3", 100000},     {"scarab-recs", 12500}, {"scarab-recs", 50000}, {"c2k-orm-busy", 1250},
    {"c2k-orm-busy", 5000}, {"c2k-web07", 300},     {"c2k-web07", 1200},    {"lirs-gli", 1000},
    {"lirs-loop", 512},     {"lirs-multi1", 1000},  {"corda", 1024},        {"mix-stress", 512},
};

// Options and the text below them.
void declare(CLI::App& app, ReplayArguments& arguments);
// After parsing. What CLI11 cannot check is a CLI::ParseError; then every policy is named once, and
// "none" is none.
void settle(ReplayArguments& arguments);

}  // namespace larder::bench
