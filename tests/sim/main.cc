// larder-sim: the protocol under every fault, in virtual time.
//
//   larder-sim --runs 100000 --jobs 2     seeds 1 to 100000; fails when a run does
//   larder-sim --replay 4711              one run, telling what happens
//   larder-sim --replay 4711 --shrink     the same of the few steps that matter
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/sim/base.h"
#include "tests/sim/jobs.h"
#include "tests/sim/run.h"
#include "tests/sim/scenario.h"
#include "tests/sim/shrink.h"
#include "tests/sim/summary.h"

namespace larder::sim {
namespace {

struct Arguments {
  std::uint64_t runs = 1000;
  std::uint64_t first = 1;
  unsigned jobs = 1;
  std::uint64_t replayed = 0;
  bool shrinks = false;
  bool json = false;
  bool stops = false;
  bool lists = false;
  bool base = false;
  std::string scenario;
  std::string without;
  RunOptions run;
};

// From so many runs on, what happens too seldom is a fault of the simulator.
constexpr std::uint64_t kRunsForFaults = 1000;
constexpr std::uint64_t kRunsForTransitions = 5000;
constexpr double kFaultPercentLeast = 5;

int tell(const Outcome& outcome) {
  for (const Violation& each : outcome.violations) std::printf("FAILED %s\n", each.what.c_str());
  return outcome.violations.empty() ? 0 : 1;
}

int replay(const Arguments& arguments) {
  Ground ground;
  Coverage unused;
  const std::uint64_t seed = arguments.replayed;
  RunOptions options = arguments.run;
  const auto steps =
      arguments.shrinks ? shrunk(ground, seed, options) : steps_of(seed, options.steps);
  options.tells = true;
  std::printf("seed %" PRIu64 ", %zu steps\n", seed, steps.size());
  return tell(run(ground, unused, seed, steps, options));
}

// What the lowest seeds that failed say, once more.
void show_failures(const Summary& summary, const RunOptions& options) {
  if (summary.failed == 0) return;
  Ground ground;
  Coverage unused;
  for (std::size_t i = 0; i < summary.seeds_shown(); ++i) {
    const std::uint64_t seed = summary.failed_seeds[i];
    const Outcome again = run(ground, unused, seed, steps_of(seed, options.steps), options);
    std::printf(
        "seed %" PRIu64 ": %s\n", seed,
        again.violations.empty() ? "does not fail again" : again.violations.front().what.c_str());
  }
}

// What the simulator should have reached and has not.
int show_gaps(const Summary& summary) {
  int gaps = 0;
  for (unsigned i = 0; i < kFaults && summary.runs >= kRunsForFaults; ++i) {
    if (summary.share(summary.faults[i]) >= kFaultPercentLeast) continue;
    std::printf("too seldom: %s\n", std::string(fault_name(static_cast<Fault>(i))).c_str());
    ++gaps;
  }
  if (summary.runs < kRunsForTransitions) return gaps;
  for (const std::string& each : summary.coverage.unexpected()) {
    std::printf("%s\n", each.c_str());
    ++gaps;
  }
  return gaps;
}

// For mutants: is there a seed that fails?
int run_until_failure(const Arguments& arguments) {
  Ground ground;
  Coverage unused;
  for (std::uint64_t seed = arguments.first; seed < arguments.first + arguments.runs; ++seed) {
    const Outcome outcome =
        run(ground, unused, seed, steps_of(seed, arguments.run.steps), arguments.run);
    if (outcome.violations.empty()) continue;
    std::printf("seed %" PRIu64 ": %s\n", seed, outcome.violations.front().what.c_str());
    return 1;
  }
  return 0;
}

int run_many(const Arguments& arguments) {
  const Summary summary = run_all(arguments.first, arguments.runs, arguments.jobs, arguments.run);
  show_failures(summary, arguments.run);
  const int gaps = show_gaps(summary);
  if (arguments.json) {
    std::printf("%s\n", as_json(summary).c_str());
  } else {
    print(summary);
  }
  return summary.failed == 0 && gaps == 0 ? 0 : 1;
}

Cures cures_without(std::string_view name) {
  Cures cures;
  for (const Cure& cure : kCures) {
    if (cure.name == name) cures.*cure.member = false;
  }
  return cures;
}

// Fails where the algorithm keeps a promise: then this world would be too kind, or the checker.
int run_base_library(const Arguments& arguments) {
  RunOptions options = arguments.run;
  options.library = Library::kBase;
  const Summary summary = run_all(arguments.first, arguments.runs, arguments.jobs, options);
  int kept = 0;
  for (unsigned i = 0; i < kProperties; ++i) {
    const auto property = static_cast<Property>(i);
    if (property == Property::kExpired) continue;  // it knows no expiry
    kept += summary.violated[i] == 0;
    std::printf("%-10s fails in %6.2f %% of the runs, first with seed %" PRIu64 "\n",
                std::string(property_name(property)).c_str(), summary.share(summary.violated[i]),
                summary.violated_first[i]);
  }
  for (const Race race : {Race::kCrossing, Race::kLateFill}) {
    std::uint64_t stale = 0;
    for (std::uint64_t s = 0; s < arguments.runs; ++s) {
      stale += race_ends_stale(race, arguments.first + s);
    }
    kept += stale == 0;
    std::printf("%s, without a fault: a stale value is kept in %.2f %% of the runs\n",
                race == Race::kCrossing ? "crossing writers" : "a late fill", summary.share(stale));
  }
  return kept == 0 ? 0 : 1;
}

// Each must pass, and fail without its cure where that is the driver's.
int play_scenarios(const Arguments& arguments) {
  Ground ground;
  int wrong = 0;
  bool found = false;
  for (const Scenario& each : scenarios()) {
    const bool alone = each.name == arguments.scenario;
    if (!alone && arguments.scenario != "all") continue;
    found = true;
    const auto violations = play(ground, each, arguments.run.cures, alone);
    const bool fails = !violations.empty();
    const bool fails_without =
        each.cure.empty() || !play(ground, each, cures_without(each.cure), false).empty();
    std::printf("%-22s %s%s\n", std::string(each.name).c_str(),
                fails ? violations.front().what.c_str() : "passes",
                fails_without ? "" : ", but passes without its cure too");
    wrong += fails || !fails_without;
  }
  if (!found) std::fprintf(stderr, "larder-sim: no such scenario; see --list\n");
  return wrong == 0 && found ? 0 : 1;
}

int list_scenarios() {
  for (const Scenario& each : scenarios()) {
    std::printf("%-22s %-24s %s\n", std::string(each.name).c_str(), std::string(each.cure).c_str(),
                std::string(each.text).c_str());
  }
  return 0;
}

int main_of(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("The protocol under every fault, in virtual time");
  app.add_option("--runs", arguments.runs, "how many, each with the next seed");
  app.add_option("--seed", arguments.first, "of the first");
  app.add_option("--steps", arguments.run.steps, "of a run");
  app.add_option("--jobs", arguments.jobs, "processes that share the runs")
      ->check(CLI::Range(1, 64));
  app.add_option("--replay", arguments.replayed, "tell what happens in the run of this seed");
  app.add_flag("--shrink", arguments.shrinks, "with --replay: of the steps that matter alone");
  std::vector<std::string> cures;
  for (const Cure& cure : kCures) cures.emplace_back(cure.name);
  app.add_option("--without", arguments.without, "what the driver does right, left out")
      ->check(CLI::IsMember(cures));
  std::string library = "larder";
  app.add_option("--library", library, "whose algorithm")->check(CLI::IsMember({"larder", "base"}));
  app.add_option("--scenario", arguments.scenario, "play this one, or all");
  app.add_flag("--list", arguments.lists,
               "the scenarios, and those of their cures that --without knows");
  app.add_flag("--stop", arguments.stops, "at the first run that fails");
  app.add_flag("--json", arguments.json, "the sum as a line of JSON");
  CLI11_PARSE(app, argc, argv);
  arguments.base = library == "base";
  arguments.run.cures = cures_without(arguments.without);
  if (arguments.lists) return list_scenarios();
  if (!arguments.scenario.empty()) return play_scenarios(arguments);
  if (arguments.replayed != 0) return replay(arguments);
  if (arguments.base) return run_base_library(arguments);
  return arguments.stops ? run_until_failure(arguments) : run_many(arguments);
}

}  // namespace
}  // namespace larder::sim

int main(int argc, char** argv) { return larder::sim::main_of(argc, argv); }
