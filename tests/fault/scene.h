// Two hosts and a Redis that can be broken, with everything that the tests of faults look at.
//
// The far host reaches Redis through a proxy, the near one straight. Each is a cache in this
// process with a segment of its own, and keeps what it logs. Errors: as in tests/support/host.h.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "larder/cache.h"
#include "larder/logger.h"
#include "tests/fault/proxy.h"
#include "tests/support/host.h"
#include "tests/support/redis_server.h"

namespace larder::fault {

// For what must happen some time, on a machine with other things to do.
inline constexpr std::chrono::seconds kPatience{60};
// The bound that larder states: Options::lease by default.
inline constexpr std::chrono::milliseconds kBound{1000};

class Journal final : public Logger {
 public:
  void log(LogLevel level, std::string_view message) override;
  bool has(std::string_view text) const;
  std::string all() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

struct Site {
  explicit Site(Options options);

  bool in_sync() const { return view.in_sync(); }
  bool logged(std::string_view text) const { return journal->has(text); }
  std::uint64_t raises() const { return cache.stats().epoch_raises; }
  // What shared memory holds, "" for nothing; never asks Redis.
  std::string local(std::string_view key);
  // As soon as it is answered at all. Not while that is not to be expected.
  Lookup get(std::string_view key);

  std::shared_ptr<Journal> journal;
  Cache cache;
  test::HostView view;
};

struct SceneOptions {
  test::RedisServer::Config server{};
  std::function<void(Options&)> change = [](Options&) {};  // of both hosts
  bool both_far = false;                                   // the near host takes the proxy too
};

struct Scene {
  // Returns when both hosts are in sync.
  explicit Scene(const SceneOptions& options = {});

  // Until both hold their lease and have followed the log to its end. How long that took.
  std::chrono::milliseconds recover();
  std::chrono::milliseconds recover(const test::RedisServer& redis);
  // Keys that a host holds otherwise than Redis does; for when nothing changes any more.
  std::vector<std::string> differences();
  std::vector<std::string> differences(const test::RedisServer& redis);
  std::int64_t subscribers();
  bool in_sync() const { return far.in_sync() && near.in_sync(); }
  // Both have.
  bool logged(std::string_view text) const { return far.logged(text) && near.logged(text); }
  // Sets `key` at both hosts' side of things: written by the near one, held by both.
  void hold(std::string_view key, std::string_view value);

  test::RedisServer server;
  test::TempDir folder;
  Proxy proxy;
  Site far;
  Site near;
};

// One thread writes, another reads at another host, for as long as this lives, and it is found out
// how old what was read as fresh was: from when the set that overwrote it had returned until the
// read began.
class Watch {
 public:
  Watch(Cache& writer, Cache& reader);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  struct Report {
    std::uint64_t writes = 0;
    std::uint64_t failed_writes = 0;
    std::uint64_t fresh_reads = 0;  // judged, but for misses
    std::uint64_t stale_reads = 0;  // marked so
    std::uint64_t failed_reads = 0;
    std::uint64_t unknown_reads = 0;  // of a write that failed: it may be executed at any time
    std::chrono::microseconds oldest{0};
  };
  // Ends both threads.
  Report finish();

  // So far.
  std::uint64_t stale_reads() const { return stale_reads_; }
  std::uint64_t failed_reads() const { return failed_reads_; }
  std::uint64_t fresh_reads() const { return fresh_reads_; }
  std::uint64_t writes() const { return writes_; }
  std::uint64_t failed_writes() const { return failed_writes_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Write {
    bool done = false;
    Clock::time_point returned{};
  };

  void write();
  void read();
  Report judge() const;

  Cache& writer_;
  Cache& reader_;
  std::atomic<bool> over_{false};
  std::atomic<std::uint64_t> writes_{0}, failed_writes_{0};
  std::atomic<std::uint64_t> fresh_reads_{0}, stale_reads_{0}, failed_reads_{0};
  std::vector<Write> log_;                                // of the writer: number 1 first
  std::map<std::uint64_t, Clock::time_point> last_read_;  // of the reader: of each number
  std::thread threads_[2];                                // last: they use everything above
};

}  // namespace larder::fault
