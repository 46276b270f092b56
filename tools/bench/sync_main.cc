// larder-sync-bench: what it costs to keep hosts in step, beside a program that does without.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "tools/bench/sync.h"

namespace larder::bench {
namespace {

using Measure = int (*)(const SyncArguments&);

int run_main(int argc, char** argv) {
  SyncArguments a;
  Measure chosen = nullptr;
  CLI::App app("Measures what goes between hosts, on a Redis of its own. Prints JSON.",
               "larder-sync-bench");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--directory", a.directory, "where segments lie")->capture_default_str();
  app.add_option("--runs", a.runs, "turns")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--count", a.count, "calls of each kind in a turn")->capture_default_str();
  app.add_option("--rate", a.rate, "sets a second")->capture_default_str();
  app.add_option("--value-bytes", a.value_bytes)->capture_default_str();
  app.add_option("--processes", a.processes)->capture_default_str();
  app.add_option("--seconds", a.seconds, "of a turn")->capture_default_str();
  app.add_flag("--msgpack", a.msgpack, "events as MessagePack");
  app.add_option("--outage", a.outage, "how Redis goes")->check(CLI::IsMember({"kill", "stop"}));
  const auto add = [&](const char* name, const char* what, Measure measure) {
    app.add_subcommand(name, what)->callback([&chosen, measure] { chosen = measure; });
  };
  add("latency", "from set to another host's memory", measure_latency);
  add("apply", "events a second that a leader applies", measure_apply);
  add("calls", "reads and sets that reach Redis", measure_calls);
  add("writers", "changes a second of many processes", measure_writers);
  add("outage", "local hits while Redis is gone", measure_outage);
  add("restart", "what is kept when all processes were gone", measure_restart);
  add("storm", "whether a host keeps up with many changes, or knows that it does not",
      measure_storm);
  CLI11_PARSE(app, argc, argv);
  install_interrupt_handlers();
  return chosen(a);
}

}  // namespace
}  // namespace larder::bench

int main(int argc, char** argv) {
  try {
    return larder::bench::run_main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "larder-sync-bench: %s\n", error.what());
    return 1;
  }
}
