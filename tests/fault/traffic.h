// A scene in which the near host writes and the far one reads, all the time. For doctest's cases.
#pragma once

#include <doctest/doctest.h>

#include "tests/fault/scene.h"
#include "tests/support/process.h"

namespace larder::fault {

struct Traffic {
  explicit Traffic(const SceneOptions& options = {})
      : scene(options), watch(scene.near.cache, scene.far.cache) {
    scene.hold("held", "before");
    await_fresh_reads(500);
  }

  void await_fresh_reads(std::uint64_t more) {
    const std::uint64_t so_far = watch.fresh_reads();
    REQUIRE(test::await([&] { return watch.fresh_reads() > so_far + more; }, kPatience));
  }
  // Until larder can no longer say that what the far host holds is up to date, and on: until it
  // would show if it said so all the same.
  void outlive_lease() {
    REQUIRE(test::await([&] { return !scene.far.in_sync(); }, kPatience));
    std::this_thread::sleep_for(kBound);
  }
  // Reads go on, and the copies that they get are marked.
  void await_stale_reads() {
    const std::uint64_t so_far = watch.stale_reads();
    REQUIRE(test::await([&] { return watch.stale_reads() > so_far; }, kPatience));
  }

  // When all is well again: both hosts follow, nothing was too old, and nothing differs.
  Watch::Report judge() {
    await_fresh_reads(500);
    const Watch::Report report = watch.finish();
    const auto took = scene.recover();
    MESSAGE("oldest fresh read " << report.oldest.count() << " us of " << report.fresh_reads
                                 << ", stale " << report.stale_reads << ", failed "
                                 << report.failed_reads << "; followed " << took.count()
                                 << " ms after the last write");
    CHECK(report.oldest <= kBound);
    CHECK(scene.differences().empty());
    CHECK(scene.far.cache.stats().stale_term_writes == 0);
    CHECK(scene.far.cache.stats().events_malformed == 0);
    scene.hold("held", "after");
    return report;
  }

  Scene scene;
  Watch watch;
};

}  // namespace larder::fault
