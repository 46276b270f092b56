// Redis answers, but not what larder asked for: it is full, forgot the scripts, forbids commands,
// wants another password, holds something else under a key.
//
// In each: the error says what is wrong and what to do, a change that failed leaves no copy, what
// is held is not harmed, and when the cause is gone all goes on by itself.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "src/sync/scripts.h"
#include "tests/fault/traffic.h"

using namespace larder;
using namespace std::chrono_literals;
using fault::kPatience;
using fault::Site;
using fault::Traffic;
using test::await;
using test::RedisConnection;
using test::RedisServer;
using test::TempDir;

namespace {

const std::string kLog = sync::log_key(RedisOptions().channel);

bool mentions(const Status& status, std::string_view text) {
  return status.message().find(text) != std::string::npos;
}

struct Forbidden {
  std::vector<std::string> commands;
  std::string named;  // in the errors
};

void forbid(RedisConnection& redis, const Forbidden& what) {
  std::vector<std::string> rule{"ACL", "SETUSER", "default"};
  for (const std::string& command : what.commands) rule.push_back("-" + command);
  REQUIRE(redis.command(rule) == "OK");
}
void permit_all(RedisConnection& redis) {
  REQUIRE(redis.command({"ACL", "SETUSER", "default", "+@all"}) == "OK");
}

}  // namespace

TEST_CASE("a limit on what a subscriber may fall behind that no event fits into") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
  REQUIRE(redis.command({"CONFIG", "SET", "client-output-buffer-limit", "pubsub 4096 2048 1"}) ==
          "OK");
  // Each of these ends every subscription, and does not arrive.
  std::string value;
  for (char c = 'a'; c < 'f'; ++c) {
    value = std::string(15'000, c);
    t.scene.hold("large", value);
  }
  REQUIRE(await([&] { return t.scene.logged("subscription lost"); }, kPatience));
  REQUIRE(redis.command({"CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60"}) ==
          "OK");
  CHECK(t.judge().failed_writes == 0);
  CHECK(t.scene.far.get("large").value == value);
  CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
}

TEST_CASE("SCRIPT FLUSH: nobody notices") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  for (int round = 0; round < 20; ++round) {
    REQUIRE(redis.command({"SCRIPT", "FLUSH"}) == "OK");
    t.await_fresh_reads(50);
  }
  const auto report = t.judge();
  CHECK(report.failed_writes == 0);
  CHECK(report.failed_reads == 0);
}

TEST_CASE("a Redis that is full takes no set, says so, and goes on being read") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  t.scene.hold("k", "old");
  REQUIRE(redis.command({"CONFIG", "SET", "maxmemory-policy", "noeviction"}) == "OK");
  REQUIRE(redis.command({"CONFIG", "SET", "maxmemory", "1mb"}) == "OK");
  for (Site* site : {&t.scene.near, &t.scene.far}) {
    const Status set = site->cache.set("k", "new");
    CHECK(set.code() == Code::kUnavailable);
    CHECK(mentions(set, "Redis is full: raise maxmemory"));
    CHECK(site->local("k").empty());
    const Status fresh = site->cache.set("fresh", "new");
    CHECK(fresh.code() == Code::kUnavailable);
    CHECK(site->local("fresh").empty());
    // Read again: the old value, which Redis still has.
    const Lookup got = site->get("k");
    CHECK(got.value == "old");
    CHECK_FALSE(got.stale);
  }
  REQUIRE(await([&] { return t.watch.failed_writes() > 10; }, kPatience));
  REQUIRE(await([&] { return t.scene.in_sync(); }, kPatience));  // nothing is missed
  REQUIRE(redis.command({"CONFIG", "SET", "maxmemory", "0"}) == "OK");
  (void)t.judge();
  CHECK(t.watch.failed_reads() == 0);
}

TEST_CASE("another program's list under a key that is held") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  t.scene.hold("k", "old");
  REQUIRE(redis.command({"DEL", "k"}).number == 1);
  REQUIRE(redis.command({"LPUSH", "k", "x"}).number == 1);
  for (Site* site : {&t.scene.near, &t.scene.far}) {
    const Status set = site->cache.set("k", "new");
    CHECK(set.code() == Code::kRefused);
    CHECK(mentions(set, "another application uses this key"));
    CHECK(site->local("k").empty());
    const auto got = site->cache.get("k");
    CHECK(got.code() == Code::kRefused);  // no miss
    CHECK(site->cache.remove("nothing").ok());
  }
  CHECK(redis.command({"LLEN", "k"}).number == 1);
  REQUIRE(await([&] { return t.scene.in_sync(); }, kPatience));
  REQUIRE(redis.command({"DEL", "k"}).number == 1);
  t.scene.hold("k", "new");
  CHECK(t.judge().failed_writes == 0);
}

TEST_CASE("another program's value under the log's key") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  const std::uint64_t raises = t.scene.far.raises();
  REQUIRE(redis.command({"SET", kLog, "mine"}) == "OK");
  REQUIRE(await([&] { return t.scene.logged("WRONGTYPE"); }, kPatience));
  t.outlive_lease();
  const Status set = t.scene.near.cache.set("held", "nowhere");
  CHECK(set.code() == Code::kRefused);
  CHECK(t.scene.near.local("held").empty());
  CHECK(redis.command({"GET", "held"}) == "before");
  CHECK(redis.command({"GET", kLog}) == "mine");
  REQUIRE(redis.command({"DEL", kLog}).number == 1);
  (void)t.judge();
  CHECK(t.scene.far.raises() > raises);
}

TEST_CASE("a replica is configured as the server: read from, never trusted, never written to") {
  const RedisServer primary({.tcp = true, .lines = {"repl-diskless-sync-delay 0"}});
  RedisServer replica;
  const std::string port = primary.tcp_address().substr(std::string("127.0.0.1:").size());
  const TempDir folder;
  Site writer(test::host_options(folder, "writer", primary.unix_socket()));
  REQUIRE(writer.cache.set("k", "v").ok());
  REQUIRE(replica.connect().command({"REPLICAOF", "127.0.0.1", port}) == "OK");
  RedisConnection there = replica.connect();
  REQUIRE(await([&] { return there.command({"GET", "k"}) == "v"; }, kPatience));

  Site site(test::host_options(folder, "reader", replica.unix_socket()));
  REQUIRE(await([&] { return site.logged("no primary any more"); }, kPatience));
  CHECK_FALSE(site.in_sync());
  const Lookup got = site.get("k");
  CHECK(got.value == "v");
  CHECK(got.source == Source::kRemote);
  const Status set = site.cache.set("k", "new");
  CHECK(set.code() == Code::kUnavailable);
  CHECK(mentions(set, "this is a replica: point redis.address at the primary"));
  CHECK(site.local("k").empty());
  REQUIRE(writer.cache.set("k", "newer").ok());
  REQUIRE(await([&] { return site.get("k").value == "newer"; }, kPatience));
  CHECK(site.get("k").source == Source::kRemote);  // never from what it holds
  // Promoted, it is as good as any.
  REQUIRE(replica.connect().command({"REPLICAOF", "NO", "ONE"}) == "OK");
  REQUIRE(await([&] { return site.in_sync(); }, kPatience));
  CHECK(site.cache.set("k", "newest").ok());
  CHECK(site.local("k") == "newest");
}

TEST_CASE("commands that changes need are forbidden by the ACL: named, and nothing is harmed") {
  for (const Forbidden& what : {Forbidden{{"evalsha", "eval", "multi"}, "'multi'"},
                                Forbidden{{"xadd"}, "XADD"}, Forbidden{{"set"}, "SET"}}) {
    CAPTURE(what.named);
    Traffic t;
    RedisConnection redis = t.scene.server.connect();
    t.scene.hold("k", "old");
    forbid(redis, what);
    for (Site* site : {&t.scene.near, &t.scene.far}) {
      const Status set = site->cache.set("k", "new");
      INFO(set.to_string());
      CHECK(set.code() == Code::kPermissionDenied);
      CHECK(mentions(set, what.named));
      CHECK(mentions(set, "extend this user's ACL"));
      CHECK(site->local("k").empty());
      CHECK(site->local("held") == "before");
    }
    CHECK(redis.command({"GET", "k"}) == "old");
    permit_all(redis);
    CHECK(t.scene.far.get("k").value == "old");
    (void)t.judge();
  }
}

TEST_CASE("scripts are forbidden: changes are transactions, and all that is promised holds") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
  forbid(redis, {{"evalsha", "eval"}, ""});
  const std::uint64_t writes = t.watch.writes();
  REQUIRE(await([&] { return t.watch.writes() > writes + 1'000; }, kPatience));
  CHECK(t.scene.near.logged("may not run scripts"));
  // Also to a leader that has to read the log.
  (void)redis.command({"CLIENT", "KILL", "TYPE", "pubsub"});
  t.scene.hold("k", "transacted");
  t.await_fresh_reads(300);
  CHECK(t.judge().failed_writes == 0);
  CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
}

TEST_CASE("PUBLISH is forbidden: changes are made, and the others hear of them from the log") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
  t.scene.hold("k", "announced");
  forbid(redis, {{"publish"}, ""});
  const std::uint64_t writes = t.watch.writes();
  t.scene.hold("k", "unannounced");
  REQUIRE(await([&] { return t.watch.writes() > writes + 100; }, kPatience));
  CHECK(t.scene.near.logged("made but not announced"));
  CHECK(t.scene.near.logged("PUBLISH"));
  permit_all(redis);
  CHECK(t.judge().failed_writes == 0);
  CHECK(t.scene.near.cache.stats().unpublished > 100);
  CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
}

TEST_CASE("commands that only the leader needs are forbidden: no lease, and the log says why") {
  for (const Forbidden& what : {Forbidden{{"role"}, "'role'"}, Forbidden{{"xinfo"}, "'xinfo"},
                                Forbidden{{"subscribe"}, "'subscribe'"}}) {
    CAPTURE(what.named);
    Traffic t;
    RedisConnection redis = t.scene.server.connect();
    const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
    forbid(redis, what);
    // Who has subscribed may go on; the next one may not.
    (void)redis.command({"CLIENT", "KILL", "TYPE", "pubsub"});
    REQUIRE(await([&] { return t.scene.logged(what.named); }, kPatience));
    t.outlive_lease();
    CHECK(t.scene.far.local("held") == "before");
    permit_all(redis);
    (void)t.judge();
    CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
  }
}

TEST_CASE("commands that this Redis does not have are named") {
  for (const std::string command : {"EVALSHA", "XADD", "PUBLISH", "ROLE"}) {
    CAPTURE(command);
    const std::string renaming = "rename-command " + command + " \"\"";
    RedisServer::Config config{.lines = {renaming}};
    const RedisServer server(config);
    const TempDir folder;
    Site site(test::host_options(folder, "h", server.unix_socket()));
    const Status set = site.cache.set("k", "v");
    INFO(set.to_string() << '\n' << site.journal->all());
    if (command == "EVALSHA") {
      CHECK(set.ok());
      REQUIRE(await([&] { return site.in_sync(); }, kPatience));
    } else if (command == "ROLE") {
      CHECK(set.ok());
      REQUIRE(await([&] { return site.logged("ROLE"); }, kPatience));
      CHECK_FALSE(site.in_sync());
    } else if (command == "PUBLISH") {
      CHECK(set.ok());
      CHECK(site.logged("made but not announced"));
    } else {
      CHECK(set.code() == Code::kRefused);
      CHECK(mentions(set, "larder needs Redis"));
      CHECK(mentions(set, command));
      CHECK(site.local("k").empty());
    }
  }
}

TEST_CASE("a Redis that repeats what it does not understand does not get the password logged") {
  const RedisServer server(RedisServer::Config{.lines = {"rename-command AUTH \"\""}});
  const TempDir folder;
  Options options = test::host_options(folder, "h", server.unix_socket());
  options.redis.password = "s3cret";
  Site site(options);
  REQUIRE(await([&] { return site.logged("cannot log in"); }, kPatience));
  CHECK(site.cache.set("k", "v").code() == Code::kPermissionDenied);
  CHECK_FALSE(site.logged("s3cret"));
}

TEST_CASE("the password changes: who is connected stays, who comes anew is told what is wrong") {
  struct Case {
    std::string configured;
    std::string server;
    std::string said;
  };
  for (const Case& c :
       {Case{"secret", "another", "redis.password"}, Case{"", "secret", "redis.password"}}) {
    CAPTURE(c.configured);
    RedisServer::Config config;
    if (!c.configured.empty()) {
      config.lines = {"requirepass " + c.configured};
      config.password = c.configured;
    }
    Traffic t({.server = config,
               .change = [&](Options& options) { options.redis.password = c.configured; }});
    RedisConnection redis = t.scene.server.connect();
    const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
    REQUIRE(redis.command({"CONFIG", "SET", "requirepass", c.server}) == "OK");
    t.await_fresh_reads(300);
    CHECK(redis.command({"CLIENT", "KILL", "TYPE", "normal"}).number >= 1);
    REQUIRE(await(
        [&] {
          return redis.command({"CLIENT", "KILL", "TYPE", "pubsub"}).number == 0;
        },
        kPatience));
    t.outlive_lease();
    REQUIRE(await([&] { return t.scene.logged(c.said); }, kPatience));
    const Status set = t.scene.near.cache.set("held", "nowhere");
    INFO(set.to_string());
    CHECK(set.code() == Code::kPermissionDenied);
    CHECK(mentions(set, c.said));
    CHECK_FALSE(mentions(set, "secret"));
    CHECK_FALSE(t.scene.far.journal->has("secret"));
    CHECK(t.scene.near.local("held").empty());
    CHECK(t.scene.far.local("held") == "before");
    REQUIRE(redis.command({"CONFIG", "SET", "requirepass", c.configured}) == "OK");
    (void)t.judge();
    CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
  }
}
