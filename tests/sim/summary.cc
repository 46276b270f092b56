#include "tests/sim/summary.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace larder::sim {
namespace {

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

std::uint64_t lower_seed(std::uint64_t runs_a, std::uint64_t a, std::uint64_t runs_b,
                         std::uint64_t b) {
  if (runs_a == 0) return b;
  return runs_b == 0 ? a : std::min(a, b);
}

}  // namespace

void Summary::note_failed(std::uint64_t seed) {
  const auto end = failed_seeds.begin() + static_cast<long>(seeds_shown());
  const auto at = std::upper_bound(failed_seeds.begin(), end, seed);
  ++failed;
  if (at == failed_seeds.end()) return;
  std::move_backward(at, end == failed_seeds.end() ? end - 1 : end,
                     end == failed_seeds.end() ? end : end + 1);
  *at = seed;
}

std::size_t Summary::seeds_shown() const { return std::min<std::size_t>(failed, kSeedsShown); }

double Summary::share(std::uint64_t part) const { return percent(part, runs); }

void Summary::add(std::uint64_t seed, const Outcome& outcome) {
  ++runs;
  steps += outcome.steps;
  reads += outcome.reads;
  fresh_reads += outcome.fresh_reads;
  excused += outcome.excused;
  largest_staleness = std::max(largest_staleness, outcome.largest_staleness);
  for (unsigned i = 0; i < kFaults; ++i) faults[i] += outcome.faults[i];
  if (outcome.violations.empty()) return;
  note_failed(seed);
  for (const Violation& each : outcome.violations) {
    const auto property = static_cast<std::size_t>(each.property);
    violated_first[property] = lower_seed(violated[property], violated_first[property], 1, seed);
    ++violated[property];
  }
}

void Summary::add(const Summary& other) {
  runs += other.runs;
  steps += other.steps;
  reads += other.reads;
  fresh_reads += other.fresh_reads;
  excused += other.excused;
  largest_staleness = std::max(largest_staleness, other.largest_staleness);
  for (unsigned i = 0; i < kFaults; ++i) faults[i] += other.faults[i];
  for (std::size_t i = 0; i < kProperties; ++i) {
    violated_first[i] =
        lower_seed(violated[i], violated_first[i], other.violated[i], other.violated_first[i]);
    violated[i] += other.violated[i];
  }
  for (std::size_t i = 0; i < other.seeds_shown(); ++i) note_failed(other.failed_seeds[i]);
  failed += other.failed - other.seeds_shown();
  coverage.add(other.coverage);
}

void print(const Summary& summary) {
  std::printf("%" PRIu64 " runs of %.0f steps in the mean, %" PRIu64 " failed\n", summary.runs,
              summary.runs == 0
                  ? 0.0
                  : static_cast<double>(summary.steps) / static_cast<double>(summary.runs),
              summary.failed);
  for (unsigned i = 0; i < kProperties; ++i) {
    if (summary.violated[i] == 0) continue;
    std::printf("  %-10s violated in %.2f %% of the runs, first by seed %" PRIu64 "\n",
                std::string(property_name(static_cast<Property>(i))).c_str(),
                summary.share(summary.violated[i]), summary.violated_first[i]);
  }
  std::printf("%" PRIu64 " reads, %.1f %% under a lease, %.3f %% excused; stalest %" PRIu64
              ".%03" PRIu64 " ms\n",
              summary.reads, percent(summary.fresh_reads, summary.reads),
              percent(summary.excused, summary.reads), summary.largest_staleness / kMs,
              summary.largest_staleness % kMs);
  std::printf("share of the runs with each fault, %%:");
  for (unsigned i = 0; i < kFaults; ++i) {
    std::printf("%s %s %.1f", i == 0 ? "" : ",",
                std::string(fault_name(static_cast<Fault>(i))).c_str(),
                summary.share(summary.faults[i]));
  }
  std::printf("\ntransitions of the follower:\n");
  for (std::size_t i = 0; i < kTransitions; ++i) {
    if (summary.coverage.transitions[i] == 0) continue;
    std::printf("%14" PRIu64 "  %s\n", summary.coverage.transitions[i], transition_name(i).c_str());
  }
  for (const NeverGiven& each : never_given()) {
    std::printf("%14s  %s: %s\n", "none", std::string(each.input).c_str(),
                std::string(each.why).c_str());
  }
  std::printf("raises of the epoch:");
  for (std::size_t i = 0; i < summary.coverage.raises.size(); ++i) {
    std::printf("%s %s %" PRIu64, i == 0 ? "" : ",",
                std::string(sync::reason_name(static_cast<sync::RaiseReason>(i))).c_str(),
                summary.coverage.raises[i]);
  }
  std::printf("\n");
}

std::string as_json(const Summary& summary) {
  nlohmann::json faults, violated, transitions, raises;
  for (unsigned i = 0; i < kFaults; ++i) {
    faults[std::string(fault_name(static_cast<Fault>(i)))] = summary.share(summary.faults[i]);
  }
  for (unsigned i = 0; i < kProperties; ++i) {
    violated[std::string(property_name(static_cast<Property>(i)))] = {
        {"share", summary.share(summary.violated[i])}, {"seed", summary.violated_first[i]}};
  }
  for (std::size_t i = 0; i < kTransitions; ++i) {
    if (is_possible(i)) transitions[transition_name(i)] = summary.coverage.transitions[i];
  }
  for (std::size_t i = 0; i < summary.coverage.raises.size(); ++i) {
    raises[std::string(sync::reason_name(static_cast<sync::RaiseReason>(i)))] =
        summary.coverage.raises[i];
  }
  const auto& seeds = summary.failed_seeds;
  const nlohmann::json sum = {
      {"runs", summary.runs},
      {"failed", summary.failed},
      {"failed_seeds",
       std::vector<std::uint64_t>(seeds.begin(),
                                  seeds.begin() + static_cast<long>(summary.seeds_shown()))},
      {"steps", summary.steps},
      {"reads", summary.reads},
      {"fresh_reads", summary.fresh_reads},
      {"excused", summary.excused},
      {"largest_staleness_us", summary.largest_staleness},
      {"faults", faults},
      {"violated", violated},
      {"transitions", transitions},
      {"raises", raises},
      {"unexpected", summary.coverage.unexpected()}};
  return sum.dump();
}

}  // namespace larder::sim
