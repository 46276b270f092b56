#include "tools/bench/sync.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace larder::bench {

constexpr std::uint64_t kRedisBytes = 1ull << 30;

void must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "larder-sync-bench: %s\n", status.message().c_str());
  std::exit(1);
}

Ground::Ground(const SyncArguments& arguments)
    : arguments_(arguments),
      scratch_(must(Scratch::make(arguments.directory))),
      redis_(must(start_redis(scratch_.path(), "sync", kRedisBytes))) {}

Options Ground::host(const std::string& name) const {
  Options options;
  options.name = name;
  options.directory = scratch_.path();
  options.segment_bytes = 128ull << 20;
  options.redis.address = redis_->socket();
  options.wire_format = arguments_.msgpack ? WireFormat::kMsgpack : WireFormat::kJson;
  return options;
}

Cache following(const Options& options) {
  Cache cache = must(Cache::open(options));
  must(cache.start());
  for (int wait = 0; !cache.in_sync(); ++wait) {
    if (wait == 1000) must({Code::kUnavailable, "the host does not follow Redis"});
    wait_a_moment(0.01);
  }
  return cache;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace larder::bench
