#include "shm/load.h"

#include <algorithm>
#include <bit>

#include "shm/clock.h"
#include "shm/fork.h"
#include "shm/futex.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;

// ---- the claim word ---------------------------------------------------------------------------

constexpr unsigned kUntilShift = 32;
constexpr unsigned kTagShift = kUntilShift + kLoadUntilBits;
constexpr std::uint32_t kUntilMask = (1u << kLoadUntilBits) - 1;
static_assert(kTagShift + kLoadTagBits == 64);

std::uint32_t owner_of(std::uint64_t claim) {
  return static_cast<std::uint32_t>(claim) & ~kWaiters;
}
std::uint64_t without_mark(std::uint64_t claim) { return claim & ~std::uint64_t{kWaiters}; }

// Not the bits that choose the word.
std::uint64_t tag_bits(std::uint64_t hash) { return hash >> kTagShift << kTagShift; }
bool is_of(std::uint64_t claim, std::uint64_t hash) {
  return claim != 0 && tag_bits(claim) == tag_bits(hash);
}

std::uint64_t make_claim(std::uint64_t hash, std::uint64_t until_ms, std::uint32_t owner) {
  const std::uint64_t units = (until_ms + (1u << kLoadUnitBits) - 1) >> kLoadUnitBits;
  return tag_bits(hash) | (units & kUntilMask) << kUntilShift | owner;
}

// Milliseconds that are left of a claim; 0 for one that is over, or longer than any can be.
std::uint64_t left_of(std::uint64_t claim, std::uint64_t now) {
  const auto until = static_cast<std::uint32_t>(claim >> kUntilShift);
  const auto units = (until - static_cast<std::uint32_t>(now >> kLoadUnitBits)) & kUntilMask;
  constexpr std::uint64_t kMost = (kLoadLeaseMax.count() >> kLoadUnitBits) + 1;
  return units > kMost ? 0 : std::uint64_t{units} << kLoadUnitBits;
}

// The half that names the owner is what waiters sleep on.
const void* owner_half(const Atomic<std::uint64_t>& word) {
  const auto* halves = reinterpret_cast<const std::uint32_t*>(&word);
  return halves + (std::endian::native == std::endian::little ? 0 : 1);
}

// Replaces a claim whether or not somebody has begun to wait for it meanwhile, and wakes who has.
bool replace(Atomic<std::uint64_t>& word, std::uint64_t claim, std::uint64_t with) noexcept {
  std::uint64_t now = word.load(kRelaxed);
  while (now != 0 && without_mark(now) == without_mark(claim)) {
    // release: who sees the end of a load sees what it stored.
    if (!word.compare_exchange_weak(now, with, std::memory_order_acq_rel, kRelaxed)) continue;
    if (now & kWaiters) futex_wake(owner_half(word));
    return true;
  }
  return false;
}

}  // namespace

Atomic<std::uint64_t>& Loads::word_of(std::uint64_t hash) const noexcept {
  return segment_.claim_word(static_cast<std::uint32_t>(hash) &
                             (segment_.geometry().load_count - 1));
}

bool Loads::may_be_taken(std::uint64_t claim) {
  return left_of(claim, now_ms()) == 0 || processes_.is_dead(owner_of(claim));
}

Claimed Loads::claim(std::uint64_t hash, std::chrono::milliseconds lease, LoadLease& load) {
  const std::uint32_t self = processes_.self_or_none();
  if (self == 0) return Claimed::kNoWord;
  Atomic<std::uint64_t>& word = word_of(hash);
  const auto length = static_cast<std::uint64_t>(
      std::clamp(lease, std::chrono::milliseconds{0}, kLoadLeaseMax).count());
  std::uint64_t held = word.load(kAcquire);
  for (;;) {
    if (held != 0 && !may_be_taken(held)) {
      return is_of(held, hash) ? Claimed::kOther : Claimed::kNoWord;
    }
    const std::uint64_t claim = make_claim(hash, now_ms() + length, self);
    // The incarnation in the word keeps a late comer's exchange from a newcomer's claim.
    const bool taken = held == 0 ? word.compare_exchange_strong(held, claim, kAcquire)
                                 : replace(word, held, claim);
    if (taken) {
      processes_.count(Counter::kLoads);
      if (held != 0) processes_.count(Counter::kLoadsTakenOver);
      load = {&word, claim, fork_generation()};
      return Claimed::kMine;
    }
    held = word.load(kAcquire);
  }
}

bool Loads::wait(std::uint64_t hash, std::chrono::milliseconds timeout) {
  Atomic<std::uint64_t>& word = word_of(hash);
  const std::uint64_t deadline =
      now_ms() + static_cast<std::uint64_t>(std::max<std::int64_t>(timeout.count(), 0));
  std::uint64_t claim = word.load(kAcquire);
  if (is_of(claim, hash)) processes_.count(Counter::kLoadWaits);
  for (;; claim = word.load(kAcquire)) {
    if (!is_of(claim, hash) || may_be_taken(claim)) return true;
    const std::uint64_t now = now_ms();
    if (now >= deadline) return false;
    // Marked, so that its end wakes us.
    const std::uint64_t marked = claim | kWaiters;
    if (claim != marked && !word.compare_exchange_strong(claim, marked, kRelaxed)) continue;
    futex_wait(owner_half(word), static_cast<std::uint32_t>(marked),
               std::min(kWaitSliceMs, deadline - now));
  }
}

void Loads::end_late() noexcept {
  const std::uint64_t now = now_ms();
  for (std::uint32_t i = 0; i < segment_.geometry().load_count; ++i) {
    Atomic<std::uint64_t>& word = segment_.claim_word(i);
    const std::uint64_t claim = word.load(kRelaxed);
    if (claim != 0 && left_of(claim, now) == 0) replace(word, claim, 0);
  }
}

bool Loads::end(LoadLease& load) noexcept {
  const LoadLease ended = load;
  load = {};
  if (ended.word == nullptr || !is_here(ended.generation)) return false;
  return replace(*ended.word, ended.claim, 0);
}

bool Loads::is_held(const LoadLease& load) noexcept {
  return load.word != nullptr && is_here(load.generation) &&
         without_mark(load.word->load(kAcquire)) == load.claim;
}

void forget_loads(Segment& segment, std::uint32_t owner) noexcept {
  for (std::uint32_t i = 0; i < segment.geometry().load_count; ++i) {
    Atomic<std::uint64_t>& word = segment.claim_word(i);
    const std::uint64_t claim = word.load(kRelaxed);
    if (claim != 0 && owner_of(claim) == owner) replace(word, claim, 0);
  }
}

}  // namespace larder::shm
