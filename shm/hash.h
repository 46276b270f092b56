// The hash of keys. Inlined, because a get spends a tenth of its time in it.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <string_view>

namespace larder::shm {

// `seed` is the segment's own, so that nobody can aim keys at one stripe.
inline std::uint64_t hash_of_key(std::string_view key, std::uint64_t seed) noexcept {
  if (key.size() - 17 <= 128 - 17) [[likely]]
    return XXH3_len_17to128_64b(reinterpret_cast<const xxh_u8*>(key.data()), key.size(),
                                XXH3_kSecret, sizeof XXH3_kSecret, seed);
  return XXH3_64bits_withSeed(key.data(), key.size(), seed);
}

}  // namespace larder::shm
