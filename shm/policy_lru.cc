// lru: recency, sampled. A slot's word is the tick of its last use; the victim is the oldest of
// some 70 entries, those of eight neighbouring buckets. Buckets are chosen by hash, so neighbours
// are strangers to each other, and a hand that sweeps the stripe comes by everyone in turn.
#include "shm/policy.h"

namespace larder::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

constexpr std::uint32_t kTicksPerTurnover = 64;
constexpr std::uint32_t kSampleBuckets = 8;

constexpr std::uint16_t word_at(std::uint32_t tick) {
  return static_cast<std::uint16_t>(tick & kUseTickMask);
}

class Lru final : public Policy {
 public:
  std::uint16_t on_insert(PolicyView& view, std::uint64_t) const noexcept override {
    return word_at(count_insert(view, kTicksPerTurnover));
  }
  std::uint16_t on_hit(std::uint16_t, std::uint32_t tick) const noexcept override {
    return word_at(tick);
  }

  SlotRef victim(PolicyView& view) const noexcept override {
    const std::uint32_t tick = view.tick.load(kRelaxed);
    const auto count = static_cast<std::uint32_t>(view.buckets.size());
    std::uint32_t bucket = view.words.hand.load(kRelaxed) % count;
    SlotRef oldest{bucket, 0};
    std::uint32_t oldest_age = 0;
    // On beyond the sample while nothing at all was found.
    for (std::uint32_t i = 0; i < count && (i < kSampleBuckets || oldest_age == 0); ++i) {
      for (std::uint32_t slot = 0; slot < kSlotsPerBucket; ++slot) {
        if (view.buckets[bucket].slots[slot].load(kRelaxed) == 0) continue;
        const std::uint32_t age = 1 + age_of(view.buckets[bucket].use[slot].load(kRelaxed), tick);
        if (age <= oldest_age) continue;
        oldest_age = age;
        oldest = {bucket, slot};
      }
      bucket = bucket + 1 == count ? 0 : bucket + 1;
    }
    view.words.hand.store(bucket, kRelaxed);
    prefetch_buckets(view, bucket, kSampleBuckets);
    return oldest;
  }

  void on_evict(PolicyView&, std::uint16_t, std::uint64_t) const noexcept override {}
  void on_remove(PolicyView&, std::uint16_t) const noexcept override {}
  std::uint32_t worth(std::uint16_t use, std::uint32_t tick) const noexcept override {
    return kUseTickMask - age_of(use, tick);
  }
};

}  // namespace

const Policy& policy_lru() noexcept {
  static const Lru policy;
  return policy;
}

}  // namespace larder::shm
