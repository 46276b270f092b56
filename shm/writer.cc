#include "shm/writer.h"

#include <algorithm>

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
      arena_(segment, stripe),
      policy_(policy),
      processes_(processes) {}

// ---- slots ------------------------------------------------------------------------------------

std::optional<Writer::Found> Writer::find(std::string_view key, std::uint64_t hash) {
  for (const std::uint32_t b : buckets_of(hash)) {
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
      const std::uint32_t word = bucket(b).slots[i].load(kRelaxed);
      if (!slot_matches(word, hash)) continue;
      const auto entry = read_entry(segment_, index_, word);
      if (entry && entry->key_is(key)) return Found{{b, i}, *entry};
    }
  }
  return std::nullopt;
}

std::array<std::uint32_t, 2> Writer::buckets_of(std::uint64_t hash) const {
  return {home_bucket(buckets(), hash), other_bucket(buckets(), hash)};
}

std::optional<EntryRef> Writer::entry_at(SlotRef at) {
  return read_entry(segment_, index_, slot(at).load(kRelaxed));
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
    for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
      if (bucket(b).slots[i].load(kRelaxed) == 0) return SlotRef{b, i};
    }
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
      slot(from).store(0, kRelease);
      use(from).store(0, kRelaxed);
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

void Writer::split_bucket(std::uint32_t index, std::uint32_t from) {
  Bucket& source = bucket(index);
  std::array<std::uint32_t, kSlotsPerBucket> slots;
  std::array<std::uint16_t, kSlotsPerBucket> uses;
  for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
    slots[i] = source.slots[i].load(kRelaxed);
    uses[i] = source.use[i].load(kRelaxed);
    source.slots[i].store(0, kRelease);
    source.use[i].store(0, kRelaxed);
  }
  // Readers of this bucket start over: who frees an entry from now on raises another's version.
  source.version.fetch_add(1, std::memory_order_seq_cst);
  for (const std::uint32_t half : {2 * index, 2 * index + 1}) {
    for (auto& slot : bucket(half).slots) slot.store(0, kRelease);  // damage, if anything
  }
  std::array<std::uint32_t, 2> used{};
  for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
    const auto entry = read_entry(segment_, index_, slots[i]);
    if (slots[i] == 0 || !entry) continue;
    const std::uint64_t hash = hash_of(*entry);
    const bool at_home = home_bucket(from, hash) == index;
    const std::uint32_t to = at_home ? home_bucket(2 * from, hash) : other_bucket(2 * from, hash);
    if (to / 2 != index) continue;  // damage: it did not belong here
    Bucket& half = bucket(to);
    const std::uint32_t next = used[to % 2]++;
    half.use[next].store(uses[i], kRelaxed);
    half.slots[next].store(slots[i], kRelease);
  }
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

void Writer::write_entry(std::uint32_t granule, std::string_view key, std::string_view value,
                         std::uint64_t expires_ms, const Stamp& stamp) {
  const std::uint64_t lag = stamp.reach.seq - std::min(stamp.reach.seq, stamp.base);
  EntryHeader header{};
  header.sizes =
      std::uint64_t{pack_lag(lag)} << 56 | std::uint64_t{key.size()} << 32 | value.size();
  header.check = stamp.epoch << 32;
  header.reach = stamp.reach.seq & kMaxSeq;
  header.life = stamp.reach.nonce << 40 | std::min(expires_ms, kExpiresMax);
  header.check |= entry_checksum(header, key, value);
  char* at = segment_.arena(index_) + std::uint64_t{granule} * kGranule;
  copy_to_shared(at, &header, sizeof header);
  copy_to_shared(at + sizeof header, key.data(), key.size());
  copy_to_shared(at + sizeof header + key.size(), value.data(), value.size());
}

void Writer::publish(SlotRef at, std::uint64_t hash, std::uint32_t granule) {
  // release: pairs with the reader's acquire of the slot (I1).
  slot(at).store(make_slot(hash, granule), kRelease);
}

void Writer::unlink(SlotRef at, const EntryRef& entry) {
  slot(at).store(0, kRelease);
  use(at).store(0, kRelaxed);
  // seq_cst: either who pins the entry sees this, or is_pinned() below sees the pin (I2).
  bucket(at.bucket).version.fetch_add(1, std::memory_order_seq_cst);
  count_out(entry);
  free_run(entry.run);
}

// A slot that leads nowhere is damage. Where its bytes are nobody knows; rebuilding finds them.
void Writer::unlink_unreadable(SlotRef at) {
  slot(at).store(0, kRelease);
  bucket(at.bucket).version.fetch_add(1, std::memory_order_seq_cst);
  rebuild();
}

void Writer::evict(SlotRef at) {
  const auto entry = entry_at(at);
  if (!entry) return unlink_unreadable(at);
  const HotWords& hot = segment_.superblock().hot;
  if (is_expired(entry->header)) {
    count(Counter::kExpirations);
  } else if (is_current(entry->header, hot.epoch.load(kRelaxed), hot.floor.load(kRelaxed))) {
    count(Counter::kEvictions);
  }
  PolicyView view = policy_view();
  policy_.on_evict(view, use(at).load(kRelaxed), hash_of(*entry));
  unlink(at, *entry);
}

void Writer::erase(const Found& found) {
  PolicyView view = policy_view();
  policy_.on_remove(view, use(found.at).load(kRelaxed));
  unlink(found.at, found.entry);
}

bool Writer::put(std::string_view key, std::uint64_t hash, std::string_view value,
                 std::uint64_t expires_ms, const Stamp& stamp) {
  const std::uint64_t granules = entry_granules(key.size(), value.size());
  const auto give_up = [&] {
    if (const auto found = find(key, hash)) erase(*found);
    count(Counter::kTooLarge);
    return false;
  };
  if (granules > g_.arena_granules || key.size() > UINT16_MAX) return give_up();
  if (!find(key, hash)) make_room_for_one_more(hash);
  // The last to make room: from here until the slot is stored nothing else may, because nothing
  // but the map says yet that these granules are taken. It may have evicted or moved what is held
  // of this key, so that is looked for again.
  const auto start = allocate(static_cast<std::uint32_t>(granules));
  const auto found = find(key, hash);
  const auto empty = found ? found->at : empty_slot(hash);
  if (!start) return give_up();
  if (!empty) {  // damage: there was one just now
    arena_.give_back({*start, static_cast<std::uint32_t>(granules)});
    return give_up();
  }
  fence_before_bytes();
  write_entry(*start, key, value, expires_ms, stamp);

  Atomic<std::uint16_t>& used = use(*empty);
  if (found) {
    // Overwriting is a use.
    const std::uint32_t tick = stripe_.tick.load(kRelaxed);
    std::uint16_t was = used.load(kRelaxed);
    if (!counted(was, tick)) {
      used.compare_exchange_strong(was, policy_.on_hit(was, tick), kRelaxed);
    }
  } else {
    PolicyView view = policy_view();
    used.store(policy_.on_insert(view, hash), kRelaxed);
  }
  publish(*empty, hash, *start);
  if (found) {
    bucket(empty->bucket).version.fetch_add(1, std::memory_order_seq_cst);
    count_out(found->entry);
    free_run(found->entry.run);
  }
  count_in(granules, key.size() + value.size());
  count(Counter::kStored);
  return true;
}

// A slot, and a place among the most that the segment was made for.
void Writer::make_room_for_one_more(std::uint64_t hash) {
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
