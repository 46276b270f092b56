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
constexpr std::uint64_t kNobody = 0;  // nobody else was answered

}  // namespace

TEST_CASE("while Redis answers everybody may ask") {
  Breaker breaker;
  CHECK(breaker.admits(kNobody));
  breaker.answered();
  CHECK(breaker.admits(kNobody));
}

TEST_CASE("after a call in vain nobody asks until somebody was answered") {
  Breaker breaker;
  const std::uint64_t began = now_ms() - 1000;  // a pause of ten seconds
  breaker.failed(began);
  CHECK_FALSE(breaker.admits(kNobody));
  CHECK_FALSE(breaker.admits(began));  // an answer from before the end of that call says nothing
  SUBCASE("here") { breaker.answered(); }
  SUBCASE("elsewhere on the host") { CHECK(breaker.admits(now_ms() + 1)); }
  SUBCASE("elsewhere, and then in vain again") {
    CHECK(breaker.admits(now_ms() + 1));
    breaker.failed(now_ms() - 1000);
    CHECK_FALSE(breaker.admits(began));
    breaker.answered();
  }
  CHECK(breaker.admits(now_ms() + 1));
}

TEST_CASE("after a pause one caller tries, the others do not wait with it") {
  Breaker breaker;
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
