// lfu: frequency with ageing. The byte is {frequency:4, tick of last count:4}. A hit counts at most
// once per tick, which follows interest better than counting every hit and spares most stores.
// Recycling a page halves the frequency of what it keeps, so that yesterday's favourites fade.
#include <algorithm>

#include "shm/policy.h"

namespace larder::shm {
namespace {

constexpr std::uint8_t pack(unsigned frequency, unsigned tick) {
  return static_cast<std::uint8_t>(frequency << 4 | (tick & 15));
}

class Lfu final : public Policy {
 public:
  std::uint8_t on_insert(std::uint8_t tick) const noexcept override { return pack(0, tick); }
  std::uint8_t on_hit(std::uint8_t use, std::uint8_t tick) const noexcept override {
    const unsigned frequency = use >> 4;
    if ((use & 15) == (tick & 15) && frequency > 0) return use;
    return pack(std::min(frequency + 1, 15u), tick);
  }
  std::uint8_t rank(std::uint8_t use, std::uint8_t) const noexcept override { return use >> 4; }
  std::uint8_t on_survive(std::uint8_t use, std::uint8_t) const noexcept override {
    return pack(static_cast<unsigned>(use >> 5), use & 15);
  }
};

}  // namespace

const Policy& policy_lfu() noexcept {
  static const Lfu policy;
  return policy;
}

}  // namespace larder::shm
