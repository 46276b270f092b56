#include "tools/bench/replay_print.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "tools/bench/report.h"

namespace larder::bench {

using tools::Json;

namespace {

std::string name_of(const ReplayRow& row) { return tools::escape(row.input->trace.name); }

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(c - 'a' + 'A');  // lfu, lru
  return text;
}

std::string too_small(const ReplayRow& row) {
  return "left out: " + tools::escape(row.label()) + ": " +
         tools::format_bytes(row.capacity_bytes) +
         " are wanted, and the smallest segment that larder makes has room for " +
         tools::format_bytes(*row.least_room);
}

std::string room_share(const ReplayRow& row) {
  if (row.least_room) return "none";
  if (row.policies.empty()) return "-";
  return tools::format_share(row.policies[0].runs[0].room.bytes, row.capacity_bytes);
}

void print_line(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}
void print_line(const Json& json) { print_line(json.dump(-1, ' ', true)); }

}  // namespace

// Of the rows that fit.
struct ReplayPrinter::Means {
  explicit Means(const std::deque<ReplayRow>& rows) {
    for (const ReplayRow& row : rows) add(row);
  }

  std::vector<Figures> ratios;
  std::vector<Figures> times;
  std::vector<std::string> left_out;
  double seconds = 0;

 private:
  void add(const ReplayRow& row) {
    if (row.least_room) {
      left_out.push_back(row.label());
      return;
    }
    ratios.push_back(row.hit_ratios());
    times.push_back(row.ns_per_request());
    seconds += row.seconds();
  }
};

ReplayPrinter::ReplayPrinter(const ReplayArguments& arguments, const std::deque<ReplayRow>& rows)
    : a_(arguments), name_width_(std::string("mean of 16").size()) {
  for (const ReplayRow& row : rows) name_width_ = std::max(name_width_, name_of(row).size());
}

void ReplayPrinter::head() const {
  if (a_.json) return;
  std::printf("%s-counted, local only; processes %lld, repeats %lld, seed %llu%s\n\n",
              a_.bytes ? "byte" : "entry", static_cast<long long>(a_.processes),
              static_cast<long long>(a_.repeats), static_cast<unsigned long long>(a_.seed),
              a_.bytes ? "; the optimum for bytes is not computed" : "");
  print(titles());
}

void ReplayPrinter::row(const ReplayRow& row) const {
  if (a_.json) {
    print_line(json_of(row));
  } else {
    print(cells_of(row));
  }
}

void ReplayPrinter::means(const std::deque<ReplayRow>& rows) const {
  const Means means(rows);
  if (a_.json) {
    print_line(json_of(means));
    return;
  }
  print(cells_of(means));
  for (const ReplayRow& row : rows) {
    if (row.least_room) std::printf("%s\n", too_small(row).c_str());
  }
}

// ---- the table ----------------------------------------------------------------------------------

ReplayPrinter::Cells ReplayPrinter::titles() const {
  Cells cells{"TRACE", "ENTRIES", "REQUESTS"};
  if (a_.bytes) cells.insert(cells.end(), {"CAPACITY", "ROOM"});
  for (const auto& policy : a_.policies) cells.push_back(upper(policy) + " %");
  cells.push_back("EXACT LRU %");
  if (!a_.bytes) cells.push_back("OPTIMUM %");
  for (const auto& policy : a_.policies) cells.push_back(upper(policy) + " NS");
  cells.push_back("SECONDS");
  return cells;
}

ReplayPrinter::Cells ReplayPrinter::cells_of(const ReplayRow& row) const {
  Cells cells{name_of(row), std::to_string(row.entries),
              std::to_string(row.input->trace.requests.size())};
  if (a_.bytes) {
    cells.push_back(tools::format_bytes(row.capacity_bytes));
    cells.push_back(room_share(row));
  }
  add_figures(cells, row.hit_ratios(), row.ns_per_request());
  cells.push_back(row.least_room ? "-" : fixed(row.seconds(), 2));
  return cells;
}

ReplayPrinter::Cells ReplayPrinter::cells_of(const Means& means) const {
  Cells cells{"mean of " + std::to_string(means.ratios.size()), "", ""};
  if (a_.bytes) cells.insert(cells.end(), {"", ""});
  add_figures(cells, means_of(means.ratios), means_of(means.times));
  cells.push_back(fixed(means.seconds, 2));
  return cells;
}

void ReplayPrinter::add_figures(Cells& cells, const Figures& ratios, const Figures& times) const {
  const auto add = [&](const Figures& from, const std::string& name, double unit, int digits) {
    const auto found = from.find(name);
    cells.push_back(found == from.end() ? "-" : fixed(found->second * unit, digits));
  };
  for (const auto& policy : a_.policies) add(ratios, policy, 100, 2);
  add(ratios, kExactLru, 100, 2);
  if (!a_.bytes) add(ratios, kOptimum, 100, 2);
  for (const auto& policy : a_.policies) add(times, policy, 1, 0);
}

void ReplayPrinter::print(const Cells& cells) const {
  constexpr std::size_t kColumn = 11;
  std::string line = cells[0];
  line.resize(std::max(name_width_, line.size()), ' ');
  for (std::size_t i = 1; i < cells.size(); ++i) {
    line.append(kColumn + 1 - std::min(kColumn, cells[i].size()), ' ').append(cells[i]);
  }
  print_line(line);
}

// ---- JSON ---------------------------------------------------------------------------------------

Json ReplayPrinter::json_of(const ReplayRow& row) const {
  Json json{{"trace", tools::json_text(row.input->trace.name)},
            {"entries", row.entries},
            {"counted", counted()},
            {"requests", row.input->trace.requests.size()},
            {"unique", row.input->trace.ids.size()},
            {"processes", a_.processes}};
  if (a_.bytes) {
    json["capacity_bytes"] = row.capacity_bytes;
    json["mean_item_bytes"] = row.input->mean_bytes;
    json["left_out"] = row.least_room.has_value();
    if (row.least_room) json["least_room_bytes"] = *row.least_room;
  }
  json["hit_ratio"] = row.hit_ratios();
  json["ns_per_request"] = row.ns_per_request();
  if (row.exact_lru) json["exact_lru_hits"] = *row.exact_lru;
  if (row.optimum) json["optimum_hits"] = *row.optimum;
  json["runs"] = Json::array();
  if (row.least_room) return json;
  for (const PolicyRuns& policy : row.policies) {
    for (std::size_t i = 0; i < policy.runs.size(); ++i) json["runs"].push_back(json_of(policy, i));
  }
  return json;
}

Json ReplayPrinter::json_of(const PolicyRuns& policy, std::size_t repeat) const {
  const ReplayRun& run = policy.runs[repeat];
  Json json{{"policy", policy.name},
            {"seed", a_.seed + repeat},
            {"requests", run.outcome.requests},
            {"hits", run.outcome.hits},
            {"seconds", run.seconds()},
            {"failed_sets", run.outcome.failed_sets},
            {"entries_held", run.entries_held},
            {"segment_bytes", run.room.segment_bytes}};
  if (a_.bytes) json["room_bytes"] = run.room.bytes;
  return json;
}

Json ReplayPrinter::json_of(const Means& means) const {
  return {{"means",
           {{"counted", counted()},
            {"rows", means.ratios.size()},
            {"left_out", means.left_out},
            {"hit_ratio", means_of(means.ratios)},
            {"ns_per_request", means_of(means.times)},
            {"seconds", means.seconds}}}};
}

// ---- progress -----------------------------------------------------------------------------------

ReplayProgress::ReplayProgress(std::size_t rows)
    : rows_(rows), terminal_(isatty(STDERR_FILENO) == 1) {}

void ReplayProgress::now(const ReplayRow& row, const std::string& what) const {
  if (!terminal_) return;
  std::fprintf(stderr, "\r\033[K%zu of %zu rows done; %s %s", done_, rows_,
               tools::escape(row.label()).c_str(), what.c_str());
  std::fflush(stderr);
}

void ReplayProgress::done(const ReplayRow& row) {
  ++done_;
  clear();
  if (terminal_) return;
  std::fprintf(stderr, "larder-bench: replay: %zu of %zu: %s\n", done_, rows_,
               tools::escape(row.label()).c_str());
}

void ReplayProgress::clear() const {
  if (terminal_) std::fputs("\r\033[K", stderr);
}

}  // namespace larder::bench
