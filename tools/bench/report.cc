#include "tools/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <utility>

namespace larder::bench {
namespace {

using tools::Json;

// What the processes of all repeats did together.
struct Sums {
  std::uint64_t reads = 0;
  std::uint64_t hits = 0;
  std::uint64_t failed_sets = 0;
};

Sums sums_of(const Case& one) {
  Sums sums;
  for (const auto& repeat : one.repeats) {
    for (const Sample& sample : repeat) {
      sums.reads += sample.reads;
      sums.hits += sample.hits;
      sums.failed_sets += sample.failed_sets;
    }
  }
  return sums;
}

std::vector<double> ns_of(const std::vector<Sample>& repeat) {
  std::vector<double> values;
  values.reserve(repeat.size());
  for (const Sample& sample : repeat) values.push_back(sample.ns_per_operation());
  return values;
}

double rate_of(const std::vector<Sample>& repeat) {
  double rate = 0;
  for (const Sample& sample : repeat) rate += sample.operations_per_second();
  return rate;
}

Spread ns_spread(const Case& one) {
  std::vector<double> values;
  for (const auto& repeat : one.repeats) {
    for (const double value : ns_of(repeat)) values.push_back(value);
  }
  return spread_of(std::move(values));
}

Spread rate_spread(const Case& one) {
  std::vector<double> values;
  for (const auto& repeat : one.repeats) values.push_back(rate_of(repeat));
  return spread_of(std::move(values));
}

std::string fixed(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

Json json_of(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

Json json_of(const Case& one) {
  const Sums sums = sums_of(one);
  Json json{{"workload", kind_name(one.kind)},      {"value_bytes", one.value_bytes},
            {"processes", one.processes},           {"segment_bytes", one.segment_bytes},
            {"ns_per_op", json_of(ns_spread(one))}, {"ops_per_second", json_of(rate_spread(one))}};
  json["hit_ratio"] = sums.reads == 0
                          ? Json(nullptr)
                          : Json(static_cast<double>(sums.hits) / static_cast<double>(sums.reads));
  json["cpu_share"] = cpu_share(one);
  json["failed_sets"] = sums.failed_sets;
  json["samples"] = Json::array();
  json["repeats"] = Json::array();
  for (const auto& repeat : one.repeats) {
    const std::vector<double> values = ns_of(repeat);
    for (const double value : values) json["samples"].push_back(value);
    Json operations = Json::array();
    for (const Sample& sample : repeat) operations.push_back(sample.operations);
    json["repeats"].push_back(
        {{"ns_per_op", values}, {"operations", operations}, {"ops_per_second", rate_of(repeat)}});
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

Json machine() {
  utsname system{};
  uname(&system);
  return {{"cpu", cpu_model()},
          {"online_cpus", sysconf(_SC_NPROCESSORS_ONLN)},
          {"kernel", system.release}};
}

}  // namespace

std::string kind_name(Kind kind) {
  switch (kind) {
    case Kind::kGetHit:
      return "get-hit";
    case Kind::kSet:
      return "set";
    case Kind::kMixed:
      return "mixed";
  }
  return "unknown";
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
  for (const auto& repeat : one.repeats) {
    for (const Sample& sample : repeat) {
      cpu += static_cast<double>(sample.cpu_nanoseconds);
      all += static_cast<double>(sample.nanoseconds);
    }
  }
  return all == 0 ? 0 : std::min(cpu / all, 1.0);
}

tools::Table table_of(const std::vector<Case>& cases) {
  using enum tools::Table::Align;
  tools::Table table({{"WORKLOAD", kLeft},
                      {"VALUE B", kRight},
                      {"PROCESSES", kRight},
                      {"NS/OP", kRight},
                      {"MIN", kRight},
                      {"MAX", kRight},
                      {"TOTAL OPS/S", kRight},
                      {"HITS", kRight},
                      {"FAILED SETS", kRight},
                      {"CORE TIME", kRight}});
  for (const Case& one : cases) {
    const Spread ns = ns_spread(one);
    const Sums sums = sums_of(one);
    table.add({kind_name(one.kind), std::to_string(one.value_bytes), std::to_string(one.processes),
               fixed(ns.median, 1), fixed(ns.min, 1), fixed(ns.max, 1),
               fixed(rate_spread(one).median, 0), tools::format_share(sums.hits, sums.reads),
               std::to_string(sums.failed_sets), fixed(100 * cpu_share(one), 0) + " %"});
  }
  return table;
}

Json json_of(const std::vector<Case>& cases, Json settings) {
  Json json{{"machine", machine()}, {"settings", std::move(settings)}, {"runs", Json::array()}};
  for (const Case& one : cases) json["runs"].push_back(json_of(one));
  if (cases.size() == 1) {
    // As a caller that wants one figure reads it.
    json["samples"] = json["runs"][0]["samples"];
    json["figure"] = json["runs"][0]["ns_per_op"]["median"];
    json["unit"] = "ns";
  }
  return json;
}

}  // namespace larder::bench
