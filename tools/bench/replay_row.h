// One row of a replay: a trace at a capacity, what was found out about it, and the figures that
// follow from that.
//
// Threads: none. Nothing here fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench/replay_job.h"
#include "tools/bench/trace.h"

namespace larder::bench {

// A trace, and what its ids would take where sizes count.
struct ReplayInput {
  explicit ReplayInput(Trace its);

  Trace trace;
  std::vector<std::uint32_t> sizes;  // of each number
  double mean_bytes = 0;
};

// What one replay through larder found.
struct ReplayRun {
  Outcome outcome;
  std::uint64_t entries_held = 0;
  Room room;

  double seconds() const { return static_cast<double>(outcome.ended_ns - outcome.began_ns) / 1e9; }
};

struct PolicyRuns {
  std::string name;
  std::deque<ReplayRun> runs;  // one a repeat
};

// A row's figures by name, as ratios or nanoseconds: what lines and means are made of. Names are
// policies', or one of:
using Figures = std::map<std::string, double>;
inline constexpr const char* kExactLru = "exact_lru";
inline constexpr const char* kOptimum = "optimum";

struct ReplayRow {
  const ReplayInput* input = nullptr;
  std::uint64_t entries = 0;
  std::uint64_t capacity_bytes = 0;        // 0: entries are counted
  std::optional<std::uint64_t> exact_lru;  // hits
  std::optional<std::uint64_t> optimum;    // hits
  std::vector<PolicyRuns> policies;
  std::optional<std::uint64_t> least_room;  // of the smallest segment, if that is too large
  std::size_t tasks_left = 0;

  bool sized() const { return capacity_bytes != 0; }
  std::string label() const { return input->trace.name + " @ " + std::to_string(entries); }

  // When no task is left. A row that is too small for a segment has figures of references alone.
  Figures hit_ratios() const;
  Figures ns_per_request() const;
  double seconds() const;

 private:
  double ratio(std::uint64_t hits) const;
};

// The mean of each figure over rows, none of which lacks it.
Figures means_of(const std::vector<Figures>& rows);

}  // namespace larder::bench
