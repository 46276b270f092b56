#include "src/sync/subscription.h"

#include <algorithm>
#include <random>
#include <utility>

#include "shm/clock.h"
#include "src/sync/link.h"
#include "src/sync/scripts.h"

namespace larder::sync {
namespace {

using std::chrono::milliseconds;

timeval to_timeval(milliseconds duration) {
  const auto ms = std::max<std::int64_t>(0, duration.count());
  return {static_cast<time_t>(ms / 1000), static_cast<suseconds_t>(ms % 1000 * 1000)};
}

}  // namespace

class Subscription::Impl {
 public:
  using Each = Subscription::Each;

  Impl(event_base* base, SubscriptionOptions options, SubscriptionListener& listener)
      : options_(std::move(options)),
        log_key_(log_key(options_.channel)),
        listener_(listener),
        subscriber_(base, "subscription", options_.timeout,
                    {[this] { subscriber_ready(); }, [this](const Status& why) { lose(why); },
                     [this](std::string_view payload) { heard(payload); }}),
        commander_(base, "command connection", options_.timeout,
                   {[this] { commander_ready(); }, [this](const Status& why) { lose(why); }, {}}),
        retry_(evtimer_new(base, &Impl::handle_retry, this)),
        quiet_(evtimer_new(base, &Impl::handle_quiet, this)),
        random_(std::random_device{}()) {
    event_active(retry_.get(), EV_TIMEOUT, 0);
  }

  bool subscribed() const noexcept { return state_ == State::kSubscribed; }

  bool read_log(ChangeId from, std::function<void(const LogPage&)> done) {
    if (!subscribed()) return false;
    const auto page = std::make_shared<LogPage>();
    page->asked_boot_ms = shm::now_ms();
    const std::string first = to_string(from), most = std::to_string(kPageRows);
    const auto commands = page_commands(log_key_, first, most);
    return ask_each(commands, [=, this, last = commands.size() - 1, done = std::move(done)](
                                  std::size_t number, const redisReply& reply) {
      if (Status s = take_page_reply(number, reply, *page); !s.ok()) return lose(s);
      if (number == last) after_messages([done, page] { done(*page); });
    });
  }

  bool probe(std::function<void(const ProbeAnswer&)> done) {
    ProbeAnswer asked;
    asked.asked_boot_ms = shm::now_ms();
    asked.asked = shm::coarse_now();
    const auto commands = probe_commands(log_key_);
    const auto answer = std::make_shared<ProbeAnswer>(asked);
    return ask_each(commands, [=, this, last = commands.size() - 1, done = std::move(done)](
                                  std::size_t number, const redisReply& reply) {
      if (Status s = take_probe_reply(number, reply, *answer); !s.ok()) return lose(s);
      if (number == last) done(*answer);
    });
  }

  void restart(const Status& why) { lose(why); }

  bool ask_each(const std::vector<std::vector<std::string_view>>& commands, const Each& take) {
    if (!subscribed()) return false;
    for (std::size_t i = 0; i < commands.size(); ++i) {
      commander_.ask({commands[i].begin(), commands[i].end()},
                     [take, i](const redisReply& reply) { take(i, reply); });
    }
    return true;
  }

  void abandon() noexcept {
    subscriber_.abandon();
    commander_.abandon();
  }

 private:
  enum class State { kWaiting, kConnecting, kSubscribed };

  // ---- connecting ----

  void connect() {
    state_ = State::kConnecting;
    LinkTarget target;
    target.username = options_.username;
    target.password = options_.password;
    target.database = options_.database;
    if (options_.endpoint.is_unix()) {
      target.unix_socket = options_.endpoint.unix_socket;
    } else {
      Result<std::vector<std::string>> addresses =
          resolve(options_.endpoint, Link::Clock::now() + options_.timeout);
      if (!addresses) return lose(addresses.status());
      // A name may have addresses where nobody listens: each failure tries the next.
      target.ip = (*addresses)[failures_ % addresses->size()];
      target.port = options_.endpoint.port;
    }
    commander_.open(target);
    subscriber_.open(target);
  }

  void commander_ready() {
    commander_is_ready_ = true;
    if (confirmed_) begin();
  }

  void subscriber_ready() {
    subscriber_.subscribe(options_.channel, [this](const redisReply&) {
      confirmed_ = true;
      if (commander_is_ready_) begin();
    });
  }

  void begin() {
    state_ = State::kSubscribed;
    subscribed_at_ = Link::Clock::now();
    arm_quiet();
    listener_.on_subscribed();
  }

  // ---- losing ----

  void lose(const Status& why) {
    if (state_ == State::kWaiting) return;
    // One that breaks at once, again and again, is to be retried as slowly as one that fails.
    if (subscribed() && Link::Clock::now() - subscribed_at_ >= options_.backoff_last) {
      failures_ = 0;
    }
    state_ = State::kWaiting;
    commander_is_ready_ = false;
    confirmed_ = false;
    subscriber_.close();
    commander_.close();
    event_del(quiet_.get());
    plan_retry();
    listener_.on_lost(why);
  }

  void plan_retry() {
    const auto doublings = std::min<std::uint64_t>(failures_++, 20);
    const milliseconds whole =
        std::min(options_.backoff_last, options_.backoff_first * (1 << doublings));
    std::uniform_int_distribution<std::int64_t> jitter(whole.count() / 2, whole.count());
    const timeval wait = to_timeval(milliseconds(jitter(random_)));
    event_add(retry_.get(), &wait);
  }

  static void handle_retry(evutil_socket_t, short, void* self) noexcept {
    static_cast<Impl*>(self)->guarded(&Impl::connect);
  }

  // Called by libevent. An exception, for want of memory or of a logger, must not end the program.
  void guarded(void (Impl::*work)()) noexcept {
    catch_all([&] { (this->*work)(); },
              [this](const char* what) {
                lose({Code::kInternal, what});
              });
  }

  // ---- listening ----

  // Also before the command connection stands: not all that is published is in the log.
  void heard(std::string_view payload) { listener_.on_message(payload); }

  // Redis reads this after it answered whatever was asked before, so its confirmation comes behind
  // every message that it had published by then.
  void after_messages(std::function<void()> then) {
    subscriber_.subscribe(options_.channel,
                          [then = std::move(then)](const redisReply&) { then(); });
  }

  void ask_if_quiet() {
    const auto quiet_since = Link::Clock::now() - options_.quiet;
    if (subscriber_.last_heard() <= quiet_since) after_messages([] {});
    if (commander_.last_heard() <= quiet_since) commander_.ask({"PING"}, {});
    arm_quiet();
  }

  void arm_quiet() {
    const auto now = Link::Clock::now();
    const auto oldest = std::min(subscriber_.last_heard(), commander_.last_heard());
    auto wait = std::chrono::ceil<milliseconds>(oldest + options_.quiet - now);
    if (wait <= milliseconds(0)) wait = options_.quiet;  // asked just now
    const timeval time = to_timeval(wait);
    event_add(quiet_.get(), &time);
  }

  static void handle_quiet(evutil_socket_t, short, void* self) noexcept {
    static_cast<Impl*>(self)->guarded(&Impl::ask_if_quiet);
  }

  const SubscriptionOptions options_;
  const std::string log_key_;
  SubscriptionListener& listener_;
  State state_ = State::kConnecting;
  bool confirmed_ = false;
  bool commander_is_ready_ = false;
  std::uint64_t failures_ = 0;  // since the last subscription that lasted
  Link::Clock::time_point subscribed_at_{};

  Link subscriber_;
  Link commander_;
  EventPtr retry_;
  EventPtr quiet_;
  std::minstd_rand random_;
};

Subscription::Subscription(event_base* base, SubscriptionOptions options,
                           SubscriptionListener& listener)
    : impl_(std::make_unique<Impl>(base, std::move(options), listener)) {}

Subscription::~Subscription() = default;

bool Subscription::subscribed() const noexcept { return impl_ != nullptr && impl_->subscribed(); }

bool Subscription::read_log(ChangeId from, std::function<void(const LogPage&)> done) {
  return impl_ != nullptr && impl_->read_log(from, std::move(done));
}

bool Subscription::probe(std::function<void(const ProbeAnswer&)> done) {
  return impl_ != nullptr && impl_->probe(std::move(done));
}

void Subscription::restart(const Status& why) {
  if (impl_ != nullptr) impl_->restart(why);
}

bool Subscription::ask_each(const std::vector<std::vector<std::string_view>>& commands,
                            const Each& take) {
  return impl_ != nullptr && impl_->ask_each(commands, take);
}

void Subscription::abandon() noexcept {
  if (impl_ == nullptr) return;
  impl_->abandon();
  (void)impl_.release();
}

}  // namespace larder::sync
