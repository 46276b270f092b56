// What the elected process does with the channel: the protocol, and nothing else.
//
// A Follower is a pure state machine. It knows no socket, clock or thread: its inputs are calls,
// its effects are calls of a Host, its return value says what the caller has to do next. So a
// simulator can drive it, and the same inputs always have the same effects.
//
// The chain: every change names the id it followed (`prev`). The cursor is the id applied last, so
// the next event is the one whose `prev` is the cursor. Whatever else arrives may mean a loss, a
// step back or another history, and a new or resumed subscription always may. All of these have
// one answer, the log rule: read the log from the cursor on. If it still has the cursor, and all
// that the host rests on beyond it, what follows is applied and nothing is lost. If not, the epoch
// is raised, which drops everything held, and the cursor set to the log's end. In this order: what
// is asked of Redis after the epoch was raised is no older than the end, so events up to the end
// need no effect.
//
// The lease: a probe asks Redis for the id its log generated last. Once the cursor has reached that
// id, the host lacks nothing that was changed before the probe was sent.
//
// Terms: at most one reading of the log is outstanding, however many events arrive. What arrived
// before the question is contained in the answer and forgotten; what arrives between question and
// answer is held, and settled when the answer is there.
//
// Threads: none; one caller at a time.  Fork: a child drops it.  Errors: none are returned; what
// cannot be decoded is counted.  Crash: `set_head` before an event's first effect and `set_cursor`
// after its last tell a successor what was half done.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "larder/logger.h"
#include "larder/options.h"
#include "shm/clock.h"
#include "shm/layout.h"
#include "src/sync/event.h"
#include "src/sync/log.h"

namespace larder::sync {

enum class ApplyOutcome {
  kApplied,    // the host's copy now reflects the change
  kOld,        // what the host holds already contains it
  kDeferred,   // no lock in time; readers miss there until that part was emptied
  kStaleTerm,  // another process leads; nothing was written
};

// Why everything held was dropped.
enum class RaiseReason {
  kNew,        // nobody has followed yet
  kLogLost,    // the log has no cursor any more: trimmed, removed, another one
  kDiverged,   // Redis lost a change that something held rests on
  kWithoutId,  // events may be lost, and peers that send no ids are among the senders
  kBehind,     // the log grows faster than it is read
};
inline constexpr std::size_t kRaiseReasons = 5;
std::string_view reason_name(RaiseReason reason) noexcept;  // "new", "log_lost", ...

// What the protocol acts on: one host's table. Keys are exact bytes with the prefix, as in Redis;
// the table keeps them so, nothing is stripped. The follower counts events; a Host counts only
// what its own functions are said to count.
class Host {
 public:
  virtual ~Host() = default;

  // Is the term under which this host follows still the newest? Asked before the effects of each
  // input; cheap. Once false, the follower calls nothing else any more.
  virtual bool leading() = 0;

  // The change about to have effects. Visible before any of them. False: something held may rest
  // on another change of this number, which Redis has lost.
  virtual bool set_head(ChangeId id) = 0;
  // The same after everything was dropped and forgotten: events go on from the log's end `id`.
  // False also when something was stored since that rests on an id before it.
  virtual bool begin_at(ChangeId id) = 0;
  // A kSet, kInvalidate or kDelete of one key under our prefix; the first stores, the others drop.
  // Without an id it happens whatever is held, and late replies that it may have overtaken are
  // refused from then on (the guard's count). Counts nothing.
  virtual ApplyOutcome apply(const Event& event) = 0;
  // The last change that had all its effects. Visible after all of them.
  virtual void set_cursor(ChangeId id) = 0;

  // Was this exact change one of the last that had a head?
  virtual bool knows(ChangeId id) = 0;
  // The highest seq of a change beyond the cursor that something held rests on; 0: none.
  virtual std::uint64_t ahead() = 0;
  // Was a change without an id ever heard of?
  virtual bool heard_without_id() = 0;
  virtual void hear_without_id() = 0;

  // Everything held becomes absent, in O(1), and rests on nothing. Counts one epoch raise.
  virtual void raise_epoch(RaiseReason reason) = 0;
  // Everything changed before `seq`, in the current epoch, becomes absent.
  virtual void raise_floor(std::uint64_t seq) = 0;
  // Everything held becomes absent because a peer without ids cleared. Counts one clear.
  virtual void clear_all() = 0;

  // Is there a live copy of `key`?
  virtual bool holds(std::string_view key) = 0;
  // Ask Redis for `key` and keep the answer, as a fill; later, and only if convenient.
  virtual void refetch(std::string_view key) = 0;

  // All that was changed before `asked` has had its effects.
  virtual void extend_lease(shm::CoarseTime asked) = 0;

  virtual void count(shm::Counter counter) = 0;
  virtual void count(shm::SyncCounter counter) = 0;
  virtual void log(LogLevel level, std::string_view message) = 0;
};

struct FollowerOptions {
  int database = 0;        // events with an id of another database belong to another log
  std::string key_prefix;  // other keys move the cursor and have no effect
  GoPeers go_peers = GoPeers::kVerify;
  // What may be held while the log is read: a round trip's worth of a busy channel.
  std::size_t held_max_events = 65'536;
  std::size_t held_max_bytes = 32u << 20;
  // How many pages are read before everything is dropped instead: as many as a full log has, and
  // what was added meanwhile.
  unsigned pages_max = 400;
};

enum class Next {
  kNothing,
  kReadLog,      // read the log from `cursor()` on, and pass it to `log_page`
  kProbe,        // ask Redis where its log ends, now rather than in its turn; see `probe`
  kResubscribe,  // the subscription does not bring what Redis has, or is to no primary: make a new
                 // one. Until `subscribed`, as after `lost`
  kResign,       // another process leads: stop. Every later input returns it again, without effect
};

class Follower {
 public:
  // Goes on from `cursor`, where a former leader stopped; {0, 0}: nobody has followed yet.
  // `host` outlives the follower.
  Follower(Host& host, FollowerOptions options, ChangeId cursor);
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  // The server confirmed the channel. Before this, the log must not be read: a change between the
  // two would be in neither.
  Next subscribed();

  // Some of the log, read after it was asked for. Pass it only after every message that was
  // published before the reading has been passed to `message` (Subscription sees to that): passed
  // earlier, the messages that it overtook look like steps back and cause another reading. Safe
  // either way, but on a busy channel the second might not end. An answer from before `lost` must
  // not be passed.
  Next log_page(const LogPage& page);

  // One payload of the channel, in order of arrival. Ignored while lost.
  //
  // A payload that is no event is counted and has no effect. If it was a real event that was
  // damaged, the chain lacks it, and the next event or probe shows the gap.
  Next message(std::string_view payload);

  // To be asked for about every heartbeat while following. An answer from before `lost` must not be
  // passed.
  Next probe(const ProbeAnswer& answer);

  // The subscription broke. Until `subscribed`, nothing is known.
  Next lost();

  // The highest seq that what is held rests on: no log that ends before it is the one that was
  // followed. For a probe, at the moment it is sent.
  std::uint64_t ahead() { return std::max(cursor_.seq, host_.ahead()); }
  bool is_following() const noexcept { return state_ == State::kFollowing; }
  ChangeId cursor() const noexcept { return cursor_; }

 private:
  enum class State { kLost, kReading, kFollowing, kResigned };
  enum class Effect { kApplied, kOld, kForeign, kStaleTerm };

  bool leading();
  Next resign();
  Next begin_reading();
  Next read_on();
  Next replay(const LogPage& page);
  Next begin_anew(RaiseReason reason, ChangeId end);
  void drop_everything(RaiseReason reason, ChangeId head);
  Next follow_from(ChangeId end);
  Next resubscribe();

  void hold(Event event, std::size_t bytes);
  void note_without_id(const Event& event);
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
  void advance(ChangeId id);
  void extend_lease(shm::CoarseTime asked);

  bool ours(std::string_view key) const;
  bool follows(ChangeId id, ChangeId prev) const;
  bool has_followed(ChangeId id) const;
  void report_malformed(const Status& why);

  Host& host_;
  const FollowerOptions options_;
  State state_ = State::kLost;
  ChangeId cursor_;

  // Of the reading under way.
  std::optional<RaiseReason> must_raise_;  // whatever the log says
  std::uint64_t ahead_ = 0;                // when it was asked for
  unsigned pages_ = 0;

  Event heard_;  // the last; its memory is used again
  std::vector<Event> held_;
  std::size_t held_bytes_ = 0;
  bool overflowed_ = false;

  // The end that a probe saw and the cursor has not reached yet.
  std::optional<ProbeAnswer> awaited_;
  unsigned readings_in_vain_ = 0;  // because it was not reached, since the last that was

  std::uint64_t malformed_ = 0;
};

}  // namespace larder::sync
