// Two hosts of worker processes, forked after the cache was opened, and a real Redis.
//
// The test's process plays the masters: it opens the caches and never joins, so it has no thread
// when it forks. Errors: as in host.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "larder/cache.h"
#include "tests/support/host.h"
#include "tests/support/redis_server.h"

namespace larder::test {

Cache open_cache(const Options& options);

struct Host {
  Host(const Options& options, int count);

  // Throws when none of the workers leads.
  Worker& leader();
  Worker* leader_if_any();
  Worker& other_than(const Worker& one);
  void remove(const Worker& one);

  Cache cache;
  HostView view;
  std::vector<Worker> workers;
};

struct TwoHosts {
  // Returns when both are in sync.
  explicit TwoHosts(int workers_at_a = 4, int workers_at_b = 4);

  // Until every change that Redis has logged so far has had its effects at both.
  void catch_up();
  // Changes `key` at B until A has one of the changes made from now on in its memory, in sync.
  // How long that took; empty: it did not within `patience`.
  std::optional<std::chrono::nanoseconds> until_a_applies_an_event(
      Worker& at_a, std::chrono::steady_clock::time_point begin,
      std::chrono::milliseconds patience);
  // How Redis names the connections of those who subscribed.
  std::set<std::string> subscriptions();
  // How many hold a subscription to the channel.
  std::int64_t subscribers();
  // Keys of A's segment whose value there is not the one that Redis has; call it when nothing
  // changes any more. What a former leader wrote after it was deposed would show here.
  std::vector<std::string> wrong_at_a();

  RedisServer server;
  TempDir folder;
  Host a;
  Host b;
  RedisConnection redis;

 private:
  std::uint64_t probes_ = 0;
};

}  // namespace larder::test
