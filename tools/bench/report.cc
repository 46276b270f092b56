#include "tools/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <utility>

#include "tools/bench/ticks.h"

namespace larder::bench {
namespace {

using tools::Json;

// ---- figures of one case ----------------------------------------------------------------------

Counts sums_of(const Case& one) {
  Counts sums;
  for (const Repeat& repeat : one.repeats) {
    for (const Sample& sample : repeat.samples) {
      sums.reads += sample.counts.reads;
      sums.hits += sample.counts.hits;
      sums.failed_sets += sample.counts.failed_sets;
    }
  }
  return sums;
}

std::vector<double> ns_of(const Repeat& repeat) {
  std::vector<double> values;
  for (const Sample& sample : repeat.samples) values.push_back(sample.ns_per_operation());
  return values;
}

double rate_of(const Repeat& repeat) {
  double rate = 0;
  for (const Sample& sample : repeat.samples) rate += sample.operations_per_second();
  return rate;
}

// Of all repeats.
template <class Of>
Spread spread_over(const Case& one, Of of) {
  std::vector<double> values;
  for (const Repeat& repeat : one.repeats) values.push_back(of(repeat));
  return spread_of(std::move(values));
}

Spread ns_spread(const Case& one) {
  std::vector<double> values;
  for (const Repeat& repeat : one.repeats) {
    for (const double value : ns_of(repeat)) values.push_back(value);
  }
  return spread_of(std::move(values));
}

double median_ns(const Repeat& repeat) { return spread_of(ns_of(repeat)).median; }

// How much of the other's time this one takes, of each repeat; the median is what counts.
template <class Of>
Spread ratio(const Case& one, const Case& other, Of of) {
  std::vector<double> values;
  for (std::size_t i = 0; i < one.repeats.size(); ++i) {
    values.push_back(of(one.repeats[i]) / of(other.repeats[i]));
  }
  return spread_of(std::move(values));
}

struct Quantile {
  const char* name;
  double share;
};
constexpr Quantile kQuantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}};

double quantile_ns(const Repeat& repeat, double share) {
  return repeat.latency.quantile(share) * tick_facts().nanoseconds_per_tick;
}
double most_ns(const Repeat& repeat) {
  return static_cast<double>(repeat.latency.max()) * tick_facts().nanoseconds_per_tick;
}

const Case* find(const std::vector<Case>& cases, const Case& like, std::string_view backend,
                 bool writer) {
  for (const Case& one : cases) {
    if (one.backend == backend && one.writer == writer && one.comparable(like)) return &one;
  }
  return nullptr;
}

// ---- text -------------------------------------------------------------------------------------

std::string distribution_name(const Case& one) {
  if (one.kind == Kind::kInsert) return "in turn";
  return one.distribution == Distribution::kZipf ? "zipf" : "uniform";
}

std::string size_text(const Case& one) {
  return one.kind == Kind::kLarge ? "64K-1M" : std::to_string(one.value_bytes);
}

std::string ratio_text(const Case* one, const Case* other) {
  if (one == nullptr || other == nullptr) return "-";
  const double value = ratio(*one, *other, median_ns).median;
  return fixed(value, value < 0.1 ? 4 : 2);
}

std::vector<tools::Table::Column> first_columns(bool compare) {
  using enum tools::Table::Align;
  std::vector<tools::Table::Column> columns{
      {"WORKLOAD", kLeft}, {"KEYS", kLeft}, {"VALUE B", kRight}, {"PROCESSES", kRight}};
  columns.push_back({compare ? "BACKEND" : "VARIANT", kLeft});
  columns.push_back({"WRITER", kLeft});
  return columns;
}

std::vector<std::string> first_cells(const Case& one) {
  return {kind_name(one.kind), distribution_name(one),
          size_text(one),      std::to_string(one.processes),
          one.backend,         one.writer ? "yes" : "no"};
}

// ---- JSON -------------------------------------------------------------------------------------

Json json_of(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

Json json_of(const Repeat& repeat, bool latency) {
  Json operations = Json::array();
  for (const Sample& sample : repeat.samples) operations.push_back(sample.operations);
  Json json{{"ns_per_op", ns_of(repeat)},
            {"operations", operations},
            {"ops_per_second", rate_of(repeat)}};
  if (latency) {
    for (const auto& [name, share] : kQuantiles)
      json["latency_ns"][name] = quantile_ns(repeat, share);
    json["latency_ns"]["max"] = most_ns(repeat);
  }
  return json;
}

Json json_of(const Case& one, bool latency) {
  const Counts sums = sums_of(one);
  Json json{{"backend", one.backend},
            {"workload", kind_name(one.kind)},
            {"distribution", distribution_name(one)},
            {"value_bytes", one.value_bytes},
            {"processes", one.processes},
            {"writer", one.writer},
            {"shared", one.traits.shared},
            {"segment_bytes", is_larder(one.backend) ? Json(one.segment_bytes) : Json(nullptr)},
            {"ns_per_op", json_of(ns_spread(one))},
            {"ops_per_second", json_of(spread_over(one, rate_of))}};
  json["hit_ratio"] = sums.reads == 0
                          ? Json(nullptr)
                          : Json(static_cast<double>(sums.hits) / static_cast<double>(sums.reads));
  json["cpu_share"] = cpu_share(one);
  json["failed_sets"] = sums.failed_sets;
  if (latency) {
    for (const auto& quantile : kQuantiles) {
      json["latency_ns"][quantile.name] = json_of(
          spread_over(one, [&](const Repeat& r) { return quantile_ns(r, quantile.share); }));
    }
    json["latency_ns"]["max"] = json_of(spread_over(one, most_ns));
  }
  json["samples"] = Json::array();
  json["repeats"] = Json::array();
  for (const Repeat& repeat : one.repeats) {
    for (const double value : ns_of(repeat)) json["samples"].push_back(value);
    json["repeats"].push_back(json_of(repeat, latency));
  }
  return json;
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

std::string fixed(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

Json machine_json() {
  utsname system{};
  uname(&system);
  return {{"cpu", cpu_model()},
          {"online_cpus", sysconf(_SC_NPROCESSORS_ONLN)},
          {"kernel", system.release}};
}

bool Case::comparable(const Case& other) const {
  return kind == other.kind && distribution == other.distribution &&
         value_bytes == other.value_bytes && processes == other.processes;
}

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values.front(), values.back()};
}

double cpu_share(const Case& one) {
  double cpu = 0;
  double all = 0;
  for (const Repeat& repeat : one.repeats) {
    for (const Sample& sample : repeat.samples) {
      cpu += static_cast<double>(sample.cpu_nanoseconds);
      all += static_cast<double>(sample.nanoseconds);
    }
  }
  return all == 0 ? 0 : std::min(cpu / all, 1.0);
}

tools::Table Report::table() const {
  using enum tools::Table::Align;
  auto columns = first_columns(compare);
  for (const char* title : {"NS/OP", "MIN", "MAX"}) columns.push_back({title, kRight});
  if (compare) {
    columns.push_back({"LARDER / THIS", kRight});
    columns.push_back({"THIS / RAW", kRight});
  }
  for (const char* title : {"TOTAL OPS/S", "HITS", "FAILED SETS", "CORE TIME"}) {
    columns.push_back({title, kRight});
  }
  tools::Table table(columns);
  for (const Case& one : cases) {
    const Spread ns = ns_spread(one);
    const Counts sums = sums_of(one);
    auto row = first_cells(one);
    for (const double value : {ns.median, ns.min, ns.max}) row.push_back(fixed(value, 1));
    if (compare) {
      row.push_back(ratio_text(find(cases, one, "larder", one.writer), &one));
      row.push_back(ratio_text(&one, find(cases, one, "raw", one.writer)));
    }
    row.push_back(fixed(spread_over(one, rate_of).median, 0));
    row.push_back(tools::format_share(sums.hits, sums.reads));
    row.push_back(std::to_string(sums.failed_sets));
    // Who asks a server waits for it most of the time.
    row.push_back(one.traits.remote ? "-" : fixed(100 * cpu_share(one), 0) + " %");
    table.add(row);
  }
  return table;
}

tools::Table Report::latency_table() const {
  using enum tools::Table::Align;
  auto columns = first_columns(compare);
  for (const char* title : {"P50 NS", "P90", "P99", "P99.9", "MAX", "P99.9 / QUIET"}) {
    columns.push_back({title, kRight});
  }
  tools::Table table(columns);
  for (const Case& one : cases) {
    auto row = first_cells(one);
    for (const auto& quantile : kQuantiles) {
      const auto of = [&](const Repeat& r) { return quantile_ns(r, quantile.share); };
      row.push_back(fixed(spread_over(one, of).median, 0));
    }
    row.push_back(fixed(spread_over(one, most_ns).max, 0));
    const Case* quiet = one.writer ? find(cases, one, one.backend, false) : nullptr;
    const auto p999 = [](const Repeat& r) { return quantile_ns(r, 0.999); };
    row.push_back(quiet == nullptr ? "-" : fixed(ratio(one, *quiet, p999).median, 2));
    table.add(row);
  }
  return table;
}

Json Report::json(Json settings) const {
  Json json{{"machine", machine_json()}, {"settings", std::move(settings)}, {"notes", notes}};
  json["runs"] = Json::array();
  for (const Case& one : cases) {
    Json run = json_of(one, latency);
    const Case* larder = find(cases, one, "larder", one.writer);
    const Case* raw = find(cases, one, "raw", one.writer);
    if (compare && larder != nullptr) {
      run["larder_to_this"] = json_of(ratio(*larder, one, median_ns));
    }
    if (compare && raw != nullptr) run["this_to_raw"] = json_of(ratio(one, *raw, median_ns));
    if (const Case* quiet = find(cases, one, one.backend, false); latency && one.writer && quiet) {
      const auto p999 = [](const Repeat& r) { return quantile_ns(r, 0.999); };
      run["p99.9_to_quiet"] = json_of(ratio(one, *quiet, p999));
    }
    json["runs"].push_back(std::move(run));
  }
  if (cases.size() == 1) {
    // As a caller that wants one figure reads it.
    json["samples"] = json["runs"][0]["samples"];
    json["figure"] = json["runs"][0]["ns_per_op"]["median"];
    json["unit"] = "ns";
  }
  return json;
}

}  // namespace larder::bench
