// One worker: an HTTP server on one thread, and a pool of threads for what may ask Redis.
//
// A GET that finds its value in shared memory is answered on the loop at once: no lock, no system
// call but the socket's. Everything else goes to the pool and comes back to the loop.
//
// Signals: SIGTERM drains. The caller must have blocked it (and SIGINT), before any thread exists;
// SIGPIPE must be ignored.
// Crash: a worker may be killed at any instruction; the other workers and the segment go on.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "larder/cache.h"
#include "listener.h"

namespace prefork {

// Whom the workers run as.
struct User {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
};

struct WorkerOptions {
  Address listen;
  std::optional<User> user;  // empty: stay who we are
  std::size_t threads = 4;   // of the pool
  std::size_t queue_max = 1024;
  std::chrono::milliseconds drain{5000};  // running requests get this long after SIGTERM
  pid_t parent = 0;                       // the worker leaves when this process is gone
};

// Serves until drained. `ready` is called once, with the port, when requests are being accepted.
// An error says why it could not start.
larder::Status run_worker(larder::Cache& cache, const WorkerOptions& options,
                          const std::function<void(std::uint16_t port)>& ready);

}  // namespace prefork
