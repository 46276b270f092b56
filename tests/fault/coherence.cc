// larder-coherence: hosts of real processes write and read the same keys through a real Redis while
// everything breaks, and every read that was served as fresh is judged. See README.md.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/fault/director.h"
#include "tests/fault/duel.h"

namespace larder::fault {
namespace {

using Json = nlohmann::json;

constexpr double kBoundMs = 1000;     // Options::lease
constexpr double kHeartbeatMs = 200;  // a fifth of it

double percent(const Leases& leases) {
  return leases.looks == 0
             ? 100
             : 100 * static_cast<double>(leases.held) / static_cast<double>(leases.looks);
}

double oldest_ms(const CoherenceReport& report) {
  return static_cast<double>(report.judgement.oldest_ns) / 1e6;
}

Json violations_of(const CoherenceReport& report) {
  Json all = Json::array();
  if (!report.failure.empty()) all.push_back(report.failure);
  if (oldest_ms(report) > kBoundMs) {
    all.push_back("key " + std::to_string(report.judgement.oldest_key) + " was read " +
                  std::to_string(oldest_ms(report)) + " ms after it had been overwritten");
  }
  if (report.foreign_values > 0) all.push_back("values of other keys were read");
  if (report.differences > 0) all.push_back("hosts hold other values than Redis");
  if (report.equal_after_lease_ms > kHeartbeatMs) {
    all.push_back("hosts were not equal to Redis within a heartbeat of their leases");
  }
  if (report.crashes > 0) all.push_back("workers crashed");
  if (report.judgement.judged == 0) all.push_back("nothing was read");
  return all;
}

Json report_of(const CoherenceOptions& options, const CoherenceReport& report) {
  Json faults = Json::object();
  Json held = Json::object();
  for (std::size_t i = 0; i < kFaults; ++i) {
    const char* name = fault_name(static_cast<Fault>(i));
    if (i > 0) faults[name] = report.faults[i];
    if (report.leases[i].looks > 0) held[name] = percent(report.leases[i]);
  }
  return {{"seed", options.seed},
          {"seconds", options.seconds},
          {"calm_seconds", options.calm_seconds},
          {"every_ms", options.every_ms},
          {"reads_checked", report.fresh_reads},
          {"remote_reads", report.remote_reads},
          {"stale_reads", report.stale_reads},
          {"misses", report.misses},
          {"failed_reads", report.failed_reads},
          {"writes", report.judgement.writes},
          {"failed_writes", report.judgement.failed_writes},
          {"unheard_writes", report.judgement.unheard_writes},
          {"rows_judged", report.judgement.judged},
          {"rows_unjudged", report.judgement.unjudged},
          {"oldest_ms", oldest_ms(report)},
          {"oldest_during", fault_name(report.oldest_during)},
          {"lease_held_percent", held},
          {"faults", faults},
          {"epoch_raises", report.epoch_raises},
          {"leader_changes", report.leader_changes},
          {"lease_ms", report.lease_ms},
          {"equal_ms", report.equal_ms},
          {"equal_after_lease_ms", report.equal_after_lease_ms},
          {"keys_compared", report.held_keys},
          {"differences", report.differences},
          {"crashes", report.crashes},
          {"violations", violations_of(report)}};
}

void print(const Json& report) {
  std::printf("%-16s %8s %12s\n", "fault", "times", "lease held");
  for (const auto& [name, share] : report["lease_held_percent"].items()) {
    const std::uint64_t times = report["faults"].value(name, std::uint64_t{0});
    std::printf("%-16s %8" PRIu64 " %11.2f%%\n", name.c_str(), times, share.get<double>());
  }
  for (const char* figure :
       {"seed", "reads_checked", "remote_reads", "stale_reads", "misses", "failed_reads", "writes",
        "failed_writes", "unheard_writes", "rows_judged", "rows_unjudged", "epoch_raises",
        "leader_changes", "keys_compared", "differences", "crashes"}) {
    std::printf("%-16s %12" PRIu64 "\n", figure, report[figure].get<std::uint64_t>());
  }
  std::printf("the oldest fresh read: %.1f ms after the key was overwritten (%s)\n",
              report["oldest_ms"].get<double>(),
              report["oldest_during"].get<std::string>().c_str());
  std::printf(
      "healed: leases after %.1f ms, equal to Redis after %.1f ms, %.1f ms after the last "
      "lease\n",
      report["lease_ms"].get<double>(), report["equal_ms"].get<double>(),
      report["equal_after_lease_ms"].get<double>());
}

int finish(const Json& report, bool json) {
  if (json) std::printf("%s\n", report.dump().c_str());
  for (const auto& violation : report["violations"]) {
    std::fprintf(stderr, "violation: %s\n", violation.get<std::string>().c_str());
  }
  return report["violations"].empty() ? 0 : 1;
}

int coherence(const CoherenceOptions& options, bool json) {
  const Json report = report_of(options, run_coherence(options));
  if (!json) print(report);
  return finish(report, json);
}

int duel(const DuelReport& done, const char* what, bool json) {
  Json violations = Json::array();
  if (!done.failure.empty()) violations.push_back(done.failure);
  if (done.wrong > 0) violations.push_back(what);
  const Json report = {{"rounds", done.rounds},       {"met", done.met},
                       {"overtaken", done.overtaken}, {"compared", done.compared},
                       {"wrong", done.wrong},         {"seconds", done.seconds},
                       {"violations", violations}};
  if (!json) {
    std::printf("%" PRIu64 " rounds in %.1f s, of which %" PRIu64 " met (%" PRIu64
                " old values read); %" PRIu64 " values compared, %" PRIu64 " wrong\n",
                done.rounds, done.seconds, done.met, done.overtaken, done.compared, done.wrong);
  }
  return finish(report, json);
}

}  // namespace
}  // namespace larder::fault

int main(int argc, char** argv) {
  using namespace larder::fault;
  CoherenceOptions options;
  std::uint64_t crossing = 0;
  std::uint64_t late_fill = 0;
  bool json = false;
  CLI::App app("Hosts that write and read the same keys while network, Redis and workers break.");
  app.add_option("--seconds", options.seconds, "with a fault each second, by default 60");
  app.add_option("--calm-seconds", options.calm_seconds, "without faults, before; by default 30");
  app.add_option("--writes", options.writes_per_second, "each second by all, by default 1000");
  app.add_option("--every-ms", options.every_ms, "a fault, by default 1000")
      ->check(CLI::Range(1, 60'000));
  app.add_option("--seed", options.seed, "of everything that is left to chance");
  app.add_option("--crossing", crossing,
                 "instead: two hosts set one key at once, so many times; do they agree?");
  app.add_option("--late-fill", late_fill,
                 "instead: one host reads a key while another sets it, so many times");
  app.add_flag("--json", json, "the report as one JSON object");
  CLI11_PARSE(app, argc, argv);
  try {
    if (crossing > 0) return duel(cross(crossing), "hosts hold other values than Redis", json);
    if (late_fill > 0) return duel(fill_late(late_fill), "an old value was kept", json);
    return coherence(options, json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "larder-coherence: %s\n", error.what());
    return 2;
  }
}
