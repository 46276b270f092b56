// What /proc tells of a process.
#pragma once

#include <cstdint>

namespace larder::shm {

struct ProcessFacts {
  bool exists = false;            // or that cannot be told
  bool ended = false;             // a zombie, all of whose threads have ended
  char state = 0;                 // as /proc/PID/stat has it; 0: not told
  std::uint64_t start_ticks = 0;  // 0: not told
};

// Of a pid as this process's own PID namespace counts. What /proc does not tell is taken as life.
ProcessFacts facts_of(std::uint32_t pid);

// Of this program as long as it runs: a child has it too, what replaces it (exec) has another.
std::uint64_t own_program();

// The inode that names this process's PID namespace; 0 where that cannot be told.
std::uint32_t own_namespace();

// Does it map the file that this process has at `address`? True when that cannot be told.
bool may_map(std::uint32_t pid, const void* address);

}  // namespace larder::shm
