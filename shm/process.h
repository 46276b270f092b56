// The process table: who is attached, who is dead, who leads.
//
// A process takes a place at its first call and holds a record lock on that place's byte of the
// lock file for as long as it lives. It is named by its owner word {incarnation, place}: the
// incarnation rises at every registration, so a claim left by the dead never fits a newcomer.
//
// Dead means: the byte is free, and, within one PID namespace, the process is gone, a zombie, its
// pid has another start time, or it does not map the segment (it replaced itself by another
// program). A free byte alone is no proof: any close of the lock file by a careless `closefrom`
// drops it. Across namespaces, where pids say nothing, a byte that stays free for `kGraceMs` is
// taken as death. A program that replaced one with a place by itself, and uses the segment too,
// tells its own place from what was left under its pid, see was_here().
//
// Threads: any.  Fork: a child takes its own place.  Crash: the place is reaped by anyone.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>

#include "larder/status.h"
#include "shm/fork.h"
#include "shm/policy.h"
#include "shm/segment.h"

namespace larder::shm {

inline constexpr std::uint64_t kGraceMs = 10'000;

class Processes {
 public:
  explicit Processes(Segment& segment) : segment_(segment) {}
  // Gives the place back; nothing of this process may still be inside the segment.
  ~Processes();
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // This process's owner word, registering if need be. kNoSpace: the table is full of the living.
  Result<std::uint32_t> self();
  // The same; 0 where that fails.
  std::uint32_t self_or_none() {
    if (const std::uint32_t owner = self_if_held(); owner != 0) [[likely]]
      return owner;
    const auto entered = enter();
    return entered ? *entered : 0;
  }
  // The same without registering; 0 when this process has no place (yet).
  std::uint32_t self_if_registered() const noexcept;
  // Adds to this process's counters, or to those of the departed while it has no place. Prefork
  // workers have one thread that matters: the one that registered adds without a locked
  // instruction, because nobody else writes its block.
  void count(Counter counter, std::uint64_t by = 1) noexcept;
  void leave() noexcept;

  bool is_dead(std::uint32_t owner);
  // Is there a place of a program that had this process before it replaced itself? Others cannot
  // tell that one is dead.
  bool was_here() const noexcept;
  // Runs `claim` while holding the byte of a dead owner, so that nobody else takes over from it at
  // the same time. False, without running it: the owner lives, or somebody else is at it.
  bool with_dead(std::uint32_t owner, const std::function<void()>& claim);
  // For every dead place: `release` what it held, then free the place. Returns how many.
  unsigned reap(const std::function<void(std::uint32_t owner)>& release);

  // Leadership of this host; held until `stop_leading` or death. Never waits.
  bool try_lead() noexcept;
  void stop_leading() noexcept;
  // Pid of a leader in this PID namespace, to be watched for its death; 0: none or not visible.
  int leader_pid() const noexcept;

  unsigned alive_count() const noexcept;
  // Local hits and misses of every process that ever attached.
  RequestTotals request_totals() const noexcept;

 private:
  Result<std::uint32_t> enter();
  // Somebody may have taken us for dead and freed our place; a name that nobody honours any more
  // would let everybody into the stripes that we lock. 0: then we must take another place.
  std::uint32_t self_if_held() const noexcept {
    const std::uint32_t owner = self_if_registered();
    return owner != 0 && holds_place(owner) ? owner : 0;
  }
  // Is the place still that of `owner`, and not free or another's?
  bool holds_place(std::uint32_t owner) const noexcept;
  void forget_pins(std::uint32_t index) noexcept;
  [[gnu::cold]] void count_beside(Counter counter, std::uint64_t by) noexcept;
  void retire_counters(Place& place) noexcept;
  bool looks_dead(std::uint32_t place, std::uint64_t state);

  Segment& segment_;
  // {fork generation, owner word}: a child sees its parent's generation and registers itself.
  std::atomic<std::uint64_t> generation_{kNoGeneration};
  std::atomic<std::uint32_t> owner_{0};
  std::atomic<void*> thread_{nullptr};                // the one that registered, while it lives
  std::atomic<CounterBlock*> own_counters_{nullptr};  // that thread's
  std::atomic<std::uint64_t> leading_generation_{0};
  // When this process first saw a byte of another namespace free, in ms, and of which incarnation.
  std::array<std::atomic<std::uint64_t>, kMaxPlaces> unsure_since_{};
};

// The parts of Place::state.
constexpr std::uint32_t state_incarnation(std::uint64_t state) {
  return static_cast<std::uint32_t>(state >> 32);
}
constexpr bool state_alive(std::uint64_t state) {
  return static_cast<std::uint32_t>(state) == static_cast<std::uint32_t>(PlaceState::kAlive);
}
constexpr std::uint64_t make_state(std::uint32_t incarnation, PlaceState state) {
  return std::uint64_t{incarnation} << 32 | static_cast<std::uint32_t>(state);
}

inline std::uint32_t Processes::self_if_registered() const noexcept {
  // acquire: pairs with the release in enter(), owner_ is of this generation.
  if (!is_here(generation_.load(std::memory_order_acquire))) return 0;
  return owner_.load(std::memory_order_relaxed);
}

inline bool Processes::holds_place(std::uint32_t owner) const noexcept {
  const std::uint32_t index = owner_place(owner);
  if (index == 0 || index >= segment_.geometry().place_count) return false;
  const std::uint64_t state = segment_.place(index).state.load(std::memory_order_acquire);
  return state_alive(state) && make_owner(index, state_incarnation(state)) == (owner & ~kWaiters);
}

inline void Processes::count(Counter counter, std::uint64_t by) noexcept {
  // acquire: pairs with the release in enter(), what is read next is of this generation.
  if (is_here(generation_.load(std::memory_order_acquire)) &&
      thread_.load(std::memory_order_relaxed) == __builtin_thread_pointer()) [[likely]] {
    CounterBlock& block = *own_counters_.load(std::memory_order_relaxed);
    Atomic<std::uint64_t>& value = block.values[static_cast<std::size_t>(counter)];
    value.store(value.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  } else {
    count_beside(counter, by);
  }
}

}  // namespace larder::shm
