#include "tools/shmctl/health.h"

#include <fcntl.h>
#include <unistd.h>

#include <optional>

#include "shm/proc_facts.h"
#include "shm/process.h"
#include "shm/segment_files.h"

namespace larder::tools {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;

const char* state_name(char state) {
  switch (state) {
    case 'R':
      return "running";
    case 'S':
      return "sleeping";
    case 'D':
      return "waiting for a device";
    case 'T':
    case 't':
      return "stopped";
    case 'Z':
    case 'X':
      return "a zombie";
    default:
      return "alive";
  }
}

}  // namespace

const char* alive_name(Alive alive) {
  return alive == Alive::kYes ? "yes" : alive == Alive::kNo ? "no" : "unknown";
}

Liveness::Liveness(shm::Segment& segment) : segment_(segment) {
  const std::string path = shm::lock_path_of(segment.path(), segment.superblock().instance);
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

Liveness::~Liveness() {
  if (fd_ >= 0) ::close(fd_);
}

int Liveness::byte_held(std::uint64_t byte) const noexcept {
  if (fd_ < 0) return -1;
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(byte);
  lock.l_len = 1;
  if (fcntl(fd_, F_GETLK, &lock) != 0) return -1;
  return lock.l_type == F_UNLCK ? 0 : 1;
}

Life Liveness::of_place(std::uint32_t index) const {
  const shm::Place& place = segment_.place(index);
  const int held = byte_held(index);
  if (held < 0) return {Alive::kUnknown, "no lock file to ask"};
  if (place.pid_namespace.load(kRelaxed) != shm::own_namespace()) {
    if (held == 1) return {Alive::kYes, "in another PID namespace"};
    return {Alive::kUnknown, "its byte is free; in another PID namespace"};
  }
  const shm::ProcessFacts facts = shm::facts_of(place.pid.load(kRelaxed));
  const bool same = facts.start_ticks != 0 && facts.start_ticks == place.start_ticks.load(kRelaxed);
  if (held == 1) return {Alive::kYes, same ? state_name(facts.state) : "holds its byte"};
  if (facts.exists && facts.start_ticks == 0) return {Alive::kUnknown, "/proc does not show it"};
  if (!same) return {Alive::kNo, "gone"};
  if (facts.ended) return {Alive::kNo, "a zombie"};
  return {Alive::kYes, "alive, but lost its lock byte"};
}

Alive Liveness::leading() const {
  const int held = byte_held(segment_.geometry().place_count);
  return held < 0 ? Alive::kUnknown : held == 1 ? Alive::kYes : Alive::kNo;
}

namespace {

// The dead holder of a stripe's lock, if that is what its word names.
std::optional<DeadLock> dead_holder(shm::Segment& segment, std::uint32_t stripe, std::uint32_t word,
                                    const Liveness& liveness) {
  const std::uint32_t index = shm::owner_place(word);
  DeadLock dead{stripe, index, 0, false};
  if (index == 0 || index >= segment.geometry().place_count) return dead;
  const shm::Place& place = segment.place(index);
  const std::uint64_t state = place.state.load(kAcquire);
  if (!shm::state_alive(state) ||
      shm::make_owner(index, shm::state_incarnation(state)) != (word & ~shm::kWaiters)) {
    return dead;
  }
  dead.pid = place.pid.load(kRelaxed);
  dead.place_is_its = true;
  const bool gone = liveness.of_place(index).alive == Alive::kNo;
  // The place may have changed hands while we asked; then the answer was about another.
  if (!gone || place.state.load(kAcquire) != state) return std::nullopt;
  return dead;
}

}  // namespace

Holder holder_of(shm::Segment& segment, std::uint32_t lock_word, const Liveness& liveness) {
  Holder holder{shm::owner_place(lock_word), 0, {Alive::kNo, "gone"}};
  if (holder.place == 0 || holder.place >= segment.geometry().place_count) return holder;
  const shm::Place& place = segment.place(holder.place);
  const std::uint64_t state = place.state.load(kAcquire);
  const std::uint32_t owner = shm::make_owner(holder.place, shm::state_incarnation(state));
  if (!shm::state_alive(state) || owner != (lock_word & ~shm::kWaiters)) return holder;
  holder.pid = place.pid.load(kRelaxed);
  holder.life = liveness.of_place(holder.place);
  return holder;
}

Health health(shm::Segment& segment, const Liveness& liveness) {
  Health found;
  found.closed = shm::is_closed(segment.superblock().hot.epoch.load(kAcquire));
  for (std::uint32_t i = 0; i < segment.geometry().stripe_count; ++i) {
    const shm::Stripe& stripe = segment.stripe(i);
    if (stripe.bypass.load(kAcquire) != 0) ++found.bypassed_stripes;
    const std::uint32_t word = stripe.lock.load(kAcquire);
    if (word == 0) continue;
    ++found.locked_stripes;
    const auto dead = dead_holder(segment, i, word, liveness);
    // Taken over while we looked: cured. A waiter that came meanwhile only sets its bit.
    const bool still = ((stripe.lock.load(kAcquire) ^ word) & ~shm::kWaiters) == 0;
    if (dead && still) found.dead_locks.push_back(*dead);
  }
  return found;
}

}  // namespace larder::tools
