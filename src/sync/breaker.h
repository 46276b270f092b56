// Whether Redis is worth asking: who has just waited for it in vain does not wait again at once.
//
// A call that Redis did not answer opens the breaker: the process asks no more, but for one call
// now and then, so that at most a tenth of anyone's time is spent waiting. It closes when such a
// call is answered. When somebody else of the host was answered since, as the leader is within a
// fraction of a second of Redis' return, all may ask again; unless that has been tried in vain.
//
// Threads: any number.  Fork: a child goes on with what its parent knew.
#pragma once

#include <atomic>
#include <cstdint>

namespace larder::sync {

// Times are CLOCK_MONOTONIC_COARSE, in milliseconds.
class Breaker {
 public:
  // `timeout_ms`: what a call takes at most.
  explicit Breaker(std::uint64_t timeout_ms) : timeout_ms_(timeout_ms) {}

  // May Redis be asked now? `answered_ms`: when somebody else asked it last and was answered.
  bool admits(std::uint64_t answered_ms) noexcept {
    const std::uint64_t failed = failed_ms_.load(std::memory_order_relaxed);
    return failed == 0 || (answered_ms >= failed && follows_others()) || admits_trial();
  }
  // As a call that Redis answered, or did not, has ended.
  void answered() noexcept {
    if (failed_ms_.load(std::memory_order_relaxed) != 0) close();
  }
  void failed(std::uint64_t began_ms) noexcept;
  // A call ended that says nothing of Redis: it counts as failed where it was a trial.
  void ended(std::uint64_t began_ms) noexcept {
    if (failed_ms_.load(std::memory_order_relaxed) != 0) failed(began_ms);
  }

 private:
  enum class Others { kUntried, kFollowed, kMislead };

  bool follows_others() noexcept;
  bool admits_trial() noexcept;
  void close() noexcept;

  const std::uint64_t timeout_ms_;
  std::atomic<std::uint64_t> failed_ms_{0};  // 0: closed
  std::atomic<std::uint64_t> trial_ms_{0};   // when the next call is let through
  std::atomic<Others> others_{Others::kUntried};
};

}  // namespace larder::sync
