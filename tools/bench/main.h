// How every subcommand ends.
#pragma once

#include "larder/status.h"

namespace larder::bench {

// Says on stderr what went wrong, if anything did. 0 done; 1 failed; 2 wrong usage; 130
// interrupted.
int exit_status_of(const Status& status);

}  // namespace larder::bench
