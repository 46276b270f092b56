#include "src/sync/endpoint.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "shm/fork.h"

namespace larder::sync {
namespace {

constexpr std::string_view kForms =
    "; write host:port, [v6]:port, redis://host:port or the absolute path of a unix socket";

Status bad_address(std::string what) {
  return {Code::kInvalidArgument, "redis.address " + std::move(what) + std::string(kForms)};
}

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

Result<Endpoint> unix_endpoint(std::string_view path) {
  constexpr std::size_t kRoom = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kRoom) {
    return {Code::kInvalidArgument,
            "redis.address " + quoted(path) + " has " + std::to_string(path.size()) +
                " bytes; the path of a unix socket has at most " + std::to_string(kRoom)};
  }
  Endpoint endpoint;
  endpoint.unix_socket = path;
  return endpoint;
}

Result<int> parse_port(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  if (!whole || port < 1 || port > 65'535) {
    return bad_address("has the port " + quoted(text) + "; a port is 1 to 65535");
  }
  return port;
}

// The scheme's end and a lone slash taken off; what is left is host and port.
Result<std::string_view> without_scheme(std::string_view address) {
  const std::size_t scheme_end = address.find("://");
  if (scheme_end == std::string_view::npos) return address;
  const std::string_view scheme = address.substr(0, scheme_end);
  if (scheme == "rediss") {
    return {Code::kInvalidArgument,
            "redis.address asks for TLS (rediss://), which this build does not have; use redis:// "
            "or a local TLS proxy"};
  }
  if (scheme != "redis") return bad_address("has the unknown scheme " + quoted(scheme));
  std::string_view rest = address.substr(scheme_end + 3);
  if (rest.ends_with('/')) rest.remove_suffix(1);
  if (rest.find('/') != std::string_view::npos) {
    return {Code::kInvalidArgument,
            "redis.address names a database after the port; set redis.database instead"};
  }
  return rest;
}

struct HostPort {
  std::string_view host;
  std::optional<std::string_view> port;
};

Result<HostPort> split_bracketed(std::string_view text) {
  const std::size_t close = text.find(']');
  if (close == std::string_view::npos) return bad_address(quoted(text) + " lacks a closing ]");
  const std::string_view after = text.substr(close + 1);
  if (!after.empty() && after.front() != ':') {
    return bad_address(quoted(text) + " has text after the ]");
  }
  HostPort parts{text.substr(1, close - 1), std::nullopt};
  if (!after.empty()) parts.port = after.substr(1);
  return parts;
}

Result<HostPort> split_host_port(std::string_view text) {
  if (text.starts_with('[')) return split_bracketed(text);
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return HostPort{text, std::nullopt};
  if (text.find(':', colon + 1) != std::string_view::npos) {
    return bad_address(quoted(text) + " has several colons; put an IPv6 address in brackets");
  }
  return HostPort{text.substr(0, colon), text.substr(colon + 1)};
}

bool is_numeric(const std::string& host) {
  unsigned char address[sizeof(in6_addr)];
  return inet_pton(AF_INET, host.c_str(), address) == 1 ||
         inet_pton(AF_INET6, host.c_str(), address) == 1;
}

// ---- names ------------------------------------------------------------------------------------

// Counts this process's look-ups in flight as {fork generation, count}: a child starts at zero,
// since its parent's threads do not exist in it.
class Lookups {
 public:
  bool begin() {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t base = shm::fork_generation() * kScale;
      const std::uint64_t count = seen - seen % kScale == base ? seen % kScale : 0;
      if (count >= kMax) return false;
      // Relaxed: only the number matters, nothing is published by it.
      if (word_.compare_exchange_weak(seen, base + count + 1, std::memory_order_relaxed)) {
        return true;
      }
    }
  }
  void end() { word_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  static constexpr std::uint64_t kScale = 256;
  static constexpr std::uint64_t kMax = 8;
  std::atomic<std::uint64_t> word_{0};
};
Lookups g_lookups;

// What the asker and the thread share; whoever is last frees it.
struct Answer {
  std::mutex mutex;
  std::condition_variable ready;
  bool done = false;
  int error = 0;
  std::vector<std::string> addresses;
};

std::string numeric_text(const addrinfo& entry) {
  char text[NI_MAXHOST] = "";
  getnameinfo(entry.ai_addr, entry.ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return text;
}

void look_up(const std::string& host, Answer& answer) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  std::vector<std::string> addresses;
  for (const addrinfo* entry = error == 0 ? found : nullptr; entry != nullptr;
       entry = entry->ai_next) {
    addresses.push_back(numeric_text(*entry));
  }
  if (error == 0) freeaddrinfo(found);
  g_lookups.end();
  const std::lock_guard lock(answer.mutex);
  answer.done = true;
  answer.error = error;
  answer.addresses = std::move(addresses);
  answer.ready.notify_all();
}

// A thread that takes none of the application's signals. False when there can be no thread.
bool start_look_up(const std::string& host, const std::shared_ptr<Answer>& answer) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = true;
  try {
    std::thread([host, answer] { look_up(host, *answer); }).detach();
  } catch (const std::system_error&) {
    started = false;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

Result<std::vector<std::string>> resolve_name(const std::string& host, Deadline deadline) {
  if (!g_lookups.begin()) {
    return {Code::kUnavailable, "the name " + quoted(host) +
                                    " is not being resolved: earlier look-ups still wait for the "
                                    "name server; check DNS, or give a numeric address"};
  }
  const auto answer = std::make_shared<Answer>();
  if (!start_look_up(host, answer)) {
    g_lookups.end();
    return {Code::kUnavailable,
            "the name " + quoted(host) + " is not being resolved: no thread could be started"};
  }
  std::unique_lock lock(answer->mutex);
  if (!answer->ready.wait_until(lock, deadline, [&] { return answer->done; })) {
    return {Code::kUnavailable, "the name " + quoted(host) +
                                    " was not resolved in time; check DNS, or give a numeric "
                                    "address"};
  }
  if (answer->error != 0 || answer->addresses.empty()) {
    return {Code::kUnavailable, "the name " + quoted(host) + " was not resolved: " +
                                    gai_strerror(answer->error == 0 ? EAI_NONAME : answer->error) +
                                    "; check redis.address and DNS"};
  }
  return std::move(answer->addresses);
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view address) {
  if (address.empty()) return bad_address("is empty");
  if (address.find('\0') != std::string_view::npos) return bad_address("contains a NUL byte");
  if (address.front() == '/') return unix_endpoint(address);
  if (address.find('@') != std::string_view::npos) {
    return {Code::kInvalidArgument,
            "redis.address carries credentials; put them into redis.username and redis.password"};
  }
  const Result<std::string_view> rest = without_scheme(address);
  if (!rest) return rest.status();
  const Result<HostPort> parts = split_host_port(*rest);
  if (!parts) return parts.status();
  Endpoint endpoint;
  endpoint.host = parts->host;
  endpoint.port = kDefaultPort;
  if (endpoint.host.empty()) return bad_address(quoted(address) + " names no host");
  if (endpoint.host.find_first_of(" \t\r\n/") != std::string::npos) {
    return bad_address(quoted(address) + " has a blank or a slash in the host's name");
  }
  if (parts->port) {
    const Result<int> port = parse_port(*parts->port);
    if (!port) return port.status();
    endpoint.port = *port;
  }
  return endpoint;
}

std::string to_string(const Endpoint& endpoint) {
  if (endpoint.is_unix()) return endpoint.unix_socket;
  const bool v6 = endpoint.host.find(':') != std::string::npos;
  const std::string host = v6 ? '[' + endpoint.host + ']' : endpoint.host;
  return host + ':' + std::to_string(endpoint.port);
}

Result<std::vector<std::string>> resolve(const Endpoint& endpoint, Deadline deadline) {
  if (is_numeric(endpoint.host)) return std::vector<std::string>{endpoint.host};
  return resolve_name(endpoint.host, deadline);
}

}  // namespace larder::sync
