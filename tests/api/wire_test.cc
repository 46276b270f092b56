// The channel as it is: what the Go library sends, what strangers send, and what we send, each
// against a running cache and a real Redis.
//
// LARDER_TEST_DATA names the folder of go-events.txt, a capture of the real Go library.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "src/sync/base64.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

using namespace larder;
using namespace std::chrono_literals;
using namespace std::string_literals;
using nlohmann::json;
using test::await;
using test::host_options;
using test::HostView;
using test::log_end;
using test::RedisConnection;
using test::RedisServer;
using test::TempDir;

namespace {

constexpr const char* kChannel = "cache:invalidate";

void must(const Status& status) { REQUIRE_MESSAGE(status.ok(), status.to_string()); }

// ---- the capture ------------------------------------------------------------------------------

std::vector<std::string> capture_lines() {
  const char* folder = std::getenv("LARDER_TEST_DATA");
  REQUIRE_MESSAGE(folder != nullptr, "LARDER_TEST_DATA must name the folder of go-events.txt");
  std::ifstream file(std::string(folder) + "/go-events.txt");
  REQUIRE_MESSAGE(file.good(), "go-events.txt is missing");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string unhex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// Every payload that the Go library published, exact bytes.
std::vector<std::string> go_payloads() {
  std::vector<std::string> payloads;
  for (const std::string& line : capture_lines()) {
    if (line.starts_with("hex: ")) payloads.push_back(unhex(line.substr(5)));
  }
  REQUIRE(payloads.size() == 18);
  return payloads;
}

// Hand-written payloads and what a Go pod stored of each, as "key" or nothing.
struct HandWritten {
  std::string payload;
  std::optional<std::string> stored_key;
};

std::vector<HandWritten> hand_written_sets() {
  std::vector<HandWritten> all;
  for (const std::string& line : capture_lines()) {
    const std::size_t arrow = line.find("\" -> stored [");
    if (!line.starts_with('"') || arrow == std::string::npos) continue;
    HandWritten one;
    one.payload = json::parse(line.substr(0, arrow + 1));  // a Go string literal, also JSON
    const std::string stored = line.substr(arrow + 13);
    if (stored.starts_with('"')) one.stored_key = stored.substr(1, stored.find("\"=") - 1);
    all.push_back(std::move(one));
  }
  REQUIRE(all.size() == 18);
  return all;
}

json fields_of(const std::string& payload) { return json::parse(payload); }

std::string value_in(const std::string& payload) {
  const json fields = fields_of(payload);
  const auto bytes = sync::decode_base64(fields.value("value", ""));
  REQUIRE(bytes);
  return *bytes;
}

// ---- a running cache --------------------------------------------------------------------------

struct Running {
  explicit Running(GoPeers go_peers = GoPeers::kVerify)
      : options([&] {
          Options made = host_options(folder, "h", server.unix_socket());
          made.go_peers = go_peers;
          return made;
        }()),
        cache([&] {
          auto opened = Cache::open(options);
          REQUIRE_MESSAGE(opened.ok(), opened.status().to_string());
          return std::move(*opened);
        }()),
        view(options),
        redis(server.connect()) {
    must(cache.start());
    REQUIRE(await([&] { return cache.in_sync(); }));
  }

  std::uint64_t heard() const {
    const Stats stats = cache.stats();
    return stats.events_without_id + stats.events_malformed + stats.events_foreign;
  }

  // As redis-cli would, and waits until the cache has dealt with it.
  void publish(const std::string& payload) {
    const std::uint64_t before = heard();
    REQUIRE(redis.command({"PUBLISH", kChannel, payload}).number >= 1);
    REQUIRE(await([&] { return heard() > before; }));
    REQUIRE(heard() == before + 1);
  }

  std::optional<std::string> local(std::string_view key) {
    Lookup found;
    if (!cache.get_local(key, found).ok() || !found.hit()) return std::nullopt;
    return found.value;
  }

  // Whatever happened before, the cache works: it hears its peers, and keeps what it is told.
  void still_works() {
    must(cache.set("still:works", "yes"));
    const auto end = log_end(redis);
    REQUIRE(await([&] { return view.follows(end); }));
    CHECK(local("still:works") == "yes");
    redis.command({"SET", "still:works", "changed"});
    publish(R"({"key":"still:works","sender":"go","action":"invalidate"})");
    CHECK_FALSE(local("still:works"));
    const auto found = cache.get("still:works");
    REQUIRE(found.ok());
    CHECK(found->value == "changed");
    CHECK(view.check().violations.empty());
  }

  RedisServer server;
  TempDir folder;
  Options options;
  Cache cache;
  HostView view;
  RedisConnection redis;
};

class Subscriber {
 public:
  explicit Subscriber(const RedisServer& server) : connection_(server.connect()) {
    REQUIRE(connection_.command({"SUBSCRIBE", kChannel}).kind == test::Reply::Kind::kArray);
  }
  std::string next() {
    const test::Reply message = connection_.read();
    REQUIRE(message.items.size() == 3);
    return message.items[2].text;
  }

 private:
  RedisConnection connection_;
};

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// What Go would have sent, but from `sender`, up to the closing brace.
std::string as_go_would(std::string go_payload, const std::string& sender) {
  const std::string theirs = R"("sender":"pod-1")";
  go_payload.replace(go_payload.find(theirs), theirs.size(), R"("sender":")" + sender + '"');
  go_payload.pop_back();
  return go_payload;
}

// `payload` is `go_head`, byte for byte, and fields behind it that Go's decoder ignores: no name
// that it would take for one of its own, whatever the case.
void check_is_go_plus_ignored(const std::string& payload, const std::string& go_head) {
  CAPTURE(payload);
  CAPTURE(go_head);
  REQUIRE(payload.starts_with(go_head + ','));
  REQUIRE(payload.ends_with('}'));
  std::multiset<std::string> names;
  const json fields = json::parse(payload, [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth == 1 && event == json::parse_event_t::key) names.insert(lower_case(parsed));
    return true;
  });
  for (const char* go_name : {"key", "sender", "action"}) CHECK(names.count(go_name) == 1);
  CHECK(names.count("value") <= 1);
  CHECK(fields.contains("id"));
  CHECK(fields.contains("prev"));
}

}  // namespace

// ---- what the Go library sends ----------------------------------------------------------------

TEST_CASE("a set of the Go library drops the local copy, and Redis is asked again") {
  Running r;
  for (const std::string& payload : go_payloads()) {
    const json fields = fields_of(payload);
    const std::string key = fields["key"];
    if (fields["action"] != "set" || !fields.contains("value") || key.empty()) continue;
    CAPTURE(payload);
    must(r.cache.set(key, "held before"));
    const auto end = log_end(r.redis);
    REQUIRE(await([&] { return r.view.follows(end); }));
    // What the event carries is already old when it comes.
    r.redis.command({"SET", key, "newer than the event"});
    r.publish(payload);
    CHECK(await([&] { return r.local(key) == "newer than the event"; }));
    CHECK(r.cache.get(key)->value == "newer than the event");
  }
  CHECK(r.cache.stats().events_malformed == 0);
}

TEST_CASE("a set of the Go library for a key that is not held fetches nothing") {
  Running r;
  r.redis.command({"SET", "user:1", "\"hello\""});
  const std::uint64_t gets = r.server.command_calls("get");
  r.publish(go_payloads().at(0));
  CHECK_FALSE(r.local("user:1"));
  CHECK(r.server.command_calls("get") == gets);
  CHECK(r.cache.get("user:1")->value == "\"hello\"");
}

TEST_CASE("go_peers = trust stores what the Go library sends, as it came") {
  Running r(GoPeers::kTrust);
  int sets = 0;
  for (const std::string& payload : go_payloads()) {
    const json fields = fields_of(payload);
    const std::string key = fields["key"];
    if (fields["action"] != "set" || key.empty()) continue;
    CAPTURE(payload);
    if (!fields.contains("value")) {
      // A Go peer ignores it too.
      const std::uint64_t malformed = r.cache.stats().events_malformed;
      r.publish(payload);
      CHECK(r.cache.stats().events_malformed == malformed + 1);
      continue;
    }
    r.publish(payload);
    CHECK(r.local(key) == value_in(payload));
    ++sets;
  }
  CHECK(sets == 12);
  CHECK(r.server.command_calls("get") == 0);
}

TEST_CASE("the Go library's invalidate and delete drop the local copy") {
  Running r;
  int applied = 0;
  for (const std::string& payload : go_payloads()) {
    const json fields = fields_of(payload);
    if (fields["action"] != "invalidate" && fields["action"] != "delete") continue;
    CAPTURE(payload);
    const std::string key = fields["key"];
    must(r.cache.set(key, "held"));
    must(r.cache.set("bystander", "held"));
    const auto end = log_end(r.redis);
    REQUIRE(await([&] { return r.view.follows(end); }));
    r.publish(payload);
    CHECK_FALSE(r.local(key));
    CHECK(r.local("bystander") == "held");
    ++applied;
  }
  CHECK(applied == 3);
}

TEST_CASE("the Go library's clear drops every local copy, and the log goes on") {
  Running r;
  for (int i = 0; i < 20; ++i) must(r.cache.set("k" + std::to_string(i), "held"));
  const auto end = log_end(r.redis);
  REQUIRE(await([&] { return r.view.follows(end); }));
  const std::uint64_t clears = r.cache.stats().clears;
  r.publish(go_payloads().back());
  for (int i = 0; i < 20; ++i) CHECK_FALSE(r.local("k" + std::to_string(i)));
  CHECK(r.cache.stats().clears == clears + 1);
  CHECK(r.cache.in_sync());
  r.still_works();
}

TEST_CASE("what a Go pod accepts is applied, what it refuses is ignored and counted") {
  Running r(GoPeers::kTrust);
  for (const auto& [payload, stored_key] : hand_written_sets()) {
    CAPTURE(payload);
    // Two that a Go pod refuses for reasons that are not ours: it takes this sender for itself, and
    // these bytes are no JSON for its marshaller.
    const bool own_id = payload.find("pod-2") != std::string::npos;
    const bool not_json = payload.find("aGk=") != std::string::npos;
    const std::uint64_t malformed = r.cache.stats().events_malformed;
    r.publish(payload);
    if (own_id || not_json) {
      CHECK(r.local(own_id ? "k6" : "k12") == (own_id ? "\"hi\"" : "hi"));
    } else if (stored_key) {
      CHECK(r.local(*stored_key) == "\"hi\"");
    } else {
      CHECK(r.cache.stats().events_malformed == malformed + 1);
    }
  }
  for (const char* refused : {"k7", "k8", "k9", "k10", "k14", "k15", "dup"}) {
    CAPTURE(refused);
    CHECK_FALSE(r.local(refused));
  }
  r.publish(R"({"key":"k1","sender":"cpp","action":"invalidate"})");
  CHECK_FALSE(r.local("k1"));
  // Not base64: Go's decoder fails on the whole message, and its pod kept all of its entries.
  const std::uint64_t malformed = r.cache.stats().events_malformed;
  r.publish(R"({"key":"k2","sender":"cpp","action":"delete","value":"ignored"})");
  CHECK(r.cache.stats().events_malformed == malformed + 1);
  CHECK(r.local("k2") == "\"hi\"");
  CHECK(r.local("k3") == "\"hi\"");
  r.publish(R"({"key":"","sender":"cpp","action":"clear"})");
  CHECK_FALSE(r.local("k3"));
  r.still_works();
}

// ---- what nobody should send ------------------------------------------------------------------

TEST_CASE("malformed, huge, unknown and deep messages are counted and do no harm") {
  Running r;
  must(r.cache.set("held", "v"));
  const auto end = log_end(r.redis);
  REQUIRE(await([&] { return r.view.follows(end); }));

  std::mt19937_64 random(20240607);
  std::string garbage(1u << 20, '\0');
  for (char& byte : garbage) byte = static_cast<char>(random());
  std::string braces = garbage;
  braces[0] = '{';
  std::string frame = garbage;
  frame[0] = '\x99';
  const std::string deep(200'000, '[');
  const std::vector<std::string> payloads = {
      "",
      "{",
      "null",
      "[]",
      "true",
      "{}",
      garbage,
      braces,
      frame,
      deep,
      R"({"key":"held","sender":"x","action":"delete","x":)" + deep,
      R"({"key":"held","sender":"x","action":"explode"})",
      R"({"key":"held","sender":"x","action":"DELETE"})",
      R"({"key":"held","sender":"x"})",
      R"({"key":7,"sender":"x","action":"delete"})",
      R"({"key":"held","sender":"x","action":"delete"} trailing)",
      R"({"key":"held","sender":"x","action":"set","value":"not base64"})",
      R"({"key":"held","sender":"x","action":"set"})",
      R"({"key":"held","sender":"x","action":"delete","id":"nonsense","prev":"0-0"})",
      R"({"key":"held","sender":"x","action":"delete","id":"281474976710656-1","prev":"0-0"})",
      R"({"key":"held","sender":"x","action":"delete","expires_at":-1,"id":"9-9","prev":"8-8"})",
      R"({"key":")" + std::string(70'000, 'k') + R"(","sender":"x","action":"delete"})",
      "\x99\x01"s,
      "\xdd\xff\xff\xff\xff"s,
      std::string(1u << 20, '\x99'),
      "\xff\xfe{\"key\":\"held\",\"sender\":\"x\",\"action\":\"delete\"}",
  };
  for (const std::string& payload : payloads) {
    CAPTURE(payload.substr(0, 80));
    const std::uint64_t malformed = r.cache.stats().events_malformed;
    r.publish(payload);
    CHECK(r.cache.stats().events_malformed == malformed + 1);
    CHECK(r.local("held") == "v");
  }
  CHECK(r.cache.in_sync());
  CHECK(r.cache.stats().epoch_raises == 1);
  r.still_works();
}

TEST_CASE("an event with a forged id has the log asked, and nothing wrong is served or dropped") {
  Running r;
  must(r.cache.set("k", "true"));
  auto end = log_end(r.redis);
  REQUIRE(await([&] { return r.view.follows(end); }));
  const std::uint64_t raises = r.cache.stats().epoch_raises;
  r.redis.command({"PUBLISH", kChannel,
                   R"({"key":"k","sender":"x","action":"set","value":"bGll","id":"7777-1",)"
                   R"("prev":"7776-1"})"});
  must(r.cache.set("another", "v"));  // comes after it
  end = log_end(r.redis);
  REQUIRE(await([&] { return r.view.follows(end); }));
  CHECK(r.local("k") == "true");
  CHECK(r.cache.stats().epoch_raises == raises);
  r.still_works();
}

// ---- what we send -----------------------------------------------------------------------------

TEST_CASE("our events are the Go library's, byte for byte, plus fields that it ignores") {
  Running r;
  Subscriber subscriber(r.server);
  const std::string& node = r.cache.node_id();
  int compared = 0;
  for (const std::string& go : go_payloads()) {
    const json fields = fields_of(go);
    const std::string key = fields["key"];
    const std::string action = fields["action"];
    if (key.empty() || key.starts_with("bad\xef\xbf\xbd")) continue;  // see the tests below
    CAPTURE(go);
    std::string expected = as_go_would(go, node);
    if (action == "set" && !fields.contains("value")) {
      // An empty value: Go peers ignore a set without one, so it is an invalidation for them.
      must(r.cache.set(key, ""));
      const std::string set = R"("action":"set")";
      expected.replace(expected.find(set), set.size(), R"("action":"invalidate")");
    } else if (action == "set") {
      must(r.cache.set(key, value_in(go)));
    } else if (action == "invalidate") {
      must(r.cache.set_with_invalidate(key, "hello2"));
    } else if (action == "delete") {
      must(r.cache.remove(key));
    } else {
      CHECK(r.cache.clear().code() == Code::kRefused);
    }
    check_is_go_plus_ignored(subscriber.next(), expected);
    ++compared;
  }
  CHECK(compared == 16);
}

TEST_CASE("characters that Go escapes are escaped as Go does") {
  Running r;
  Subscriber subscriber(r.server);
  const std::string key = "<>&\xe2\x80\xa8\xe2\x80\xa9\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9";
  const std::string escaped =
      "\\u003c\\u003e\\u0026\\u2028\\u2029\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9";
  const std::string begin =
      "{\"key\":\"" + escaped + "\",\"sender\":\"" + r.cache.node_id() + "\",\"action\":\"";
  must(r.cache.set(key, "v"));
  check_is_go_plus_ignored(subscriber.next(), begin + "set\",\"value\":\"dg==\"");
  must(r.cache.remove(key));
  check_is_go_plus_ignored(subscriber.next(), begin + "delete\"");
}

TEST_CASE("H16: a key that is not UTF-8 looks to Go as Go would send it, and its bytes go along") {
  Running r;
  Subscriber subscriber(r.server);
  const std::string key = "bad\xff\xfe\0utf8"s;
  must(r.cache.set(key, "1"));
  const std::string payload = subscriber.next();
  check_is_go_plus_ignored(payload, R"({"key":"bad\ufffd\ufffd\u0000utf8","sender":")" +
                                        r.cache.node_id() + R"(","action":"set","value":"MQ==")");
  CHECK(sync::decode_base64(fields_of(payload)["key_b64"].get<std::string>()) == key);
}

TEST_CASE("a life is announced as the moment of its end in Redis' clock") {
  Running r;
  Subscriber subscriber(r.server);
  must(r.cache.set("k", "v", 1h));
  const json fields = fields_of(subscriber.next());
  const std::int64_t expires = fields["expires_at"];
  // Redis looks at its clock once more when it sets the key.
  const std::int64_t in_redis = r.redis.command({"PEXPIRETIME", "k"}).number;
  CHECK(in_redis - expires >= 0);
  CHECK(in_redis - expires < 100);
  must(r.cache.set("k", "v"));
  CHECK_FALSE(fields_of(subscriber.next()).contains("expires_at"));
}

TEST_CASE("each event names the one before it") {
  Running r;
  Subscriber subscriber(r.server);
  std::string last = "0-0";
  std::set<std::string> nonces;
  for (int i = 0; i < 20; ++i) {
    must(i % 3 == 0 ? r.cache.remove("k") : r.cache.set("k", "v"));
    const json fields = fields_of(subscriber.next());
    CHECK(fields["prev"] == last);
    last = fields["id"];
    CHECK(last.starts_with(std::to_string(i + 1) + '-'));
    nonces.insert(last.substr(last.find('-')));
  }
  CHECK(nonces.size() == 20);
}

TEST_CASE("a value above push_max_bytes is announced as the invalidate that Go would send") {
  Running r;
  Subscriber subscriber(r.server);
  must(r.cache.set("large", std::string(20'000, 'v')));
  check_is_go_plus_ignored(subscriber.next(), R"({"key":"large","sender":")" + r.cache.node_id() +
                                                  R"(","action":"invalidate")");
}
