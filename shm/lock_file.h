// The lock file of a segment: record locks that tell who is alive.
//
// POSIX record locks belong to the process, are not inherited by a fork child and are released by
// the kernel at death, also of a zombie; flock and OFD locks stay with fork children. Their trap:
// closing any descriptor of the file drops all of the process's locks. So a process has one
// descriptor per lock file, kept in a registry that every copy of this library in the process
// shares, and closed with the last user.
//
// Threads: any. Two threads of one process do not exclude each other with record locks:
// `process_mutex` and `leader_mutex` do.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "larder/status.h"

namespace larder::shm {

// A mutex that a fork child finds free, whatever its parent's threads were doing. For short and
// rare sections: waiting is a sleep of a fraction of a millisecond, again and again.
class ForkMutex {
 public:
  void lock() noexcept;
  bool try_lock() noexcept;
  void unlock() noexcept;

 private:
  std::atomic<std::uint64_t> holder_{0};  // generation of the holder; another's: free
};

class LockFile {
 public:
  // Opens it, or shares what this process has open. kNotFound when there is no such file.
  static Result<std::shared_ptr<LockFile>> open(const std::string& path, std::uint64_t instance);
  ~LockFile();
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;

  // Record locks on one byte. `lock` never waits.
  bool lock(off_t byte) noexcept;
  void unlock(off_t byte) noexcept;
  // Held by another process? A lock of this process does not show.
  bool held_by_other(off_t byte) const noexcept;
  // Has this process opened it more than once?
  bool is_shared() const;

  // Serialises what a process does with other processes' bytes.
  ForkMutex& process_mutex() noexcept;
  // Held by the one thread of this process that leads.
  ForkMutex& leader_mutex() noexcept;

  struct Shared;

 private:
  explicit LockFile(std::uint64_t instance) : instance_(instance) {}
  int descriptor() const noexcept;

  Shared* shared_ = nullptr;
  const std::uint64_t instance_;
};

}  // namespace larder::shm
