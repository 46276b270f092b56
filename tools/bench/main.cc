// larder-bench: how fast the cache of this host is, how well it uses its memory, and how both
// compare with what one would otherwise take.
//
// Start reading at bench.cc (what is measured in which order), then run.cc (who does what when),
// backend.h (what can be measured), workload.cc (which keys), report.cc.
#include "tools/bench/main.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "tools/bench/arguments.h"
#include "tools/bench/bench.h"
#include "tools/bench/memory.h"
#include "tools/bench/process.h"
#include "tools/bench/replay.h"
#include "tools/bench/steady.h"
#include "tools/shmctl/text.h"

namespace larder::bench {

enum Exit : int { kFine = 0, kFailed = 1, kUsage = 2, kInterrupted = 130 };

int exit_status_of(const Status& status) {
  if (interrupted()) return kInterrupted;
  if (!status.ok()) {
    std::fprintf(stderr, "larder-bench: %s\n", tools::escape(status.message()).c_str());
    return status.code() == Code::kInvalidArgument ? kUsage : kFailed;
  }
  return std::fflush(stdout) == 0 ? kFine : kFailed;
}

namespace {

Status measure(Arguments& a) {
  if (const std::string what = wrong(a); !what.empty()) {
    return {Code::kInvalidArgument, what + "\nRun with --help for more information."};
  }
  if (a.compare && std::find(a.backends.begin(), a.backends.end(), "larder") == a.backends.end()) {
    a.backends.insert(a.backends.begin(), "larder");
  }
  Bench bench(a);
  if (Status status = bench.run_all(); !status.ok()) return status;
  bench.print();
  return {};
}

void declare_measure(CLI::App& app, const char* name, const char* about, Arguments& arguments,
                     int& exit_status) {
  CLI::App* command = app.add_subcommand(name, about);
  declare(*command, arguments);
  command->callback([&] {
    install_interrupt_handlers();
    exit_status = exit_status_of(measure(arguments));
  });
}

// As CLI11 likes it: the last word first. Options alone belong to `run`.
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool helps = !words.empty() && (words[0] == "--help" || words[0] == "-h");
  if (words.empty() || (words[0].starts_with("-") && !helps)) words.insert(words.begin(), "run");
  std::reverse(words.begin(), words.end());
  return words;
}

int run_main(int argc, char** argv) {
  CLI::App app("Measures larder on this host, alone and beside what else one could use.",
               "larder-bench");
  app.require_subcommand(1);
  int exit_status = kFine;
  Arguments run;
  Arguments compare;
  compare.compare = true;
  declare_measure(app, "run", "Larder's local cache with N processes", run, exit_status);
  declare_measure(app, "compare", "The same, in turns with others", compare, exit_status);
  declare_memory(app, exit_status);
  declare_steady(app, exit_status);
  declare_replay(app, exit_status);
  try {
    app.parse(words_of(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kFine : kUsage;
  }
  return exit_status;
}

}  // namespace
}  // namespace larder::bench

int main(int argc, char** argv) {
  try {
    return larder::bench::run_main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "larder-bench: %s\n", error.what());
    return 1;
  }
}
