// When Redis is asked again after it did not answer.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "src/sync/breaker.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "shm/clock.h"
#include "tests/support/process.h"

using larder::sync::Breaker;
using larder::test::await;

namespace {

std::uint64_t now_ms() { return larder::shm::coarse_now().ms; }
constexpr std::uint64_t kTimeoutMs = 1000;
constexpr std::uint64_t kNobody = 0;  // nobody else was answered

}  // namespace

TEST_CASE("while Redis answers everybody may ask") {
  Breaker breaker(kTimeoutMs);
  CHECK(breaker.admits(kNobody));
  breaker.answered();
  CHECK(breaker.admits(kNobody));
}

TEST_CASE("after a call in vain nobody asks until somebody was answered") {
  Breaker breaker(kTimeoutMs);
  const std::uint64_t began = now_ms() - 1000;  // a pause of ten seconds
  breaker.failed(began);
  CHECK_FALSE(breaker.admits(kNobody));
  CHECK_FALSE(breaker.admits(began));  // an answer from before the end of that call says nothing
  SUBCASE("here") { breaker.answered(); }
  SUBCASE("elsewhere on the host") { CHECK(breaker.admits(now_ms() + 1)); }
  CHECK(breaker.admits(now_ms() + 1));
}

TEST_CASE("after a pause one caller tries, the others do not wait with it") {
  Breaker breaker(kTimeoutMs);
  breaker.failed(now_ms());
  std::atomic<int> admitted{0};
  REQUIRE(await([&] { return breaker.admits(kNobody) && ++admitted; }));
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int turn = 0; turn < 1000; ++turn) admitted += breaker.admits(kNobody);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(admitted == 1);
  breaker.answered();
  CHECK(breaker.admits(kNobody));
}

TEST_CASE("who was answered elsewhere is believed once") {
  Breaker breaker(kTimeoutMs);
  breaker.failed(now_ms() - 1000);
  CHECK(breaker.admits(now_ms() + 1));
  CHECK(breaker.admits(now_ms() + 1));  // by all, until one comes back
  breaker.failed(now_ms() - 1000);      // in vain
  CHECK_FALSE(breaker.admits(now_ms() + 1000));
  breaker.answered();
  breaker.failed(now_ms() - 1000);
  CHECK(breaker.admits(now_ms() + 1));
}

TEST_CASE("a trial that tells nothing is not the last") {
  Breaker breaker(0);
  breaker.failed(now_ms());
  REQUIRE(await([&] { return breaker.admits(kNobody); }));
  CHECK_FALSE(breaker.admits(kNobody));
  SUBCASE("its connection was closed") { breaker.ended(now_ms()); }
  SUBCASE("it was never made") {}
  CHECK(await([&] { return breaker.admits(kNobody); }));
}
