// The public cache, in one process, alone and with a real Redis.
//
// Two hosts are two segments that share a Redis. Where an answer has to be late, a relay keeps it
// back. H and B numbers in names are the defects of the library whose protocol this one speaks.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "larder/cache.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/hosts.h"
#include "tests/support/forked.h"

using namespace larder;
using namespace larder::test;
using namespace std::chrono_literals;
using namespace std::string_literals;

// ---- alone ------------------------------------------------------------------------------------

TEST_CASE("without Redis a cache sets, gets, removes, clears and counts") {
  const TempDir folder;
  Cache cache = open(host_options(folder, "alone", ""));
  CHECK(cache.in_sync());
  CHECK_FALSE(value_of(cache, "k"));
  must(cache.set("k", "one"));
  const Lookup found = must(cache.get("k"));
  CHECK(found.source == Source::kLocal);
  CHECK(found.value == "one");
  CHECK_FALSE(found.stale);
  must(cache.set("k", "two"));
  must(cache.set_with_invalidate("other", ""));
  CHECK(value_of(cache, "k") == "two");
  CHECK(value_of(cache, "other") == "");
  must(cache.remove("k"));
  must(cache.remove("k"));
  CHECK_FALSE(value_of(cache, "k"));
  must(cache.clear());
  CHECK_FALSE(value_of(cache, "other"));
  must(cache.set("other", "again"));
  CHECK(value_of(cache, "other") == "again");

  const Stats stats = cache.stats();
  CHECK(stats.sets == 4);
  CHECK(stats.removes == 2);
  CHECK(stats.clears == 1);
  CHECK(stats.local_hits == 4);
  CHECK(stats.local_misses == 3);
  CHECK(stats.remote_hits + stats.remote_misses + stats.remote_errors == 0);
  CHECK(stats.entries >= 1);
  CHECK(stats.processes == 1);
  CHECK(stats.segment_bytes == cache.options().segment_bytes);
  CHECK(stats.arena_bytes == stats.live_bytes + stats.pinned_bytes + stats.free_bytes);
  CHECK(stats.arena_bytes + stats.index_bytes + stats.metadata_bytes == stats.segment_bytes);
  CHECK(stats.in_sync);
}

TEST_CASE("without Redis values live as long as they were given, or as default_ttl says") {
  const TempDir folder;
  Options options = host_options(folder, "alone", "");
  options.default_ttl = 40ms;
  Cache cache = open(options);
  must(cache.set("by default", "v"));
  must(cache.set("short", "v", 20ms));
  must(cache.set("long", "v", 1h));
  CHECK(await([&] { return !local(cache, "short"); }));
  CHECK(await([&] { return !local(cache, "by default"); }));
  CHECK(value_of(cache, "long") == "v");
}

TEST_CASE("with verify_checksums bytes that something else changed are a miss, by every read") {
  const TempDir folder;
  Options options = host_options(folder, "alone", "");
  Cache plain = open(options);
  options.verify_checksums = true;
  Cache cache = open(options);
  const std::string value = "a value that is not found anywhere else";
  const auto set = [&] {
    must(cache.set("k", value));
    damage(options, value);
  };
  set();
  CHECK(value_of(plain, "k"));
  CHECK_FALSE(value_of(cache, "k"));
  CHECK_FALSE(value_of(plain, "k"));
  set();
  const std::string_view keys[] = {"k"};
  Lookup lookups[1];
  must(cache.get_many(keys, lookups));
  CHECK_FALSE(lookups[0].hit());
  set();
  const auto view = cache.view("k");
  REQUIRE(view.ok());
  CHECK_FALSE(*view);
  CHECK(cache.stats().corrupt == 3);
  must(cache.set("k", value));
  CHECK(value_of(cache, "k") == value);
  CHECK(cache.stats().corrupt == 3);
}

TEST_CASE("with verify_checksums changed bytes are fetched again from Redis") {
  RedisServer server;
  const TempDir folder;
  Options options = host_options(folder, "host", server.unix_socket());
  options.verify_checksums = true;
  Host host(options);
  const std::string value = "a value that is not found anywhere else";
  must(host.cache.set("k", value));
  damage(options, value);
  const Lookup found = must(host.cache.get("k"));
  CHECK(found.source == Source::kRemote);
  CHECK(found.value == value);
  CHECK(local(host.cache, "k") == value);
}

TEST_CASE("two caches with two names in one process do not mix") {
  const TempDir folder;
  Cache one = open(host_options(folder, "one", ""));
  Cache two = open(host_options(folder, "two", ""));
  must(one.set("k", "of one"));
  CHECK_FALSE(value_of(two, "k"));
  must(two.set("k", "of two"));
  CHECK(value_of(one, "k") == "of one");
  must(one.clear());
  CHECK_FALSE(value_of(one, "k"));
  CHECK(value_of(two, "k") == "of two");
  CHECK(two.stats().clears == 0);
}

TEST_CASE("two caches with one name in one process share the copy, and each may go first") {
  const TempDir folder;
  std::optional<Cache> one = open(host_options(folder, "shared", ""));
  Cache two = open(host_options(folder, "shared", ""));
  must(one->set("k", "v"));
  CHECK(value_of(two, "k") == "v");
  one.reset();
  must(two.set("k", "w"));
  CHECK(value_of(two, "k") == "w");
}

TEST_CASE("wrong keys, values and lives are refused by name and harm nothing") {
  const TempDir folder;
  Options options = host_options(folder, "alone", "");
  options.value_max_bytes = 1000;
  options.key_prefix = "app:";
  Cache cache = open(options);
  must(cache.set("k", "v"));
  const std::string huge_key(kKeyMaxBytes - 3, 'k');  // the prefix has four
  for (const std::string& key : {""s, huge_key}) {
    CAPTURE(key.size());
    for (const Status& status : {cache.set(key, "v"), cache.set_with_invalidate(key, "v"),
                                 cache.remove(key), cache.get(key).status()}) {
      CHECK(status.code() == Code::kInvalidArgument);
      CHECK(mentions(status, "1 to 65535 bytes"));
    }
    Lookup lookup;
    lookup.value = "left over";
    CHECK(cache.get_local(key, lookup).code() == Code::kInvalidArgument);
    CHECK(lookup.value.empty());
  }
  CHECK(mentions(cache.set("", "v"), "empty"));
  CHECK(mentions(cache.set(huge_key, "v"), "65536"));

  const Status large = cache.set("k", std::string(1001, 'v'));
  CHECK(large.code() == Code::kTooLarge);
  CHECK(mentions(large, "1001"));
  CHECK(mentions(large, "value_max_bytes = 1000"));
  CHECK_FALSE(value_of(cache, "k"));  // the old value is not what was asked for
  must(cache.set("k", "v"));
  CHECK(cache.set("k", "w", -1ms).code() == Code::kInvalidArgument);
  CHECK(mentions(cache.set("k", "w", -1ms), "negative"));
  CHECK(cache.set("k", "w", 24h * 366 * 101).code() == Code::kInvalidArgument);
  CHECK(value_of(cache, "k") == "v");
  // The largest that is allowed works.
  must(cache.set(huge_key.substr(1).substr(0, 4000), std::string(1000, 'v')));
}

TEST_CASE("a value that fits no stripe is refused when there is nothing else to keep it") {
  const TempDir folder;
  Cache cache = open(host_options(folder, "alone", ""));
  must(cache.set("k", "v"));
  const Status status = cache.set("k", std::string(4'000'000, 'v'));
  CHECK(status.code() == Code::kTooLarge);
  CHECK(mentions(status, "a stripe of the segment"));
  CHECK_FALSE(value_of(cache, "k"));  // the old value is not what was asked for
  CHECK(cache.stats().too_large == 1);
}

TEST_CASE("a view shows the value in place, whatever becomes of its key, and a miss is empty") {
  const TempDir folder;
  Cache cache = open(host_options(folder, "alone", ""));
  const auto view_of = [&](std::string_view key) {
    Result<View> view = cache.view(key);
    REQUIRE_MESSAGE(view.ok(), view.status().to_string());
    return std::move(*view);
  };
  View miss = view_of("k");
  CHECK_FALSE(miss);
  CHECK(miss.value().empty());
  const std::string value(50'000, 'v');
  must(cache.set("k", value));
  View view = view_of("k");
  CHECK(view);
  CHECK(view.value() == value);
  CHECK_FALSE(view.stale());
  CHECK(cache.stats().views == 1);
  must(cache.set("k", "news"));
  must(cache.remove("k"));
  must(cache.clear());
  for (int i = 0; i < 3000; ++i) must(cache.set("k" + std::to_string(i), std::string(1500, 'w')));
  CHECK(view.value() == value);
  CHECK(cache.stats().pinned_bytes > value.size());
  // Moving moves the hold, and only the last holder lets go.
  View other = std::move(view);
  CHECK_FALSE(view);
  CHECK(other.value() == value);
  CHECK(cache.stats().views == 1);
  other = view_of("k2999");
  CHECK(other.value() == std::string(1500, 'w'));
  CHECK(cache.stats().views == 1);
  other = View();
  CHECK(cache.stats().views == 0);
  for (int i = 0; i < 200; ++i) must(cache.set("k" + std::to_string(i), "w"));
  CHECK(cache.stats().pinned_bytes == 0);
  CHECK(cache.view("").code() == cache.get("").code());
}

TEST_CASE(
    "schedule 14c: a view is its process's own: a forked child sees nothing in it and lets go of "
    "nothing") {
  const TempDir folder;
  Cache cache = open(host_options(folder, "alone", ""));
  const std::string value(5000, 'v');
  must(cache.set("k", value));
  std::optional<View> view = std::move(*cache.view("k"));
  REQUIRE(view->value() == value);
  const auto child_of_a_viewer = [&] {
    return test::Forked([&](test::Steps& steps) {
      CHILD_REQUIRE(view->value().empty());
      steps.reached();
      steps.wait();
      CHILD_REQUIRE(view->value().empty());  // whatever is there by now
      const std::uint64_t views = cache.stats().views;
      view.reset();
      CHILD_REQUIRE(cache.stats().views == views);
      CHILD_REQUIRE(cache.set("child", value).ok());
      CHILD_REQUIRE(cache.view("child")->value() == value);  // one of its own, for a moment
      CHILD_REQUIRE(cache.stats().views == views);
      return 0;
    });
  };
  const auto overwrite_all = [&] {
    for (int i = 0; i < 3000; ++i) {
      must(cache.set("k" + std::to_string(i), std::string(1500, 'w')));
    }
  };
  test::Forked early = child_of_a_viewer();
  test::Forked late = child_of_a_viewer();
  REQUIRE(early.await_step());
  REQUIRE(late.await_step());
  early.go_on();
  CHECK(early.wait() == 0);
  CHECK(cache.stats().views == 1);
  must(cache.remove("k"));
  overwrite_all();
  CHECK(view->value() == value);
  view.reset();
  overwrite_all();
  late.go_on();
  CHECK(late.wait() == 0);
}

TEST_CASE("get_many without Redis is as many gets, whatever is asked") {
  const TempDir folder;
  Options options = host_options(folder, "alone", "");
  options.key_prefix = "app:";
  Cache cache = open(options);
  for (int i = 0; i < 100; ++i) must(cache.set("k" + std::to_string(i), std::to_string(i * i)));
  const std::string too_long(options.key_prefix.size() + 70'000, 'k');
  std::vector<std::string> names;
  for (int i = 90; i < 130; ++i) names.push_back("k" + std::to_string(i));
  for (int i = 0; i < 3; ++i) names.push_back("k7");
  const std::vector<std::string_view> keys(names.begin(), names.end());
  std::vector<Lookup> lookups(keys.size());
  for (Lookup& each : lookups) each.value = "what was there before";
  must(cache.get_many(keys, lookups));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Lookup alone = must(cache.get(keys[i]));
    CHECK(lookups[i].source == alone.source);
    CHECK(lookups[i].value == alone.value);
    CHECK(lookups[i].stale == alone.stale);
  }
  must(cache.get_many({}, {}));
  CHECK(cache.get_many(keys, std::span(lookups).first(3)).code() == Code::kInvalidArgument);
  // A key that cannot be is an error that does not keep the others from being answered.
  const std::string_view some[] = {"k1", too_long, "k2", ""};
  Lookup found[4];
  found[1].value = "before";
  CHECK(cache.get_many(some, found).code() == cache.get(too_long).code());
  CHECK(found[0].value == "1");
  CHECK(found[1].source == Source::kNone);
  CHECK(found[1].value.empty());
  CHECK(found[2].value == "4");
  CHECK(found[3].source == Source::kNone);
}

TEST_CASE("max_entries bounds what is kept") {
  const TempDir folder;
  Options options = host_options(folder, "few", "");
  options.max_entries = 300;
  Cache cache = open(options);
  for (int i = 0; i < 2000; ++i) {
    must(cache.set("k" + std::to_string(i), "v"));
    CHECK(value_of(cache, "k" + std::to_string(i)) == "v");
  }
  CHECK(cache.stats().entries <= 300);
  CHECK(cache.stats().entries > 250);
  CHECK(cache.stats().evictions == 2000 - cache.stats().entries);
}

TEST_CASE("a cache that was moved from answers kClosed") {
  const TempDir folder;
  Cache cache = open(host_options(folder, "alone", ""));
  const Cache other = std::move(cache);
  CHECK(cache.start().code() == Code::kClosed);
  CHECK(cache.get("k").code() == Code::kClosed);
  Lookup lookup;
  CHECK(cache.get_local("k", lookup).code() == Code::kClosed);
  CHECK(cache.get_many({}, {}).code() == Code::kClosed);
  CHECK(cache.view("k").code() == Code::kClosed);
  CHECK(cache.set("k", "v").code() == Code::kClosed);
  CHECK(cache.set_with_invalidate("k", "v").code() == Code::kClosed);
  CHECK(cache.remove("k").code() == Code::kClosed);
  CHECK(cache.clear().code() == Code::kClosed);
  CHECK_FALSE(cache.in_sync());
  CHECK(cache.stats().entries == 0);
  CHECK(cache.node_id().empty());
  CHECK(cache.options().name == "default");
}

TEST_CASE("a segment is not shared by processes that were configured otherwise") {
  const TempDir folder;
  Options options = host_options(folder, "bound", "/tmp/redis-one.sock");
  options.redis.database = 1;
  options.redis.channel = "news";
  options.key_prefix = "app:";
  const Cache cache = open(options);

  const auto refused = [&](auto&& change, std::string_view made_with, std::string_view asked) {
    Options other = options;
    change(other);
    const auto opened = Cache::open(other);
    CAPTURE(asked);
    REQUIRE_FALSE(opened.ok());
    CAPTURE(opened.status().message());
    CHECK(opened.code() == Code::kMismatch);
    CHECK(mentions(opened.status(), made_with));
    CHECK(mentions(opened.status(), asked));
  };
  refused([](Options& o) { o.redis.address = "/tmp/redis-two.sock"; }, "redis=/tmp/redis-one.sock",
          "redis=/tmp/redis-two.sock");
  refused([](Options& o) { o.redis.database = 2; }, "database=1", "database=2");
  refused([](Options& o) { o.redis.channel = "old\nnews"; }, "channel=news", "channel=old%0Anews");
  refused([](Options& o) { o.key_prefix = "app"; }, "prefix=app:", "prefix=app");
  refused([](Options& o) { o.wire_format = WireFormat::kMsgpack; }, "wire=json", "wire=msgpack");
  refused([](Options& o) { o.redis.address.clear(); }, "redis=/tmp/redis-one.sock", "redis=");
  CHECK(Cache::open(options).ok());
}

TEST_CASE("options that cannot work are refused when opening, and nothing is created") {
  const TempDir folder;
  Options options = host_options(folder, "bad", "host:99999999");
  CHECK(Cache::open(options).code() == Code::kInvalidArgument);
  options = host_options(folder, "bad", "");
  options.segment_bytes = 100;
  CHECK(Cache::open(options).code() == Code::kInvalidArgument);
  CHECK(shm::Segment::list(folder.path()).empty());
}

TEST_CASE("H3: two caches never have one node id, whatever they are called") {
  const TempDir folder;
  const auto id = [&](const char* name, const std::string& node_id) {
    Options options = host_options(folder, name, "");
    options.node_id = node_id;
    return open(options).node_id();
  };
  CHECK(id("a", "") != id("b", ""));
  CHECK(id("a", "web") != id("b", "web"));
  CHECK(id("a", "web").starts_with("web-"));
  setenv("POD_NAME", "pod-7", 1);
  CHECK(id("a", "").starts_with("pod-7-"));
  CHECK(id("a", "web").starts_with("web-"));
  unsetenv("POD_NAME");
  CHECK(id("a", "").find("pod-7") == std::string::npos);
}

// ---- with Redis -------------------------------------------------------------------------------

TEST_CASE("a miss goes to Redis once, then shared memory answers") {
  Pair p;
  CHECK_FALSE(value_of(p.a.cache, "k"));
  p.redis.command({"SET", "k", "from elsewhere"});
  Lookup found = must(p.a.cache.get("k"));
  CHECK(found.source == Source::kRemote);
  CHECK(found.value == "from elsewhere");
  CHECK_FALSE(found.stale);
  const std::uint64_t gets = p.server.command_calls("get");
  for (int i = 0; i < 10; ++i) {
    found = must(p.a.cache.get("k"));
    CHECK(found.source == Source::kLocal);
    CHECK(found.value == "from elsewhere");
    CHECK_FALSE(found.stale);
  }
  CHECK(p.server.command_calls("get") == gets);
  const Stats stats = p.a.cache.stats();
  CHECK(stats.remote_hits == 1);
  CHECK(stats.remote_misses == 1);
  CHECK(stats.local_hits == 10);
}

TEST_CASE("a value set on one host is in the other host's memory, and nobody asked for it") {
  Pair p;
  must(p.a.cache.set("k", "Ada"));
  CHECK(local(p.a.cache, "k") == "Ada");
  p.catch_up();
  CHECK(local(p.b.cache, "k") == "Ada");
  CHECK(value_of(p.b.cache, "k") == "Ada");
  CHECK(p.server.command_calls("get") == 0);
  CHECK(p.b.cache.stats().events_applied == 1);
  // Its own, before or after it was stored.
  CHECK(p.a.cache.stats().events_old + p.a.cache.stats().events_applied == 1);
}

TEST_CASE("H2: with default options a set reaches Redis, as the bytes that were given") {
  const RedisServer server;
  const TempDir folder;
  Options options;  // everything else is the default
  options.directory = folder.path();
  options.redis.address = server.unix_socket();
  Cache cache = open(options);
  const std::string value("a\0b\xff", 4);
  must(cache.set("k", value));
  RedisConnection redis = server.connect();
  CHECK(in_redis(redis, "k") == value);
}

TEST_CASE("set_with_invalidate makes the other host ask for the value") {
  Pair p;
  must(p.a.cache.set("k", "one"));
  p.catch_up();
  CHECK(local(p.b.cache, "k") == "one");
  must(p.a.cache.set_with_invalidate("k", "two"));
  CHECK(local(p.a.cache, "k") == "two");
  p.catch_up();
  CHECK(local(p.a.cache, "k") == "two");  // its own event does not drop it
  CHECK_FALSE(local(p.b.cache, "k"));
  const Lookup found = must(p.b.cache.get("k"));
  CHECK(found.source == Source::kRemote);
  CHECK(found.value == "two");
  CHECK(local(p.b.cache, "k") == "two");
}

TEST_CASE("a removed key is gone from Redis and from every host") {
  Pair p;
  must(p.a.cache.set("k", "one"));
  p.catch_up();
  must(p.b.cache.remove("k"));
  CHECK_FALSE(local(p.b.cache, "k"));
  p.catch_up();
  CHECK_FALSE(local(p.a.cache, "k"));
  CHECK_FALSE(in_redis(p.redis, "k"));
  CHECK_FALSE(value_of(p.a.cache, "k"));
  must(p.a.cache.remove("never there"));
}

TEST_CASE("H6: a life travels with the value and ends on every host and in Redis") {
  Pair p;
  must(p.a.cache.set("pushed", "v", 400ms));
  must(p.a.cache.set_with_invalidate("asked for", "v", 400ms));
  must(p.a.cache.set("for ever", "v"));
  p.catch_up();
  CHECK(local(p.b.cache, "pushed") == "v");
  CHECK(value_of(p.b.cache, "asked for") == "v");
  const std::int64_t left = p.redis.command({"PTTL", "pushed"}).number;
  CHECK(left > 0);
  CHECK(left <= 400);
  for (const char* key : {"pushed", "asked for"}) {
    CAPTURE(key);
    CHECK(await([&] { return !in_redis(p.redis, key); }));
    // By then no host serves it: a host's end comes first, or at the same millisecond.
    CHECK(await([&] { return !local(p.a.cache, key) && !local(p.b.cache, key); }, 200ms));
  }
  CHECK(local(p.b.cache, "for ever") == "v");
  CHECK(p.redis.command({"PTTL", "for ever"}).number == -1);
}

TEST_CASE("default_ttl applies in Redis too") {
  Pair p([](Options& options) { options.default_ttl = 1h; });
  must(p.a.cache.set("k", "v"));
  CHECK(p.redis.command({"PTTL", "k"}).number > 3'500'000);
  must(p.a.cache.set("k", "v", 2h));
  CHECK(p.redis.command({"PTTL", "k"}).number > 7'000'000);
}

TEST_CASE("get_many asks Redis for what is not held, and keeps what it finds") {
  Pair p([](Options& options) { options.push_max_bytes = 0; });  // so that b hears, but holds not
  std::vector<std::string> names;
  for (int i = 0; i < 50; ++i) {
    names.push_back("k" + std::to_string(i));
    if (i % 5 != 0) must(p.a.cache.set(names.back(), std::to_string(i)));
  }
  p.catch_up();
  CHECK(value_of(p.b.cache, "k1") == "1");  // one is held already
  const std::vector<std::string_view> keys(names.begin(), names.end());
  std::vector<Lookup> lookups(keys.size());
  must(p.b.cache.get_many(keys, lookups));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    CAPTURE(i);
    const bool there = i % 5 != 0;
    CHECK(lookups[i].source == (i == 1 ? Source::kLocal : there ? Source::kRemote : Source::kNone));
    CHECK(lookups[i].value == (there ? std::to_string(i) : ""));
    CHECK(local(p.b.cache, keys[i]) == (there ? std::optional(std::to_string(i)) : std::nullopt));
  }
  must(p.b.cache.get_many(keys, lookups));
  CHECK(lookups[7].source == Source::kLocal);
}

TEST_CASE("with push_held_only a value that nobody here held is announced, not pushed") {
  Pair p([](Options& options) { options.push_held_only = true; });
  must(p.a.cache.set("k", "first"));
  p.b.catch_up(p.redis);
  CHECK_FALSE(local(p.b.cache, "k").has_value());
  CHECK(p.a.cache.stats().announced_cold == 1);
  must(p.a.cache.set("k", "second"));  // now it is held
  p.b.catch_up(p.redis);
  CHECK(local(p.b.cache, "k") == "second");
  must(p.a.cache.set_with_invalidate("other", "v"));  // as asked for
  CHECK(p.a.cache.stats().announced_cold == 1);
}

TEST_CASE("a value above push_max_bytes is announced and read, not pushed") {
  Pair p([](Options& options) { options.push_max_bytes = 100; });
  const std::string small(100, 's');
  const std::string large(101, 'l');
  must(p.a.cache.set("small", small));
  must(p.a.cache.set("large", large));
  p.catch_up();
  CHECK(local(p.b.cache, "small") == small);
  CHECK_FALSE(local(p.b.cache, "large"));
  CHECK(value_of(p.b.cache, "large") == large);
  CHECK(local(p.a.cache, "large") == large);
}

TEST_CASE("a value that fits no stripe lives in Redis alone, and no older copy is left anywhere") {
  Pair p([](Options& options) { options.push_max_bytes = 8u << 20; });
  must(p.a.cache.set("k", "small"));
  p.catch_up();
  const std::string huge(4'000'000, 'h');
  must(p.a.cache.set("k", huge));
  p.catch_up();
  CHECK_FALSE(local(p.a.cache, "k"));
  CHECK_FALSE(local(p.b.cache, "k"));
  CHECK(value_of(p.a.cache, "k") == huge);
  CHECK(value_of(p.b.cache, "k") == huge);
  CHECK(p.b.cache.stats().too_large >= 1);
}

TEST_CASE("a value above value_max_bytes is written to Redis, said to be, and held nowhere") {
  Pair p([](Options& options) { options.value_max_bytes = 1000; });
  must(p.a.cache.set("k", "small"));
  p.catch_up();
  CHECK(local(p.b.cache, "k") == "small");
  const std::string large(1001, 'l');
  const Status status = p.a.cache.set("k", large);
  CHECK(status.code() == Code::kTooLarge);
  CHECK(mentions(status, "Redis has it"));
  CHECK(in_redis(p.redis, "k") == large);
  p.catch_up();
  for (Cache* cache : {&p.a.cache, &p.b.cache}) {
    CHECK_FALSE(local(*cache, "k"));
    CHECK(value_of(*cache, "k") == large);
    CHECK_FALSE(local(*cache, "k"));  // reading it does not keep it either
  }
  must(p.b.cache.set("k", "small again"));
  p.catch_up();
  CHECK(local(p.a.cache, "k") == "small again");
}

TEST_CASE("a pushed value above another host's value_max_bytes is not held there") {
  Pair p([](Options& options) {
    if (options.name == "b") options.value_max_bytes = 10;
  });
  must(p.a.cache.set("k", "small"));
  p.catch_up();
  CHECK(local(p.b.cache, "k") == "small");
  must(p.a.cache.set("k", "more than ten bytes"));
  p.catch_up();
  CHECK_FALSE(local(p.b.cache, "k"));
  CHECK(value_of(p.b.cache, "k") == "more than ten bytes");
}

TEST_CASE("an empty value is a value") {
  Pair p;
  must(p.a.cache.set("k", ""));
  CHECK(local(p.a.cache, "k") == "");
  p.catch_up();
  CHECK(value_of(p.b.cache, "k") == "");
  CHECK(local(p.b.cache, "k") == "");
  CHECK(in_redis(p.redis, "k") == "");
}

TEST_CASE("H16: any bytes are a key, and the same key on every host") {
  Pair p;
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes += static_cast<char>(byte);
  const std::vector<std::string> keys = {
      all_bytes, "\xff"s, "\xfe"s, "\xef\xbf\xbd"s, "bad\xff\xfe\0"s, "\xed\xa0\x80"s, "\0"s, "*"s};
  for (const std::string& key : keys) {
    must(p.a.cache.set(key, "one of " + key));
    must(p.a.cache.set_with_invalidate(key + "/i", "one"));
  }
  // One host at a time: an own change that is ahead of the events may refuse those of keys that
  // share its guard.
  p.catch_up();
  for (const std::string& key : keys) must(p.b.cache.set(key + "/r", "one"));
  p.catch_up();
  for (const std::string& key : keys) {
    CAPTURE(key);
    CHECK(local(p.b.cache, key) == "one of " + key);
    CHECK(value_of(p.b.cache, key + "/i") == "one");
    CHECK(local(p.a.cache, key + "/r") == "one");
    CHECK(in_redis(p.redis, key) == "one of " + key);
  }
  for (const std::string& key : keys) {
    must(p.a.cache.set(key, all_bytes));
    must(p.a.cache.set_with_invalidate(key + "/i", "two"));
    must(p.a.cache.remove(key + "/r"));
  }
  p.catch_up();
  for (const std::string& key : keys) {
    CAPTURE(key);
    CHECK(local(p.b.cache, key) == all_bytes);
    CHECK(value_of(p.b.cache, key + "/i") == "two");
    CHECK_FALSE(value_of(p.b.cache, key + "/r"));
  }
  CHECK(p.b.cache.stats().epoch_raises == 1);  // the subscription's: no event was a gap
}

TEST_CASE("hosts that speak MessagePack converge") {
  Pair p([](Options& options) {
    options.wire_format = WireFormat::kMsgpack;
    options.key_prefix = "m:";
  });
  const std::string binary("\0\xff\x80 value", 9);
  must(p.a.cache.set("k\xff", binary, 1h));
  must(p.b.cache.set("gone", "v"));
  p.catch_up();
  CHECK(local(p.b.cache, "k\xff") == binary);
  CHECK(local(p.a.cache, "gone") == "v");
  must(p.a.cache.remove("gone"));
  must(p.a.cache.set_with_invalidate("k\xff", "two"));
  p.catch_up();
  CHECK_FALSE(local(p.b.cache, "gone"));
  CHECK_FALSE(local(p.b.cache, "k\xff"));
  CHECK(value_of(p.b.cache, "k\xff") == "two");
  must(p.b.cache.clear());
  p.catch_up();
  CHECK_FALSE(value_of(p.a.cache, "k\xff"));
  CHECK(p.a.cache.stats().events_malformed == 0);
  CHECK(p.server.command_calls("get") == 2);
}

// ---- clearing ---------------------------------------------------------------------------------

TEST_CASE("H10: clear removes the cache's own prefix, and nobody else's keys") {
  Pair p([](Options& options) { options.key_prefix = "app:"; });
  p.redis.command({"SET", "other:k", "theirs"});
  p.redis.command({"SET", "app", "theirs"});
  p.redis.command({"SET", "app*", "theirs"});
  p.redis.command({"HSET", "hash", "f", "v"});
  for (int i = 0; i < 700; ++i) must(p.a.cache.set("k" + std::to_string(i), "v"));
  p.catch_up();
  CHECK(local(p.b.cache, "k699"));
  // Held on a host, but evicted by Redis: no scan finds it.
  p.redis.command({"DEL", "app:k5"});
  CHECK(local(p.b.cache, "k5"));

  must(p.a.cache.clear());
  p.catch_up();
  for (int i = 0; i < 700; ++i) {
    const std::string key = "k" + std::to_string(i);
    CAPTURE(key);
    CHECK_FALSE(local(p.a.cache, key));
    CHECK_FALSE(local(p.b.cache, key));
    CHECK_FALSE(in_redis(p.redis, "app:" + key));
  }
  CHECK(in_redis(p.redis, "other:k") == "theirs");
  CHECK(in_redis(p.redis, "app") == "theirs");
  CHECK(in_redis(p.redis, "app*") == "theirs");
  CHECK(p.redis.command({"HGET", "hash", "f"}) == "v");
  // And it goes on.
  must(p.a.cache.set("k1", "new"));
  p.catch_up();
  CHECK(local(p.b.cache, "k1") == "new");
}

TEST_CASE("clear without a prefix drops every host's copies, leaves Redis alone and says so") {
  Pair p;
  must(p.a.cache.set("k", "v"));
  must(p.b.cache.set("l", "v"));
  p.redis.command({"SET", "theirs", "v"});
  p.catch_up();
  const Status status = p.a.cache.clear();
  CHECK(status.code() == Code::kRefused);
  CHECK(mentions(status, "key_prefix"));
  CHECK(mentions(status, "clear_scope"));
  p.catch_up();
  for (Host* host : {&p.a, &p.b}) {
    CHECK_FALSE(local(host->cache, "k"));
    CHECK_FALSE(local(host->cache, "l"));
  }
  CHECK(in_redis(p.redis, "k") == "v");
  CHECK(in_redis(p.redis, "theirs") == "v");
  CHECK(value_of(p.b.cache, "k") == "v");
  CHECK(p.server.command_calls("flushdb") + p.server.command_calls("flushall") == 0);
}

TEST_CASE("clear with the database scope empties the database and every host") {
  Pair p([](Options& options) {
    options.clear_scope = ClearScope::kDatabase;
    options.redis.database = 2;
  });
  must(p.a.cache.set("k", "v"));
  p.redis.command({"SET", "in database 0", "v"});
  p.redis.command({"SELECT", "2"});
  p.redis.command({"SET", "other", "v"});
  p.catch_up();
  must(p.b.cache.clear());
  p.catch_up();
  CHECK_FALSE(local(p.a.cache, "k"));
  CHECK_FALSE(value_of(p.a.cache, "k"));
  CHECK_FALSE(in_redis(p.redis, "other"));
  must(p.a.cache.set("k", "again"));
  p.catch_up();
  CHECK(local(p.b.cache, "k") == "again");
  CHECK(p.b.cache.stats().epoch_raises == 1);  // the log went on: nobody had to drop everything
  p.redis.command({"SELECT", "0"});
  CHECK(in_redis(p.redis, "in database 0") == "v");
}

TEST_CASE("two prefixes on one channel do not disturb each other") {
  const RedisServer server;
  const TempDir folder;
  const auto made = [&](const char* name, const char* prefix) {
    Options options = host_options(folder, name, server.unix_socket());
    options.key_prefix = prefix;
    return options;
  };
  Host red(made("red", "red:"));
  Host blue(made("blue", "blue:"));
  RedisConnection redis = server.connect();
  must(red.cache.set("k", "red"));
  must(blue.cache.set("k", "blue"));
  red.catch_up(redis);
  blue.catch_up(redis);
  CHECK(local(red.cache, "k") == "red");
  CHECK(local(blue.cache, "k") == "blue");
  must(red.cache.remove("k"));
  must(red.cache.set("l", "red"));
  must(red.cache.clear());
  red.catch_up(redis);
  blue.catch_up(redis);
  CHECK(local(blue.cache, "k") == "blue");
  CHECK_FALSE(local(red.cache, "l"));
  CHECK(in_redis(redis, "blue:k") == "blue");
  CHECK(blue.cache.stats().events_foreign >= 4);
  CHECK(blue.cache.stats().epoch_raises == 1);
  CHECK(red.cache.stats().epoch_raises == 1);
}

TEST_CASE("two databases on one channel do not disturb each other") {
  const RedisServer server;
  const TempDir folder;
  const auto made = [&](const char* name, int database) {
    Options options = host_options(folder, name, server.unix_socket());
    options.redis.database = database;
    options.clear_scope = ClearScope::kDatabase;
    return options;
  };
  Host zero(made("zero", 0));
  Host one(made("one", 1));
  RedisConnection in_zero = server.connect();
  RedisConnection in_one = server.connect();
  in_one.command({"SELECT", "1"});
  for (int i = 0; i < 20; ++i) {
    must(zero.cache.set("k", "zero " + std::to_string(i)));
    must(one.cache.set("k", "one " + std::to_string(i)));
  }
  zero.catch_up(in_zero);
  one.catch_up(in_one);
  CHECK(local(zero.cache, "k") == "zero 19");
  CHECK(local(one.cache, "k") == "one 19");
  must(one.cache.clear());
  zero.catch_up(in_zero);
  one.catch_up(in_one);
  CHECK(local(zero.cache, "k") == "zero 19");
  CHECK_FALSE(value_of(one.cache, "k"));
  // Another log's ids are no gaps in ours.
  CHECK(zero.cache.stats().epoch_raises == 1);
  CHECK(one.cache.stats().epoch_raises == 1);
}

// ---- what arrives late ------------------------------------------------------------------------

TEST_CASE("H5: a reply that left Redis before another host's change does not overwrite it") {
  SlowPair p;
  p.redis.command({"SET", "key-of-this-test", "old"});
  p.proxy.hold_answer_to("key-of-this-test");
  std::thread reader([&] { (void)p.slow.cache.get("key-of-this-test"); });
  REQUIRE(p.proxy.await_held());

  SUBCASE("when the change is pushed") {
    must(p.fast.cache.set("key-of-this-test", "new"));
    p.slow.catch_up(p.redis);
    p.proxy.release();
    reader.join();
    CHECK(local(p.slow.cache, "key-of-this-test") == "new");
  }
  SUBCASE("when the change is only announced") {
    must(p.fast.cache.set_with_invalidate("key-of-this-test", "new"));
    p.slow.catch_up(p.redis);
    p.proxy.release();
    reader.join();
    CHECK_FALSE(local(p.slow.cache, "key-of-this-test"));
  }
  SUBCASE("when the key was removed") {
    must(p.fast.cache.remove("key-of-this-test"));
    p.slow.catch_up(p.redis);
    p.proxy.release();
    reader.join();
    CHECK_FALSE(local(p.slow.cache, "key-of-this-test"));
  }
  SUBCASE("when everything was cleared") {
    CHECK(p.fast.cache.clear().code() == Code::kRefused);
    p.slow.catch_up(p.redis);
    p.proxy.release();
    reader.join();
    CHECK_FALSE(local(p.slow.cache, "key-of-this-test"));
  }
  SUBCASE("when a peer without ids changed it") {
    p.redis.command({"SET", "key-of-this-test", "new"});
    p.redis.command(
        {"PUBLISH", kChannel, R"({"key":"key-of-this-test","sender":"go","action":"invalidate"})"});
    REQUIRE(await([&] { return p.slow.cache.stats().events_without_id == 1; }));
    p.proxy.release();
    reader.join();
    CHECK_FALSE(local(p.slow.cache, "key-of-this-test"));
  }
  CHECK(p.slow.cache.stats().stores_refused <= 1);
  const auto now = in_redis(p.redis, "key-of-this-test");
  CHECK(value_of(p.slow.cache, "key-of-this-test") == now);
}

TEST_CASE("H18: a reply that left Redis before this host's own set does not overwrite it") {
  SlowPair p;
  p.redis.command({"SET", "key-of-this-test", "old"});
  p.proxy.hold_answer_to("key-of-this-test");
  std::thread reader([&] { (void)p.slow.cache.get("key-of-this-test"); });
  REQUIRE(p.proxy.await_held());
  SUBCASE("a set") {
    must(p.slow.cache.set("key-of-this-test", "new"));
    p.proxy.release();
    reader.join();
    CHECK(local(p.slow.cache, "key-of-this-test") == "new");
    CHECK(p.slow.cache.stats().stores_refused == 1);
  }
  SUBCASE("a removal") {
    must(p.slow.cache.remove("key-of-this-test"));
    p.proxy.release();
    reader.join();
    CHECK_FALSE(local(p.slow.cache, "key-of-this-test"));
    CHECK(p.slow.cache.stats().stores_refused == 1);
  }
}

TEST_CASE("H4: of two writes of one key the later one stays, however late the earlier's reply is") {
  SlowPair p;
  p.proxy.hold_answer_to("key-of-this-test");
  std::thread writer([&] { must(p.slow.cache.set("key-of-this-test", "first")); });
  REQUIRE(p.proxy.await_held());
  must(p.fast.cache.set("key-of-this-test", "second"));
  p.slow.catch_up(p.redis);
  p.proxy.release();
  writer.join();
  CHECK(local(p.slow.cache, "key-of-this-test") == "second");
  CHECK(local(p.fast.cache, "key-of-this-test") == "second");
  CHECK(in_redis(p.redis, "key-of-this-test") == "second");
}

TEST_CASE("H4: two hosts that set one key at one moment agree with Redis afterwards, 2,000 times") {
  Pair p;
  constexpr int kRounds = 2000;
  std::barrier both(2);
  std::atomic<int> failed{0};
  const auto write = [&](Cache& cache, const char* who) {
    for (int i = 0; i < kRounds; ++i) {
      both.arrive_and_wait();
      if (!cache.set("k" + std::to_string(i), who).ok()) ++failed;
    }
  };
  std::thread other([&] { write(p.b.cache, "b"); });
  write(p.a.cache, "a");
  other.join();
  REQUIRE(failed == 0);
  p.catch_up();

  int disagreed = 0;
  int won_by_a = 0;
  for (int i = 0; i < kRounds; ++i) {
    const std::string key = "k" + std::to_string(i);
    const auto truth = in_redis(p.redis, key);
    REQUIRE(truth);
    if (*truth == "a") ++won_by_a;
    for (Host* host : {&p.a, &p.b}) {
      const auto held = local(host->cache, key);
      if (held && *held != *truth) ++disagreed;
      if (value_of(host->cache, key) != truth) ++disagreed;
    }
  }
  CHECK(disagreed == 0);
  // They did cross.
  CHECK(won_by_a > 0);
  CHECK(won_by_a < kRounds);
  MESSAGE("won by one host: " << won_by_a << " of " << kRounds);
}

// ---- when Redis is not there ------------------------------------------------------------------

TEST_CASE("H1: a write that failed leaves no local copy and no older one") {
  Pair p;
  must(p.a.cache.set("k", "old"));
  p.redis.command({"LPUSH", "list", "x"});
  const Status wrong_type = p.a.cache.set("list", "v");
  CHECK(wrong_type.code() == Code::kRefused);
  CHECK_FALSE(local(p.a.cache, "list"));

  p.server.stop();
  for (const Status& status : {p.a.cache.set("k", "new"), p.a.cache.set("fresh", "new"),
                               p.a.cache.set_with_invalidate("k", "new")}) {
    CHECK(status.code() == Code::kUnavailable);
    CHECK_FALSE(status.message().empty());
  }
  CHECK_FALSE(local(p.a.cache, "k"));
  CHECK_FALSE(local(p.a.cache, "fresh"));
  CHECK(p.a.cache.remove("k").code() == Code::kUnavailable);
  CHECK(p.a.cache.clear().code() == Code::kUnavailable);
  const Stats stats = p.a.cache.stats();
  CHECK(stats.remote_errors + stats.not_asked == 6);
}

TEST_CASE(
    "H9, H12: a Redis that is down is an error or a marked answer, and its return drops all") {
  Pair p;
  must(p.a.cache.set("k", "v"));
  p.catch_up();
  const std::uint64_t epoch = p.a.cache.stats().epoch;
  p.server.stop();
  REQUIRE(await([&] { return !p.a.cache.in_sync(); }));

  const auto missing = p.a.cache.get("not here");
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.code() == Code::kUnavailable);
  CHECK(mentions(missing.status(), p.server.unix_socket()));
  const Lookup held = must(p.a.cache.get("k"));
  CHECK(held.source == Source::kLocal);
  CHECK(held.value == "v");
  CHECK(held.stale);
  CHECK(p.a.cache.stats().stale_hits == 1);
  CHECK_FALSE(p.a.cache.stats().in_sync);

  p.server.start();  // it kept nothing
  REQUIRE(await([&] { return p.a.cache.in_sync() && p.b.cache.in_sync(); }));
  CHECK(p.a.cache.stats().epoch > epoch);
  CHECK_FALSE(local(p.a.cache, "k"));
  CHECK_FALSE(value_of(p.a.cache, "k"));
  CHECK_FALSE(value_of(p.b.cache, "k"));
  RedisConnection redis = p.server.connect();
  must(p.a.cache.set("k", "again"));
  p.a.catch_up(redis);
  p.b.catch_up(redis);
  const Lookup fresh = must(p.b.cache.get("k"));
  CHECK(fresh.value == "again");
  CHECK(fresh.source == Source::kLocal);
  CHECK_FALSE(fresh.stale);
}

TEST_CASE("without its lease a host does with its copy what stale_reads says") {
  struct Case {
    StaleReads policy;
    std::chrono::milliseconds limit;
    Code code;  // of a get while Redis is gone
  };
  for (const Case& c :
       {Case{StaleReads::kVerify, 0ms, Code::kOk}, Case{StaleReads::kServe, 0ms, Code::kOk},
        Case{StaleReads::kMiss, 0ms, Code::kUnavailable},
        Case{StaleReads::kError, 0ms, Code::kUnavailable},
        Case{StaleReads::kVerify, 1ms, Code::kUnavailable},
        Case{StaleReads::kServe, 1ms, Code::kUnavailable}}) {
    CAPTURE(static_cast<int>(c.policy));
    CAPTURE(c.limit.count());
    const TempDir folder;
    RedisServer server;
    Options options = host_options(folder, "h", server.unix_socket());
    options.stale_reads = c.policy;
    options.stale_limit = c.limit;
    Host host(options);
    must(host.cache.set("k", "v"));
    CHECK_FALSE(must(host.cache.get("k")).stale);
    server.stop();
    REQUIRE(await([&] { return !host.cache.in_sync(); }));
    std::this_thread::sleep_for(20ms);  // past the limit

    const auto got = host.cache.get("k");
    CHECK(got.code() == c.code);
    if (got.ok()) {
      CHECK(got->value == "v");
      CHECK(got->stale);
    }
    std::array<Lookup, 1> lookups;
    const std::array<std::string_view, 1> keys{"k"};
    CHECK(host.cache.get_many(keys, lookups).code() == c.code);
    CHECK(lookups[0].hit() == got.ok());
    Lookup found;
    must(host.cache.get_local("k", found));  // never asks
    CHECK(found.value == "v");
    CHECK(found.stale);
    const auto view = host.cache.view("k");
    REQUIRE(view.ok());
    CHECK(view->stale());
  }
}

TEST_CASE("H9: what is announced while the subscription is broken is not missed") {
  Pair p;
  for (int round = 0; round < 5; ++round) {
    const std::string old_value = "old " + std::to_string(round);
    const std::string new_value = "new " + std::to_string(round);
    must(p.a.cache.set("k", old_value));
    p.catch_up();
    REQUIRE(p.redis.command({"CLIENT", "KILL", "TYPE", "pubsub"}).number == 2);
    must(p.a.cache.set("k", new_value));
    p.catch_up();
    const Lookup found = must(p.b.cache.get("k"));
    CHECK(found.value == new_value);
    CHECK_FALSE(found.stale);
  }
  CHECK(p.b.cache.stats().epoch_raises == 1);  // the first: nothing else had to go
}

TEST_CASE("a Redis that comes back empty under another history is noticed") {
  Pair p;
  for (int i = 0; i < 50; ++i) must(p.a.cache.set("k" + std::to_string(i), "old"));
  p.catch_up();
  p.server.restart(RedisServer::Data::kDrop);
  RedisConnection redis = p.server.connect();
  REQUIRE(await([&] {
    return p.a.cache.in_sync() && p.b.cache.in_sync() &&
           p.a.view.leader().cursor == log_end(redis) && p.b.view.leader().cursor == log_end(redis);
  }));
  for (int i = 0; i < 50; ++i) {
    CHECK_FALSE(value_of(p.a.cache, "k" + std::to_string(i)));
    CHECK_FALSE(value_of(p.b.cache, "k" + std::to_string(i)));
  }
  // Ids count from one again: they are not taken for old ones.
  for (int i = 0; i < 50; ++i) must(p.b.cache.set("k" + std::to_string(i), "new"));
  p.a.catch_up(redis);
  p.b.catch_up(redis);
  for (int i = 0; i < 50; ++i) CHECK(value_of(p.a.cache, "k" + std::to_string(i)) == "new");
}

TEST_CASE("FLUSHALL behind our back is noticed although nothing is written any more") {
  Pair p;
  for (int i = 0; i < 20; ++i) must(p.a.cache.set("k" + std::to_string(i), "old"));
  p.catch_up();
  p.redis.command({"FLUSHALL"});
  REQUIRE(
      await([&] { return p.a.view.leader().cursor.none() && p.b.view.leader().cursor.none(); }));
  for (int i = 0; i < 20; ++i) {
    CHECK_FALSE(value_of(p.a.cache, "k" + std::to_string(i)));
    CHECK_FALSE(value_of(p.b.cache, "k" + std::to_string(i)));
  }
}

TEST_CASE("FLUSHALL behind our back is noticed with the next write") {
  Pair p;
  for (int i = 0; i < 20; ++i) must(p.a.cache.set("k" + std::to_string(i), "old"));
  p.catch_up();
  p.redis.command({"FLUSHALL"});
  must(p.b.cache.set("another", "v"));
  p.catch_up();
  for (int i = 0; i < 20; ++i) {
    CHECK_FALSE(value_of(p.a.cache, "k" + std::to_string(i)));
    CHECK_FALSE(value_of(p.b.cache, "k" + std::to_string(i)));
  }
  CHECK(value_of(p.a.cache, "another") == "v");
  CHECK(value_of(p.b.cache, "another") == "v");
}

TEST_CASE("H20: a Redis that is stopped delays a call by redis.timeout, not more") {
  const TempDir folder;
  RedisServer server;
  Options options = host_options(folder, "h", server.unix_socket());
  options.redis.timeout = 150ms;
  Host host(options);
  must(host.cache.set("k", "v"));
  server.pause();
  const auto bounded = [](auto&& call) {
    const Stopwatch watch;
    const Status status = call();
    const auto took = watch.elapsed();
    CHECK(status.code() == Code::kUnavailable);
    CHECK(took >= 140ms);
    CHECK(took < 900ms);
  };
  bounded([&] { return host.cache.set("k2", "v"); });
  const Stopwatch watch;
  CHECK(local(host.cache, "k") == "v");  // does not ask
  CHECK(watch.elapsed() < 100ms);
  // The silence is noticed although the connection stands.
  CHECK(await([&] { return must(host.cache.get("k")).stale; }));
  server.resume();
  CHECK(await([&] { return host.cache.in_sync(); }));
  // The write that nobody waited for may have been carried out: it is read, not invented.
  RedisConnection redis = server.connect();
  CHECK(value_of(host.cache, "k2") == in_redis(redis, "k2"));
}

TEST_CASE("once Redis did not answer nobody waits for it again until it is heard of") {
  const TempDir folder;
  RedisServer server;
  Options options = host_options(folder, "h", server.unix_socket());
  options.redis.timeout = 500ms;
  Host host(options);
  must(host.cache.set("k", "v"));
  must(host.cache.set("other", "v"));
  server.pause();
  CHECK(host.cache.get("not here").code() == Code::kUnavailable);  // waits
  const auto calls = [&] { return server.command_calls("evalsha") + server.command_calls("eval"); };
  const auto refused = [](const Status& status) {
    CHECK(status.code() == Code::kUnavailable);
    CHECK(status.message().find("was not asked") != std::string::npos);
  };
  refused(host.cache.get("not here").status());
  refused(host.cache.set("k", "new"));
  refused(host.cache.remove("k"));
  refused(host.cache.clear());
  REQUIRE(await([&] { return !host.cache.in_sync(); }));
  const Lookup held = must(host.cache.get("k"));  // what was not asked has changed nothing
  CHECK(held.value == "v");
  CHECK(held.stale);
  server.resume();
  REQUIRE(await([&] { return host.cache.in_sync(); }));
  const std::uint64_t before = calls();
  must(host.cache.set("k", "newer"));
  CHECK(calls() == before + 1);
}

TEST_CASE("a Redis that is full is followed and read, and says so to who writes") {
  const TempDir folder;
  RedisServer server;
  Host host(host_options(folder, "h", server.unix_socket()));
  must(host.cache.set("k", "old"));
  RedisConnection redis = server.connect();
  redis.command({"SET", "other", "v"});
  REQUIRE_FALSE(redis.command({"CONFIG", "SET", "maxmemory", "1"}).is_error());
  std::this_thread::sleep_for(2 * host.cache.options().lease);  // whatever was held before is over
  CHECK(host.cache.in_sync());
  CHECK(value_of(host.cache, "other") == "v");
  const Status refused = host.cache.set("k", "new");
  CHECK(refused.message().find("full") != std::string::npos);
  REQUIRE_FALSE(redis.command({"CONFIG", "SET", "maxmemory", "0"}).is_error());
  CHECK(value_of(host.cache, "k") == "old");
  CHECK(host.cache.in_sync());
}

TEST_CASE("H8: a connection that stands but carries nothing is noticed, and so is its return") {
  SlowPair p;
  must(p.fast.cache.set("k", "old"));
  p.slow.catch_up(p.redis);
  CHECK(local(p.slow.cache, "k") == "old");
  p.proxy.freeze(true);
  must(p.fast.cache.set("k", "new"));
  REQUIRE(await([&] { return !p.slow.cache.in_sync(); }));
  Lookup found;
  must(p.slow.cache.get_local("k", found));
  CHECK(found.stale);
  p.proxy.freeze(false);
  REQUIRE(await([&] { return p.slow.cache.in_sync(); }));
  p.slow.catch_up(p.redis);
  CHECK(value_of(p.slow.cache, "k") == "new");
}

TEST_CASE("a connection dropped in the middle of a call is an error, and the next call works") {
  SlowPair p;
  must(p.slow.cache.set("key-of-this-test", "old"));
  p.proxy.hold_answer_to("key-of-this-test");
  Status outcome;
  std::thread writer([&] { outcome = p.slow.cache.set("key-of-this-test", "new"); });
  REQUIRE(p.proxy.await_held());
  p.proxy.drop_all();
  writer.join();
  CHECK(outcome.code() == Code::kUnavailable);
  CHECK(mentions(outcome, "not known"));
  // It was carried out: whoever serves the old value now would be wrong.
  CHECK(in_redis(p.redis, "key-of-this-test") == "new");
  CHECK(local(p.slow.cache, "key-of-this-test").value_or("new") == "new");
  CHECK(value_of(p.slow.cache, "key-of-this-test") == "new");
  p.proxy.release();
  REQUIRE(await([&] { return p.slow.cache.in_sync(); }));
  must(p.slow.cache.set("key-of-this-test", "newer"));
  p.fast.catch_up(p.redis);
  CHECK(local(p.fast.cache, "key-of-this-test") == "newer");
}

TEST_CASE("a change that is not announced is counted, and a logger cannot change its key") {
  struct Nosy final : Logger {
    Cache* cache = nullptr;
    const std::thread::id caller = std::this_thread::get_id();
    void log(LogLevel, std::string_view) override {
      if (std::this_thread::get_id() != caller) return;  // the sync thread's own messages
      Lookup lookup;
      if (cache != nullptr) (void)cache->get_local("another", lookup);
    }
  };
  TempDir folder;
  RedisServer server;
  RedisConnection redis(server.unix_socket());
  REQUIRE_FALSE(redis.command({"ACL", "SETUSER", "default", "resetchannels"}).is_error());
  auto nosy = std::make_shared<Nosy>();
  Options options = test::host_options(folder, "a", server.unix_socket());
  options.key_prefix = "p:";
  options.logger = nosy;
  auto opened = Cache::open(options);
  REQUIRE(opened.ok());
  Cache cache = std::move(*opened);
  REQUIRE(cache.start().ok());
  nosy->cache = &cache;
  CHECK(cache.set("mine123", "v").ok());
  CHECK(cache.stats().unpublished == 1);
  Lookup lookup;
  REQUIRE(cache.get_local("mine123", lookup).ok());
  CHECK(lookup.value == "v");
  REQUIRE(cache.get_local("another", lookup).ok());
  CHECK_FALSE(lookup.hit());
}

TEST_CASE("a wrong password, or none, is named and is no miss") {
  const TempDir folder;
  const RedisServer server({.lines = {"requirepass secret"}, .password = "secret"});
  Options options = host_options(folder, "h", server.unix_socket());
  for (const std::string password : {"", "wrong-one"}) {
    CAPTURE(password);
    options.redis.password = password;
    Cache cache = open(options);
    for (const Status& status : {cache.get("k").status(), cache.set("k", "v"), cache.remove("k")}) {
      CAPTURE(status.to_string());
      CHECK(status.code() == Code::kPermissionDenied);
      CHECK(mentions(status, "redis.password"));
      CHECK_FALSE(mentions(status, "wrong-one"));
    }
    CHECK_FALSE(local(cache, "k"));
    CHECK_FALSE(cache.in_sync());
  }
  options.redis.password = "secret";
  Host host(options);
  must(host.cache.set("k", "v"));
  CHECK(value_of(host.cache, "k") == "v");
}

TEST_CASE("a cache opens and starts while Redis is down, and finds it when it comes") {
  const TempDir folder;
  RedisServer server({.tcp = true});
  server.stop();
  Cache cache = open(host_options(folder, "h", server.tcp_address()));
  must(cache.start());
  const auto missing = cache.get("k");
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.code() == Code::kUnavailable);
  CHECK(mentions(missing.status(), server.tcp_address()));
  CHECK(cache.set("k", "v").code() == Code::kUnavailable);
  CHECK_FALSE(cache.in_sync());
  server.start();
  CHECK(await([&] { return cache.in_sync(); }));
  must(cache.set("k", "v"));
  CHECK(value_of(cache, "k") == "v");
}

// ---- leaving ----------------------------------------------------------------------------------

TEST_CASE("what a host leaves behind is warm, but not in sync before somebody follows again") {
  const TempDir folder;
  RedisServer server;
  const Options options = host_options(folder, "h", server.unix_socket());
  {
    Host host(options);
    must(host.cache.set("k", "v"));
    CHECK_FALSE(must(host.cache.get("k")).stale);
  }
  Cache cache = open(options);
  Lookup found;
  REQUIRE(await([&] {
    must(cache.get_local("k", found));
    return found.stale;
  }));
  CHECK(found.value == "v");
}

TEST_CASE("caches come and go while others of their host go on") {
  const TempDir folder;
  const RedisServer server;
  const Options options = host_options(folder, "h", server.unix_socket());
  Host stays(options);
  RedisConnection redis = server.connect();
  for (int i = 0; i < 20; ++i) {
    Cache guest = open(options);
    must(guest.start());
    must(guest.set("k", std::to_string(i)));
    CHECK(value_of(stays.cache, "k") == std::to_string(i));
  }
  CHECK(await([&] { return stays.cache.in_sync(); }));
  stays.catch_up(redis);
  CHECK(stays.cache.stats().processes == 1);
  CHECK(stays.view.check(true).violations.empty());
}
