#include "shm/lock.h"

#include <algorithm>
#include <functional>

#include "shm/clock.h"
#include "shm/futex.h"

namespace larder::shm {
namespace {

constexpr int kSpins = 64;

void cpu_relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// acquire: pairs with the release in release(): the stripe is as the last owner left it.
bool swap_word(Stripe& stripe, std::uint32_t from, std::uint32_t to) noexcept {
  return stripe.lock.compare_exchange_strong(from, to, std::memory_order_acquire,
                                             std::memory_order_relaxed);
}

}  // namespace

Acquired acquire_taken(Stripe& stripe, std::uint32_t self, Processes& processes,
                       std::chrono::milliseconds timeout) {
  for (int i = 0; i < kSpins; ++i) {
    cpu_relax();
    if (stripe.lock.load(std::memory_order_relaxed) == 0 && swap_word(stripe, 0, self)) {
      return Acquired::kClean;
    }
  }
  const std::uint64_t deadline = now_ms() + static_cast<std::uint64_t>(timeout.count());
  bool slept = false;
  for (;;) {
    const std::uint32_t word = stripe.lock.load(std::memory_order_relaxed);
    // Who slept takes the lock with the waiters' mark: others may be asleep behind it.
    if (word == 0) {
      if (swap_word(stripe, 0, slept ? self | kWaiters : self)) return Acquired::kClean;
      continue;
    }
    const std::uint64_t now = now_ms();
    if (slept || now >= deadline) {
      bool taken = false;
      const auto claim = [&] { taken = swap_word(stripe, word, self | (word & kWaiters)); };
      const bool dead = processes.with_dead(word, std::ref(claim));  // no room needed for it
      if (taken) return Acquired::kFromDead;
      if (dead) continue;  // somebody else took over between
    }
    if (now >= deadline) return Acquired::kTimeout;
    std::uint32_t unmarked = word & ~kWaiters;
    if (unmarked == word && !stripe.lock.compare_exchange_strong(unmarked, word | kWaiters,
                                                                 std::memory_order_relaxed)) {
      continue;
    }
    futex_wait(&stripe.lock, word | kWaiters, std::min(kWaitSliceMs, deadline - now));
    slept = true;
  }
}

bool release(Stripe& stripe, std::uint32_t self) noexcept {
  std::uint32_t word = self;
  // release: pairs with the acquire in acquire().
  if (stripe.lock.compare_exchange_strong(word, 0, std::memory_order_release,
                                          std::memory_order_relaxed)) [[likely]] {
    return true;
  }
  while ((word & ~kWaiters) == self) {
    if (stripe.lock.compare_exchange_weak(word, 0, std::memory_order_release,
                                          std::memory_order_relaxed)) {
      if (word & kWaiters) futex_wake(&stripe.lock, 1);
      return true;
    }
  }
  return false;
}

}  // namespace larder::shm
