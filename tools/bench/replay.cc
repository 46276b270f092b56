// Reading order: this file, what is done in which order; replay_arguments.h, what it is asked for;
// replay_row.h, what is found out; replay_task.cc, how; replay_print.cc, how it is shown.
#include "tools/bench/replay.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "tools/bench/replay_arguments.h"
#include "tools/bench/replay_job.h"
#include "tools/bench/replay_print.h"
#include "tools/bench/replay_row.h"
#include "tools/bench/replay_task.h"
#include "tools/bench/trace.h"
#include "tools/shmctl/text.h"

namespace larder::bench {
namespace {

enum Exit : int { kFine = 0, kFailed = 1, kInterrupted = 130 };

class Replay {
 public:
  explicit Replay(const ReplayArguments& arguments) : a_(arguments) {}

  Status run_all() {
    if (Status status = make_rows(); !status.ok()) return status;
    auto folder = SegmentFolder::make(a_.directory);
    if (!folder) return folder.status();
    ReplayTasks tasks(a_, **folder);
    for (ReplayRow& row : rows_) tasks.add(row);
    const ReplayPrinter printer(a_, rows_);
    printer.head();
    if (Status status = run(tasks, printer); !status.ok()) return status;
    if (interrupted()) return {};
    if (none_fits()) {
      return {Code::kNoSpace, "no row fits: larder's smallest segment has room for " +
                                  tools::format_bytes(*rows_[0].least_room)};
    }
    printer.means(rows_);
    return {};
  }

  bool interrupted() { return signals_.interrupted(); }

 private:
  Status make_rows() { return a_.table ? make_table_rows() : make_asked_rows(); }

  Status make_asked_rows() {
    for (const auto& file : a_.files) {
      for (const std::uint64_t entries : a_.entries) {
        if (Status status = add_row(file, entries); !status.ok()) return status;
      }
    }
    return {};
  }

  Status make_table_rows() {
    for (const TableRow& row : kReplayTable) {
      auto file = find_trace(a_.folder, row.trace);
      if (!file) return file.status();
      if (Status status = add_row(*file, row.entries); !status.ok()) return status;
    }
    return {};
  }

  Status add_row(const std::string& file, std::uint64_t entries) {
    auto found = inputs_.find(file);
    if (found == inputs_.end()) {
      auto trace = read_trace(file);
      if (!trace) return trace.status();
      found = inputs_.emplace(file, ReplayInput(std::move(*trace))).first;
    }
    ReplayRow& row = rows_.emplace_back();
    row.input = &found->second;
    row.entries = entries;
    if (a_.bytes) {
      row.capacity_bytes =
          static_cast<std::uint64_t>(row.input->mean_bytes * static_cast<double>(entries));
    }
    return {};
  }

  Status run(ReplayTasks& tasks, const ReplayPrinter& printer) {
    ReplayProgress progress(rows_.size());
    std::size_t printed = 0;
    while (!interrupted()) {
      if (Status status = tasks.start_some(progress); !status.ok()) return status;
      // Rows may be complete before those that come first.
      while (printed < rows_.size() && rows_[printed].tasks_left == 0) {
        progress.done(rows_[printed]);
        printer.row(rows_[printed++]);
      }
      if (std::ferror(stdout) != 0) return {Code::kUnavailable, "cannot write to the output"};
      if (tasks.done()) break;
      if (!tasks.any_runs()) continue;
      if (!signals_.wait_for_child()) break;
      if (Status status = tasks.finish_ended(); !status.ok()) return status;
    }
    return {};
  }

  bool none_fits() const {
    return std::all_of(rows_.begin(), rows_.end(),
                       [](const ReplayRow& row) { return row.least_room.has_value(); });
  }

  const ReplayArguments& a_;
  Signals signals_;
  std::map<std::string, ReplayInput> inputs_;  // by file
  std::deque<ReplayRow> rows_;
};

int run_replay(const ReplayArguments& arguments) {
  Replay replay(arguments);
  const Status status = replay.run_all();
  if (replay.interrupted()) return kInterrupted;
  if (!status.ok()) {
    std::fprintf(stderr, "larder-bench: %s\n", tools::escape(status.message()).c_str());
    return kFailed;
  }
  return std::fflush(stdout) == 0 ? kFine : kFailed;
}

}  // namespace

void declare_replay(CLI::App& parent, int& exit_status) {
  CLI::App* const app = parent.add_subcommand(
      "replay", "Hit ratio on recorded traces, through the cache and a real segment, local only.");
  const auto arguments = std::make_shared<ReplayArguments>();
  declare(*app, *arguments);
  app->callback([arguments, &exit_status] {
    settle(*arguments);
    exit_status = run_replay(*arguments);
  });
}

}  // namespace larder::bench
