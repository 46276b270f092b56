// lfu: W-TinyLFU (Einziger, Friedman, Manes) without lists. A newcomer enters the window; the
// oldest of the window is the candidate for the main part, and the least wanted of the main part is
// the victim; whichever of the two was used more often stays. So a scan passes through the window
// and a loop that is too long keeps what fits of it. Oldest and least wanted are taken from a
// sample of some 70 entries, those of eight neighbouring buckets; buckets are chosen by hash, so
// neighbours are strangers to each other. A hand sweeps the stripe and comes by everyone in turn.
//
// The word of a slot: {region:2, frequency:4, tick of the last counted use:10}.
//   window      came in lately
//   probation   in the main part, not used there
//   protected   in the main part and used there: preferred to those on probation, whatever their
//               frequencies, as long as the last use is not more than four turnovers ago
//
// Frequencies: an entry counts once a tick at most, which follows interest better than counting
// every hit and spares most stores. Every sixteen turnovers all are halved, by looking at the tick:
// an epoch is 128 ticks, and a word's frequency is shifted right by the epochs since its last use.
// What is evicted leaves its frequency to the sketch and finds it there when it comes back.
//
// The window's share is found by climbing, as in Caffeine and with its constants: after each sample
// of requests it is moved on in the same direction if the hit ratio rose and turned round if it
// fell, by less and less until the ratio jumps or the steps are tiny. One thing is added. At the
// end of the range the window cannot move on, so a change there is no judgement on it; the climber
// rests, and each try to leave that fails doubles the rest. Otherwise every second sample would be
// spent on such tries, and each costs a loop what it had.
#include <algorithm>
#include <cstdlib>

#include "shm/policy.h"
#include "shm/sketch.h"

namespace larder::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

constexpr std::uint32_t kTicksPerTurnover = 8;
constexpr std::uint32_t kEpochTickBits = 7;  // an epoch is sixteen turnovers
static_assert(kUseTickMask >> kEpochTickBits == kEpochMask);

constexpr std::uint32_t kSampleBuckets = 8;
constexpr std::uint32_t kLookBuckets = 64;  // for a candidate, when the sample has none
constexpr std::uint32_t kMovesPerVictim = 4;
constexpr std::uint32_t kShelterTicks = 4 * kTicksPerTurnover;  // a use protects for so long

// Shares and ratios, in 1/65536.
constexpr std::int32_t kOne = 65536;
constexpr std::int32_t kLeastWindow = kOne / 100;
constexpr std::int32_t kMostWindow = kOne * 80 / 100;
constexpr std::int32_t kFirstStep = kOne / 16;
constexpr std::int32_t kLeastStep = kFirstStep / 16;  // slow changes would pass unnoticed
constexpr std::int32_t kStepDecay = kOne * 98 / 100;
constexpr std::int32_t kJump = kOne * 5 / 100;
constexpr std::uint32_t kMostRest = 4;         // power of two of samples
constexpr std::uint32_t kSampleTurnovers = 5;  // requests between two steps, in capacities
constexpr std::uint64_t kLeastCapacity = 64;   // fewer make no sample
constexpr std::uint32_t kInsertsPerQuestion = 256;

enum Region : std::uint32_t { kWindow = 0, kProbation = 1, kProtected = 2 };  // 3: protected too

constexpr std::uint16_t make_use(std::uint32_t region, std::uint32_t frequency,
                                 std::uint32_t tick) {
  return static_cast<std::uint16_t>(region << 14 | frequency << 10 | (tick & kUseTickMask));
}
constexpr std::uint32_t region_of(std::uint32_t use) { return use >> 14; }
constexpr std::uint32_t epoch_at(std::uint32_t tick) {
  return (tick & kUseTickMask) >> kEpochTickBits;
}
constexpr std::uint32_t frequency_of(std::uint32_t use, std::uint32_t tick) {
  return aged_by(use >> 10 & kMaxFrequency, epoch_at(tick) - epoch_at(use));
}

// ---- the climber ------------------------------------------------------------------------------

std::int32_t window_share(const PolicyShared& shared) {
  const std::uint32_t share = shared.window_share.load(kRelaxed);
  return static_cast<std::int32_t>(std::clamp<std::uint32_t>(share, kLeastWindow, kMostWindow));
}

// Takes a step, given the hit ratio since the last one.
void climb(PolicyShared& shared, std::int32_t hit_ratio) {
  const std::uint32_t before = shared.hit_ratio.load(kRelaxed);
  shared.hit_ratio.store(static_cast<std::uint32_t>(hit_ratio), kRelaxed);
  const std::int32_t change =
      hit_ratio - static_cast<std::int32_t>(std::min<std::uint32_t>(before, kOne));
  std::int32_t step = static_cast<std::int32_t>(shared.step.load(kRelaxed));
  step = step == 0 ? -kFirstStep : std::clamp(step, -kFirstStep, kFirstStep);
  std::uint32_t rest = std::min(shared.rest.load(kRelaxed), 1u << kMostRest);
  if (rest > 0) {
    // The window did not move, so what changed is no judgement on it. A jump down says that the
    // requests are others now.
    if (change <= -kJump) {
      rest = 1;
      shared.rests.store(0, kRelaxed);
    }
    shared.rest.store(rest - 1, kRelaxed);
    if (rest > 1) return;
  } else if (change < 0) {
    step = -step;
  }
  const std::int32_t wanted = window_share(shared) + step;
  const std::int32_t share = std::clamp(wanted, kLeastWindow, kMostWindow);
  shared.window_share.store(static_cast<std::uint32_t>(share), kRelaxed);
  if (std::abs(change) >= kJump || std::abs(step) < kLeastStep) {
    step = step < 0 ? -kFirstStep : kFirstStep;
  } else {
    step = static_cast<std::int32_t>(std::int64_t{step} * kStepDecay / kOne);
  }
  if (share != wanted) {
    // At the end of the range. The next step leads away from it, later each time.
    const std::uint32_t rests = std::min(shared.rests.load(kRelaxed), kMostRest);
    shared.rest.store(1u << rests, kRelaxed);
    shared.rests.store(rests + 1, kRelaxed);
    step = -step;
  } else if (share > kLeastWindow + 2 * kFirstStep && share < kMostWindow - 2 * kFirstStep) {
    shared.rests.store(0, kRelaxed);
  }
  shared.step.store(static_cast<std::uint32_t>(step), kRelaxed);
}

// Takes a step if there were enough requests since the last.
void consider_climbing(const PolicyView& view) {
  PolicyShared& shared = view.shared;
  const RequestTotals totals = view.totals(view.context);
  const std::uint64_t requests = totals.hits + totals.misses;
  std::uint64_t last = shared.requests.load(kRelaxed);
  const std::uint64_t hits_before = shared.hits.load(kRelaxed);
  const std::uint64_t made = requests - last;
  if (made < std::max<std::uint64_t>(view.capacity, kLeastCapacity) * kSampleTurnovers) return;
  // Another stripe may be at it this moment: the sample is for one.
  if (!shared.requests.compare_exchange_strong(last, requests, kRelaxed)) return;
  shared.hits.store(totals.hits, kRelaxed);
  const std::uint64_t hits = totals.hits - hits_before;
  if (made >> 40 != 0 || hits > made) return;  // totals that ran backwards, or damage
  climb(shared, static_cast<std::int32_t>(hits * kOne / made));
}

// ---- choosing ---------------------------------------------------------------------------------

// The best found so far of a kind, as {1, rank:15, bucket of the search:8 and slot:4}; 0: none.
using Pick = std::uint32_t;
constexpr std::uint32_t kPickFound = 1u << 31;

constexpr Pick make_pick(std::uint32_t rank, std::uint32_t bucket, std::uint32_t slot) {
  return kPickFound | rank << 12 | bucket << 4 | slot;
}

struct Sample {
  Pick candidate = 0;  // the oldest of the window; of equals, the least used
  Pick victim = 0;  // the least used on probation, of equals the oldest; else the oldest protected
  std::uint32_t window = 0;
};

class Search {
 public:
  Search(PolicyView& view)
      : view_(view),
        tick_(view.tick.load(kRelaxed)),
        count_(static_cast<std::uint32_t>(view.buckets.size())),
        begin_(view.words.hand.load(kRelaxed) % count_),
        sampled_(std::min(kSampleBuckets, count_)) {}

  Sample sample() const {
    Sample found;
    for (std::uint32_t i = 0; i < sampled_; ++i) look_at(i, found);
    return found;
  }

  // A candidate beyond the sample.
  Pick look_further() const {
    Sample found;
    const std::uint32_t end = std::min(kLookBuckets, count_);
    for (std::uint32_t i = sampled_; i < end && found.candidate == 0; ++i) look_at(i, found);
    return found.candidate;
  }

  // Anything at all.
  SlotRef first_taken() const {
    for (std::uint32_t i = 0; i < count_; ++i) {
      for (std::uint32_t slot = 0; slot < kSlotsPerBucket; ++slot) {
        if (bucket(i).slots[slot].load(kRelaxed) != 0) return {index(i), slot};
      }
    }
    return {begin_, 0};
  }

  SlotRef place(Pick pick) const { return {index(pick >> 4 & 0xff), pick & 0xf}; }
  Atomic<std::uint16_t>& use(Pick pick) const { return bucket(pick >> 4 & 0xff).use[pick & 0xf]; }
  std::uint32_t frequency(Pick pick) const { return frequency_of(use(pick).load(kRelaxed), tick_); }
  void move_to_main(Pick pick) const {
    // A reader may count a hit at this moment.
    use(pick).fetch_or(kProbation << 14, kRelaxed);
  }

  // Whether the hand came round.
  bool advance_hand() const {
    const bool round = begin_ + sampled_ >= count_;
    view_.words.hand.store(round ? 0 : begin_ + sampled_, kRelaxed);
    return round;
  }

 private:
  std::uint32_t index(std::uint32_t i) const {
    return begin_ + i < count_ ? begin_ + i : begin_ + i - count_;
  }
  Bucket& bucket(std::uint32_t i) const { return view_.buckets[index(i)]; }

  void look_at(std::uint32_t i, Sample& found) const {
    const Bucket& line = bucket(i);
    for (std::uint32_t slot = 0; slot < kSlotsPerBucket; ++slot) {
      const std::uint32_t use = line.use[slot].load(kRelaxed);
      const bool taken = line.slots[slot].load(kRelaxed) != 0;
      const std::uint32_t region = region_of(use);
      const std::uint32_t age = (tick_ - use) & kUseTickMask;
      const std::uint32_t unused = kMaxFrequency - frequency_of(use, tick_);
      const std::uint32_t by_age = age << 4 | unused;
      const std::uint32_t by_use = 1u << 14 | unused << 10 | age;
      const bool sheltered = region == kWindow || (region != kProbation && age < kShelterTicks);
      const Pick pick = make_pick(sheltered ? by_age : by_use, i, slot);
      const bool in_window = taken && region == kWindow;
      const bool in_main = taken && region != kWindow;
      found.window += in_window;
      found.candidate = std::max(found.candidate, in_window ? pick : 0);
      found.victim = std::max(found.victim, in_main ? pick : 0);
    }
  }

  PolicyView& view_;
  std::uint32_t tick_;
  std::uint32_t count_;
  std::uint32_t begin_;
  std::uint32_t sampled_;
};

// ---- the policy -------------------------------------------------------------------------------

class Lfu final : public Policy {
 public:
  std::uint16_t on_insert(PolicyView& view, std::uint64_t hash) const noexcept override {
    PolicyWords& words = view.words;
    const std::uint32_t tick = count_insert(view, kTicksPerTurnover);
    const std::uint32_t unasked = words.unasked.load(kRelaxed) + 1;
    words.unasked.store(unasked < kInsertsPerQuestion ? unasked : 0, kRelaxed);
    if (unasked >= kInsertsPerQuestion) consider_climbing(view);

    const std::uint32_t frequency = std::min(recall(view, hash, tick) + 1, kMaxFrequency);
    // While there is room nobody has to compete: the main part fills first.
    const std::uint32_t full = words.full.load(kRelaxed);
    if (full == 0 || std::uint64_t{view.entries} + window_target(view, full) < full) {
      return make_use(kProbation, frequency, tick);
    }
    words.window.store(words.window.load(kRelaxed) + 1, kRelaxed);
    return make_use(kWindow, frequency, tick);
  }

  std::uint16_t on_hit(std::uint16_t use, std::uint32_t tick) const noexcept override {
    const std::uint32_t region = region_of(use) == kWindow ? kWindow : kProtected;
    return make_use(region, std::min(frequency_of(use, tick) + 1, kMaxFrequency), tick);
  }

  SlotRef victim(PolicyView& view) const noexcept override {
    PolicyWords& words = view.words;
    const std::uint32_t target = window_target(view, note_full(view));
    std::uint32_t limit =
        std::clamp(words.window_limit.load(kRelaxed), target, view.entries + target);
    std::uint32_t window = std::min(words.window.load(kRelaxed), view.entries);
    const Search search(view);
    Sample found = search.sample();
    const std::uint32_t seen = found.window;
    // When the target shrinks, what is too many in the window moves to the main part uncontested,
    // a few at a time. Some slack, because with entries of all sizes their number varies.
    const std::uint32_t slack = target / 2 + 2;
    for (std::uint32_t i = 0; i < kMovesPerVictim; ++i) {
      if (found.candidate == 0 && window >= target) found.candidate = search.look_further();
      const bool shrinks = limit > target && window > target;
      if (found.candidate == 0 || !(shrinks || window > target + slack)) break;
      search.move_to_main(found.candidate);
      --window;
      if (shrinks) --limit;
      found = search.sample();
    }
    words.window_limit.store(window > target ? limit : target, kRelaxed);
    words.window.store(window, kRelaxed);
    check_window(view, seen, search.advance_hand());
    return choose(view, search, found, window >= target);
  }

  void on_evict(PolicyView& view, std::uint16_t use, std::uint64_t hash) const noexcept override {
    on_remove(view, use);
    const std::uint32_t tick = view.tick.load(kRelaxed);
    const std::uint32_t frequency = frequency_of(use, tick);
    if (frequency == 0 || view.sketch.size() < SketchLine::kWords) return;
    SketchLine line(view.sketch, hash, epoch_at(tick));
    line.put(frequency);
    line.store();
  }

  void on_remove(PolicyView& view, std::uint16_t use) const noexcept override {
    const std::uint32_t window = view.words.window.load(kRelaxed);
    if (region_of(use) == kWindow && window > 0) view.words.window.store(window - 1, kRelaxed);
  }

  std::uint32_t worth(std::uint16_t use, std::uint32_t tick) const noexcept override {
    return frequency_of(use, tick) << 10 | (kUseTickMask - age_of(use, tick));
  }

 private:
  static std::uint32_t recall(PolicyView& view, std::uint64_t hash, std::uint32_t tick) noexcept {
    if (view.sketch.size() < SketchLine::kWords) return 0;
    SketchLine line(view.sketch, hash, epoch_at(tick));
    const std::uint32_t frequency = line.take();
    if (frequency != 0) line.store();
    return frequency;
  }

  static std::uint32_t window_target(const PolicyView& view, std::uint32_t full) noexcept {
    const std::uint64_t share = static_cast<std::uint64_t>(window_share(view.shared));
    return std::max(static_cast<std::uint32_t>(full * share / kOne), 1u);
  }

  // How many entries make the stripe full. It is now; but with entries of all sizes their number
  // varies: rises at once, falls slowly.
  static std::uint32_t note_full(PolicyView& view) noexcept {
    std::uint32_t full = view.words.full.load(kRelaxed);
    full -= full > view.entries ? (full - view.entries) / 64 + 1 : 0;
    full = std::max(full, view.entries);
    view.words.full.store(full, kRelaxed);
    return full;
  }

  // The count of the window is kept by adding and subtracting. Should it be far from what the hand
  // met on its way round, it is wrong.
  static void check_window(PolicyView& view, std::uint32_t seen, bool round) noexcept {
    PolicyWords& words = view.words;
    const std::uint64_t met = std::uint64_t{words.window_seen.load(kRelaxed)} + seen;
    const std::uint64_t window = words.window.load(kRelaxed);
    if (round && (window > 2 * met + 64 || met > 2 * window + 64)) {
      words.window.store(static_cast<std::uint32_t>(std::min<std::uint64_t>(met, view.entries)),
                         kRelaxed);
    }
    words.window_seen.store(round ? 0 : static_cast<std::uint32_t>(met), kRelaxed);
  }

  // Candidate against victim: who was used more often stays, at a draw who was there before.
  static SlotRef choose(PolicyView& view, const Search& search, const Sample& found,
                        bool contest) noexcept {
    if (found.candidate == 0 && found.victim == 0) return search.first_taken();
    if (found.victim == 0) return search.place(found.candidate);
    if (found.candidate == 0 || !contest) return search.place(found.victim);
    if (search.frequency(found.candidate) <= search.frequency(found.victim)) {
      return search.place(found.candidate);
    }
    search.move_to_main(found.candidate);
    on_moved(view);
    return search.place(found.victim);
  }

  static void on_moved(PolicyView& view) noexcept {
    const std::uint32_t window = view.words.window.load(kRelaxed);
    if (window > 0) view.words.window.store(window - 1, kRelaxed);
  }
};

}  // namespace

const Policy& policy_lfu() noexcept {
  static const Lfu policy;
  return policy;
}

}  // namespace larder::shm
