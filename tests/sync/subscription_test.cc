// Following a channel of a real Redis, and of servers that behave badly.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "src/sync/subscription.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "src/sync/event.h"
#include "src/sync/follower.h"
#include "src/sync/scripts.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

namespace larder::sync {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using test::RedisConnection;
using test::RedisServer;
using test::Reply;
using Clock = std::chrono::steady_clock;

// For what must happen; how long it may take on a busy machine is not what is tested.
constexpr milliseconds kPatience = 20s;

constexpr const char* kChannel = "cache:invalidate";

struct BaseDeleter {
  void operator()(event_base* base) const noexcept { event_base_free(base); }
};

class Loop {
 public:
  Loop() : base_(event_base_new()), alarm_(evtimer_new(base_.get(), &Loop::nothing, nullptr)) {
    std::signal(SIGPIPE, SIG_IGN);
  }
  ~Loop() { event_free(alarm_); }

  event_base* base() { return base_.get(); }

  // Turns the loop until `condition()`; false when that takes too long.
  bool until(const std::function<bool()>& condition, milliseconds patience = kPatience) {
    const auto end = Clock::now() + patience;
    while (!condition()) {
      const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
      if (left <= 0ms) return false;
      turn(std::min<milliseconds>(left, 100ms));
    }
    return true;
  }

  void for_a_while(milliseconds time) {
    until([] { return false; }, time);
  }

 private:
  void turn(milliseconds at_most) {
    const timeval wait = {at_most.count() / 1000, at_most.count() % 1000 * 1000};
    event_add(alarm_, &wait);
    event_base_loop(base_.get(), EVLOOP_ONCE);
    event_del(alarm_);
  }
  static void nothing(evutil_socket_t, short, void*) {}

  std::unique_ptr<event_base, BaseDeleter> base_;
  event* alarm_;
};

// Remembers what it was told, in order.
class Ear : public SubscriptionListener {
 public:
  int subscriptions = 0;
  std::vector<std::string> messages;
  std::vector<Status> losses;
  std::vector<Clock::time_point> loss_times;
  std::vector<std::string> story;  // "subscribed", "message", "lost"
  std::function<void()> when_subscribed;
  std::function<void()> when_message;

  void on_subscribed() override {
    ++subscriptions;
    story.emplace_back("subscribed");
    if (when_subscribed) when_subscribed();
  }
  void on_message(std::string_view payload) override {
    messages.emplace_back(payload);
    story.emplace_back("message");
    if (when_message) when_message();
  }
  void on_lost(const Status& reason) override {
    losses.push_back(reason);
    loss_times.push_back(Clock::now());
    story.emplace_back("lost");
  }
};

SubscriptionOptions options_for(const std::string& address) {
  SubscriptionOptions options;
  options.endpoint = parse_endpoint(address).value();
  options.channel = kChannel;
  options.timeout = 5s;  // tests about timeouts set their own
  return options;
}

SubscriptionOptions options_for(const RedisServer& server) {
  return options_for(server.unix_socket());
}

std::string numbered(std::string word, int number) { return word.append(std::to_string(number)); }

void publish(RedisConnection& redis, const std::string& payload) {
  REQUIRE_FALSE(redis.command({"PUBLISH", kChannel, payload}).is_error());
}

// ---- hearing ----------------------------------------------------------------------------------

TEST_CASE("messages are heard after the confirmation, whole and in order") {
  RedisServer server;
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  CHECK_FALSE(subscription.subscribed());
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  CHECK(subscription.subscribed());

  RedisConnection redis = server.connect();
  for (int i = 0; i < 1000; ++i) publish(redis, numbered("message ", i));
  REQUIRE(loop.until([&] { return ear.messages.size() == 1000; }));
  for (int i = 0; i < 1000; ++i) CHECK(ear.messages[i] == numbered("message ", i));
  CHECK(ear.story.front() == "subscribed");
  CHECK(ear.losses.empty());
}

TEST_CASE("a channel that is busy from the start is never heard before its confirmation") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] {
    publish(redis, "busy");
    return ear.messages.size() >= 3;
  }));
  CHECK(ear.story.front() == "subscribed");
  CHECK(ear.subscriptions == 1);
}

TEST_CASE("a message is exact bytes, also eight million of them") {
  RedisServer server;
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  std::string large;
  while (large.size() < 8u << 20) large += every_byte;
  RedisConnection redis = server.connect();
  for (const std::string& payload : {every_byte, std::string(), large, std::string("after")}) {
    publish(redis, payload);
  }
  REQUIRE(loop.until([&] { return ear.messages.size() == 4; }));
  CHECK(ear.messages[0] == every_byte);
  CHECK(ear.messages[1].empty());
  CHECK((ear.messages[2] == large));
  CHECK(ear.messages[3] == "after");
}

TEST_CASE("a host name is resolved, and a password and a database are used") {
  RedisServer server({.tcp = true, .lines = {"requirepass secret"}, .password = "secret"});
  RedisConnection redis = server.connect();
  redis.command({"SELECT", "3"});
  redis.command({"XADD", log_key(kChannel), "12-34", "a", "s"});

  Loop loop;
  Ear ear;
  std::string address = server.tcp_address();
  address.replace(0, address.find(':'), "localhost");
  SubscriptionOptions options = options_for(address);
  options.password = "secret";
  options.database = 3;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  std::optional<LogPage> end;
  REQUIRE(subscription.read_log({}, [&](const LogPage& read) { end = read; }));
  REQUIRE(loop.until([&] { return end.has_value(); }));
  CHECK(end->end == ChangeId{12, 34});
}

// ---- asking -----------------------------------------------------------------------------------

TEST_CASE("the log's end is the id generated last, even of a log whose rows are gone") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  const auto read = [&] {
    std::optional<LogPage> end;
    REQUIRE(subscription.read_log({}, [&](const LogPage& answer) { end = answer; }));
    REQUIRE(loop.until([&] { return end.has_value(); }));
    return *end;
  };

  const LogPage none = read();
  CHECK(none.end.none());
  CHECK(none.rows.empty());
  CHECK(none.redis_unix_ms > 1'500'000'000'000);
  CHECK(none.asked_boot_ms > 0);

  redis.command({"XADD", log_key(kChannel), "7-18446744073709551615", "a", "s"});
  CHECK(read().end == ChangeId{7, ~0ull});
  redis.command({"XTRIM", log_key(kChannel), "MAXLEN", "0"});
  const LogPage trimmed = read();
  CHECK(trimmed.end == ChangeId{7, ~0ull});
  CHECK(trimmed.rows.empty());
  CHECK(trimmed.redis_unix_ms >= none.redis_unix_ms);
  CHECK(trimmed.asked_boot_ms >= none.asked_boot_ms);
}

// The end comes on another connection, in a moment; the messages take their time.
TEST_CASE("the log comes after every message that was published before it was read") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  const std::string large(1u << 20, 'x');
  for (int i = 1; i <= 12; ++i) {
    redis.command({"XADD", log_key(kChannel), std::to_string(i) + "-1", "a", "s"});
    publish(redis, large);
  }
  std::optional<std::size_t> heard;
  REQUIRE(subscription.read_log({}, [&](const LogPage& end) {
    CHECK(end.end == ChangeId{12, 1});
    heard = ear.messages.size();
  }));
  REQUIRE(loop.until([&] { return heard.has_value(); }));
  CHECK(*heard == 12);
}

TEST_CASE("the log may be asked for from inside on_subscribed and on_message") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  int ends = 0;
  std::optional<Subscription> subscription;
  const auto ask = [&] { REQUIRE(subscription->read_log({}, [&](const LogPage&) { ++ends; })); };
  ear.when_subscribed = ask;
  ear.when_message = ask;
  subscription.emplace(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ends == 1; }));
  publish(redis, "x");
  REQUIRE(loop.until([&] { return ends == 2; }));
}

TEST_CASE("the log is read from an id on, with what each change was to which keys") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  const std::string log = log_key(kChannel);
  const std::string binary("a\0b", 3);
  redis.command({"XADD", log, "7-1", "a", "s", "p", "0-0", "k", "before"});
  redis.command({"XADD", log, "8-2", "a", "d", "p", "7-1", "k", binary});
  redis.command({"XADD", log, "9-3", "a", "m", "p", "8-2", "k", "x", "k", "y"});
  redis.command({"XADD", log, "10-4", "a", "c", "p", "9-3", "k", ""});
  redis.command({"XADD", log, "11-5", "a", "i", "p", "10-4", "k", "z"});
  redis.command({"XADD", log, "12-6", "of", "a stranger"});
  std::optional<LogPage> page;
  REQUIRE(subscription.read_log({8, 2}, [&](const LogPage& answer) { page = answer; }));
  REQUIRE(loop.until([&] { return page.has_value(); }));
  CHECK(page->end == ChangeId{12, 6});
  REQUIRE(page->rows.size() == 5);
  using Keys = std::vector<std::string>;
  CHECK(page->rows[0].id == ChangeId{8, 2});
  CHECK(page->rows[0].prev == ChangeId{7, 1});
  CHECK(page->rows[0].action == Action::kDelete);
  CHECK(page->rows[0].keys == Keys{binary});
  CHECK(page->rows[1].action == Action::kDeleteMany);
  CHECK(page->rows[1].keys == Keys{"x", "y"});
  CHECK(page->rows[2].action == Action::kClear);
  CHECK(page->rows[2].keys == Keys{""});
  CHECK(page->rows[3].action == Action::kInvalidate);
  CHECK(page->rows[4].prev.none());

  for (std::size_t i = 0; i < 2 * kPageRows; ++i) {
    redis.command({"XADD", log, std::to_string(13 + i) + "-1", "a", "s"});
  }
  page.reset();
  REQUIRE(subscription.read_log({8, 2}, [&](const LogPage& answer) { page = answer; }));
  REQUIRE(loop.until([&] { return page.has_value(); }));
  CHECK(page->rows.size() == kPageRows);
  CHECK(page->end == ChangeId{12 + 2 * kPageRows, 1});
}

TEST_CASE("a probe tells the log's end, Redis' clock and whether it is a primary") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  const auto probe = [&] {
    std::optional<ProbeAnswer> answer;
    REQUIRE(subscription.probe([&](const ProbeAnswer& got) { answer = got; }));
    REQUIRE(loop.until([&] { return answer.has_value(); }));
    return *answer;
  };
  CHECK_FALSE(subscription.probe([](const ProbeAnswer&) { FAIL("not subscribed"); }));
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  const shm::CoarseTime before = shm::coarse_now();
  const ProbeAnswer none = probe();
  CHECK(none.is_primary);
  CHECK(none.end.none());
  CHECK(none.redis_unix_ms > 1'500'000'000'000);
  CHECK(none.asked_boot_ms > 0);
  CHECK(none.asked.ms >= before.ms);
  CHECK(none.asked.unix_ms >= before.unix_ms);

  redis.command({"XADD", log_key(kChannel), "7-18446744073709551615", "a", "s"});
  CHECK(probe().end == ChangeId{7, ~0ull});
  redis.command({"REPLICAOF", "127.0.0.1", "1"});
  CHECK_FALSE(probe().is_primary);
  CHECK(ear.losses.empty());
}

TEST_CASE("who may not ask for the role is told so") {
  RedisServer server;
  RedisConnection redis = server.connect();
  redis.command({"ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all", "-role"});
  Loop loop;
  Ear ear;
  SubscriptionOptions options = options_for(server);
  options.username = "ann";
  options.password = "pw";
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  REQUIRE(subscription.probe([](const ProbeAnswer&) { FAIL("there is no answer"); }));
  REQUIRE(loop.until([&] { return ear.losses.size() == 1; }));
  CHECK(ear.losses[0].code() == Code::kPermissionDenied);
  CHECK(ear.losses[0].message().find("role") != std::string::npos);
}

TEST_CASE("a subscription that is given up is a loss with that reason, and then another one") {
  RedisServer server;
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  subscription.restart({Code::kUnavailable, "enough of it"});
  REQUIRE(ear.losses.size() == 1);
  CHECK(ear.losses[0].message() == "enough of it");
  REQUIRE(loop.until([&] { return ear.subscriptions == 2; }));
}

TEST_CASE("the reply to each command is given on, error replies too") {
  RedisServer server;
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  CHECK_FALSE(subscription.ask_each(
      {{"PING"}}, [](std::size_t, const redisReply&) { FAIL("not subscribed"); }));
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  const std::string value("binary\0value", 12);
  std::string got;
  int error_type = 0;
  REQUIRE(subscription.ask_each({{"SET", "k", value}, {"LPUSH", "k", "x"}, {"GET", "k"}},
                                [&](std::size_t number, const redisReply& reply) {
                                  if (number == 1) error_type = reply.type;
                                  if (number == 2) got.assign(reply.str, reply.len);
                                }));
  REQUIRE(loop.until([&] { return !got.empty(); }));
  CHECK(got == value);
  CHECK(error_type == REDIS_REPLY_ERROR);
  CHECK(ear.losses.empty());
}

TEST_CASE("a log of another type is a lost subscription with the reason") {
  RedisServer server;
  RedisConnection redis = server.connect();
  redis.command({"SET", log_key(kChannel), "not a stream"});
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  REQUIRE(subscription.read_log({}, [](const LogPage&) { FAIL("there is no end to read"); }));
  REQUIRE(loop.until([&] { return ear.losses.size() == 1; }));
  CHECK(ear.losses[0].message().find("WRONGTYPE") != std::string::npos);
}

// ---- losing -----------------------------------------------------------------------------------

TEST_CASE("a killed connection, either of the two, is a loss and then a subscription again") {
  for (const std::string type : {"pubsub", "normal"}) {
    CAPTURE(type);
    RedisServer server;
    RedisConnection redis = server.connect();
    Loop loop;
    Ear ear;
    Subscription subscription(loop.base(), options_for(server), ear);
    REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
    REQUIRE(redis.command({"CLIENT", "KILL", "TYPE", type, "SKIPME", "yes"}).number == 1);
    REQUIRE(loop.until([&] { return ear.subscriptions == 2; }));
    CHECK(ear.story == std::vector<std::string>{"subscribed", "lost", "subscribed"});
    CHECK(ear.losses[0].code() == Code::kUnavailable);
    publish(redis, "after");
    REQUIRE(loop.until([&] { return ear.messages.size() == 1; }));
  }
}

TEST_CASE("a killed server is a loss, and when it is back it is followed again") {
  RedisServer server;
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  server.kill();
  REQUIRE(loop.until([&] { return ear.losses.size() >= 3; }));
  CHECK_FALSE(subscription.subscribed());
  CHECK_FALSE(subscription.read_log({}, [](const LogPage&) {}));
  server.start();
  REQUIRE(loop.until([&] { return ear.subscriptions == 2; }));
  RedisConnection redis = server.connect();
  publish(redis, "after");
  REQUIRE(loop.until([&] { return ear.messages.size() == 1; }));
}

TEST_CASE(
    "a stopped server is lost after the silence and the timeout, and followed when it wakes") {
  RedisServer server;
  Loop loop;
  Ear ear;
  SubscriptionOptions options = options_for(server);
  options.quiet = 300ms;
  options.timeout = 300ms;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  server.pause();
  const auto paused = Clock::now();
  REQUIRE(loop.until([&] { return !ear.losses.empty(); }));
  // 600 ms by rights; the rest is for a machine that does other things.
  CHECK(ear.loss_times[0] - paused < 3s);
  CHECK(ear.losses[0].message().find("did not answer within 300 ms") != std::string::npos);
  server.resume();
  REQUIRE(loop.until([&] { return ear.subscriptions == 2; }));
}

TEST_CASE("an unanswered request is a loss, and its callback is dropped") {
  RedisServer server;
  Loop loop;
  Ear ear;
  SubscriptionOptions options = options_for(server);
  options.quiet = 1h;
  options.timeout = 200ms;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  server.pause();
  bool answered = false;
  REQUIRE(subscription.read_log({}, [&](const LogPage&) { answered = true; }));
  REQUIRE(
      subscription.ask_each({{"PING"}}, [&](std::size_t, const redisReply&) { answered = true; }));
  REQUIRE(loop.until([&] { return !ear.losses.empty(); }));
  server.resume();
  REQUIRE(loop.until([&] { return ear.subscriptions == 2; }));
  CHECK_FALSE(answered);
}

TEST_CASE("a quiet server that answers stays subscribed") {
  RedisServer server;
  Loop loop;
  Ear ear;
  SubscriptionOptions options = options_for(server);
  options.quiet = 20ms;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  REQUIRE(loop.until([&] { return server.command_calls("subscribe") >= 6; }));
  CHECK(ear.story == std::vector<std::string>{"subscribed"});
  RedisConnection redis = server.connect();
  publish(redis, "once");
  REQUIRE(loop.until([&] { return !ear.messages.empty(); }));
  // Confirming it again did not subscribe it twice.
  REQUIRE(subscription.read_log({}, [&](const LogPage&) { ear.story.emplace_back("end"); }));
  REQUIRE(loop.until([&] { return ear.story.back() == "end"; }));
  CHECK(ear.messages.size() == 1);
}

// ---- being refused ----------------------------------------------------------------------------

TEST_CASE("a wrong password is a loss with the reason, retried slowly until it is right") {
  RedisServer server({.lines = {"requirepass secret"}, .password = "secret"});
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  SubscriptionOptions options = options_for(server);
  options.password = "wrong";
  options.backoff_first = 40ms;
  options.backoff_last = 160ms;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.losses.size() == 6; }));
  for (const Status& loss : ear.losses) {
    CHECK(loss.code() == Code::kPermissionDenied);
    CHECK(loss.message().find("redis.password") != std::string::npos);
  }
  // At least half of 40, 80, 160, 160 and 160 ms.
  CHECK(ear.loss_times.back() - ear.loss_times.front() >= 300ms);
  redis.command({"CONFIG", "SET", "requirepass", "wrong"});
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
}

TEST_CASE("a missing password is a loss with the reason") {
  RedisServer server({.lines = {"requirepass secret"}, .password = "secret"});
  Loop loop;
  Ear ear;
  Subscription subscription(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return !ear.losses.empty(); }));
  CHECK(ear.losses[0].code() == Code::kPermissionDenied);
  CHECK(ear.losses[0].message().find("NOAUTH") != std::string::npos);
}

TEST_CASE("an ACL user follows, and one who may not hear the channel is told so") {
  RedisServer server;
  RedisConnection redis = server.connect();
  redis.command({"ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"});
  redis.command({"ACL", "SETUSER", "bob", "on", ">pw", "~*", "resetchannels", "+@all"});
  Loop loop;
  Ear ann, bob;
  SubscriptionOptions options = options_for(server);
  options.password = "pw";
  options.username = "ann";
  Subscription hers(loop.base(), options, ann);
  options.username = "bob";
  Subscription his(loop.base(), options, bob);
  REQUIRE(loop.until([&] { return ann.subscriptions == 1 && bob.losses.size() >= 2; }));
  CHECK(bob.subscriptions == 0);
  CHECK(bob.losses[0].code() == Code::kPermissionDenied);
  CHECK(bob.losses[0].message().find("NOPERM") != std::string::npos);
}

TEST_CASE("an ACL without PING is no obstacle") {
  RedisServer server;
  RedisConnection redis = server.connect();
  redis.command({"ACL", "SETUSER", "eve", "on", ">pw", "~*", "&*", "+@all", "-ping"});
  Loop loop;
  Ear ear;
  SubscriptionOptions options = options_for(server);
  options.username = "eve";
  options.password = "pw";
  options.quiet = 20ms;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  REQUIRE(loop.until([&] { return server.command_calls("subscribe") >= 3; }));
  CHECK(ear.losses.empty());
}

TEST_CASE("nobody there and no such name are losses that say so") {
  const std::map<std::string, std::string> said = {
      {"/nonexistent/redis.sock", "No such file"},
      {"127.0.0.1:1", "refused"},
      {std::string(70, 'x'), "not resolved"},  // a label has at most 63
  };
  for (const auto& [address, what] : said) {
    CAPTURE(address);
    Loop loop;
    Ear ear;
    Subscription subscription(loop.base(), options_for(address), ear);
    REQUIRE(loop.until([&] { return ear.losses.size() >= 2; }));
    CHECK(ear.losses[0].code() == Code::kUnavailable);
    CHECK(ear.losses[0].message().find(what) != std::string::npos);
    CHECK(ear.subscriptions == 0);
  }
}

// ---- servers that are no Redis ----------------------------------------------------------------

// Accepts on a loopback port and does with each connection what it is told.
class FakeServer {
 public:
  std::function<void(bufferevent*)> when_connected = [](bufferevent*) {};
  std::function<void(bufferevent*)> when_input = [](bufferevent*) {};

  explicit FakeServer(event_base* base) : base_(base) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener_ = evconnlistener_new_bind(base, &FakeServer::accepted, this, LEV_OPT_CLOSE_ON_FREE,
                                        -1, reinterpret_cast<sockaddr*>(&address), sizeof address);
    REQUIRE(listener_ != nullptr);
    socklen_t size = sizeof address;
    getsockname(evconnlistener_get_fd(listener_), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~FakeServer() {
    for (bufferevent* peer : peers_) bufferevent_free(peer);
    evconnlistener_free(listener_);
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  void drop(bufferevent* peer) {
    std::erase(peers_, peer);
    bufferevent_free(peer);
  }

 private:
  static void accepted(evconnlistener*, evutil_socket_t fd, sockaddr*, int, void* self) {
    auto* server = static_cast<FakeServer*>(self);
    bufferevent* peer = bufferevent_socket_new(server->base_, fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(peer, &FakeServer::read, nullptr, &FakeServer::ended, self);
    bufferevent_enable(peer, EV_READ | EV_WRITE);
    server->peers_.push_back(peer);
    server->when_connected(peer);
  }
  static void read(bufferevent* peer, void* self) {
    static_cast<FakeServer*>(self)->when_input(peer);
  }
  static void ended(bufferevent* peer, short, void* self) {
    static_cast<FakeServer*>(self)->drop(peer);
  }

  event_base* base_;
  evconnlistener* listener_;
  int port_ = 0;
  std::vector<bufferevent*> peers_;
};

void say(bufferevent* peer, const std::string& text) {
  bufferevent_write(peer, text.data(), text.size());
}

// Answers PING and SUBSCRIBE and nothing else.
void answer_as_redis(bufferevent* peer) {
  evbuffer* input = bufferevent_get_input(peer);
  std::string text(evbuffer_get_length(input), '\0');
  evbuffer_remove(input, text.data(), text.size());
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text.compare(at, 4, "PING") == 0) say(peer, "+PONG\r\n");
    if (text.compare(at, 9, "SUBSCRIBE") == 0) {
      say(peer, "*3\r\n$9\r\nsubscribe\r\n$16\r\ncache:invalidate\r\n:1\r\n");
    }
  }
}

TEST_CASE("whoever drops, garbles or ignores the connection is retried and harms nothing") {
  using Behaviour = std::function<void(FakeServer&, bufferevent*)>;
  const std::map<std::string, Behaviour> behaviours = {
      {"drops at once", [](FakeServer& server, bufferevent* peer) { server.drop(peer); }},
      {"speaks HTTP",
       [](FakeServer&, bufferevent* peer) { say(peer, "HTTP/1.1 400 Bad\r\n\r\n"); }},
      {"greets like a mail server",
       [](FakeServer&, bufferevent* peer) { say(peer, "+OK ready\r\n"); }},
      {"sends a broken array", [](FakeServer&, bufferevent* peer) { say(peer, "*2\r\n$-5\r\n"); }},
      {"sends an error", [](FakeServer&, bufferevent* peer) { say(peer, "-ERR go away\r\n"); }},
      {"says nothing", [](FakeServer&, bufferevent*) {}},
  };
  for (const auto& [name, behave] : behaviours) {
    CAPTURE(name);
    Loop loop;
    FakeServer server(loop.base());
    server.when_connected = [&](bufferevent* peer) { behave(server, peer); };
    Ear ear;
    SubscriptionOptions options = options_for(server.address());
    options.timeout = 50ms;
    options.backoff_first = 5ms;
    options.backoff_last = 10ms;
    Subscription subscription(loop.base(), options, ear);
    CHECK(loop.until([&] { return ear.losses.size() >= 5; }));
    CHECK(ear.subscriptions == 0);
  }
}

TEST_CASE("who listens is subscribed when both connections stand, and hears messages before") {
  Loop loop;
  FakeServer server(loop.base());
  bufferevent* commander = nullptr;  // the first to connect; answered when the test says so
  bufferevent* subscriber = nullptr;
  server.when_connected = [&](bufferevent* peer) {
    if (commander == nullptr) commander = peer;
  };
  server.when_input = [&](bufferevent* peer) {
    if (peer == commander) return;
    const evbuffer_ptr found =
        evbuffer_search(bufferevent_get_input(peer), "SUBSCRIBE", 9, nullptr);
    answer_as_redis(peer);
    if (found.pos >= 0) subscriber = peer;
  };
  Ear ear;
  Subscription subscription(loop.base(), options_for(server.address()), ear);
  REQUIRE(loop.until([&] { return subscriber != nullptr; }));
  say(subscriber, "*3\r\n$7\r\nmessage\r\n$16\r\ncache:invalidate\r\n$5\r\nearly\r\n");
  loop.for_a_while(50ms);
  CHECK(ear.story == std::vector<std::string>{"message"});
  CHECK(ear.messages[0] == "early");

  answer_as_redis(commander);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
  say(subscriber, "*3\r\n$7\r\nmessage\r\n$16\r\ncache:invalidate\r\n$4\r\nlate\r\n");
  REQUIRE(loop.until([&] { return ear.messages.size() == 2; }));
  CHECK(ear.story == std::vector<std::string>{"message", "subscribed", "message"});
  CHECK(ear.messages[1] == "late");
}

TEST_CASE("a message that arrives slowly is no silence, however long it takes") {
  Loop loop;
  FakeServer server(loop.base());
  bufferevent* subscriber = nullptr;
  server.when_input = [&](bufferevent* peer) {
    const evbuffer* input = bufferevent_get_input(peer);
    std::string text(evbuffer_get_length(input), '\0');
    evbuffer_copyout(bufferevent_get_input(peer), text.data(), text.size());
    if (text.find("SUBSCRIBE") != std::string::npos && subscriber == nullptr) subscriber = peer;
    // Its second SUBSCRIBE waits behind the message.
    else if (peer == subscriber)
      return;
    answer_as_redis(peer);
  };
  Ear ear;
  SubscriptionOptions options = options_for(server.address());
  options.quiet = 100ms;
  options.timeout = 400ms;
  Subscription subscription(loop.base(), options, ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  say(subscriber, "*3\r\n$7\r\nmessage\r\n$16\r\ncache:invalidate\r\n$20\r\n");
  for (int i = 0; i < 20; ++i) {
    loop.for_a_while(40ms);
    REQUIRE(ear.losses.empty());
    say(subscriber, "x");
  }
  say(subscriber, "\r\n");
  REQUIRE(loop.until([&] { return ear.messages.size() == 1 || !ear.losses.empty(); }));
  CHECK(ear.losses.empty());
  CHECK(ear.messages == std::vector<std::string>{std::string(20, 'x')});

  // And then silence, for the confirmation is still owed.
  REQUIRE(loop.until([&] { return !ear.losses.empty(); }));
}

// ---- with the protocol ------------------------------------------------------------------------

// A follower behind a subscription, as the leader has it; its host only counts.
class Following : public SubscriptionListener, public Host {
 public:
  Following(event_base* base, const SubscriptionOptions& options)
      : follower_(*this, {}, {}), subscription_(base, options, *this) {}

  std::map<std::string, std::string> values;
  int raises = 0;
  int readings = 0;
  ChangeId cursor;

  bool is_following() const { return follower_.is_following(); }

  void on_subscribed() override { heed(follower_.subscribed()); }
  void on_message(std::string_view payload) override { heed(follower_.message(payload)); }
  void on_lost(const Status&) override { heed(follower_.lost()); }

  bool leading() override { return true; }
  bool set_head(ChangeId id) override {
    known_.insert(id.nonce);
    return true;
  }
  bool begin_at(ChangeId end) override { return set_head(end); }
  bool knows(ChangeId id) override { return known_.contains(id.nonce); }
  std::uint64_t ahead() override { return 0; }
  bool heard_without_id() override { return false; }
  void hear_without_id() override {}
  ApplyOutcome apply(const Event& event) override {
    values.erase(event.key);
    if (event.action == Action::kSet) values[event.key] = event.value;
    return ApplyOutcome::kApplied;
  }
  void set_cursor(ChangeId id) override { cursor = id; }
  void raise_epoch(RaiseReason) override {
    values.clear();
    ++raises;
  }
  void raise_floor(std::uint64_t) override {}
  void clear_all() override {}
  bool holds(std::string_view) override { return false; }
  void refetch(std::string_view) override {}
  void extend_lease(shm::CoarseTime) override {}
  void count(shm::Counter) override {}
  void count(shm::SyncCounter) override {}
  void log(LogLevel, std::string_view) override {}

 private:
  void heed(Next next) {
    CHECK(next != Next::kResign);
    if (next != Next::kReadLog) return;
    ++readings;
    CHECK(subscription_.read_log(follower_.cursor(),
                                 [this](const LogPage& page) { heed(follower_.log_page(page)); }));
  }

  std::set<std::uint64_t> known_;  // nonces
  Follower follower_;
  Subscription subscription_;
};

// One write as every host does it; returns its id.
ChangeId write(RedisConnection& redis, const std::string& key, const std::string& value) {
  static std::uint64_t nonce = 1;
  Event event;
  event.action = Action::kSet;
  event.key = key;
  event.value = value;
  event.sender = "writer";
  static const ChangeScripts scripts(kChannel, WireFormat::kJson, 100'000);
  const Reply reply =
      redis.command({"EVAL", scripts.set.text, "2", log_key(kChannel), key, std::to_string(nonce++),
                     event_head(event, WireFormat::kJson), value});
  return parse_change_id(reply.text.substr(0, reply.text.find(' '))).value();
}

// Schedule 9, on the wire: the reading and the messages overlap on two connections.
TEST_CASE(
    "on a busy channel one reading has the follower follow, and after a loss nothing is lost") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Following host(loop.base(), options_for(server));
  ChangeId last;
  int writes = 0;
  const auto write_some = [&] {
    for (int i = 0; i < 20; ++i) {
      last = write(redis, numbered("k", writes % 7), numbered("v", writes));
      ++writes;
    }
  };
  const auto following_while_busy = [&] {
    write_some();
    return host.is_following();
  };
  REQUIRE(loop.until(following_while_busy));
  REQUIRE(loop.until([&] { return host.cursor == last; }));
  CHECK(host.readings == 1);
  CHECK(host.raises == 1);

  REQUIRE(redis.command({"CLIENT", "KILL", "TYPE", "pubsub"}).number == 1);
  REQUIRE(loop.until([&] {
    write_some();
    return !host.is_following();
  }));
  REQUIRE(loop.until(following_while_busy));
  write_some();
  REQUIRE(loop.until([&] { return host.cursor == last; }));
  CHECK(host.readings >= 2);
  CHECK(host.raises == 1);
  CHECK(host.values.size() == 7);
  for (const auto& [key, value] : host.values) CHECK(redis.command({"GET", key}) == value);
}

// Schedule 7: the connection stays, nothing is published, and then the log counts from one.
TEST_CASE("a flushed database is noticed at the first write after it") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Following host(loop.base(), options_for(server));
  for (int i = 0; i < 5; ++i) write(redis, "k", "old");
  REQUIRE(loop.until([&] { return host.is_following(); }));
  redis.command({"FLUSHALL"});
  const ChangeId first = write(redis, "k", "new");
  CHECK(first.seq == 1);
  REQUIRE(loop.until([&] { return host.is_following() && host.cursor == first; }));
  CHECK(host.raises == 2);
}

// ---- ending -----------------------------------------------------------------------------------

TEST_CASE("destruction leaves nothing in the loop, whatever is under way") {
  RedisServer server;
  enum class Moment { kUnstarted, kConnecting, kSubscribed, kAsked, kWaiting };
  for (const Moment moment : {Moment::kUnstarted, Moment::kConnecting, Moment::kSubscribed,
                              Moment::kAsked, Moment::kWaiting}) {
    CAPTURE(static_cast<int>(moment));
    Loop loop;
    Ear ear;
    bool answered = false;
    {
      Subscription subscription(
          loop.base(),
          moment == Moment::kWaiting ? options_for("/nonexistent/redis.sock") : options_for(server),
          ear);
      if (moment == Moment::kConnecting) event_base_loop(loop.base(), EVLOOP_NONBLOCK);
      if (moment == Moment::kSubscribed || moment == Moment::kAsked) {
        REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));
      }
      if (moment == Moment::kAsked) {
        REQUIRE(subscription.read_log({}, [&](const LogPage&) { answered = true; }));
        REQUIRE(subscription.ask_each({{"PING"}},
                                      [&](std::size_t, const redisReply&) { answered = true; }));
      }
      if (moment == Moment::kWaiting) {
        REQUIRE(loop.until([&] { return ear.losses.size() == 2; }));
      }
    }
    const std::size_t told = ear.story.size();
    loop.for_a_while(20ms);
    CHECK(event_base_get_num_events(loop.base(), EVENT_BASE_COUNT_ADDED) == 0);
    CHECK_FALSE(answered);
    CHECK(ear.story.size() == told);
  }
}

int open_sockets() {
  int sockets = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    struct stat about;
    sockets += ::fstat(fd, &about) == 0 && S_ISSOCK(about.st_mode);
  }
  return sockets;
}

// Schedule 14d: the child shares the parent's epoll set; freeing its copy would edit it.
TEST_CASE("a forked child that abandons its copy leaves the parent's subscription alone") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  std::optional<Subscription> subscription;
  subscription.emplace(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  int parent_to_child[2];
  int child_to_parent[2];
  REQUIRE(::pipe(parent_to_child) == 0);
  REQUIRE(::pipe(child_to_parent) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  char byte = 0;
  if (child == 0) {
    ::close(parent_to_child[1]);
    const int sockets = open_sockets();
    subscription->abandon();
    if (open_sockets() != sockets - 2) ::_exit(5);
    const bool silent = !subscription->subscribed() && !subscription->ask_each({{"PING"}}, {});
    subscription.reset();
    if (::write(child_to_parent[1], "x", 1) != 1) ::_exit(2);
    if (::read(parent_to_child[0], &byte, 1) != 0) ::_exit(3);  // until the parent closes it
    ::_exit(silent ? 0 : 4);
  }
  ::close(parent_to_child[0]);
  REQUIRE(::read(child_to_parent[0], &byte, 1) == 1);

  publish(redis, "to the parent");
  REQUIRE(loop.until([&] { return ear.messages.size() == 1; }));
  std::optional<LogPage> end;
  REQUIRE(subscription->read_log({}, [&](const LogPage& read) { end = read; }));
  REQUIRE(loop.until([&] { return end.has_value(); }));
  CHECK(ear.losses.empty());

  ::close(parent_to_child[1]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  ::close(child_to_parent[0]);
  ::close(child_to_parent[1]);
}

TEST_CASE("a subscription ends for Redis too, although a child still holds its descriptors") {
  RedisServer server;
  RedisConnection redis = server.connect();
  Loop loop;
  Ear ear;
  std::optional<Subscription> subscription;
  subscription.emplace(loop.base(), options_for(server), ear);
  REQUIRE(loop.until([&] { return ear.subscriptions == 1; }));

  int parent_to_child[2];
  REQUIRE(::pipe(parent_to_child) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::close(parent_to_child[1]);
    char byte = 0;
    ::_exit(::read(parent_to_child[0], &byte, 1) == 0 ? 0 : 1);  // until the parent closes it
  }
  ::close(parent_to_child[0]);
  subscription.reset();
  CHECK(test::await([&] {
    return redis.command({"PUBSUB", "NUMSUB", kChannel}).items.at(1).number == 0;
  }));
  CHECK(::waitpid(child, nullptr, WNOHANG) == 0);
  ::close(parent_to_child[1]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace larder::sync
