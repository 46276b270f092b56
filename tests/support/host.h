// Hosts for tests. A host is one segment: its options, a look at it from outside, and worker
// processes that do what the test tells them. Two hosts are two options with different names that
// share a Redis.
//
// Threads: one at a time; start workers while the process has no thread but the caller's. Nothing
// outlives the test: a worker is killed when its object goes or when the test dies. Errors: what a
// test cannot go on without throws std::runtime_error, which fails the test.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "shm/check.h"
#include "shm/inspect.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

namespace larder::test {

// A host of the smallest size. `address` empty: local only.
Options host_options(const TempDir& directory, std::string name, std::string address);

// The id that the log generated last; {0, 0}: there is no log.
shm::ChangeId log_end(RedisConnection& redis, const std::string& channel = RedisOptions().channel);

// A host's segment seen from outside: mapped read-only, no place, no lock.
class HostView {
 public:
  explicit HostView(const Options& options);

  shm::LeaderInfo leader() const { return shm::leader(*segment_); }
  shm::Totals totals() const { return shm::totals(*segment_); }
  bool in_sync() const { return leader().follows; }
  std::uint32_t stripe_of(std::string_view key) const;
  bool locked(std::uint32_t stripe) const;
  // In sync, and every change that Redis has logged so far has had its effects here.
  bool follows(shm::ChangeId end) const;
  // What a slot points at, whether it would be served or not; empty for none.
  std::string value(std::string_view key) const;
  // Every entry that would be served, and its value.
  std::vector<std::pair<std::string, std::string>> values() const;
  // The whole-segment check, checksums included.
  shm::CheckReport check(bool quiescent = false) const;

 private:
  std::shared_ptr<shm::Segment> segment_;
};

// What a worker answered.
struct Answer {
  Code code = Code::kOk;
  Source source = Source::kNone;
  bool stale = false;
  std::string value;
  std::string message;

  bool ok() const { return code == Code::kOk; }
  bool operator==(std::string_view expected) const {
    return ok() && source != Source::kNone && value == expected;
  }
};

// A process forked from the one that opened `cache`, as prefork servers do. It joins with
// Cache::start() and then does what it is told, one thing at a time.
class Worker {
 public:
  explicit Worker(Cache& cache);
  ~Worker();  // SIGKILL
  Worker(Worker&& other) noexcept;
  Worker& operator=(Worker&& other) noexcept;

  pid_t pid() const { return pid_; }

  Answer get(std::string_view key);
  Answer get_local(std::string_view key);
  Answer set(std::string_view key, std::string_view value, std::chrono::milliseconds ttl = {});
  Answer remove(std::string_view key);
  Answer clear();
  // Writes and reads `keys` keys in turn, over and over, until the worker is killed. Every value
  // repeats its key; a read of anything else ends the worker with kWrongValue.
  void hammer(unsigned keys);
  static constexpr int kWrongValue = 33;
  // The worker forks a child, waits for its end, and answers with the child's exit status in
  // `message`. The child exits at once, or uses the cache before.
  Answer fork_child(bool uses_cache);

  // In two halves, so that something can happen in between.
  void ask(char what, std::string_view key = {}, std::string_view value = {},
           std::chrono::milliseconds ttl = {});
  Answer answer();

  void signal(int number);
  void stop();  // SIGSTOP; returns when it has stopped
  // Its wait status once it has ended, for whatever reason.
  int wait();
  void kill() {
    signal(9);
    wait();
  }
  // The worker closes its cache orderly and exits; its status, 0 if all went well.
  int finish();

 private:
  pid_t pid_ = -1;
  int socket_ = -1;
};

}  // namespace larder::test
