#include "shm/table.h"

#include <algorithm>

#include "shm/clock.h"
#include "shm/entry.h"
#include "shm/lock.h"
#include "shm/policy.h"
#include "shm/writer.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr int kReadAttempts = 8;
constexpr std::uint32_t kDeathsBeforeWipe = 3;
constexpr std::chrono::milliseconds kTryOnly{0};
// The leader waits no longer than this for one stripe, whatever callers may: it has the others to
// serve, and its heartbeat.
constexpr std::chrono::milliseconds kLeaderWait{100};

// What one look at a key's buckets found.
enum class Look { kFound, kAbsent, kMoved };

constexpr std::uint64_t pack_floor(std::uint64_t epoch, std::uint64_t seq) {
  return (epoch & 0xffff) << 48 | std::min(seq, kMaxSeq);
}

}  // namespace

class Table::Impl {
 public:
  Impl(std::shared_ptr<Segment> segment, TableOptions options)
      : segment_(std::move(segment)),
        g_(segment_->geometry()),
        hot_(segment_->superblock().hot),
        sync_(segment_->superblock().sync),
        policy_(policy_of(segment_->superblock().policy)),
        options_(options),
        processes_(*segment_) {}

  // The lock of one stripe, and the right to write it, for as long as this lives. Repairs what a
  // dead owner left and serves a pending wipe before it lets anybody in.
  class Hold {
   public:
    Hold(Impl& table, std::uint32_t stripe, std::chrono::milliseconds timeout)
        : table_(table), stripe_(table.segment_->stripe(stripe)) {
      const auto self = table.processes_.self();
      if (!self) return;
      self_ = *self;
      const Acquired acquired = acquire(stripe_, self_, table.processes_, timeout);
      if (acquired == Acquired::kTimeout) {
        table.count(Counter::kLockTimeouts);
        self_ = 0;
        return;
      }
      writer_.emplace(*table.segment_, stripe, table.policy_, table.processes_.counters());
      if (acquired == Acquired::kFromDead) recover();
      if (stripe_.bypass.load(kAcquire) != 0) writer_->wipe();
    }
    ~Hold() {
      if (self_ == 0) return;
      // A whole turn without a death: whatever killed the owners before is not in this stripe.
      if (!recovered_ && stripe_.deaths.load(kRelaxed) != 0) stripe_.deaths.store(0, kRelaxed);
      if (!release(stripe_, self_)) table_.count(Counter::kLocksLost);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    explicit operator bool() const noexcept { return writer_.has_value(); }
    Writer* operator->() noexcept { return &*writer_; }
    Stripe& stripe() noexcept { return stripe_; }

   private:
    void recover() {
      recovered_ = true;
      table_.count(Counter::kTakeovers);
      const std::uint32_t deaths = stripe_.deaths.load(kRelaxed) + 1;
      stripe_.deaths.store(deaths, kRelaxed);
      if (deaths >= kDeathsBeforeWipe) {
        writer_->wipe();
        stripe_.deaths.store(0, kRelaxed);
      } else {
        writer_->repair();
      }
    }

    Impl& table_;
    Stripe& stripe_;
    std::uint32_t self_ = 0;
    bool recovered_ = false;
    std::optional<Writer> writer_;
  };

  void count(Counter counter, std::uint64_t by = 1) noexcept {
    processes_.counters().values[static_cast<std::size_t>(counter)].fetch_add(by, kRelaxed);
  }

  // ---- reading ----

  // `use(entry)` copies what it wants; what it saw counts only when this returns kFound.
  template <class Use>
  Look look(std::string_view key, std::uint64_t hash, bool promote, Use&& use) {
    const KeyPlace home = place_of(g_, hash);
    for (const std::uint32_t b : {home.bucket, home.bucket ^ 1}) {
      Bucket& bucket = segment_->bucket(home.stripe, b);
      for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
        // acquire: pairs with the release that published the entry (I1).
        const std::uint64_t word = bucket.slots[i].load(kAcquire);
        if (!slot_matches(word, hash)) continue;
        const auto page = page_of_slot(*segment_, word);
        if (!page) continue;
        const Atomic<std::uint32_t>& generation = segment_->page(*page).generation;
        // acquire: pairs with the release that made it even; odd: being recycled (I2).
        const std::uint32_t before = generation.load(kAcquire);
        if ((before & 1) || bucket.slots[i].load(kAcquire) != word) return Look::kMoved;
        const auto entry = read_entry(*segment_, word);
        const bool match = entry && entry->key_is(key);
        const bool live = match && is_live(entry->header);
        if (live) use(*entry);
        fence_before_recheck(generation);
        if (generation.load(kRelaxed) != before || bucket.slots[i].load(kRelaxed) != word) {
          return Look::kMoved;
        }
        if (!match) continue;  // another key with the same tag
        if (!live) return Look::kAbsent;
        if (promote) touch(segment_->stripe(home.stripe), bucket.use[i]);
        return Look::kFound;
      }
    }
    return Look::kAbsent;
  }

  bool is_live(const EntryHeader& header) const noexcept {
    return is_current(header, hot_.epoch.load(kAcquire), hot_.floor.load(kAcquire)) &&
           (header.expires_ms == kNeverExpires || header.expires_ms > now_ms());
  }

  void touch(const Stripe& stripe, Atomic<std::uint8_t>& use) const noexcept {
    const std::uint8_t was = use.load(kRelaxed);
    const std::uint8_t now =
        policy_.on_hit(was, static_cast<std::uint8_t>(stripe.tick.load(kRelaxed)));
    if (now != was) use.store(now, kRelaxed);
  }

  template <class Use>
  bool read(std::string_view key, bool promote, Use&& use) {
    const std::uint64_t hash = segment_->hash(key);
    const std::uint32_t stripe = place_of(g_, hash).stripe;
    // acquire: pairs with the release that raised it; an invalidation may be waiting for its wipe.
    if (segment_->stripe(stripe).bypass.load(kAcquire) != 0) return false;
    for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
      const Look seen = look(key, hash, promote, use);
      if (seen != Look::kMoved) return seen == Look::kFound;
    }
    // Writers kept moving it, or a recycler died or was stopped half-way. Once, without waiting.
    const Hold hold(*this, stripe, kTryOnly);
    return hold && look(key, hash, promote, use) == Look::kFound;
  }

  // ---- changing ----

  // A change that did not get the lock must not leave an older value readable.
  void raise_bypass(std::uint32_t stripe) noexcept {
    segment_->stripe(stripe).bypass.fetch_add(1, std::memory_order_acq_rel);
  }

  // Drops what is held of the key when it is older than `reach`.
  static bool drop_older(Hold& hold, std::string_view key, std::uint64_t hash,
                         std::uint64_t reach) {
    const auto found = hold->find(key, hash);
    if (!found) return true;
    if (found->entry.header.reach_seq > reach) return false;
    hold->erase(*found);
    return true;
  }

  // Did something come between the sample and now that a reply of this reach may not know of?
  bool overtaken(const Guard& guard, const Sample& sample, std::uint64_t reach) const noexcept {
    if (hot_.epoch.load(kAcquire) != sample.epoch) return true;
    if (guard.count.load(kRelaxed) != sample.guard_count) return true;
    return guard.epoch.load(kRelaxed) == sample.epoch && guard.seq.load(kRelaxed) > reach;
  }

  Stored store(const Record& record, const Sample& sample, ChangeId reach, bool own_change) {
    const std::uint64_t hash = segment_->hash(record.key);
    const std::uint32_t stripe = place_of(g_, hash).stripe;
    Hold hold(*this, stripe, options_.lock_timeout);
    if (!hold) {
      if (own_change) raise_bypass(stripe);
      return Stored::kBusy;
    }
    Guard& guard = hold->guard_of(hash);
    // Even when it is not stored: replies older than this change must not be either.
    if (own_change && reach.seq != 0 && hot_.epoch.load(kAcquire) == sample.epoch) {
      hold->raise_guard(guard, sample.epoch, reach.seq);
    }
    // Without Redis there are no replies that could be late: a clear alone overtakes.
    const bool alone = own_change && reach.seq == 0;
    const bool late =
        alone ? hot_.epoch.load(kAcquire) != sample.epoch : overtaken(guard, sample, reach.seq);
    if (late) {
      drop_older(hold, record.key, hash, reach.seq);
      count(Counter::kStoresRefused);
      return Stored::kRefused;
    }
    const auto found = hold->find(record.key, hash);
    if (found && found->entry.header.epoch == static_cast<std::uint32_t>(sample.epoch) &&
        found->entry.header.reach_seq > reach.seq) {
      count(Counter::kStoresRefused);
      return Stored::kRefused;
    }
    const Stamp stamp{sample.epoch, std::min(sample.base, reach.seq), reach};
    return hold->put(record.key, hash, record.value, record.expires_ms, stamp) ? Stored::kStored
                                                                               : Stored::kTooLarge;
  }

  Stored remove(std::string_view key, const Sample* sample, ChangeId id) {
    const std::uint64_t hash = segment_->hash(key);
    const std::uint32_t stripe = place_of(g_, hash).stripe;
    Hold hold(*this, stripe, options_.lock_timeout);
    if (!hold) {
      raise_bypass(stripe);
      return Stored::kBusy;
    }
    if (sample != nullptr && id.seq != 0) {
      if (hot_.epoch.load(kAcquire) == sample->epoch) {
        hold->raise_guard(hold->guard_of(hash), sample->epoch, id.seq);
      }
      return drop_older(hold, key, hash, id.seq) ? Stored::kStored : Stored::kRefused;
    }
    drop_older(hold, key, hash, UINT64_MAX);
    return Stored::kStored;
  }

  // ---- the leader ----

  // Behind a bypass a change is covered by the wipe to come: only try.
  std::chrono::milliseconds leader_wait(std::uint32_t stripe) const noexcept {
    if (segment_->stripe(stripe).bypass.load(kAcquire) != 0) return kTryOnly;
    return std::min(options_.lock_timeout, kLeaderWait);
  }

  Applied apply(const Change& change, std::uint64_t term) {
    const std::uint64_t hash = segment_->hash(change.record.key);
    const std::uint32_t stripe = place_of(g_, hash).stripe;
    Hold hold(*this, stripe, leader_wait(stripe));
    if (!hold) {
      if (!term_is_current(term)) return Applied::kStaleTerm;
      raise_bypass(stripe);
      return Applied::kDeferred;
    }
    if (hold.stripe().term.load(kAcquire) != term) return Applied::kStaleTerm;
    const std::uint64_t epoch = hot_.epoch.load(kAcquire);
    Guard& guard = hold->guard_of(hash);
    return change.id.none() ? apply_without_id(hold, guard, change, hash, epoch)
                            : apply_with_id(hold, guard, change, hash, epoch);
  }

  // A peer's write and its event are two steps: a reply that is under way may know neither.
  Applied apply_without_id(Hold& hold, Guard& guard, const Change& change, std::uint64_t hash,
                           std::uint64_t epoch) {
    hold->count_guard(guard);
    if (const auto found = hold->find(change.record.key, hash)) hold->erase(*found);
    if (change.kind == Change::Kind::kSet) {
      const ChangeId cursor{sync_.cursor_seq.load(kRelaxed), sync_.cursor_nonce.load(kRelaxed)};
      hold->put(change.record.key, hash, change.record.value, change.record.expires_ms,
                {epoch, cursor.seq, cursor});
    }
    return Applied::kApplied;
  }

  Applied apply_with_id(Hold& hold, Guard& guard, const Change& change, std::uint64_t hash,
                        std::uint64_t epoch) {
    // A newer change was taken here already: this host's own removal, say, that the events have not
    // come to yet. Then this one's value is old, whether or not anything is held of the key.
    const bool overtaken =
        guard.epoch.load(kRelaxed) == epoch && guard.seq.load(kRelaxed) > change.id.seq;
    hold->raise_guard(guard, epoch, change.id.seq);
    const auto found = hold->find(change.record.key, hash);
    if (found && found->entry.header.epoch == static_cast<std::uint32_t>(epoch)) {
      const EntryHeader& held = found->entry.header;
      if (change.id.seq <= found->entry.base()) return Applied::kOld;
      if (held.reach_seq == change.id.seq &&
          held.reach_nonce == static_cast<std::uint32_t>(change.id.nonce)) {
        return Applied::kOld;  // its own change, or the change it was read after
      }
      if (change.id.seq <= held.reach_seq) {
        hold->erase(*found);  // may or may not contain the change
        return Applied::kApplied;
      }
    }
    if (change.kind == Change::Kind::kSet && !overtaken) {
      hold->put(change.record.key, hash, change.record.value, change.record.expires_ms,
                {epoch, change.id.seq, change.id});
    } else if (found) {
      hold->erase(*found);
    }
    return Applied::kApplied;
  }

  bool term_is_current(std::uint64_t term) const noexcept {
    return sync_.term.load(kAcquire) == term;
  }

  Result<std::uint64_t> begin_term() {
    const auto self = processes_.self();
    if (!self) return self.status();
    const std::uint64_t term = sync_.term.fetch_add(1, std::memory_order_acq_rel) + 1;
    sync_.leader_incarnation.store(owner_incarnation(*self), kRelaxed);
    sync_.leader_place.store(owner_place(*self), std::memory_order_release);
    for (std::uint32_t i = 0; i < g_.stripe_count && term_is_current(term); ++i) {
      Hold hold(*this, i, leader_wait(i));
      if (!hold) {
        raise_bypass(i);  // whoever wipes it seals the term of that moment
        continue;
      }
      // A newer leader may be at it too; a term that nobody has had yet is damage.
      const std::uint64_t sealed = hold.stripe().term.load(kAcquire);
      if (sealed < term || sealed > sync_.term.load(kAcquire)) {
        hold.stripe().term.store(term, std::memory_order_release);
      }
    }
    count(Counter::kLeaderChanges);
    return term;
  }

  const std::shared_ptr<Segment> segment_;
  const Geometry& g_;
  HotWords& hot_;
  SyncWords& sync_;
  const Policy& policy_;
  const TableOptions options_;
  Processes processes_;
};

Table::Table(std::shared_ptr<Segment> segment, TableOptions options)
    : impl_(std::make_unique<Impl>(std::move(segment), options)) {}
Table::~Table() = default;

Segment& Table::segment() noexcept { return *impl_->segment_; }
Processes& Table::processes() noexcept { return impl_->processes_; }

Status Table::join() {
  if (impl_->processes_.self_if_registered() != 0) [[likely]]
    return {};
  auto self = impl_->processes_.self();
  if (!self && self.code() == Code::kNoSpace && reap() > 0) self = impl_->processes_.self();
  return self ? Status() : self.status();
}

unsigned Table::reap() {
  return impl_->processes_.reap([this](std::uint32_t owner) {
    for (std::uint32_t i = 0; i < impl_->g_.stripe_count; ++i) {
      const std::uint32_t word = impl_->segment_->stripe(i).lock.load(kRelaxed);
      if ((word & ~kWaiters) == owner) Impl::Hold(*impl_, i, kTryOnly);
    }
  });
}

bool Table::get(std::string_view key, std::string& value) {
  const bool hit = impl_->read(key, true, [&](const EntryRef& entry) {
    value.resize(entry.header.value_bytes);
    copy_from_shared(value.data(), entry.value(), entry.header.value_bytes);
  });
  impl_->count(hit ? Counter::kLocalHits : Counter::kLocalMisses);
  return hit;
}

bool Table::contains(std::string_view key) const {
  return impl_->read(key, false, [](const EntryRef&) {});
}

Sample Table::sample(std::string_view key) const {
  const std::uint64_t hash = impl_->segment_->hash(key);
  const auto mask = impl_->g_.guards_per_stripe - 1;
  const Guard& guard = impl_->segment_->guard(place_of(impl_->g_, hash).stripe,
                                              static_cast<std::uint32_t>(hash >> 32) & mask);
  Sample sample;
  // The epoch first: whatever is raised after this refuses the store.
  sample.epoch = impl_->hot_.epoch.load(kAcquire);
  sample.guard_count = guard.count.load(kAcquire);
  sample.base = impl_->sync_.cursor_seq.load(kAcquire);
  return sample;
}

Stored Table::fill(const Record& record, const Sample& sample, ChangeId reach) {
  return impl_->store(record, sample, reach, false);
}
Stored Table::set(const Record& record, const Sample& sample, ChangeId id) {
  return impl_->store(record, sample, id, true);
}
Stored Table::remove(std::string_view key, const Sample& sample, ChangeId id) {
  return impl_->remove(key, &sample, id);
}
Stored Table::drop(std::string_view key) { return impl_->remove(key, nullptr, {}); }

void Table::raise_floor(std::uint64_t epoch, std::uint64_t seq) {
  Atomic<std::uint64_t>& floor = impl_->hot_.floor;
  const std::uint64_t wanted = pack_floor(epoch, seq);
  std::uint64_t now = floor.load(kRelaxed);
  // A floor of another epoch says nothing any more; within one it only rises.
  while (impl_->hot_.epoch.load(kAcquire) == epoch && (now >> 48 != wanted >> 48 || now < wanted)) {
    if (floor.compare_exchange_weak(now, wanted, std::memory_order_acq_rel)) return;
  }
}

std::uint64_t Table::raise_epoch() {
  impl_->count(Counter::kEpochRaises);
  return impl_->hot_.epoch.fetch_add(1, std::memory_order_acq_rel) + 1;
}

Result<std::uint64_t> Table::begin_term() { return impl_->begin_term(); }
bool Table::term_is_current(std::uint64_t term) const noexcept {
  return impl_->term_is_current(term);
}

Applied Table::apply(const Change& change, std::uint64_t term) {
  return impl_->apply(change, term);
}

void Table::count(Counter counter, std::uint64_t by) noexcept { impl_->count(counter, by); }

}  // namespace larder::shm
