// Where Redis is, as given in options and as used to connect.
#pragma once

#include <string>
#include <string_view>

#include "larder/status.h"

namespace larder::sync {

struct Endpoint {
  std::string host;         // name or address; empty for a unix socket
  int port = 0;
  std::string unix_socket;  // absolute path; empty for TCP

  bool is_unix() const noexcept { return !unix_socket.empty(); }
};

// "host:port", "host" (port 6379), "[v6]:port", "/path/of.sock", "redis://host:port". Says what is
// wrong otherwise; `rediss://` is refused by name, because hiredis 0.14 has no TLS.
Result<Endpoint> parse_endpoint(std::string_view address);

}  // namespace larder::sync
