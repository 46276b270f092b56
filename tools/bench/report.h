// The figures of all runs, as a table or as JSON with every sample, so that another program can
// compute them again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/run.h"
#include "tools/shmctl/text.h"

namespace larder::bench {

// One line of the table.
struct Case {
  std::string backend;
  Traits traits;
  Kind kind;
  Distribution distribution;
  std::size_t value_bytes;  // the most, where a workload has its own sizes
  std::uint32_t processes;
  bool writer;
  std::uint64_t segment_bytes;  // larder's
  std::vector<Repeat> repeats;

  // Measured in turns with it, and different in nothing but what is measured.
  bool comparable(const Case& other) const;
};

struct Spread {
  double median;
  double min;
  double max;
};
// Of at least one value.
Spread spread_of(std::vector<double> values);
// How much of the time its processes had a core to themselves, 0 to 1.
double cpu_share(const Case& one);

struct Report {
  std::vector<Case> cases;
  std::vector<std::string> notes;  // what was left out, and why
  bool compare = false;
  bool latency = false;

  tools::Table table() const;
  tools::Table latency_table() const;
  // `settings`: what the whole was run with.
  tools::Json json(tools::Json settings) const;
};

tools::Json machine_json();
std::string fixed(double value, int digits);

}  // namespace larder::bench
