// Reading order: declare_replay at the end, Replay::run_all, then the classes from the top.
#include "tools/bench/replay.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "tools/bench/reference_policies.h"
#include "tools/bench/replay_job.h"
#include "tools/bench/trace.h"
#include "tools/shmctl/text.h"

namespace larder::bench {
namespace {

using tools::Json;

enum Exit : int { kFine = 0, kFailed = 1, kInterrupted = 130 };

constexpr std::uint64_t kMaxEntries = 100'000'000;
constexpr std::int64_t kMaxProcesses = 256;

struct Arguments {
  std::vector<std::string> files;
  std::vector<std::uint64_t> entries;
  bool table = false;
  std::string folder;
  std::vector<std::string> policies{"lfu", "lru"};
  bool bytes = false;
  std::int64_t processes = 1;
  std::int64_t repeats = 1;
  std::int64_t jobs = 1;
  std::uint64_t seed = 1;
  std::string directory = "/dev/shm";
  bool json = false;
};

// The rows of --table: traces of databases, disks, sessions, and loops longer than the cache.
struct TableRow {
  const char* trace;
  std::uint64_t entries;
};
constexpr TableRow kTable[] = {
    {"arc-OLTP", 1000},     {"arc-OLTP", 2000},     {"arc-OLTP", 5000},     {"arc-P3", 50000},
    {"arc-P3", 100000},     {"scarab-recs", 12500}, {"scarab-recs", 50000}, {"c2k-orm-busy", 1250},
    {"c2k-orm-busy", 5000}, {"c2k-web07", 300},     {"c2k-web07", 1200},    {"lirs-gli", 1000},
    {"lirs-loop", 512},     {"lirs-multi1", 1000},  {"corda", 1024},        {"mix-stress", 512},
};

std::string fixed(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// ---- rows ---------------------------------------------------------------------------------------

struct Input {
  Trace trace;
  std::vector<std::uint32_t> sizes;  // of each number
  double mean_bytes = 0;
};

// What one replay through larder found.
struct Run {
  Outcome outcome;
  std::uint64_t entries_held = 0;
  Room room;

  double seconds() const { return static_cast<double>(outcome.ended_ns - outcome.began_ns) / 1e9; }
};

struct PolicyRuns {
  std::string name;
  std::deque<Run> runs;  // one a repeat
};

// One line: a trace and a capacity.
struct Row {
  const Input* input = nullptr;
  std::uint64_t entries = 0;
  std::uint64_t capacity_bytes = 0;        // 0: entries are counted
  std::optional<std::uint64_t> exact_lru;  // hits
  std::optional<std::uint64_t> optimum;    // hits
  std::vector<PolicyRuns> policies;
  std::optional<std::uint64_t> least_room;  // of the smallest segment, if that is too large
  std::size_t tasks_left = 0;

  std::string label() const { return input->trace.name + " @ " + std::to_string(entries); }
  double ratio(std::uint64_t hits) const {
    return static_cast<double>(hits) / static_cast<double>(input->trace.requests.size());
  }
};

// A row's figures by name, as ratios or nanoseconds: what lines and means are made of.
using Figures = std::map<std::string, double>;

constexpr const char* kExactLru = "exact_lru";
constexpr const char* kOptimum = "optimum";

Figures hit_ratios(const Row& row) {
  Figures figures;
  if (row.exact_lru) figures[kExactLru] = row.ratio(*row.exact_lru);
  if (row.optimum) figures[kOptimum] = row.ratio(*row.optimum);
  if (row.least_room) return figures;
  for (const PolicyRuns& policy : row.policies) {
    double sum = 0;
    for (const Run& run : policy.runs) sum += row.ratio(run.outcome.hits);
    figures[policy.name] = sum / static_cast<double>(policy.runs.size());
  }
  return figures;
}

Figures ns_per_request(const Row& row) {
  Figures figures;
  if (row.least_room) return figures;
  for (const PolicyRuns& policy : row.policies) {
    double seconds = 0;
    for (const Run& run : policy.runs) seconds += run.seconds();
    figures[policy.name] =
        seconds * 1e9 / static_cast<double>(policy.runs.size() * row.input->trace.requests.size());
  }
  return figures;
}

double seconds_of(const Row& row) {
  double seconds = 0;
  for (const PolicyRuns& policy : row.policies) {
    for (const Run& run : policy.runs) seconds += run.seconds();
  }
  return seconds;
}

// The mean of each figure over rows, none of which lacks it.
Figures means_of(const std::vector<Figures>& rows) {
  Figures means;
  for (const Figures& row : rows) {
    for (const auto& [name, value] : row) means[name] += value / static_cast<double>(rows.size());
  }
  return means;
}

// ---- output -------------------------------------------------------------------------------------

// Lines as they come; the columns' widths are known before.
class Printer {
 public:
  Printer(const Arguments& a, const std::deque<Row>& rows) : a_(a) {
    for (const Row& row : rows) name_width_ = std::max(name_width_, name_of(row).size());
  }

  void head() const {
    if (a_.json) return;
    std::printf("%s-counted, local only; processes %lld, repeats %lld, seed %llu%s\n\n",
                a_.bytes ? "byte" : "entry", static_cast<long long>(a_.processes),
                static_cast<long long>(a_.repeats), static_cast<unsigned long long>(a_.seed),
                a_.bytes ? "; the optimum for bytes is not computed" : "");
    std::vector<std::string> cells{"TRACE", "ENTRIES", "REQUESTS"};
    if (a_.bytes) cells.insert(cells.end(), {"CAPACITY", "ROOM"});
    for (const auto& policy : a_.policies) cells.push_back(upper(policy) + " %");
    cells.push_back("EXACT LRU %");
    if (!a_.bytes) cells.push_back("OPTIMUM %");
    for (const auto& policy : a_.policies) cells.push_back(upper(policy) + " NS");
    cells.push_back("SECONDS");
    print(cells);
  }

  void row(const Row& row) const {
    if (a_.json) {
      print(json_of(row));
      return;
    }
    std::vector<std::string> cells{name_of(row), std::to_string(row.entries),
                                   std::to_string(row.input->trace.requests.size())};
    if (a_.bytes) {
      cells.push_back(tools::format_bytes(row.capacity_bytes));
      cells.push_back(row.least_room ? "none" : room_share(row));
    }
    add_figures(cells, hit_ratios(row), ns_per_request(row));
    cells.push_back(row.least_room ? "-" : fixed(seconds_of(row), 2));
    print(cells);
  }

  void means(const std::deque<Row>& rows) const {
    std::vector<Figures> ratios;
    std::vector<Figures> times;
    std::vector<std::string> left_out;
    double seconds = 0;
    for (const Row& row : rows) {
      if (row.least_room) {
        left_out.push_back(row.label());
        continue;
      }
      ratios.push_back(hit_ratios(row));
      times.push_back(ns_per_request(row));
      seconds += seconds_of(row);
    }
    if (a_.json) {
      print(Json{{"means",
                  {{"counted", counted()},
                   {"rows", ratios.size()},
                   {"left_out", left_out},
                   {"hit_ratio", means_of(ratios)},
                   {"ns_per_request", means_of(times)},
                   {"seconds", seconds}}}});
      return;
    }
    std::vector<std::string> cells{"mean of " + std::to_string(ratios.size()), "", ""};
    if (a_.bytes) cells.insert(cells.end(), {"", ""});
    add_figures(cells, means_of(ratios), means_of(times));
    cells.push_back(fixed(seconds, 2));
    print(cells);
    for (const Row& row : rows) {
      if (row.least_room) std::printf("%s\n", too_small(row).c_str());
    }
  }

 private:
  static constexpr std::size_t kColumn = 11;

  const char* counted() const { return a_.bytes ? "bytes" : "entries"; }

  static std::string name_of(const Row& row) { return tools::escape(row.input->trace.name); }

  static std::string upper(std::string text) {
    for (char& c : text) c = static_cast<char>(c - 'a' + 'A');  // lfu, lru
    return text;
  }

  static std::string too_small(const Row& row) {
    return "left out: " + tools::escape(row.label()) + ": " +
           tools::format_bytes(row.capacity_bytes) +
           " are wanted, and the smallest segment that larder makes has room for " +
           tools::format_bytes(*row.least_room);
  }

  static std::string room_share(const Row& row) {
    if (row.policies.empty()) return "-";
    return tools::format_share(row.policies[0].runs[0].room.bytes, row.capacity_bytes);
  }

  void add_figures(std::vector<std::string>& cells, const Figures& ratios,
                   const Figures& times) const {
    const auto add = [&](const Figures& from, const std::string& name, double unit, int digits) {
      const auto found = from.find(name);
      cells.push_back(found == from.end() ? "-" : fixed(found->second * unit, digits));
    };
    for (const auto& policy : a_.policies) add(ratios, policy, 100, 2);
    add(ratios, kExactLru, 100, 2);
    if (!a_.bytes) add(ratios, kOptimum, 100, 2);
    for (const auto& policy : a_.policies) add(times, policy, 1, 0);
  }

  void print(const std::vector<std::string>& cells) const {
    std::string line = cells[0];
    line.resize(std::max(name_width_, line.size()), ' ');
    for (std::size_t i = 1; i < cells.size(); ++i) {
      line.append(kColumn + 1 - std::min(kColumn, cells[i].size()), ' ').append(cells[i]);
    }
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  static void print(const Json& json) {
    std::printf("%s\n", json.dump(-1, ' ', true).c_str());
    std::fflush(stdout);
  }

  Json json_of(const Row& row) const {
    const auto& requests = row.input->trace.requests;
    Json json{{"trace", tools::json_text(row.input->trace.name)},
              {"entries", row.entries},
              {"counted", counted()},
              {"requests", requests.size()},
              {"unique", row.input->trace.ids.size()},
              {"processes", a_.processes}};
    if (a_.bytes) {
      json["capacity_bytes"] = row.capacity_bytes;
      json["mean_item_bytes"] = row.input->mean_bytes;
      json["left_out"] = row.least_room.has_value();
      if (row.least_room) json["least_room_bytes"] = *row.least_room;
    }
    json["hit_ratio"] = hit_ratios(row);
    json["ns_per_request"] = ns_per_request(row);
    if (row.exact_lru) json["exact_lru_hits"] = *row.exact_lru;
    if (row.optimum) json["optimum_hits"] = *row.optimum;
    json["runs"] = Json::array();
    if (row.least_room) return json;
    for (const PolicyRuns& policy : row.policies) {
      for (std::size_t i = 0; i < policy.runs.size(); ++i) {
        json["runs"].push_back(json_of(policy.name, a_.seed + i, policy.runs[i]));
      }
    }
    return json;
  }

  Json json_of(const std::string& policy, std::uint64_t seed, const Run& run) const {
    Json json{{"policy", policy},
              {"seed", seed},
              {"requests", run.outcome.requests},
              {"hits", run.outcome.hits},
              {"seconds", run.seconds()},
              {"failed_sets", run.outcome.failed_sets},
              {"entries_held", run.entries_held},
              {"segment_bytes", run.room.segment_bytes}};
    if (a_.bytes) json["room_bytes"] = run.room.bytes;
    return json;
  }

  const Arguments& a_;
  std::size_t name_width_ = std::string("mean of 16").size();
};

// A word on stderr whenever something is done: rewritten in a terminal, else a line a row.
class Progress {
 public:
  explicit Progress(std::size_t rows) : rows_(rows), terminal_(isatty(STDERR_FILENO) == 1) {}
  ~Progress() { clear(); }

  void now(const Row& row, const std::string& what) const {
    if (!terminal_) return;
    std::fprintf(stderr, "\r\033[K%zu of %zu rows done; %s %s", done_, rows_,
                 tools::escape(row.label()).c_str(), what.c_str());
    std::fflush(stderr);
  }
  void done(const Row& row) {
    ++done_;
    clear();
    if (terminal_) return;
    std::fprintf(stderr, "larder-bench: replay: %zu of %zu: %s\n", done_, rows_,
                 tools::escape(row.label()).c_str());
  }

 private:
  // So that lines can be printed.
  void clear() const {
    if (terminal_) std::fputs("\r\033[K", stderr);
  }
  const std::size_t rows_;
  const bool terminal_;
  std::size_t done_ = 0;
};

// ---- work ---------------------------------------------------------------------------------------

// One thing to find out for a row, in processes of its own.
class Task {
 public:
  Task(Row& row, std::string what) : row_(row), what_(std::move(what)) { ++row_.tasks_left; }
  virtual ~Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  Row& row() const { return row_; }
  const std::string& what() const { return what_; }

  // Null: there is nothing to do.
  virtual Result<std::unique_ptr<Job>> start() = 0;
  // The job has ended and is no longer needed afterwards.
  virtual Status finish(const Outcome& outcome) = 0;

 private:
  Row& row_;
  const std::string what_;
};

// Computes one of the reference figures.
class ReferenceTask : public Task {
 public:
  using Compute = std::uint64_t (*)(const Row&);
  ReferenceTask(Row& row, std::string what, std::optional<std::uint64_t>& hits, Compute compute)
      : Task(row, std::move(what)), hits_(hits), compute_(compute) {}

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

std::uint64_t compute_exact_lru(const Row& row) {
  const Trace& trace = row.input->trace;
  if (row.capacity_bytes != 0) {
    return exact_byte_lru_hits(trace.requests, row.input->sizes, row.capacity_bytes);
  }
  return exact_lru_hits(trace.requests, static_cast<std::uint32_t>(trace.ids.size()), row.entries);
}

std::uint64_t compute_optimum(const Row& row) {
  const Trace& trace = row.input->trace;
  return optimum_hits(trace.requests, static_cast<std::uint32_t>(trace.ids.size()), row.entries);
}

// Replays through larder.
class LarderTask : public Task {
 public:
  LarderTask(const Arguments& a, SegmentFolder& folder, Row& row, const PolicyRuns& policy,
             Run& run, std::uint64_t seed)
      : Task(row, policy.name),
        folder_(folder),
        run_(run),
        policy_(policy.name == "lru" ? Policy::kLru : Policy::kLfu),
        processes_(static_cast<std::uint32_t>(a.processes)),
        seed_(seed) {}

  Result<std::unique_ptr<Job>> start() override {
    if (Status status = choose_room(); !status.ok()) return status;
    if (row().least_room) return std::unique_ptr<Job>();
    options_ = folder_.next_options();
    options_.policy = policy_;
    options_.segment_bytes = run_.room.segment_bytes;
    if (!sized()) options_.max_entries = row().entries;
    auto cache = Cache::open(options_);
    if (!cache) return cache.status();
    cache_.emplace(std::move(*cache));
    return Job::start(processes_, [this](Job::Shared& shared, Outcome& outcome) {
      return replay(*cache_, row().input->trace, seed_, sized(), shared, outcome);
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
    warn();
    return {};
  }

 private:
  bool sized() const { return row().capacity_bytes != 0; }

  Status choose_room() {
    if (row().least_room) return {};
    if (!sized()) {
      // Several times what an entry takes, so that only their number is a limit.
      constexpr std::uint64_t kAnEntry = 256;
      constexpr std::uint64_t kLeast = 4 << 20;
      run_.room.segment_bytes = std::max(kLeast, kAnEntry * row().entries);
      return {};
    }
    auto room = find_room(folder_, policy_, row().capacity_bytes);
    if (!room) return room.status();
    run_.room = *room;
    if (room->bytes > row().capacity_bytes) row().least_room = room->bytes;
    return {};
  }

  void warn() const {
    if (run_.outcome.failed_sets != 0) {
      std::fprintf(stderr, "larder-bench: warning: %s, %s: %llu sets waited too long for a lock\n",
                   tools::escape(row().label()).c_str(), what().c_str(),
                   static_cast<unsigned long long>(run_.outcome.failed_sets));
    }
    // A ratio that a larger cache made must not pass for a good policy's.
    const std::uint64_t tolerated = row().entries + row().entries / 50 + 1;
    if (!sized() && run_.entries_held > tolerated) {
      std::fprintf(stderr, "larder-bench: warning: %s, %s: holds %llu entries, more than asked\n",
                   tools::escape(row().label()).c_str(), what().c_str(),
                   static_cast<unsigned long long>(run_.entries_held));
    }
  }

  SegmentFolder& folder_;
  Run& run_;
  const Policy policy_;
  const std::uint32_t processes_;
  const std::uint64_t seed_;
  Options options_;
  std::optional<Cache> cache_;
};

// ---- the whole ----------------------------------------------------------------------------------

class Replay {
 public:
  explicit Replay(const Arguments& arguments) : a_(arguments) {}

  Status run_all() {
    if (Status status = make_rows(); !status.ok()) return status;
    auto folder = SegmentFolder::make(a_.directory);
    if (!folder) return folder.status();
    folder_ = std::move(*folder);
    for (Row& row : rows_) make_tasks(row);
    const Printer printer(a_, rows_);
    Progress progress(rows_.size());
    printer.head();
    if (Status status = run_tasks(printer, progress); !status.ok()) return status;
    if (interrupted()) return {};
    if (std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return !!row.least_room; })) {
      return {Code::kNoSpace, "no row fits: larder's smallest segment has room for " +
                                  tools::format_bytes(*rows_[0].least_room)};
    }
    printer.means(rows_);
    return {};
  }

  bool interrupted() { return signals_.interrupted(); }

 private:
  struct Running {
    std::unique_ptr<Task> task;
    std::unique_ptr<Job> job;
  };

  // --- rows ---

  Status make_rows() {
    if (!a_.table) {
      for (const auto& file : a_.files) {
        for (const std::uint64_t entries : a_.entries) {
          if (Status status = add_row(file, entries); !status.ok()) return status;
        }
      }
      return {};
    }
    for (const TableRow& row : kTable) {
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
      found = inputs_.emplace(file, input_of(std::move(*trace))).first;
    }
    Row& row = rows_.emplace_back();
    row.input = &found->second;
    row.entries = entries;
    if (a_.bytes) {
      row.capacity_bytes =
          static_cast<std::uint64_t>(row.input->mean_bytes * static_cast<double>(entries));
    }
    return {};
  }

  static Input input_of(Trace trace) {
    Input input{std::move(trace), {}, 0};
    for (const std::uint32_t id : input.trace.ids) input.sizes.push_back(item_bytes(id));
    input.mean_bytes = std::accumulate(input.sizes.begin(), input.sizes.end(), 0.0) /
                       static_cast<double>(input.sizes.size());
    return input;
  }

  void make_tasks(Row& row) {
    tasks_.push_back(
        std::make_unique<ReferenceTask>(row, "exact lru", row.exact_lru, &compute_exact_lru));
    if (!a_.bytes) {
      tasks_.push_back(
          std::make_unique<ReferenceTask>(row, "optimum", row.optimum, &compute_optimum));
    }
    for (const auto& name : a_.policies) row.policies.push_back({name, {}});
    for (PolicyRuns& policy : row.policies) {
      for (std::int64_t i = 0; i < a_.repeats; ++i) {
        Run& run = policy.runs.emplace_back();
        tasks_.push_back(std::make_unique<LarderTask>(a_, *folder_, row, policy, run,
                                                      a_.seed + static_cast<std::uint64_t>(i)));
      }
    }
  }

  // --- tasks ---

  Status run_tasks(const Printer& printer, Progress& progress) {
    std::deque<Running> running;
    std::size_t printed = 0;
    while (!interrupted()) {
      while (!tasks_.empty() && running.size() < static_cast<std::size_t>(a_.jobs)) {
        if (Status status = start_next(running, progress); !status.ok()) return status;
      }
      // Rows may be complete before those that come first.
      while (printed < rows_.size() && rows_[printed].tasks_left == 0) {
        progress.done(rows_[printed]);
        printer.row(rows_[printed++]);
      }
      if (std::ferror(stdout) != 0) return {Code::kUnavailable, "cannot write to the output"};
      if (running.empty() && tasks_.empty()) break;
      if (running.empty()) continue;
      if (!signals_.wait_for_child()) break;
      if (Status status = finish_ended(running); !status.ok()) return status;
    }
    return {};
  }

  Status start_next(std::deque<Running>& running, const Progress& progress) {
    std::unique_ptr<Task> task = std::move(tasks_.front());
    tasks_.pop_front();
    progress.now(task->row(), task->what());
    auto job = task->start();
    if (!job) return job.status();
    if (*job == nullptr) {
      --task->row().tasks_left;
      return {};
    }
    running.push_back({std::move(task), std::move(*job)});
    return {};
  }

  static Status finish_ended(std::deque<Running>& running) {
    for (auto each = running.begin(); each != running.end();) {
      if (!each->job->ended()) {
        ++each;
        continue;
      }
      auto outcome = each->job->outcome();
      if (!outcome) return outcome.status();
      if (Status status = each->task->finish(*outcome); !status.ok()) return status;
      --each->task->row().tasks_left;
      each = running.erase(each);
    }
    return {};
  }

  const Arguments& a_;
  Signals signals_;
  std::map<std::string, Input> inputs_;
  std::deque<Row> rows_;
  std::unique_ptr<SegmentFolder> folder_;
  std::deque<std::unique_ptr<Task>> tasks_;
};

int run_replay(const Arguments& arguments) {
  Replay replay(arguments);
  const Status status = replay.run_all();
  if (replay.interrupted()) return kInterrupted;
  if (!status.ok()) {
    std::fprintf(stderr, "larder-bench: %s\n", tools::escape(status.message()).c_str());
    return kFailed;
  }
  return std::fflush(stdout) == 0 ? kFine : kFailed;
}

void declare_options(CLI::App& app, Arguments& a) {
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
  app.add_option("--policy", a.policies, "of larder; none: only the references")
      ->delimiter(',')
      ->check(CLI::IsMember({"lfu", "lru", "none"}))
      ->capture_default_str();
  app.add_flag("--bytes", a.bytes, "the capacity is bytes: entries times the mean size");
  app.add_option("--processes", a.processes, "how many replay one trace together")
      ->check(CLI::Range(std::int64_t{1}, kMaxProcesses))
      ->capture_default_str();
  app.add_option("--repeats", a.repeats, "of each replay, with other keys each time")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000}))
      ->capture_default_str();
  app.add_option("--seed", a.seed, "part of each key: k<seed>:<id>, then seed + 1, ...")
      ->check(CLI::Range(std::uint64_t{0}, kMaxSeed - 1000))
      ->capture_default_str();
  app.add_option("--jobs", a.jobs, "replays at the same time; more than 1 disturbs times")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{256}))
      ->capture_default_str();
  app.add_option("--directory", a.directory, "where segments are made, a tmpfs")
      ->take_last()
      ->capture_default_str();
  app.add_flag("--json", a.json, "a line of JSON for each row, and one for the means");
}

// What CLI11 cannot check.
void check(Arguments& a) {
  if (!a.table && a.files.empty()) {
    throw CLI::RequiredError("--trace with --entries, or --table with --traces");
  }
  const auto none = std::remove(a.policies.begin(), a.policies.end(), "none");
  a.policies.erase(none, a.policies.end());
  std::sort(a.policies.begin(), a.policies.end());
  a.policies.erase(std::unique(a.policies.begin(), a.policies.end()), a.policies.end());
}

}  // namespace

void declare_replay(CLI::App& parent, int& exit_status) {
  CLI::App* const app = parent.add_subcommand(
      "replay", "Hit ratio on recorded traces, through the cache and a real segment, local only.");
  const auto arguments = std::make_shared<Arguments>();
  declare_options(*app, *arguments);
  app->callback([arguments, &exit_status] {
    check(*arguments);
    exit_status = run_replay(*arguments);
  });
  app->footer(
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
      "Exit status: 0 done; 1 failed, the message says why; 2 wrong usage; 130 interrupted.");
}

}  // namespace larder::bench
