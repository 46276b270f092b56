#include "src/sync/breaker.h"

#include <algorithm>

#include "shm/clock.h"

namespace larder::sync {
namespace {

constexpr std::uint64_t kPausePerWait = 10;
constexpr std::uint64_t kPauseLeastMs = 100;  // where nobody waits, for a connection is refused
constexpr std::uint64_t kPauseMostMs = 30'000;

}  // namespace

void Breaker::failed(std::uint64_t began_ms) noexcept {
  const std::uint64_t now = shm::coarse_now().ms;
  const std::uint64_t pause =
      std::clamp((now - began_ms) * kPausePerWait, kPauseLeastMs, kPauseMostMs);
  trial_ms_.store(now + pause, std::memory_order_relaxed);
  Others followed = Others::kFollowed;
  others_.compare_exchange_strong(followed, Others::kMislead);
  failed_ms_.store(now);
}

bool Breaker::follows_others() noexcept {
  Others untried = Others::kUntried;
  if (others_.compare_exchange_strong(untried, Others::kFollowed)) return true;
  return untried == Others::kFollowed;
}

// One at a time: it may wait as long as the last, and the others shall not wait with it.
bool Breaker::admits_trial() noexcept {
  const std::uint64_t now = shm::coarse_now().ms;
  std::uint64_t due = trial_ms_.load(std::memory_order_relaxed);
  return now >= due && trial_ms_.compare_exchange_strong(due, now + timeout_ms_ + kPauseLeastMs);
}

void Breaker::close() noexcept {
  others_.store(Others::kUntried);
  failed_ms_.store(0);
}

}  // namespace larder::sync
