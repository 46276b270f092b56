// The lease: until when what a host holds may be trusted.
//
// It says that every change which Redis had before a moment `asked` has had its effects here. It
// lasts T from that moment, so that while it lasts no read returns a value that was overwritten
// more than T ago.
//
// Threads and processes: the leader extends it, everybody reads it.  Crash: it ends by itself.
#pragma once

#include <chrono>

#include "shm/clock.h"
#include "shm/layout.h"

namespace larder::shm {

class Lease {
 public:
  // As it is now. To be taken before what is held is read: one that was extended since then says
  // nothing about what was read before.
  static Lease of(const HotWords& hot) noexcept {
    // Each word on its own tells of a true lease, so they need not be of the same. acquire: what is
    // read next has the effects that the lease speaks of.
    const std::uint64_t until_unix_ms = hot.lease_until_unix_ms.load(std::memory_order_acquire);
    return Lease({hot.lease_until_ms.load(std::memory_order_acquire), until_unix_ms});
  }

  bool lasts() const noexcept { return left_ms() != 0; }
  std::uint64_t left_ms() const noexcept {
    const CoarseTime now = coarse_now();
    if (now.ms >= until_.ms || now.unix_ms >= until_.unix_ms) return 0;
    return until_.ms - now.ms;
  }
  // How long ago it ended; UINT64_MAX: it never was held.
  std::uint64_t over_ms() const noexcept {
    if (until_.ms == 0) return UINT64_MAX;
    const std::uint64_t now = coarse_now().ms;
    return now > until_.ms ? now - until_.ms : 0;
  }

  // The leader's. Lasts from `asked` for `length`.
  static void extend(HotWords& hot, CoarseTime asked, std::chrono::milliseconds length) noexcept {
    const auto lasts_ms = static_cast<std::uint64_t>(length.count()) - kCoarseLagMs;
    hot.lease_until_ms.store(asked.ms + lasts_ms, std::memory_order_release);
    hot.lease_until_unix_ms.store(asked.unix_ms + lasts_ms, std::memory_order_release);
  }

 private:
  explicit Lease(CoarseTime until) noexcept : until_(until) {}
  CoarseTime until_;
};

}  // namespace larder::shm
