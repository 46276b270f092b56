#include "pool.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <utility>

namespace prefork {

using larder::Code;
using larder::Result;
using larder::Status;

Pool::Pool(int completion_fd, std::size_t queue_max)
    : completion_fd_(completion_fd), queue_max_(queue_max) {}

Result<std::unique_ptr<Pool>> Pool::create(std::size_t threads, std::size_t queue_max) {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) return Status(Code::kNoSpace, std::string("eventfd: ") + std::strerror(errno));
  std::unique_ptr<Pool> pool(new Pool(fd, queue_max));
  try {
    for (std::size_t i = 0; i < threads; ++i) {
      pool->threads_.emplace_back([raw = pool.get()] { raw->run_thread(); });
    }
  } catch (const std::system_error& error) {
    return Status(Code::kNoSpace, std::string("cannot start a thread: ") + error.what() +
                                      "; raise the limit of processes or lower --threads");
  }
  return pool;
}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wakeup_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  close(completion_fd_);
}

bool Pool::submit(Step work, Step done) {
  {
    std::lock_guard lock(mutex_);
    if (queue_.size() >= queue_max_) return false;
    queue_.push_back({std::move(work), std::move(done)});
  }
  wakeup_.notify_one();
  return true;
}

void Pool::run_completions() {
  std::uint64_t count = 0;
  // Cleared before the list is taken: a job that finishes in between wakes the loop once more.
  while (read(completion_fd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
  std::vector<Step> finished;
  {
    std::lock_guard lock(mutex_);
    finished.swap(finished_);
  }
  for (const Step& done : finished) done();
}

void Pool::run_thread() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wakeup_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    job.work();
    finish(std::move(job.done));
  }
}

void Pool::finish(Step done) {
  {
    std::lock_guard lock(mutex_);
    finished_.push_back(std::move(done));
  }
  const std::uint64_t one = 1;
  while (write(completion_fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

}  // namespace prefork
