#include "src/sync/table_host.h"

#include <algorithm>

#include "shm/clock.h"
#include "shm/lease.h"

namespace larder::sync {

using shm::Applied;
using shm::Change;
using shm::Counter;
using shm::EventOutcome;
using shm::Happening;
using shm::SyncCounter;

namespace {

Happening happening_of(Action action) noexcept {
  if (action == Action::kSet) return Happening::kSet;
  return action == Action::kInvalidate ? Happening::kInvalidate : Happening::kDelete;
}

// The order of the counters.
static_assert(static_cast<int>(SyncCounter::kDeletesDeferred) -
                  static_cast<int>(SyncCounter::kSetsApplied) ==
              static_cast<int>(Happening::kDelete) * static_cast<int>(shm::kEventOutcomes) +
                  static_cast<int>(EventOutcome::kDeferred));
static_assert(static_cast<std::size_t>(SyncCounter::kRaisesBehind) -
                  static_cast<std::size_t>(SyncCounter::kRaisesNew) ==
              kRaiseReasons - 1);

SyncCounter counter_of(Happening happening, EventOutcome outcome) noexcept {
  return static_cast<SyncCounter>(static_cast<std::size_t>(SyncCounter::kSetsApplied) +
                                  static_cast<std::size_t>(happening) * shm::kEventOutcomes +
                                  static_cast<std::size_t>(outcome));
}
SyncCounter counter_of(RaiseReason reason) noexcept {
  return static_cast<SyncCounter>(static_cast<std::size_t>(SyncCounter::kRaisesNew) +
                                  static_cast<std::size_t>(reason));
}

}  // namespace

std::uint64_t local_deadline_ms(const shm::SyncWords& words,
                                std::uint64_t expires_unix_ms) noexcept {
  if (expires_unix_ms == 0) return shm::kNeverExpires;
  const std::int64_t difference = words.redis_clock_ms.load(std::memory_order_relaxed);
  // Unsigned, because both come from outside and their difference may not fit.
  const auto deadline =
      static_cast<std::int64_t>(expires_unix_ms - static_cast<std::uint64_t>(difference));
  return static_cast<std::uint64_t>(std::max<std::int64_t>(deadline, 1));  // past, but not "never"
}

bool TableHost::leading() { return table_.term_is_current(term_); }

ChangeId TableHost::cursor() noexcept {
  return {words().cursor_seq.load(std::memory_order_acquire),
          words().cursor_nonce.load(std::memory_order_relaxed)};
}

void TableHost::repeat_cursor(ChangeId id) noexcept {
  words().head_seq.store(id.seq, std::memory_order_release);
  set_cursor(id);
}

bool TableHost::set_head(ChangeId id) {
  const bool agrees = id.none() || history_.follow(id);
  words().head_seq.store(id.seq, std::memory_order_release);
  return agrees;
}

bool TableHost::begin_at(ChangeId id) {
  words().head_seq.store(id.seq);  // before the look at what is noted, see History::rest_on
  return history_.begin_at(id);
}

ApplyOutcome TableHost::apply(const Event& event) {
  Change change;
  change.id = event.id;
  change.record.key = event.key;
  if (event.action == Action::kSet) {
    const std::uint64_t deadline = local_deadline_ms(words(), event.expires_unix_ms);
    if (deadline == shm::kNeverExpires || deadline > shm::now_ms()) {
      change.kind = Change::Kind::kSet;
      change.record.value = event.value;
      change.record.expires_ms = deadline;
    }
  }
  switch (table_.apply(change, term_)) {
    case Applied::kApplied:
      note_event(event, EventOutcome::kApplied);
      return ApplyOutcome::kApplied;
    case Applied::kOld:
      note_event(event, EventOutcome::kOld);
      return ApplyOutcome::kOld;
    case Applied::kDeferred:
      note_event(event, EventOutcome::kDeferred);
      return ApplyOutcome::kDeferred;
    case Applied::kStaleTerm:
      break;
  }
  return ApplyOutcome::kStaleTerm;
}

void TableHost::set_cursor(ChangeId id) {
  // First: if this leader dies in between, its successor finds the same.
  if (is_disturbed()) drop_what_another_left(id);
  set_last_ = id;
  words().cursor_nonce.store(id.nonce, std::memory_order_relaxed);
  words().cursor_seq.store(id.seq, std::memory_order_release);
}

// A former leader that was stopped in the middle of an event has gone on since: it has moved the
// cursor, or forgotten the history and noted its own.
bool TableHost::is_disturbed() noexcept {
  if (!set_last_) return false;
  return cursor() != *set_last_ || !(set_last_->none() || history_.knows(*set_last_));
}

// It may follow another server, and what was stored meanwhile rest on a history that only that one
// knows.
void TableHost::drop_what_another_left(ChangeId next) {
  do {
    table_.raise_epoch();
    history_.forget();
  } while (!begin_at(next));
  count(SyncCounter::kRaisesDisturbed);
  note(Happening::kRaise, "disturbed");
  logger_.log(LogLevel::kWarn,
              "everything held was dropped, for a former leader of this host went on");
}

bool TableHost::knows(ChangeId id) { return history_.knows(id); }
std::uint64_t TableHost::ahead() { return history_.ahead(); }

bool TableHost::heard_without_id() {
  return words().idless_epoch.load(std::memory_order_acquire) != 0;
}
void TableHost::hear_without_id() {
  words().idless_epoch.store(epoch(), std::memory_order_release);
}

void TableHost::raise_epoch(RaiseReason reason) {
  const std::uint64_t epoch = table_.raise_epoch();
  history_.forget();
  set_last_.reset();
  count(counter_of(reason));
  note(Happening::kRaise, reason_name(reason));
  logger_.log(LogLevel::kInfo, "everything held was dropped, for events may have been missed (" +
                                   std::string(reason_name(reason)) + "); epoch " +
                                   std::to_string(epoch & ~shm::kClosedEpoch));
}

void TableHost::raise_floor(std::uint64_t seq) {
  table_.raise_floor(epoch(), seq);
  journal_.note(Happening::kClear, EventOutcome::kApplied, {seq, 0}, {}, 0);
}

void TableHost::clear_all() {
  table_.raise_epoch();
  note(Happening::kClear);
  table_.count(Counter::kClears);
}

bool TableHost::holds(std::string_view key) { return table_.contains(key); }
void TableHost::refetch(std::string_view key) { refetch_(key); }

void TableHost::extend_lease(shm::CoarseTime asked) {
  shm::Lease::extend(hot(), asked, lease_);
  words().lease_term.store(term_, std::memory_order_release);
}

void TableHost::note_event(const Event& event, EventOutcome outcome) noexcept {
  const Happening happening = happening_of(event.action);
  count(counter_of(happening, outcome));
  journal_.note(happening, outcome, event.id, event.key, event.value.size());
}

void TableHost::note(Happening happening, std::string_view text) noexcept {
  const std::uint64_t term = happening == Happening::kElected ? term_ : 0;
  journal_.note(happening, EventOutcome::kApplied, {term, 0}, text, 0);
}

void TableHost::count(Counter counter) { table_.count(counter); }
void TableHost::count(SyncCounter counter) {
  auto& values = table_.segment().superblock().sync_counters.values;
  values[static_cast<std::size_t>(counter)].fetch_add(1, std::memory_order_relaxed);
}
void TableHost::log(LogLevel level, std::string_view message) { logger_.log(level, message); }

}  // namespace larder::sync
