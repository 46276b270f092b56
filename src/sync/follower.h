// What the elected process does with the channel: the protocol, and nothing else.
//
// A Follower is a pure state machine. It knows no socket, clock or thread: its inputs are calls,
// its effects are calls of a Host, its return value says what the caller has to do next. So a
// simulator can drive it, and the same inputs always have the same effects.
//
// The chain: every change names the id it followed (`prev`). The cursor is the id applied last, so
// the next event is the one whose `prev` is the cursor. Whatever else arrives may mean a loss, a
// step back or another history, and a new or resumed subscription always may. All of these have
// one answer: read the log's end, then drop everything held (raise the epoch), then go on from
// that end. In this order: what is asked of Redis after the epoch was raised is no older than the
// end, so events up to the end need no effect.
//
// Terms: at most one answer to "read the log's end" is outstanding, however many events arrive.
// What arrived before the question is contained in the answer and forgotten; what arrives between
// question and answer is held, and settled when the answer is there.
//
// Threads: none; one caller at a time.  Fork: a child drops it.  Errors: none are returned; what
// cannot be decoded is counted.  Crash: `set_head` before an event's first effect and `set_cursor`
// after its last tell a successor what was half done.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "larder/logger.h"
#include "larder/options.h"
#include "shm/layout.h"
#include "src/sync/event.h"

namespace larder::sync {

enum class ApplyOutcome {
  kApplied,    // the host's copy now reflects the change
  kOld,        // what the host holds already contains it
  kDeferred,   // no lock in time; readers miss there until that part was emptied
  kStaleTerm,  // another process leads; nothing was written
};

// Why everything held was dropped.
enum class RaiseReason {
  kSubscribed,  // a new or resumed subscription: events before it may be lost
  kGap,         // an event that is not the cursor's successor
  kOverflow,    // too much arrived before the log's end was read
};
std::string_view reason_name(RaiseReason reason) noexcept;  // "subscribed", "gap", "overflow"

// What the protocol acts on: one host's table. Keys are exact bytes with the prefix, as in Redis;
// the table keeps them so, nothing is stripped. The follower counts events; a Host counts only
// what its own functions are said to count.
class Host {
 public:
  virtual ~Host() = default;

  // Is the term under which this host follows still the newest? Asked before the effects of each
  // input; cheap. Once false, the follower calls nothing else any more.
  virtual bool leading() = 0;

  // The change about to have effects. Visible before any of them.
  virtual void set_head(ChangeId id) = 0;
  // A kSet, kInvalidate or kDelete of one key under our prefix; the first stores, the others drop.
  // Without an id it happens whatever is held, and late replies that it may have overtaken are
  // refused from then on (the guard's count). Counts nothing.
  virtual ApplyOutcome apply(const Event& event) = 0;
  // The last change that had all its effects. Visible after all of them.
  virtual void set_cursor(ChangeId id) = 0;

  // Everything held becomes absent, in O(1). Counts one epoch raise.
  virtual void raise_epoch(RaiseReason reason) = 0;
  // Everything changed before `seq`, in the current epoch, becomes absent.
  virtual void raise_floor(std::uint64_t seq) = 0;
  // Everything held becomes absent because a peer without ids cleared. Counts one clear.
  virtual void clear_all() = 0;

  // Is there a live copy of `key`?
  virtual bool holds(std::string_view key) = 0;
  // Ask Redis for `key` and keep the answer, as a fill; later, and only if convenient.
  virtual void refetch(std::string_view key) = 0;

  // May readers trust what is held? Called on every transition.
  virtual void set_in_sync(bool in_sync) = 0;

  virtual void count(shm::Counter counter) = 0;
  virtual void log(LogLevel level, std::string_view message) = 0;
};

struct FollowerOptions {
  int database = 0;        // events with an id of another database belong to another log
  std::string key_prefix;  // other keys move the cursor and have no effect
  GoPeers go_peers = GoPeers::kVerify;
  // What may be held while the log's end is awaited: a round trip's worth of a busy channel.
  std::size_t held_max_events = 65'536;
  std::size_t held_max_bytes = 32u << 20;
};

enum class Next {
  kNothing,
  kReadLogEnd,  // ask Redis for the id the log generated last, and pass it to `log_end`
  kResign,      // another process leads: stop. Every later input returns it again, without effect
};

class Follower {
 public:
  // Starts as after `lost`, and tells the host so: what a former leader left may be old.
  // `host` outlives the follower.
  Follower(Host& host, FollowerOptions options);
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  // The server confirmed the channel. Before this, the log's end must not be read: a change
  // between the two would be in neither.
  Next subscribed();

  // The log's end, read after it was asked for; {0, 0} for a log that was never written. Pass it
  // only after every message that was published before the reading has been passed to `message`
  // (Subscription sees to that): passed earlier, the messages that it overtook look like steps back
  // and cause another reading. Safe either way, but on a busy channel the second might not end.
  // An answer from before `lost` must not be passed.
  Next log_end(ChangeId end);

  // One payload of the channel, in order of arrival. Ignored while lost.
  //
  // A payload that is no event is counted and has no effect. If it was a real event that was
  // damaged, the chain lacks it, and the next event shows the gap: its `prev` is not our cursor.
  Next message(std::string_view payload);

  // The subscription broke. Until `subscribed`, nothing is known.
  Next lost();

  bool in_sync() const noexcept { return in_sync_; }
  ChangeId cursor() const noexcept { return cursor_; }

 private:
  enum class State { kLost, kReading, kFollowing, kResigned };
  enum class Effect { kApplied, kOld, kForeign, kStaleTerm };

  bool leading();
  Next resign();
  Next read_log_end(RaiseReason reason);
  void set_in_sync(bool in_sync);

  void hold(Event event, std::size_t bytes);
  void forget_held();
  Next settle_held(ChangeId end);

  Next take(const Event& event);
  Next take_successor(const Event& event);
  Next take_without_id(const Event& event);
  Effect effect_of(const Event& event);
  Effect effect_on_key(const Event& event);
  Effect effect_on_keys(const Event& event);
  Effect effect_of_clear(const Event& event);
  Effect effect_without_id(const Event& event);
  Next finish(Effect effect);

  bool ours(std::string_view key) const;
  bool is_recent(ChangeId id) const;
  void remember(ChangeId id);
  void report_malformed(const Status& why);

  Host& host_;
  const FollowerOptions options_;
  State state_ = State::kLost;
  bool in_sync_ = false;
  ChangeId cursor_;
  RaiseReason reason_ = RaiseReason::kSubscribed;  // for the raise that the awaited end brings

  std::vector<Event> held_;
  std::size_t held_bytes_ = 0;
  bool overflowed_ = false;

  // Ids whose effects are in; an event met again is a repeat and no gap. {0, 0} is nobody's id.
  std::array<ChangeId, 256> recent_{};
  std::size_t recent_next_ = 0;

  std::uint64_t malformed_ = 0;
};

}  // namespace larder::sync
