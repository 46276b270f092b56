// The stripe lock: a futex word that names its owner.
//
// Uncontended, acquire and release are one atomic each. A waiter sleeps in slices, and between them
// asks whether the owner is alive; a dead owner's word is taken over by CAS while its liveness byte
// is held. Nobody waits beyond the timeout given. No input or output, callback or C++ allocation
// happens under a stripe lock, and no second stripe is locked.
//
// Robust pthread mutexes would not do: the kernel and glibc compare thread ids, which collide
// between PID namespaces.
#pragma once

#include <chrono>

#include "shm/layout.h"
#include "shm/process.h"

namespace larder::shm {

enum class Acquired {
  kClean,
  kFromDead,  // the former owner died inside: the stripe must be repaired before anything else
  kTimeout,
};

// What acquire() does when the lock is not free at its first look.
Acquired acquire_taken(Stripe& stripe, std::uint32_t self, Processes& processes,
                       std::chrono::milliseconds timeout);

// Zero timeout: tries once, taking over from the dead included.
inline Acquired acquire(Stripe& stripe, std::uint32_t self, Processes& processes,
                        std::chrono::milliseconds timeout) {
  std::uint32_t free = 0;
  // acquire: pairs with the release in release(): the stripe is as the last owner left it.
  if (stripe.lock.compare_exchange_strong(free, self, std::memory_order_acquire,
                                          std::memory_order_relaxed)) [[likely]] {
    return Acquired::kClean;
  }
  return acquire_taken(stripe, self, processes, timeout);
}

// False when the lock was not ours any more: somebody took us for dead. What was written since may
// mix with another's writes, so the caller must count and report it.
bool release(Stripe& stripe, std::uint32_t self) noexcept;

}  // namespace larder::shm
