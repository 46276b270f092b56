// What a cache is opened with. A plain struct: name the fields you want to differ.
//
//   larder::Options options;
//   options.name = "shop";
//   options.redis.address = "10.0.0.5:6379";
//   auto cache = larder::Cache::open(options);
//
// Every field has a default that works. `validate` says what is wrong in one sentence that names
// the field, the value and the bound.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "larder/logger.h"
#include "larder/status.h"

namespace larder {

enum class Policy {
  kLfu,  // keeps what is used often; scans and one-time reads do not flush it (default)
  kLru,  // keeps what was used recently
};

// How events travel on the channel.
enum class WireFormat {
  kJson,     // the Go library's events plus fields that it ignores (default)
  kMsgpack,  // about a quarter smaller; only where no Go peer listens
};

// What `clear` may touch in Redis.
enum class ClearScope {
  kPrefix,    // the keys under `key_prefix`; with an empty prefix Redis is left alone (default)
  kDatabase,  // FLUSHDB: everything in the database, other applications' keys too
};

// What to do with a `set` event that carries no id, as the Go library sends them: its write and
// its event are two steps, so the value may already be old when it arrives.
enum class GoPeers {
  kVerify,  // drop the local copy; fetch the value again if this host held the key (default)
  kTrust,   // store the value as it came
};

// What a read makes of a local copy while this host cannot tell that it is up to date: the lease is
// over, see Options::lease.
enum class StaleReads {
  kVerify,  // ask Redis; when it cannot be reached, serve the copy, marked stale (default)
  kServe,   // serve it, marked stale
  kMiss,    // ask Redis; when it cannot be reached, that is the error
  kError,   // kUnavailable
};

struct RedisOptions {
  // "host:port", "[v6]:port" or an absolute path of a unix socket. Empty: local only, no Redis.
  std::string address;
  std::string username;  // ACL user, Redis 6 and later; empty for the default user
  std::string password;
  int database = 0;  // 0 to 65535
  std::string channel = "cache:invalidate";
  // One call to Redis, connecting included, takes at most this long. 1 ms to 10 min.
  std::chrono::milliseconds timeout{1000};
  // Changes that the log keeps, about. 1,000 to 100,000,000.
  std::uint64_t log_max_entries = 100'000;
};

struct Options {
  // The segment, shared by every process that opens the same name in the same directory.
  // 1 to 64 of [A-Za-z0-9._-], not starting with a dot.
  std::string name = "default";
  // Where the segment lives; a tmpfs. Containers often have 64 MB in /dev/shm.
  std::string directory = "/dev/shm";
  // The whole segment, reserved at creation. 512 KiB to 16 TiB. A value that is kept in it must fit
  // a stripe: 8 MiB do from 64 MiB on, 1.5 MiB from 2 MiB on.
  std::uint64_t segment_bytes = 64ull << 20;
  // Keeps about this many entries at most, the policy choosing which. 0: as many as fit.
  std::uint64_t max_entries = 0;
  Policy policy = Policy::kLfu;
  // Who owns the segment's files, and what owner and group may do with them; never others. By
  // default the creator's own, 0600. A root parent whose workers run as another user names that
  // user in `owner`; workers of several users share a `group`, with mode 0660. Root gives files to
  // whom it likes, another user only to groups that it is in.
  uid_t owner = static_cast<uid_t>(-1);
  gid_t group = static_cast<gid_t>(-1);
  mode_t mode = 0600;
  // Who owns a segment can put anything into it. So a process attaches only to segments that belong
  // to its own user, to root, to `owner`, or to one of these; it refuses any other, by name.
  std::vector<uid_t> allowed_owners;

  RedisOptions redis;
  // Put before every key, in Redis and in events. Empty for Go peers. At most 1,024 bytes.
  std::string key_prefix;
  ClearScope clear_scope = ClearScope::kPrefix;
  WireFormat wire_format = WireFormat::kJson;
  GoPeers go_peers = GoPeers::kVerify;
  // While this host holds its lease, no read returns a value that was overwritten through larder
  // longer ago than this. Renewed five times in that while or more; lost when Redis cannot be
  // reached. The leader's is what counts: give the processes of a host the same.
  // 100 ms to 1 min.
  std::chrono::milliseconds lease{1000};
  StaleReads stale_reads = StaleReads::kVerify;
  // How long after the lease's end a read may still be served a copy marked stale. 0: for ever.
  std::chrono::milliseconds stale_limit{0};
  // Values above this are announced as invalidations instead of being pushed to the other hosts.
  std::uint64_t push_max_bytes = 16u << 10;
  // Pushes only values of keys that this host held when they were set. Others are announced as
  // invalidations: nobody has read them here lately, so hosts that want them ask Redis.
  bool push_held_only = false;
  // Larger values live in Redis alone, and `set` says so. At most 512 MiB, Redis' own bound.
  std::uint64_t value_max_bytes = 8u << 20;
  // Life of a value that is set without one; 0: until evicted or removed.
  std::chrono::milliseconds default_ttl{0};
  // How long a write waits for a stripe of the segment that another process holds. 1 ms to 10 s.
  std::chrono::milliseconds lock_timeout{100};
  // Reads compare what they find with the checksum that was stored with it. Bytes that something
  // other than larder changed are then a miss, counted as `corrupt` and dropped. Off: only
  // `shmctl check --deep` and repair look. Each process chooses for itself. A hit takes about 1.6
  // times as long.
  bool verify_checksums = false;
  // Names this process's cache in events. Empty: $POD_NAME, else the host's name. A random part is
  // always added, so that two nodes never share an id.
  std::string node_id;

  std::shared_ptr<Logger> logger;  // null: silent
};

// Ok, or the first field that cannot work.
LARDER_API Status validate(const Options& options);

}  // namespace larder
