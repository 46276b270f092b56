// Redis drops its clients, pauses, stops, dies and comes back; the network is fine.
//
// In each: while the lease is held nothing older than T is read, and when it is over both hosts
// agree with Redis.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "tests/fault/traffic.h"

using namespace larder;
using namespace std::chrono_literals;
using fault::kPatience;
using fault::Scene;
using fault::Traffic;
using fault::Watch;
using test::await;
using test::RedisConnection;
using test::RedisServer;

namespace {

// Keeps every change that it has answered, also when it is killed: what is not synced to the disk
// is the kernel's by then. (With everysec a write may wait for the last second's sync.)
RedisServer::Config durable() { return {.lines = {"appendonly yes", "appendfsync no"}}; }

bool dropped_everything(const Scene& scene) {
  return scene.logged("(log_lost)") || scene.logged("(diverged)") ||
         (scene.far.logged("(log_lost)") && scene.near.logged("(diverged)")) ||
         (scene.far.logged("(diverged)") && scene.near.logged("(log_lost)"));
}

}  // namespace

TEST_CASE("CLIENT KILL TYPE pubsub, again and again: the log says what was missed") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
  for (int round = 0; round < 5; ++round) {
    REQUIRE(await([&] { return t.scene.subscribers() == 2; }, kPatience));
    CHECK(redis.command({"CLIENT", "KILL", "TYPE", "pubsub"}).number == 2);
    t.await_fresh_reads(300);
  }
  REQUIRE(await([&] { return t.scene.logged("subscription lost"); }, kPatience));
  const Watch::Report report = t.judge();
  CHECK(report.failed_writes == 0);
  CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
}

TEST_CASE("CLIENT KILL TYPE normal: who was asking is told, who was idle notices nothing") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  for (int round = 0; round < 5; ++round) {
    CHECK(redis.command({"CLIENT", "KILL", "TYPE", "normal"}).number >= 1);
    t.await_fresh_reads(300);
  }
  REQUIRE(await([&] { return t.scene.logged("subscription lost"); }, kPatience));
  const Watch::Report report = t.judge();
  CHECK(report.failed_reads <= 5);  // what was asked in that very moment
}

TEST_CASE("CLIENT PAUSE: shorter than the lease is a delay, longer ends it") {
  Traffic t;
  RedisConnection redis = t.scene.server.connect();
  REQUIRE(redis.command({"CLIENT", "PAUSE", "200"}) == "OK");
  t.await_fresh_reads(300);
  REQUIRE(await([&] { return t.scene.in_sync(); }, kPatience));
  REQUIRE(redis.command({"CLIENT", "PAUSE", "8000"}) == "OK");
  t.outlive_lease();
  t.await_stale_reads();
  (void)t.judge();
}

TEST_CASE("DEBUG SLEEP: a Redis that is busy with something else answers nobody") {
  Traffic t({.server = {.lines = {"enable-debug-command yes"}}});
  RedisConnection redis = t.scene.server.connect();
  std::jthread sleeper([&] { CHECK(redis.command({"DEBUG", "SLEEP", "8"}) == "OK"); });
  t.outlive_lease();
  t.await_stale_reads();
  sleeper.join();
  (void)t.judge();
}

TEST_CASE("SIGSTOP: the sockets stand, nobody answers") {
  Traffic t;
  // For less than the lease, then until it is over.
  t.scene.server.pause();
  std::this_thread::sleep_for(300ms);
  t.scene.server.resume();
  t.await_fresh_reads(300);
  REQUIRE(await([&] { return t.scene.in_sync(); }, kPatience));
  t.scene.server.pause();
  t.outlive_lease();
  t.await_stale_reads();
  t.scene.server.resume();
  (void)t.judge();
}

TEST_CASE("SIGKILL and a restart with everything: nothing is dropped") {
  Traffic t({.server = durable()});
  const std::uint64_t raises = t.scene.far.raises() + t.scene.near.raises();
  t.scene.server.kill();
  t.outlive_lease();
  t.await_stale_reads();
  const Status set = t.scene.near.cache.set("held", "nowhere");
  CHECK(set.code() == Code::kUnavailable);
  // Who was asked may have made the change.
  const bool asked = set.message().find("was not asked") == std::string::npos;
  CHECK(t.scene.near.local("held").empty() == asked);
  t.scene.server.start();
  (void)t.judge();
  CHECK(t.scene.far.raises() + t.scene.near.raises() == raises);
}

TEST_CASE("SIGKILL and a restart with nothing: nothing of before is read as fresh") {
  Traffic t;
  t.scene.server.kill();
  t.outlive_lease();
  t.await_stale_reads();
  t.scene.server.start();
  REQUIRE(await([&] { return t.scene.in_sync(); }, kPatience));
  CHECK_FALSE(t.scene.far.get("held").hit());
  CHECK(dropped_everything(t.scene));
  (void)t.judge();
}

TEST_CASE("a restart so quick that the lease outlives it is noticed all the same") {
  Traffic t;
  for (int round = 0; round < 3; ++round) {
    t.scene.hold("held", "before " + std::to_string(round));
    t.scene.server.kill();
    t.scene.server.start();
    t.scene.recover();
    CHECK(t.scene.far.local("held").empty());
    CHECK(t.scene.near.local("held").empty());
    t.await_fresh_reads(300);
  }
  CHECK(dropped_everything(t.scene));
  (void)t.judge();
}

TEST_CASE("a restart with older data: hosts go back with it, all of them") {
  Scene scene;
  RedisConnection before = scene.server.connect();
  scene.hold("changed", "old");
  scene.hold("kept", "same");
  scene.recover();
  REQUIRE(before.command({"SAVE"}) == "OK");
  scene.hold("changed", "lost");
  scene.hold("new", "lost");
  scene.recover();
  // Everything after the SAVE was answered, held by both, and is gone.
  scene.server.kill();
  SUBCASE("and nobody writes") { scene.server.start(); }
  SUBCASE("and the log has come as far again before they look") {
    // Under the same numbers, which are other changes.
    scene.proxy.doors(fault::Doors::kRefuse);
    scene.proxy.cut();
    scene.server.start();
    REQUIRE(scene.near.cache.set("other 1", "v").ok());
    REQUIRE(scene.near.cache.set("other 2", "v").ok());
    REQUIRE(scene.near.cache.set("other 3", "v").ok());
    scene.proxy.heal();
  }
  scene.recover();
  CHECK(scene.differences().empty());
  for (fault::Site* site : {&scene.far, &scene.near}) {
    CHECK(site->get("changed").value == "old");
    CHECK(site->get("kept").value == "same");
    CHECK_FALSE(site->get("new").hit());
  }
  CHECK(dropped_everything(scene));
  scene.hold("changed", "anew");
}
