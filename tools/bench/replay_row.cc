#include "tools/bench/replay_row.h"

#include <numeric>
#include <utility>

namespace larder::bench {

ReplayInput::ReplayInput(Trace its) : trace(std::move(its)) {
  for (const std::uint32_t id : trace.ids) sizes.push_back(item_bytes(id));
  mean_bytes = std::accumulate(sizes.begin(), sizes.end(), 0.0) / static_cast<double>(sizes.size());
}

double ReplayRow::ratio(std::uint64_t hits) const {
  return static_cast<double>(hits) / static_cast<double>(input->trace.requests.size());
}

Figures ReplayRow::hit_ratios() const {
  Figures figures;
  if (exact_lru) figures[kExactLru] = ratio(*exact_lru);
  if (optimum) figures[kOptimum] = ratio(*optimum);
  if (least_room) return figures;
  for (const PolicyRuns& policy : policies) {
    double sum = 0;
    for (const ReplayRun& run : policy.runs) sum += ratio(run.outcome.hits);
    figures[policy.name] = sum / static_cast<double>(policy.runs.size());
  }
  return figures;
}

Figures ReplayRow::ns_per_request() const {
  Figures figures;
  if (least_room) return figures;
  for (const PolicyRuns& policy : policies) {
    double seconds = 0;
    for (const ReplayRun& run : policy.runs) seconds += run.seconds();
    figures[policy.name] =
        seconds * 1e9 / static_cast<double>(policy.runs.size() * input->trace.requests.size());
  }
  return figures;
}

double ReplayRow::seconds() const {
  double seconds = 0;
  for (const PolicyRuns& policy : policies) {
    for (const ReplayRun& run : policy.runs) seconds += run.seconds();
  }
  return seconds;
}

Figures means_of(const std::vector<Figures>& rows) {
  Figures means;
  for (const Figures& row : rows) {
    for (const auto& [name, value] : row) means[name] += value / static_cast<double>(rows.size());
  }
  return means;
}

}  // namespace larder::bench
