// A real redis-server for tests, in a folder of its own, and a small connection to ask it things.
//
// Threads: one at a time. The server dies with the thread that started it (PR_SET_PDEATHSIG), so
// start it on a thread that outlives the test. Fork: a child's copy does nothing at destruction.
// Errors: what a test cannot go on without throws std::runtime_error, which fails the test.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct redisContext;

namespace larder::test {

// What Redis answered.
struct Reply {
  enum class Kind { kText, kNumber, kNil, kArray, kError, kLost };
  Kind kind = Kind::kLost;  // kLost: no answer; `text` says why
  std::string text;         // kText, kError, kLost
  std::int64_t number = 0;  // kNumber
  std::vector<Reply> items;

  bool is_error() const { return kind == Kind::kError || kind == Kind::kLost; }
  bool operator==(std::string_view other) const { return kind == Kind::kText && text == other; }
};

class RedisConnection {
 public:
  explicit RedisConnection(const std::string& unix_socket);
  ~RedisConnection();
  RedisConnection(RedisConnection&&) noexcept;
  RedisConnection& operator=(RedisConnection&&) noexcept;

  // Binary safe; waits for the reply at most ten seconds.
  Reply command(const std::vector<std::string>& arguments);
  // The next message of a subscription.
  Reply read();

 private:
  redisContext* context_;
};

class RedisServer {
 public:
  struct Config {
    bool tcp = false;                  // also listen on a free loopback port
    std::vector<std::string> lines{};  // of redis.conf: "requirepass secret"
    std::string password{};            // how this class itself logs in
  };
  enum class Data { kKeep, kDrop };

  RedisServer();
  explicit RedisServer(Config config);
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  std::string unix_socket() const { return folder_ + "/redis.sock"; }
  std::string tcp_address() const { return "127.0.0.1:" + std::to_string(port_); }
  pid_t pid() const { return pid_; }

  // Each waits until it has happened.
  void start();
  void stop();   // SIGTERM; keeps nothing that was not saved
  void kill();   // SIGKILL
  void pause();  // SIGSTOP: connections stay, nobody answers
  void resume();
  // On the same address. kKeep saves first.
  void restart(Data data);

  RedisConnection connect() const;
  // How often a command ran since the server started, as Redis counts ("get"); 0 for never. Also
  // counts those that scripts ran.
  std::uint64_t command_calls(std::string_view name) const;

 private:
  void launch();
  bool answers() const;
  void wait_until_ready();
  void wait_for_exit();
  std::string log_tail() const;

  Config config_;
  std::string folder_;
  int port_ = 0;
  pid_t owner_;  // who may end the server
  pid_t pid_ = -1;
};

}  // namespace larder::test
