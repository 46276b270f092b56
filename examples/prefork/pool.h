// A few threads for what may block, so that the accept loop never does.
//
//   pool->submit([&] { status = cache.get(key, lookup); },   // on a thread of the pool
//                [&] { answer(status, lookup); });           // later, on the loop's thread
//
// Threads: submit and run_completions are called by the loop's thread alone.
// Fork: make it in the worker, after fork; threads do not survive one.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "larder/status.h"

namespace prefork {

class Pool {
 public:
  using Step = std::function<void()>;

  static larder::Result<std::unique_ptr<Pool>> create(std::size_t threads, std::size_t queue_max);
  // Waits for the work that is running; what still waits in the queue is dropped.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // False when `queue_max` jobs are waiting already: tell the client to come back later. A queue
  // without a bound would only turn a slow Redis into a server without memory.
  [[nodiscard]] bool submit(Step work, Step done);

  // Readable while finished work waits for run_completions.
  int completion_fd() const noexcept { return completion_fd_; }
  // Calls `done` of everything that finished.
  void run_completions();

 private:
  struct Job {
    Step work;
    Step done;
  };

  Pool(int completion_fd, std::size_t queue_max);
  void run_thread();
  void finish(Step done);

  const int completion_fd_;  // an eventfd
  const std::size_t queue_max_;
  std::mutex mutex_;  // all below but the threads
  std::condition_variable wakeup_;
  std::deque<Job> queue_;
  std::vector<Step> finished_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace prefork
