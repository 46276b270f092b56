#include "tests/sim/clock.h"

#include "shm/clock.h"

namespace larder {
namespace {

constexpr std::uint64_t kMonotonicMs = 1'000'000;
constexpr std::uint64_t kBootMs = 5'000'000;
constexpr std::uint64_t kUnixMs = 1'700'000'000'000;
constexpr std::uint64_t kTickMs = 10;  // the coarsest kernel's

constexpr sim::HostClock kTrueClock;
const sim::HostClock* reading = &kTrueClock;

std::uint64_t ticked(std::uint64_t ms) { return ms / kTickMs * kTickMs; }

}  // namespace

namespace sim {

Reading::Reading(const HostClock& clock) : before_(reading) { reading = &clock; }
Reading::~Reading() { reading = before_; }

std::uint64_t redis_unix_ms() { return kUnixMs + true_time / kMs; }

}  // namespace sim

namespace shm {

std::uint64_t now_ms() noexcept { return kBootMs + sim::true_time / sim::kMs; }

CoarseTime coarse_now() noexcept {
  const auto real = static_cast<std::int64_t>(sim::true_time) + reading->step_us;
  return {ticked(kMonotonicMs + (sim::true_time - reading->suspended) / sim::kMs),
          ticked(kUnixMs + static_cast<std::uint64_t>(real / static_cast<std::int64_t>(sim::kMs)))};
}

namespace detail {

// No second was ever looked at, so that every read asks for the virtual time.
std::atomic<std::uint64_t> far_ms{0};
std::atomic<std::int64_t> looked_second{-1};

bool look_whether_past(std::uint64_t deadline_ms) noexcept { return deadline_ms <= now_ms(); }

}  // namespace detail
}  // namespace shm
}  // namespace larder
