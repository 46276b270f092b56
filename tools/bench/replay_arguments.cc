#include "tools/bench/replay_arguments.h"

#include <algorithm>

#include "tools/bench/arguments.h"
#include "tools/bench/replay_job.h"

namespace larder::bench {
namespace {

constexpr std::uint64_t kMaxEntries = 100'000'000;

constexpr const char* kFooter =
    "A request is get; on a miss, set. The cache starts cold, and every hit's value is checked.\n"
    "EXACT LRU and OPTIMUM (Belady's, which may also leave out what it just fetched) are\n"
    "computed, not measured. Entry-counted: values of 8 bytes, the cache limited to so many\n"
    "entries, in a segment with ample room. With --bytes: key and value of an id have together\n"
    "100 to 4096 bytes, evenly spread by a hash of the id: 100 + mix(id) mod 3997, mix being\n"
    "SplitMix64's first output for the seed id. The capacity is --entries times the mean size\n"
    "over the trace's ids; the segment is the one whose room for entries, headers included, is\n"
    "nearest below it. A row smaller than larder's smallest segment is left out of the means.\n"
    "NS: time from the first request to the last end, a request, making its key included.\n"
    "\n"
    "--table: arc-OLTP at 1000, 2000, 5000; arc-P3 at 50000, 100000; scarab-recs at 12500,\n"
    "50000; c2k-orm-busy at 1250, 5000; c2k-web07 at 300, 1200; lirs-gli at 1000; lirs-loop at\n"
    "512; lirs-multi1 at 1000; corda at 1024; mix-stress at 512. Files: NAME.u32[.zst].\n"
    "\n"
    "Exit status: 0 done; 1 failed, the message says why; 2 wrong usage; 130 interrupted.";

// Either traces and capacities, or the table.
void declare_rows(CLI::App& app, ReplayArguments& a) {
  auto* const files =
      app.add_option("--trace", a.files, "a trace: little-endian 32-bit ids, with .zst compressed");
  auto* const entries = app.add_option("--entries", a.entries, "capacities, e.g. 1000,2000")
                            ->delimiter(',')
                            ->check(CLI::Range(std::uint64_t{1}, kMaxEntries));
  auto* const folder = app.add_option("--traces", a.folder, "the folder of --table's traces");
  auto* const table =
      app.add_flag("--table", a.table, "sixteen rows of ten published traces, see below");
  files->needs(entries)->excludes(table);
  entries->needs(files)->excludes(table);
  table->needs(folder);
  folder->needs(table);
}

}  // namespace

void declare(CLI::App& app, ReplayArguments& a) {
  declare_rows(app, a);
  add_list(app, "--policy", a.policies, "of larder; none: only the references",
           CLI::IsMember({"lfu", "lru", "none"}));
  app.add_flag("--bytes", a.bytes, "the capacity is bytes: entries times the mean size");
  add_processes(app, a.processes, "how many replay one trace together");
  add_repeats(app, a.repeats, "of each replay, with other keys each time");
  add_one(app, "--seed", a.seed, "part of each key: k<seed>:<id>, then seed + 1, ...",
          CLI::Range(std::uint64_t{0}, kMaxSeed - 1000));
  add_one(app, "--jobs", a.jobs, "replays at the same time; more than 1 disturbs times",
          CLI::Range(std::int64_t{1}, std::int64_t{256}));
  add_directory(app, a.directory, "where segments are made, a tmpfs");
  app.add_flag("--json", a.json, "a line of JSON for each row, and one for the means");
  app.footer(kFooter);
}

void settle(ReplayArguments& a) {
  if (!a.table && a.files.empty()) {
    throw CLI::RequiredError("--trace with --entries, or --table with --traces");
  }
  const auto none = std::remove(a.policies.begin(), a.policies.end(), "none");
  a.policies.erase(none, a.policies.end());
  std::sort(a.policies.begin(), a.policies.end());
  a.policies.erase(std::unique(a.policies.begin(), a.policies.end()), a.policies.end());
}

}  // namespace larder::bench
