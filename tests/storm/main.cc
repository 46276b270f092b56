// larder-storm: many processes do everything at once while they are killed, stopped, replaced and
// started again, and check every value that they read. See README.md.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/storm/director.h"
#include "tests/support/process.h"

namespace larder::storm {
namespace {

using Json = nlohmann::json;

constexpr int kSkipped = 77;  // as Meson understands it

Json report_of(const StormOptions& options, const Outcome& outcome, const Shared& shared) {
  Json deeds = Json::object();
  std::uint64_t longest_ms = 0;
  std::string longest_deed = "nothing";
  for (std::size_t i = 1; i < kDeeds; ++i) {
    const char* name = deed_name(static_cast<Deed>(i));
    std::uint64_t done = 0;
    for (const Seat& seat : shared.seats) {
      done += seat.done[i];
      if (seat.longest_ms[i] <= longest_ms) continue;
      longest_ms = seat.longest_ms[i];
      longest_deed = name;
    }
    deeds[name] = done;
  }
  Json complaints = Json::array();
  for (std::size_t i = 0; i < std::min<std::size_t>(shared.complaints, kComplaints); ++i) {
    complaints.push_back(shared.complaint[i]);
  }
  return {{"seed", options.seed},
          {"seconds", options.seconds},
          {"workers", options.workers},
          {"namespaces", options.namespaces},
          {"operations", deeds},
          {"kills", outcome.kills},
          {"ambushes", outcome.ambushes},
          {"stops", outcome.stops},
          {"long_stops", outcome.long_stops},
          {"replaced", outcome.replacements},
          {"exits", outcome.exits},
          {"pid_pairs", outcome.pid_pairs},
          {"takeovers", shared.takeovers.load()},
          {"wipes", shared.wipes.load()},
          {"wrong", shared.wrong.load()},
          {"faults", shared.faults.load()},
          {"crashes", outcome.crashes},
          {"stuck", outcome.stuck},
          {"leaks", shared.leaks.load()},
          {"longest_ms", longest_ms},
          {"longest_operation", longest_deed},
          {"complaints", complaints}};
}

void print(const Json& report) {
  for (const auto& text : report["complaints"])
    std::printf("%s\n", text.get<std::string>().c_str());
  for (const auto& [name, count] : report["operations"].items()) {
    std::printf("%-12s %12" PRIu64 "\n", name.c_str(), count.get<std::uint64_t>());
  }
  for (const char* figure :
       {"seed", "kills", "ambushes", "stops", "long_stops", "replaced", "exits", "pid_pairs",
        "takeovers", "wipes", "longest_ms", "wrong", "faults", "crashes", "stuck", "leaks"}) {
    std::printf("%-12s %12" PRIu64 "\n", figure, report[figure].get<std::uint64_t>());
  }
  std::printf("the longest operation of one that was not stopped: %s\n",
              report["longest_operation"].get<std::string>().c_str());
}

int storm(const StormOptions& options, bool json) {
  std::printf("seed %" PRIu64 "\n", options.seed);
  const test::TempDir folder;
  const int fd = create_shared();
  Shared& shared = map_shared(fd);
  const Life life{&shared,
                  fd,
                  folder.path(),
                  std::filesystem::read_symlink("/proc/self/exe").string(),
                  0,
                  options.workers,
                  options.seed};
  const Outcome outcome = direct(options, life);
  if (!outcome.refused.empty()) {
    std::printf("no PID namespaces here: %s\n", outcome.refused.c_str());
    return kSkipped;
  }
  const Json report = report_of(options, outcome, shared);
  if (json) {
    std::printf("%s\n", report.dump().c_str());
  } else {
    print(report);
  }
  const bool all_well = shared.wrong == 0 && shared.faults == 0 && shared.leaks == 0 &&
                        outcome.crashes == 0 && outcome.stuck == 0;
  return all_well ? 0 : 1;
}

}  // namespace
}  // namespace larder::storm

int main(int argc, char** argv) {
  using namespace larder::storm;
  StormOptions options;
  Life worker{};
  int as_worker = -1;
  bool json = false;
  CLI::App app("Processes that do everything at once while they are killed and stopped.");
  app.add_option("--seconds", options.seconds, "how long it lasts, by default 20");
  app.add_option("--workers", options.workers, "processes at once, by default 8")
      ->check(CLI::Range(2u, kMaxWorkers));
  app.add_option("--seed", options.seed, "of everything that is left to chance");
  app.add_flag("--namespaces", options.namespaces,
               "half of the workers in each of two PID namespaces, under the same pids");
  app.add_flag("--json", json, "the report as one JSON object");
  app.add_option("--as-worker", as_worker)->group("");
  app.add_option("--shared", worker.shared_fd)->group("");
  app.add_option("--folder", worker.folder)->group("");
  CLI11_PARSE(app, argc, argv);
  if (as_worker < 0) return storm(options, json);
  worker.shared = &map_shared(worker.shared_fd);
  worker.program = argv[0];
  worker.seat = static_cast<unsigned>(as_worker);
  worker.workers = options.workers;
  worker.seed = options.seed;
  _exit(work(worker));
}
