// Numbers that nobody can foretell.
#pragma once

#include <sys/random.h>

#include <cstdint>

namespace larder::shm {

inline std::uint64_t random_word() noexcept {
  std::uint64_t word = 0;
  // Before the pool is ready the kernel blocks here, once per boot.
  while (getrandom(&word, sizeof word, 0) != sizeof word) {
  }
  return word;
}

}  // namespace larder::shm
