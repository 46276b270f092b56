#include "src/sync/follower.h"

#include <algorithm>
#include <bit>
#include <span>
#include <utility>

namespace larder::sync {

using shm::Counter;
using shm::SyncCounter;

namespace {

// A row of the log names keys; what became of them is asked of Redis by who reads them.
Event as_event(const LogPage::Row& row) {
  Event event;
  event.action = row.action == Action::kSet ? Action::kInvalidate : row.action;
  event.id = row.id;
  event.prev = row.prev;
  if (row.action == Action::kDeleteMany) {
    event.keys = row.keys;
  } else if (!row.keys.empty()) {
    (row.action == Action::kClear ? event.prefix : event.key) = row.keys.front();
  }
  return event;
}

}  // namespace

std::string_view reason_name(RaiseReason reason) noexcept {
  switch (reason) {
    case RaiseReason::kNew:
      return "new";
    case RaiseReason::kLogLost:
      return "log_lost";
    case RaiseReason::kDiverged:
      return "diverged";
    case RaiseReason::kWithoutId:
      return "without_id";
    case RaiseReason::kBehind:
      return "behind";
  }
  return "unknown";
}

Follower::Follower(Host& host, FollowerOptions options, ChangeId cursor)
    : host_(host), options_(std::move(options)), cursor_(cursor) {}

// ---- inputs -----------------------------------------------------------------------------------

Next Follower::subscribed() {
  if (!leading()) return Next::kResign;
  host_.count(SyncCounter::kSubscriptions);
  return begin_reading();
}

Next Follower::log_page(const LogPage& page) {
  if (!leading()) return Next::kResign;
  if (state_ != State::kReading) return Next::kNothing;
  if (must_raise_) return begin_anew(*must_raise_, page.end);
  if (cursor_.none()) return begin_anew(RaiseReason::kNew, page.end);
  if (ahead_ > page.end.seq) return begin_anew(RaiseReason::kDiverged, page.end);
  return replay(page);
}

Next Follower::message(std::string_view payload) {
  if (!leading()) return Next::kResign;
  Event& event = heard_;
  if (Status s = decode_event(payload, event); !s.ok()) {
    report_malformed(s);
    return Next::kNothing;
  }
  if (state_ == State::kLost) {
    // What has an id is in the log, which will be read.
    note_without_id(event);
    return Next::kNothing;
  }
  if (!event.id.none() && event.database != options_.database) {
    host_.count(Counter::kEventsForeign);  // another log's chain
    return Next::kNothing;
  }
  if (state_ == State::kReading) {
    hold(std::move(event), payload.size());
    return Next::kNothing;
  }
  const Next next = take(event);
  constexpr std::size_t kKeptMost = 1u << 20;
  if (event.value.capacity() > kKeptMost) event = Event();
  return next;
}

Next Follower::probe(const ProbeAnswer& answer) {
  if (!leading()) return Next::kResign;
  if (state_ != State::kFollowing) return Next::kNothing;
  if (!answer.is_primary) return resubscribe();
  if (answer.ahead > answer.end.seq) {
    host_.count(SyncCounter::kGaps);
    return begin_reading();
  }
  if (has_followed(answer.end)) {
    awaited_.reset();
    extend_lease(answer.asked);
    return Next::kNothing;
  }
  if (!awaited_) {
    awaited_ = answer;  // its event may be on the way
    return Next::kNothing;
  }
  awaited_.reset();
  host_.count(SyncCounter::kGaps);
  return readings_in_vain_++ == 0 ? begin_reading() : resubscribe();
}

Next Follower::lost() {
  if (!leading()) return Next::kResign;
  state_ = State::kLost;
  forget_held();
  awaited_.reset();
  return Next::kNothing;
}

// ---- states -----------------------------------------------------------------------------------

bool Follower::leading() {
  if (state_ != State::kResigned && !host_.leading()) resign();
  return state_ != State::kResigned;
}

// The host is the new leader's now: nothing of it is ours to change.
Next Follower::resign() {
  state_ = State::kResigned;
  forget_held();
  return Next::kResign;
}

Next Follower::resubscribe() {
  (void)lost();
  readings_in_vain_ = 0;
  return Next::kResubscribe;
}

// What is held was published before the question is asked, so the answer contains it. Not so what
// peers without ids sent: of that nothing tells whether it was lost.
Next Follower::begin_reading() {
  host_.count(SyncCounter::kLogReadings);
  state_ = State::kReading;
  forget_held();
  pages_ = 0;
  must_raise_.reset();
  if (host_.heard_without_id()) must_raise_ = RaiseReason::kWithoutId;
  return read_on();
}

Next Follower::read_on() {
  ahead_ = host_.ahead();
  return Next::kReadLog;
}

// ---- the log ----------------------------------------------------------------------------------

Next Follower::replay(const LogPage& page) {
  if (page.rows.empty() || page.rows.front().id != cursor_) {
    return begin_anew(RaiseReason::kLogLost, page.end);
  }
  for (const LogPage::Row& row : std::span(page.rows).subspan(1)) {
    if (!follows(row.id, row.prev)) return begin_anew(RaiseReason::kLogLost, page.end);
    host_.count(SyncCounter::kReplayed);
    if (const Next next = take_successor(as_event(row)); next != Next::kNothing) return next;
  }
  if (cursor_ == page.end) return follow_from(page.end);
  const bool is_last_row = page.rows.size() == 1;  // and yet the log ends elsewhere
  if (is_last_row) return begin_anew(RaiseReason::kLogLost, page.end);
  if (++pages_ == options_.pages_max) return begin_anew(RaiseReason::kBehind, page.end);
  return read_on();
}

Next Follower::begin_anew(RaiseReason reason, ChangeId end) {
  awaited_.reset();
  drop_everything(reason, end);
  advance(end);
  return follow_from(end);
}

// A worker may store between the two what rests on another history, as soon as the epoch is a new
// one. Then that has to go as well.
void Follower::drop_everything(RaiseReason reason, ChangeId head) {
  host_.raise_epoch(reason);
  while (!host_.begin_at(head)) host_.raise_epoch(RaiseReason::kDiverged);
}

Next Follower::follow_from(ChangeId end) {
  // Events are missing behind this end, unknown which.
  if (overflowed_) return begin_reading();
  state_ = State::kFollowing;
  const Next next = settle_held(end);
  return next == Next::kNothing ? Next::kProbe : next;
}

void Follower::advance(ChangeId id) {
  host_.set_cursor(id);
  cursor_ = id;
  if (!awaited_ || awaited_->end != id) return;
  extend_lease(awaited_->asked);
  awaited_.reset();
}

void Follower::extend_lease(shm::CoarseTime asked) {
  readings_in_vain_ = 0;
  host_.extend_lease(asked);
}

// ---- events that arrive before the log's end --------------------------------------------------

// What is held may be dropped yet: the log, read once more, makes up for it, unless it is not in
// the log.
void Follower::hold(Event event, std::size_t bytes) {
  note_without_id(event);
  if (overflowed_) return;
  held_bytes_ += bytes;
  if (held_.size() == options_.held_max_events || held_bytes_ > options_.held_max_bytes) {
    forget_held();
    overflowed_ = true;
    return;
  }
  held_.push_back(std::move(event));
}

void Follower::forget_held() {
  held_.clear();
  held_.shrink_to_fit();  // a burst is over; it need not be paid for until the next
  held_bytes_ = 0;
  overflowed_ = false;
}

// Held events arrived after the end was asked for, published before or after it was read. Those
// before are contained in it, and the last of them is the end itself; so when the end is among
// them it parts them, and when it is not, all of them must continue from it. An id that is
// "before" the end only by its number proves nothing: after FLUSHALL the log counts from one again.
Next Follower::settle_held(ChangeId end) {
  const std::vector<Event> held = std::exchange(held_, {});
  forget_held();
  bool contained =
      std::any_of(held.begin(), held.end(), [&](const Event& event) { return event.id == end; }) &&
      !end.none();
  for (const Event& event : held) {
    Next next = Next::kNothing;
    if (event.id.none() || !contained) {
      next = take(event);
    } else if (event.id == end) {
      contained = false;
      host_.count(Counter::kEventsOld);
    } else if (event.id.seq < end.seq) {
      host_.count(Counter::kEventsOld);
    } else {
      next = begin_reading();
    }
    if (next != Next::kNothing) return next;
  }
  return Next::kNothing;
}

// ---- one event --------------------------------------------------------------------------------

Next Follower::take(const Event& event) {
  if (event.id.none()) return take_without_id(event);
  if (follows(event.id, event.prev)) return take_successor(event);
  if (has_followed(event.id)) {
    host_.count(Counter::kEventsOld);
    return Next::kNothing;
  }
  host_.count(SyncCounter::kGaps);
  return begin_reading();
}

// Redis has it, so this is an end as good as any to begin anew from, if need be.
Next Follower::take_successor(const Event& event) {
  if (!host_.set_head(event.id)) drop_everything(RaiseReason::kDiverged, event.id);
  const Next next = finish(effect_of(event));
  if (next == Next::kNothing) advance(event.id);
  return next;
}

// From a peer whose write and event are two steps: it has no place in the log, so it takes effect
// in order of arrival and leaves the cursor alone.
Next Follower::take_without_id(const Event& event) {
  note_without_id(event);
  const Effect effect = effect_without_id(event);
  host_.count(Counter::kEventsWithoutId);
  return finish(effect);
}

void Follower::note_without_id(const Event& event) {
  if (!event.id.none()) return;
  if (event.action == Action::kClear || ours(event.key)) host_.hear_without_id();
}

Next Follower::finish(Effect effect) {
  switch (effect) {
    case Effect::kApplied:
      host_.count(Counter::kEventsApplied);
      break;
    case Effect::kOld:
      host_.count(Counter::kEventsOld);
      break;
    case Effect::kForeign:
      host_.count(Counter::kEventsForeign);
      break;
    case Effect::kStaleTerm:
      return resign();
  }
  return Next::kNothing;
}

// ---- effects ----------------------------------------------------------------------------------

Follower::Effect Follower::effect_of(const Event& event) {
  switch (event.action) {
    case Action::kClear:
      return effect_of_clear(event);
    case Action::kDeleteMany:
      return effect_on_keys(event);
    case Action::kSet:
    case Action::kInvalidate:
    case Action::kDelete:
      break;
  }
  return effect_on_key(event);
}

Follower::Effect Follower::effect_on_key(const Event& event) {
  if (!ours(event.key)) return Effect::kForeign;
  switch (host_.apply(event)) {
    case ApplyOutcome::kApplied:
    case ApplyOutcome::kDeferred:
      return Effect::kApplied;
    case ApplyOutcome::kOld:
      return Effect::kOld;
    case ApplyOutcome::kStaleTerm:
      break;
  }
  return Effect::kStaleTerm;
}

// Each key is deleted by the same change. One event is counted once, by the most it did.
Follower::Effect Follower::effect_on_keys(const Event& event) {
  Event one;
  one.action = Action::kDelete;
  one.sender = event.sender;
  one.database = event.database;
  one.id = event.id;
  one.prev = event.prev;
  Effect most = Effect::kForeign;
  for (const std::string& key : event.keys) {
    one.key = key;
    const Effect effect = effect_on_key(one);
    if (effect == Effect::kStaleTerm) return effect;
    if (effect == Effect::kApplied || most == Effect::kForeign) most = effect;
  }
  return most;
}

// Two prefixes share keys exactly when one begins with the other. A clear of "a:b" drops more than
// it must of a host that keeps "a:": that host asks Redis again.
Follower::Effect Follower::effect_of_clear(const Event& event) {
  const std::string_view theirs = event.prefix;
  const std::string_view mine = options_.key_prefix;
  if (!theirs.starts_with(mine) && !mine.starts_with(theirs)) return Effect::kForeign;
  host_.raise_floor(event.id.seq);
  return Effect::kApplied;
}

Follower::Effect Follower::effect_without_id(const Event& event) {
  if (event.action == Action::kClear) {
    host_.clear_all();
    return Effect::kApplied;
  }
  if (event.action != Action::kSet || options_.go_peers == GoPeers::kTrust) return effect_of(event);

  // The value may be old already, so only the news that there was a change is used.
  if (!ours(event.key)) return Effect::kForeign;
  Event drop;
  drop.action = Action::kInvalidate;
  drop.key = event.key;
  drop.sender = event.sender;
  const bool held = host_.holds(event.key);
  const Effect effect = effect_on_key(drop);
  if (effect != Effect::kStaleTerm && held) host_.refetch(event.key);
  return effect;
}

// ---- small things -----------------------------------------------------------------------------

bool Follower::ours(std::string_view key) const { return key.starts_with(options_.key_prefix); }

bool Follower::follows(ChangeId id, ChangeId prev) const {
  return prev == cursor_ && id.seq > cursor_.seq;
}

// Noted by a worker alone is not followed.
bool Follower::has_followed(ChangeId id) const {
  return id == cursor_ || (!id.none() && id.seq <= cursor_.seq && host_.knows(id));
}

// Logged at the 1st, 2nd, 4th, 8th ...: whoever floods the channel does not flood the log.
void Follower::report_malformed(const Status& why) {
  host_.count(Counter::kEventsMalformed);
  if (!std::has_single_bit(++malformed_)) return;
  host_.log(LogLevel::kWarn, "dropped message " + std::to_string(malformed_) +
                                 " of the channel that is no event: " + why.message());
}

}  // namespace larder::sync
