// The director of larder-coherence: hosts of real processes and a real Redis, a fault each second,
// and what must hold when all is well again.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/fault/ledger.h"

namespace larder::fault {

// By the names of the report.
enum class Fault : unsigned {
  kNone,
  kCut,
  kReset,
  kHalfOpen,
  kHalfOpenSubscription,
  kForgotten,
  kDelay,
  kThrottle,
  kRefused,
  kSubscriptionsKilled,
  kClientsKilled,
  kPaused,
  kRedisStopped,
  kRedisStoppedLong,
  kRedisKilled,
  kFlushed,
  kLogLost,
  kLeaderKilled,
  kLeaderStopped,
  kWorkerKilled,
  kWorkerStopped,
  kHostCrashed,
  kCount
};
inline constexpr std::size_t kFaults = static_cast<std::size_t>(Fault::kCount);
const char* fault_name(Fault fault);

struct CoherenceOptions {
  double seconds = 60;       // with a fault each second
  double calm_seconds = 30;  // without any, before
  double writes_per_second = 1000;
  std::uint64_t every_ms = 1000;  // a fault
  std::uint64_t seed = 1;
};

// Of looks at hosts, while the fault was the last that had befallen them.
struct Leases {
  std::uint64_t looks = 0;
  std::uint64_t held = 0;
};

struct CoherenceReport {
  std::array<std::uint64_t, kFaults> faults{};
  std::array<Leases, kFaults> leases{};
  std::uint64_t fresh_reads = 0;
  std::uint64_t remote_reads = 0;
  std::uint64_t stale_reads = 0;
  std::uint64_t misses = 0;
  std::uint64_t failed_reads = 0;
  std::uint64_t foreign_values = 0;
  Judgement judgement;
  Fault oldest_during = Fault::kNone;  // the last fault before the read that was the oldest
  std::uint64_t crashes = 0;           // of workers that nobody killed
  std::uint64_t epoch_raises = 0;
  std::uint64_t leader_changes = 0;
  // From the moment when all was healed.
  double lease_ms = 0;  // until every host held its lease
  double equal_ms = 0;  // until every host held nothing but what Redis has
  // From the moment when the host that was last held its lease.
  double equal_after_lease_ms = 0;
  std::uint64_t held_keys = 0;  // compared, at all hosts
  std::uint64_t differences = 0;
  std::string failure;  // why it did not come to an end
};

CoherenceReport run_coherence(const CoherenceOptions& options);

}  // namespace larder::fault
