#include "tools/bench/replay_task.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>

#include "larder/cache.h"
#include "tools/bench/arguments.h"
#include "tools/bench/reference_policies.h"
#include "tools/shmctl/text.h"

namespace larder::bench {

ReplayTask::ReplayTask(ReplayRow& row, std::string what) : row_(row), what_(std::move(what)) {
  ++row_.tasks_left;
}

namespace {

// ---- references ---------------------------------------------------------------------------------

// Computes one of the reference figures.
class ReferenceTask : public ReplayTask {
 public:
  using Compute = std::uint64_t (*)(const ReplayRow&);
  ReferenceTask(ReplayRow& row, std::string what, std::optional<std::uint64_t>& hits,
                Compute compute)
      : ReplayTask(row, std::move(what)), hits_(hits), compute_(compute) {}

  Result<std::unique_ptr<Job>> start() override {
    return Job::start(1, [this](Job::Shared&, Outcome& outcome) {
      outcome.hits = compute_(row());
      return Status();
    });
  }
  Status finish(const Outcome& outcome) override {
    hits_ = outcome.hits;
    return {};
  }

 private:
  std::optional<std::uint64_t>& hits_;
  const Compute compute_;
};

std::uint64_t compute_exact_lru(const ReplayRow& row) {
  const Trace& trace = row.input->trace;
  if (row.sized()) {
    return exact_byte_lru_hits(trace.requests, row.input->sizes, row.capacity_bytes);
  }
  return exact_lru_hits(trace.requests, static_cast<std::uint32_t>(trace.ids.size()), row.entries);
}

std::uint64_t compute_optimum(const ReplayRow& row) {
  const Trace& trace = row.input->trace;
  return optimum_hits(trace.requests, static_cast<std::uint32_t>(trace.ids.size()), row.entries);
}

// ---- larder -------------------------------------------------------------------------------------

// Replays through larder.
class LarderTask : public ReplayTask {
 public:
  LarderTask(const ReplayArguments& a, SegmentFolder& folder, ReplayRow& row,
             const std::string& policy, ReplayRun& run, std::uint64_t seed)
      : ReplayTask(row, policy),
        folder_(folder),
        run_(run),
        policy_(policy_of(policy)),
        processes_(static_cast<std::uint32_t>(a.processes)),
        seed_(seed) {}

  Result<std::unique_ptr<Job>> start() override {
    if (Status status = choose_room(); !status.ok()) return status;
    if (row().least_room) return std::unique_ptr<Job>();
    options_ = folder_.next_options();
    options_.policy = policy_;
    options_.segment_bytes = run_.room.segment_bytes;
    if (!row().sized()) options_.max_entries = row().entries;
    auto cache = Cache::open(options_);
    if (!cache) return cache.status();
    cache_.emplace(std::move(*cache));
    return Job::start(processes_, [this](Job::Shared& shared, Outcome& outcome) {
      return replay(*cache_, row().input->trace, seed_, row().sized(), shared, outcome);
    });
  }

  Status finish(const Outcome& outcome) override {
    run_.outcome = outcome;
    run_.entries_held = cache_->stats().entries;
    cache_.reset();
    folder_.remove(options_);
    if (outcome.wrong_values != 0) {
      return {Code::kInternal, row().label() + ": " + std::to_string(outcome.wrong_values) +
                                   " reads returned another key's value: a defect of larder"};
    }
    warn_of_failed_sets();
    warn_of_many_entries();
    return {};
  }

 private:
  Status choose_room() {
    if (row().least_room) return {};
    if (!row().sized()) {
      run_.room.segment_bytes = ample_room();
      return {};
    }
    auto room = find_room(folder_, policy_, row().capacity_bytes);
    if (!room) return room.status();
    run_.room = *room;
    if (room->bytes > row().capacity_bytes) row().least_room = room->bytes;
    return {};
  }

  // Several times what an entry takes, so that only their number is a limit.
  std::uint64_t ample_room() const {
    constexpr std::uint64_t kAnEntry = 256;
    constexpr std::uint64_t kLeast = 4 << 20;
    return std::max(kLeast, kAnEntry * row().entries);
  }

  void warn_of_failed_sets() const {
    if (run_.outcome.failed_sets == 0) return;
    std::fprintf(stderr, "larder-bench: warning: %s, %s: %llu sets waited too long for a lock\n",
                 tools::escape(row().label()).c_str(), what().c_str(),
                 static_cast<unsigned long long>(run_.outcome.failed_sets));
  }

  // A ratio that a larger cache made must not pass for a good policy's.
  void warn_of_many_entries() const {
    const std::uint64_t tolerated = row().entries + row().entries / 50 + 1;
    if (row().sized() || run_.entries_held <= tolerated) return;
    std::fprintf(stderr, "larder-bench: warning: %s, %s: holds %llu entries, more than asked\n",
                 tools::escape(row().label()).c_str(), what().c_str(),
                 static_cast<unsigned long long>(run_.entries_held));
  }

  SegmentFolder& folder_;
  ReplayRun& run_;
  const Policy policy_;
  const std::uint32_t processes_;
  const std::uint64_t seed_;
  Options options_;
  std::optional<Cache> cache_;
};

}  // namespace

// ---- all of them --------------------------------------------------------------------------------

void ReplayTasks::add(ReplayRow& row) {
  waiting_.push_back(
      std::make_unique<ReferenceTask>(row, "exact lru", row.exact_lru, &compute_exact_lru));
  if (!a_.bytes) {
    waiting_.push_back(
        std::make_unique<ReferenceTask>(row, "optimum", row.optimum, &compute_optimum));
  }
  for (const auto& name : a_.policies) row.policies.push_back({name, {}});
  for (PolicyRuns& policy : row.policies) {
    for (std::int64_t i = 0; i < a_.repeats; ++i) {
      ReplayRun& run = policy.runs.emplace_back();
      waiting_.push_back(std::make_unique<LarderTask>(a_, folder_, row, policy.name, run,
                                                      a_.seed + static_cast<std::uint64_t>(i)));
    }
  }
}

Status ReplayTasks::start_some(const ReplayProgress& progress) {
  while (!waiting_.empty() && running_.size() < static_cast<std::size_t>(a_.jobs)) {
    if (Status status = start_next(progress); !status.ok()) return status;
  }
  return {};
}

Status ReplayTasks::start_next(const ReplayProgress& progress) {
  std::unique_ptr<ReplayTask> task = std::move(waiting_.front());
  waiting_.pop_front();
  progress.now(task->row(), task->what());
  auto job = task->start();
  if (!job) return job.status();
  if (*job == nullptr) {
    --task->row().tasks_left;
    return {};
  }
  running_.push_back({std::move(task), std::move(*job)});
  return {};
}

Status ReplayTasks::finish_ended() {
  for (auto each = running_.begin(); each != running_.end();) {
    if (!each->job->ended()) {
      ++each;
      continue;
    }
    auto outcome = each->job->outcome();
    if (!outcome) return outcome.status();
    if (Status status = each->task->finish(*outcome); !status.ok()) return status;
    --each->task->row().tasks_left;
    each = running_.erase(each);
  }
  return {};
}

}  // namespace larder::bench
