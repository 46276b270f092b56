// What a worker of the storm does, and what it checks of everything that it reads.
//
// Two segments: one as it is used without Redis (`alone`), one as it is used with it (`followed`),
// where the ledger plays Redis and one of the workers leads and applies its changes.
//
// What may be read, besides a miss, which always may. Each bound is taken before the read begins.
//   alone      the newest change that was completed or seen, or one that is under way
//   followed   no older change than the newest whose event was applied, nor, within an epoch, than
//              the newest that its own writer completed here; late replies never bring one back
//   both       nothing after its end, nothing that was never written, nothing of another key
#pragma once

#include <signal.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/storm/shared.h"
#include "tests/storm/value.h"

namespace larder::storm {

inline constexpr char kAlone[] = "alone";
inline constexpr char kFollowed[] = "followed";

shm::SegmentOptions segment_options(const std::string& folder, const char* name);
std::string alone_key(unsigned index);
std::string followed_key(unsigned index);

struct Life {
  Shared* shared;
  int shared_fd;
  std::string folder;
  std::string program;  // this one's path
  unsigned seat;
  unsigned workers;
  std::uint64_t seed;
};

// Of the director to a worker: wherever it is, it becomes a fresh one, or ends.
inline constexpr int kBecomeFreshSignal = SIGUSR1;
inline constexpr int kExitSignal = SIGUSR2;
void block_signals();  // of these: they would end a process that is not prepared yet

// The arguments that make this program a worker.
std::vector<std::string> worker_arguments(const Life& life);

// Until the storm is over, or it ends by itself before. Returns the exit status: 0.
int work(const Life& life);

}  // namespace larder::storm
