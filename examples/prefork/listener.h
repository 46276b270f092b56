// The TCP port that the workers share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "larder/status.h"

namespace prefork {

struct Address {
  std::string host;  // a name or an IPv4 or IPv6 address, without brackets
  std::uint16_t port = 0;

  std::string to_string() const;
};

// "host:port" or "[v6]:port".
larder::Result<Address> parse_address(std::string_view text);

// A non-blocking socket bound to `address`; connections are refused until start_listening. Every
// worker binds its own to the same port (SO_REUSEPORT), so the kernel spreads connections over the
// workers and no lock is taken to accept one.
larder::Result<int> bind_shared(const Address& address);
larder::Status start_listening(int fd, const Address& address);

// Ok when nobody listens there. SO_REUSEPORT would let a second server of the same user join the
// port unnoticed and take half of its connections, so the parent asks first.
larder::Status check_port_is_free(const Address& address);

// The port a socket is bound to: tells which one the kernel chose for port 0.
std::uint16_t bound_port(int fd);

}  // namespace prefork
