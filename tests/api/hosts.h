// What tests of the public cache share: hosts, each a segment of its own, and their Redis.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "larder/cache.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"

namespace larder::test {

inline constexpr const char* kChannel = "cache:invalidate";

inline Cache open(const Options& options) {
  auto cache = Cache::open(options);
  REQUIRE_MESSAGE(cache.ok(), cache.status().to_string());
  return std::move(*cache);
}

inline void must(const Status& status) { REQUIRE_MESSAGE(status.ok(), status.to_string()); }

template <class T>
T must(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), result.status().to_string());
  return std::move(*result);
}

// What shared memory holds: its value, or nothing.
inline std::optional<std::string> local(Cache& cache, std::string_view key) {
  Lookup found;
  must(cache.get_local(key, found));
  if (!found.hit()) return std::nullopt;
  CHECK(found.source == Source::kLocal);
  return found.value;
}

inline std::optional<std::string> value_of(Cache& cache, std::string_view key) {
  const Lookup found = must(cache.get(key));
  if (!found.hit()) return std::nullopt;
  return found.value;
}

inline bool mentions(const Status& status, std::string_view text) {
  return status.message().find(text) != std::string::npos;
}

inline std::optional<std::string> in_redis(RedisConnection& redis, const std::string& key) {
  const Reply reply = redis.command({"GET", key});
  if (reply.kind != Reply::Kind::kText) return std::nullopt;
  return reply.text;
}

// Something that is not larder changes a byte of a value, wherever copies of it were left.
inline void damage(const Options& options, std::string_view value) {
  auto segment = shm::Segment::attach(shm::Segment::path_of(options.directory, options.name),
                                      shm::Access::kReadWrite);
  REQUIRE(segment.ok());
  char* begin = reinterpret_cast<char*>(&(*segment)->superblock());
  const std::string_view all(begin, options.segment_bytes);
  std::size_t found = all.find(value);
  REQUIRE(found != std::string_view::npos);
  for (; found != std::string_view::npos; found = all.find(value)) {
    begin[found + value.size() / 2] ^= 1;
  }
}

class Stopwatch {
 public:
  std::chrono::milliseconds elapsed() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                                 begin_);
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// One started host that has subscribed.
struct Host {
  explicit Host(const Options& options) : cache(open(options)), view(options) {
    must(cache.start());
    REQUIRE(await([&] { return cache.in_sync(); }));
  }

  // Waits until every change so far has had its effects here.
  void catch_up(RedisConnection& redis, const std::string& channel = kChannel) const {
    const shm::ChangeId end = log_end(redis, channel);
    REQUIRE(await([&] { return view.follows(end); }));
  }

  Cache cache;
  HostView view;
};

// Two hosts and their Redis.
struct Pair {
  using Change = void (*)(Options&);

  explicit Pair(Change change = [](Options&) {})
      : a(options("a", change)), b(options("b", change)), redis(server.connect()) {}

  Options options(const char* name, Change change) const {
    Options made = host_options(folder, name, server.unix_socket());
    change(made);
    return made;
  }

  void catch_up() {
    a.catch_up(redis);
    b.catch_up(redis);
  }

  RedisServer server;
  TempDir folder;
  Host a;
  Host b;
  RedisConnection redis;
};

// Two hosts again; what `slow` asks goes through a relay.
struct SlowPair {
  SlowPair()
      : proxy(folder.path() + "/relay.sock", server.unix_socket()),
        slow(host_options(folder, "slow", proxy.path())),
        fast(host_options(folder, "fast", server.unix_socket())),
        redis(server.connect()) {
    // From now on Redis knows the scripts: one question has one answer.
    must(slow.cache.set("known", "v"));
    must(slow.cache.get("unknown"));
    slow.catch_up(redis);
    fast.catch_up(redis);
  }

  RedisServer server;
  TempDir folder;
  Proxy proxy;
  Host slow;
  Host fast;
  RedisConnection redis;
};

}  // namespace larder::test
