// What the operating system refused, as a Status that says what to do about it.
#pragma once

#include <string>

#include "larder/status.h"

namespace larder::shm {

// `what` was tried, for "cannot open /dev/shm/larder.shop".
Status os_error(int error, const std::string& what);

}  // namespace larder::shm
