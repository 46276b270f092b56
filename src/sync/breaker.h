// Whether Redis is worth asking: who has just waited for it in vain does not wait again at once.
//
// A call that Redis did not answer opens the breaker: the process asks no more, but for one call
// now and then, so that at most a tenth of anyone's time is spent waiting. It closes when such a
// call is answered, or when somebody else of the host was answered since, as the leader is within a
// fraction of a second of Redis' return.
//
// Threads: any number.  Fork: a child goes on with what its parent knew.
#pragma once

#include <atomic>
#include <cstdint>

namespace larder::sync {

// Times are CLOCK_MONOTONIC_COARSE, in milliseconds.
class Breaker {
 public:
  // May Redis be asked now? `answered_ms`: when somebody else asked it last and was answered.
  bool admits(std::uint64_t answered_ms) noexcept {
    const std::uint64_t failed = failed_ms_.load(std::memory_order_relaxed);
    return failed == 0 || answered_ms >= failed || admits_trial();
  }
  // As a call that Redis answered, or did not, has ended.
  void answered() noexcept {
    if (failed_ms_.load(std::memory_order_relaxed) != 0) failed_ms_.store(0);
  }
  void failed(std::uint64_t began_ms) noexcept;

 private:
  bool admits_trial() noexcept;

  std::atomic<std::uint64_t> failed_ms_{0};  // 0: closed
  std::atomic<std::uint64_t> trial_ms_{0};   // when the next call is let through
};

}  // namespace larder::sync
