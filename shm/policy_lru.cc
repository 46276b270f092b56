// lru: second chance by recency. The byte is {used since insertion or last survival:1, tick:7}.
// Pages are recycled oldest first; what was used since it was written gets one more round.
#include "shm/policy.h"

namespace larder::shm {
namespace {

constexpr std::uint8_t kUsed = 0x80;

class Lru final : public Policy {
 public:
  std::uint8_t on_insert(std::uint8_t tick) const noexcept override { return tick & 0x7f; }
  std::uint8_t on_hit(std::uint8_t, std::uint8_t tick) const noexcept override {
    return static_cast<std::uint8_t>(kUsed | (tick & 0x7f));
  }
  // Recently used first: an age of 0 ranks highest.
  std::uint8_t rank(std::uint8_t use, std::uint8_t tick) const noexcept override {
    if (!(use & kUsed)) return 0;
    return static_cast<std::uint8_t>(128 - ((tick - use) & 0x7f));
  }
  std::uint8_t on_survive(std::uint8_t use, std::uint8_t) const noexcept override {
    return use & 0x7f;
  }
};

}  // namespace

const Policy& policy_lru() noexcept {
  static const Lru policy;
  return policy;
}

}  // namespace larder::shm
