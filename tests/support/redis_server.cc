#include "tests/support/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tests/support/process.h"

namespace larder::test {
namespace {

constexpr std::chrono::seconds kPatience{20};

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("redis-server: " + what);
}

Reply to_reply(const redisReply& raw) {
  Reply reply;
  switch (raw.type) {
    case REDIS_REPLY_INTEGER:
      reply.kind = Reply::Kind::kNumber;
      reply.number = raw.integer;
      break;
    case REDIS_REPLY_NIL:
      reply.kind = Reply::Kind::kNil;
      break;
    case REDIS_REPLY_ARRAY:
      reply.kind = Reply::Kind::kArray;
      for (std::size_t i = 0; i < raw.elements; ++i) {
        reply.items.push_back(to_reply(*raw.element[i]));
      }
      break;
    default:
      reply.kind = raw.type == REDIS_REPLY_ERROR ? Reply::Kind::kError : Reply::Kind::kText;
      reply.text.assign(raw.str, raw.len);
  }
  return reply;
}

Reply take_reply(void* raw, const redisContext* context) {
  if (raw == nullptr) {
    Reply lost;
    lost.text = context == nullptr ? "not connected" : context->errstr;
    return lost;
  }
  Reply reply = to_reply(*static_cast<redisReply*>(raw));
  freeReplyObject(raw);
  return reply;
}

std::string make_folder() {
  const char* base = std::getenv("TMPDIR");
  std::string path = std::string(base == nullptr ? "/tmp" : base) + "/larder-redis-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) fail("no temporary folder at " + path);
  return path;
}

// Free a moment ago; somebody may take it before the server does, and then `launch` tries another.
int free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool known = bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  close(fd);
  if (!known) fail("no free port on 127.0.0.1");
  return ntohs(address.sin_port);
}

// In the child, between fork and exec.
[[noreturn]] void become_server(const char* config, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(126);  // it died before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(null, 1);
  dup2(null, 2);
  execlp("redis-server", "redis-server", config, static_cast<char*>(nullptr));
  _exit(127);
}

}  // namespace

// ---- connection -------------------------------------------------------------------------------

RedisConnection::RedisConnection(const std::string& unix_socket)
    : context_(redisConnectUnixWithTimeout(unix_socket.c_str(), timeval{10, 0})) {
  if (context_ != nullptr && context_->err == 0) redisSetTimeout(context_, timeval{10, 0});
}

RedisConnection::~RedisConnection() {
  if (context_ != nullptr) redisFree(context_);
}

RedisConnection::RedisConnection(RedisConnection&& other) noexcept
    : context_(std::exchange(other.context_, nullptr)) {}

RedisConnection& RedisConnection::operator=(RedisConnection&& other) noexcept {
  std::swap(context_, other.context_);
  return *this;
}

Reply RedisConnection::command(const std::vector<std::string>& arguments) {
  if (context_ == nullptr || context_->err != 0) return take_reply(nullptr, context_);
  std::vector<const char*> texts;
  std::vector<std::size_t> sizes;
  for (const std::string& argument : arguments) {
    texts.push_back(argument.data());
    sizes.push_back(argument.size());
  }
  void* raw =
      redisCommandArgv(context_, static_cast<int>(texts.size()), texts.data(), sizes.data());
  return take_reply(raw, context_);
}

Reply RedisConnection::read() {
  if (context_ == nullptr || context_->err != 0) return take_reply(nullptr, context_);
  void* raw = nullptr;
  if (redisGetReply(context_, &raw) != REDIS_OK) raw = nullptr;
  return take_reply(raw, context_);
}

// ---- server -----------------------------------------------------------------------------------

RedisServer::RedisServer() : RedisServer(Config{}) {}

RedisServer::RedisServer(Config config)
    : config_(std::move(config)), folder_(make_folder()), owner_(getpid()) {
  try {
    start();
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    throw;
  }
}

RedisServer::~RedisServer() {
  if (getpid() != owner_) return;
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void RedisServer::launch() {
  const std::string path = folder_ + "/redis.conf";
  std::ofstream file(path);
  file << "dir " << folder_ << "\nunixsocket " << unix_socket() << "\nport " << port_
       << "\nbind 127.0.0.1\nlogfile " << folder_ << "/log\nsave \"\"\nappendonly no\n"
       << "daemonize no\ndatabases 16\n";
  for (const std::string& line : config_.lines) file << line << '\n';
  file.close();
  std::filesystem::remove(unix_socket());
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) fail("fork failed");
  if (pid_ == 0) become_server(path.c_str(), parent);
}

void RedisServer::start() {
  if (pid_ > 0) return;
  const bool choose_port = config_.tcp && port_ == 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    if (choose_port) port_ = free_port();
    launch();
    wait_until_ready();
    if (pid_ > 0) return;
    if (!choose_port) break;
  }
  fail("did not start: " + log_tail());
}

// Any answer will do, also that a password is wanted.
bool RedisServer::answers() const {
  RedisConnection connection(unix_socket());
  const Reply reply = connection.command({"PING"});
  return reply.kind != Reply::Kind::kLost && !reply.text.starts_with("LOADING");
}

// Leaves `pid_` at -1 when the server exited instead.
void RedisServer::wait_until_ready() {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!answers()) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return;
    }
    if (std::chrono::steady_clock::now() > until) fail("does not answer: " + log_tail());
    pause_before_asking_again();
  }
}

void RedisServer::wait_for_exit() {
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::stop() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  ::kill(pid_, SIGCONT);
  wait_for_exit();
}

void RedisServer::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  wait_for_exit();
}

void RedisServer::pause() {
  ::kill(pid_, SIGSTOP);
  int status = 0;
  waitpid(pid_, &status, WUNTRACED);
  if (!WIFSTOPPED(status)) fail("did not stop");
}

void RedisServer::resume() {
  ::kill(pid_, SIGCONT);
  int status = 0;
  waitpid(pid_, &status, WCONTINUED);
  if (!WIFCONTINUED(status)) fail("did not go on");
}

void RedisServer::restart(Data data) {
  if (data == Data::kKeep && pid_ > 0 && connect().command({"SAVE"}).is_error()) {
    fail("could not save");
  }
  stop();
  if (data == Data::kDrop) std::filesystem::remove(folder_ + "/dump.rdb");
  start();
}

RedisConnection RedisServer::connect() const {
  RedisConnection connection(unix_socket());
  if (!config_.password.empty() && connection.command({"AUTH", config_.password}).is_error()) {
    fail("did not accept the test's own password");
  }
  return connection;
}

std::uint64_t RedisServer::command_calls(std::string_view name) const {
  const Reply info = connect().command({"INFO", "commandstats"});
  if (info.is_error()) fail("gives no statistics: " + info.text);
  const std::string mark = "cmdstat_" + std::string(name) + ":calls=";
  const std::size_t at = info.text.find(mark);
  if (at == std::string::npos) return 0;
  std::uint64_t calls = 0;
  const char* begin = info.text.data() + at + mark.size();
  std::from_chars(begin, info.text.data() + info.text.size(), calls);
  return calls;
}

std::string RedisServer::log_tail() const {
  std::ifstream file(folder_ + "/log");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return text.empty() ? "no log; is redis-server installed?"
                      : text.substr(text.size() - std::min<std::size_t>(text.size(), 600));
}

}  // namespace larder::test
