// What the processes of larder-coherence do that are not the director. Each runs in a forked child
// until the ledger says that it is over, or somebody kills it.
#pragma once

#include <string>

#include "larder/cache.h"
#include "tests/fault/ledger.h"

namespace larder::fault {

// Reads all the time, writes `writes_per_second`, and notes both. Returns the exit status.
int work(Cache& cache, Ledger& ledger, unsigned seat, double writes_per_second);

// Hears the channel beside the hosts, from the unix socket `redis`, and notes the order of the
// writes. Its connection is called kTapName, so that it can be spared.
inline constexpr char kTapName[] = "tap";
int tap(const std::string& redis, Ledger& ledger);

}  // namespace larder::fault
