#include "src/sync/follower.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace larder::sync {

using shm::Counter;

std::string_view reason_name(RaiseReason reason) noexcept {
  switch (reason) {
    case RaiseReason::kSubscribed:
      return "subscribed";
    case RaiseReason::kGap:
      return "gap";
    case RaiseReason::kOverflow:
      return "overflow";
  }
  return "unknown";
}

Follower::Follower(Host& host, FollowerOptions options)
    : host_(host), options_(std::move(options)) {
  // Not through set_in_sync: the former leader's word may still say yes.
  if (leading()) host_.set_in_sync(false);
}

// ---- inputs -----------------------------------------------------------------------------------

Next Follower::subscribed() {
  if (!leading()) return Next::kResign;
  return read_log_end(RaiseReason::kSubscribed);
}

Next Follower::log_end(ChangeId end) {
  if (!leading()) return Next::kResign;
  if (state_ != State::kReading) return Next::kNothing;

  host_.raise_epoch(reason_);
  host_.set_head(end);
  host_.set_cursor(end);
  cursor_ = end;
  remember(end);
  // Events are missing behind this end, unknown which.
  if (overflowed_) return read_log_end(RaiseReason::kOverflow);

  state_ = State::kFollowing;
  const Next next = settle_held(end);
  if (next == Next::kNothing) set_in_sync(true);
  return next;
}

Next Follower::message(std::string_view payload) {
  if (!leading()) return Next::kResign;
  if (state_ == State::kLost) return Next::kNothing;

  Result<Event> event = decode_event(payload);
  if (!event) {
    report_malformed(event.status());
    return Next::kNothing;
  }
  if (!event->id.none() && event->database != options_.database) {
    host_.count(Counter::kEventsForeign);  // another log's chain
    return Next::kNothing;
  }
  if (state_ == State::kReading) {
    hold(std::move(*event), payload.size());
    return Next::kNothing;
  }
  return take(*event);
}

Next Follower::lost() {
  if (!leading()) return Next::kResign;
  state_ = State::kLost;
  forget_held();
  set_in_sync(false);
  return Next::kNothing;
}

// ---- states -----------------------------------------------------------------------------------

bool Follower::leading() {
  if (state_ != State::kResigned && !host_.leading()) resign();
  return state_ != State::kResigned;
}

// The host is the new leader's now: not even in_sync is ours to change.
Next Follower::resign() {
  state_ = State::kResigned;
  in_sync_ = false;
  forget_held();
  return Next::kResign;
}

// What is held was published before the question is asked, so the answer contains it.
Next Follower::read_log_end(RaiseReason reason) {
  state_ = State::kReading;
  reason_ = reason;
  forget_held();
  set_in_sync(false);
  return Next::kReadLogEnd;
}

void Follower::set_in_sync(bool in_sync) {
  if (in_sync == in_sync_) return;
  in_sync_ = in_sync;
  host_.set_in_sync(in_sync);
}

// ---- events that arrive before the log's end --------------------------------------------------

void Follower::hold(Event event, std::size_t bytes) {
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
      remember(event.id);
      host_.count(Counter::kEventsOld);
    } else {
      next = read_log_end(RaiseReason::kGap);
    }
    if (next != Next::kNothing) return next;
  }
  return Next::kNothing;
}

// ---- one event --------------------------------------------------------------------------------

Next Follower::take(const Event& event) {
  if (event.id.none()) return take_without_id(event);
  if (event.prev == cursor_ && event.id.seq > cursor_.seq) return take_successor(event);
  if (is_recent(event.id)) {
    host_.count(Counter::kEventsOld);
    return Next::kNothing;
  }
  return read_log_end(RaiseReason::kGap);
}

Next Follower::take_successor(const Event& event) {
  host_.set_head(event.id);
  const Next next = finish(effect_of(event));
  if (next != Next::kNothing) return next;
  host_.set_cursor(event.id);
  cursor_ = event.id;
  remember(event.id);
  return Next::kNothing;
}

// From a peer whose write and event are two steps: it has no place in the log, so it takes effect
// in order of arrival and leaves the cursor alone.
Next Follower::take_without_id(const Event& event) {
  host_.count(Counter::kEventsWithoutId);
  return finish(effect_without_id(event));
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

bool Follower::is_recent(ChangeId id) const {
  return std::find(recent_.begin(), recent_.end(), id) != recent_.end();
}

void Follower::remember(ChangeId id) {
  recent_[recent_next_] = id;
  recent_next_ = (recent_next_ + 1) % recent_.size();
}

// Logged at the 1st, 2nd, 4th, 8th ...: whoever floods the channel does not flood the log.
void Follower::report_malformed(const Status& why) {
  host_.count(Counter::kEventsMalformed);
  if (!std::has_single_bit(++malformed_)) return;
  host_.log(LogLevel::kWarn, "dropped message " + std::to_string(malformed_) +
                                 " of the channel that is no event: " + why.message());
}

}  // namespace larder::sync
