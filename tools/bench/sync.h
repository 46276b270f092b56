// What larder-sync-bench measures. Each prints one JSON object and returns how the program ends.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "larder/options.h"
#include "tools/bench/process.h"
#include "tools/bench/server.h"

namespace larder::bench {

struct SyncArguments {
  std::string directory = "/dev/shm";
  std::uint64_t runs = 10;
  std::uint64_t count = 20'000;  // of each kind and run
  std::uint64_t rate = 1000;     // a second
  std::uint64_t value_bytes = 200;
  std::uint64_t processes = 8;
  double seconds = 2;
  bool msgpack = false;
  std::string outage = "kill";  // stop, cut
};

int measure_latency(const SyncArguments& arguments);
int measure_apply(const SyncArguments& arguments);
int measure_calls(const SyncArguments& arguments);
int measure_writers(const SyncArguments& arguments);
int measure_outage(const SyncArguments& arguments);
int measure_restart(const SyncArguments& arguments);
int measure_storm(const SyncArguments& arguments);

// ---- what they share ----

// A folder of this run, and a Redis in it.
class Ground {
 public:
  explicit Ground(const SyncArguments& arguments);
  Server& redis() { return *redis_; }
  // A host of its own by this name.
  Options host(const std::string& name) const;

 private:
  const SyncArguments& arguments_;
  Scratch scratch_;
  std::unique_ptr<Server> redis_;
};

// Ends the program when it is not ok.
void must(const Status& status);
template <class T>
T must(Result<T> result) {
  must(result.status());
  return std::move(*result);
}

// Opened and started, once it holds its lease.
Cache following(const Options& options);

double median_of(std::vector<double> values);

}  // namespace larder::bench
