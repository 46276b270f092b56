// Where exactly a process dies or stops: at one of its stores into a segment.
#pragma once

#if defined(__x86_64__)

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "shm/segment.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::test {

// Kills or stops a process at its n-th store into a segment: the mapping is read-only, each store
// faults, is counted, and is let through alone (the processor's trap flag brings it back after one
// instruction). What is counted is shared with the parent.
class StoreCounter {
 public:
  struct Shared {
    std::uint64_t stores;
    std::uint64_t at;  // 0: never
    int signal;        // SIGKILL, SIGSTOP
  };

  static Shared* share() {
    void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) std::abort();
    return static_cast<Shared*>(page);
  }
  static void unshare(Shared* shared) { munmap(shared, kPage); }

  // In the child.
  static void watch(shm::Segment& segment, Shared* shared) {
    base_ = reinterpret_cast<std::uintptr_t>(at(segment, 0));
    end_ = base_ + segment.geometry().segment_bytes / kPage * kPage;
    shared_ = shared;
    shared_->stores = 0;
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, nullptr);
    action.sa_sigaction = on_trap;
    sigaction(SIGTRAP, &action, nullptr);
    protect(base_, end_ - base_, PROT_READ);
  }
  static void stop() { protect(base_, end_ - base_, PROT_READ | PROT_WRITE); }

 private:
  static constexpr std::uintptr_t kPage = 4096;
  static constexpr greg_t kTrapFlag = 0x100;

  static void protect(std::uintptr_t from, std::size_t bytes, int how) {
    CHILD_REQUIRE(mprotect(reinterpret_cast<void*>(from), bytes, how) == 0);
  }
  static void on_fault(int, siginfo_t* info, void* context) {
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    if (address < base_ || address >= end_ || opened_ == 2) {
      signal(SIGSEGV, SIG_DFL);  // a fault of its own
      return;
    }
    // A store across two pages faults twice.
    if (opened_ == 0 && ++shared_->stores == shared_->at) raise(shared_->signal);
    open_[opened_++] = address / kPage * kPage;
    protect(address / kPage * kPage, kPage, PROT_READ | PROT_WRITE);
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
  }
  static void on_trap(int, siginfo_t*, void* context) {
    while (opened_ > 0) protect(open_[--opened_], kPage, PROT_READ);
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
  }

  static inline std::uintptr_t base_ = 0;
  static inline std::uintptr_t end_ = 0;
  static inline Shared* shared_ = nullptr;
  static inline std::uintptr_t open_[2] = {};
  static inline int opened_ = 0;
};

}  // namespace larder::test

#endif
