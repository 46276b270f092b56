// The work of a replay: for each row its reference figures and its runs through larder, each a task
// of its own in forked processes, so many at the same time as --jobs says.
//
// Threads: none. Crash: what runs is killed with ReplayTasks.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>

#include "larder/status.h"
#include "tools/bench/replay_arguments.h"
#include "tools/bench/replay_job.h"
#include "tools/bench/replay_print.h"
#include "tools/bench/replay_row.h"

namespace larder::bench {

// One thing to find out for a row, in processes of its own. A row knows how many it still has.
class ReplayTask {
 public:
  ReplayTask(ReplayRow& row, std::string what);
  virtual ~ReplayTask() = default;
  ReplayTask(const ReplayTask&) = delete;
  ReplayTask& operator=(const ReplayTask&) = delete;

  ReplayRow& row() const { return row_; }
  const std::string& what() const { return what_; }

  // Null: there is nothing to do.
  virtual Result<std::unique_ptr<Job>> start() = 0;
  // The job has ended and is no longer needed afterwards.
  virtual Status finish(const Outcome& outcome) = 0;

 private:
  ReplayRow& row_;
  const std::string what_;
};

// Tasks that wait and tasks that run. Arguments, folder and rows outlive it.
class ReplayTasks {
 public:
  ReplayTasks(const ReplayArguments& arguments, SegmentFolder& folder)
      : a_(arguments), folder_(folder) {}

  // All that is to be found out for a row, in whose place the results will be.
  void add(ReplayRow& row);

  // Starts what may run now. Forks.
  Status start_some(const ReplayProgress& progress);
  // Of the tasks that run, takes the results of those that ended.
  Status finish_ended();

  bool any_runs() const { return !running_.empty(); }
  bool done() const { return waiting_.empty() && running_.empty(); }

 private:
  struct Running {
    std::unique_ptr<ReplayTask> task;
    std::unique_ptr<Job> job;
  };
  Status start_next(const ReplayProgress& progress);

  const ReplayArguments& a_;
  SegmentFolder& folder_;
  std::deque<std::unique_ptr<ReplayTask>> waiting_;
  std::deque<Running> running_;
};

}  // namespace larder::bench
