// The sync thread of one process: stands for election and, when elected, follows the channel.
//
// One process of a host leads. It holds the leader's record lock, which the kernel releases at its
// death; the others watch it (a pidfd where they can see it, a look at the lock now and then where
// they cannot) and one of them takes over. The winner raises the term and seals it into every
// stripe, so a former leader that was only stopped can write nothing when it comes back. A leader
// whose heartbeat stands still is replaced although it holds the lock.
//
// Threads: `start` and `stop` from any; the rest happens on the thread's own event loop, with all
// signals blocked.
// Fork: the thread stays with the parent; a child makes its own Leader and `abandon`s this one.
// Crash: the kernel releases the lock.
#pragma once

#include <chrono>
#include <memory>

#include "larder/logger.h"
#include "larder/status.h"
#include "shm/table.h"
#include "src/sync/follower.h"
#include "src/sync/subscription.h"

namespace larder::sync {

struct LeaderOptions {
  SubscriptionOptions subscription;
  FollowerOptions follower;
  // How often the leader turns, and asks Redis where the log ends.
  std::chrono::milliseconds heartbeat{200};
  // How long what is held may be trusted after such a question; see shm/lease.h.
  std::chrono::milliseconds lease{1000};
  // A leader that has not turned for this long is taken for stopped.
  std::chrono::milliseconds heartbeat_lost{3000};
};

class Leader {
 public:
  // `table` and `logger` outlive it.
  Leader(shm::Table& table, LeaderOptions options, std::shared_ptr<Logger> logger);
  ~Leader();  // stop()
  Leader(const Leader&) = delete;
  Leader& operator=(const Leader&) = delete;

  Status start();
  // Gives leadership up and joins the thread. Idempotent.
  void stop();
  // In a forked child: closes the descriptors of the parent's connections, leaks the rest.
  static void abandon(std::unique_ptr<Leader> inherited) noexcept;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace larder::sync
