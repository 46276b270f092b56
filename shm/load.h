// Load leases: one process of a host fetches what all of them miss.
//
// Who misses a key claims its load; the others wait until that ends, and look again. A claim is a
// lease: when its holder died, or its time is over, the next to ask takes it over, and what the
// former holder stores under it is refused. A waiter that is never woken notices both by itself.
//
// Keys share the claim words by their hash. Of two keys that meet at one word the second is loaded
// without a lease: perhaps by several processes, but without waiting for a stranger's load.
//
// Threads: any.  Fork: a child's copy of a parent's lease is nothing.  Crash: a claim of the dead
// is taken over, or cleared by who reaps the process.
#pragma once

#include <chrono>
#include <cstdint>

#include "shm/layout.h"
#include "shm/process.h"
#include "shm/segment.h"

namespace larder::shm {

inline constexpr std::chrono::milliseconds kLoadLeaseMax{3'600'000};

// A load that this process holds.
struct LoadLease {
  Atomic<std::uint64_t>* word = nullptr;  // null: none
  std::uint64_t claim = 0;                // what the word holds meanwhile
  std::uint64_t generation = 0;           // of the process that claimed it, see fork.h
};

enum class Claimed {
  kMine,    // load it, store it, end the load
  kOther,   // somebody is at it: wait, then look again
  kNoWord,  // another key's load has the word, or this process has no place: load without a lease
};

class Loads {
 public:
  Loads(Segment& segment, Processes& processes) : segment_(segment), processes_(processes) {}

  // `lease`: how long others wait for us, at most kLoadLeaseMax. `load` is set for kMine.
  Claimed claim(std::uint64_t hash, std::chrono::milliseconds lease, LoadLease& load);
  // Sleeps until the load ends or may be taken over (true), or until `timeout` is over.
  bool wait(std::uint64_t hash, std::chrono::milliseconds timeout);
  // Lets the waiters look. False: it was not ours any more.
  static bool end(LoadLease& load) noexcept;
  // Clears claims whose time is over: a word's time comes round again in three days.
  void end_late() noexcept;
  // Has nobody taken it over?
  static bool is_held(const LoadLease& load) noexcept;

 private:
  Atomic<std::uint64_t>& word_of(std::uint64_t hash) const noexcept;
  // Is the claim's holder gone, or its time over?
  bool may_be_taken(std::uint64_t claim);

  Segment& segment_;
  Processes& processes_;
};

// Clears the claims of a process that is gone, or about to be, and wakes who waits for them.
void forget_loads(Segment& segment, std::uint32_t owner) noexcept;

}  // namespace larder::shm
