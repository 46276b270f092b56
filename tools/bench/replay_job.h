// The parts of a replay: processes that go through a trace together, what they store, and how large
// a segment must be.
//
// Threads: none; parallel work is forked processes. They share one mapping with the parent, for
// where in the trace they are and for what they found.
// Crash: processes do not outlive the parent, and die with their Job.
// Errors: what failed, as Status; what fails in a process comes back through its Outcome.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "larder/cache.h"
#include "larder/options.h"
#include "larder/status.h"
#include "tools/bench/trace.h"

namespace larder::bench {

// ---- what is stored -----------------------------------------------------------------------------

// Key and value of an id together, where sizes count: 100 to 4,096 bytes, any as likely as another,
// the same for an id in every run.
inline constexpr std::uint32_t kItemLeastBytes = 100;
inline constexpr std::uint32_t kItemMostBytes = 4096;
std::uint32_t item_bytes(std::uint32_t id) noexcept;

// Where they do not count: a value is just its mark.
inline constexpr std::size_t kMarkBytes = 8;

// So that the longest key, "k4294967295:4294967295", and a mark fit the least item.
inline constexpr std::uint64_t kMaxSeed = 0xffffffff;

// ---- what a process did -------------------------------------------------------------------------

struct Outcome {
  std::uint64_t requests = 0;
  std::uint64_t hits = 0;
  std::uint64_t wrong_values = 0;  // hits that were not the key's value: a defect of larder
  std::uint64_t failed_sets = 0;   // a bounded wait for a stripe ran out
  std::int64_t began_ns = 0;       // on the clock that all processes share
  std::int64_t ended_ns = 0;
  char error[480] = {};  // empty: fine
};

// ---- processes ----------------------------------------------------------------------------------

// While it lives, SIGINT, SIGTERM and SIGCHLD are not delivered but waited for; in children too,
// which therefore only end by themselves or with their Job. SIGPIPE is ignored from then on.
class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // False: interrupted. True: a child may have ended.
  bool wait_for_child();
  // Whether an interrupt came by now; does not wait.
  bool interrupted();

 private:
  bool interrupted_ = false;
  sigset_t waited_for_;
  sigset_t mask_before_;
};

// Forked processes that do one thing together.
class Job {
 public:
  struct Shared;
  // In a process: waits for all the others, so that they begin at one time.
  static void wait_for_others(Shared& shared);
  // In a process: the next position that nobody has taken.
  static std::uint64_t take(Shared& shared) noexcept;

  using Work = std::function<Status(Shared& shared, Outcome& outcome)>;
  static Result<std::unique_ptr<Job>> start(std::uint32_t processes, const Work& work);
  ~Job();  // kills what still runs
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // Collects those that ended; true when none is left or one of them failed.
  bool ended();
  // After that: all of them as one, from the first beginning to the last end.
  Result<Outcome> outcome() const;

 private:
  explicit Job(std::uint32_t processes);
  void collect(pid_t& pid, bool wait);

  std::size_t shared_bytes_;
  Shared* shared_;
  std::vector<pid_t> running_;
  Status failed_;
};

// A Job's work: each request of the trace once, through the cache, whose segment is local only. The
// seed is part of every key. `sized`: see item_bytes.
Status replay(Cache& cache, const Trace& trace, std::uint64_t seed, bool sized, Job::Shared& shared,
              Outcome& outcome);

// ---- segments -----------------------------------------------------------------------------------

// A folder of our own for segments, removed with all that is in it.
class SegmentFolder {
 public:
  static Result<std::unique_ptr<SegmentFolder>> make(const std::string& directory);
  ~SegmentFolder();
  SegmentFolder(const SegmentFolder&) = delete;
  SegmentFolder& operator=(const SegmentFolder&) = delete;

  // Options with a name that was not used before. The segment is gone after `remove`.
  Options next_options();
  void remove(const Options& options) const;

 private:
  explicit SegmentFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
  std::uint64_t next_ = 0;
};

struct Room {
  std::uint64_t segment_bytes = 0;
  std::uint64_t bytes = 0;  // for entries
};

// The segment whose room for entries is as near to `bytes` as possible and not above; found by
// making segments. Where already the smallest possible one has more room: that one.
Result<Room> find_room(SegmentFolder& folder, Policy policy, std::uint64_t bytes);

}  // namespace larder::bench
