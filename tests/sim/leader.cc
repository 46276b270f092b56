#include <algorithm>
#include <utility>

#include "shm/clock.h"
#include "tests/sim/host.h"

namespace larder::sim {
namespace {

using sync::Next;

constexpr Time kHeartbeat = 200 * kMs;
constexpr Time kTimeout = 1000 * kMs;
constexpr Time kQuiet = 2000 * kMs;
constexpr Time kBackoffFirst = 50 * kMs;
constexpr Time kBackoffLast = 1000 * kMs;

class SilentLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};
SilentLogger silent;

sync::FollowerOptions follower_options(const WorldOptions& options) {
  sync::FollowerOptions follower;
  follower.key_prefix = kPrefix;
  follower.held_max_events = options.held_max_events;
  follower.pages_max = options.pages_max;
  return follower;
}

}  // namespace

class Leader::Effects final : public sync::Host {
 public:
  Effects(Leader& leader, sim::Host& host, std::uint64_t term)
      : leader_(leader),
        host_(host),
        table_(host.table, term, std::chrono::milliseconds(kLease / kMs), silent,
               [&leader](std::string_view key) { leader.refetch(key); }) {}

  sync::TableHost& table() { return table_; }

  bool leading() override {
    leader_.moment();
    return table_.leading();
  }
  bool set_head(ChangeId id) override {
    leader_.moment();
    return table_.set_head(id);
  }
  bool begin_at(ChangeId id) override {
    leader_.moment();
    return table_.begin_at(id);
  }
  sync::ApplyOutcome apply(const sync::Event& event) override {
    leader_.moment();
    host_.world.tell([&] {
      return leader_.name() + " applies " + std::string(action_name(event.action)) + " of " +
             event.key + " " + event.value + " " + sync::to_string(event.id);
    });
    return table_.apply(event);
  }
  void set_cursor(ChangeId id) override {
    leader_.moment();
    // A former leader that wakes up may follow another server than its successor: two at once,
    // until that one repeats its cursor.
    const bool is_former = !table_.leading() && leader_.server() != host_.cursor_of;
    table_.set_cursor(id);
    host_.cursor_of = is_former ? nullptr : leader_.server();
  }
  bool knows(ChangeId id) override { return table_.knows(id); }
  std::uint64_t ahead() override { return table_.ahead(); }
  bool heard_without_id() override { return table_.heard_without_id(); }
  void hear_without_id() override {
    leader_.moment();
    table_.hear_without_id();
    host_.world.checker.heard_plain(host_.index, host_.epoch());
  }
  void raise_epoch(sync::RaiseReason reason) override {
    leader_.moment();
    ++host_.world.coverage.raises[static_cast<std::size_t>(reason)];
    table_.raise_epoch(reason);
  }
  void raise_floor(std::uint64_t seq) override {
    leader_.moment();
    table_.raise_floor(seq);
  }
  void clear_all() override {
    leader_.moment();
    table_.clear_all();
  }
  bool holds(std::string_view key) override { return table_.holds(key); }
  void refetch(std::string_view key) override { table_.refetch(key); }
  void extend_lease(shm::CoarseTime asked) override {
    leader_.moment();
    table_.extend_lease(asked);
    host_.lease_of = leader_.server();
    host_.lease_asked = leader_.probe_of(asked);
  }
  void count(shm::Counter counter) override { table_.count(counter); }
  void count(shm::SyncCounter counter) override { table_.count(counter); }
  void log(LogLevel, std::string_view) override {}

 private:
  Leader& leader_;
  sim::Host& host_;
  sync::TableHost table_;
};

Leader::Leader(Host& host, Worker& process, std::uint64_t term)
    : host_(host),
      process_(process),
      term_(term),
      effects_(std::make_unique<Effects>(*this, host, term)),
      follower_(*effects_, follower_options(host.world.options), effects_->table().cursor()) {}

Leader::~Leader() = default;

void Leader::start() {
  connect();
  turn();
}

void Leader::die() {
  dead_ = true;
  ++subscription_;
  if (subscriber_ != nullptr) subscriber_->close();
  if (commander_ != nullptr) commander_->close();
}

void Leader::resume() {
  if (stops != 0 || dead_) return;
  const std::uint64_t subscription = subscription_;
  if (subscriber_ != nullptr && state_ != State::kWaiting) subscriber_->resume();
  if (subscription == subscription_ && commander_ != nullptr) commander_->resume();
}

// The process may be stopped, replaced or killed here, in the middle of what it does.
void Leader::moment() {
  const bool is_scripted = static_cast<bool>(host_.world.interruption);
  if (host_.world.interrupts()) {
    ++stops;
    const bool lives_on = host_.stand_still(process_);
    --stops;
    host_.world.schedule.in(0, [this] { resume(); });
    if (!lives_on || (!is_scripted && host_.world.random->once_in(4))) throw Killed();
  }
  if (dead_) throw Killed();
}

// ---- as src/sync/leader.cc ----------------------------------------------------------------------

void Leader::turn() {
  if (dead_) return;
  host_.world.schedule.in(kHeartbeat, [this] { turn(); });
  if (stops != 0) return;
  const Reading reading(host_.clock);
  if (!host_.table.term_is_current(term_)) return die();
  if (state_ == State::kWaiting) return;
  if (has_waited_too_long()) return lose();
  if (state_ == State::kSubscribed) ask_if_quiet();
  if (!follower_.is_following()) return;
  effects_->table().repeat_cursor(follower_.cursor());
  host_.cursor_of = server();
  probe();
}

std::string Leader::name() const {
  return process_.name() + ", leading in term " + std::to_string(term_);
}

FollowerState Leader::follower_state() const {
  if (resigned_) return FollowerState::kResigned;
  if (follower_.is_following()) return FollowerState::kFollowing;
  return follower_lost_ ? FollowerState::kLost : FollowerState::kReading;
}

template <class Input>
void Leader::tell(FollowerInput what, Input input) {
  if (dead_) return;
  const Reading reading(host_.clock);
  Transition transition{follower_state(), what, Next::kNothing, {}};
  try {
    transition.next = input();
  } catch (const Killed&) {
    if (!dead_) host_.crash(process_);
    return;
  }
  if (what == FollowerInput::kSubscribed) follower_lost_ = false;
  if (what == FollowerInput::kLost || transition.next == Next::kResubscribe) follower_lost_ = true;
  if (transition.next == Next::kResign) resigned_ = true;
  transition.after = follower_state();
  ++host_.world.coverage.transitions[index_of(transition)];
  host_.world.tell([&] {
    return name() + ": " + transition_name(index_of(transition)) + "; cursor " +
           sync::to_string(follower_.cursor()) + ", epoch " + std::to_string(host_.epoch());
  });
  act(transition.next);
}

void Leader::act(Next next) {
  switch (next) {
    case Next::kNothing:
      return;
    case Next::kResign:
      host_.world.schedule.in(0, [this] { die(); });
      return;
    case Next::kProbe:
      return probe();
    case Next::kResubscribe:
      return lose();
    case Next::kReadLog:
      return read_log();
  }
}

void Leader::probe() {
  if (state_ != State::kSubscribed) return;
  const Cures& cures = host_.world.options.cures;
  const std::uint64_t ahead = follower_.ahead();
  const std::uint64_t asked_boot_ms = shm::now_ms();
  const shm::CoarseTime asked = shm::coarse_now();
  probes_.emplace_back(asked.ms, true_time);
  if (probes_.size() > 100) probes_.pop_front();
  ask([](const Server& server) { return server.probe(); },
      [this, &cures, ahead, asked_boot_ms, asked](sync::ProbeAnswer answer) {
        answer.asked_boot_ms = asked_boot_ms;
        answer.asked = cures.lease_from_asking ? asked : shm::coarse_now();
        answer.ahead = cures.ahead_from_asking ? ahead : follower_.ahead();
        if (!cures.role_asked) answer.is_primary = true;
        note_redis_clock(answer.redis_unix_ms, asked_boot_ms);
        tell(FollowerInput::kProbe, [&] { return follower_.probe(answer); });
      });
}

Server* Leader::server() const {
  if (subscriber_ == nullptr || commander_ == nullptr) return nullptr;
  return &subscriber_->server() == &commander_->server() ? &commander_->server() : nullptr;
}

// The earliest, if several read the same.
Time Leader::probe_of(shm::CoarseTime noted) const {
  const auto found = std::find_if(probes_.begin(), probes_.end(),
                                  [&](const auto& probe) { return probe.first == noted.ms; });
  return found == probes_.end() ? 0 : found->second;
}

void Leader::read_log() {
  if (state_ != State::kSubscribed) return;
  const ChangeId from = follower_.cursor();
  const std::uint64_t asked_boot_ms = shm::now_ms();
  // Two questions, with whatever happens in between; in fact they travel together.
  ask([](Server& server) { return server.log_end(); },
      [this, from, asked_boot_ms](ChangeId end) {
        ask([from](Server& server) { return server.log_page(from); },
            [this, end, asked_boot_ms](sync::LogPage page) {
              page.end = end;
              after_messages([this, asked_boot_ms, page] {
                note_redis_clock(page.redis_unix_ms, asked_boot_ms);
                tell(FollowerInput::kLogPage, [&] { return follower_.log_page(page); });
              });
            });
      });
}

void Leader::note_redis_clock(std::int64_t redis_unix_ms, std::uint64_t asked_boot_ms) {
  host_.sync_words().redis_clock_ms.store(redis_unix_ms - static_cast<std::int64_t>(asked_boot_ms));
}

void Leader::refetch(std::string_view name) {
  if (state_ != State::kSubscribed) return;
  unsigned key = 0;
  while (key_name(key) != name) ++key;
  const sync::Fill fill(host_.table, name);
  ask([key](Server& server) { return server.fetch(key); },
      [this, key, fill](const sync::Fetched& answer) {
        host_.world.tell([&] {
          return this->name() +
                 " is told: " + (answer.value ? *answer.value : key_name(key) + " is absent");
        });
        host_.world.checker.keeps_answer(host_.index, key, commander_->server(), host_.epoch(),
                                         answer.last.none());
        fill.finish(host_.table, key_name(key), answer);
      });
}

// ---- as src/sync/subscription.cc ----------------------------------------------------------------

void Leader::connect() {
  if (dead_) return;
  state_ = State::kConnecting;
  subscriber_ = host_.connect(stops);
  commander_ = host_.connect(stops);
  if (subscriber_ == nullptr || commander_ == nullptr) return lose();
  subscriber_->cut_off = commander_->cut_off = [this] { lose(); };
  confirmed_ = !host_.world.options.cures.log_after_confirmation;
  commander_is_ready_ = false;
  heard_ = answered_ = true_time;
  subscriber_->heard = [this](const Payload& payload) {
    heard_ = true_time;
    if (state_ != State::kSubscribed) return;
    tell(FollowerInput::kMessage, [&] { return follower_.message(*payload); });
  };
  after_messages([this] {
    confirmed_ = true;
    if (commander_is_ready_) begin();
  });
  ask([](const Server&) { return true; },
      [this](bool) {
        commander_is_ready_ = true;
        if (confirmed_) begin();
      });
}

void Leader::begin() {
  if (state_ == State::kSubscribed) return;
  state_ = State::kSubscribed;
  failures_ = 0;
  tell(FollowerInput::kSubscribed, [&] { return follower_.subscribed(); });
}

void Leader::lose() {
  if (state_ == State::kWaiting || dead_) return;
  state_ = State::kWaiting;
  ++subscription_;
  asked_.clear();
  resubscribed_.clear();
  if (subscriber_ != nullptr) subscriber_->close();
  if (commander_ != nullptr) commander_->close();
  const Time whole = std::min(kBackoffLast, kBackoffFirst << std::min(failures_++, 10u));
  retry_in(host_.world.random->between(whole / 2, whole));
  tell(FollowerInput::kLost, [&] { return follower_.lost(); });
}

void Leader::retry_in(Time wait) {
  host_.world.schedule.in(wait, [this] {
    if (dead_ || state_ != State::kWaiting) return;
    if (stops != 0) return retry_in(kHeartbeat);
    const Reading reading(host_.clock);
    connect();
  });
}

template <class Done>
void Leader::after_messages(Done done) {
  resubscribed_.push_back(true_time);
  subscriber_->subscribe([this, subscription = subscription_, done = std::move(done)] {
    if (subscription != subscription_) return;
    resubscribed_.pop_front();
    heard_ = true_time;
    const Reading reading(host_.clock);
    done();
  });
}

template <class Ask, class Done>
void Leader::ask(Ask ask, Done done) {
  asked_.push_back(true_time);
  commander_->ask(std::move(ask),
                  [this, subscription = subscription_, done = std::move(done)](const auto& answer) {
                    if (subscription != subscription_) return;
                    asked_.pop_front();
                    answered_ = true_time;
                    const Reading reading(host_.clock);
                    done(answer);
                  });
}

bool Leader::has_waited_too_long() {
  const auto late = [](const std::deque<Time>& questions) {
    return !questions.empty() && questions.front() + kTimeout <= true_time;
  };
  return late(asked_) || late(resubscribed_);
}

void Leader::ask_if_quiet() {
  if (heard_ + kQuiet <= true_time && resubscribed_.empty()) after_messages([] {});
  if (answered_ + kQuiet <= true_time && asked_.empty()) {
    ask([](const Server&) { return true; }, [](bool) {});
  }
}

}  // namespace larder::sim
