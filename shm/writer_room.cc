// Where a new entry goes. In this order: a hole of just its size that was made last, the place
// behind the last entry, the shortest hole that has room. When there is none, the policy's victims
// go one by one, and their holes merge with what is free beside them. When the holes together would
// do but none alone does, the emptiest stretch of the arena is emptied into the others.
#include <algorithm>
#include <array>
#include <bit>

#include "shm/racy_copy.h"
#include "shm/writer.h"

namespace larder::shm {
namespace {

constexpr std::uint32_t kLeastRun = entry_granules(1, 0);
// Holes that no entry fits are worth this part of the arena; more, and compaction is cheap.
constexpr std::uint32_t kSlackShare = 64;
constexpr std::uint32_t kPlentyShare = 8;
constexpr std::uint32_t kMoreShare = 1024;    // in a small arena a stretch is too many entries
constexpr std::uint32_t kCompactStep = 2048;  // granules whose runs are listed at a time
constexpr int kCompactAttempts = 8;
constexpr std::uint64_t kManyVictims = 64;
constexpr std::uint64_t kTooManyVictims = 16'384;  // a hundredth of a second
constexpr std::uint32_t kTurnsToRelease = 64;
constexpr std::uint32_t kTurnsToRebuild = 4096;

}  // namespace

// ---- holes ------------------------------------------------------------------------------------

std::uint32_t Writer::take(std::uint32_t start, std::uint32_t granules) {
  arena_.take({start, granules});
  stripe_.next_granule.store(start + granules, kRelaxed);
  return start;
}

std::optional<std::uint32_t> Writer::find_room(std::uint32_t granules) {
  if (const auto hole = pop_hole(granules)) return hole;
  const std::uint32_t next = stripe_.next_granule.load(kRelaxed);
  if (arena_.is_free({next, granules})) return next;
  // With plenty of room there is no need to look for the best.
  if (free_granules() > g_.arena_granules / kPlentyShare) {
    if (const auto found = arena_.next_fit(next, granules)) return found;
    if (const auto found = arena_.next_fit(0, granules)) return found;
  }
  if (granules > stripe_.fit_bound.load(kRelaxed)) return std::nullopt;
  const auto found = arena_.best_fit(granules);
  if (!found) stripe_.fit_bound.store(granules - 1, kRelaxed);
  return found;
}

// Where the next entry of this size will probably be written: it is not in the cache, for the key
// that was there last was another.
void Writer::prefetch_room(std::uint64_t granules) const {
  constexpr std::uint64_t kMostBytes = 2048;
  const std::uint32_t hole = stripe_.holes[granules % kHoles].load(kRelaxed);
  if (hole >= g_.arena_granules) return;
  const char* start = bytes_at(hole);
  const std::uint64_t bytes = std::min(granules * kGranule, kMostBytes);
  for (std::uint64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(start + at, 1);
}

// Holes of one length are listed, the last one first: each begins with where the one before is, in
// a word that no header could be, for a pin of a process that died too early may still name it. The
// map alone says what is free, so a list may end, or lead, anywhere.
void Writer::push_hole(Run run) {
  Atomic<std::uint32_t>& first = stripe_.holes[run.granules % kHoles];
  fence_before_bytes();
  store_word(bytes_at(run.start), std::uint64_t{first.load(kRelaxed)} << 32 | UINT32_MAX);
  first.store(run.start, kRelaxed);
}

std::optional<std::uint32_t> Writer::pop_hole(std::uint32_t granules) {
  Atomic<std::uint32_t>& first = stripe_.holes[granules % kHoles];
  const std::uint32_t hole = first.load(kRelaxed);
  if (!arena_.is_free({hole, granules})) return std::nullopt;
  const char* start = bytes_at(hole);
  first.store(static_cast<std::uint32_t>(load_word(start, 0) >> 32), kRelaxed);
  return hole;
}

void Writer::free_run(Run run) {
  if (is_pinned(run)) return set_aside(run);
  arena_.give_back(run);
  freed_ = run.start;
  push_hole(run);
  const std::uint32_t bound = stripe_.fit_bound.load(kRelaxed);
  if (bound == UINT32_MAX) return;
  // The hole may be longer than the run by what was free beside it.
  const Run hole = arena_.stretch_around(run.start, kBlockGranules);
  if (hole.granules <= bound) return;
  const bool cut_short = hole.granules >= kBlockGranules;
  stripe_.fit_bound.store(cut_short ? UINT32_MAX : hole.granules, kRelaxed);
}

std::uint64_t Writer::free_granules() const {
  std::uint64_t taken = stripe_.live_granules.load(kRelaxed);
  for (const auto& run : stripe_.quarantine) taken += run.load(kRelaxed) >> 32;
  return g_.arena_granules - std::min<std::uint64_t>(taken, g_.arena_granules);
}

// ---- making room ------------------------------------------------------------------------------

std::optional<std::uint32_t> Writer::allocate(std::uint32_t granules) {
  const std::uint32_t asked = stripe_.allocations.load(kRelaxed) + 1;
  stripe_.allocations.store(asked, kRelaxed);
  if (stripe_.quarantined.load(kRelaxed) != 0) look_after_set_aside(asked);
  if (const auto start = find_room(granules)) return take(*start, granules);
  const std::uint64_t victims = likely_victims(granules);
  if (victims >= kManyVictims) {
    // Before so many go: do they have to, and would it help?
    release_set_aside();
    if (const auto start = find_room(granules)) return take(*start, granules);
    if (!fits_between_pins(granules)) return std::nullopt;
  }
  if (victims >= kTooManyVictims) {
    // Others wait for this stripe, and to choose each victim would take too long.
    if (const auto start = compact(granules)) return take(*start, granules);
  }
  std::uint64_t enough = std::uint64_t{granules} + g_.arena_granules / kSlackShare;
  std::uint64_t step = granules / 4 + g_.arena_granules / kSlackShare;
  for (;;) {
    const std::uint32_t bound = stripe_.fit_bound.load(kRelaxed);
    if (!evict_one()) break;
    const Run hole = arena_.stretch_around(freed_, granules);
    if (arena_.is_free({hole.start, granules})) {
      // The longest stretch by far, if it has made the bound rise: what is left of it is known.
      const std::uint32_t raised = stripe_.fit_bound.load(kRelaxed);
      if (raised > bound && raised < kBlockGranules) {
        stripe_.fit_bound.store(std::max(bound, raised - granules), kRelaxed);
      }
      return take(hole.start, granules);
    }
    if (free_granules() < enough) continue;
    // More than is asked for, so that the next ones find room too.
    const std::uint32_t more = std::min(kCompactStep, g_.arena_granules / kMoreShare);
    if (const auto start = compact(std::max(granules, more))) return take(*start, granules);
    // Something pinned was in the way: another try is worth its time when much more has gone.
    enough = free_granules() + step;
    step *= 2;
  }
  // Nothing is left, and still no room: pins hold it back, or the map says too much.
  rebuild();
  if (const auto start = find_room(granules)) return take(*start, granules);
  return std::nullopt;
}

// Of the size of those that are here.
std::uint64_t Writer::likely_victims(std::uint32_t granules) const {
  const std::uint64_t live = std::max<std::uint64_t>(stripe_.live_granules.load(kRelaxed), 1);
  return std::uint64_t{granules} * stripe_.entries.load(kRelaxed) / live;
}

// False: there is nothing left to evict.
bool Writer::evict_one() {
  if (stripe_.entries.load(kRelaxed) == 0) return false;
  PolicyView view = policy_view();
  SlotRef victim = policy_.victim(view);
  victim.bucket = std::min(victim.bucket, buckets() - 1);
  victim.slot = std::min<std::uint32_t>(victim.slot, kSlotsPerBucket - 1);
  if (slot(victim).load(kRelaxed) == 0) {  // the count of entries was wrong
    rebuild();
    return false;
  }
  evict(victim);
  return true;
}

// Empties a stretch of `granules` by moving its entries into holes elsewhere, or dropping those
// that fit none. Nothing when something there cannot move.
std::optional<std::uint32_t> Writer::compact(std::uint32_t granules) {
  std::uint32_t begin = arena_.emptiest(granules);
  const PinnedRuns pinned = pinned_runs();
  const auto end_of_first_fixed = [&]() -> std::optional<std::uint32_t> {
    std::optional<std::uint32_t> end;
    arena_.for_each_run(begin, begin + granules, [&](std::uint32_t start) {
      if (!end) end = end_if_fixed(start, pinned);
    });
    return end;
  };
  for (int attempt = 0; const auto end = end_of_first_fixed(); ++attempt) {
    if (attempt == kCompactAttempts) return std::nullopt;
    begin = std::max(begin + 1, *end);
    if (begin > g_.arena_granules - granules) begin = 0;
  }

  std::uint32_t low = begin;
  std::uint32_t high = begin + granules;
  for (std::uint32_t at = begin; at < begin + granules; at += kCompactStep) {
    const std::uint32_t end = std::min(at + kCompactStep, begin + granules);
    std::array<std::uint32_t, kCompactStep / kLeastRun + 2> starts;
    std::size_t count = 0;
    arena_.for_each_run(at, end, [&](std::uint32_t start) {
      if (count < starts.size()) starts[count++] = start;
    });
    // What is free here stays so: nothing may move into it.
    for (std::uint32_t g = at; g < end;) {
      if (!arena_.is_free({g, 1})) {
        ++g;
        continue;
      }
      Run hole = arena_.stretch_around(g, end - g);
      hole = {g, std::min(hole.end(), end) - g};
      if (hole.granules == 1) {
        // A single granule is no run. At either edge it is taken with its neighbour outside, or an
        // entry might move there and reach in.
        if (g == begin && g > 0 && arena_.is_free({g - 1, 2})) hole = {g - 1, 2};
        if (g + 1 == begin + granules && arena_.is_free({g, 2})) hole = {g, 2};
      }
      low = std::min(low, hole.start);
      high = std::max(high, hole.end());
      if (hole.granules >= 2) arena_.take(hole);
      g = hole.end();
    }
    for (std::size_t i = 0; i < count; ++i) {
      EntryRef entry;
      if (!read_entry_at(bytes_, g_.arena_granules, starts[i], entry)) {
        rebuild();
        return std::nullopt;
      }
      low = std::min(low, entry.run.start);
      high = std::max(high, entry.run.end());
      move_away(entry);
    }
  }
  // The versions of all that moved rose before this.
  bool just_pinned = false;
  for_each_pin([&](std::uint32_t start) { just_pinned |= start >= low && start < high; });
  if (just_pinned) {
    rebuild();
    return std::nullopt;
  }
  arena_.give_back({low, high - low});
  stripe_.fit_bound.store(UINT32_MAX, kRelaxed);
  return begin;
}

// Nothing when the run that starts here can be moved.
std::optional<std::uint32_t> Writer::end_if_fixed(std::uint32_t start, const PinnedRuns& pinned) {
  EntryRef entry;
  if (!read_entry_at(bytes_, g_.arena_granules, start, entry)) return start + 1;
  const bool is_held = pinned.complete() ? pinned.contains(start) : is_pinned(entry.run);
  if (is_held || !slot_of(entry)) return entry.run.end();
  return std::nullopt;
}

// Leaves the map's bits of the old place as they are.
void Writer::move_away(const EntryRef& entry) {
  const auto at = slot_of(entry);
  if (!at) return;  // dropped or moved meanwhile, to make room for another
  const auto room = is_live(entry) ? find_room(entry.run.granules) : std::nullopt;
  Atomic<std::uint32_t>& version = bucket(at->bucket).version;
  if (room) {
    take(*room, entry.run.granules);
    fence_before_bytes();
    copy_to_shared(bytes_at(*room), entry.start, std::uint64_t{entry.run.granules} * kGranule);
    publish(*at, hash_of(entry), *room);
  } else {
    if (is_live(entry)) count(Counter::kEvictions);
    PolicyView view = policy_view();
    policy_.on_evict(view, use(*at).load(kRelaxed), hash_of(entry));
    clear(*at);
    count_out(entry);
  }
  version.fetch_add(1, std::memory_order_seq_cst);
}

// ---- pins -------------------------------------------------------------------------------------

// seq_cst: after the version rose, see retire(); either the pin is seen here, or who pins sees
// that.
template <class Visit>
void Writer::for_each_pin(Visit&& visit) const {
  const Superblock& block = segment_.superblock();
  for (std::uint32_t word = 0; word * 64 < g_.place_count; ++word) {
    std::uint64_t places = block.pinners[word].load(std::memory_order_seq_cst);
    for (; places != 0; places &= places - 1) {
      const std::uint32_t place = word * 64 + static_cast<std::uint32_t>(std::countr_zero(places));
      if (place >= g_.place_count) break;
      const Place& its = segment_.place(place);
      const std::size_t used = std::min<std::size_t>(its.pins_used.load(), kPins);
      for (std::size_t i = 0; i < used; ++i) {
        const std::uint64_t pin = its.pins[i].load();
        const auto granule = static_cast<std::uint32_t>(pin);
        if (pin == make_pin(index_, granule)) visit(granule);
      }
    }
  }
}

bool Writer::is_pinned(Run run) const {
  bool found = false;
  for_each_pin([&](std::uint32_t start) { found |= start == run.start; });
  return found;
}

Writer::PinnedRuns Writer::pinned_runs() const {
  PinnedRuns pinned;
  for_each_pin([&](std::uint32_t start) {
    EntryRef entry;
    if (!read_entry_at(bytes_, g_.arena_granules, start, entry)) return;
    if (pinned.count < pinned.runs.size()) pinned.runs[pinned.count] = entry.run;
    ++pinned.count;
  });
  std::sort(pinned.begin(), pinned.end(), [](Run a, Run b) { return a.start < b.start; });
  return pinned;
}

bool Writer::PinnedRuns::contains(std::uint32_t start) const {
  const Run* at = std::lower_bound(
      begin(), end(), start, [](Run run, std::uint32_t wanted) { return run.start < wanted; });
  return at != end() && at->start == start;
}

// Could there be room, if everything that can go went?
bool Writer::fits_between_pins(std::uint32_t granules) const {
  const PinnedRuns pinned = pinned_runs();
  if (!pinned.complete()) return true;  // who knows
  std::uint32_t gap_start = 0;
  for (const Run run : pinned) {
    if (run.start >= gap_start && run.start - gap_start >= granules) return true;
    gap_start = std::max(gap_start, run.end());
  }
  return g_.arena_granules - gap_start >= granules;
}

// Runs that only pins name must not be used either. Their bytes are whole: nobody has freed them.
void Writer::mark_pinned_runs() {
  stripe_.quarantined.store(0, kRelaxed);
  for (auto& each : stripe_.quarantine) each.store(0, kRelaxed);
  for_each_pin([this](std::uint32_t start) {
    EntryRef entry;
    if (!read_entry_at(bytes_, g_.arena_granules, start, entry) || !arena_.is_free(entry.run))
      return;
    arena_.take(entry.run);
    set_aside(entry.run);
  });
}

// No slot points at the run any more, but somebody still reads it.
void Writer::set_aside(Run run) {
  const std::uint32_t before = stripe_.quarantined.load(kRelaxed);
  for (auto& each : stripe_.quarantine) {
    if (each.load(kRelaxed) != 0) continue;
    each.store(std::uint64_t{run.granules} << 32 | run.start, kRelaxed);
    break;
  }
  stripe_.quarantined.store(std::min<std::uint32_t>(before, UINT32_MAX - 1) + 1, kRelaxed);
}

// Now and then: asking for every run at every turn would cost more than it brings.
void Writer::look_after_set_aside(std::uint32_t turn) {
  const bool some_not_listed = stripe_.quarantined.load(kRelaxed) > kQuarantine;
  if (some_not_listed && turn % kTurnsToRebuild == 0) return rebuild();
  if (turn % kTurnsToRelease == 0) release_set_aside();
}

void Writer::release_set_aside() {
  // Then the count stays above what the list can hold until rebuilding finds them.
  const bool some_not_listed = stripe_.quarantined.load(kRelaxed) > kQuarantine;
  for (auto& each : stripe_.quarantine) {
    const std::uint64_t word = each.load(kRelaxed);
    if (word == 0) continue;
    const Run run{static_cast<std::uint32_t>(word), static_cast<std::uint32_t>(word >> 32)};
    if (is_pinned(run)) continue;
    each.store(0, kRelaxed);
    if (!some_not_listed) {
      const std::uint32_t left = std::max(stripe_.quarantined.load(kRelaxed), 1u) - 1;
      stripe_.quarantined.store(left, kRelaxed);
    }
    EntryRef entry;
    // Damage may have put anything here: only what the map and the entry agree on is freed.
    const bool sound = read_entry_at(bytes_, g_.arena_granules, run.start, entry) &&
                       entry.run.granules == run.granules && arena_.is_taken(run) &&
                       !slot_of(entry);
    if (sound) free_run(run);
  }
}

}  // namespace larder::shm
