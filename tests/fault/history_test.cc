// The history that the hosts follow is lost, goes back, or turns into another one.
//
// In each: nothing that rests on the lost part is read as fresh once the lease of before is over,
// and both hosts agree with whoever is Redis then.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "src/sync/scripts.h"
#include "tests/fault/traffic.h"

using namespace larder;
using namespace std::chrono_literals;
using fault::Doors;
using fault::kPatience;
using fault::Scene;
using fault::Site;
using fault::Traffic;
using test::await;
using test::RedisConnection;
using test::RedisServer;

namespace {

const std::string kLog = sync::log_key(RedisOptions().channel);

bool dropped_everything(const Site& site, std::uint64_t raises_before) {
  return site.raises() > raises_before && (site.logged("(log_lost)") || site.logged("(diverged)"));
}

const RedisServer::Config kPrimary{.tcp = true, .lines = {"repl-diskless-sync-delay 0"}};

// A primary that larder reaches through the proxy, and a replica of it.
struct Promotion {
  Promotion() : scene({.server = kPrimary, .both_far = true}), other(kPrimary) {
    follow(other, scene.server);
    scene.hold("changed", "old");
    scene.hold("kept", "same");
    await_replica(other);
  }

  static void follow(const RedisServer& replica, const RedisServer& primary) {
    const std::string address = primary.tcp_address();
    const std::size_t colon = address.find(':');
    REQUIRE(replica.connect().command(
                {"REPLICAOF", address.substr(0, colon), address.substr(colon + 1)}) == "OK");
  }
  static void promote(const RedisServer& replica) {
    REQUIRE(replica.connect().command({"REPLICAOF", "NO", "ONE"}) == "OK");
  }
  void await_replica(const RedisServer& replica) const {
    RedisConnection there = replica.connect();
    RedisConnection here = scene.server.connect();
    REQUIRE(await([&] { return test::log_end(there) == test::log_end(here); }, kPatience));
  }

  Scene scene;
  RedisServer other;
};

}  // namespace

TEST_CASE("FLUSHALL while everybody writes and reads") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  for (int round = 0; round < 3; ++round) {
    t.scene.hold("held", "before " + std::to_string(round));
    const std::uint64_t far = t.scene.far.raises();
    const std::uint64_t near = t.scene.near.raises();
    REQUIRE(redis.command({"FLUSHALL"}) == "OK");
    REQUIRE(await(
        [&] {
          return dropped_everything(t.scene.far, far) && dropped_everything(t.scene.near, near);
        },
        kPatience));
    CHECK(t.scene.far.local("held").empty());
    CHECK(t.scene.near.local("held").empty());
    t.await_fresh_reads(300);
  }
  CHECK(t.judge().failed_writes == 0);
}

TEST_CASE("FLUSHALL while nobody writes: the next heartbeat notices") {
  Scene scene;
  scene.hold("held", "before");
  scene.recover();
  REQUIRE(scene.server.connect().command({"FLUSHALL"}) == "OK");
  scene.recover();
  CHECK(scene.far.local("held").empty());
  CHECK(scene.near.local("held").empty());
  CHECK_FALSE(scene.far.get("held").hit());
  scene.hold("held", "after");
}

TEST_CASE("FLUSHALL while the leader is disconnected") {
  Traffic t;
  const std::uint64_t raises = t.scene.far.raises();
  t.scene.proxy.doors(Doors::kRefuse);
  t.scene.proxy.cut();
  REQUIRE(t.scene.server.connect().command({"FLUSHALL"}) == "OK");
  t.outlive_lease();
  t.await_stale_reads();
  t.scene.proxy.heal();
  REQUIRE(await([&] { return dropped_everything(t.scene.far, raises); }, kPatience));
  CHECK(t.scene.far.local("held").empty());
  CHECK(t.judge().failed_writes == 0);
}

TEST_CASE("the log is removed, with hosts connected and without") {
  for (const bool connected : {true, false}) {
    CAPTURE(connected);
    Traffic t;
    const std::uint64_t raises = t.scene.far.raises();
    if (!connected) {
      t.scene.proxy.doors(Doors::kRefuse);
      t.scene.proxy.cut();
    }
    REQUIRE(t.scene.server.connect().command({"UNLINK", kLog}).number == 1);
    if (!connected) {
      t.outlive_lease();
      t.scene.proxy.heal();
    }
    REQUIRE(await([&] { return dropped_everything(t.scene.far, raises); }, kPatience));
    CHECK(t.judge().failed_writes == 0);
  }
}

TEST_CASE("a Redis that is full evicts the log") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  const std::uint64_t raises = t.scene.far.raises();
  // What Redis takes already, and some more.
  REQUIRE(redis.command({"CONFIG", "SET", "maxmemory-policy", "allkeys-random"}) == "OK");
  REQUIRE(redis.command({"CONFIG", "SET", "maxmemory", "8mb"}) == "OK");
  const std::string filling(256u << 10, 'x');
  REQUIRE(await(
      [&] {
        for (int i = 0; i < 40; ++i) {
          (void)redis.command({"SET", "filling:" + std::to_string(i), filling});
        }
        return dropped_everything(t.scene.far, raises);
      },
      kPatience));
  REQUIRE(redis.command({"CONFIG", "SET", "maxmemory", "0"}) == "OK");
  t.await_fresh_reads(300);
  const auto report = t.watch.finish();
  CHECK(report.oldest <= fault::kBound);
  t.scene.recover();
  // Of keys that Redis evicted, nobody is told: what is held of them is still their last value.
  for (const std::string& key : t.scene.differences()) {
    CAPTURE(key);
    CHECK(redis.command({"EXISTS", key}).number == 0);
  }
  t.scene.hold("held", "after");
}

TEST_CASE("a replica is promoted that had everything: nothing is dropped") {
  Promotion p;
  const std::uint64_t raises = p.scene.far.raises() + p.scene.near.raises();
  p.scene.server.kill();
  Promotion::promote(p.other);
  p.scene.proxy.redirect(p.other.unix_socket());
  p.scene.recover(p.other);
  CHECK(p.scene.differences(p.other).empty());
  CHECK(p.scene.far.raises() + p.scene.near.raises() == raises);
  CHECK(p.scene.far.local("kept") == "same");
  p.scene.hold("changed", "new");
}

TEST_CASE("a replica is promoted that lost the last writes: hosts go back with it") {
  Promotion p;
  const std::uint64_t far = p.scene.far.raises();
  const std::uint64_t near = p.scene.near.raises();
  // From here on nothing is replicated any more.
  Promotion::promote(p.other);
  p.scene.hold("changed", "lost");
  p.scene.hold("new", "lost");
  SUBCASE("and the new primary has been written to meanwhile, under the same numbers") {
    p.scene.server.kill();
    p.scene.proxy.redirect(p.other.unix_socket());
    p.scene.recover(p.other);
  }
  SUBCASE("by others, before the hosts come") {
    test::TempDir elsewhere;
    Site third(test::host_options(elsewhere, "third", p.other.unix_socket()));
    for (int i = 0; i < 4; ++i) REQUIRE(third.cache.set("third " + std::to_string(i), "v").ok());
    p.scene.server.kill();
    p.scene.proxy.redirect(p.other.unix_socket());
    p.scene.recover(p.other);
    CHECK(p.scene.far.get("third 1").value == "v");
  }
  CHECK(dropped_everything(p.scene.far, far));
  CHECK(dropped_everything(p.scene.near, near));
  CHECK(p.scene.differences(p.other).empty());
  for (Site* site : {&p.scene.far, &p.scene.near}) {
    CHECK(site->get("changed").value == "old");
    CHECK(site->get("kept").value == "same");
    CHECK_FALSE(site->get("new").hit());
  }
  p.scene.hold("changed", "anew");
}

TEST_CASE("the old primary becomes a replica while larder stays connected to it") {
  Promotion p;
  Promotion::promote(p.other);
  Promotion::follow(p.scene.server, p.other);
  // It answers, its channel stands, and its log may well not have moved.
  REQUIRE(await([&] { return !p.scene.far.in_sync() && !p.scene.near.in_sync(); }, kPatience));
  REQUIRE(await([&] { return p.scene.logged("no primary any more"); }, kPatience));
  const Status set = p.scene.near.cache.set("changed", "nowhere");
  CHECK(set.code() == Code::kUnavailable);
  CHECK(set.message().find("this is a replica") != std::string::npos);
  CHECK(p.scene.near.local("changed").empty());
  // The primary that they should be at goes on.
  test::TempDir elsewhere;
  Site third(test::host_options(elsewhere, "third", p.other.unix_socket()));
  REQUIRE(third.cache.set("changed", "new").ok());
  for (int i = 0; i < 50; ++i) {
    CHECK_FALSE(p.scene.far.in_sync());
    std::this_thread::sleep_for(10ms);
  }
  p.scene.proxy.redirect(p.other.unix_socket());
  p.scene.proxy.cut();
  p.scene.recover(p.other);
  CHECK(p.scene.differences(p.other).empty());
  CHECK(p.scene.far.get("changed").value == "new");
  CHECK(p.scene.near.get("changed").value == "new");
  p.scene.hold("changed", "newer");
}

TEST_CASE("workers' connections that still lead to the former primary are found out and left") {
  Promotion p;
  Promotion::promote(p.other);
  p.scene.proxy.redirect(p.other.unix_socket());
  // It stays, and so do the connections to it, but it hears of nothing any more.
  REQUIRE(p.scene.server.connect().command({"REPLICAOF", "127.0.0.1", "1"}) == "OK");
  REQUIRE(await([&] { return p.scene.logged("no primary any more"); }, kPatience));
  p.scene.recover(p.other);
  test::TempDir elsewhere;
  Site third(test::host_options(elsewhere, "third", p.other.unix_socket()));
  REQUIRE(third.cache.set_with_invalidate("changed", "new").ok());
  REQUIRE(third.cache.remove("kept").ok());
  p.scene.recover(p.other);
  for (Site* site : {&p.scene.far, &p.scene.near}) {
    const Lookup changed = site->get("changed");
    CHECK(changed.value == "new");
    CHECK_FALSE(changed.stale);
    CHECK_FALSE(site->get("kept").hit());
  }
  p.scene.hold("changed", "newer");
}

TEST_CASE("a former primary refuses one write of each connection to it, not every one") {
  Promotion p;
  Promotion::promote(p.other);
  p.scene.proxy.redirect(p.other.unix_socket());
  REQUIRE(p.scene.server.connect().command({"REPLICAOF", "127.0.0.1", "1"}) == "OK");
  REQUIRE(await([&] { return p.scene.logged("no primary any more"); }, kPatience));
  p.scene.recover(p.other);
  const Status refused = p.scene.near.cache.set("changed", "refused");
  CHECK(refused.code() == Code::kUnavailable);
  CHECK(refused.message().find("this is a replica") != std::string::npos);
  CHECK(p.scene.near.cache.set("changed", "new").ok());
  p.scene.recover(p.other);
  CHECK(p.scene.far.get("changed").value == "new");
}
