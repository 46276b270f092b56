// What a host still has after all its processes were gone while others changed things.
#include <nlohmann/json.hpp>
#include <string>

#include "tools/bench/sync.h"

namespace larder::bench {
namespace {

std::string key_of(std::uint64_t number) { return "key:" + std::to_string(number); }

// In a process of its own, which is gone afterwards.
template <class Work>
void in_process(const Options& options, Work work) {
  must(in_child([&] {
    Cache cache = following(options);
    work(cache);
    return Status();
  }));
}

}  // namespace

// Of 2 x count keys, the even ones are changed meanwhile.
int measure_restart(const SyncArguments& a) {
  Ground ground(a);
  const Options one = ground.host("one");
  Options other = ground.host("other");
  other.redis.log_max_entries = 4 * a.count;
  const std::string old_value(a.value_bytes, 'o');
  const std::string new_value(a.value_bytes, 'n');
  in_process(one, [&](Cache& cache) {
    for (std::uint64_t i = 0; i < 2 * a.count; ++i) {
      must(cache.set_with_invalidate(key_of(i), old_value));
    }
  });
  in_process(other, [&](Cache& cache) {
    for (std::uint64_t i = 0; i < a.count; ++i) must(cache.set(key_of(2 * i), new_value));
  });
  wait_a_moment(1.5);  // until the lease of before is over: it vouches for the last second
  const Shared<std::uint64_t> counts(4);
  in_process(one, [&](Cache& cache) {
    for (std::uint64_t i = 0; i < 2 * a.count; ++i) {
      const bool changed = i % 2 == 0;
      Lookup found;
      must(cache.get(key_of(i), found));
      const bool right = found.value == (changed ? new_value : old_value);
      counts[0] += !right;
      if (changed) {
        counts[1] += right && found.source == Source::kRemote;
      } else {
        counts[2] += right && found.source == Source::kLocal;
      }
    }
    counts[3] = cache.stats().epoch_raises;
  });
  const nlohmann::json result = {{"keys", 2 * a.count},         {"changed", a.count},
                                 {"wrong", counts[0]},          {"changed_refetched", counts[1]},
                                 {"unchanged_kept", counts[2]}, {"epoch_raises", counts[3]}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace larder::bench
