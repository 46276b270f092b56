// The network between a host and its Redis breaks; Redis and the other host go on.
//
// In each: while the lease is held nothing older than T is read; without it copies are served only
// as stale; when it is over the host agrees with Redis, having lost nothing silently.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "tests/fault/traffic.h"
#include "tests/support/process.h"

using namespace larder;
using namespace std::chrono_literals;
using fault::Doors;
using fault::kPatience;
using fault::Which;
using test::await;

namespace {

struct Storm : fault::Traffic {
  void heal_and_judge() {
    scene.proxy.heal();
    CHECK(judge().failed_writes == 0);  // the near host knows of nothing
  }
};

}  // namespace

TEST_CASE("every connection is cut: the log says what was missed, and nothing else is dropped") {
  for (const bool reset : {false, true}) {
    CAPTURE(reset);
    Storm s;
    const std::uint64_t raises = s.scene.far.raises();
    CHECK(s.scene.proxy.cut(Which::kAll, reset) >= 2);
    REQUIRE(await([&] { return s.scene.far.logged("subscription lost"); }, kPatience));
    s.heal_and_judge();
    CHECK(s.scene.far.raises() == raises);
  }
}

TEST_CASE("the network is away: copies are served as stale, and fresh again once it is back") {
  Storm s;
  s.scene.proxy.doors(Doors::kRefuse);
  s.scene.proxy.cut();
  s.outlive_lease();
  s.await_stale_reads();
  REQUIRE(await([&] { return s.scene.far.logged("Connection refused"); }, kPatience));
  const Status set = s.scene.far.cache.set("held", "lost");
  CHECK(set.code() == Code::kUnavailable);
  // Who was asked may have made the change.
  const bool asked = set.message().find("was not asked") == std::string::npos;
  CHECK(s.scene.far.local("held").empty() == asked);
  s.heal_and_judge();
}

TEST_CASE("half-open: no byte passes and nothing is closed") {
  Storm s;
  s.scene.proxy.weather({.silent = true});
  s.outlive_lease();
  s.await_stale_reads();
  // What was in the pipe when the line went dead arrives long after.
  s.heal_and_judge();
}

TEST_CASE("half-open for good: those connections never come back, others can be made") {
  Storm s;
  s.scene.proxy.forget();
  // Noticed and made good before the lease is over, on a machine that is not too busy.
  REQUIRE(await([&] { return s.scene.far.logged("did not answer within"); }, kPatience));
  s.heal_and_judge();
}

TEST_CASE("the subscription alone is half-open: questions are answered, events do not come") {
  Storm s;
  s.scene.proxy.weather({.silent = true}, Which::kSubscriptions);
  // Redis answers that its log has gone on, but nothing of it arrives.
  s.outlive_lease();
  REQUIRE(await([&] { return s.scene.far.logged("subscription lost"); }, kPatience));
  s.heal_and_judge();
}

TEST_CASE("the questions alone are half-open: events come, but nobody says that they are all") {
  Storm s;
  s.scene.proxy.weather({.silent = true}, Which::kCommands);
  s.outlive_lease();
  REQUIRE(await([&] { return s.scene.far.logged("subscription lost"); }, kPatience));
  s.heal_and_judge();
}

TEST_CASE("a delay below the lease costs nothing but time") {
  Storm s;
  const std::uint64_t raises = s.scene.far.raises();
  s.scene.proxy.weather({.delay_ms = 60, .jitter_ms = 80});
  const std::uint64_t so_far = s.watch.fresh_reads();
  REQUIRE(await([&] { return s.watch.fresh_reads() > so_far + 2000; }, kPatience));
  s.heal_and_judge();
  CHECK(s.scene.far.raises() == raises);
}

TEST_CASE("a delay beyond the lease: an answer that comes so late says nothing any more") {
  Storm s;
  // There and back takes longer than T, but not so long that anybody gives up.
  s.scene.proxy.weather({.delay_ms = 600});
  s.outlive_lease();
  for (int look = 0; look < 300; ++look) {
    REQUIRE_FALSE(s.scene.far.in_sync());
    std::this_thread::sleep_for(10ms);
  }
  s.heal_and_judge();
}

TEST_CASE("connections end in the middle of a message") {
  Storm s;
  const std::uint64_t raises = s.scene.far.raises();
  // Of the answers to come, each time another part is all that arrives.
  for (std::uint32_t bytes = 1; bytes < 2000; bytes = bytes * 3 + 1) {
    CAPTURE(bytes);
    const std::uint64_t so_far = s.watch.fresh_reads();
    s.scene.proxy.truncate(bytes);
    REQUIRE(await([&] { return s.watch.fresh_reads() > so_far + 100; }, kPatience));
  }
  REQUIRE(await([&] { return s.scene.far.logged("subscription lost"); }, kPatience));
  s.heal_and_judge();
  CHECK(s.scene.far.raises() == raises);
}

TEST_CASE("a line too thin for the events: the host falls behind, says so, and catches up") {
  Storm s;
  // Of which the channel brings as much with ten small sets.
  s.scene.proxy.weather({.bytes_per_second = 2000});
  s.outlive_lease();
  s.heal_and_judge();
}

TEST_CASE("who accepts but never answers is no Redis") {
  Storm s;
  s.scene.proxy.doors(Doors::kMute);
  s.scene.proxy.cut();
  s.outlive_lease();
  s.await_stale_reads();
  REQUIRE(await([&] { return s.scene.far.logged("did not answer within"); }, kPatience));
  s.heal_and_judge();
}
