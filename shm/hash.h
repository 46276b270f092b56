// The hash of keys. Inlined, because a get spends a tenth of its time in it.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <string_view>

namespace larder::shm {

// `seed` is the segment's own, so that nobody can aim keys at one stripe.
inline std::uint64_t hash_of_key(std::string_view key, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSeed(key.data(), key.size(), seed);
}

}  // namespace larder::shm
