#include "tests/storm/worker.h"

#include <signal.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "shm/check.h"
#include "shm/clock.h"
#include "shm/history.h"
#include "shm/inspect.h"

namespace larder::storm {
namespace {

using shm::Applied;
using shm::ChangeId;
using shm::now_ms;
using shm::Sample;
using shm::Stored;
using shm::Table;

constexpr std::chrono::milliseconds kLockTimeout{50};
constexpr std::uint64_t kHeartbeatLostMs = 400;
constexpr int kEventsAtATurn = 16;

// ---- what signals do ---------------------------------------------------------------------------

sigset_t signals_of_the_director() {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, kBecomeFreshSignal);
  sigaddset(&both, kExitSignal);
  return both;
}

// Made before, because a handler must not allocate.
std::vector<std::string> fresh_arguments;
std::vector<char*> fresh_pointers;

[[noreturn]] void become_fresh() {
  block_signals();
  execv(fresh_pointers[0], fresh_pointers.data());
  _exit(3);
}

void take_signals(const Life& life) {
  fresh_arguments = worker_arguments(life);
  for (std::string& argument : fresh_arguments) fresh_pointers.push_back(argument.data());
  fresh_pointers.push_back(nullptr);
  signal(SIGCHLD, SIG_IGN);  // children leave no zombies
  signal(kBecomeFreshSignal, [](int) { become_fresh(); });
  signal(kExitSignal, [](int) { _exit(0); });
  // Blocked until there are handlers: by the director, and in a process that replaces itself.
  const sigset_t both = signals_of_the_director();
  sigprocmask(SIG_UNBLOCK, &both, nullptr);
}

// The kernel kills this process then, wherever it is.
void die_after(std::uint64_t us) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer{};
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) _exit(3);
  const itimerspec when{
      {}, {static_cast<time_t>(us / 1'000'000), static_cast<long>(us % 1'000'000) * 1000 + 1}};
  timer_settime(timer, 0, &when, nullptr);
}

// ---- one deed ----------------------------------------------------------------------------------

// Notes in the seat what is done and for how long, unless it was stopped meanwhile.
class Doing {
 public:
  Doing(Seat& seat, Deed deed)
      : seat_(seat), deed_(deed), before_(seat.deed), stops_(seat.stops), begun_ms_(now_ms()) {
    seat.begun_ms = begun_ms_;
    seat.deed = deed;
  }
  ~Doing() {
    const auto index = static_cast<std::size_t>(deed_);
    if (seat_.stops == stops_) raise_to(seat_.longest_ms[index], now_ms() - begun_ms_);
    seat_.done[index].fetch_add(1);
    seat_.deed = before_;
  }
  Doing(const Doing&) = delete;
  Doing& operator=(const Doing&) = delete;

 private:
  Seat& seat_;
  const Deed deed_;
  const Deed before_;
  const std::uint64_t stops_;
  const std::uint64_t begun_ms_;
};

// ---- the worker --------------------------------------------------------------------------------

class Worker {
 public:
  explicit Worker(const Life& life)
      : life_(life),
        shared_(*life.shared),
        seat_(&shared_.seats[life.seat]),
        random_(life.seed * 1'000'003 + life.seat * 10'007 + seat_->lives.fetch_add(1)) {
    seat_->pid = static_cast<std::uint32_t>(getpid());
    const Doing start(*seat_, Deed::kStart);
    attach();
  }

  int run() {
    while (!shared_.over && !finished_) turn();
    return 0;
  }

 private:
  struct View {
    shm::Pinned pinned;
    std::string key;
    std::uint64_t number;
  };
  // What may be read from now on.
  struct Bound {
    std::uint64_t least;
    std::uint64_t at_ms;
  };

  void turn() {
    if (leading() && random_.one_in(4)) lead();
    switch (random_.below(16)) {
      case 0:
      case 1:
      case 2:
        return read_alone();
      case 3:
        return read_many();
      case 4:
      case 5:
        return random_.one_in(3) ? release_view() : view();
      case 6:
      case 7:
      case 8:
        return is_child_ ? read_alone() : change_alone();
      case 9:
      case 10:
        return read_followed();
      case 11:
        return fill();
      case 12:
        return load();
      case 13:
      case 14:
        return change_followed();
      default:
        return something_rare();
    }
  }

  void something_rare() {
    // How often each comes up depends on how often the others do: flushes and clears seldom, so
    // that the segments are full between them.
    const std::uint64_t which = random_.below(10'000);
    if (which < 1) return shared_.no_more_flushes ? reap() : flush();
    if (which < 3) return clear();
    if (which < 5) return resync();
    if (which < 100) return reap();
    if (which < 140) return mend();
    if (which < 160) return observe();
    if (which < 600) return stand_for_election();
    if (which < 620) return step_down();
    if (is_child_) return;
    if (which < 640) return fork_child();
    if (which < 646) return become_another();
    if (which < 652) return leave();
    if (which < 670) return attach_again();
  }

  // ---- attaching ----

  std::unique_ptr<Table> open(const char* name) {
    auto opened = shm::Segment::open(segment_options(life_.folder, name));
    if (!opened) return fail(opened.status());
    auto table = std::make_unique<Table>(std::move(*opened), shm::TableOptions{kLockTimeout});
    if (Status joined = table->join(); !joined.ok()) return fail(joined);
    return table;
  }
  std::unique_ptr<Table> fail(const Status& status) {
    ++shared_.faults;
    shared_.complain("cannot attach: " + status.to_string());
    _exit(3);
  }

  void attach() {
    alone_ = open(kAlone);
    followed_ = open(kFollowed);
  }

  // Politely, or with the new tables there before the old ones go.
  void attach_again() {
    release_views();
    resign();
    if (random_.one_in(2)) {
      const Doing doing(*seat_, Deed::kDetach);
      alone_.reset();
      followed_.reset();
    }
    const Doing doing(*seat_, Deed::kAttach);
    attach();
  }

  // ---- without Redis ----

  unsigned any_key() { return static_cast<unsigned>(random_.below(kKeys)); }

  Bound bound_alone(unsigned index) { return {shared_.alone[index].least, now_ms()}; }

  // True for a value that may be read.
  bool accept(const char* where, const std::string& key, std::string_view value, const Bound& bound,
              std::uint64_t most, std::uint64_t& number) {
    const auto seen = describe(key, value);
    if (!seen) return wrong(where, key, "bytes that are not one value of this key", {}, bound);
    number = seen->number;
    if (number < bound.least) return wrong(where, key, "an older value came back", *seen, bound);
    if (number > most) return wrong(where, key, "a value that nobody wrote", *seen, bound);
    if (seen->expires_ms != 0 && seen->expires_ms <= bound.at_ms) {
      return wrong(where, key, "a value after its end", *seen, bound);
    }
    return true;
  }

  bool wrong(const char* where, const std::string& key, const char* what, const Description& seen,
             const Bound& bound) {
    if (++shared_.wrong > kComplaints / 4) return false;  // the others want to be heard too
    shared_.complain(std::string(where) + " of " + key + ": " + what + "; number " +
                     std::to_string(seen.number) + " of writer " + std::to_string(seen.writer) +
                     ", at least " + std::to_string(bound.least) + " by now");
    return false;
  }

  void accept_alone(const char* where, unsigned index, std::string_view value, const Bound& bound) {
    AloneKey& state = shared_.alone[index];
    std::uint64_t number = 0;
    if (accept(where, alone_key(index), value, bound, state.issued, number)) {
      raise_to(state.least, number);
    }
  }

  void read_alone() {
    const unsigned index = any_key();
    if (random_.one_in(16)) {
      const Doing doing(*seat_, Deed::kContains);
      (void)alone_->contains(alone_key(index));
      return;
    }
    const Doing doing(*seat_, Deed::kGet);
    const Bound bound = bound_alone(index);
    if (alone_->get(alone_key(index), value_)) accept_alone("get", index, value_, bound);
  }

  void read_many() {
    constexpr std::size_t kMany = 12;
    const Doing doing(*seat_, Deed::kGetMany);
    unsigned indices[kMany];
    std::string keys[kMany];
    std::string_view views[kMany];
    Bound bounds[kMany];
    for (std::size_t i = 0; i < kMany; ++i) {
      indices[i] = any_key();
      keys[i] = alone_key(indices[i]);
      views[i] = keys[i];
      bounds[i] = bound_alone(indices[i]);
    }
    const std::uint32_t hits =
        alone_->get_batch(views, [&](std::size_t i) -> std::string& { return many_[i]; });
    for (std::size_t i = 0; i < kMany; ++i) {
      if (hits >> i & 1) accept_alone("get_many", indices[i], many_[i], bounds[i]);
    }
  }

  void view() {
    const unsigned index = any_key();
    const Doing doing(*seat_, Deed::kPin);
    const Bound bound = bound_alone(index);
    const auto pinned = alone_->pin(alone_key(index));
    if (!pinned || pinned->word == nullptr) return;
    accept_alone("view", index, pinned->value, bound);
    const auto seen = describe(alone_key(index), pinned->value);
    views_.push_back({*pinned, alone_key(index), seen ? seen->number : 0});
  }

  void release_view() {
    if (views_.empty()) return;
    const Doing doing(*seat_, Deed::kUnpin);
    std::swap(views_[random_.below(views_.size())], views_.back());
    const View view = std::move(views_.back());
    views_.pop_back();
    const auto seen = describe(view.key, view.pinned.value);
    if (view.number != 0 && (!seen || seen->number != view.number)) {
      wrong("view", view.key, "it changed while it was held", seen.value_or(Description{}),
            {view.number, 0});
    }
    unpin(view.pinned);
  }
  void release_views() {
    while (!views_.empty()) release_view();
  }

  // A change takes microseconds, of which most pass inside the stripe's lock, but it makes up
  // little of a worker's time: blows at random seldom fall there.
  void maybe_ambush() {
    if (is_child_ || !random_.one_in(5000)) return;
    seat_->ambushed = true;
    die_after(random_.below(50));
  }

  // One of the keys of this seat. Its number is completed once the table has answered, whatever it
  // said: nothing older may be read any more.
  void change_alone() {
    const unsigned mine = static_cast<unsigned>(random_.below(kKeys / life_.workers));
    const unsigned index = mine * life_.workers + life_.seat;
    const std::string key = alone_key(index);
    AloneKey& state = shared_.alone[index];
    maybe_ambush();
    if (random_.one_in(5)) {
      const Doing doing(*seat_, Deed::kRemove);
      const std::uint64_t number = ++state.issued;
      (void)alone_->drop(key);
      raise_to(state.done, number);
      raise_to(state.least, number + 1);
      return;
    }
    const bool expires = random_.one_in(8);
    const bool larger = random_.one_in(40);
    const Doing doing(*seat_, expires                 ? Deed::kExpiring
                              : larger                ? Deed::kLarger
                              : alone_->contains(key) ? Deed::kOverwrite
                                                      : Deed::kSetNew);
    const std::uint64_t end = expires ? now_ms() + 1 + random_.below(3000) : shm::kNeverExpires;
    const std::uint64_t number = ++state.issued;
    const std::string value = make_value(key, {number, life_.seat, end}, larger);
    const shm::Record record{key, value, end};
    const Stored stored = random_.one_in(2) ? alone_->set(record)
                                            : alone_->set(record, alone_->sample(key), ChangeId{});
    raise_to(state.done, number);
    raise_to(state.least, stored == Stored::kStored ? number : number + 1);
  }

  void flush() {
    const Doing doing(*seat_, Deed::kFlush);
    std::vector<std::uint64_t> done(kKeys);
    for (unsigned i = 0; i < kKeys; ++i) done[i] = shared_.alone[i].done;
    (void)alone_->raise_epoch();
    for (unsigned i = 0; i < kKeys; ++i) {
      if (done[i] != 0) raise_to(shared_.alone[i].least, done[i] + 1);
    }
  }

  // ---- with what plays Redis ----

  static ChangeId id_of(std::uint64_t seq) { return {seq, seq * 0x9e3779b97f4a7c15ull}; }
  std::string value_of(const LoggedChange& change) {
    return make_value(followed_key(change.key), {change.seq, change.writer, 0});
  }

  // Redis is as far away as it happens to be.
  void travel() {
    if (random_.one_in(20)) usleep(static_cast<useconds_t>(random_.below(2000)));
  }

  std::uint64_t epoch_now() {
    return followed_->segment().superblock().hot.epoch.load() & ((1ull << (64 - kSeqBits)) - 1);
  }

  // The change was taken by Redis and by this host, both in one epoch.
  void complete(FollowedKey& key, std::uint64_t seq, std::uint64_t epoch) {
    if (epoch_now() == epoch) raise_to(key.own, epoch << kSeqBits | seq);
  }

  void read_followed() {
    const unsigned index = any_key();
    const std::string key = followed_key(index);
    const FollowedKey& state = shared_.followed[index];
    const Doing doing(*seat_, Deed::kGet);
    Bound bound{state.applied, now_ms()};
    const std::uint64_t own = state.own;
    std::uint64_t number = 0;
    if (!followed_->get(key, value_)) return;
    const std::uint64_t own_seq = own & ((1ull << kSeqBits) - 1);
    if (own >> kSeqBits == epoch_now()) bound.least = std::max(bound.least, own_seq);
    if (!accept("get", key, value_, bound, shared_.ledger.last() + 1, number)) return;
    const auto change = shared_.ledger.read(number);
    if (change && (change->key != index || change->kind != ChangeKind::kSet)) {
      wrong("get", key, "a value that nobody wrote", {number, change->writer, 0}, bound);
    }
  }

  void fill() {
    const unsigned index = any_key();
    const std::string key = followed_key(index);
    const Doing doing(*seat_, Deed::kFill);
    const Sample sample = followed_->sample(key);
    travel();
    const Ledger::Reply reply = shared_.ledger.get(index);
    travel();
    if (!reply.value) return;
    const std::string value = value_of(*reply.value);
    (void)followed_->fill({key, value}, sample, id_of(reply.reach));
  }

  // As fill(), one at a time; some take longer than their lease.
  void load() {
    const unsigned index = any_key();
    const std::string key = followed_key(index);
    FollowedKey& state = shared_.followed[index];
    const std::chrono::milliseconds length(random_.below(20));
    shm::LoadLease lease;
    const shm::Claimed claimed = followed_->claim_load(key, length, lease);
    if (claimed == shm::Claimed::kNoWord) return fill();
    if (claimed == shm::Claimed::kOther) {
      const Doing doing(*seat_, Deed::kLoadWait);
      (void)followed_->wait_for_load(key, std::chrono::milliseconds(random_.below(50)));
      return;
    }
    const Doing doing(*seat_, Deed::kLoad);
    const std::uint64_t mine = ++state.loads;
    const Sample sample = followed_->sample(key);
    travel();
    const Ledger::Reply reply = shared_.ledger.get(index);
    travel();
    const std::uint64_t loads = state.loads;
    if (shm::Loads::is_held(lease) && loads != mine) {
      wrong("load", key, "two have its lease", {reply.reach, life_.seat, 0}, {});
    }
    maybe_ambush();
    if (reply.value) {
      const std::string value = value_of(*reply.value);
      (void)followed_->fill({key, value}, sample, id_of(reply.reach), lease);
    }
    if (!random_.one_in(50)) shm::Loads::end(lease);  // else its time must end it
  }

  void change_followed() {
    const unsigned index = any_key();
    const std::string key = followed_key(index);
    const bool removes = random_.one_in(4);
    const Doing doing(*seat_, removes ? Deed::kOwnRemove : Deed::kOwnSet);
    const std::uint64_t epoch = epoch_now();
    const Sample sample = followed_->sample(key);
    travel();
    const ChangeKind kind = removes ? ChangeKind::kRemove : ChangeKind::kSet;
    const std::uint64_t seq = shared_.ledger.change(kind, life_.seat, index);
    travel();
    if (random_.one_in(30)) {  // the answer got lost
      const Doing dropping(*seat_, Deed::kDrop);
      (void)followed_->drop(key);
      return;
    }
    const std::string value = removes ? "" : value_of({seq, kind, life_.seat, index});
    const Stored stored = removes ? followed_->remove(key, sample, id_of(seq))
                                  : followed_->set({key, value}, sample, id_of(seq));
    // Who did not get the lock leaves misses; older events, that others may still push, are stored
    // again until its own comes.
    if (stored != Stored::kBusy) complete(shared_.followed[index], seq, epoch);
  }

  void clear() {
    const Doing doing(*seat_, Deed::kClear);
    const std::uint64_t epoch = epoch_now();
    const std::uint64_t sampled = followed_->sample("").epoch;
    travel();
    const std::uint64_t seq = shared_.ledger.change(ChangeKind::kClear, life_.seat, 0);
    followed_->raise_floor(sampled, seq);
    for (FollowedKey& key : shared_.followed) complete(key, seq, epoch);
  }

  void resync() {
    const Doing doing(*seat_, Deed::kResync);
    (void)followed_->raise_epoch();
  }

  // ---- leading ----

  bool leading() const { return term_ != 0; }
  shm::SyncWords& words() { return followed_->segment().superblock().sync; }

  // Who holds the leader's lock leads; but when nothing was heard of it for long it may be stopped,
  // and whoever notices takes office without.
  void stand_for_election() {
    if (leading()) return;
    const Doing doing(*seat_, Deed::kElection);
    const std::uint64_t beat = words().heartbeat.load();
    if (beat != seen_beat_) {
      seen_beat_ = beat;
      seen_beat_ms_ = now_ms();
    }
    if (!followed_->processes().try_lead() && now_ms() - seen_beat_ms_ < kHeartbeatLostMs) return;
    begin_term();
  }

  void begin_term() {
    const Doing doing(*seat_, Deed::kTerm);
    const auto term = followed_->begin_term();
    if (!term) return resign();
    term_ = *term;
    words().heartbeat.fetch_add(1);
    start_at_the_end();
  }

  // What happened up to here nobody followed, so nothing that is held can be told to be current.
  // The end is read first: what is filled after the epoch rose contains it.
  void start_at_the_end() {
    const std::uint64_t end = shared_.ledger.last();
    (void)followed_->raise_epoch();
    shm::History(followed_->segment()).forget();
    set_head(end);
    set_cursor(end);
  }

  void set_head(std::uint64_t seq) {
    if (seq != 0) (void)shm::History(followed_->segment()).follow(id_of(seq));
    words().head_seq.store(seq);
  }
  void set_cursor(std::uint64_t seq) {
    words().cursor_nonce.store(id_of(seq).nonce);
    words().cursor_seq.store(seq);
    cursor_ = seq;
  }

  void lead() {
    words().heartbeat.fetch_add(1);
    for (int i = 0; i < kEventsAtATurn && leading(); ++i) {
      if (cursor_ >= shared_.ledger.last()) return;
      const auto change = shared_.ledger.read(cursor_ + 1);
      if (!change) return start_at_the_end();  // the log has gone round
      apply(*change);
    }
  }

  // As the follower does: the head before an event's first effect, the cursor after its last.
  void apply(const LoggedChange& change) {
    const Doing doing(*seat_, Deed::kApply);
    if (!followed_->term_is_current(term_)) return resign();
    set_head(change.seq);
    if (change.kind == ChangeKind::kClear) {
      const std::uint64_t epoch = followed_->sample("").epoch;
      followed_->raise_floor(epoch, change.seq);
      for (FollowedKey& key : shared_.followed) raise_to(key.applied, change.seq);
    } else {
      const std::string key = followed_key(change.key);
      const bool pushed = change.kind == ChangeKind::kSet && random_.one_in(2);
      const std::string value = pushed ? value_of(change) : std::string();
      using Kind = shm::Change::Kind;
      const shm::Change what{pushed ? Kind::kSet : Kind::kDrop,
                             {key, value},
                             random_.one_in(50) && !pushed ? ChangeId{} : id_of(change.seq)};
      if (followed_->apply(what, term_) == Applied::kStaleTerm) return resign();
      raise_to(shared_.followed[change.key].applied, change.seq);
    }
    set_cursor(change.seq);
  }

  void resign() {
    term_ = 0;
    followed_->processes().stop_leading();
  }
  void step_down() {
    if (!leading()) return;
    const Doing doing(*seat_, Deed::kStepDown);
    resign();
  }

  // ---- looking after the segments ----

  void reap() {
    const Doing doing(*seat_, Deed::kReap);
    for (Table* table : {alone_.get(), followed_.get()}) {
      (void)table->reap();
      look_for_oneself(*table);
    }
  }

  // What this process was before it replaced itself is dead, and so is who had its pid before.
  void look_for_oneself(Table& table) {
    constexpr int kLooks = 20;
    const auto self = table.processes().self();
    if (!self) return complain_of("no place: " + self.status().to_string());
    std::uint32_t place = former_place(table.segment(), shm::owner_place(*self));
    for (int look = 1; place != 0 && look < kLooks; ++look) {
      const timespec pause{0, 1'000'000};
      nanosleep(&pause, nullptr);
      (void)table.reap();
      place = former_place(table.segment(), shm::owner_place(*self));
    }
    if (place == 0) return;
    complain_of("place " + std::to_string(place) + " is kept by nobody but its pid");
  }
  // 0: none that is left to us. Whoever asks about one holds its byte meanwhile.
  static std::uint32_t former_place(shm::Segment& segment, std::uint32_t self) {
    const shm::Place& own = segment.place(self);
    for (const shm::ProcessInfo& other : shm::processes(segment)) {
      if (other.place != self && other.pid == own.pid.load() &&
          other.pid_namespace == own.pid_namespace.load() &&
          !segment.lock_file()->held_by_other(static_cast<off_t>(other.place))) {
        return other.place;
      }
    }
    return 0;
  }

  // Takes every stripe once: what the dead left there is repaired, what was bypassed is wiped.
  void mend() {
    const Doing doing(*seat_, Deed::kMend);
    for (Table* table : {alone_.get(), followed_.get()}) {
      shm::Segment& segment = table->segment();
      for (std::uint32_t s = 0; s < segment.geometry().stripe_count; ++s) {
        (void)table->drop(test::keys_of_stripe(segment, s, 1)[0]);
      }
    }
  }

  void observe() {
    const Doing doing(*seat_, Deed::kCheck);
    for (const char* name : {kAlone, kFollowed}) {
      auto seen =
          shm::Segment::attach(shm::Segment::path_of(life_.folder, name), shm::Access::kReadOnly);
      if (!seen) return complain_of("an observer cannot attach: " + seen.status().to_string());
      (void)shm::totals(**seen);
      (void)shm::processes(**seen);
      const auto report = shm::check(**seen, {.deep = random_.one_in(2), .quiescent = false});
      for (const std::string& each : report.violations) {
        complain_of(std::string("an observer of ") + name + ": " + each);
      }
    }
  }
  void complain_of(const std::string& what) {
    if (++shared_.faults > kComplaints / 4) return;
    shared_.complain(what);
  }

  // ---- ends and new beginnings ----

  // A child works on for a moment, with what it inherited of its parent: tables, and views and an
  // office that are not its own. It is killed anywhere, or ends by itself before.
  void fork_child() {
    const Doing doing(*seat_, Deed::kFork);
    std::fflush(nullptr);
    const pid_t pid = fork();
    if (pid < 0) complain_of("fork failed");
    if (pid != 0) return;
    is_child_ = true;
    seat_ = &shared_.seats[kMaxWorkers + life_.seat];
    random_ = test::Random(random_.next() + static_cast<std::uint64_t>(getpid()));
    die_after(random_.one_in(2) ? random_.below(30'000) : 1'000'000 + random_.below(1'000'000));
    for (const View& view : views_) unpin(view.pinned);
    views_.clear();
    resign();
    (void)alone_->join();
    (void)followed_->join();
    for (std::uint64_t turns = random_.below(3000); turns > 0 && !shared_.over; --turns) turn();
    if (random_.one_in(2)) tear_down();
    _exit(0);
  }

  void become_another() {
    const Doing doing(*seat_, Deed::kExec);
    seat_->done[static_cast<std::size_t>(Deed::kExec)].fetch_add(1);
    become_fresh();
  }

  // Politely, or holding views and an office.
  void leave() {
    const Doing doing(*seat_, Deed::kExit);
    if (random_.one_in(2)) tear_down();
    finished_ = true;
  }
  void tear_down() {
    views_.clear();
    alone_.reset();
    followed_.reset();
  }

  const Life& life_;
  Shared& shared_;
  Seat* seat_;
  test::Random random_;
  bool is_child_ = false;
  bool finished_ = false;
  std::unique_ptr<Table> alone_;
  std::unique_ptr<Table> followed_;
  std::vector<View> views_;
  std::string value_;
  std::string many_[shm::kBatch];
  std::uint64_t term_ = 0;  // 0: somebody else leads, or nobody
  std::uint64_t cursor_ = 0;
  std::uint64_t seen_beat_ = UINT64_MAX;
  std::uint64_t seen_beat_ms_ = 0;
};

}  // namespace

shm::SegmentOptions segment_options(const std::string& folder, const char* name) {
  shm::SegmentOptions options;
  options.directory = folder;
  options.name = name;
  options.bytes = test::kTwoStripesBytes;
  options.policy = name == std::string_view(kAlone) ? shm::kPolicyLfu : shm::kPolicyLru;
  return options;
}

std::string alone_key(unsigned index) { return "alone-" + std::to_string(index); }
std::string followed_key(unsigned index) { return "followed-" + std::to_string(index); }

std::vector<std::string> worker_arguments(const Life& life) {
  return {life.program,
          "--as-worker",
          std::to_string(life.seat),
          "--shared",
          std::to_string(life.shared_fd),
          "--folder",
          life.folder,
          "--workers",
          std::to_string(life.workers),
          "--seed",
          std::to_string(life.seed)};
}

void block_signals() {
  const sigset_t both = signals_of_the_director();
  sigprocmask(SIG_BLOCK, &both, nullptr);
}

int work(const Life& life) {
  take_signals(life);
  // On the heap, and never destroyed: a worker that ends does not tidy up unless it chose to.
  return (new Worker(life))->run();
}

}  // namespace larder::storm
