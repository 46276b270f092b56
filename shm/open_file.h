// A file that this process has open, and its mapping.
//
// A mapping is made of the descriptor: by its path the file could be another by now. Boost's
// exceptions end here.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstdint>
#include <string>

#include "larder/status.h"
#include "shm/fd.h"

namespace larder::shm {

// Its first `bytes`. `path`: for the message. kNoSpace: no memory, or a limit on it.
Result<boost::interprocess::mapped_region> map_file(const Fd& fd, boost::interprocess::mode_t mode,
                                                    std::uint64_t bytes, const std::string& path);

}  // namespace larder::shm
