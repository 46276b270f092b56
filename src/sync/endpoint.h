// Where Redis is, as given in options and as used to connect.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"

namespace larder::sync {

// The moment by which a call returns, whatever it still has to do.
using Deadline = std::chrono::steady_clock::time_point;

inline constexpr int kDefaultPort = 6379;

struct Endpoint {
  std::string host;  // name or address; empty for a unix socket
  int port = 0;
  std::string unix_socket;  // absolute path; empty for TCP

  bool is_unix() const noexcept { return !unix_socket.empty(); }
};

// "host:port", "host" (port 6379), "[v6]:port", "/path/of.sock", "redis://host:port". Says what is
// wrong otherwise; `rediss://` is refused by name, because hiredis 0.14 has no TLS. An address with
// credentials in it is refused without being repeated.
Result<Endpoint> parse_endpoint(std::string_view address);

// As messages name it: "10.0.0.5:6379", "[::1]:6379", "/run/redis.sock".
std::string to_string(const Endpoint& endpoint);

// The numeric addresses of a TCP endpoint's host, in the order to try them. A number is its own
// answer. A name is looked up in a thread of its own, because the system's resolver takes no
// deadline; when the answer is late the thread is left to finish alone, and at most eight such
// threads exist in a process. kUnavailable: no such name, or no answer by the deadline.
Result<std::vector<std::string>> resolve(const Endpoint& endpoint, Deadline deadline);

}  // namespace larder::sync
