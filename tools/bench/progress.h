// How far a long run is, on stderr: where a person watches, in one line that is written again;
// with --progress elsewhere, a line for each step.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace larder::bench {

class Progress {
 public:
  explicit Progress(bool always);
  ~Progress();  // leaves no half line behind
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void expect(std::size_t steps) { steps_ = steps; }
  void skip(std::size_t steps) { steps_ -= steps; }
  // A step begins.
  void step(const std::string& what);
  // So that what follows on stderr or stdout begins a line.
  void clear();

 private:
  const bool on_terminal_;
  const bool shown_;
  bool line_open_ = false;
  std::size_t steps_ = 0;
  std::size_t done_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace larder::bench
