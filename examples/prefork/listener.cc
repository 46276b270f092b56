#include "listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace prefork {
namespace {

using larder::Code;
using larder::Result;
using larder::Status;

constexpr int kBacklog = 512;

enum class Port { kShared, kExclusive };

Status failed(std::string_view what, const Address& address, int error) {
  const Code code = error == EACCES ? Code::kPermissionDenied : Code::kUnavailable;
  std::string message = std::string(what) + " " + address.to_string() + ": " + std::strerror(error);
  if (error == EADDRINUSE) message += "; another program listens there, choose another --listen";
  if (error == EACCES) message += "; ports below 1024 need root (see --user)";
  if (error == EADDRNOTAVAIL) message += "; no interface of this host has that address";
  return Status(code, std::move(message));
}

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Result<AddressList> resolve(const Address& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) {
    return Status(Code::kInvalidArgument,
                  "--listen names the host '" + address.host +
                      "', which cannot be resolved: " + gai_strerror(error));
  }
  return AddressList(found, &freeaddrinfo);
}

// SO_REUSEADDR: a server that was just stopped leaves connections in TIME_WAIT, which must not
// keep the next one from starting.
bool set_options(int fd, Port port) {
  const int on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return false;
  if (port == Port::kExclusive) return true;
  return setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0;
}

Result<int> bind_socket(const Address& address, Port port) {
  auto list = resolve(address);
  if (!list) return list.status();
  const addrinfo& target = *list.value();
  const int fd = socket(target.ai_family, target.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("cannot make a socket for", address, errno);
  if (!set_options(fd, port) || bind(fd, target.ai_addr, target.ai_addrlen) != 0) {
    const int error = errno;
    close(fd);
    return failed("cannot bind to", address, error);
  }
  return fd;
}

}  // namespace

std::string Address::to_string() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Address> parse_address(std::string_view text) {
  const auto wrong = [&] {
    return Status(Code::kInvalidArgument,
                  "--listen is '" + std::string(text) +
                      "'; it takes host:port or [v6]:port with a port of 0 to 65535");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong();
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong();
  }
  Address address{std::string(host), 0};
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), address.port);
  if (host.empty() || digits.empty() || parsed.ec != std::errc() ||
      parsed.ptr != digits.data() + digits.size()) {
    return wrong();
  }
  return address;
}

Result<int> bind_shared(const Address& address) { return bind_socket(address, Port::kShared); }

Status start_listening(int fd, const Address& address) {
  if (listen(fd, kBacklog) != 0) return failed("cannot listen on", address, errno);
  return {};
}

Status check_port_is_free(const Address& address) {
  auto fd = bind_socket(address, Port::kExclusive);
  if (!fd) return fd.status();
  Status status = start_listening(*fd, address);
  close(*fd);
  return status;
}

std::uint16_t bound_port(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return 0;
  // The port lies at the same place in both families' addresses.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

}  // namespace prefork
