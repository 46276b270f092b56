// Calls to Redis: every change is one atomic script that writes, logs and announces it, or, where
// scripts are refused, one transaction that does the same.
//
// Threads: every method, from any thread, at the same time; each call in flight has a connection
//   of its own, and some are kept for the next calls.
// Fork: a child makes its own connections at its first call; the parent's are closed there without
//   a word to Redis, and no lock of the parent is touched. The child of a parent whose other
//   threads were calling may call too.
// Blocking: a call returns within `timeout`, resolving, connecting and authenticating included.
//   The exception is `clear_prefix`, which is many calls: each of them is bounded.
// Retries: none that could repeat a change. A connection that Redis closed while it was idle is
//   noticed before anything is sent on it. What only reads is asked once more on a new connection.
// Errors: kUnavailable (cannot be reached, did not answer, cannot serve now), kPermissionDenied
//   (password or ACL), kRefused (the key or the log holds something else), kInvalidArgument. After
//   kUnavailable from a change it is not known whether the change was made; its message says so
//   where that is the case. Passwords appear in no message.
#pragma once

#include <hiredis/hiredis.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "larder/options.h"
#include "larder/status.h"
#include "src/sync/breaker.h"
#include "src/sync/connection.h"
#include "src/sync/endpoint.h"
#include "src/sync/event.h"
#include "src/sync/log.h"
#include "src/sync/scripts.h"

namespace larder::sync {

struct ClientOptions {
  Endpoint endpoint;
  Login login;
  std::chrono::milliseconds timeout{1000};
  std::string channel = "cache:invalidate";
  std::uint64_t log_max_entries = 100'000;
  WireFormat wire_format = WireFormat::kJson;
  std::string sender;                    // the node id, in every event; UTF-8
  std::size_t idle_connections_max = 8;  // kept open between calls
};

// From what the caller configured. kInvalidArgument: the address cannot be understood.
Result<ClientOptions> client_options(const Options& options, std::string node_id);

// How other hosts hear of a new value.
enum class Announce {
  kValue,         // it travels in the event
  kInvalidation,  // they drop their copy and read it when asked
};

// What Redis held under a key, and where the log ended meanwhile.
struct Fetched {
  std::optional<std::string> value;
  std::int64_t ttl_ms = -1;  // left to live; -1: for ever. Without meaning when there is no value
  ChangeId last;             // {0, 0}: the log is empty
  // The log went on while it was asked: then nothing says which changes the value has.
  bool overtaken = false;
};
// What is asked for it, in one go: the log's end before and after the value. In between hardly
// anything ever happens, and what does, shows.
std::vector<std::vector<std::string_view>> fetch_commands(std::string_view log_key,
                                                          std::string_view key);
// The answer to command `number` of them. kUnavailable for what is no such answer.
Status take_fetch_reply(std::size_t number, const redisReply& reply, Fetched& fetched);

struct Cleared {
  Written last;               // the closing `clear` event
  std::uint64_t removed = 0;  // keys named in delete_many events
};

struct FetchOptions {
  std::chrono::milliseconds timeout{0};  // where the caller has less time than the client's
  // A seq that Redis' log is known to have. Who answers without it lags behind, as a primary does
  // that has become a replica; then all idle connections are given up, once in a while, and a new
  // one is asked. That answer stands.
  std::uint64_t least = 0;
};

class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Keys are whole Redis keys, prefix included.
  Result<Fetched> fetch(std::string_view key, const FetchOptions& options = {});
  // How long the key has to live, in milliseconds; -1: for ever, -2: there is none.
  Result<std::int64_t> life(std::string_view key, std::chrono::milliseconds timeout = {});
  // `ttl` 0: for ever.
  Result<Written> set(std::string_view key, std::string_view value, std::chrono::milliseconds ttl,
                      Announce announce);
  // Ok also when there was none.
  Result<Written> remove(std::string_view key);

  // Removes every key that begins with `prefix`, which must not be empty, in batches; each is one
  // change that names its keys. Keys of logs stay. Ends with the event of clear_local_copies. After
  // an error some keys may be gone, and their hosts know; the closing event was not sent.
  Result<Cleared> clear_prefix(std::string_view prefix);
  // Tells every host to drop its copies under `prefix` (empty: all). Touches no data in Redis.
  Result<Written> clear_local_copies(std::string_view prefix);
  // FLUSHDB and the same event for everything.
  Result<Written> clear_database();

  Status ping();

  // False for a while after Redis refused one: changes are transactions then.
  bool expects_scripts() const noexcept;

  // Whether a call is worth it; to be asked before each. A call that is made all the same is made.
  Breaker& breaker() noexcept { return breaker_; }

  const ClientOptions& options() const noexcept { return options_; }
  const std::string& log_key() const noexcept { return log_key_; }

 private:
  class Pool;
  enum class Kind { kRead, kChange };
  using Arguments = std::vector<std::string_view>;
  // What holds for all that is asked for one call. Whose caller was hasty says nothing of Redis
  // when it gets no answer.
  struct Call {
    Kind kind;
    Deadline until;
    bool is_hasty;
  };

  Pool& pool();
  // From now on.
  Call call(Kind kind, std::chrono::milliseconds timeout = {}) const;
  Result<Fetched> fetch_once(std::string_view key, const Call& call);
  bool may_renew() noexcept;
  Result<Reply> run(const Arguments& command, const Call& call);
  template <class Ask>
  auto ask(Ask ask, const Call& call);
  template <class Ask>
  auto attempt(Ask ask, const Call& call, bool& may_repeat)
      -> decltype(ask(std::declval<Connection&>()));
  Result<Reply> run_script(const Script& script, std::span<const std::string_view> keys,
                           std::span<const std::string_view> arguments, const Call& call);
  void unanswered(std::uint64_t began_ms, bool says_nothing) noexcept;
  // A change in both its forms: what the event says, and what is done to the data.
  struct Order {
    Event event;
    Arguments command;
    std::chrono::milliseconds ttl{0};
  };
  Result<Written> change(const Script& script, std::span<const std::string_view> keys, Order order,
                         std::span<const std::string_view> more);
  Result<Written> change_without_script(Order order, std::uint64_t nonce, const Call& call);
  Status check_key(std::string_view key) const;
  Result<Written> delete_many(const std::vector<std::string>& keys);
  Status delete_in_batches(std::vector<std::string> keys, Cleared& cleared);

  const ClientOptions options_;
  const std::string log_key_;
  const ChangeScripts scripts_;
  std::atomic<Pool*> pool_;  // this process's, once it has called
  Breaker breaker_;
  std::atomic<std::uint64_t> scripts_refused_ms_{0};  // when Redis said so; 0: it did not
  std::atomic<std::uint64_t> renewed_ms_{0};          // when the idle connections were given up
};

}  // namespace larder::sync
