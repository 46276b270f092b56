#include "shm/writer.h"

#include <algorithm>
#include <array>

#include "shm/checksum.h"
#include "shm/clock.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::uint32_t kTicksPerTurnover = 16;
constexpr std::size_t kMostEntriesPerPage = kPageMaxBytes / entry_bytes(1, 0);

// From which rank on everything fits the budget; that rank itself may do so only in part. 0: all of
// it fits. Then recycling is compaction, and nothing need be lost.
unsigned lowest_rank_within(std::uint64_t budget, std::uint64_t live_bytes,
                            const std::array<std::uint64_t, 256>& bytes_of_rank) {
  if (live_bytes <= budget) return 0;
  std::uint64_t above = 0;
  for (unsigned rank = 255; rank > 0; --rank) {
    above += bytes_of_rank[rank];
    if (above > budget) return rank;
  }
  return 1;
}

}  // namespace

// ---- slots ------------------------------------------------------------------------------------

template <class Visit>
void Writer::for_each_slot(Visit&& visit) {
  for (std::uint32_t b = 0; b < segment_.geometry().buckets_per_stripe; ++b) {
    for (auto& slot : segment_.bucket(index_, b).slots) {
      if (const std::uint64_t word = slot.load(kRelaxed); word != 0) visit(b, slot, word);
    }
  }
}

template <class Visit>
void Writer::for_each_slot_in_page(std::uint64_t page, Visit&& visit) {
  // Every slot of the stripe is looked at: by offset, which is cheaper than by page.
  const std::uint64_t begin = segment_.page_offset(page);
  const std::uint64_t bytes = segment_.geometry().page_bytes;
  for_each_slot([&](std::uint32_t, Atomic<std::uint64_t>& slot, std::uint64_t word) {
    if (slot_offset(word) - begin < bytes) visit(slot, word);
  });
}

std::optional<Writer::Found> Writer::find(std::string_view key, std::uint64_t hash) {
  const std::uint32_t home = place_of(segment_.geometry(), hash).bucket;
  for (const std::uint32_t b : {home, home ^ 1}) {
    for (auto& slot : segment_.bucket(index_, b).slots) {
      const std::uint64_t word = slot.load(kRelaxed);
      if (!slot_matches(word, hash)) continue;
      const auto entry = read_entry(segment_, word);
      if (entry && entry->key_is(key)) return Found{&slot, word, *entry};
    }
  }
  return std::nullopt;
}

Atomic<std::uint8_t>& Writer::use_of(Atomic<std::uint64_t>& slot) {
  // Buckets are aligned to their size: the slot's address tells bucket and number.
  const std::uintptr_t in_bucket = reinterpret_cast<std::uintptr_t>(&slot) % sizeof(Bucket);
  auto& bucket = *reinterpret_cast<Bucket*>(reinterpret_cast<char*>(&slot) - in_bucket);
  return bucket.use[in_bucket / sizeof(slot)];
}

Atomic<std::uint64_t>* Writer::free_slot(std::uint64_t hash) {
  const std::uint32_t home = place_of(segment_.geometry(), hash).bucket;
  const auto tick = static_cast<std::uint8_t>(stripe_.tick.load(kRelaxed));
  Atomic<std::uint64_t>* least = nullptr;
  unsigned least_rank = 256;
  for (const std::uint32_t b : {home, home ^ 1}) {
    for (auto& slot : segment_.bucket(index_, b).slots) {
      if (slot.load(kRelaxed) == 0) return &slot;
      const unsigned rank = policy_.rank(use_of(slot).load(kRelaxed), tick);
      if (rank < least_rank) {
        least_rank = rank;
        least = &slot;
      }
    }
  }
  forget(*least, least->load(kRelaxed));
  count(Counter::kEvictions);
  return least;
}

void Writer::forget(Atomic<std::uint64_t>& slot, std::uint64_t word) {
  slot.store(0, std::memory_order_release);
  if (const auto entry = read_entry(segment_, word)) subtract_live(entry->page, entry->bytes);
}

// ---- derived counts: never trusted, so they saturate instead of wrapping ------------------------

void Writer::add_live(std::uint64_t page_index, std::uint64_t bytes) {
  auto& live = segment_.page(page_index).live;
  live.store(live.load(kRelaxed) + static_cast<std::uint32_t>(bytes), kRelaxed);
  stripe_.live_bytes.store(stripe_.live_bytes.load(kRelaxed) + bytes, kRelaxed);
  stripe_.entries.store(stripe_.entries.load(kRelaxed) + 1, kRelaxed);
}

void Writer::subtract_live(std::uint64_t page_index, std::uint64_t bytes) {
  const auto less = [](auto& word, std::uint64_t by) {
    const std::uint64_t now = word.load(kRelaxed);
    word.store(static_cast<std::remove_reference_t<decltype(word.load())>>(now - std::min(now, by)),
               kRelaxed);
  };
  less(segment_.page(page_index).live, bytes);
  less(stripe_.live_bytes, bytes);
  less(stripe_.entries, 1);
}

void Writer::advance_tick() {
  const std::uint32_t inserts = stripe_.inserts.load(kRelaxed) + 1;
  const std::uint64_t entries = stripe_.entries.load(kRelaxed);
  if (inserts < std::max<std::uint64_t>(kTicksPerTurnover, entries / kTicksPerTurnover)) {
    stripe_.inserts.store(inserts, kRelaxed);
    return;
  }
  stripe_.inserts.store(0, kRelaxed);
  stripe_.tick.store(stripe_.tick.load(kRelaxed) + 1, kRelaxed);
}

// ---- putting ----------------------------------------------------------------------------------

bool Writer::put(std::string_view key, std::uint64_t hash, std::string_view value,
                 std::uint64_t expires_ms, const Stamp& stamp) {
  const std::uint64_t bytes = entry_bytes(key.size(), value.size());
  const auto give_up = [&] {
    if (const auto found = find(key, hash)) erase(*found);
    count(Counter::kTooLarge);
    return false;
  };
  if (bytes > segment_.geometry().page_bytes || key.size() > UINT16_MAX) return give_up();
  // May recycle a page, and with it move or drop what is held of this key: look for it afterwards.
  const auto appended = append_with_room(bytes);
  if (!appended) return give_up();
  const std::uint64_t offset = *appended;

  EntryHeader header{};
  header.value_bytes = static_cast<std::uint32_t>(value.size());
  header.key_bytes = static_cast<std::uint16_t>(key.size());
  header.epoch = static_cast<std::uint32_t>(stamp.epoch);
  header.reach_seq = stamp.reach.seq;
  header.reach_nonce = static_cast<std::uint32_t>(stamp.reach.nonce);
  const std::uint64_t lag = stamp.reach.seq - std::min(stamp.reach.seq, stamp.base);
  // A lag that does not fit means "from the beginning": every event up to the reach is unsure.
  header.base_lag = static_cast<std::uint32_t>(std::min<std::uint64_t>(lag, UINT32_MAX));
  header.expires_ms = expires_ms;
  header.checksum = entry_checksum(header, key, value);

  char* at = segment_.at(offset);
  const std::uint64_t page_index = page_of_offset(offset);
  fence_before_bytes(segment_.page(page_index).generation);
  copy_to_shared(at, &header, sizeof header);
  copy_to_shared(at + sizeof header, key.data(), key.size());
  copy_to_shared(at + sizeof header + key.size(), value.data(), value.size());

  const auto found = find(key, hash);
  Atomic<std::uint64_t>& slot = found ? *found->slot : *free_slot(hash);
  const auto tick = static_cast<std::uint8_t>(stripe_.tick.load(kRelaxed));
  // Overwriting is a use; a newcomer starts from nothing.
  Atomic<std::uint8_t>& use = use_of(slot);
  use.store(found ? policy_.on_hit(use.load(kRelaxed), tick) : policy_.on_insert(tick), kRelaxed);
  // release: pairs with the reader's acquire of the slot (I1).
  slot.store(make_slot(hash, offset), std::memory_order_release);
  if (found) {
    subtract_live(found->entry.page, found->entry.bytes);
  } else {
    advance_tick();
  }
  add_live(page_index, bytes);
  count(Counter::kStored);
  return true;
}

void Writer::erase(const Found& found) { forget(*found.slot, found.word); }

// ---- guards -----------------------------------------------------------------------------------

Guard& Writer::guard_of(std::uint64_t hash) {
  const auto mask = segment_.geometry().guards_per_stripe - 1;
  return segment_.guard(index_, static_cast<std::uint32_t>(hash >> 32) & mask);
}

void Writer::raise_guard(Guard& guard, std::uint64_t epoch, std::uint64_t seq) {
  if (guard.epoch.load(kRelaxed) != epoch) {
    // Lower first: a death between leaves a guard of the new epoch that is too low only for
    // changes whose effects the same death left undone, and repair raises the count.
    guard.seq.store(0, kRelaxed);
    guard.epoch.store(epoch, std::memory_order_release);
  }
  if (guard.seq.load(kRelaxed) < seq) guard.seq.store(seq, std::memory_order_release);
}

void Writer::count_guard(Guard& guard) {
  guard.count.store(guard.count.load(kRelaxed) + 1, std::memory_order_release);
}

// ---- pages ------------------------------------------------------------------------------------

// Every word is read once and checked: should a writer that was taken for dead still be at it, this
// must not lead beyond the page.
std::optional<std::uint64_t> Writer::append(std::uint64_t bytes) {
  const std::uint32_t open = stripe_.open_page.load(kRelaxed);
  if (open >= page_count() || page(open).owner.load(kRelaxed) != index_ + 1) return std::nullopt;
  PageDescriptor& into = page(open);
  const std::uint32_t used = into.used.load(kRelaxed);
  if (used % kUnit != 0 || used + bytes > segment_.geometry().page_bytes) return std::nullopt;
  // Before the bytes: whoever repairs after us finds no entry beyond `used`.
  into.used.store(used + static_cast<std::uint32_t>(bytes), std::memory_order_release);
  return segment_.page_offset(first_page() + open) + used;
}

std::uint32_t Writer::free_page(unsigned& free_pages) {
  std::uint32_t found = kNoPage;
  free_pages = 0;
  for (std::uint32_t p = 0; p < page_count(); ++p) {
    if (page(p).owner.load(kRelaxed) != 0) continue;
    ++free_pages;
    if (found == kNoPage) found = p;
  }
  return found;
}

void Writer::open_page(std::uint32_t in_range) {
  PageDescriptor& opened = page(in_range);
  opened.used.store(0, kRelaxed);
  opened.live.store(0, kRelaxed);
  const std::uint64_t order = stripe_.fill_order.load(kRelaxed) + 1;
  stripe_.fill_order.store(order, kRelaxed);
  opened.filled.store(order, kRelaxed);
  // release: ownership comes before any slot that points into the page (I2).
  opened.owner.store(index_ + 1, std::memory_order_release);
  stripe_.open_page.store(in_range, kRelaxed);
}

// One free page is always kept back: survivors of the next recycling go there. After the first
// round it may be too full for `bytes`; the second keeps nothing and leaves a whole page. The third
// is needed where somebody died while recycling, and no page was kept back.
std::optional<std::uint64_t> Writer::append_with_room(std::uint64_t bytes) {
  if (const auto offset = append(bytes)) return offset;
  std::uint64_t keep_budget = segment_.geometry().page_bytes / 2;
  for (int round = 0; round < 3; ++round, keep_budget = 0) {
    unsigned free_pages = 0;
    const std::uint32_t candidate = free_page(free_pages);
    const std::uint32_t victim = choose_victim();
    if (free_pages > 0) open_page(candidate);
    if (free_pages < 2) recycle(victim, free_pages == 1 ? keep_budget : 0);
    if (const auto offset = append(bytes)) return offset;
  }
  return std::nullopt;
}

// A page that is at most half alive is cheap to compact: the emptiest of those; else the oldest.
std::uint32_t Writer::choose_victim() {
  const std::uint32_t open = stripe_.open_page.load(kRelaxed);
  const std::uint32_t half = segment_.geometry().page_bytes / 2;
  std::uint32_t emptiest = kNoPage;
  std::uint32_t oldest = kNoPage;
  for (std::uint32_t p = 0; p < page_count(); ++p) {
    if (p == open || page(p).owner.load(kRelaxed) == 0) continue;
    if (emptiest == kNoPage || page(p).live.load(kRelaxed) < page(emptiest).live.load(kRelaxed)) {
      emptiest = p;
    }
    if (oldest == kNoPage || page(p).filled.load(kRelaxed) < page(oldest).filled.load(kRelaxed)) {
      oldest = p;
    }
  }
  if (emptiest == kNoPage) return open < page_count() ? open : 0;  // damaged owner words
  return page(emptiest).live.load(kRelaxed) <= half ? emptiest : oldest;
}

void Writer::move(Atomic<std::uint64_t>& slot, std::uint64_t word, const EntryRef& entry) {
  const auto moved_to = append(entry.bytes);
  if (!moved_to) return;  // no room after all: it goes with its page
  const std::uint64_t to = *moved_to;
  const std::uint64_t page_index = page_of_offset(to);
  fence_before_bytes(segment_.page(page_index).generation);
  copy_to_shared(segment_.at(to), entry.start, entry.bytes);
  // release: pairs with the reader's acquire of the slot (I1).
  slot.store((word & ~kOffsetMask) | to / kUnit, std::memory_order_release);
  subtract_live(entry.page, entry.bytes);
  add_live(page_index, entry.bytes);
  Atomic<std::uint8_t>& use = use_of(slot);
  const auto tick = static_cast<std::uint8_t>(stripe_.tick.load(kRelaxed));
  use.store(policy_.on_survive(use.load(kRelaxed), tick), kRelaxed);
}

// Moves the entries most worth keeping, up to `keep_budget` bytes, to the open page, which has room
// for them; drops the rest and frees the page. Readers are not disturbed: what moves is found at
// its new place from one store on.
void Writer::recycle(std::uint32_t in_range, std::uint64_t keep_budget) {
  const std::uint64_t page_index = first_page() + in_range;
  const HotWords& hot = segment_.superblock().hot;
  const std::uint64_t epoch = hot.epoch.load(kRelaxed);
  const std::uint64_t floor = hot.floor.load(kRelaxed);
  const std::uint64_t now = now_ms();
  const auto tick = static_cast<std::uint8_t>(stripe_.tick.load(kRelaxed));
  const auto is_live = [&](const EntryRef& entry) {
    return is_current(entry.header, epoch, floor) && !is_expired(entry.header, now);
  };

  // One pass over the stripe; the list may be cut short by damage, releasing the page clears the
  // rest.
  std::array<Atomic<std::uint64_t>*, kMostEntriesPerPage> slots;
  std::size_t slot_count = 0;
  std::array<std::uint64_t, 256> bytes_of_rank{};
  std::uint64_t live_bytes = 0;
  for_each_slot_in_page(page_index, [&](Atomic<std::uint64_t>& slot, std::uint64_t word) {
    const auto entry = read_entry(segment_, word);
    if (!entry || slot_count == slots.size()) return;
    slots[slot_count++] = &slot;
    if (!is_live(*entry)) return;
    bytes_of_rank[policy_.rank(use_of(slot).load(kRelaxed), tick)] += entry->bytes;
    live_bytes += entry->bytes;
  });
  const unsigned lowest_kept = lowest_rank_within(keep_budget, live_bytes, bytes_of_rank);

  for (const bool boundary : {false, true}) {  // the lowest rank only as far as the budget goes
    for (std::size_t i = 0; i < slot_count; ++i) {
      const std::uint64_t word = slots[i]->load(kRelaxed);
      const auto entry = read_entry(segment_, word);
      if (!entry || entry->page != page_index) continue;  // moved in the first round
      const unsigned rank = policy_.rank(use_of(*slots[i]).load(kRelaxed), tick);
      const bool wanted = is_live(*entry) && (boundary ? rank == lowest_kept : rank > lowest_kept);
      if (wanted && entry->bytes <= keep_budget) {
        keep_budget -= entry->bytes;
        move(*slots[i], word, *entry);
      } else if (boundary && is_current(entry->header, epoch, floor)) {
        count(is_expired(entry->header, now) ? Counter::kExpirations : Counter::kEvictions);
      }
    }
  }
  release_page(in_range);
}

void Writer::release_page(std::uint32_t in_range) {
  PageDescriptor& released = page(in_range);
  const std::uint32_t generation = released.generation.load(kRelaxed);
  released.generation.store(generation | 1, kRelaxed);
  // release: a reader that sees a cleared slot, or later bytes, also sees the odd generation (I2).
  fence_before_bytes(released.generation);
  for_each_slot_in_page(first_page() + in_range, [&](Atomic<std::uint64_t>& slot,
                                                     std::uint64_t word) { forget(slot, word); });
  released.used.store(0, kRelaxed);
  released.live.store(0, kRelaxed);
  released.generation.store((generation | 1) + 1, std::memory_order_release);
  if (stripe_.open_page.load(kRelaxed) == in_range) stripe_.open_page.store(kNoPage, kRelaxed);
  released.owner.store(0, std::memory_order_release);
}

// ---- recovery ---------------------------------------------------------------------------------

void Writer::clear_everything() {
  for (std::uint32_t p = 0; p < page_count(); ++p) {
    page(p).generation.store(page(p).generation.load(kRelaxed) | 1, kRelaxed);
    fence_before_bytes(page(p).generation);
  }
  for_each_slot([](std::uint32_t, Atomic<std::uint64_t>& slot, std::uint64_t) {
    slot.store(0, std::memory_order_release);
  });
  for (std::uint32_t p = 0; p < page_count(); ++p) {
    page(p).used.store(0, kRelaxed);
    page(p).live.store(0, kRelaxed);
    page(p).generation.store((page(p).generation.load(kRelaxed) | 1) + 1,
                             std::memory_order_release);
    page(p).owner.store(0, std::memory_order_release);
  }
  stripe_.open_page.store(kNoPage, kRelaxed);
  stripe_.entries.store(0, kRelaxed);
  stripe_.live_bytes.store(0, kRelaxed);
}

void Writer::wipe() {
  constexpr int kRounds = 16;  // a bypass that is raised again and again stays: readers just miss
  const Superblock& block = segment_.superblock();
  count(Counter::kWipes);
  for (int round = 0; round < kRounds; ++round) {
    // acquire: pairs with the release that raised it; `head_seq` below is that change's or later.
    std::uint32_t bypass = stripe_.bypass.load(std::memory_order_acquire);
    const std::uint64_t epoch = block.hot.epoch.load(std::memory_order_acquire);
    const std::uint64_t applied = block.sync.head_seq.load(std::memory_order_acquire);
    for (std::uint32_t i = 0; i < segment_.geometry().guards_per_stripe; ++i) {
      Guard& guard = segment_.guard(index_, i);
      raise_guard(guard, epoch, applied);
      count_guard(guard);
    }
    stripe_.term.store(block.sync.term.load(std::memory_order_acquire), std::memory_order_release);
    clear_everything();
    if (bypass == 0) return;
    if (stripe_.bypass.compare_exchange_strong(bypass, 0, std::memory_order_acq_rel)) return;
  }
}

bool Writer::is_trustworthy(const EntryRef& entry, std::uint64_t word, std::uint32_t bucket) {
  if (entry.page < first_page() || entry.page >= first_page() + page_count()) return false;
  const PageDescriptor& holder = segment_.page(entry.page);
  if (holder.owner.load(kRelaxed) != index_ + 1) return false;
  if (entry.in_page + entry.bytes > holder.used.load(kRelaxed)) return false;
  const std::string_view key(entry.key(), entry.header.key_bytes);
  const std::string_view value(entry.value(), entry.header.value_bytes);
  const std::uint64_t hash = segment_.hash(key);
  const KeyPlace home = place_of(segment_.geometry(), hash);
  return home.stripe == index_ && (home.bucket | 1) == (bucket | 1) && slot_matches(word, hash) &&
         entry.header.checksum == entry_checksum(entry.header, key, value);
}

void Writer::repair() {
  const std::uint32_t page_bytes = segment_.geometry().page_bytes;
  std::uint64_t newest = 0;
  for (std::uint32_t p = 0; p < page_count(); ++p) {
    PageDescriptor& each = page(p);
    const std::uint32_t owner = each.owner.load(kRelaxed);
    const bool half_recycled = each.generation.load(kRelaxed) & 1;
    if (half_recycled || (owner != 0 && owner != index_ + 1)) release_page(p);
    if (each.used.load(kRelaxed) > page_bytes) each.used.store(page_bytes, kRelaxed);
    each.live.store(0, kRelaxed);
    newest = std::max(newest, each.filled.load(kRelaxed));
  }
  stripe_.open_page.store(kNoPage, kRelaxed);
  stripe_.fill_order.store(newest, kRelaxed);
  stripe_.entries.store(0, kRelaxed);
  stripe_.live_bytes.store(0, kRelaxed);

  for_each_slot([&](std::uint32_t bucket, Atomic<std::uint64_t>& slot, std::uint64_t word) {
    const auto entry = read_entry(segment_, word);
    if (!entry || !is_trustworthy(*entry, word, bucket)) {
      slot.store(0, std::memory_order_release);
      return;
    }
    // Two slots of one key: no writer of ours leaves that; the first found stays.
    const std::string_view key(entry->key(), entry->header.key_bytes);
    const auto first = find(key, segment_.hash(key));
    if (first && first->slot != &slot) {
      slot.store(0, std::memory_order_release);
      return;
    }
    add_live(entry->page, entry->bytes);
  });
  for (std::uint32_t p = 0; p < page_count(); ++p) {
    if (page(p).owner.load(kRelaxed) != 0 && page(p).live.load(kRelaxed) == 0) release_page(p);
  }
  // A guard may have been caught between two stores: let no reply from before be stored.
  for (std::uint32_t i = 0; i < segment_.geometry().guards_per_stripe; ++i) {
    count_guard(segment_.guard(index_, i));
  }
}

}  // namespace larder::shm
