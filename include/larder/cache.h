// The cache: one copy of each value per host, in shared memory, kept in sync through Redis.
//
//   auto cache = larder::Cache::open(options);                 // in the parent
//   if (!cache) return fail(cache.status().to_string());
//   ... fork ...
//   cache->start();                                            // in each worker
//   cache->set("user:1", "Ada");                               // every host's memory has it
//   auto got = cache->get("user:1");                           // no system call on a local hit
//   if (got && got->hit()) use(got->value);
//
// Threads: every method may be called from any thread at any time.
// Fork: open in the parent, fork, use in the children; a child makes its own connections and takes
//   its own place in the segment at its first call. Never call from the child of a multi-threaded
//   parent before exec unless the parent only opened the cache.
// Crash: a process may die at any instruction; the others go on.
// Blocking: a local hit takes no lock and makes no system call. What asks Redis blocks for at most
//   `redis.timeout`; only `clear` of a prefix makes many such calls, one after the other. Waiting
//   for another process is bounded by `lock_timeout`.
// Errors: returned, never thrown; a miss is not an error.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "larder/options.h"
#include "larder/stats.h"
#include "larder/status.h"

namespace larder {

inline constexpr std::size_t kKeyMaxBytes = 65'535;  // prefix included

enum class Source {
  kNone,    // a miss
  kLocal,   // shared memory
  kRemote,  // Redis; a copy is now in shared memory
};

struct Lookup {
  Source source = Source::kNone;
  // Another host's change may be missing: this was served from shared memory without the lease
  // (Options::lease), or by a Redis that lags behind what this host has heard, which may also be
  // why it is a miss. Never set without Redis.
  bool stale = false;
  std::string value;

  bool hit() const noexcept { return source != Source::kNone; }
};

// What one read will do with.
enum class Freshness {
  kAsOpened,  // what Options::stale_reads says (default)
  kAny,       // a copy in shared memory, stale or not
  kLease,     // a copy under the lease, else Redis, else an error
  kRedis,     // what Redis answers now
};

// How one read is done, where it is to differ from what the cache was opened with.
struct ReadOptions {
  Freshness freshness = Freshness::kAsOpened;  // without Redis all are the same
  // The call takes at most this long, where that is shorter than `redis.timeout`. 0: that.
  std::chrono::milliseconds timeout{0};
};

// A value in place, without a copy: nobody reuses its bytes while the view lives, even when the key
// is changed, removed or evicted meanwhile. Meant for large values that are sent on at once.
//
// Threads: like a string. Crash: a dead process's views are given up by whoever reaps it.
// Fork: a child's copy shows nothing, because only its parent holds the bytes.
// Must not outlive its Cache. A process holds at most 32 at a time.
class LARDER_API View {
 public:
  View() = default;  // a miss
  View(View&& other) noexcept;
  View& operator=(View&& other) noexcept;
  ~View();

  explicit operator bool() const noexcept { return word_ != nullptr; }
  // Empty for a miss, and in a child of the process that took the view.
  std::string_view value() const noexcept;
  bool stale() const noexcept { return stale_; }  // see Lookup

 private:
  friend class Cache;
  std::string_view value_;
  void* word_ = nullptr;
  std::uint64_t pin_ = 0;
  std::uint64_t generation_ = 0;
  bool stale_ = false;
};

class LARDER_API Cache {
 public:
  // Creates the segment or attaches to it. Does not ask Redis: a cache opens while Redis is down.
  // Fails with kInvalidArgument (options), kNoSpace (no room: how much is needed and free),
  // kPermissionDenied, kMismatch (another layout, owner or configuration: both are named),
  // kCorrupt (not a segment).
  static Result<Cache> open(const Options& options);

  Cache(Cache&&) noexcept;
  Cache& operator=(Cache&&) noexcept;
  ~Cache();  // leaves the segment, which stays for others and for the next start

  // Joins the host: takes a place in the process table and, with Redis, starts the sync thread,
  // which may be elected leader. Call it in each worker after fork; the first get or set does it
  // otherwise. A parent that only opens never gets a thread. Idempotent.
  Status start();

  // The value of a key: from shared memory, else from Redis.
  Result<Lookup> get(std::string_view key);
  // The same into `lookup`, whose string's memory is reused.
  Status get(std::string_view key, Lookup& lookup);

  // The same as `options` say.
  Result<Lookup> get(std::string_view key, const ReadOptions& options);
  Status get(std::string_view key, Lookup& lookup, const ReadOptions& options);

  // From shared memory only: never asks Redis and never waits for a lock.
  Status get_local(std::string_view key, Lookup& lookup);

  // The same, but it leaves no trace: not counted as a hit or a miss, nor as a use of the entry.
  Result<Lookup> peek(std::string_view key);

  // How long the key still has to live: kForever, or nothing where there is no such key. From
  // shared memory, without a trace, else from Redis, which then does not send the value.
  static constexpr std::chrono::milliseconds kForever = std::chrono::milliseconds::max();
  Result<std::optional<std::chrono::milliseconds>> ttl(std::string_view key);
  // Is there such a key? Asked as ttl asks.
  Result<bool> contains(std::string_view key);

  // lookups[i] becomes what get(keys[i]) would give. What is in shared memory is read with its
  // cache misses overlapped; the rest is asked of Redis. Returns the first error, after every key
  // was tried; an error's lookup is a miss. kInvalidArgument when the sizes differ.
  Status get_many(std::span<const std::string_view> keys, std::span<Lookup> lookups);

  // The value in place, from shared memory only. A miss is an empty view; kBusy when this process
  // holds 32 views already.
  Result<View> view(std::string_view key);

  // Writes to Redis, pushes the value into every host's memory. `ttl` 0: `default_ttl`.
  // When it returns an error nothing is claimed about Redis, and no local copy is left behind; but
  // kTooLarge (above `value_max_bytes`) means that Redis has the value, and that it stays there.
  Status set(std::string_view key, std::string_view value, std::chrono::milliseconds ttl = {});
  // Writes to Redis and here; the other hosts only drop their copies and read it when asked.
  Status set_with_invalidate(std::string_view key, std::string_view value,
                             std::chrono::milliseconds ttl = {});
  // Removes the key from Redis and from every host. Ok also when there was none.
  Status remove(std::string_view key);
  // Drops every key under `key_prefix` on every host and in Redis; see ClearScope. With an empty
  // prefix and scope kPrefix: drops every local copy on every host, leaves Redis alone and returns
  // kRefused, which names the two cures.
  Status clear();

  Stats stats() const;

  // True while this host holds its lease (Options::lease), or has no Redis. A leader that dies is
  // replaced by another started process within milliseconds, before the lease ends; where none is
  // left, where the leader is stopped or Redis does not answer, it ends by itself.
  bool in_sync() const;
  const Options& options() const noexcept;
  const std::string& node_id() const noexcept;

 private:
  class Impl;
  explicit Cache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
