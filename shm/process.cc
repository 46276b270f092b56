#include "shm/process.h"

#include <unistd.h>

#include <mutex>

#include "shm/clock.h"
#include "shm/fork.h"
#include "shm/load.h"
#include "shm/proc_facts.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;

// In Processes::unsure_since_: low bits of the incarnation that the time was noted for.
constexpr unsigned kMarkBits = 20;
constexpr std::uint64_t kMarkMask = (1ull << kMarkBits) - 1;

}  // namespace

Processes::~Processes() { leave(); }

Result<std::uint32_t> Processes::self() {
  if (const std::uint32_t owner = self_if_held(); owner != 0) [[likely]]
    return owner;
  return enter();
}

Result<std::uint32_t> Processes::enter() {
  LockFile* locks = segment_.lock_file();
  if (locks == nullptr) return {Code::kPermissionDenied, "the segment is mapped read-only"};
  std::lock_guard hold(locks->process_mutex());
  if (const std::uint32_t owner = self_if_held(); owner != 0) return owner;

  const std::uint32_t count = segment_.geometry().place_count;
  for (std::uint32_t i = 1; i < count; ++i) {
    Place& place = segment_.place(i);
    const std::uint64_t state = place.state.load(std::memory_order_acquire);
    if (state_alive(state) || !locks->lock(i)) continue;
    // The byte is ours now: nobody else can take the place, or was about to.
    if (place.state.load(std::memory_order_acquire) != state) {
      locks->unlock(i);
      continue;
    }
    const auto pid = static_cast<std::uint32_t>(getpid());
    const std::uint32_t incarnation = state_incarnation(state) + 1;
    place.pid.store(pid, kRelaxed);
    place.pid_namespace.store(own_namespace(), kRelaxed);
    place.start_ticks.store(facts_of(pid).start_ticks, kRelaxed);
    place.program.store(own_program(), kRelaxed);
    place.attached_ms.store(now_ms(), kRelaxed);
    forget_pins(i);
    for (auto& counter : place.counters.values) counter.store(0, kRelaxed);
    for (auto& counter : place.thread_counters.values) counter.store(0, kRelaxed);
    // release: who sees the place alive sees whose it is.
    place.state.store(make_state(incarnation, PlaceState::kAlive), std::memory_order_release);
    const std::uint32_t owner = make_owner(i, incarnation);
    owner_.store(owner, kRelaxed);
    thread_.store(__builtin_thread_pointer(), kRelaxed);
    own_counters_.store(&place.counters, kRelaxed);
    generation_.store(fork_generation(), std::memory_order_release);
    return owner;
  }
  return {Code::kNoSpace, "all " + std::to_string(count - 1) + " places of " + segment_.path() +
                              " are taken by live processes; run fewer, or use a larger segment"};
}

// What the place's process pinned; it is gone, or about to be.
void Processes::forget_pins(std::uint32_t index) noexcept {
  Place& place = segment_.place(index);
  for (auto& pin : place.pins) pin.store(0, kRelaxed);
  place.pins_used.store(0, kRelaxed);
  segment_.superblock().pinners[index / 64].fetch_and(~(1ull << index % 64),
                                                      std::memory_order_release);
}

void Processes::count_beside(Counter counter, std::uint64_t by) noexcept {
  const std::uint32_t owner = self_if_registered();
  CounterBlock& block = owner == 0 ? segment_.superblock().departed
                                   : segment_.place(owner_place(owner)).thread_counters;
  block.values[static_cast<std::size_t>(counter)].fetch_add(by, kRelaxed);
}

void Processes::retire_counters(Place& place) noexcept {
  for (std::size_t i = 0; i < kCounters; ++i) {
    segment_.superblock().departed.values[i].fetch_add(
        place.counters.values[i].exchange(0, kRelaxed) +
            place.thread_counters.values[i].exchange(0, kRelaxed),
        kRelaxed);
  }
}

void Processes::leave() noexcept {
  stop_leading();
  const std::uint32_t owner = self_if_registered();
  if (owner == 0) return;
  LockFile& locks = *segment_.lock_file();
  std::lock_guard hold(locks.process_mutex());
  generation_.store(kNoGeneration, std::memory_order_release);
  if (!holds_place(owner)) return;  // taken for dead: the place is free, or a newcomer's
  const std::uint32_t index = owner_place(owner);
  Place& place = segment_.place(index);
  const std::uint64_t state = place.state.load(kRelaxed);
  forget_pins(index);
  forget_loads(segment_, owner);
  retire_counters(place);
  place.state.store(make_state(state_incarnation(state), PlaceState::kFree),
                    std::memory_order_release);
  locks.unlock(index);
}

bool Processes::looks_dead(std::uint32_t index, std::uint64_t state) {
  Place& place = segment_.place(index);
  if (segment_.lock_file()->held_by_other(index)) {
    unsure_since_[index].store(0, kRelaxed);
    return false;
  }
  const std::uint32_t pid = place.pid.load(kRelaxed);
  const std::uint32_t pid_namespace = place.pid_namespace.load(kRelaxed);
  const std::uint64_t start_ticks = place.start_ticks.load(kRelaxed);
  const std::uint64_t program = place.program.load(kRelaxed);
  // Read of a place that changed hands meanwhile: not the one that was asked about.
  if (place.state.load(std::memory_order_acquire) != state) return false;
  if (pid_namespace != 0 && pid_namespace == own_namespace()) {
    const ProcessFacts facts = facts_of(pid);
    if (facts.start_ticks != 0 && start_ticks != 0 && facts.start_ticks != start_ticks) return true;
    // Our own record locks never show as held, and a process whose first thread has ended looks
    // like a zombie: who asks is alive, unless that was another program.
    if (pid == static_cast<std::uint32_t>(getpid())) return program != own_program();
    if (!facts.exists || facts.ended) return true;
    // It lives, but perhaps as a program that replaced the one that had the place.
    return !may_map(pid, &segment_.superblock());
  }
  const std::uint64_t now = now_ms();
  const std::uint64_t mark = state_incarnation(state) & kMarkMask;
  const std::uint64_t noted = unsure_since_[index].load(kRelaxed);
  if (noted == 0 || (noted & kMarkMask) != mark) {
    unsure_since_[index].store(now << kMarkBits | mark, kRelaxed);
    return false;
  }
  return now - (noted >> kMarkBits) >= kGraceMs;
}

bool Processes::is_dead(std::uint32_t owner) {
  const std::uint32_t index = owner_place(owner);
  if (index == 0 || index >= segment_.geometry().place_count) return true;  // damage: nobody's name
  const std::uint64_t state = segment_.place(index).state.load(std::memory_order_acquire);
  // That one left, and its place is free or another's.
  if (!state_alive(state) || make_owner(index, state_incarnation(state)) != (owner & ~kWaiters)) {
    return true;
  }
  return looks_dead(index, state);
}

bool Processes::was_here() const noexcept {
  const auto pid = static_cast<std::uint32_t>(getpid());
  for (std::uint32_t i = 1; i < segment_.geometry().place_count; ++i) {
    const Place& place = segment_.place(i);
    if (state_alive(place.state.load(std::memory_order_acquire)) &&
        place.pid.load(kRelaxed) == pid && place.program.load(kRelaxed) != own_program() &&
        place.pid_namespace.load(kRelaxed) == own_namespace()) {
      return true;
    }
  }
  return false;
}

bool Processes::with_dead(std::uint32_t owner, const std::function<void()>& claim) {
  LockFile& locks = *segment_.lock_file();
  const std::uint32_t index = owner_place(owner);
  std::lock_guard hold(locks.process_mutex());
  if (!is_dead(owner)) return false;
  if (!holds_place(owner)) {
    // No such place, or it went on to a newcomer, who holds the byte; the claim's own CAS decides.
    claim();
    return true;
  }
  if (!locks.lock(index)) return false;
  const bool still_dead = is_dead(owner);
  if (still_dead) claim();
  locks.unlock(index);
  return still_dead;
}

unsigned Processes::reap(const std::function<void(std::uint32_t)>& release) {
  unsigned reaped = 0;
  LockFile& locks = *segment_.lock_file();
  for (std::uint32_t i = 1; i < segment_.geometry().place_count; ++i) {
    Place& place = segment_.place(i);
    const std::uint64_t state = place.state.load(std::memory_order_acquire);
    if (!state_alive(state)) continue;
    const std::uint32_t owner = make_owner(i, state_incarnation(state));
    if (owner == self_if_registered() || !is_dead(owner)) continue;
    // What it held first, its place last: a reaper that dies between leaves the rest to the next.
    release(owner);
    std::lock_guard hold(locks.process_mutex());
    // Reaped by another meanwhile, and perhaps ours by now, through another table: record locks do
    // not tell our tables apart, and giving the byte back below would take it from that one.
    if (place.state.load(std::memory_order_acquire) != state) continue;
    if (!locks.lock(i)) continue;
    if (place.state.load(std::memory_order_acquire) == state && looks_dead(i, state)) {
      forget_pins(i);
      forget_loads(segment_, owner);
      retire_counters(place);
      place.state.store(make_state(state_incarnation(state), PlaceState::kFree),
                        std::memory_order_release);
      ++reaped;
    }
    locks.unlock(i);
  }
  return reaped;
}

// ---- leadership -------------------------------------------------------------------------------

bool Processes::try_lead() noexcept {
  LockFile& locks = *segment_.lock_file();
  if (!locks.leader_mutex().try_lock()) return false;
  if (!locks.lock(segment_.geometry().place_count)) {
    locks.leader_mutex().unlock();
    return false;
  }
  leading_generation_.store(fork_generation(), kRelaxed);
  return true;
}

void Processes::stop_leading() noexcept {
  // A child of the leader does not lead, and must not undo what its parent holds.
  if (leading_generation_.load(kRelaxed) != fork_generation()) return;
  leading_generation_.store(0, kRelaxed);
  LockFile& locks = *segment_.lock_file();
  locks.unlock(segment_.geometry().place_count);
  locks.leader_mutex().unlock();
}

int Processes::leader_pid() const noexcept {
  const std::uint64_t leader = segment_.superblock().sync.leader.load(std::memory_order_acquire);
  const std::uint32_t index = owner_place(leader_owner(leader));
  if (index == 0 || index >= segment_.geometry().place_count) return 0;
  const Place& place = segment_.place(index);
  if (!state_alive(place.state.load(std::memory_order_acquire))) return 0;
  if (place.pid_namespace.load(kRelaxed) != own_namespace()) return 0;
  return static_cast<int>(place.pid.load(kRelaxed));
}

unsigned Processes::alive_count() const noexcept {
  unsigned alive = 0;
  for (std::uint32_t i = 1; i < segment_.geometry().place_count; ++i) {
    if (state_alive(segment_.place(i).state.load(kRelaxed))) ++alive;
  }
  return alive;
}

RequestTotals Processes::request_totals() const noexcept {
  RequestTotals sum;
  const auto add = [&sum](const CounterBlock& block) {
    sum.hits += block.values[static_cast<std::size_t>(Counter::kLocalHits)].load(kRelaxed);
    sum.misses += block.values[static_cast<std::size_t>(Counter::kLocalMisses)].load(kRelaxed);
  };
  add(segment_.superblock().departed);
  for (std::uint32_t i = 1; i < segment_.geometry().place_count; ++i) {
    const Place& place = segment_.place(i);
    if (!state_alive(place.state.load(kRelaxed))) continue;
    add(place.counters);
    add(place.thread_counters);
  }
  return sum;
}

}  // namespace larder::shm
