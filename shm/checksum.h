// The second line of defence: what an entry's bytes must hash to. The order of writes alone keeps a
// crash from showing half an entry; the checksum finds damage that no writer of ours could do.
#pragma once

#include "shm/hash.h"

#include <string_view>

#include "shm/layout.h"

namespace larder::shm {

// `key_hash` stands for the key: every set has it at hand.
inline std::uint32_t entry_checksum(const EntryHeader& header, std::uint64_t key_hash,
                                    std::string_view value) noexcept {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;
  std::uint64_t seed = key_hash;
  for (const std::uint64_t word :
       {header.sizes, header.check & ~std::uint64_t{UINT32_MAX}, header.reach, header.life}) {
    seed = (seed ^ word) * kOdd;
    seed ^= seed >> 32;
  }
  return static_cast<std::uint32_t>(XXH3_64bits_withSeed(value.data(), value.size(), seed));
}

}  // namespace larder::shm
