#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "src/sync/client.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/redis_server.h"

using namespace larder;
using namespace larder::sync;
using namespace std::chrono_literals;
using namespace std::string_literals;
using test::RedisConnection;
using test::RedisServer;
using TestReply = test::Reply;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr auto kForever = 0ms;
constexpr const char* kChannel = "cache:invalidate";
constexpr const char* kLog = "larder:log:cache:invalidate";

ClientOptions options_for(const RedisServer& server) {
  ClientOptions options;
  options.endpoint.unix_socket = server.unix_socket();
  options.sender = "host-a";
  options.timeout = 10s;
  return options;
}

// What must have worked.
template <class T>
T must(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), result.status().message());
  return std::move(*result);
}

void must(const Status& status) { REQUIRE_MESSAGE(status.ok(), status.message()); }

bool mentions(const Status& status, std::string_view text) {
  return status.message().find(text) != std::string::npos;
}

// The log's entries, oldest first.
std::vector<TestReply> log_entries(const RedisServer& server) {
  return server.connect().command({"XRANGE", kLog, "-", "+"}).items;
}

std::vector<std::string> fields_of(const TestReply& entry) {
  std::vector<std::string> fields;
  for (const TestReply& item : entry.items.at(1).items) fields.push_back(item.text);
  return fields;
}

class Subscriber {
 public:
  explicit Subscriber(const RedisServer& server) : connection_(server.connect()) {
    REQUIRE(connection_.command({"SUBSCRIBE", kChannel}).kind == TestReply::Kind::kArray);
  }
  std::string next_payload() {
    const TestReply message = connection_.read();
    REQUIRE(message.items.size() == 3);
    return message.items[2].text;
  }
  Event next() { return must(decode_event(next_payload())); }

 private:
  RedisConnection connection_;
};

ChangeId log_end(Client& client) { return must(client.fetch("nothing")).last; }

std::uint64_t redis_ms(const RedisServer& server) {
  const TestReply time = server.connect().command({"TIME"});
  return std::stoull(time.items.at(0).text) * 1000 + std::stoull(time.items.at(1).text) / 1000;
}

// For a test case that is to run once for each way in which a change is made.
RedisServer::Config each_way() {
  RedisServer::Config config;
  SUBCASE("by script") {}
  SUBCASE("by transaction") {
    config.lines = {"rename-command EVALSHA \"\"", "rename-command EVAL \"\""};
  }
  return config;
}

std::int64_t client_count(const RedisServer& server) {
  const TestReply list = server.connect().command({"CLIENT", "LIST"});
  return std::count(list.text.begin(), list.text.end(), '\n') - 1;  // less the one that asks
}

// Runs `body` in a child; its exit status, or -1 when it did not exit by itself within ten seconds.
int exit_of_child(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class Stopwatch {
 public:
  std::chrono::milliseconds elapsed() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                                 begin_);
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Listens and never answers; or closes what it accepts.
class DeafListener {
 public:
  DeafListener() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(bind(fd_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(listen(fd_, 8) == 0);
    REQUIRE(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    endpoint_.host = "127.0.0.1";
    endpoint_.port = ntohs(address.sin_port);
  }
  ~DeafListener() { close(fd_); }
  DeafListener(const DeafListener&) = delete;
  DeafListener& operator=(const DeafListener&) = delete;
  const Endpoint& endpoint() const { return endpoint_; }
  int accept_one() const { return accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC); }

 private:
  int fd_;
  Endpoint endpoint_;
};

}  // namespace

// ---- what calls do ----------------------------------------------------------------------------

TEST_CASE("the scripts' hashes are those that Redis computes") {
  RedisServer server;
  RedisConnection redis = server.connect();
  std::string any_bytes;
  for (int byte = 0; byte < 256; ++byte) any_bytes += static_cast<char>(byte);
  for (const WireFormat format : {WireFormat::kJson, WireFormat::kMsgpack}) {
    const ChangeScripts change(any_bytes, format, 1000);
    for (const Script* script : {&change.set, &change.invalidate, &change.remove,
                                 &change.delete_many, &change.clear, &change.clear_database}) {
      CHECK(redis.command({"SCRIPT", "LOAD", script->text}) == script->sha1);
    }
  }
}

TEST_CASE("a set is in Redis, in the log and on the channel, and is read back") {
  RedisServer server(each_way());
  Subscriber subscriber(server);
  Client client(options_for(server));
  const Written written = must(client.set("user:1", "Ada", kForever, Announce::kValue));
  must(written.published);
  CHECK(written.receivers == 1);
  CHECK(written.id.seq == 1);
  CHECK(written.prev.none());
  CHECK(written.expires_unix_ms == 0);

  RedisConnection redis = server.connect();
  CHECK(redis.command({"GET", "user:1"}) == "Ada");
  CHECK(redis.command({"PTTL", "user:1"}).number == -1);
  const std::vector<TestReply> log = log_entries(server);
  REQUIRE(log.size() == 1);
  CHECK(log[0].items[0] == to_string(written.id));
  CHECK(fields_of(log[0]) == std::vector<std::string>{"a", "s", "p", "0-0", "k", "user:1"});

  const Event event = subscriber.next();
  CHECK(event.action == Action::kSet);
  CHECK(event.key == "user:1");
  CHECK(event.value == "Ada");
  CHECK(event.sender == "host-a");
  CHECK(event.id == written.id);
  CHECK(event.prev.none());

  const Fetched fetched = must(client.fetch("user:1"));
  CHECK(fetched.value == "Ada");
  CHECK(fetched.ttl_ms == -1);
  CHECK(fetched.last == written.id);
}

TEST_CASE("what is published is what event_tail writes, in both formats") {
  const RedisServer::Config config = each_way();
  for (const WireFormat format : {WireFormat::kJson, WireFormat::kMsgpack}) {
    for (const auto ttl : {0ms, 90'000ms}) {
      RedisServer server(config);
      Subscriber subscriber(server);
      ClientOptions options = options_for(server);
      options.wire_format = format;
      options.login.database = 4;
      Client client(options);
      const std::string value = "\x00\xff\n"s;
      must(client.set("first", value, ttl, Announce::kValue));
      const Written written = must(client.set("k\xff", value, ttl, Announce::kValue));
      Event event;
      event.action = Action::kSet;
      event.key = "k\xff";
      event.sender = "host-a";
      event.value = value;
      event.database = 4;
      event.id = written.id;
      event.prev = written.prev;
      event.expires_unix_ms = written.expires_unix_ms;
      CHECK((ttl == 0ms) == (written.expires_unix_ms == 0));
      subscriber.next_payload();
      CHECK(subscriber.next_payload() == event_head(event, format) + event_tail(event, format));
    }
  }
}

TEST_CASE("each change names the exact id that it followed, with a fresh nonce") {
  RedisServer server(each_way());
  Client client(options_for(server));
  Client other(options_for(server));
  ChangeId last;
  std::set<std::uint64_t> nonces;
  for (std::uint64_t seq = 1; seq <= 20; ++seq) {
    Client& writer = seq % 2 == 0 ? client : other;
    const Written written = seq % 3 == 0
                                ? must(writer.remove("k"))
                                : must(writer.set("k", "v", kForever, Announce::kInvalidation));
    CHECK(written.id.seq == seq);
    CHECK(written.prev == last);
    last = written.id;
    nonces.insert(written.id.nonce);
  }
  CHECK(nonces.size() == 20);
  CHECK(log_end(client) == last);
}

TEST_CASE("an invalidation and a removal are announced without a value") {
  RedisServer server(each_way());
  Subscriber subscriber(server);
  Client client(options_for(server));
  must(client.set("k", "v", kForever, Announce::kInvalidation));
  const Event invalidate = subscriber.next();
  CHECK(invalidate.action == Action::kInvalidate);
  CHECK(invalidate.value.empty());
  CHECK(must(client.fetch("k")).value == "v");
  must(client.remove("k"));
  CHECK(subscriber.next().action == Action::kDelete);
  CHECK(server.connect().command({"EXISTS", "k"}).number == 0);
  must(client.remove("never-existed"));
  CHECK(subscriber.next().key == "never-existed");
  CHECK(fields_of(log_entries(server)[0])[1] == "i");
  CHECK(fields_of(log_entries(server)[1])[1] == "d");
}

TEST_CASE("an absent key is a miss that carries the log's end") {
  RedisServer server;
  Client client(options_for(server));
  Fetched fetched = must(client.fetch("nothing"));
  CHECK_FALSE(fetched.value.has_value());
  CHECK(fetched.last.none());
  CHECK(log_end(client).none());
  const Written written = must(client.set("k", "v", kForever, Announce::kValue));
  fetched = must(client.fetch("nothing"));
  CHECK_FALSE(fetched.value.has_value());
  CHECK(fetched.last == written.id);
}

TEST_CASE("a life travels as Redis' own time, and a set without one ends it") {
  RedisServer server(each_way());
  Client client(options_for(server));
  const std::uint64_t before = redis_ms(server);
  const Written written = must(client.set("k", "v", 60s, Announce::kValue));
  const Fetched fetched = must(client.fetch("k"));
  CHECK(fetched.ttl_ms > 0);
  CHECK(fetched.ttl_ms <= 60'000);
  CHECK(written.expires_unix_ms >= before + 60'000);
  CHECK(written.expires_unix_ms <= redis_ms(server) + 60'000);
  const TestReply at = server.connect().command({"PEXPIRETIME", "k"});
  CHECK(std::abs(at.number - static_cast<std::int64_t>(written.expires_unix_ms)) <= 5);
  must(client.set("k", "v", kForever, Announce::kValue));
  CHECK(must(client.fetch("k")).ttl_ms == -1);
}

TEST_CASE("an expired value is a miss") {
  RedisServer server;
  Client client(options_for(server));
  const Written written = must(client.set("k", "v", 5ms, Announce::kValue));
  const Stopwatch watch;
  Fetched fetched = must(client.fetch("k"));
  while (fetched.value.has_value() && watch.elapsed() < 5s) fetched = must(client.fetch("k"));
  CHECK_FALSE(fetched.value.has_value());
  CHECK(redis_ms(server) + 1 >= written.expires_unix_ms);
}

TEST_CASE("a life that cannot be is refused before Redis hears of it") {
  RedisServer server;
  Client client(options_for(server));
  CHECK(client.set("k", "v", -1ms, Announce::kValue).code() == Code::kInvalidArgument);
  CHECK(client.set("k", "v", std::chrono::milliseconds::max(), Announce::kValue).code() ==
        Code::kInvalidArgument);
  CHECK(log_entries(server).empty());
}

TEST_CASE("the log is trimmed to about its limit and goes on counting") {
  RedisServer server(each_way());
  ClientOptions options = options_for(server);
  options.log_max_entries = 100;
  Client client(options);
  for (int i = 0; i < 1'000; ++i) must(client.set("k", "v", kForever, Announce::kValue));
  const std::int64_t length = server.connect().command({"XLEN", kLog}).number;
  CHECK(length >= 100);
  CHECK(length <= 300);
  CHECK(log_end(client).seq == 1'000);
}

TEST_CASE("numbering goes on from the last id generated, also when the log was emptied") {
  RedisServer server(each_way());
  Client client(options_for(server));
  RedisConnection redis = server.connect();
  REQUIRE(redis.command({"XADD", kLog, "281474976710650-9", "a", "s"}) == "281474976710650-9");
  REQUIRE(redis.command({"XTRIM", kLog, "MAXLEN", "0"}).number == 1);
  const Written written = must(client.set("k", "v", kForever, Announce::kValue));
  CHECK(written.id.seq == 281474976710651);
  CHECK(to_string(written.prev) == "281474976710650-9");
  CHECK(redis.command({"XLEN", kLog}).number == 1);
}

TEST_CASE("a log beyond the numbers that a segment can hold is refused, and nothing changes") {
  RedisServer server(each_way());
  Client client(options_for(server));
  RedisConnection redis = server.connect();
  for (const std::string& last : {"281474976710655-1"s, "18446744073709551615-1"s}) {
    redis.command({"DEL", kLog});
    redis.command({"XADD", kLog, last, "a", "s"});
    const Result<Written> written = client.set("k", "v", kForever, Announce::kValue);
    CHECK(written.code() == Code::kRefused);
    CHECK(mentions(written.status(), "2^48"));
    CHECK(redis.command({"EXISTS", "k"}).number == 0);
    CHECK(redis.command({"XLEN", kLog}).number == 1);
  }
  CHECK(client.fetch("k").code() == Code::kRefused);
}

TEST_CASE("keys and values of any bytes and of 8 MiB come back as they were") {
  RedisServer server(each_way());
  Client client(options_for(server));
  std::string all_bytes;
  for (int i = 0; i < 256; ++i) all_bytes += static_cast<char>(i);
  std::string large(8u << 20, '\0');
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 7 >> 5);
  must(client.set(all_bytes, all_bytes, kForever, Announce::kValue));
  CHECK(must(client.fetch(all_bytes)).value == all_bytes);
  must(client.set("large", large, kForever, Announce::kInvalidation));
  CHECK(must(client.fetch("large")).value == large);
  must(client.set("empty", "", kForever, Announce::kValue));
  CHECK(must(client.fetch("empty")).value == "");
  const std::string long_key(65'535, '\xff');
  must(client.set(long_key, "v", kForever, Announce::kValue));
  CHECK(must(client.fetch(long_key)).value == "v");
}

TEST_CASE("databases keep logs of their own, and events name theirs") {
  RedisServer server(each_way());
  Subscriber subscriber(server);
  ClientOptions options = options_for(server);
  options.login.database = 3;
  Client third(options);
  Client zeroth(options_for(server));
  CHECK(must(third.set("k", "three", kForever, Announce::kValue)).id.seq == 1);
  CHECK(must(zeroth.set("k", "zero", kForever, Announce::kValue)).id.seq == 1);
  CHECK(subscriber.next().database == 3);
  CHECK(subscriber.next().database == 0);
  CHECK(must(third.fetch("k")).value == "three");
  CHECK(must(zeroth.fetch("k")).value == "zero");
}

// ---- clear ------------------------------------------------------------------------------------

TEST_CASE("clearing a prefix removes its keys in batches, names them, and ends with a clear") {
  RedisServer server(each_way());
  Client client(options_for(server));
  RedisConnection redis = server.connect();
  const std::string prefix = "a*[b]?\\^-:\xff";
  std::set<std::string> wanted;
  for (int i = 0; i < 1'700; ++i) {
    wanted.insert(prefix + std::to_string(i));
    redis.command({"SET", prefix + std::to_string(i), "v"});
  }
  redis.command({"RPUSH", prefix + "list", "v"});
  wanted.insert(prefix + "list");
  redis.command({"SET", "aX[b]?\\^-:\xff", "another's"});
  redis.command({"SET", "ab", "another's"});
  Subscriber subscriber(server);
  const Cleared cleared = must(client.clear_prefix(prefix));
  CHECK(cleared.removed == wanted.size());
  must(cleared.last.published);
  CHECK(redis.command({"DBSIZE"}).number == 3);  // the two others' and the log

  std::set<std::string> named;
  ChangeId last;
  Event event = subscriber.next();
  for (; event.action == Action::kDeleteMany; event = subscriber.next()) {
    CHECK(event.prev == last);
    CHECK(event.keys.size() <= 500);
    last = event.id;
    named.insert(event.keys.begin(), event.keys.end());
  }
  CHECK(named == wanted);
  CHECK(event.action == Action::kClear);
  CHECK(event.prefix == prefix);
  CHECK(event.prev == last);
  CHECK(event.id == cleared.last.id);

  const std::vector<TestReply> log = log_entries(server);
  const std::vector<std::string> first = fields_of(log.front());
  CHECK(first[1] == "m");
  CHECK(first[4] == "k");
  CHECK(wanted.count(first[5]) == 1);
  CHECK(fields_of(log.back()) ==
        std::vector<std::string>{"a", "c", "p", to_string(last), "k", prefix});
}

TEST_CASE("no clear of a prefix removes a log, whatever the prefix") {
  RedisServer server(each_way());
  Client client(options_for(server));
  must(client.set("larder:x", "v", kForever, Announce::kValue));
  RedisConnection redis = server.connect();
  redis.command({"XADD", "larder:log:other", "1-1", "a", "s"});
  for (const char* prefix : {"l", "larder:", "larder:log:", kLog})
    must(client.clear_prefix(prefix));
  CHECK(redis.command({"EXISTS", "larder:x"}).number == 0);
  CHECK(redis.command({"XLEN", "larder:log:other"}).number == 1);
  CHECK(log_end(client).seq == 6);  // the set, one batch, four clears
}

TEST_CASE("an empty prefix is refused and touches nothing") {
  RedisServer server;
  Client client(options_for(server));
  must(client.set("k", "v", kForever, Announce::kValue));
  CHECK(client.clear_prefix("").code() == Code::kRefused);
  CHECK(must(client.fetch("k")).value == "v");
}

TEST_CASE("clearing local copies announces it and leaves the data") {
  RedisServer server(each_way());
  Subscriber subscriber(server);
  Client client(options_for(server));
  must(client.set("k", "v", kForever, Announce::kValue));
  subscriber.next();
  const Written written = must(client.clear_local_copies(""));
  const std::string payload = subscriber.next_payload();
  CHECK(payload.starts_with("{\"key\":\"*\",\"sender\":\"host-a\",\"action\":\"clear\",\"id\":"));
  CHECK(must(decode_event(payload)).id == written.id);
  CHECK(must(client.fetch("k")).value == "v");
}

TEST_CASE("clearing the database empties it and the log goes on from where it was") {
  RedisServer server(each_way());
  Client client(options_for(server));
  must(client.set("k", "v", kForever, Announce::kValue));
  const Written before = must(client.set("k2", "v", kForever, Announce::kValue));
  server.connect().command({"SET", "another's", "v"});
  Subscriber subscriber(server);
  const Written written = must(client.clear_database());
  CHECK(written.prev == before.id);
  CHECK(written.id.seq == before.id.seq + 1);
  const Event event = subscriber.next();
  CHECK(event.action == Action::kClear);
  CHECK(event.prefix.empty());
  CHECK(event.id == written.id);
  CHECK(event.prev == before.id);
  CHECK(server.connect().command({"DBSIZE"}).number == 1);
  CHECK(log_entries(server).size() == 1);
  CHECK(must(client.set("k", "v", kForever, Announce::kValue)).prev == written.id);
}

// ---- refusals ---------------------------------------------------------------------------------

TEST_CASE("a key that holds another type is refused, and nothing changes") {
  RedisServer server(each_way());
  Client client(options_for(server));
  RedisConnection redis = server.connect();
  redis.command({"RPUSH", "list", "theirs"});
  for (const Status& status : {client.fetch("list").status(),
                               client.set("list", "v", kForever, Announce::kValue).status()}) {
    CHECK(status.code() == Code::kRefused);
    CHECK(mentions(status, "WRONGTYPE"));
    CHECK(mentions(status, "key_prefix"));
    CHECK_FALSE(mentions(status, "user_script"));
  }
  CHECK(redis.command({"LLEN", "list"}).number == 1);
  CHECK(redis.command({"EXISTS", kLog}).number == 0);
}

TEST_CASE("a log's key that holds another type is refused, and nothing changes") {
  RedisServer server(each_way());
  Client client(options_for(server));
  RedisConnection redis = server.connect();
  redis.command({"SET", kLog, "theirs"});
  redis.command({"SET", "k", "old"});
  for (const Status& status :
       {client.set("k", "v", kForever, Announce::kValue).status(), client.remove("k").status(),
        client.fetch("k").status(), client.clear_prefix("k").status(),
        client.clear_database().status()}) {
    CHECK(status.code() == Code::kRefused);
    CHECK(mentions(status, "the log's key"));
    CHECK(mentions(status, "redis.channel"));
  }
  CHECK(redis.command({"GET", "k"}) == "old");
  CHECK(redis.command({"GET", kLog}) == "theirs");
}

TEST_CASE("the log's own key cannot be set or removed") {
  RedisServer server;
  Client client(options_for(server));
  CHECK(client.set(kLog, "v", kForever, Announce::kValue).code() == Code::kRefused);
  must(client.set("k", "v", kForever, Announce::kValue));
  CHECK(client.remove(kLog).code() == Code::kRefused);
  CHECK(log_entries(server).size() == 1);
}

TEST_CASE("a wrong password, a missing one and one too many are told apart and never shown") {
  RedisServer server({.lines = {"requirepass s3cret"}, .password = "s3cret"});
  ClientOptions options = options_for(server);
  Client without(options);
  Status status = without.ping();
  CHECK(status.code() == Code::kPermissionDenied);
  CHECK(mentions(status, "redis.password"));

  options.login.password = "hunter2";
  Client wrong(options);
  status = wrong.set("k", "v", kForever, Announce::kValue).status();
  CHECK(status.code() == Code::kPermissionDenied);
  CHECK(mentions(status, "redis.password"));
  CHECK_FALSE(mentions(status, "hunter2"));

  options.login.password = "s3cret";
  Client right(options);
  must(right.ping());
  options.login.username = "nobody";
  Client stranger(options);
  CHECK(stranger.ping().code() == Code::kPermissionDenied);

  RedisServer open;
  options = options_for(open);
  options.login.password = "s3cret";
  Client too_many(options);
  status = too_many.ping();
  CHECK(status.code() == Code::kPermissionDenied);
  CHECK(mentions(status, "leave redis.password empty"));
  CHECK_FALSE(mentions(status, "s3cret"));
}

TEST_CASE("a server that repeats the password does not get it into a message") {
  RedisServer server({.lines = {"rename-command AUTH \"\""}});
  ClientOptions options = options_for(server);
  options.login.password = "hunter2";
  Client client(options);
  const Status status = client.ping();
  CHECK(status.code() == Code::kPermissionDenied);
  CHECK_FALSE(mentions(status, "hunter2"));
}

TEST_CASE("an ACL user works with exactly the rights that the scripts' header lists") {
  RedisServer server;
  server.connect().command({"ACL",
                            "SETUSER",
                            "cache",
                            "on",
                            ">pw",
                            "~app:*",
                            "~larder:log:*",
                            "resetchannels",
                            "&cache:invalidate",
                            "-@all",
                            "+evalsha",
                            "+eval",
                            "+exists",
                            "+type",
                            "+xinfo",
                            "+xadd",
                            "+xrevrange",
                            "+get",
                            "+pttl",
                            "+set",
                            "+strlen",
                            "+del",
                            "+publish",
                            "+time",
                            "+scan",
                            "+ping",
                            "+select",
                            "+flushdb"});
  ClientOptions options = options_for(server);
  options.login = {"cache", "pw", 1};
  Client client(options);
  must(must(client.set("app:k", "v", 60s, Announce::kValue)).published);
  CHECK(must(client.fetch("app:k")).value == "v");
  must(must(client.remove("app:k")).published);
  must(client.set("app:k", "v", kForever, Announce::kValue));
  CHECK(must(client.clear_prefix("app:")).removed == 1);
  must(client.clear_database());
  must(client.ping());
  const Status status = client.set("other:k", "v", kForever, Announce::kValue).status();
  CHECK(status.code() == Code::kPermissionDenied);
  CHECK(mentions(status, "NOPERM"));
}

TEST_CASE(
    "where the ACL refuses scripts, changes are transactions; where these too, both are named") {
  RedisServer server;
  RedisConnection redis = server.connect();
  redis.command({"ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-eval", "-evalsha"});
  ClientOptions options = options_for(server);
  options.login = {"plain", "pw", 0};
  Client client(options);
  const Written written = must(client.set("k", "v", 60s, Announce::kValue));
  must(written.published);
  CHECK(written.expires_unix_ms > 0);
  CHECK(log_end(client) == written.id);
  must(client.remove("k"));

  for (const std::string command :
       {"-watch", "-multi", "-exec", "-publish", "-xadd", "-xinfo", "-time", "-type", "-set"}) {
    CAPTURE(command);
    redis.command({"SET", "k", "old"});
    redis.command({"ACL", "SETUSER", "plain", command});
    for (int round = 0; round < 2; ++round) {
      const Status status = client.set("k", "v", kForever, Announce::kValue).status();
      INFO(status.message());
      CHECK(status.code() == Code::kPermissionDenied);
      CHECK(mentions(status, "'" + command.substr(1)));
      CHECK(mentions(status, "EVALSHA"));
      CHECK(must(client.fetch("k")).value == "old");  // the connection is as it was
    }
    redis.command({"ACL", "SETUSER", "plain", "+" + command.substr(1)});
    must(client.set("k", "v", kForever, Announce::kValue));
  }
}

TEST_CASE("a transaction that Redis does not end leaves no connection behind in it") {
  for (const std::string command : {"EXEC", "DISCARD", "UNWATCH"}) {
    CAPTURE(command);
    RedisServer::Config config;
    config.lines = {"rename-command EVALSHA \"\"", "rename-command EVAL \"\"",
                    "rename-command " + command + " \"\""};
    RedisServer server(config);
    RedisConnection redis = server.connect();
    redis.command({"SET", "k", "old"});
    redis.command({"RPUSH", "list", "theirs"});
    Client client(options_for(server));
    for (int round = 0; round < 3; ++round) {
      const Status set = client.set("list", "v", kForever, Announce::kValue).status();
      CHECK(mentions(set, "WRONGTYPE"));
      const Status removed = client.remove("k").status();
      CHECK(removed.ok() == (command != "EXEC"));
      if (command == "EXEC") CHECK(mentions(removed, "EXEC"));
      CHECK(must(client.fetch("k")).value.has_value() == (command == "EXEC"));
    }
    CHECK(redis.command({"LLEN", "list"}).number == 1);
  }
}

TEST_CASE("a transaction that others always overtake changes nothing, and says what would help") {
  RedisServer server;
  server.connect().command(
      {"ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-eval", "-evalsha"});
  ClientOptions options = options_for(server);
  Client scripted(options);
  options.login = {"plain", "pw", 0};
  options.timeout = 100ms;
  Client plain(options);
  std::atomic<bool> done{false};
  std::thread others([&] {
    while (!done) (void)scripted.set("theirs", "v", kForever, Announce::kInvalidation);
  });
  const std::string large(4u << 20, 'v');  // others come in between while it travels
  Status status;
  for (int tries = 0; tries < 50 && status.ok(); ++tries) {
    must(plain.remove("large"));
    status = plain.set("large", large, kForever, Announce::kInvalidation).status();
  }
  done = true;
  others.join();
  INFO(status.message());
  CHECK(status.code() == Code::kUnavailable);
  CHECK(mentions(status, "nothing was changed"));
  CHECK(mentions(status, "scripts"));
  CHECK_FALSE(must(plain.fetch("large")).value.has_value());
  must(plain.set("large", "small", kForever, Announce::kInvalidation));
}

TEST_CASE("an answer to a change that is none is told from a refusal") {
  for (const std::string answer :
       {"+QUEUED\r\n", "$0\r\n\r\n", "$3\r\n6-1\r\n", "$8\r\n6-1 5-5 \r\n", "$9\r\n6-1 5-5  \r\n",
        ":1\r\n", "*0\r\n", "$-1\r\n"}) {
    CAPTURE(answer);
    DeafListener listener;
    ClientOptions options;
    options.endpoint = listener.endpoint();
    std::thread peer([&] {
      const int fd = listener.accept_one();
      std::string heard(4096, '\0');
      for (const std::string& reply : {"+PONG\r\n"s, answer}) {
        if (recv(fd, heard.data(), heard.size(), 0) <= 0) break;
        send(fd, reply.data(), reply.size(), MSG_NOSIGNAL);
      }
      close(fd);
    });
    {
      Client client(options);
      const Status status = client.remove("k").status();
      INFO(status.message());
      CHECK(status.code() == Code::kUnavailable);
      CHECK(mentions(status, "unexpected form"));
      CHECK(mentions(status, "not known"));
    }
    peer.join();
  }
}

TEST_CASE("where PUBLISH is forbidden, value and log change and the outcome says so") {
  RedisServer server;
  server.connect().command({"ACL", "SETUSER", "mute", "on", ">pw", "~*", "resetchannels", "+@all"});
  ClientOptions options = options_for(server);
  options.login = {"mute", "pw", 0};
  Client client(options);
  Written written = must(client.set("k", "v", kForever, Announce::kValue));
  CHECK(written.published.code() == Code::kPermissionDenied);
  CHECK(mentions(written.published, "ACL"));
  CHECK(written.receivers == 0);
  CHECK(must(client.fetch("k")).value == "v");
  CHECK(log_end(client) == written.id);

  server.connect().command({"ACL", "SETUSER", "mute", "allchannels", "-publish"});
  written = must(client.set("k", "v2", kForever, Announce::kValue));
  CHECK(written.published.code() == Code::kPermissionDenied);
  CHECK(must(client.fetch("k")).value == "v2");
}

TEST_CASE("where a write is forbidden inside the script, nothing changes") {
  RedisServer server;
  server.connect().command({"ACL", "SETUSER", "nolog", "on", ">pw", "~*", "&*", "+@all", "-xadd"});
  server.connect().command({"SET", "k", "old"});
  ClientOptions options = options_for(server);
  options.login = {"nolog", "pw", 0};
  Client client(options);
  for (const Status& status :
       {client.set("k", "v", kForever, Announce::kValue).status(), client.remove("k").status(),
        client.clear_database().status(), client.clear_prefix("k").status()}) {
    CHECK(status.code() == Code::kPermissionDenied);
    CHECK(mentions(status, "XADD"));  // Redis itself does not name it
  }
  CHECK(server.connect().command({"GET", "k"}) == "old");
  CHECK(server.connect().command({"EXISTS", kLog}).number == 0);
}

TEST_CASE("a Redis that is full, a replica and an unknown database are named") {
  RedisServer server(each_way());
  RedisConnection redis = server.connect();
  Client client(options_for(server));
  must(client.set("k", "old", kForever, Announce::kValue));

  redis.command({"CONFIG", "SET", "maxmemory", "1"});
  Status status = client.set("k", "v", kForever, Announce::kValue).status();
  CHECK(status.code() == Code::kUnavailable);
  CHECK(mentions(status, "OOM"));
  CHECK(must(client.fetch("k")).value == "old");
  redis.command({"CONFIG", "SET", "maxmemory", "0"});

  redis.command({"CONFIG", "SET", "min-replicas-to-write", "1"});
  status = client.set("k", "v", kForever, Announce::kValue).status();
  CHECK(status.code() == Code::kUnavailable);
  CHECK(mentions(status, "NOREPLICAS"));
  redis.command({"CONFIG", "SET", "min-replicas-to-write", "0"});

  redis.command({"REPLICAOF", "127.0.0.1", "1"});
  status = client.set("k", "v", kForever, Announce::kValue).status();
  CHECK(status.code() == Code::kUnavailable);
  CHECK(mentions(status, "READONLY"));
  CHECK(mentions(status, "primary"));
  redis.command({"REPLICAOF", "NO", "ONE"});
  CHECK(must(client.fetch("k")).value == "old");

  ClientOptions options = options_for(server);
  options.login.database = 16;
  Client beyond(options);
  status = beyond.ping();
  CHECK(status.code() == Code::kInvalidArgument);
  CHECK(mentions(status, "redis.database 16"));
}

TEST_CASE("error replies of older versions are understood too") {
  const Status status = status_of_error(
      "ERR Error running script (call to f_1f0e): @user_script:12: @user_script: 12: WRONGTYPE "
      "Operation against a key holding the wrong kind of value");
  CHECK(status.code() == Code::kRefused);
  CHECK_FALSE(mentions(status, "user_script"));
  CHECK(status_of_error("ERR Error running script (call to f_1f0e): @user_script:3: OOM command "
                        "not allowed")
            .code() == Code::kUnavailable);
  CHECK(status_of_error("ERR something new").code() == Code::kUnavailable);
  CHECK(status_of_error("").code() == Code::kUnavailable);
}

// ---- outages ----------------------------------------------------------------------------------

TEST_CASE("a call to a Redis that does not answer returns within the timeout") {
  RedisServer server({.tcp = true});
  for (const bool tcp : {false, true}) {
    ClientOptions options = options_for(server);
    options.timeout = 150ms;
    if (tcp) options.endpoint = must(parse_endpoint(server.tcp_address()));
    Client connected(options);
    must(connected.ping());
    Client fresh(options);
    server.pause();
    for (Client* client : {&connected, &fresh}) {
      const Stopwatch watch;
      const Result<Written> written = client->set("k", "v", kForever, Announce::kValue);
      CHECK(written.code() == Code::kUnavailable);
      CHECK(mentions(written.status(), "did not answer in time"));
      // The fresh one got no further than its greeting.
      CHECK(mentions(written.status(), "not known") == (client == &connected));
      CHECK(client->fetch("k").code() == Code::kUnavailable);
      CHECK(watch.elapsed() >= 300ms);
      CHECK(watch.elapsed() < 1'500ms);
    }
    server.resume();
    connected.ping().ok();
    must(fresh.fetch("k"));
  }
}

TEST_CASE("authenticating counts towards the one deadline") {
  RedisServer server({.lines = {"requirepass pw"}, .password = "pw"});
  ClientOptions options = options_for(server);
  options.login = {"", "pw", 2};
  options.timeout = 150ms;
  server.pause();
  Client client(options);
  const Stopwatch watch;
  const Result<Written> written = client.set("k", "v", kForever, Announce::kValue);
  CHECK(written.code() == Code::kUnavailable);
  CHECK_FALSE(mentions(written.status(), "not known"));  // the change was never sent
  CHECK(watch.elapsed() < 1s);
  server.resume();
  must(client.ping());
}

TEST_CASE("a peer that trickles bytes, or talks without end, does not stretch the deadline") {
  for (const bool flood : {false, true}) {
    DeafListener listener;
    ClientOptions options;
    options.endpoint = listener.endpoint();
    options.timeout = 200ms;
    std::atomic<bool> done{false};
    std::thread peer([&] {
      const int fd = listener.accept_one();
      const std::string chunk(flood ? 4096 : 1, 'x');
      send(fd, "$536870911\r\n", 12, MSG_NOSIGNAL);
      while (!done && send(fd, chunk.data(), chunk.size(), MSG_NOSIGNAL) > 0) {
        std::this_thread::yield();
      }
      close(fd);
    });
    Client client(options);
    const Stopwatch watch;
    CHECK(client.fetch("k").code() == Code::kUnavailable);
    CHECK(watch.elapsed() < 1s);
    done = true;
    peer.join();
  }
}

TEST_CASE("a peer that is no Redis is told from one that is silent") {
  DeafListener listener;
  ClientOptions options;
  options.endpoint = listener.endpoint();
  std::thread peer([&] {
    const int fd = listener.accept_one();
    send(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, MSG_NOSIGNAL);
    char byte = 0;
    while (recv(fd, &byte, 1, 0) > 0) {
    }
    close(fd);
  });
  {
    Client client(options);
    const Status status = client.ping();
    CHECK(status.code() == Code::kUnavailable);
    CHECK(mentions(status, "not Redis' protocol"));
  }
  peer.join();
}

TEST_CASE("nobody listening is an error at once that names the address") {
  Client client([] {
    ClientOptions options;
    options.endpoint.unix_socket = "/nonexistent/redis.sock";
    return options;
  }());
  const Status status = client.fetch("k").status();
  CHECK(status.code() == Code::kUnavailable);
  CHECK(mentions(status, "/nonexistent/redis.sock"));
  CHECK(mentions(status, "redis.address"));
}

TEST_CASE("a killed Redis is unavailable, and works again on the same client once it is back") {
  RedisServer server;
  Client client(options_for(server));
  must(client.set("k", "v", kForever, Announce::kValue));
  server.kill();
  CHECK(client.set("k", "v2", kForever, Announce::kValue).code() == Code::kUnavailable);
  CHECK(client.fetch("k").code() == Code::kUnavailable);
  CHECK(client.ping().code() == Code::kUnavailable);
  server.start();
  CHECK_FALSE(must(client.fetch("k")).value.has_value());
  CHECK(must(client.set("k", "v3", kForever, Announce::kValue)).id.seq == 1);
}

TEST_CASE("a restart with its data keeps value and numbering") {
  RedisServer server({.tcp = true});
  ClientOptions options = options_for(server);
  options.endpoint = must(parse_endpoint("localhost:" + server.tcp_address().substr(10)));
  Client client(options);
  const Written written = must(client.set("k", "v", kForever, Announce::kValue));
  server.restart(RedisServer::Data::kKeep);
  // The idle connection was closed by the restart: noticed before the change is sent.
  const Written next = must(client.set("k2", "v", kForever, Announce::kValue));
  CHECK(next.prev == written.id);
  CHECK(must(client.fetch("k")).value == "v");
  server.restart(RedisServer::Data::kDrop);
  CHECK(must(client.fetch("k")).last.none());
}

TEST_CASE("an idle connection that Redis closed is replaced without an error") {
  // Over TCP, where the first bytes sent to a closed peer are lost without a word.
  RedisServer server({.tcp = true});
  ClientOptions options = options_for(server);
  options.endpoint = must(parse_endpoint(server.tcp_address()));
  Client client(options);
  must(client.ping());
  for (int i = 0; i < 5; ++i) {
    server.connect().command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
    must(client.set("k", "v", kForever, Announce::kValue));
  }
  CHECK(log_end(client).seq == 5);
}

TEST_CASE("scripts that Redis forgot are sent again, and the change happens once") {
  RedisServer server;
  Client client(options_for(server));
  for (std::uint64_t i = 1; i <= 3; ++i) {
    server.connect().command({"SCRIPT", "FLUSH"});
    CHECK(must(client.set("k", "v", kForever, Announce::kValue)).id.seq == i);
    must(client.fetch("k"));
  }
  CHECK(server.command_calls("eval") == 3);
  CHECK(log_entries(server).size() == 3);
}

// ---- threads and forks ------------------------------------------------------------------------

TEST_CASE("threads call at the same time over connections of their own") {
  RedisServer server(each_way());
  ClientOptions options = options_for(server);
  options.idle_connections_max = 2;
  Client client(options);
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string key = std::to_string(t) + ':' + std::to_string(i);
        if (!client.set(key, key, kForever, Announce::kValue).ok()) ++failures;
        const Result<Fetched> fetched = client.fetch(key);
        if (!fetched || fetched->value != key) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(client_count(server) <= 2);
  const std::vector<TestReply> log = log_entries(server);
  CHECK(log.size() == 1'200);
  std::string prev = "0-0";
  for (const TestReply& entry : log) {
    REQUIRE(fields_of(entry)[3] == prev);
    prev = entry.items[0].text;
  }
}

TEST_CASE("after a fork, child and parent go on with connections of their own") {
  RedisServer server;
  Client client(options_for(server));
  must(client.set("k", "parent", kForever, Announce::kValue));
  REQUIRE(client_count(server) == 1);
  CHECK(exit_of_child([&] {
          if (!client.set("k", "child", kForever, Announce::kValue).ok()) return false;
          // The parent's connection and the child's; the child's copy of the former is closed.
          if (client_count(server) != 2) return false;
          const Result<Fetched> fetched = client.fetch("k");
          return fetched.ok() && fetched->value == "child";
        }) == 0);
  CHECK(must(client.fetch("k")).value == "child");
  CHECK(must(client.set("k", "again", kForever, Announce::kValue)).id.seq == 3);
  // One is left: had the parent opened another, or the child kept it open, there would be two.
  CHECK(client_count(server) == 1);
}

TEST_CASE("a child that outlives its parent's client does not keep its connections open") {
  RedisServer server;
  auto client = std::make_unique<Client>(options_for(server));
  must(client->ping());
  int ready[2];
  int quit[2];
  REQUIRE(pipe(ready) == 0);
  REQUIRE(pipe(quit) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const bool worked = client->ping().ok();
    close(quit[1]);
    char byte = worked ? 'y' : 'n';
    if (write(ready[1], &byte, 1) != 1) _exit(2);
    (void)!read(quit[0], &byte, 1);
    _exit(0);
  }
  char byte = 0;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  CHECK(byte == 'y');
  CHECK(client_count(server) == 2);
  client.reset();
  const Stopwatch watch;  // until Redis has read the end of the closed one
  while (client_count(server) != 1 && watch.elapsed() < 5s) std::this_thread::yield();
  CHECK(client_count(server) == 1);
  close(quit[1]);
  waitpid(child, nullptr, 0);
  for (const int fd : {ready[0], ready[1], quit[0]}) close(fd);
}

// The C library's allocator may be used in such a child, the sanitizers' own may not.
TEST_CASE("children forked while other threads are calling can call" * doctest::skip(kSanitized)) {
  RedisServer server;
  Client client(options_for(server));
  std::atomic<bool> done{false};
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (!done) {
        if (!client.fetch("k").ok()) ++failures;
      }
    });
  }
  int good = 0;
  for (int i = 0; i < 30; ++i) {
    good +=
        exit_of_child([&] {
          return client.set("k", "v", kForever, Announce::kValue).ok() && client.fetch("k").ok();
        }) == 0;
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(good == 30);
  CHECK(failures == 0);
  CHECK(log_end(client).seq == 30);
}

TEST_CASE("a peer that closes in the middle of a request raises no SIGPIPE in this process") {
  char folder[] = "/tmp/larder-client-test-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = std::string(folder) + "/s";
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(listen(listener, 1) == 0);
  // In a child, so that the signal, which would end the process, is seen as its exit.
  const int exited = exit_of_child([&] {
    signal(SIGPIPE, SIG_DFL);
    std::thread peer([&] {
      const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      char greeting[sizeof "*1\r\n$4\r\nPING\r\n" - 1];
      (void)!recv(fd, greeting, sizeof greeting, MSG_WAITALL);
      (void)!send(fd, "+PONG\r\n", 7, 0);
      char byte = 0;
      (void)!recv(fd, &byte, 1, 0);
      close(fd);
    });
    ClientOptions options;
    options.endpoint.unix_socket = path;
    Client client(options);
    const std::string large(32u << 20, 'x');
    const Status status = client.set("k", large, kForever, Announce::kInvalidation).status();
    peer.join();
    return status.code() == Code::kUnavailable && mentions(status, "not known");
  });
  CHECK(exited == 0);
  close(listener);
  unlink(path.c_str());
  rmdir(folder);
}

TEST_CASE("options are taken over from the cache's") {
  Options options;
  options.redis.address = "[::1]:7000";
  options.redis.username = "u";
  options.redis.password = "p";
  options.redis.database = 5;
  options.redis.channel = "c";
  options.redis.timeout = 77ms;
  options.wire_format = WireFormat::kMsgpack;
  const ClientOptions taken = must(client_options(options, "node"));
  CHECK(to_string(taken.endpoint) == "[::1]:7000");
  CHECK(taken.login.username == "u");
  CHECK(taken.login.password == "p");
  CHECK(taken.login.database == 5);
  CHECK(taken.channel == "c");
  CHECK(taken.timeout == 77ms);
  CHECK(taken.wire_format == WireFormat::kMsgpack);
  CHECK(taken.sender == "node");
  CHECK(Client(taken).log_key() == "larder:log:c");
  options.redis.address = "nonsense:port";
  CHECK(client_options(options, "node").code() == Code::kInvalidArgument);
}
