// The second line of defence: what an entry's bytes must hash to. The order of writes alone keeps a
// crash from showing half an entry; the checksum finds damage that no writer of ours could do.
#pragma once

#include "shm/hash.h"

#include <string_view>

#include "shm/layout.h"

namespace larder::shm {

inline std::uint32_t entry_checksum(EntryHeader header, std::string_view key,
                                    std::string_view value) noexcept {
  header.check &= ~std::uint64_t{UINT32_MAX};
  const std::uint64_t over_header = XXH3_64bits(&header, sizeof header);
  const std::uint64_t over_key = XXH3_64bits_withSeed(key.data(), key.size(), over_header);
  return static_cast<std::uint32_t>(XXH3_64bits_withSeed(value.data(), value.size(), over_key));
}

}  // namespace larder::shm
