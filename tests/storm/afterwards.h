// What must be left when everybody has ended: two sound segments that are nobody's.
#pragma once

#include "tests/storm/worker.h"

namespace larder::storm {

// Run in a process that saw nothing of the storm. What is not as it should be is counted as a leak
// in the shared page, with a complaint.
void look_around_afterwards(const Life& life);

}  // namespace larder::storm
