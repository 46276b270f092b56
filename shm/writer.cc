#include "shm/writer.h"

#include <algorithm>
#include <bit>

#include "shm/checksum.h"
#include "shm/clock.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kRelease = std::memory_order_release;
constexpr std::uint32_t kMostPercent = 98;  // of all slots: the last few are too long to look for
constexpr int kShiftAttempts = 4;  // each reads an entry's key, and that is not in the cache
constexpr std::uint32_t kFullPercent = 75;  // of the slots in use: from there on keys collide

// Derived counts are never trusted, so they saturate instead of wrapping.
template <class Word>
void subtract(Atomic<Word>& count, std::uint64_t by) {
  const Word now = count.load(kRelaxed);
  count.store(now - static_cast<Word>(std::min<std::uint64_t>(now, by)), kRelaxed);
}
template <class Word>
void add(Atomic<Word>& count, std::uint64_t by) {
  count.store(count.load(kRelaxed) + static_cast<Word>(by), kRelaxed);
}

}  // namespace

Writer::Writer(Segment& segment, std::uint32_t stripe, const Policy& policy, Processes& processes)
    : segment_(segment),
      g_(segment.geometry()),
      index_(stripe),
      stripe_(segment.stripe(stripe)),
      buckets_(&segment.bucket(stripe, 0)),
      bytes_(segment.arena(stripe)),
      arena_(segment, stripe),
      policy_(policy),
      processes_(processes) {}

// ---- slots ------------------------------------------------------------------------------------

std::optional<Writer::Found> Writer::find(std::string_view key, std::uint64_t hash) {
  std::optional<Found> found(std::in_place);
  for (const std::uint32_t b : buckets_of(hash)) {
    std::uint32_t candidates = slots_with_tag(bucket(b), hash);
    for (; candidates != 0; candidates &= candidates - 1) {
      found->at = {b, static_cast<std::uint32_t>(std::countr_zero(candidates))};
      if (read_at(found->at, found->entry) && found->entry.key_is(key)) return found;
    }
  }
  found.reset();
  return found;
}

std::array<std::uint32_t, 2> Writer::buckets_of(std::uint64_t hash) const {
  const std::uint32_t count = buckets();
  return {home_bucket(count, hash), other_bucket(count, hash)};
}

bool Writer::read_at(SlotRef at, EntryRef& entry) {
  const std::uint32_t granule = slot_granule(slot(at).load(kRelaxed));
  return read_entry_at(bytes_, g_.arena_granules, granule, entry);
}

std::optional<EntryRef> Writer::entry_at(SlotRef at) {
  std::optional<EntryRef> entry(std::in_place);
  if (!read_at(at, *entry)) entry.reset();
  return entry;
}

void Writer::prefetch_entries(std::uint32_t of_bucket) {
  for (const auto& slot : bucket(of_bucket).slots) {
    const std::uint32_t granule = slot_granule(slot.load(kRelaxed));
    if (granule >= g_.arena_granules) continue;
    __builtin_prefetch(bytes_at(granule));
  }
}

// Nobody changes an entry under the lock, so its key may be read in place.
std::uint64_t Writer::hash_of(const EntryRef& entry) const {
  return segment_.hash({entry.key(), entry.header.key_bytes()});
}

// The slot that points at an entry; nothing when none does.
std::optional<SlotRef> Writer::slot_of(const EntryRef& entry) {
  const std::uint64_t hash = hash_of(entry);
  const std::uint32_t wanted = make_slot(hash, entry.run.start);
  for (const std::uint32_t b : buckets_of(hash)) {
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
      if (bucket(b).slots[i].load(kRelaxed) == wanted) return SlotRef{b, i};
    }
  }
  return std::nullopt;
}

std::optional<SlotRef> Writer::empty_slot(std::uint64_t hash) {
  for (const std::uint32_t b : buckets_of(hash)) {
    const std::uint32_t empty = empty_slots(bucket(b));
    if (empty != 0) return SlotRef{b, static_cast<std::uint32_t>(std::countr_zero(empty))};
  }
  return std::nullopt;
}

// When both buckets of a key are full, an entry there moves to its other bucket. When none can, the
// index grows; when it cannot, the least wanted entry goes.
void Writer::make_slot_empty(std::uint64_t hash) {
  if (empty_slot(hash) || shift_one(hash)) return;
  if (grow_index()) return make_slot_empty(hash);
  const std::uint32_t tick = stripe_.tick.load(kRelaxed);
  SlotRef least{home_bucket(buckets(), hash), 0};
  std::uint32_t least_worth = UINT32_MAX;
  for (const std::uint32_t b : buckets_of(hash)) {
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
      const std::uint32_t worth = policy_.worth(bucket(b).use[i].load(kRelaxed), tick);
      if (worth >= least_worth) continue;
      least_worth = worth;
      least = {b, i};
    }
  }
  evict(least);
}

bool Writer::shift_one(std::uint64_t hash) {
  int attempts = 0;
  for (const std::uint32_t b : buckets_of(hash)) {
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
      const SlotRef from{b, i};
      if (attempts++ == kShiftAttempts) return false;
      const auto entry = entry_at(from);
      if (!entry) continue;
      const auto to = empty_slot(hash_of(*entry));
      if (!to) continue;
      use(*to).store(use(from).load(kRelaxed), kRelaxed);
      slot(*to).store(slot(from).load(kRelaxed), kRelease);
      // A reader that had looked there before the key arrived, and then looks here in vain, finds
      // this version risen and looks again.
      bucket(to->bucket).version.fetch_add(1, std::memory_order_acq_rel);
      clear(from);
      // Readers of this bucket start over: who frees the entry from now on raises the other's.
      bucket(b).version.fetch_add(1, std::memory_order_seq_cst);
      return true;
    }
  }
  return false;
}

bool Writer::grow_index() {
  const std::uint32_t from = buckets();
  if (2 * from > g_.buckets_per_stripe) return false;
  stripe_.index.store(2 * from | kIndexGrowing, kRelease);
  // From the last on: what a bucket becomes is then empty already, or is itself.
  for (std::uint32_t b = from; b-- > 0;) split_bucket(b, from);
  stripe_.index.store(2 * from, kRelease);
  return true;
}

// A reader of the smaller index finds an entry here until it is in the bucket where a reader of the
// larger one finds it.
void Writer::split_bucket(std::uint32_t index, std::uint32_t from) {
  Bucket& source = bucket(index);
  for (const std::uint32_t half : {2 * index, 2 * index + 1}) {
    if (half == index) continue;
    for (auto& slot : bucket(half).slots) slot.store(0, kRelease);  // damage, if anything
  }
  std::array<std::uint32_t, 2> used{};
  for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
    const SlotRef at{index, i};
    const std::uint32_t word = slot(at).load(kRelaxed);
    const auto entry = entry_at(at);
    if (word == 0 || !entry) continue;
    const std::uint64_t hash = hash_of(*entry);
    const bool at_home = home_bucket(from, hash) == index;
    const std::uint32_t to = at_home ? home_bucket(2 * from, hash) : other_bucket(2 * from, hash);
    if (to == index || to / 2 != index) continue;  // it stays, or it is damage
    const SlotRef next{to, used[to % 2]++};
    use(next).store(use(at).load(kRelaxed), kRelaxed);
    slot(next).store(word, kRelease);
    if (index == 0) clear(at);
  }
  if (index != 0) {
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) clear({index, i});
  }
  // Readers of this bucket start over: who frees an entry from now on raises another's version.
  source.version.fetch_add(1, std::memory_order_seq_cst);
}

void Writer::clear(SlotRef at) {
  slot(at).store(0, kRelease);
  use(at).store(0, kRelaxed);
}

bool Writer::is_live(const EntryRef& entry) const {
  const HotWords& hot = segment_.superblock().hot;
  return is_current(entry.header, hot.epoch.load(kRelaxed), hot.floor.load(kRelaxed)) &&
         !is_expired(entry.header);
}

// ---- entries ----------------------------------------------------------------------------------

void Writer::count_in(std::uint64_t granules, std::uint64_t payload_bytes) {
  add(stripe_.entries, 1);
  add(stripe_.live_granules, granules);
  add(stripe_.payload_bytes, payload_bytes);
}

void Writer::count_out(const EntryRef& entry) {
  subtract(stripe_.entries, 1);
  subtract(stripe_.live_granules, entry.run.granules);
  subtract(stripe_.payload_bytes, entry.payload_bytes());
}

void Writer::write_entry(std::uint32_t granule, const NewEntry& entry) {
  const auto& [key, hash, value, expires_ms, stamp] = entry;
  const std::uint64_t lag = stamp.reach.seq - std::min(stamp.reach.seq, stamp.base);
  EntryHeader header{};
  header.sizes = std::uint64_t{pack_lag(lag)} << 56 |
                 static_cast<std::uint64_t>(stamp.source) << 48 | std::uint64_t{key.size()} << 32 |
                 value.size();
  header.check = stamp.epoch << 32;
  header.reach = stamp.reach.seq & kMaxSeq;
  header.life = stamp.reach.nonce << 40 | std::min(expires_ms, kExpiresMax);
  header.check |= entry_checksum(header, hash, value);
  char* at = bytes_at(granule);
  copy_to_shared(at, &header, sizeof header);
  copy_to_shared(at + sizeof header, key.data(), key.size());
  copy_to_shared(at + sizeof header + key.size(), value.data(), value.size());
}

void Writer::publish(SlotRef at, std::uint64_t hash, std::uint32_t granule) {
  // release: pairs with the reader's acquire of the slot (I1).
  slot(at).store(make_slot(hash, granule), kRelease);
}

void Writer::unlink(const Found& found) {
  clear(found.at);
  retire(found);
}

// Its slot was cleared or replaced.
void Writer::retire(const Found& found) {
  // seq_cst: either who pins the entry sees this, or is_pinned() in free_run() sees the pin (I2).
  bucket(found.at.bucket).version.fetch_add(1, std::memory_order_seq_cst);
  count_out(found.entry);
  free_run(found.entry.run);
}

// Where its bytes are nobody knows; rebuilding finds them.
void Writer::discard(SlotRef at) {
  slot(at).store(0, kRelease);
  bucket(at.bucket).version.fetch_add(1, std::memory_order_seq_cst);
  rebuild();
}

void Writer::evict(SlotRef at) {
  const auto entry = entry_at(at);
  if (!entry) return discard(at);  // damage
  const HotWords& hot = segment_.superblock().hot;
  if (is_expired(entry->header)) {
    count(Counter::kExpirations);
  } else if (is_current(entry->header, hot.epoch.load(kRelaxed), hot.floor.load(kRelaxed))) {
    count(Counter::kEvictions);
  }
  PolicyView view = policy_view();
  policy_.on_evict(view, use(at).load(kRelaxed), hash_of(*entry));
  unlink({at, *entry});
}

void Writer::erase(const Found& found) {
  PolicyView view = policy_view();
  policy_.on_remove(view, use(found.at).load(kRelaxed));
  unlink(found);
}

bool Writer::put(const NewEntry& entry, const std::optional<Found>& held) {
  const Found* old = held ? &*held : nullptr;
  const std::uint64_t granules = entry_granules(entry.key.size(), entry.value.size());
  if (granules > g_.arena_granules || entry.key.size() > UINT16_MAX) return give_up(old);
  if (old == nullptr) make_room_for_one_more(entry.hash);
  const auto at = old != nullptr ? old->at : empty_slot(entry.hash);
  if (!at) return give_up(old);  // damage: there was one just now
  const std::uint32_t word = slot(*at).load(kRelaxed);
  // The last to make room: from here until the slot is stored nothing else may, because nothing
  // but the map says yet that these granules are taken.
  const auto start = allocate(static_cast<std::uint32_t>(granules));
  std::optional<Found> moved;
  if (old != nullptr && slot(*at).load(kRelaxed) != word) [[unlikely]] {
    moved = found_at(*at);  // or evicted
    old = moved ? &*moved : nullptr;
  }
  if (!start) return give_up(old);
  fence_before_bytes();
  write_entry(*start, entry);
  if (old != nullptr) {
    count_use(use(*at));  // overwriting is a use
  } else {
    PolicyView view = policy_view();
    use(*at).store(policy_.on_insert(view, entry.hash), kRelaxed);
  }
  publish(*at, entry.hash, *start);
  count_in(granules, entry.key.size() + entry.value.size());
  count(Counter::kStored);
  if (old != nullptr) retire(*old);
  return true;
}

// It does not fit; what is held of the key must not outlive the attempt.
bool Writer::give_up(const Found* held) {
  if (held != nullptr) erase(*held);
  count(Counter::kTooLarge);
  return false;
}

std::optional<Writer::Found> Writer::found_at(SlotRef at) {
  const auto entry = entry_at(at);
  if (!entry) return std::nullopt;
  return Found{at, *entry};
}

// As a reader counts it.
void Writer::count_use(Atomic<std::uint16_t>& use) {
  const std::uint32_t tick = stripe_.tick.load(kRelaxed);
  std::uint16_t was = use.load(kRelaxed);
  if (counted(was, tick)) return;
  use.compare_exchange_strong(was, policy_.on_hit(was, tick), kRelaxed);
}

// A slot, and a place among the most that the segment was made for.
void Writer::make_room_for_one_more(std::uint64_t hash) {
  if (stripe_.entries.load(kRelaxed) > buckets() * kSlotsPerBucket) rebuild();  // damage
  PolicyView view = policy_view();
  policy_.expect(view, hash);
  const std::uint64_t slots = std::uint64_t{g_.buckets_per_stripe} * kSlotsPerBucket;
  std::uint64_t most = slots * kMostPercent / 100;
  if (g_.max_entries != 0) {
    most = std::clamp<std::uint64_t>(g_.max_entries / g_.stripe_count, 1, most);
  }
  while (stripe_.entries.load(kRelaxed) >= most && evict_one()) {
  }
  if (stripe_.entries.load(kRelaxed) >= buckets() * kSlotsPerBucket * kFullPercent / 100) {
    (void)grow_index();
  }
  make_slot_empty(hash);
}

PolicyView Writer::policy_view() {
  const std::uint32_t entries = stripe_.entries.load(kRelaxed);
  return {.words = stripe_.policy,
          .tick = stripe_.tick,
          .shared = segment_.superblock().policy_words,
          .buckets = {&bucket(0), buckets()},
          .sketch = {segment_.sketch(index_), g_.sketch_per_stripe},
          .entries = entries,
          .capacity = g_.max_entries != 0 ? g_.max_entries
                                          : std::uint64_t{std::max(entries, 1u)} * g_.stripe_count,
          .totals =
              [](const void* processes) noexcept {
                return static_cast<const Processes*>(processes)->request_totals();
              },
          .context = &processes_};
}

// ---- guards -----------------------------------------------------------------------------------

Guard& Writer::guard_of(std::uint64_t hash) {
  return segment_.guard(index_, guard_index(g_, hash));
}

void Writer::raise_guard(Guard& guard, std::uint64_t epoch, std::uint64_t seq) {
  if (guard.epoch.load(kRelaxed) != epoch) {
    if (is_newer(guard.seq.load(kRelaxed), seq)) return count_guard(guard);
    // Lower first: a death between leaves a guard of the new epoch that is too low only for
    // changes whose effects the same death left undone, and repair raises the count.
    guard.seq.store(0, kRelaxed);
    guard.epoch.store(epoch, kRelease);
  }
  if (guard.seq.load(kRelaxed) < seq) guard.seq.store(seq, kRelease);
}

void Writer::count_guard(Guard& guard) {
  guard.count.store(guard.count.load(kRelaxed) + 1, kRelease);
}

}  // namespace larder::shm
