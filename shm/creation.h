// Making the file of a segment: whole under a name that nobody knows, then renamed.
//
// Threads, processes: one at a time, by the creation lock of the plain name.
// Crash: leaves a temporary file and perhaps a lock file, which the next creator removes.
#pragma once

#include <string>

#include "larder/status.h"
#include "shm/fd.h"
#include "shm/layout.h"
#include "shm/segment_options.h"

namespace larder::shm {

// A segment that is whole but for its name, which nobody knows.
struct Unnamed {
  std::string temporary;
  Fd fd;
};

// For `path`, beside the plain name. kNoSpace says how to get room.
Result<Unnamed> make_unnamed(const std::string& plain, const std::string& path,
                             const SegmentOptions& options, const Geometry& geometry);

// Takes the place of what has that name. An error removes what was made.
Status give_name(const Unnamed& made, const std::string& path);

}  // namespace larder::shm
