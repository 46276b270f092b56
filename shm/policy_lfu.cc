// lfu: W-TinyLFU (Einziger, Friedman, Manes) without lists. A newcomer enters the window; the
// oldest of the window is the candidate for the main part, and the least wanted of the main part is
// the victim; whichever of the two was used more often stays. So a scan passes through the window
// and a loop that is too long keeps what fits of it. Oldest and least wanted are taken from a
// sample of some 70 entries, those of eight neighbouring buckets; buckets are chosen by hash, so
// neighbours are strangers to each other. A hand sweeps the stripe and comes by everyone in turn.
//
// The word of a slot: {region:2, frequency:4, tick of the last counted use:10}.
//   nowhere     the slot is empty, or should be
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
// fell, by less and less until the ratio jumps or the steps are tiny. Two things are added. At the
// end of the range the window cannot move on, so a change there is no judgement on it; the climber
// rests, and each try to leave that fails doubles the rest: otherwise every second sample would be
// spent on such tries, and each costs a loop what it had. And when noise has led it astray, it
// returns to where the ratio was best.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "shm/lanes.h"
#include "shm/policy.h"
#include "shm/racy_copy.h"
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
constexpr std::int32_t kAstray = kOne * 10 / 100;  // this far below the best: go back
constexpr std::int32_t kFading = 4;                // of the difference, by one part in so many
constexpr std::uint32_t kMostRest = 4;             // power of two of samples
constexpr std::uint32_t kSampleTurnovers = 5;      // requests between two steps, in capacities
constexpr std::uint64_t kLeastCapacity = 64;       // fewer make no sample
// How often the totals are looked at to see whether a sample is complete.
constexpr std::uint32_t kQuestionsPerTurnover = 16;
constexpr std::uint32_t kLeastQuestion = 32;  // inserts between two looks
constexpr std::uint32_t kMostQuestion = 1024;

enum Region : std::uint32_t { kNowhere = 0, kWindow = 1, kProbation = 2, kProtected = 3 };

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

std::int32_t clamp_share(std::uint32_t share) {
  return static_cast<std::int32_t>(std::clamp<std::uint32_t>(share, kLeastWindow, kMostWindow));
}
std::int32_t window_share(const PolicyShared& shared) {
  return clamp_share(shared.window_share.load(kRelaxed));
}

// Keeps in mind where the hit ratio was best. True: it is much worse here and now, so the window
// went back there. If it is no better there either, times have changed and the memory fades.
bool return_to_best(PolicyShared& shared, std::int32_t hit_ratio) {
  const std::int32_t share = window_share(shared);
  const std::int32_t best = clamp_share(shared.best_share.load(kRelaxed));
  const auto best_ratio =
      static_cast<std::int32_t>(std::min<std::uint32_t>(shared.best_ratio.load(kRelaxed), kOne));
  const auto remember = [&shared](std::int32_t at, std::int32_t ratio) {
    shared.best_share.store(static_cast<std::uint32_t>(at), kRelaxed);
    shared.best_ratio.store(static_cast<std::uint32_t>(ratio), kRelaxed);
  };
  const std::int32_t faded = best_ratio - (best_ratio - hit_ratio) / kFading;
  const std::int32_t distance = std::abs(share - best);
  if (hit_ratio >= best_ratio) {
    remember(share, hit_ratio);
  } else if (distance < kFirstStep / 2) {
    remember(share, faded);
  } else if (hit_ratio < best_ratio - kAstray && distance > kFirstStep) {
    remember(best, faded);
    shared.window_share.store(static_cast<std::uint32_t>(best), kRelaxed);
    shared.step.store(static_cast<std::uint32_t>(share > best ? -kFirstStep : kFirstStep),
                      kRelaxed);
    return true;
  }
  return false;
}

// At the end of the range the window did not move, so what changed is no judgement on it; the
// climber rests. True: go on resting.
bool rest_on(PolicyShared& shared, std::uint32_t rest, std::int32_t change) {
  // A jump down says that the requests are others now.
  if (change <= -kJump) {
    rest = 1;
    shared.rests.store(0, kRelaxed);
  }
  shared.rest.store(rest - 1, kRelaxed);
  return rest > 1;
}

// Takes a step, given the hit ratio since the last one.
void climb(PolicyShared& shared, std::int32_t hit_ratio) {
  const std::uint32_t before = shared.hit_ratio.load(kRelaxed);
  shared.hit_ratio.store(static_cast<std::uint32_t>(hit_ratio), kRelaxed);
  const std::int32_t change =
      hit_ratio - static_cast<std::int32_t>(std::min<std::uint32_t>(before, kOne));
  auto step = static_cast<std::int32_t>(shared.step.load(kRelaxed));
  step = step == 0 ? -kFirstStep : std::clamp(step, -kFirstStep, kFirstStep);
  const std::uint32_t rest = std::min(shared.rest.load(kRelaxed), 1u << kMostRest);
  if (rest > 0) {
    if (rest_on(shared, rest, change)) return;
  } else if (change < 0) {
    step = -step;
  }
  if (return_to_best(shared, hit_ratio)) return;

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

std::uint64_t inserts_per_question(std::uint64_t capacity) {
  return std::clamp<std::uint64_t>(capacity / kQuestionsPerTurnover, kLeastQuestion, kMostQuestion);
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

// The entry of the highest rank so far, or none.
struct Pick {
  std::uint32_t rank = 0;  // 0: none
  SlotRef at;
  bool none() const { return rank == 0; }
};

struct Sample {
  Pick candidate;  // the oldest of the window; of equals, the least used
  Pick victim;     // the least used that is not sheltered, or else the oldest that is
  std::uint32_t window = 0;
};

// The ranks of eight words, 0 for those that are out of the question.
struct Ranks {
  Lanes candidate;
  Lanes victim;
  Lanes in_window;
};

[[gnu::always_inline]] inline Ranks rank(Lanes use, std::uint32_t tick) {
  const Lanes age = (all(tick) - use) & all(kUseTickMask);
  const Lanes epochs = all(epoch_at(tick)) - (use >> kEpochTickBits);  // modulo 8
  // Halved once for each epoch, that is by its bits.
  Lanes frequency = use >> 10 & all(kMaxFrequency);
  frequency = select(equal(epochs & all(1), all(1)), frequency >> 1, frequency);
  frequency = select(equal(epochs & all(2), all(2)), frequency >> 2, frequency);
  frequency = select(equal(epochs & all(4), all(4)), Lanes{}, frequency);
  const Lanes unused = all(kMaxFrequency) - frequency;
  const Lanes by_age = (age << 4 | unused) + all(1);
  const Lanes by_use = all(1 << 14) | unused << 10 | age;
  const Lanes region = use >> 14;
  const Lanes in_window = equal(region, all(kWindow));
  const Lanes sheltered = equal(region, all(kProtected)) & less(age, all(kShelterTicks));
  return {.candidate = by_age & in_window,
          .victim = select(sheltered, by_age, by_use) & less(all(kWindow), region),
          .in_window = in_window};
}

// The highest rank that was met in each lane, and where.
class Best {
 public:
  void meet(Lanes ranks, std::uint32_t group) {
    const Lanes higher = less(ranks_, ranks);
    ranks_ = select(higher, ranks, ranks_);
    groups_ = select(higher, all(group), groups_);
  }
  // As {rank, number of the word}.
  std::pair<std::uint32_t, std::uint32_t> get() const {
    std::uint32_t best = 0;
    for (std::uint32_t i = 1; i < kLanes; ++i) best = ranks_[i] > ranks_[best] ? i : best;
    return {ranks_[best], groups_[best] * kLanes + best};
  }

 private:
  Lanes ranks_{};
  Lanes groups_{};
};

class Search {
 public:
  explicit Search(PolicyView& view)
      : view_(view),
        tick_(view.tick.load(kRelaxed)),
        count_(static_cast<std::uint32_t>(view.buckets.size())),
        begin_(view.words.hand.load(kRelaxed) % count_),
        sampled_(std::min(kSampleBuckets, count_)) {}

  // Words of empty slots may be stale: one that is picked is cleaned, and there is another search.
  Sample sample() const {
    Sample found = search(0, sampled_);
    for (std::uint32_t i = 0; i < kSampleBuckets * kSlotsPerBucket; ++i) {
      if (clean(found.candidate) && clean(found.victim)) break;
      found = search(0, sampled_);
    }
    return found;
  }

  // A candidate beyond the sample: the oldest of the window in the first buckets that have any.
  Pick look_further() const {
    const std::uint32_t end = std::min(kLookBuckets, count_);
    for (std::uint32_t i = sampled_; i < end; i += kSampleBuckets) {
      const std::uint32_t buckets = std::min(kSampleBuckets, end - i);
      if (!any_in_window(i, buckets)) continue;
      const Pick found = search(i, buckets).candidate;
      if (clean(found)) return found;
    }
    return {};
  }

  // Anything at all. It is nowhere by its word, so it cannot have been found.
  SlotRef first_taken() const {
    for (std::uint32_t i = 0; i < count_; ++i) {
      for (std::uint32_t slot = 0; slot < kSlotsPerBucket; ++slot) {
        if (bucket(i).slots[slot].load(kRelaxed) != 0) return {index(i), slot};
      }
    }
    return {begin_, 0};
  }

  std::uint32_t frequency(const Pick& pick) const {
    return frequency_of(use(pick.at).load(kRelaxed), tick_);
  }
  void move_to_main(const Pick& pick) const {
    Atomic<std::uint16_t>& word = use(pick.at);
    std::uint16_t was = word.load(kRelaxed);
    // A reader may count a hit at this moment; if so, the entry deserves to stay where it is.
    word.compare_exchange_strong(
        was, make_use(kProbation, was >> 10 & kMaxFrequency, was & kUseTickMask), kRelaxed);
  }

  // Whether the hand came round. What comes next is fetched meanwhile.
  bool advance_hand() const {
    const bool round = begin_ + sampled_ >= count_;
    const std::uint32_t hand = round ? 0 : begin_ + sampled_;
    view_.words.hand.store(hand, kRelaxed);
    prefetch_buckets(view_, hand, kSampleBuckets);
    return round;
  }

  // Damage may have left an entry nowhere, where it would stay for good. One bucket a time.
  void find_lost() const {
    const std::uint32_t i = tick_ % sampled_;
    for (std::uint32_t slot = 0; slot < kSlotsPerBucket; ++slot) {
      Atomic<std::uint16_t>& word = bucket(i).use[slot];
      if (region_of(word.load(kRelaxed)) != kNowhere) continue;
      if (bucket(i).slots[slot].load(kRelaxed) == 0) continue;
      word.store(make_use(kProbation, 0, tick_), kRelaxed);
    }
  }

 private:
  static constexpr std::uint32_t kSlots = kSlotsPerBucket;
  static constexpr std::uint32_t kWords = kSampleBuckets * kSlots;
  static_assert(kWords % kLanes == 0);

  std::uint32_t index(std::uint32_t i) const {
    return begin_ + i < count_ ? begin_ + i : begin_ + i - count_;
  }
  Bucket& bucket(std::uint32_t i) const { return view_.buckets[index(i)]; }
  Atomic<std::uint16_t>& use(SlotRef at) const { return view_.buckets[at.bucket].use[at.slot]; }

  using Words = std::uint16_t[kWords];

  // Of `buckets` buckets from number `first` on; zeros follow.
  void load_words(std::uint32_t first, std::uint32_t buckets, Words& words) const {
    for (std::uint32_t i = 0; i < buckets; ++i) {
      copy_from_shared(&words[std::size_t{i} * kSlots], bucket(first + i).use,
                       sizeof bucket(i).use);
    }
    std::fill(&words[std::size_t{buckets} * kSlots], std::end(words), std::uint16_t{0});
  }

  bool any_in_window(std::uint32_t first, std::uint32_t buckets) const {
    Words words;
    load_words(first, buckets, words);
    Lanes any{};
    for (std::uint32_t group = 0; group < kWords / kLanes; ++group) {
      Lanes use;
      std::memcpy(&use, &words[std::size_t{group} * kLanes], sizeof use);
      any |= equal(use >> 14, all(kWindow));
    }
    std::uint64_t halves[2];
    std::memcpy(halves, &any, sizeof halves);
    return (halves[0] | halves[1]) != 0;
  }

  Sample search(std::uint32_t first, std::uint32_t buckets) const {
    Words words;
    load_words(first, buckets, words);
    Best candidate;
    Best victim;
    Lanes in_window{};
    for (std::uint32_t group = 0; group < kWords / kLanes; ++group) {
      Lanes use;
      std::memcpy(&use, &words[std::size_t{group} * kLanes], sizeof use);
      const Ranks ranks = rank(use, tick_);
      candidate.meet(ranks.candidate, group);
      victim.meet(ranks.victim, group);
      in_window -= ranks.in_window;
    }
    Sample found{.candidate = pick(candidate, first), .victim = pick(victim, first)};
    for (std::uint32_t i = 0; i < kLanes; ++i) found.window += in_window[i];
    return found;
  }

  Pick pick(const Best& best, std::uint32_t first) const {
    const auto [rank, number] = best.get();
    return {rank, {index(first + number / kSlots), number % kSlots}};
  }

  // False: the slot is empty.
  bool clean(const Pick& pick) const {
    if (pick.none()) return true;
    if (view_.buckets[pick.at.bucket].slots[pick.at.slot].load(kRelaxed) != 0) return true;
    use(pick.at).store(0, kRelaxed);
    return false;
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
    const bool ask = unasked >= inserts_per_question(view.capacity);
    words.unasked.store(ask ? 0 : unasked, kRelaxed);
    if (ask) consider_climbing(view);

    write_pending(view);
    const std::uint32_t frequency = std::min(recall(view, hash, tick) + 1, kMaxFrequency);
    // While there is room nobody has to compete: the main part fills first.
    const std::uint32_t full = words.full.load(kRelaxed);
    if (full == 0 || std::uint64_t{view.entries} + window_target(view, full) < full) {
      return make_use(kProbation, frequency, tick);
    }
    words.window.store(words.window.load(kRelaxed) + 1, kRelaxed);
    return make_use(kWindow, frequency, tick);
  }

  void expect(PolicyView& view, std::uint64_t hash) const noexcept override {
    if (view.sketch.size() >= SketchLine::kWords) SketchLine::prefetch(view.sketch, hash);
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
    search.find_lost();
    Sample found = search.sample();
    const std::uint32_t seen = found.window;
    // When the target shrinks, what is too many in the window moves to the main part uncontested,
    // a few at a time. Some slack, because with entries of all sizes their number varies.
    const std::uint32_t slack = target / 2 + 2;
    for (std::uint32_t i = 0; i < kMovesPerVictim; ++i) {
      if (found.candidate.none() && window >= target) found.candidate = search.look_further();
      const bool shrinks = limit > target && window > target;
      if (found.candidate.none() || !(shrinks || window > target + slack)) break;
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
    write_pending(view);
    const std::uint32_t frequency = frequency_of(use, view.tick.load(kRelaxed));
    if (frequency == 0 || view.sketch.size() < SketchLine::kWords) return;
    // Its line is seldom in the cache: it is fetched now and written by the next call.
    view.words.pending_hash.store(hash, kRelaxed);
    view.words.pending_frequency.store(frequency, kRelaxed);
    SketchLine::prefetch(view.sketch, hash);
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

  static void write_pending(PolicyView& view) noexcept {
    const std::uint32_t frequency = view.words.pending_frequency.load(kRelaxed);
    if (frequency == 0 || view.sketch.size() < SketchLine::kWords) return;
    view.words.pending_frequency.store(0, kRelaxed);
    SketchLine line(view.sketch, view.words.pending_hash.load(kRelaxed),
                    epoch_at(view.tick.load(kRelaxed)));
    line.put(frequency);
    line.store();
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
    if (found.candidate.none() && found.victim.none()) return search.first_taken();
    if (found.victim.none()) return found.candidate.at;
    if (found.candidate.none() || !contest) return found.victim.at;
    if (search.frequency(found.candidate) <= search.frequency(found.victim)) {
      return found.candidate.at;
    }
    search.move_to_main(found.candidate);
    on_moved(view);
    return found.victim.at;
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
