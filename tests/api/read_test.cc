// Reads that say for themselves how they are done, and looks that leave no trace.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <chrono>
#include <string>

#include "tests/api/hosts.h"

using namespace larder;
using namespace larder::test;
using namespace std::chrono_literals;

namespace {

// Changes a key in Redis without a word to anybody.
void change_behind_our_back(RedisConnection& redis, const char* value) {
  REQUIRE_FALSE(redis.command({"SET", "k", value}).is_error());
}

// A host that holds a copy and can lose its Redis.
struct Cut {
  Cut() : host(host_options(folder, "h", server.unix_socket())) {
    must(host.cache.set("k", "old"));
  }
  void cut() {
    server.stop();
    REQUIRE(await([&] { return !host.cache.in_sync(); }));
  }

  RedisServer server;
  TempDir folder;
  Host host;
};

}  // namespace

// ---- freshness --------------------------------------------------------------------------------

TEST_CASE("freshness kRedis asks Redis although a copy is held, and keeps what it answers") {
  Pair p;
  must(p.a.cache.set("k", "old"));
  change_behind_our_back(p.redis, "new");
  CHECK(must(p.a.cache.get("k")).value == "old");
  Lookup found = must(p.a.cache.get("k", {.freshness = Freshness::kRedis}));
  CHECK(found.source == Source::kRemote);
  CHECK(found.value == "new");
  found = must(p.a.cache.get("k"));
  CHECK(found.source == Source::kLocal);
  CHECK(found.value == "new");

  REQUIRE_FALSE(p.redis.command({"DEL", "k"}).is_error());
  CHECK_FALSE(must(p.a.cache.get("k", {.freshness = Freshness::kRedis})).hit());
  CHECK_FALSE(local(p.a.cache, "k"));  // nor is the copy served again
}

TEST_CASE("under the lease every freshness but kRedis is served from shared memory") {
  Pair p;
  must(p.a.cache.set("k", "v"));
  const std::uint64_t gets = p.server.command_calls("get");
  for (const Freshness freshness : {Freshness::kAsOpened, Freshness::kAny, Freshness::kLease}) {
    const Lookup found = must(p.a.cache.get("k", {.freshness = freshness}));
    CHECK(found.source == Source::kLocal);
    CHECK_FALSE(found.stale);
  }
  CHECK(p.server.command_calls("get") == gets);
}

TEST_CASE(
    "without the lease kAny serves the copy, kLease and kRedis are errors while Redis is gone") {
  Cut c;
  c.cut();
  const Lookup any = must(c.host.cache.get("k", {.freshness = Freshness::kAny}));
  CHECK(any.value == "old");
  CHECK(any.stale);
  for (const Freshness freshness : {Freshness::kLease, Freshness::kRedis}) {
    Lookup found;
    found.value = "rest of a former call";
    const Status status = c.host.cache.get("k", found, {.freshness = freshness});
    CHECK(status.code() == Code::kUnavailable);
    CHECK_FALSE(found.hit());
    CHECK(found.value.empty());
  }
  CHECK(local(c.host.cache, "k") == "old");  // an error takes nothing away
}

TEST_CASE("a miss goes to Redis whatever the freshness, and without Redis all are the same") {
  Pair p;
  const TempDir folder;
  Cache alone = open(host_options(folder, "alone", ""));
  must(alone.set("k", "v"));
  for (const Freshness freshness :
       {Freshness::kAsOpened, Freshness::kAny, Freshness::kLease, Freshness::kRedis}) {
    const std::string key = "only there " + std::to_string(static_cast<int>(freshness));
    REQUIRE_FALSE(p.redis.command({"SET", key, "v"}).is_error());
    CHECK(must(p.a.cache.get(key, {.freshness = freshness})).source == Source::kRemote);
    CHECK_FALSE(must(p.a.cache.get("none", {.freshness = freshness})).hit());
    CHECK(must(alone.get("k", {.freshness = freshness})).source == Source::kLocal);
    CHECK_FALSE(must(alone.get("none", {.freshness = freshness})).hit());
  }
}

// ---- time -------------------------------------------------------------------------------------

TEST_CASE("a call with less time than redis.timeout takes no more, and others may ask on") {
  const TempDir folder;
  RedisServer server;
  Options options = host_options(folder, "h", server.unix_socket());
  options.redis.timeout = 5s;
  Host host(options);
  must(host.cache.get("known"));
  server.pause();
  for (int i = 0; i < 3; ++i) {
    const Stopwatch watch;
    CHECK(host.cache.get("k", {.timeout = 50ms}).code() == Code::kUnavailable);
    CHECK(watch.elapsed() >= 45ms);
    CHECK(watch.elapsed() < 2s);
  }
  CHECK(host.cache.stats().not_asked == 0);  // nobody has waited long enough to say it is gone
  server.resume();
  CHECK_FALSE(must(host.cache.get("k")).hit());
}

TEST_CASE("a timeout that is negative is refused, and one beyond redis.timeout is that") {
  const TempDir folder;
  RedisServer server;
  Options options = host_options(folder, "h", server.unix_socket());
  options.redis.timeout = 100ms;
  Host host(options);
  const auto refused = host.cache.get("k", {.timeout = -1ms});
  CHECK(refused.code() == Code::kInvalidArgument);
  CHECK(mentions(refused.status(), "timeout"));
  server.pause();
  const Stopwatch watch;
  CHECK(host.cache.get("k", {.timeout = 1h}).code() == Code::kUnavailable);
  CHECK(watch.elapsed() < 5s);
}

// ---- without a trace --------------------------------------------------------------------------

TEST_CASE("peek and contains show what is held, ask nobody for it and count nothing") {
  Pair p;
  must(p.a.cache.set("k", "v"));
  change_behind_our_back(p.redis, "changed");
  REQUIRE_FALSE(p.redis.command({"SET", "not held", "v"}).is_error());
  const Stats before = p.a.cache.stats();
  const std::uint64_t gets = p.server.command_calls("get");

  const Lookup held = must(p.a.cache.peek("k"));
  CHECK(held.source == Source::kLocal);
  CHECK(held.value == "v");
  CHECK_FALSE(held.stale);
  CHECK_FALSE(must(p.a.cache.peek("not held")).hit());
  CHECK(must(p.a.cache.contains("k")));
  CHECK(must(p.a.cache.contains("not held")));  // Redis says so
  CHECK_FALSE(must(p.a.cache.contains("nowhere")));

  const Stats after = p.a.cache.stats();
  CHECK(after.local_hits == before.local_hits);
  CHECK(after.local_misses == before.local_misses);
  CHECK(after.remote_hits == before.remote_hits);
  CHECK(p.server.command_calls("get") == gets);
  CHECK_FALSE(must(p.a.cache.peek("not held")).hit());  // nothing was fetched on the way
}

TEST_CASE("peek says when what it shows may be old") {
  Cut c;
  c.cut();
  const Lookup found = must(c.host.cache.peek("k"));
  CHECK(found.value == "old");
  CHECK(found.stale);
}

TEST_CASE("peeked at for ever, an entry is evicted as if nobody had looked") {
  const TempDir folder;
  Options options = host_options(folder, "h", "");
  options.max_entries = 200;
  options.policy = Policy::kLru;
  Cache cache = open(options);
  must(cache.set("peeked", "v"));
  for (int i = 0; i < 2000; ++i) {
    (void)must(cache.peek("peeked"));
    must(cache.set("k" + std::to_string(i), "v"));
  }
  CHECK_FALSE(must(cache.peek("peeked")).hit());
}

TEST_CASE("with verify_checksums a peek shows no bytes that something else changed") {
  const TempDir folder;
  Options options = host_options(folder, "h", "");
  options.verify_checksums = true;
  Cache cache = open(options);
  const std::string value = "a value that is not found anywhere else";
  must(cache.set("k", value));
  damage(options, value);
  CHECK_FALSE(must(cache.peek("k")).hit());
  CHECK(cache.stats().corrupt == 1);
}

TEST_CASE("ttl is what is left, for ever, or nothing; from shared memory and from Redis alike") {
  Pair p;
  must(p.a.cache.set("k", "v", 1h));
  must(p.a.cache.set("lasting", "v"));
  REQUIRE_FALSE(p.redis.command({"SET", "not held", "v", "PX", "7200000"}).is_error());
  REQUIRE_FALSE(p.redis.command({"SET", "not held either", "v"}).is_error());
  const std::uint64_t asked = p.server.command_calls("pttl");
  const auto left = must(p.a.cache.ttl("k"));
  REQUIRE(left);
  CHECK(*left <= 1h);
  CHECK(*left > 59min);
  CHECK(must(p.a.cache.ttl("lasting")) == Cache::kForever);
  CHECK(p.server.command_calls("pttl") == asked);
  const auto remote = must(p.a.cache.ttl("not held"));
  REQUIRE(remote);
  CHECK(*remote <= 2h);
  CHECK(*remote > 119min);
  CHECK(must(p.a.cache.ttl("not held either")) == Cache::kForever);
  CHECK_FALSE(must(p.a.cache.ttl("nowhere")));
  CHECK(p.server.command_calls("pttl") == asked + 3);
}

TEST_CASE("without the lease ttl asks Redis; while that is gone it does what stale_reads says") {
  for (const StaleReads policy :
       {StaleReads::kVerify, StaleReads::kServe, StaleReads::kMiss, StaleReads::kError}) {
    CAPTURE(static_cast<int>(policy));
    const TempDir folder;
    RedisServer server;
    Options options = host_options(folder, "h", server.unix_socket());
    options.stale_reads = policy;
    Host host(options);
    must(host.cache.set("k", "v"));
    server.stop();
    REQUIRE(await([&] { return !host.cache.in_sync(); }));
    const auto left = host.cache.ttl("k");
    const bool serves = policy == StaleReads::kVerify || policy == StaleReads::kServe;
    CHECK(left.code() == (serves ? Code::kOk : Code::kUnavailable));
    if (left) CHECK(*left == Cache::kForever);
    CHECK(host.cache.ttl("not here").code() == Code::kUnavailable);  // an error is not a miss
  }
}

TEST_CASE("keys that cannot be are refused by every look, by name") {
  const TempDir folder;
  Cache cache = open(host_options(folder, "h", ""));
  CHECK(cache.peek("").code() == Code::kInvalidArgument);
  CHECK(cache.ttl("").code() == Code::kInvalidArgument);
  CHECK(cache.contains(std::string(kKeyMaxBytes + 1, 'k')).code() == Code::kInvalidArgument);
  CHECK(cache.get("", ReadOptions()).code() == Code::kInvalidArgument);
  Cache taken = std::move(cache);
  CHECK(cache.peek("k").code() == Code::kClosed);
  CHECK(cache.ttl("k").code() == Code::kClosed);
  CHECK(cache.contains("k").code() == Code::kClosed);
  CHECK(cache.get("k", ReadOptions()).code() == Code::kClosed);
}
