// A server of this run alone, on a unix socket in the run's folder.
//
// Crash: the server is killed when this object goes and when its parent dies.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "larder/status.h"
#include "tools/bench/process.h"

namespace larder::bench {

class Server {
 public:
  // Starts `program` (looked up in PATH) and waits until `socket` takes connections. kNotFound:
  // there is no such program.
  static Result<std::unique_ptr<Server>> start(const std::string& program,
                                               const std::vector<std::string>& arguments,
                                               const std::string& socket);
  const std::string& socket() const { return socket_; }
  // Memory it holds, from the kernel.
  std::uint64_t resident_bytes() const;
  void signal(int number) const { child_.signal(number); }

 private:
  Server(const std::string& program, const std::vector<std::string>& arguments, std::string socket);
  Status wait_until_ready();

  std::string socket_;
  Child child_;
};

// Bounded: drops what was used least recently.
Result<std::unique_ptr<Server>> start_redis(const std::string& folder, const std::string& name,
                                            std::uint64_t room_bytes);
Result<std::unique_ptr<Server>> start_memcached(const std::string& folder, std::uint64_t room_bytes,
                                                std::uint64_t value_max_bytes);

}  // namespace larder::bench
