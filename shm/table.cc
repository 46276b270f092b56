#include "shm/table.h"

#include <time.h>

#include <algorithm>

#include "shm/checksum.h"
#include "shm/clock.h"
#include "shm/entry.h"
#include "shm/fork.h"
#include "shm/history.h"
#include "shm/lock.h"
#include "shm/policy.h"
#include "shm/reader.h"
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
        processes_(*segment_),
        loads_(*segment_, processes_),
        history_(*segment_),
        reader_(*segment_, policy_) {}

  // The lock of one stripe, and the right to write it, for as long as this lives. Repairs what a
  // dead owner left and serves a pending wipe before it lets anybody in.
  class Hold {
   public:
    Hold(Impl& table, std::uint32_t stripe, std::chrono::milliseconds timeout)
        : table_(table),
          stripe_(table.segment_->stripe(stripe)),
          self_(table.processes_.self_or_none()) {
      if (self_ == 0) return;
      const Acquired acquired = acquire(stripe_, self_, table.processes_, timeout);
      if (acquired == Acquired::kTimeout) {
        table.count(Counter::kLockTimeouts);
        self_ = 0;
        return;
      }
      writer_.emplace(*table.segment_, stripe, table.policy_, table.processes_);
      if (acquired == Acquired::kFromDead) recover();
      // Whoever copies it wants to find it as it was when it was closed.
      if (shm::is_closed(table.hot_.epoch.load(kAcquire))) return;
      if (stripe_.bypass.load(kAcquire) != 0) writer_->wipe();
      writer_->sweep_if_due();
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
    std::uint32_t self_;
    bool recovered_ = false;
    std::optional<Writer> writer_;
  };

  void count(Counter counter, std::uint64_t by = 1) noexcept { processes_.count(counter, by); }

  // ---- reading ----

  // `use(seen)` copies what it wants; what it saw counts only when this returns true.
  template <class Use>
  bool read(Wanted wanted, bool promote, Use use) {
    const Look seen = reader_.look(wanted, promote, use);
    if (seen != Look::kMoved) [[likely]]
      return seen == Look::kFound;
    return read_again(wanted, promote, use);
  }

  template <class Use>
  [[gnu::noinline]] bool read_again(Wanted wanted, bool promote, Use use) {
    for (int attempt = 1; attempt < kReadAttempts; ++attempt) {
      const Look seen = reader_.look(wanted, promote, use);
      if (seen != Look::kMoved) return seen == Look::kFound;
    }
    // Writers kept moving it. Once, without waiting.
    const Hold hold(*this, wanted.stripe, kTryOnly);
    return hold && reader_.look(wanted, promote, use) == Look::kFound;
  }

  static bool is_sound(const EntryHeader& header, std::uint64_t hash, std::string_view value) {
    return header.checksum() == entry_checksum(header, hash, value);
  }

  bool get_verified(std::string_view key, std::string& value) {
    EntryHeader header{};
    const bool hit = copy_sound(reader_.want(key), true, value, header);
    count(hit ? Counter::kLocalHits : Counter::kLocalMisses);
    return hit;
  }

  bool copy(Wanted wanted, bool promote, std::string& value, EntryHeader& header) {
    return read(wanted, promote, [&](const Seen& seen) {
      assign_from_shared(value, seen.value, seen.value_bytes);
      header = seen.header;
    });
  }
  // False also for what was changed by something else.
  bool copy_sound(Wanted wanted, bool promote, std::string& value, EntryHeader& header) {
    if (!copy(wanted, promote, value, header)) return false;
    if (is_sound(header, wanted.hash, value)) return true;
    drop_corrupt(wanted);
    return false;
  }

  std::optional<std::uint64_t> peek(std::string_view key, std::string& value) {
    const Wanted wanted = reader_.want(key);
    EntryHeader header{};
    const bool hit = options_.verify_checksums ? copy_sound(wanted, false, value, header)
                                               : copy(wanted, false, value, header);
    return hit ? std::optional(header.expires_ms()) : std::nullopt;
  }

  // What was read of the key was not what was stored. Without the lock it stays, for the next
  // reader to find.
  [[gnu::cold]] void drop_corrupt(const Wanted& wanted) {
    count(Counter::kCorrupt);
    Hold hold(*this, wanted.stripe, kTryOnly);
    if (!hold) return;
    const auto found = hold->find(wanted.key, wanted.hash);
    if (!found) return;
    const EntryRef& entry = found->entry;
    const std::string_view value(entry.value(), entry.header.value_bytes());
    if (!is_sound(entry.header, wanted.hash, value)) hold->discard(found->at);
  }

  // Names the entry in a free pin word of this process, so that its bytes stay.
  Result<Pinned> pin(std::string_view key) {
    const auto self = processes_.self();
    if (!self) return self.status();
    const std::uint32_t place = owner_place(*self);
    auto& pinners = segment_->superblock().pinners[place / 64];
    const std::uint64_t bit = 1ull << place % 64;
    if (!(pinners.load(kRelaxed) & bit)) pinners.fetch_or(bit, std::memory_order_seq_cst);
    Atomic<std::uint64_t>* word = free_pin(place);
    if (word == nullptr) {
      return {Code::kBusy, "this process holds " + std::to_string(kPins) +
                               " views already; let go of one, or copy the value with get"};
    }
    const Wanted wanted = reader_.want(key);
    Pinned pinned;
    EntryHeader header{};
    bool found = read(wanted, true, [&](const Seen& seen) {
      pinned.pin = make_pin(wanted.stripe, seen.granule);
      word->store(pinned.pin, kRelaxed);
      // Either the version that is read after this shows that the entry went, or who frees its run
      // sees the pin.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      pinned.value = {seen.value, seen.value_bytes};
      header = seen.header;
    });
    if (found && options_.verify_checksums && !is_sound(header, wanted.hash, pinned.value)) {
      found = false;
      word->store(kClaimedPin, std::memory_order_release);  // or the run would be set aside for us
      drop_corrupt(wanted);
    }
    count(found ? Counter::kLocalHits : Counter::kLocalMisses);
    if (!found) {
      word->store(0, std::memory_order_release);
      return Pinned();
    }
    pinned.word = word;
    pinned.generation = fork_generation();
    return pinned;
  }

  // Claimed with a pin that names nothing, so that no other thread takes it.
  Atomic<std::uint64_t>* free_pin(std::uint32_t place) noexcept {
    Place& own = segment_->place(place);
    for (std::uint32_t i = 0; i < kPins; ++i) {
      std::uint64_t free = 0;
      if (own.pins[i].load(kRelaxed) != 0 ||
          !own.pins[i].compare_exchange_strong(free, kClaimedPin, kAcquire, kRelaxed)) {
        continue;
      }
      // Before anything is pinned by it, so that who frees a run looks here too.
      std::uint32_t used = own.pins_used.load(kRelaxed);
      while (used <= i && !own.pins_used.compare_exchange_weak(used, i + 1)) {
      }
      return &own.pins[i];
    }
    return nullptr;
  }

  // ---- changing ----

  // A change that did not get the lock must not leave an older value readable.
  void raise_bypass(std::uint32_t stripe) noexcept {
    // seq_cst: either who copies the stripe sees this, or the caller sees that it is closed.
    segment_->stripe(stripe).bypass.fetch_add(1, std::memory_order_seq_cst);
  }

  // The same of one's own change. It is noted first: the wipe then guards against what is older.
  void leave_to_wipe(std::uint32_t stripe, ChangeId id) noexcept {
    if (id.seq != 0) (void)history_.rest_on(id);
    raise_bypass(stripe);
  }

  // Drops what is held and was read, perhaps: nothing older may come in its place, be it a late
  // reply or an event that the cursor has not come to yet.
  static void drop_for_good(Hold& hold, Guard& guard, std::uint64_t epoch,
                            const Writer::Found& found) {
    const EntryHeader& held = found.entry.header;
    if (held.epoch() == static_cast<std::uint32_t>(epoch)) {
      hold->raise_guard(guard, epoch, held.reach_seq());
    }
    hold->erase(found);
  }

  // Drops what is held of the key when it is older than `reach`. Of an id that is not of the
  // history followed here (the log was lost and counts anew) the number says nothing: then all
  // goes.
  static bool drop_older(Hold& hold, std::string_view key, std::uint64_t hash, std::uint64_t epoch,
                         std::uint64_t reach) {
    const auto found = hold->find(key, hash);
    if (!found) return true;
    if (found->entry.header.reach_seq() > reach) return false;
    drop_for_good(hold, hold->guard_of(hash), epoch, *found);
    return true;
  }

  bool put(Hold& hold, const Record& record, std::uint64_t hash, const Stamp& stamp,
           const std::optional<Writer::Found>& held) {
    const NewEntry entry{record.key, hash, record.value, record.expires_ms, stamp};
    const bool too_large = record.value.size() > options_.value_max_bytes;
    return too_large ? hold->give_up(held ? &*held : nullptr) : hold->put(entry, held);
  }

  // Did something come between the sample and now that a reply of this reach may not know of?
  static bool overtaken(const Guard& guard, std::uint64_t epoch, const Sample& sample,
                        std::uint64_t reach) noexcept {
    if (epoch != sample.epoch) return true;
    if (guard.count.load(kRelaxed) != sample.guard_count) return true;
    return guard.epoch.load(kRelaxed) == sample.epoch && guard.seq.load(kRelaxed) > reach;
  }

  // From here on no reply is stored that may not know of one's own change, and no event of before
  // it. `comparable`: its position is one in the history followed here. If it is not, or if the
  // epoch began meanwhile, no reply that is under way is stored either; and a position far beyond
  // the cursor is one of a log that was lost, which would block the guard until this one has come
  // so far.
  void guard_change(Hold& hold, Guard& guard, std::uint64_t epoch, const Sample& sample,
                    std::uint64_t seq, bool comparable) noexcept {
    const std::uint64_t cursor = sync_.cursor_seq.load(kAcquire);
    if (comparable || epoch == sample.epoch || seq <= cursor + kHistory) {
      hold->raise_guard(guard, epoch, seq);
    }
    if (!comparable || epoch != sample.epoch) hold->count_guard(guard);
  }

  Stored store(const Record& record, const Sample& sample, ChangeId reach, bool own_change,
               const LoadLease* load = nullptr) {
    const std::uint64_t hash = segment_->hash(record.key);
    const std::uint32_t stripe = stripe_of(g_, hash);
    (void)reader_.approach(hash);  // what the lock's atomic would not let us fetch ahead
    Hold hold(*this, stripe, options_.lock_timeout);
    if (!hold) {
      if (own_change) leave_to_wipe(stripe, reach);
      return Stored::kBusy;
    }
    // Looked at under the lock: either this, or the change is there when the stripe is copied.
    // Once: no sample that was taken of a closed segment is of an open one's epoch.
    const std::uint64_t epoch = hot_.epoch.load(kAcquire);
    if (shm::is_closed(epoch)) return Stored::kClosed;
    // Who took the load over stores after this, under this lock.
    if (load != nullptr && !Loads::is_held(*load)) {
      count(Counter::kStoresRefused);
      return Stored::kRefused;
    }
    hold->prefetch_room(entry_granules(record.key.size(), record.value.size()));
    Guard& guard = hold->guard_of(hash);
    // Without Redis there are no replies that could be late: a clear alone overtakes.
    const bool alone = own_change && reach.seq == 0;
    const bool comparable = alone || history_.rest_on(reach);
    // Even when it is not stored: replies older than this change must not be either.
    if (own_change && !alone) guard_change(hold, guard, epoch, sample, reach.seq, comparable);
    const bool late = alone ? epoch != sample.epoch
                            : !comparable || reach.seq < sample.base ||
                                  overtaken(guard, epoch, sample, reach.seq);
    if (late) {
      drop_older(hold, record.key, hash, epoch, comparable ? reach.seq : kMaxSeq);
      count(Counter::kStoresRefused);
      return Stored::kRefused;
    }
    const auto found = hold->find(record.key, hash);
    if (found && found->entry.header.epoch() == static_cast<std::uint32_t>(sample.epoch) &&
        found->entry.header.reach_seq() > reach.seq) {
      count(Counter::kStoresRefused);
      return Stored::kRefused;
    }
    const EntrySource source = alone        ? EntrySource::kAlone
                               : own_change ? EntrySource::kOwn
                                            : EntrySource::kFill;
    const Stamp stamp{sample.epoch, std::min(sample.base, reach.seq), reach, source};
    return put(hold, record, hash, stamp, found) ? Stored::kStored : Stored::kTooLarge;
  }

  Stored remove(std::string_view key, const Sample* sample, ChangeId id) {
    const std::uint64_t hash = segment_->hash(key);
    const std::uint32_t stripe = stripe_of(g_, hash);
    Hold hold(*this, stripe, options_.lock_timeout);
    if (!hold) {
      leave_to_wipe(stripe, id);
      return Stored::kBusy;
    }
    const std::uint64_t epoch = hot_.epoch.load(kAcquire);  // as in store()
    if (shm::is_closed(epoch)) return Stored::kClosed;
    if (sample != nullptr && id.seq != 0) {
      const bool comparable = history_.rest_on(id);
      guard_change(hold, hold->guard_of(hash), epoch, *sample, id.seq, comparable);
      return drop_older(hold, key, hash, epoch, comparable ? id.seq : kMaxSeq) ? Stored::kStored
                                                                               : Stored::kRefused;
    }
    drop_older(hold, key, hash, epoch, UINT64_MAX);
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
    const std::uint32_t stripe = stripe_of(g_, hash);
    Hold hold(*this, stripe, leader_wait(stripe));
    if (!hold) {
      if (!term_is_current(term)) return refuse_stale_term();
      raise_bypass(stripe);
      return Applied::kDeferred;
    }
    if (hold.stripe().term.load(kAcquire) != term) return refuse_stale_term();
    const std::uint64_t epoch = hot_.epoch.load(kAcquire);
    if (shm::is_closed(epoch))
      return Applied::kApplied;  // everything is absent, and nobody comes here
    Guard& guard = hold->guard_of(hash);
    const Applied applied = change.id.none() ? apply_without_id(hold, guard, change, hash, epoch)
                                             : apply_with_id(hold, guard, change, hash, epoch);
    // Sealed under the lock only, so it cannot have changed while we held it.
    if (hold.stripe().term.load(kAcquire) != term) count(Counter::kStaleTermWrites);
    return applied;
  }

  Applied refuse_stale_term() noexcept {
    count(Counter::kStaleTermRefused);
    return Applied::kStaleTerm;
  }

  // A peer's write and its event are two steps: a reply that is under way may know neither.
  Applied apply_without_id(Hold& hold, Guard& guard, const Change& change, std::uint64_t hash,
                           std::uint64_t epoch) {
    hold->count_guard(guard);
    if (const auto found = hold->find(change.record.key, hash)) {
      drop_for_good(hold, guard, epoch, *found);
    }
    if (change.kind == Change::Kind::kSet) {
      const ChangeId cursor{sync_.cursor_seq.load(kRelaxed), sync_.cursor_nonce.load(kRelaxed)};
      put(hold, change.record, hash, {epoch, cursor.seq, cursor, EntrySource::kEvent},
          std::nullopt);
    }
    return Applied::kApplied;
  }

  // Does this host know of a change or clear after `seq`, be it of before a raise of the epoch?
  bool knows_newer(const Guard& guard, std::uint64_t epoch, std::uint64_t seq) const noexcept {
    const std::uint64_t newest = guard.seq.load(kRelaxed);
    if (guard.epoch.load(kRelaxed) == epoch && newest > seq) return true;
    return is_newer(newest, seq) || is_newer(sync_.cleared_seq.load(kAcquire), seq);
  }
  Applied apply_with_id(Hold& hold, Guard& guard, const Change& change, std::uint64_t hash,
                        std::uint64_t epoch) {
    // A newer change was taken here already: this host's own removal, say, that the events have not
    // come to yet. Then this one's value is old, whether or not anything is held of the key.
    const bool overtaken = knows_newer(guard, epoch, change.id.seq);
    hold->raise_guard(guard, epoch, change.id.seq);
    const auto found = hold->find(change.record.key, hash);
    if (found && found->entry.header.epoch() == static_cast<std::uint32_t>(epoch)) {
      const EntryHeader& held = found->entry.header;
      if (change.id.seq <= found->entry.base()) return Applied::kOld;
      if (held.reach_seq() == change.id.seq && held.nonce() == (change.id.nonce & kNonceMask)) {
        return Applied::kOld;  // its own change, or the change it was read after
      }
      if (change.id.seq <= held.reach_seq()) {
        drop_for_good(hold, guard, epoch, *found);  // may or may not contain the change
        return Applied::kApplied;
      }
    }
    if (change.kind == Change::Kind::kSet && !overtaken) {
      put(hold, change.record, hash, {epoch, change.id.seq, change.id, EntrySource::kEvent}, found);
    } else if (found) {
      hold->erase(*found);
    }
    return Applied::kApplied;
  }

  bool term_is_current(std::uint64_t term) const noexcept {
    return sync_.term.load(kAcquire) == term;
  }

  // Unless a newer leader has: who was stopped in its election must not name itself afterwards. The
  // word differs for each term, so a name that was written between the two looks is seen.
  void name_leader(std::uint64_t term, std::uint32_t self, bool holds_lock) noexcept {
    std::uint64_t named = sync_.leader.load(kAcquire);
    while (term_is_current(term) &&
           !sync_.leader.compare_exchange_weak(named, make_leader(term, self, holds_lock),
                                               std::memory_order_acq_rel, kAcquire)) {
    }
  }

  bool leader_awaits_lock() {
    const std::uint64_t leader = sync_.leader.load(kAcquire);
    return awaits_lock(leader) && is_of_term(leader, sync_.term.load(kAcquire)) &&
           !processes_.is_dead(leader_owner(leader));
  }

  Result<std::uint64_t> begin_term(std::uint64_t seen, bool holds_lock) {
    const auto self = processes_.self();
    if (!self) return self.status();
    const std::uint64_t term = seen + 1;
    if (!sync_.term.compare_exchange_strong(seen, term, std::memory_order_acq_rel, kAcquire)) {
      return Status(Code::kAlreadyExists, "another process was elected");
    }
    name_leader(term, *self, holds_lock);
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
  Loads loads_;
  History history_;
  Reader reader_;
};

Table::Table(std::shared_ptr<Segment> segment, TableOptions options)
    : impl_(std::make_unique<Impl>(std::move(segment), options)),
      reader_(impl_->reader_),
      processes_(impl_->processes_),
      verify_checksums_(options.verify_checksums) {}
Table::~Table() = default;

Segment& Table::segment() noexcept { return *impl_->segment_; }
Processes& Table::processes() noexcept { return impl_->processes_; }
bool Table::is_closed() const noexcept { return shm::is_closed(impl_->hot_.epoch.load()); }

bool Table::has_pins() const noexcept {
  const std::uint32_t place = owner_place(impl_->processes_.self_if_registered());
  const auto& pins = impl_->segment_->place(place).pins;
  return place != 0 && std::any_of(std::begin(pins), std::end(pins),
                                   [](const auto& pin) { return pin.load(kAcquire) != 0; });
}

Status Table::join() {
  if (impl_->processes_.self_if_registered() != 0) [[likely]]
    return {};
  auto self = impl_->processes_.self();
  if (!self && self.code() == Code::kNoSpace && reap() > 0) self = impl_->processes_.self();
  if (self) reap_former_program();
  return self ? Status() : self.status();
}

// Again, because who asks whether the place's process lives may hold its byte at that moment.
void Table::reap_former_program() {
  constexpr int kLooks = 1000;
  for (int look = 0; look < kLooks && impl_->processes_.was_here(); ++look) {
    constexpr timespec kPause{0, 1'000'000};
    if (look > 0) nanosleep(&kPause, nullptr);
    (void)reap();
  }
}

void Table::bury_former_program() {
  if (impl_->processes_.was_here() && join().ok()) impl_->processes_.leave();
}

unsigned Table::reap() {
  impl_->loads_.end_late();
  return impl_->processes_.reap([this](std::uint32_t owner) {
    for (std::uint32_t i = 0; i < impl_->g_.stripe_count; ++i) {
      const std::uint32_t word = impl_->segment_->stripe(i).lock.load(kRelaxed);
      if ((word & ~kWaiters) == owner) Impl::Hold(*impl_, i, kTryOnly);
    }
  });
}

bool Table::repair(std::uint32_t stripe) {
  Impl::Hold hold(*impl_, stripe, impl_->options_.lock_timeout);
  if (hold) hold->repair();
  return static_cast<bool>(hold);
}

bool Table::get_again(std::string_view key, std::string& value) {
  return impl_->read_again(reader_.want(key), true, [&](const Seen& seen) {
    assign_from_shared(value, seen.value, seen.value_bytes);
  });
}

bool Table::get_verified(std::string_view key, std::string& value) {
  return impl_->get_verified(key, value);
}

std::optional<std::uint64_t> Table::peek(std::string_view key, std::string& value) {
  return impl_->peek(key, value);
}

std::optional<std::uint64_t> Table::expiry(std::string_view key) const {
  EntryHeader header{};
  const bool found = impl_->read(impl_->reader_.want(key), false,
                                 [&header](const Seen& seen) { header = seen.header; });
  return found ? std::optional(header.expires_ms()) : std::nullopt;
}

Result<Pinned> Table::pin(std::string_view key) { return impl_->pin(key); }

void unpin(const Pinned& pinned) noexcept {
  // A forked child's view is its parent's: the word is not the child's to clear.
  if (pinned.word == nullptr || pinned.generation != fork_generation()) return;
  // Only if it is still ours: a process that was taken for dead has lost its place to another.
  // release: whoever sees the word cleared may write where the value was.
  std::uint64_t mine = pinned.pin;
  pinned.word->compare_exchange_strong(mine, 0, std::memory_order_release, kRelaxed);
}

Sample Table::sample(std::string_view key) const {
  const std::uint64_t hash = impl_->segment_->hash(key);
  const Guard& guard =
      impl_->segment_->guard(stripe_of(impl_->g_, hash), guard_index(impl_->g_, hash));
  Sample sample;
  // The epoch first: whatever is raised after this refuses the store.
  sample.epoch = impl_->hot_.epoch.load(kAcquire);
  sample.guard_count = guard.count.load(kAcquire);
  // The head too: of an event that is being applied a server that lags does not know, and the guard
  // may be raised by one of before the last raise of the epoch.
  sample.base =
      std::max(impl_->sync_.cursor_seq.load(kAcquire), impl_->sync_.head_seq.load(kAcquire));
  return sample;
}

Stored Table::fill(const Record& record, const Sample& sample, ChangeId reach) {
  return impl_->store(record, sample, reach, false);
}
Stored Table::fill(const Record& record, const Sample& sample, ChangeId reach,
                   const LoadLease& load) {
  return impl_->store(record, sample, reach, false, &load);
}
Stored Table::set(const Record& record, const Sample& sample, ChangeId id) {
  return impl_->store(record, sample, id, true);
}
Stored Table::set(const Record& record) {
  Sample now;
  now.epoch = impl_->hot_.epoch.load(kAcquire);
  return impl_->store(record, now, {}, true);
}
Stored Table::remove(std::string_view key, const Sample& sample, ChangeId id) {
  return impl_->remove(key, &sample, id);
}
Stored Table::drop(std::string_view key) { return impl_->remove(key, nullptr, {}); }

Claimed Table::claim_load(std::string_view key, std::chrono::milliseconds lease, LoadLease& load) {
  return impl_->loads_.claim(impl_->segment_->hash(key), lease, load);
}
bool Table::wait_for_load(std::string_view key, std::chrono::milliseconds timeout) {
  return impl_->loads_.wait(impl_->segment_->hash(key), timeout);
}

void Table::raise_floor(std::uint64_t epoch, std::uint64_t seq) {
  Atomic<std::uint64_t>& cleared = impl_->sync_.cleared_seq;
  std::uint64_t known = cleared.load(kRelaxed);
  while (known != seq && !is_newer(known, seq)) {
    if (cleared.compare_exchange_weak(known, seq, std::memory_order_acq_rel)) break;
  }
  // Within an epoch it only rises, and one of an earlier epoch hides nothing.
  Atomic<std::uint64_t>& floor = impl_->hot_.floor;
  const std::uint64_t wanted = pack_floor(epoch, seq);
  std::uint64_t now = floor.load(kRelaxed);
  while (now >> 48 == wanted >> 48 ? now < wanted
                                   : wanted >> 48 == (impl_->hot_.epoch.load(kAcquire) & 0xffff)) {
    if (floor.compare_exchange_weak(now, wanted, std::memory_order_acq_rel)) return;
  }
}

std::uint64_t Table::raise_epoch() {
  impl_->count(Counter::kEpochRaises);
  Atomic<std::uint64_t>& epoch = impl_->hot_.epoch;
  std::uint64_t now = epoch.load(kAcquire);
  while (!epoch.compare_exchange_weak(now, next_epoch(now), std::memory_order_seq_cst)) {
  }
  return next_epoch(now);
}

Result<std::uint64_t> Table::begin_term(std::uint64_t seen, bool holds_lock) {
  return impl_->begin_term(seen, holds_lock);
}
Result<std::uint64_t> Table::begin_term() { return begin_term(impl_->sync_.term.load(kAcquire)); }
void Table::got_leader_lock(std::uint64_t term) noexcept {
  impl_->name_leader(term, impl_->processes_.self_or_none(), true);
}
bool Table::leader_awaits_lock() { return impl_->leader_awaits_lock(); }
bool Table::term_is_current(std::uint64_t term) const noexcept {
  return impl_->term_is_current(term);
}

Applied Table::apply(const Change& change, std::uint64_t term) {
  return impl_->apply(change, term);
}

void Table::count(Counter counter, std::uint64_t by) noexcept { impl_->count(counter, by); }

}  // namespace larder::shm
