#include "src/sync/leader.h"

#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "shm/clock.h"
#include "shm/fd.h"
#include "shm/os_error.h"
#include "src/sync/client.h"
#include "src/sync/exchange.h"
#include "src/sync/link.h"
#include "src/sync/scripts.h"
#include "src/sync/table_host.h"

namespace larder::sync {
namespace {

timeval to_timeval(std::chrono::milliseconds ms) {
  return {static_cast<time_t>(ms.count() / 1000),
          static_cast<suseconds_t>(ms.count() % 1000 * 1000)};
}

struct BaseDeleter {
  void operator()(event_base* base) const noexcept { event_base_free(base); }
};

// Everything between winning an election and losing it.
class Reign final : private SubscriptionListener {
 public:
  Reign(shm::Table& table, const LeaderOptions& options, std::uint64_t term, Logger& logger,
        event_base* base, std::function<void()> resign)
      : table_(table),
        log_key_(log_key(options.subscription.channel)),
        term_(term),
        logger_(logger),
        resign_(std::move(resign)),
        host_(table, term, options.lease, logger, [this](std::string_view key) { refetch(key); }),
        follower_(host_, options.follower, host_.cursor()),
        subscription_(base, options.subscription, *this) {
    host_.note(shm::Happening::kElected);
  }

  std::uint64_t term() const { return term_; }
  bool is_current() const { return table_.term_is_current(term_); }

  // Every heartbeat.
  void turn() {
    if (!follower_.is_following()) return;
    // A former leader that was stopped before its store of a word leaves its own when it wakes up.
    host_.repeat_cursor(follower_.cursor());
    probe();
  }

  void abandon() noexcept { subscription_.abandon(); }

 private:
  void on_subscribed() override {
    logger_.log(LogLevel::kInfo, "subscribed");
    host_.note(shm::Happening::kSubscribed);
    act(follower_.subscribed());
  }
  void on_message(std::string_view payload) override { act(follower_.message(payload)); }
  void on_lost(const Status& reason) override {
    logger_.log(LogLevel::kWarn, "subscription lost: " + reason.message());
    host_.note(shm::Happening::kLost, reason.message());
    act(follower_.lost());
  }

  void act(Next next) {
    switch (next) {
      case Next::kNothing:
        return;
      case Next::kResign:
        return resign_();
      case Next::kProbe:
        return probe();
      case Next::kResubscribe:
        return subscription_.restart({Code::kUnavailable,
                                      "the channel does not bring what the log has, or Redis is no "
                                      "primary any more"});
      case Next::kReadLog:
        // Refused only when the subscription is lost, which the follower is about to hear.
        (void)subscription_.read_log(follower_.cursor(), [this](const LogPage& page) {
          note_redis_clock(page.redis_unix_ms, page.asked_boot_ms);
          act(follower_.log_page(page));
        });
    }
  }

  void probe() {
    const std::uint64_t ahead = follower_.ahead();
    (void)subscription_.probe([this, ahead](ProbeAnswer answer) {
      answer.ahead = ahead;
      note_redis_clock(answer.redis_unix_ms, answer.asked_boot_ms);
      words().answered_ms.store(answer.asked.ms, std::memory_order_relaxed);
      words().log_end_seq.store(answer.end.seq, std::memory_order_relaxed);
      act(follower_.probe(answer));
    });
  }

  void note_redis_clock(std::int64_t redis_unix_ms, std::uint64_t asked_boot_ms) {
    words().redis_clock_ms.store(redis_unix_ms - static_cast<std::int64_t>(asked_boot_ms),
                                 std::memory_order_relaxed);
  }

  // A Go peer's set: its value may already be old when it arrives, so Redis is asked.
  void refetch(std::string_view key) {
    const std::string name(key);
    const Fill fill(table_, name);
    const auto commands = fetch_commands(log_key_, name);
    const auto answer = std::make_shared<Fetched>();
    const auto failed = std::make_shared<bool>(false);
    (void)subscription_.ask_each(
        commands, [=, this, last = commands.size() - 1](std::size_t i, const redisReply& reply) {
          if (!take_fetch_reply(i, reply, *answer).ok()) *failed = true;
          if (i == last && !*failed) fill.finish(table_, name, *answer);
        });
  }

  shm::SyncWords& words() { return table_.segment().superblock().sync; }

  shm::Table& table_;
  const std::string log_key_;
  const std::uint64_t term_;
  Logger& logger_;
  const std::function<void()> resign_;
  TableHost host_;
  Follower follower_;
  Subscription subscription_;
};

}  // namespace

class Leader::Loop {
 public:
  Loop(shm::Table& table, LeaderOptions options, std::shared_ptr<Logger> logger)
      : table_(table), options_(std::move(options)), logger_(std::move(logger)) {}

  Status start() {
    stop_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (stop_fd_.get() < 0 || !descriptors_are_left()) {
      return shm::os_error(errno, "cannot make the sync loop");
    }
    base_.reset(event_base_new());
    if (base_ == nullptr) return shm::os_error(errno, "cannot make the sync loop");
    stop_event_.reset(event_new(base_.get(), stop_fd_.get(), EV_READ, on_stop, this));
    turn_event_.reset(event_new(base_.get(), -1, EV_PERSIST, on_turn, this));
    resign_event_.reset(event_new(base_.get(), -1, 0, on_resign, this));
    if (!stop_event_ || !turn_event_ || !resign_event_) {
      return {Code::kInternal, "cannot make the sync loop: out of memory"};
    }
    const timeval turn = to_timeval(options_.heartbeat);
    event_add(stop_event_.get(), nullptr);
    event_add(turn_event_.get(), &turn);

    const auto vacant = take_lock();
    Status started = start_thread(vacant);
    if (!started.ok()) give_lock_back();
    return started;
  }

  void stop() {
    if (!thread_.joinable()) return;
    const std::uint64_t one = 1;
    while (::write(stop_fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
    thread_.join();
  }

  // The parent's connections only: Redis must not feed a subscriber that lives on in a child.
  void abandon() noexcept {
    if (reign_) reign_->abandon();
  }

 private:
  // libevent ends the whole program when it gets no descriptors for its loop, so we look before it
  // does. (It takes three. A thread that takes the last ones in between is not to be helped.)
  static bool descriptors_are_left() {
    constexpr std::size_t kNeeded = 4;
    std::array<shm::Fd, kNeeded> taken;
    for (shm::Fd& fd : taken) {
      fd.reset(eventfd(0, EFD_CLOEXEC));
      if (fd.get() < 0) return false;
    }
    return true;
  }

  static void on_stop(evutil_socket_t, short, void* self) {
    event_base_loopbreak(static_cast<Loop*>(self)->base_.get());
  }
  static void on_turn(evutil_socket_t, short, void* self) noexcept {
    Loop* loop = static_cast<Loop*>(self);
    loop->guarded([loop] { loop->turn(); });
  }
  static void on_death(evutil_socket_t, short, void* self) noexcept {
    Loop* loop = static_cast<Loop*>(self);
    loop->guarded([loop] { loop->leader_died(); });
  }
  static void on_resign(evutil_socket_t, short, void* self) noexcept {
    Loop* loop = static_cast<Loop*>(self);
    loop->guarded([loop] { loop->step_down(); });
  }

  // An exception, for want of memory as a rule, would end the host program. Whoever leads gives it
  // up instead; the next turn tries again.
  template <class F>
  void guarded(F&& f) noexcept {
    catch_all(f, [this](const char* what) {
      leave_office();
      logger_->log(LogLevel::kError, std::string("the sync thread begins anew: ") + what);
    });
  }

  Status start_thread(std::optional<std::uint64_t> vacant) {
    // The program's signals are its own: none is delivered here, SIGPIPE of a dead socket included.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Status started;
    try {
      thread_ = std::thread([this, vacant] { run(vacant); });
    } catch (const std::exception& error) {
      started = {Code::kInternal, std::string("cannot start the sync thread: ") + error.what() +
                                      "; raise the limit on threads (ulimit -u, pids.max)"};
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }

  void run(std::optional<std::uint64_t> vacant) {
    pthread_setname_np(pthread_self(), "larder-sync");
    guarded([this, vacant] {
      if (vacant) {
        take_office(*vacant);
      } else {
        stand();
      }
    });
    event_base_dispatch(base_.get());
    guarded([this] { step_down(); });
    death_event_.reset();
    death_fd_.reset();
  }

  // Every heartbeat, whether we lead or not.
  void turn() {
    if (reign_) {
      lead_on();
    } else {
      stand();
    }
  }

  void lead_on() {
    if (!reign_->is_current()) return step_down();
    words().heartbeat.fetch_add(1, std::memory_order_relaxed);
    reign_->turn();
    if (++turns_ % kTurnsPerReap == 0) table_.reap();
    // Elected because the former leader stood still: its lock is ours as soon as it lets go.
    if (!holds_lock_ && table_.processes().try_lead()) {
      holds_lock_ = true;
      table_.got_leader_lock(reign_->term());
    }
  }

  // Stands for election: at once when the lock is free, after a while when its holder stands still.
  void stand() {
    if (const auto vacant = take_lock()) return take_office(*vacant);
    if (leader_stands_still()) return take_office(seen_->term);
    watch_leader();
  }

  // The term before the look, when the lock is ours. It is not, when a leader waits for it which
  // was elected when its predecessor stood still: taking over from that one would drop everything
  // held, for nothing.
  std::optional<std::uint64_t> take_lock() {
    const std::uint64_t term = words().term.load(std::memory_order_acquire);
    holds_lock_ = table_.processes().try_lead();
    if (!holds_lock_) return {};
    if (!table_.leader_awaits_lock()) return term;
    give_lock_back();
    return {};
  }

  void give_lock_back() noexcept {
    if (holds_lock_) table_.processes().stop_leading();
    holds_lock_ = false;
  }

  bool leader_stands_still() {
    const std::uint64_t term = words().term.load(std::memory_order_acquire);
    const std::uint64_t beat = words().heartbeat.load(std::memory_order_relaxed);
    if (!seen_ || seen_->term != term || seen_->beat != beat) {
      seen_ = Seen{term, beat, 0};
      return false;
    }
    // Looks, not time: after a suspend, or when the whole group was stopped, the clock has moved on
    // for a leader that had no more chance to turn than we had.
    return ++seen_->looks * options_.heartbeat >= options_.heartbeat_lost;
  }

  // `vacant` is the term that nobody leads in any more. We may have been stopped since that look:
  // when another process was elected meanwhile, the turns go on looking.
  void take_office(std::uint64_t vacant) {
    seen_.reset();
    watched_pid_ = 0;
    death_event_.reset();
    death_fd_.reset();
    const auto term = begin_term(vacant);
    if (!term) {
      give_lock_back();
      if (term.code() == Code::kAlreadyExists) return;
      return logger_->log(LogLevel::kError, "cannot lead: " + term.status().message());
    }
    table_.reap();
    logger_->log(LogLevel::kInfo, "elected, term " + std::to_string(*term) +
                                      (holds_lock_ ? "" : "; the former leader stands still"));
    reign_ = std::make_unique<Reign>(table_, options_, *term, *logger_, base_.get(), [this] {
      // Not from inside the reign's own calls.
      event_active(resign_event_.get(), EV_TIMEOUT, 0);
    });
  }

  Result<std::uint64_t> begin_term(std::uint64_t vacant) {
    if (Status s = table_.join(); !s.ok()) return s;
    return table_.begin_term(vacant, holds_lock_);
  }

  void step_down() {
    if (!reign_) return;
    if (!reign_->is_current())
      logger_->log(LogLevel::kWarn, "another process leads; stepping down");
    leave_office();
  }

  void leave_office() noexcept {
    reign_.reset();
    give_lock_back();
  }

  // A pidfd becomes readable the moment its process dies, and the lock is free by then. Where the
  // leader cannot be seen, the turns do.
  void watch_leader() {
    const int pid = table_.processes().leader_pid();
    if (pid == watched_pid_) return;
    death_event_.reset();
    death_fd_.reset();
    watched_pid_ = pid;
    if (pid == 0 || pid == getpid()) return;
    death_fd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (death_fd_.get() < 0) return;
    death_event_.reset(event_new(base_.get(), death_fd_.get(), EV_READ, on_death, this));
    if (death_event_) event_add(death_event_.get(), nullptr);
  }

  // Who was faster has the lock, but may not have put its name down yet; the dead one's is watched
  // no more (a zombie's pidfd would wake us again and again), the turns find the new one.
  void leader_died() {
    death_event_.reset();
    death_fd_.reset();
    stand();
  }

  shm::SyncWords& words() { return table_.segment().superblock().sync; }

  static constexpr unsigned kTurnsPerReap = 5;
  struct Seen {
    std::uint64_t term;
    std::uint64_t beat;
    unsigned looks;
  };

  shm::Table& table_;
  const LeaderOptions options_;
  const std::shared_ptr<Logger> logger_;
  std::unique_ptr<event_base, BaseDeleter> base_;
  shm::Fd stop_fd_;
  EventPtr stop_event_;
  EventPtr turn_event_;
  EventPtr resign_event_;
  std::thread thread_;

  // The thread's own, once it runs.
  std::unique_ptr<Reign> reign_;
  bool holds_lock_ = false;
  unsigned turns_ = 0;
  std::optional<Seen> seen_;
  int watched_pid_ = 0;
  shm::Fd death_fd_;
  EventPtr death_event_;
};

Leader::Leader(shm::Table& table, LeaderOptions options, std::shared_ptr<Logger> logger)
    : loop_(std::make_unique<Loop>(table, std::move(options), std::move(logger))) {}

Leader::~Leader() { stop(); }
Status Leader::start() { return loop_->start(); }
void Leader::stop() {
  if (loop_) loop_->stop();
}

void Leader::abandon(std::unique_ptr<Leader> inherited) noexcept {
  if (!inherited) return;
  inherited->loop_->abandon();
  (void)inherited.release();
}

}  // namespace larder::sync
