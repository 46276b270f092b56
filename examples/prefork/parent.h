// The parent: forks the workers and looks after them.
//
// It has one thread, holds no connection and never takes a place in the segment, so it has nothing
// that could break across fork. It sleeps in poll until a signal, a report from a worker or the
// end of a back-off wakes it.
//
// Signals: SIGTERM and SIGINT drain the workers and end the parent; SIGCHLD brings a worker back.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "larder/cache.h"
#include "worker.h"

namespace prefork {

inline constexpr int kExitFine = 0;
inline constexpr int kExitFailed = 1;  // could not start, or a worker had to be killed at the end
inline constexpr int kExitUsage = 2;

class Parent {
 public:
  Parent(larder::Cache cache, WorkerOptions options, int workers);
  ~Parent();
  Parent(const Parent&) = delete;
  Parent& operator=(const Parent&) = delete;

  // Until told to stop; returns the exit code.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  // A worker's place; the process in it changes when it dies.
  struct Place {
    pid_t pid = 0;  // 0: nobody
    Clock::time_point started;
    Clock::time_point restart_at;  // while nobody is there
    bool ready = false;
    int failures = 0;  // deaths in a row soon after the start
  };
  // What a worker writes into the pipe when it accepts requests.
  struct Report {
    int place;
    pid_t pid;
    std::uint16_t port;
  };

  larder::Status open();
  void start_due_workers();
  void start_worker(int number);
  [[noreturn]] void become_worker(int number);
  void wait_for_something();
  void read_signals();
  void read_reports();
  void reap();
  void on_exit(int number, int wait_status);
  void announce();
  void stop(int exit_code);
  void kill_workers(int signal);
  std::optional<Clock::time_point> next_wakeup() const;
  bool anybody_left() const;

  std::optional<larder::Cache> cache_;
  WorkerOptions options_;
  std::vector<Place> places_;
  int signal_fd_ = -1;
  int report_read_ = -1;
  int report_write_ = -1;
  bool announced_ = false;  // every worker was ready once
  bool stopping_ = false;
  int exit_code_ = kExitFine;
  Clock::time_point kill_at_{};  // once stopping: patience ends
  bool killed_ = false;
};

}  // namespace prefork
