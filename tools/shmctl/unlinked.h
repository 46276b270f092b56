// Segments whose file was removed while processes had it mapped: those go on with it, and it takes
// its memory until the last of them ends. Only /proc knows them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace larder::tools {

struct Unlinked {
  std::string name;
  std::uint64_t inode;
  std::uint64_t bytes;
  std::vector<std::uint32_t> pids;  // of the processes that we may look at
};
std::vector<Unlinked> unlinked_segments(const std::string& directory);

}  // namespace larder::tools
