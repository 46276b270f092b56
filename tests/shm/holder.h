// A process inside a stripe's lock.
#pragma once

#include <doctest/doctest.h>

#include "shm/lock.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::test {

// Stopped there (SIGSTOP). When it is continued it lets go, says so, and waits to be told to end.
inline Forked stopped_holder(const Home& home, std::uint32_t stripe) {
  Forked child([&home, stripe](Steps& steps) {
    auto table = home.table();
    shm::Stripe& its = table->segment().stripe(stripe);
    const std::uint32_t self = *table->processes().self();
    CHILD_REQUIRE(acquire(its, self, table->processes(), std::chrono::milliseconds(0)) ==
                  shm::Acquired::kClean);
    steps.stop();
    CHILD_REQUIRE(release(its, self));  // nobody took it from us
    steps.reached();
    steps.wait();
    return 0;
  });
  REQUIRE(child.await_stopped());
  return child;
}

}  // namespace larder::test
