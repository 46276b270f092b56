// What is worth keeping. A policy owns one byte per slot and a coarse tick per stripe; any value of
// either is legal, so a crash or a lost race cannot break it.
//
// One more policy is one more file that implements this and one line in policy_of().
#pragma once

#include <cstdint>

namespace larder::shm {

class Policy {
 public:
  virtual ~Policy() = default;

  // The byte of an entry that was just inserted.
  virtual std::uint8_t on_insert(std::uint8_t tick) const noexcept = 0;
  // The byte after a hit. Returning what it was means that nothing is stored: a hot key is read by
  // every core without a store.
  virtual std::uint8_t on_hit(std::uint8_t use, std::uint8_t tick) const noexcept = 0;
  // How much an entry is worth when its page is recycled: 0 goes, higher ranks are kept first.
  virtual std::uint8_t rank(std::uint8_t use, std::uint8_t tick) const noexcept = 0;
  // The byte of an entry that survived a recycling.
  virtual std::uint8_t on_survive(std::uint8_t use, std::uint8_t tick) const noexcept = 0;
};

inline constexpr std::uint32_t kPolicyLfu = 0;
inline constexpr std::uint32_t kPolicyLru = 1;

const Policy& policy_lfu() noexcept;
const Policy& policy_lru() noexcept;

// Any number: what a damaged superblock names is served by the default.
inline const Policy& policy_of(std::uint32_t number) noexcept {
  return number == kPolicyLru ? policy_lru() : policy_lfu();
}

}  // namespace larder::shm
