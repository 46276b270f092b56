// Programs started by tests.
//
// Nothing outlives a test: a Process is killed when its object goes, and the kernel kills it when
// the test itself dies. Not for use from several threads.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace larder::test {

class Process {
 public:
  // Runs argv[0], a path. Standard output and error go to output(). Aborts the test program with a
  // message when it cannot be started.
  explicit Process(std::vector<std::string> argv);
  ~Process();  // SIGKILL, if it still runs
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;

  pid_t pid() const { return pid_; }
  bool running() { return !wait(std::chrono::milliseconds(0)); }
  // Ok also when it has ended meanwhile.
  void signal(int number);

  // The exit code, or 128 + the signal that killed it; empty when it still runs after `timeout`.
  std::optional<int> wait(std::chrono::milliseconds timeout);
  // True as soon as the output has `text`; false after `timeout` or when the program ended without.
  bool await_output(std::string_view text, std::chrono::milliseconds timeout);
  // What it and its children wrote so far, both streams in order.
  const std::string& output();

 private:
  using Clock = std::chrono::steady_clock;

  void read_output();
  void collect_exit(int options);
  void wait_for_change(Clock::time_point until);

  pid_t pid_ = -1;
  int pid_fd_ = -1;
  int output_fd_ = -1;  // -1: its end was read
  std::optional<int> exit_code_;
  std::string output_;
};

// An empty folder that goes with its object, with everything in it.
class TempDir {
 public:
  // Under `parent`, by default a tmpfs, because segments want one.
  explicit TempDir(const std::string& parent = "/dev/shm");
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void pause_before_asking_again();

// Asks again and again, with a short pause, until `condition()` or the end of `timeout`. For
// conditions in another process that cannot be waited for.
template <class Condition>
bool await(Condition condition, std::chrono::milliseconds timeout = std::chrono::seconds(10)) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    pause_before_asking_again();
  }
  return true;
}

}  // namespace larder::test
