// `run` and `compare`: every workload, size, distribution, number of processes and backend that was
// asked for, measured in turns.
//
// What shares a workload, a size and a distribution is one group: its backends are opened and
// filled together, and repeat r measures each of them once, in shuffled order, before repeat r + 1
// begins, so that what slows the machine for a while slows all of them.
#pragma once

#include <memory>
#include <vector>

#include "larder/status.h"
#include "tools/bench/arguments.h"
#include "tools/bench/progress.h"
#include "tools/bench/report.h"

namespace larder::bench {

class Bench {
 public:
  explicit Bench(const Arguments& arguments);
  Status run_all();
  void print() const;

 private:
  struct Plan {
    Kind kind;
    Distribution distribution;
    std::size_t value_bytes;
  };
  class Group;

  std::vector<Plan> plans() const;
  std::size_t steps() const;
  void warn() const;
  void warn_if_disturbed() const;
  Status check(const Case& one, const Repeat& repeat, std::uint32_t keys) const;
  tools::Json settings() const;

  const Arguments& a_;
  const std::vector<int> cpus_;
  Report report_;
  Progress progress_;
};

}  // namespace larder::bench
