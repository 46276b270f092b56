// larder-handover: what a leader or a writer that dies or stops costs the others, in figures.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/leader/handover.h"
#include "tests/leader/stopped.h"

namespace larder::leader {
namespace {

using Json = nlohmann::json;

struct Arguments {
  unsigned kills = 200;
  unsigned stops = 10;
  unsigned read_turns = 15;
  unsigned write_turns = 15;
  std::uint64_t seed = 1;
};

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

void print(const char* what, const std::vector<double>& values, const char* unit) {
  std::printf("%s: %zu turns; min %.3g, p50 %.3g, p90 %.3g, p99 %.3g, max %.3g %s\n", what,
              values.size(), quantile(values, 0), quantile(values, 0.5), quantile(values, 0.9),
              quantile(values, 0.99), quantile(values, 1), unit);
  std::fflush(stdout);
}

Json as_json(const Handovers& seen) {
  return {{"ms", seen.ms},
          {"stale_term_writes", seen.stale_term_writes},
          {"stale_term_refused", seen.stale_term_refused},
          {"leader_changes", seen.leader_changes}};
}

Json readers(unsigned turns) {
  Json ratios = Json::array();
  for (const ReadTurn& turn : read_beside_stopped_writer(turns)) {
    ratios.push_back(turn.stopped_ns / turn.quiet_ns);
    std::printf("p99.9 of a get: %.0f ns quiet, %.0f ns beside a writer stopped in the lock\n",
                turn.quiet_ns, turn.stopped_ns);
  }
  print("p99.9 of a get, stopped over quiet", ratios, "times");
  return ratios;
}

Json run(const Arguments& arguments) {
  Json all;
  all["readers"] = readers(arguments.read_turns);
  const auto beyond = write_behind_stopped_writer_ms(arguments.write_turns);
  print("the longest wait of a writer behind a stopped one, beyond its bound", beyond, "ms");
  all["writers_ms"] = beyond;
  const Handovers killed = kill_leaders(arguments.kills, arguments.seed);
  print("handover after SIGKILL", killed.ms, "ms");
  all["kill"] = as_json(killed);
  const Handovers stopped = stop_leaders(arguments.stops, arguments.seed);
  print("handover after SIGSTOP", stopped.ms, "ms");
  all["stop"] = as_json(stopped);
  return all;
}

}  // namespace
}  // namespace larder::leader

int main(int argc, char** argv) {
  larder::leader::Arguments arguments;
  CLI::App app("Kills and stops leaders and writers, and measures what that costs the others.");
  app.add_option("--kills", arguments.kills, "leaders to kill");
  app.add_option("--stops", arguments.stops, "leaders to stop");
  app.add_option("--read-turns", arguments.read_turns, "of readers beside a stopped writer");
  app.add_option("--write-turns", arguments.write_turns, "of writers behind a stopped writer");
  app.add_option("--seed", arguments.seed, "of what is chosen by chance");
  CLI11_PARSE(app, argc, argv);
  try {
    std::printf("%s\n", larder::leader::run(arguments).dump().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "larder-handover: %s\n", error.what());
    return 2;
  }
}
