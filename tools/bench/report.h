// The figures of all runs, as a table or as JSON with every sample, so that another program can
// compute them again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/run.h"
#include "tools/shmctl/text.h"

namespace larder::bench {

// One line of the table: a workload, a value size, a number of processes.
struct Case {
  Kind kind;
  std::size_t value_bytes;
  std::uint32_t processes;
  std::uint64_t segment_bytes;
  std::vector<std::vector<Sample>> repeats;  // one sample a process each
};

struct Spread {
  double median;
  double min;
  double max;
};
// Of at least one value.
Spread spread_of(std::vector<double> values);

std::string kind_name(Kind kind);
// How much of the time its processes had a core to themselves, 0 to 1.
double cpu_share(const Case& one);

tools::Table table_of(const std::vector<Case>& cases);
// `settings`: what the whole was run with.
tools::Json json_of(const std::vector<Case>& cases, tools::Json settings);

}  // namespace larder::bench
