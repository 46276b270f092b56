// What a replay shows: rows and their means on stdout, as a table or as lines of JSON, and on
// stderr how far it is.
//
// Threads: none. Errors: a stream that cannot be written keeps its error flag, for the caller.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "tools/bench/replay_arguments.h"
#include "tools/bench/replay_row.h"
#include "tools/shmctl/text.h"

namespace larder::bench {

// Lines as they come; the columns' widths are known before. Arguments outlive it.
class ReplayPrinter {
 public:
  ReplayPrinter(const ReplayArguments& arguments, const std::deque<ReplayRow>& rows);
  void head() const;
  void row(const ReplayRow& row) const;
  void means(const std::deque<ReplayRow>& rows) const;

 private:
  using Cells = std::vector<std::string>;
  struct Means;

  const char* counted() const { return a_.bytes ? "bytes" : "entries"; }
  Cells titles() const;
  Cells cells_of(const ReplayRow& row) const;
  Cells cells_of(const Means& means) const;
  void add_figures(Cells& cells, const Figures& ratios, const Figures& times) const;
  void print(const Cells& cells) const;

  tools::Json json_of(const ReplayRow& row) const;
  tools::Json json_of(const PolicyRuns& policy, std::size_t repeat) const;
  tools::Json json_of(const Means& means) const;

  const ReplayArguments& a_;
  std::size_t name_width_;
};

// A word on stderr whenever something is done: rewritten in a terminal, else a line a row.
class ReplayProgress {
 public:
  explicit ReplayProgress(std::size_t rows);
  ~ReplayProgress() { clear(); }
  ReplayProgress(const ReplayProgress&) = delete;
  ReplayProgress& operator=(const ReplayProgress&) = delete;

  void now(const ReplayRow& row, const std::string& what) const;
  void done(const ReplayRow& row);

 private:
  // So that lines can be printed.
  void clear() const;

  const std::size_t rows_;
  const bool terminal_;
  std::size_t done_ = 0;
};

}  // namespace larder::bench
