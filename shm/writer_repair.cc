// What a stripe is brought back to: by whoever takes it over from the dead, when an invalidation
// was missed, when the epoch or the floor rose.
#include <algorithm>

#include "shm/checksum.h"
#include "shm/clock.h"
#include "shm/history.h"
#include "shm/writer.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr std::memory_order kRelease = std::memory_order_release;

}  // namespace

void Writer::sweep(std::uint64_t epoch, std::uint64_t floor) {
  const std::uint32_t index = stripe_.index.load(kRelaxed);
  if (index & kIndexGrowing) repair();
  if (index < g_.least_buckets()) stripe_.index.store(g_.least_buckets(), kRelease);
  if (stripe_.swept_epoch.load(kRelaxed) == epoch && stripe_.swept_floor.load(kRelaxed) == floor) {
    return;
  }
  for_each_slot([&](SlotRef at, std::uint32_t word) {
    const auto entry = read_entry(segment_, index_, word);
    const bool keep =
        entry && is_current(entry->header, epoch, floor) && !is_expired(entry->header);
    if (keep) return;
    PolicyView view = policy_view();
    policy_.on_remove(view, use(at).load(kRelaxed));
    clear(at);
  });
  raise_versions();
  rebuild();
  shrink_empty_index();
  stripe_.swept_epoch.store(epoch, kRelaxed);
  stripe_.swept_floor.store(floor, kRelaxed);
}

// What stands beyond the index in use is damage: nobody finds it, until damage says otherwise.
void Writer::empty_unused_buckets() {
  for (std::uint32_t b = buckets(); b < g_.buckets_per_stripe; ++b) {
    for (auto& slot : bucket(b).slots) {
      if (slot.load(kRelaxed) != 0) slot.store(0, kRelease);
    }
  }
}

// Whatever slots were cleared or replaced by us, or by a dead writer before us: from here on their
// readers start over.
void Writer::raise_versions() {
  for (std::uint32_t b = 0; b < g_.buckets_per_stripe; ++b) {
    Atomic<std::uint32_t>& version = bucket(b).version;
    version.store(version.load(kRelaxed) + 1, kRelease);
  }
  // Either who pins an entry sees its version, or is_pinned() sees the pin.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

// Makes the map and all counts anew from the slots and the pins. Slots whose entries overlap are
// damage: the first stays.
void Writer::rebuild() {
  arena_.clear();
  stripe_.entries.store(0, kRelaxed);
  stripe_.live_granules.store(0, kRelaxed);
  stripe_.payload_bytes.store(0, kRelaxed);
  bool dropped = false;
  for_each_slot([&](SlotRef at, std::uint32_t word) {
    const auto entry = read_entry(segment_, index_, word);
    if (entry && arena_.is_free(entry->run)) {
      arena_.take(entry->run);
      count_in(entry->run.granules, entry->payload_bytes());
      return;
    }
    slot(at).store(0, kRelease);
    dropped = true;
  });
  if (dropped) raise_versions();
  mark_pinned_runs();
  stripe_.fit_bound.store(UINT32_MAX, kRelaxed);
  stripe_.next_granule.store(0, kRelaxed);
}

void Writer::clear_everything() {
  for_each_slot([this](SlotRef at, std::uint32_t) { clear(at); });
  empty_unused_buckets();
  raise_versions();
  rebuild();
  shrink_empty_index();
}

// Never while room is made for an entry, whose slot was chosen before.
void Writer::shrink_empty_index() {
  if (stripe_.entries.load(kRelaxed) == 0) stripe_.index.store(g_.least_buckets(), kRelease);
}

void Writer::wipe() {
  constexpr int kRounds = 16;  // a bypass that is raised again and again stays: readers just miss
  const Superblock& block = segment_.superblock();
  const History history(segment_);
  count(Counter::kWipes);
  for (int round = 0; round < kRounds; ++round) {
    // acquire: pairs with the release that raised it; the change is among those asked for below.
    std::uint32_t bypass = stripe_.bypass.load(kAcquire);
    const std::uint64_t epoch = block.hot.epoch.load(kAcquire);
    const std::uint64_t known = std::max(block.sync.head_seq.load(kAcquire), history.ahead());
    for (std::uint32_t i = 0; i < g_.guards_per_stripe; ++i) {
      Guard& guard = segment_.guard(index_, i);
      raise_guard(guard, epoch, known);
      count_guard(guard);
    }
    stripe_.term.store(block.sync.term.load(kAcquire), kRelease);
    clear_everything();
    if (bypass == 0) return;
    if (stripe_.bypass.compare_exchange_strong(bypass, 0, std::memory_order_acq_rel)) return;
  }
}

bool Writer::is_trustworthy(const EntryRef& entry, std::uint32_t word, std::uint32_t bucket) {
  const std::string_view key(entry.key(), entry.header.key_bytes());
  const std::string_view value(entry.value(), entry.header.value_bytes());
  const std::uint64_t hash = segment_.hash(key);
  const auto at = buckets_of(hash);
  return stripe_of(g_, hash) == index_ && (at[0] == bucket || at[1] == bucket) &&
         slot_matches(word, hash) &&
         entry.header.checksum() == entry_checksum(entry.header, hash, value);
}

void Writer::repair() {
  for_each_slot([&](SlotRef at, std::uint32_t word) {
    const auto entry = read_entry(segment_, index_, word);
    bool keep = entry && is_trustworthy(*entry, word, at.bucket);
    if (keep) {
      // Two slots of one key: no writer of ours leaves that; the first found stays.
      const auto first = find({entry->key(), entry->header.key_bytes()}, hash_of(*entry));
      keep = first && first->at == at;
    }
    if (!keep) slot(at).store(0, kRelease);
  });
  // Died while the index grew: what had not moved yet was not where it belongs, and is gone.
  stripe_.index.store(buckets(), kRelease);
  empty_unused_buckets();
  raise_versions();
  rebuild();
  // A guard may have been caught between two stores: let no reply from before be stored.
  for (std::uint32_t i = 0; i < g_.guards_per_stripe; ++i) count_guard(segment_.guard(index_, i));
}

}  // namespace larder::shm
