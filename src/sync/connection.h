// One connection to Redis for blocking calls, every step bounded by one deadline.
//
// hiredis writes and parses the protocol; the socket is driven here, because hiredis' own blocking
// calls bound each read and write but not their sum, and may raise SIGPIPE in the host process.
//
// Threads: one caller at a time. Fork: a child must not use its parent's connection; it closes the
// descriptor and lets the rest be. Errors: returned; after any error but one that Redis replied the
// connection is broken.
#pragma once

#include <hiredis/hiredis.h>

#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"
#include "src/sync/endpoint.h"

namespace larder::sync {

struct FreeReply {
  void operator()(redisReply* reply) const noexcept { freeReplyObject(reply); }
};
// A reply of any type, errors included.
using Reply = std::unique_ptr<redisReply, FreeReply>;

inline std::string_view text_of(const redisReply& reply) noexcept {
  return reply.str == nullptr ? std::string_view{} : std::string_view(reply.str, reply.len);
}

struct Login {
  std::string username;  // empty: the default user
  std::string password;  // empty: none
  int database = 0;
};

class Connection {
 public:
  // Connects, authenticates and selects the database.
  static Result<std::unique_ptr<Connection>> open(const Endpoint& endpoint, const Login& login,
                                                  Deadline deadline);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Sends one command and reads its reply. A reply that is an error comes back as a reply.
  Result<Reply> command(std::span<const std::string_view> arguments, Deadline deadline);
  // Sends some in one go and reads the reply of each.
  Result<std::vector<Reply>> commands(std::span<const std::vector<std::string_view>> all,
                                      Deadline deadline);

  // False once Redis has closed an idle connection, or left bytes that nobody asked for, or the
  // connection was given up.
  bool is_usable() const noexcept;
  // Redis may be in a state with it that the next caller does not expect.
  void give_up() noexcept { is_given_up_ = true; }
  // Since the last call began, may Redis have seen any of its bytes?
  bool has_sent() const noexcept { return has_sent_; }
  // The last call failed because the other side closed, not because time ran out.
  bool was_closed() const noexcept { return was_closed_; }
  int descriptor() const noexcept { return fd_; }

 private:
  Connection(int fd, std::string name);

  void wait_in_recv(int timeout_ms);
  Status log_in(const Login& login, Deadline deadline);
  Status send_all(std::string_view bytes, Deadline deadline);
  Result<Reply> read_reply(Deadline deadline);
  Status wait_for(short events, Deadline deadline);
  Status closed(std::string_view why);
  Status timed_out() const;

  int fd_;
  std::string name_;  // the endpoint, for messages
  redisReader* reader_;
  // Shorter waits are made with poll: recv might take longer than that.
  int recv_timeout_ms_ = std::numeric_limits<int>::max();
  bool has_sent_ = false;
  bool was_closed_ = false;
  bool is_given_up_ = false;
};

// What an error reply means: a code, Redis' own words, and what to do.
Status status_of_error(std::string_view text);
// kRefused: the log's key holds another type.
Status status_of_foreign_log();
// Of a reply to AUTH; `at` begins the message. Never with the reply's own text unless it is one of
// Redis' fixed sentences: a server that does not know AUTH repeats the command's arguments.
Status status_of_auth_error(std::string_view text, const std::string& at);

}  // namespace larder::sync
