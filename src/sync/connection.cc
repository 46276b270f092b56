#include "src/sync/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

namespace larder::sync {
namespace {

constexpr std::size_t kReadBytes = 16u << 10;

bool is_past(Deadline deadline) { return std::chrono::steady_clock::now() >= deadline; }

// Of poll: rounded up, so that it does not spin through the last millisecond.
int milliseconds_left(Deadline deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), 0, std::numeric_limits<int>::max()));
}

// 1: one of `events` (or an error, which the next call on the socket tells); 0: too late.
int poll_until(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd watched{fd, events, 0};
    const int left = milliseconds_left(deadline);
    const int ready = poll(&watched, 1, left);
    if (ready > 0) return 1;
    if (ready < 0 && errno != EINTR) return -1;
    if (left == 0) return 0;
  }
}

std::string error_text(int error) {
  char buffer[128] = "";
  return strerror_r(error, buffer, sizeof buffer);
}

// ---- connecting -------------------------------------------------------------------------------

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  int family() const { return storage.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

SocketAddress unix_address(const std::string& path) {
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  path.copy(local.sun_path, sizeof local.sun_path - 1);
  SocketAddress address;
  std::memcpy(&address.storage, &local, sizeof local);
  address.size = sizeof local;
  return address;
}

// Link-local IPv6 addresses may carry a zone, which only inet_pton's caller could resolve; they
// are left to the kernel's default.
SocketAddress ip_address(const std::string& numeric, int port) {
  SocketAddress address;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (inet_pton(AF_INET, numeric.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(static_cast<std::uint16_t>(port));
    std::memcpy(&address.storage, &v4, sizeof v4);
    address.size = sizeof v4;
  } else if (inet_pton(AF_INET6, numeric.substr(0, numeric.find('%')).c_str(), &v6.sin6_addr) ==
             1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(static_cast<std::uint16_t>(port));
    std::memcpy(&address.storage, &v6, sizeof v6);
    address.size = sizeof v6;
  }
  return address;
}

Status cannot_connect(const std::string& name, int error) {
  std::string cure = "; check redis.address and that Redis runs";
  if (error == EACCES || error == EPERM) cure = "; check who may open the socket";
  return {error == EACCES || error == EPERM ? Code::kPermissionDenied : Code::kUnavailable,
          "cannot connect to Redis at " + name + ": " + error_text(error) + cure};
}

Status connect_timed_out(const std::string& name) {
  return {Code::kUnavailable, "cannot connect to Redis at " + name +
                                  ": no answer within the timeout; check redis.address, the "
                                  "network and redis.timeout"};
}

void set_tcp_options(int fd) {
  const int on = 1;
  const int idle_seconds = 30;
  // Failure of any of these costs speed or notice of a dead peer, not correctness.
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds, sizeof idle_seconds);
}

// Finishes a connect that was begun: 0, or the error.
int finish_connect(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

Result<int> connect_to(const SocketAddress& address, const std::string& name, Deadline deadline) {
  const int fd = socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return cannot_connect(name, errno);
  if (address.family() != AF_UNIX) set_tcp_options(fd);
  int error = connect(fd, address.get(), address.size) == 0 ? 0 : errno;
  if (error == EINPROGRESS || error == EINTR) {
    const int ready = poll_until(fd, POLLOUT, deadline);
    if (ready == 0) {
      close(fd);
      return connect_timed_out(name);
    }
    error = ready < 0 ? errno : finish_connect(fd);
  }
  if (error == 0) return fd;
  close(fd);
  return cannot_connect(name, error);
}

Result<int> connect_tcp(const Endpoint& endpoint, const std::string& name, Deadline deadline) {
  const Result<std::vector<std::string>> addresses = resolve(endpoint, deadline);
  if (!addresses) return addresses.status();
  Status last = connect_timed_out(name);
  for (std::size_t i = 0; i < addresses->size(); ++i) {
    // An address that swallows packets leaves time for the ones after it.
    const auto now = std::chrono::steady_clock::now();
    const Deadline share = now + (deadline - now) / static_cast<int>(addresses->size() - i);
    Result<int> fd = connect_to(ip_address((*addresses)[i], endpoint.port), name, share);
    if (fd) return fd;
    last = fd.status();
  }
  return last;
}

// ---- error replies ----------------------------------------------------------------------------

// EXEC itself may be what a user is not allowed to do.
std::string_view without_exec_prefix(std::string_view text) {
  constexpr std::string_view kPrefix = "EXECABORT Transaction discarded because of: ";
  return text.starts_with(kPrefix) ? text.substr(kPrefix.size()) : text;
}

// Before version 7, Redis wraps what failed inside a script: "ERR Error running script (call to
// f_...): @user_script:12: WRONGTYPE ..."; since then it adds " script: ..., on @user_script:12.".
std::string_view without_script_position(std::string_view text) {
  constexpr std::string_view kMark = "@user_script:";
  const std::size_t mark = text.rfind(kMark);
  if (text.starts_with("ERR Error ") && mark != std::string_view::npos) {
    const std::size_t end = text.find(": ", mark + kMark.size());
    return end == std::string_view::npos ? text : text.substr(end + 2);
  }
  const std::size_t suffix = text.rfind(" script: ");
  const bool is_position =
      suffix != std::string_view::npos && text.find(kMark, suffix) != std::string_view::npos;
  return is_position ? text.substr(0, suffix) : text;
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

struct KnownError {
  std::string_view code;  // the reply's first word
  Code status;
  std::string_view cure;
};
constexpr KnownError kKnownErrors[] = {
    {"NOAUTH", Code::kPermissionDenied, "set redis.password"},
    {"WRONGPASS", Code::kPermissionDenied, "check redis.username and redis.password"},
    {"NOPERM", Code::kPermissionDenied, "extend this user's ACL: commands, key pattern, channel"},
    {"WRONGTYPE", Code::kRefused,
     "another application uses this key; choose another key_prefix "
     "or remove the key"},
    {"LARDERLOG", Code::kRefused, "remove the log's key; every host then drops its local copy"},
    {"OOM", Code::kUnavailable, "Redis is full: raise maxmemory or set an eviction policy"},
    {"READONLY", Code::kUnavailable, "this is a replica: point redis.address at the primary"},
    {"MISCONF", Code::kUnavailable, "Redis cannot save to its disk and refuses writes"},
    {"LOADING", Code::kUnavailable, "Redis is still loading its data: try again"},
    {"BUSY", Code::kUnavailable, "another client's script runs too long in Redis"},
    {"NOREPLICAS", Code::kUnavailable, "too few replicas are connected for Redis to take writes"},
    {"MASTERDOWN", Code::kUnavailable, "this replica has lost its primary"},
    {"MOVED", Code::kUnavailable, "this is a node of a Redis Cluster, which is not supported"},
    {"CLUSTERDOWN", Code::kUnavailable,
     "this is a node of a Redis Cluster, which is not supported"},
    {"CROSSSLOT", Code::kUnavailable, "this is a node of a Redis Cluster, which is not supported"},
};

// Redis does not say which of them it refused.
constexpr std::string_view kScriptCommands =
    "EXISTS, TYPE, STRLEN, XINFO, XADD, XREVRANGE, SET, DEL, PUBLISH, TIME, and FLUSHDB for the "
    "database scope";

// ---- replies to SELECT ------------------------------------------------------------------------

Status status_of_select_error(std::string_view text, int database) {
  if (contains(text, "out of range") || contains(text, "invalid DB index")) {
    return {Code::kInvalidArgument, "redis.database " + std::to_string(database) +
                                        " does not exist in this Redis; its `databases` setting "
                                        "says how many it has"};
  }
  return status_of_error(text);
}

}  // namespace

Status status_of_auth_error(std::string_view text, const std::string& at) {
  if (text.starts_with("WRONGPASS") || text.starts_with("ERR invalid password")) {
    return {Code::kPermissionDenied,
            at + " refused the user or the password; check redis.username and redis.password"};
  }
  if (contains(text, "without any password") || contains(text, "no password is set")) {
    return {Code::kPermissionDenied,
            at + " has no password for this user, but one was given; leave redis.password empty "
                 "or set requirepass"};
  }
  if (contains(text, "wrong number of arguments") || contains(text, "syntax error")) {
    return {Code::kPermissionDenied,
            at + " knows no user names (Redis before 6); leave redis.username empty"};
  }
  if (text.starts_with("LOADING") || text.starts_with("ERR max number of clients")) {
    return status_of_error(text);
  }
  return {Code::kPermissionDenied, at + " refused to authenticate this client"};
}

Status status_of_foreign_log() {
  return {
      Code::kRefused,
      "Redis answered: WRONGTYPE the log's key (larder:log:CHANNEL) holds something else; remove "
      "it, or choose another redis.channel"};
}

Status status_of_error(std::string_view text) {
  const std::string_view plain = without_script_position(without_exec_prefix(text));
  const auto with_cure = [plain](Code code, std::string_view cure) {
    return Status(code, "Redis answered: " + std::string(plain) + "; " + std::string(cure));
  };
  const std::string_view first_word = plain.substr(0, plain.find(' '));
  for (const KnownError& known : kKnownErrors) {
    if (known.code == first_word) return with_cure(known.status, known.cure);
  }
  // Before a login Redis reads short commands only, and says "unauthenticated multibulk length".
  if (contains(plain, "Protocol error: unauthenticated")) {
    return with_cure(Code::kPermissionDenied, "set redis.password");
  }
  if (contains(plain, "ACL failure in script") || contains(plain, "executing the script can't")) {
    return with_cure(
        Code::kPermissionDenied,
        "extend this user's ACL: commands, key pattern, channel; larder's scripts run " +
            std::string(kScriptCommands));
  }
  if (contains(plain, "unknown command")) {
    return with_cure(Code::kRefused,
                     "larder needs Redis 5 or newer with streams, and scripts or transactions");
  }
  if (contains(plain, "Unknown Redis command")) {
    return with_cure(Code::kRefused,
                     "larder needs Redis 5 or newer with scripts and streams, and its commands "
                     "under their own names: " +
                         std::string(kScriptCommands));
  }
  if (contains(plain, "max number of clients")) {
    return with_cure(Code::kUnavailable, "raise maxclients");
  }
  return {Code::kUnavailable, "Redis answered: " + std::string(plain)};
}

Connection::Connection(int fd, std::string name)
    : fd_(fd), name_(std::move(name)), reader_(redisReaderCreate()) {}

Connection::~Connection() {
  redisReaderFree(reader_);
  close(fd_);
}

Result<std::unique_ptr<Connection>> Connection::open(const Endpoint& endpoint, const Login& login,
                                                     Deadline deadline) {
  std::string name = to_string(endpoint);
  const int timeout_ms = milliseconds_left(deadline);
  const Result<int> fd = endpoint.is_unix()
                             ? connect_to(unix_address(endpoint.unix_socket), name, deadline)
                             : connect_tcp(endpoint, name, deadline);
  if (!fd) return fd.status();
  std::unique_ptr<Connection> connection(new Connection(*fd, std::move(name)));
  if (connection->reader_ == nullptr) return {Code::kUnavailable, "out of memory"};
  connection->wait_in_recv(timeout_ms);
  if (Status status = connection->log_in(login, deadline); !status.ok()) return status;
  return connection;
}

// A call then waits in one system call instead of two, as long as it has so long to wait.
void Connection::wait_in_recv(int timeout_ms) {
  const timeval timeout{timeout_ms / 1000, timeout_ms % 1000 * 1000L};
  const int flags = fcntl(fd_, F_GETFL);
  if (timeout_ms <= 0 || flags < 0) return;
  if (setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0) return;
  if (fcntl(fd_, F_SETFL, flags & ~O_NONBLOCK) == 0) recv_timeout_ms_ = timeout_ms;
}

Status Connection::log_in(const Login& login, Deadline deadline) {
  if (!login.password.empty()) {
    std::vector<std::string_view> auth{"AUTH"};
    if (!login.username.empty()) auth.push_back(login.username);
    auth.push_back(login.password);
    const Result<Reply> reply = command(auth, deadline);
    if (!reply) return reply.status();
    if ((*reply)->type == REDIS_REPLY_ERROR)
      return status_of_auth_error(text_of(**reply), "Redis at " + name_);
  }
  if (login.database != 0) {
    const std::string number = std::to_string(login.database);
    const std::array<std::string_view, 2> select{"SELECT", number};
    const Result<Reply> reply = command(select, deadline);
    if (!reply) return reply.status();
    if ((*reply)->type == REDIS_REPLY_ERROR) {
      return status_of_select_error(text_of(**reply), login.database);
    }
  } else if (login.password.empty()) {
    // A server that wants a password cuts the connection at the first long command, and its answer
    // may be lost with it; to a short one it says what it wants.
    const std::array<std::string_view, 1> ping{"PING"};
    const Result<Reply> reply = command(ping, deadline);
    if (!reply) return reply.status();
    if ((*reply)->type == REDIS_REPLY_ERROR && text_of(**reply).starts_with("NOAUTH")) {
      return status_of_error(text_of(**reply));
    }
  }
  return {};
}

bool Connection::is_usable() const noexcept {
  if (is_given_up_ || reader_->pos != reader_->len) return false;
  char byte = 0;
  const ssize_t seen = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return seen < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

Status Connection::closed(std::string_view why) {
  was_closed_ = true;
  return {Code::kUnavailable,
          "the connection to Redis at " + name_ + " was lost: " + std::string(why)};
}

Status Connection::timed_out() const {
  return {Code::kUnavailable,
          "Redis at " + name_ + " did not answer in time; check its load and redis.timeout"};
}

Status Connection::wait_for(short events, Deadline deadline) {
  const int ready = poll_until(fd_, events, deadline);
  if (ready > 0) return {};
  return ready == 0 ? timed_out() : closed(error_text(errno));
}

namespace {

// As Redis' protocol has it: how many, then each behind its length.
void append_command(std::string& bytes, std::span<const std::string_view> arguments) {
  bytes.append("*").append(std::to_string(arguments.size())).append("\r\n");
  for (const std::string_view argument : arguments) {
    bytes.append("$").append(std::to_string(argument.size())).append("\r\n");
    bytes.append(argument).append("\r\n");
  }
}

}  // namespace

Result<Reply> Connection::command(std::span<const std::string_view> arguments, Deadline deadline) {
  std::string bytes;
  append_command(bytes, arguments);
  if (Status sent = send_all(bytes, deadline); !sent.ok()) return sent;
  return read_reply(deadline);
}

Result<std::vector<Reply>> Connection::commands(std::span<const std::vector<std::string_view>> all,
                                                Deadline deadline) {
  std::string bytes;
  for (const auto& arguments : all) append_command(bytes, arguments);
  if (Status sent = send_all(bytes, deadline); !sent.ok()) return sent;
  std::vector<Reply> replies;
  for (std::size_t i = 0; i < all.size(); ++i) {
    Result<Reply> reply = read_reply(deadline);
    if (!reply) return reply.status();
    replies.push_back(std::move(*reply));
  }
  return replies;
}

Status Connection::send_all(std::string_view bytes, Deadline deadline) {
  has_sent_ = false;
  was_closed_ = false;
  while (!bytes.empty()) {
    if (is_past(deadline)) return timed_out();
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      has_sent_ = true;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (Status status = wait_for(POLLOUT, deadline); !status.ok()) return status;
    } else if (errno != EINTR) {
      return closed(error_text(errno));
    }
  }
  return {};
}

namespace {
// Then the address may lead elsewhere by now: the next call looks anew. A script's error has the
// command's own inside.
bool is_of_replica(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ERROR) return false;
  const std::string_view text = text_of(reply);
  return text.starts_with("MASTERDOWN") || text.starts_with("READONLY") ||
         text.find("-READONLY") != std::string_view::npos;
}
}  // namespace

Result<Reply> Connection::read_reply(Deadline deadline) {
  std::array<char, kReadBytes> buffer;
  for (;;) {
    void* parsed = nullptr;
    if (redisReaderGetReply(reader_, &parsed) != REDIS_OK) {
      return closed("it sent bytes that are not Redis' protocol; check redis.address");
    }
    if (parsed != nullptr) {
      Reply reply(static_cast<redisReply*>(parsed));
      if (is_of_replica(*reply)) give_up();
      return reply;
    }
    if (is_past(deadline)) return timed_out();  // also for a peer that sends on and on
    const bool waits_in_recv = milliseconds_left(deadline) >= recv_timeout_ms_;
    if (!waits_in_recv) {
      if (Status status = wait_for(POLLIN, deadline); !status.ok()) return status;
    }
    const ssize_t got = recv(fd_, buffer.data(), buffer.size(), waits_in_recv ? 0 : MSG_DONTWAIT);
    if (got > 0) {
      if (redisReaderFeed(reader_, buffer.data(), static_cast<std::size_t>(got)) != REDIS_OK) {
        return {Code::kUnavailable, "out of memory for a reply of Redis"};
      }
    } else if (got == 0) {
      return closed("it was closed by the other side");
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      return closed(error_text(errno));
    }
  }
}

}  // namespace larder::sync
