// Held by who creates, removes or replaces segments of one name. A flock on a descriptor of its
// own, so that threads exclude each other too.
//
// Threads: any.  Fork: a child has the descriptor too, so its holder unlocks, and does not just
// close. Crash: the kernel releases it. Its file stays for the next.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "larder/status.h"
#include "shm/fd.h"
#include "shm/segment_options.h"

namespace larder::shm {

inline constexpr std::uint64_t kCreateWaitMs = 5000;

class CreationLock {
 public:
  // `options`: who may use the lock's file, if it has to be made. kBusy: not had in `wait_ms`.
  static Result<std::unique_ptr<CreationLock>> take(const std::string& segment_path,
                                                    const SegmentOptions& options,
                                                    std::uint64_t wait_ms = kCreateWaitMs);
  ~CreationLock();
  CreationLock(const CreationLock&) = delete;
  CreationLock& operator=(const CreationLock&) = delete;

 private:
  explicit CreationLock(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace larder::shm
