#include "src/sync/client.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>

#include "shm/clock.h"
#include "shm/fork.h"
#include "src/sync/transaction.h"

namespace larder::sync {

// ---- connections ------------------------------------------------------------------------------

// The connections of one process. A child leaves its parent's pool alone, mutex and all, and takes
// only the descriptors out of it, which stand in atomics for that reason.
class Client::Pool {
 public:
  explicit Pool(std::size_t idle_max) : idle_max_(idle_max), generation_(shm::fork_generation()) {}

  bool is_of_this_process() const noexcept { return generation_ == shm::fork_generation(); }

  // An idle connection that still works, or null.
  std::unique_ptr<Connection> take() {
    for (;;) {
      std::unique_ptr<Connection> connection;
      {
        const std::lock_guard lock(mutex_);
        if (idle_.empty()) return nullptr;
        connection = std::move(idle_.back());
        idle_.pop_back();
      }
      if (connection->is_usable()) return connection;
      retire(std::move(connection));
    }
  }

  void note(const Connection& connection) noexcept {
    for (std::atomic<int>& slot : descriptors_) {
      int free = kNoDescriptor;
      if (slot.compare_exchange_strong(free, connection.descriptor())) return;
    }
  }

  void give_back(std::unique_ptr<Connection> connection) {
    {
      const std::lock_guard lock(mutex_);
      if (idle_.size() < idle_max_) {
        idle_.push_back(std::move(connection));
        return;
      }
    }
    retire(std::move(connection));
  }

  void retire_idle() {
    std::vector<std::unique_ptr<Connection>> idle;
    {
      const std::lock_guard lock(mutex_);
      idle.swap(idle_);
    }
    for (std::unique_ptr<Connection>& connection : idle) retire(std::move(connection));
  }

  // The note goes before the descriptor does: a child that forks in between must not close a
  // number that means something else by then.
  void retire(std::unique_ptr<Connection> connection) noexcept {
    for (std::atomic<int>& slot : descriptors_) {
      int own = connection->descriptor();
      if (slot.compare_exchange_strong(own, kNoDescriptor)) break;
    }
  }

  // In a child. Nothing is sent, since the parent goes on using its end; nothing is freed, since
  // another thread may have been inside when the process forked. The pool stays reachable, so that
  // a leak checker knows it was left on purpose.
  void abandon() noexcept {
    for (std::atomic<int>& slot : descriptors_) {
      const int fd = slot.exchange(kNoDescriptor);
      if (fd != kNoDescriptor) close(fd);
    }
    next_abandoned_ = abandoned_.load();
    while (!abandoned_.compare_exchange_weak(next_abandoned_, this)) {
    }
  }

  // Whose turn it is among this process's transactions.
  std::timed_mutex& transaction_turn() noexcept { return transaction_turn_; }

  void close_all() noexcept {
    const std::lock_guard lock(mutex_);
    for (std::atomic<int>& slot : descriptors_) slot.store(kNoDescriptor);
    idle_.clear();
  }

 private:
  static constexpr int kNoDescriptor = -1;
  // Connections above this number are not closed in a child, only unused there.
  static constexpr std::size_t kNotedMax = 256;

  struct Descriptors : std::array<std::atomic<int>, kNotedMax> {
    Descriptors() {
      for (std::atomic<int>& slot : *this) slot.store(kNoDescriptor, std::memory_order_relaxed);
    }
  };

  static inline std::atomic<Pool*> abandoned_{nullptr};
  Pool* next_abandoned_ = nullptr;
  const std::size_t idle_max_;
  const std::uint64_t generation_;
  std::timed_mutex transaction_turn_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_;  // guarded by mutex_
  Descriptors descriptors_;
};

namespace {

constexpr std::chrono::milliseconds kTtlMax = std::chrono::hours(24 * 366 * 100);
constexpr std::string_view kScanCount = "500";
// A batch of removed keys: below Redis' limits on what a subscriber may fall behind.
constexpr std::size_t kBatchKeys = 500;
constexpr std::size_t kBatchBytes = 256u << 10;
static_assert(kBatchKeys <= kDeleteManyMax);

constexpr std::string_view kOutcomeUnknown = "; whether the change was made is not known";

// Fresh for every change and straight from the kernel: a generator's state could be shared by
// forked processes.
Result<std::uint64_t> fresh_nonce() {
  std::uint64_t nonce = 0;
  for (;;) {
    const ssize_t got = getrandom(&nonce, sizeof nonce, 0);
    if (got == sizeof nonce) return nonce;
    if (got < 0 && errno != EINTR) {
      return {Code::kInternal, "the kernel gives no random bytes (getrandom); nothing was written"};
    }
  }
}

// `text` as a glob that matches only itself.
std::string glob_escaped(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("*?[]\\^-").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

// ---- replies ----------------------------------------------------------------------------------

Status unexpected_reply() {
  return {Code::kUnavailable,
          "Redis answered in an unexpected form; a proxy or an incompatible server may stand in "
          "between"};
}

bool is_text(const redisReply& reply) {
  return reply.type == REDIS_REPLY_STRING || reply.type == REDIS_REPLY_STATUS;
}

bool is_array(const redisReply& reply, std::size_t size) {
  return reply.type == REDIS_REPLY_ARRAY && reply.elements == size;
}

Result<ChangeId> read_log_id(std::string_view text) {
  const Result<ChangeId> id = parse_change_id(text);
  if (id) return *id;
  return {Code::kRefused, "the log's last id " + std::string(text) +
                              " is beyond 2^48 - 1, so another program wrote to it; remove the "
                              "log's key"};
}

// "" is 0.
Result<std::uint64_t> read_number(std::string_view text) {
  std::uint64_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return unexpected_reply();
    number = number * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return number;
}

// Takes what stands before the next space, and the space, off the text.
std::optional<std::string_view> first_word(std::string_view& text) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos) return {};
  const std::string_view word = text.substr(0, space);
  text.remove_prefix(space + 1);
  return word;
}

Result<Written> read_written(const redisReply& reply) {
  const Status unexpected(Code::kUnavailable,
                          unexpected_reply().message() + std::string(kOutcomeUnknown));
  if (reply.type != REDIS_REPLY_STRING) return unexpected;
  std::string_view rest = text_of(reply);
  const auto id_text = first_word(rest), prev_text = first_word(rest), expiry = first_word(rest);
  if (!id_text || !prev_text || !expiry || rest.empty()) return unexpected;
  const Result<ChangeId> id = parse_change_id(*id_text), prev = parse_change_id(*prev_text);
  const Result<std::uint64_t> expires = read_number(*expiry);
  if (!id || !prev || !expires) return unexpected;
  Written written;
  written.id = *id;
  written.prev = *prev;
  written.expires_unix_ms = *expires;
  if (const Result<std::uint64_t> receivers = read_number(rest)) {
    written.receivers = *receivers;
  } else {
    written.published = status_of_error(rest);
  }
  return written;
}

bool is_noscript(const redisReply& reply) {
  return reply.type == REDIS_REPLY_ERROR && text_of(reply).starts_with("NOSCRIPT");
}

// By the ACL, or because the commands have other names. What a script itself is refused says "in
// script" or "from script" instead.
bool are_scripts_refused(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ERROR) return false;
  const std::string_view text = text_of(reply);
  const bool refuses = text.starts_with("NOPERM") || text.starts_with("ERR unknown command");
  const auto names = [&](std::string_view command) {
    return text.find(command) != std::string_view::npos;
  };
  return refuses && (names("'eval") || names("'EVAL") || names("`EVAL"));
}

// The scripts themselves say what kind of thing stands under a key that is to be set.
Status status_of_change_error(const redisReply& reply) {
  const bool is_of_log = text_of(reply).find("WRONGTYPE Operation") != std::string_view::npos;
  return is_of_log ? status_of_foreign_log() : status_of_error(text_of(reply));
}

struct ScanPage {
  std::string cursor;
  std::vector<std::string> keys;
};

Result<ScanPage> read_page(const redisReply& reply) {
  if (!is_array(reply, 2) || !is_text(*reply.element[0])) return unexpected_reply();
  const redisReply& keys = *reply.element[1];
  if (keys.type != REDIS_REPLY_ARRAY) return unexpected_reply();
  ScanPage page;
  page.cursor = text_of(*reply.element[0]);
  for (std::size_t i = 0; i < keys.elements; ++i) page.keys.emplace_back(text_of(*keys.element[i]));
  return page;
}

}  // namespace

Result<ClientOptions> client_options(const Options& options, std::string node_id) {
  Result<Endpoint> endpoint = parse_endpoint(options.redis.address);
  if (!endpoint) return endpoint.status();
  ClientOptions result;
  result.endpoint = std::move(*endpoint);
  result.login = {options.redis.username, options.redis.password, options.redis.database};
  result.timeout = options.redis.timeout;
  result.channel = options.redis.channel;
  result.log_max_entries = options.redis.log_max_entries;
  result.wire_format = options.wire_format;
  result.sender = std::move(node_id);
  return result;
}

// The log's last row has its last id. Where somebody deleted rows it is an earlier one, which is as
// safe. No MULTI, which Redis refuses when it is full, and no script, which costs half as much
// again.
std::vector<std::vector<std::string_view>> fetch_commands(std::string_view log_key,
                                                          std::string_view key) {
  const std::vector<std::string_view> end = {"XREVRANGE", log_key, "+", "-", "COUNT", "1"};
  return {end, {"GET", key}, {"PTTL", key}, end};
}

namespace {

Result<ChangeId> read_last_id(const redisReply& rows) {
  if (is_array(rows, 0)) return ChangeId();
  if (!is_array(rows, 1) || !is_array(*rows.element[0], 2)) return unexpected_reply();
  return read_log_id(text_of(*rows.element[0]->element[0]));
}

Status take_end(const redisReply& rows, bool is_first, Fetched& fetched) {
  const Result<ChangeId> last = read_last_id(rows);
  if (!last) return last.status();
  fetched.overtaken = !is_first && *last != fetched.last;
  fetched.last = *last;
  return {};
}

Status take_value(const redisReply& value, Fetched& fetched) {
  if (value.type == REDIS_REPLY_NIL) return {};
  if (!is_text(value)) return unexpected_reply();
  fetched.value = text_of(value);
  return {};
}

Status take_life_left(const redisReply& left, Fetched& fetched) {
  if (left.type != REDIS_REPLY_INTEGER) return unexpected_reply();
  // -2: gone between the two questions; a miss, not a value without expiry.
  if (left.integer == -2) fetched.value.reset();
  fetched.ttl_ms = left.integer;
  return {};
}

}  // namespace

Status take_fetch_reply(std::size_t number, const redisReply& reply, Fetched& fetched) {
  const bool is_of_value = number == 1 || number == 2;
  if (reply.type == REDIS_REPLY_ERROR) {
    return is_of_value ? status_of_error(text_of(reply)) : status_of_change_error(reply);
  }
  if (number == 1) return take_value(reply, fetched);
  if (number == 2) return take_life_left(reply, fetched);
  return take_end(reply, number == 0, fetched);
}

// ---- the client -------------------------------------------------------------------------------

Client::Client(ClientOptions options)
    : options_(std::move(options)),
      log_key_(sync::log_key(options_.channel)),
      scripts_(options_.channel, options_.wire_format, options_.log_max_entries),
      pool_(new Pool(options_.idle_connections_max)),
      breaker_(static_cast<std::uint64_t>(options_.timeout.count())) {}

Client::~Client() {
  Pool* own = pool_.load();
  if (!own->is_of_this_process()) {
    // A child that never called. The state of a parent's pool cannot be known, so it is left.
    own->abandon();
    return;
  }
  own->close_all();
  delete own;
}

// This process's pool. In a child the first caller replaces the inherited one.
Client::Pool& Client::pool() {
  Pool* current = pool_.load();
  if (current->is_of_this_process()) return *current;
  Pool* fresh = new Pool(options_.idle_connections_max);
  Pool* inherited = current;
  if (pool_.compare_exchange_strong(current, fresh)) {
    inherited->abandon();
    return *fresh;
  }
  delete fresh;  // another thread was first
  return *current;
}

Client::Call Client::call(Kind kind, std::chrono::milliseconds timeout) const {
  const bool is_hasty = timeout.count() > 0 && timeout < options_.timeout;
  return {kind, std::chrono::steady_clock::now() + (is_hasty ? timeout : options_.timeout),
          is_hasty};
}

// One question on one connection: ask(connection). `may_repeat`: it failed on a connection that had
// been idle and closed at that moment. That says nothing about Redis; a time that ran out, or a new
// connection that could not be made, does.
template <class Ask>
auto Client::attempt(Ask ask, const Call& call, bool& may_repeat)
    -> decltype(ask(std::declval<Connection&>())) {
  const std::uint64_t began_ms = shm::coarse_now().ms;
  Pool& pool = this->pool();
  std::unique_ptr<Connection> connection = pool.take();
  const bool was_idle = connection != nullptr;
  if (!was_idle) {
    Result<std::unique_ptr<Connection>> opened =
        Connection::open(options_.endpoint, options_.login, call.until);
    if (!opened) {
      if (opened.code() != Code::kUnavailable) {
        breaker_.answered();  // by a refusal
      } else {
        unanswered(began_ms, call.is_hasty);
      }
      return opened.status();
    }
    connection = std::move(*opened);
    pool.note(*connection);
  }
  auto answer = ask(*connection);
  if (answer) {
    breaker_.answered();
    pool.give_back(std::move(connection));
    return answer;
  }
  unanswered(began_ms, call.is_hasty || connection->was_closed());
  const bool unknown = call.kind == Kind::kChange && connection->has_sent();
  may_repeat = was_idle && connection->was_closed() && !unknown;
  pool.retire(std::move(connection));
  if (!unknown) return answer.status();
  return Status(answer.code(), answer.status().message() + std::string(kOutcomeUnknown));
}

void Client::unanswered(std::uint64_t began_ms, bool says_nothing) noexcept {
  if (says_nothing) {
    breaker_.ended(began_ms);
  } else {
    breaker_.failed(began_ms);
  }
}

template <class Ask>
auto Client::ask(Ask ask, const Call& call) {
  bool may_repeat = false;
  auto answer = attempt(ask, call, may_repeat);
  if (!answer && may_repeat) answer = attempt(ask, call, may_repeat);
  return answer;
}

// The reply; an error reply becomes a Status.
Result<Reply> Client::run(const Arguments& command, const Call& call) {
  Result<Reply> reply =
      ask([&](Connection& redis) { return redis.command(command, call.until); }, call);
  if (!reply) return reply;
  if ((*reply)->type == REDIS_REPLY_ERROR) return status_of_error(text_of(**reply));
  return reply;
}

// By its hash, and with its text if Redis does not know it (any more): nothing has run then. The
// reply may be an error.
Result<Reply> Client::run_script(const Script& script, std::span<const std::string_view> keys,
                                 std::span<const std::string_view> arguments, const Call& call) {
  const std::string key_count = std::to_string(keys.size());
  Arguments command{"EVALSHA", script.sha1, key_count};
  command.insert(command.end(), keys.begin(), keys.end());
  command.insert(command.end(), arguments.begin(), arguments.end());
  const auto once = [&](Connection& redis) { return redis.command(command, call.until); };
  Result<Reply> reply = ask(once, call);
  if (!reply || !is_noscript(**reply)) return reply;
  command[0] = "EVAL";
  command[1] = script.text;
  return ask(once, call);
}

// They are tried again after a while: somebody may have allowed them.
bool Client::expects_scripts() const noexcept {
  constexpr std::uint64_t kWhileMs = 60'000;
  const std::uint64_t refused_ms = scripts_refused_ms_.load(std::memory_order_relaxed);
  return refused_ms == 0 || shm::coarse_now().ms - refused_ms > kWhileMs;
}

Result<Written> Client::change(const Script& script, std::span<const std::string_view> keys,
                               Order order, std::span<const std::string_view> more) {
  const Result<std::uint64_t> nonce = fresh_nonce();
  if (!nonce) return nonce.status();
  order.event.sender = options_.sender;
  order.event.database = options_.login.database;
  const Call call = this->call(Kind::kChange);
  if (!expects_scripts()) return change_without_script(std::move(order), *nonce, call);
  const std::string nonce_text = std::to_string(*nonce);
  const std::string head = event_head(order.event, options_.wire_format);
  Arguments arguments{nonce_text, head};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Result<Reply> reply = run_script(script, keys, arguments, call);
  if (!reply) return reply.status();
  if (are_scripts_refused(**reply)) {
    scripts_refused_ms_.store(shm::coarse_now().ms, std::memory_order_relaxed);
    return change_without_script(std::move(order), *nonce, call);
  }
  if ((*reply)->type == REDIS_REPLY_ERROR) return status_of_change_error(**reply);
  return read_written(**reply);
}

// One at a time: they would only make each other begin anew.
Result<Written> Client::change_without_script(Order order, std::uint64_t nonce, const Call& call) {
  TransactionRequest request;
  request.log_key = log_key_;
  request.channel = options_.channel;
  request.format = options_.wire_format;
  request.log_max_entries = options_.log_max_entries;
  request.nonce = nonce;
  request.event = std::move(order.event);
  request.command = std::move(order.command);
  request.ttl = order.ttl;
  const std::unique_lock turn(pool().transaction_turn(), call.until);
  if (!turn) {
    return {Code::kUnavailable, "other threads' changes took all of the time; nothing was changed"};
  }
  const auto outcome =
      ask([&](Connection& redis) { return transact(redis, request, call.until); }, call);
  if (!outcome) return outcome.status();
  const Status& refused = outcome->refused;
  if (refused.ok()) return outcome->written;
  if (refused.code() != Code::kPermissionDenied) return refused;
  scripts_refused_ms_.store(0, std::memory_order_relaxed);
  return Status(refused.code(), refused.message() +
                                    "; scripts, which larder would rather use, were refused as "
                                    "well (EVALSHA, EVAL)");
}

// A cache that overwrote its own log would take every host's history with it.
Status Client::check_key(std::string_view key) const {
  if (key != log_key_) return {};
  return {Code::kRefused, "the key " + log_key_ + " is larder's own log; choose another key"};
}

// A server may lag for good, where the address leads to replicas: that costs a connection a second.
bool Client::may_renew() noexcept {
  constexpr std::uint64_t kPauseMs = 1000;
  const std::uint64_t now = shm::coarse_now().ms;
  std::uint64_t last = renewed_ms_.load(std::memory_order_relaxed);
  return (last == 0 || now - last >= kPauseMs) && renewed_ms_.compare_exchange_strong(last, now);
}

Result<Fetched> Client::fetch(std::string_view key, const FetchOptions& options) {
  const Call call = this->call(Kind::kRead, options.timeout);
  Result<Fetched> fetched = fetch_once(key, call);
  if (!fetched || fetched->last.seq >= options.least || !may_renew()) return fetched;
  pool().retire_idle();
  return fetch_once(key, call);
}

Result<Fetched> Client::fetch_once(std::string_view key, const Call& call) {
  const auto commands = fetch_commands(log_key_, key);
  const auto replies =
      ask([&](Connection& redis) { return redis.commands(commands, call.until); }, call);
  if (!replies) return replies.status();
  Fetched fetched;
  for (std::size_t i = 0; i < replies->size(); ++i) {
    if (Status s = take_fetch_reply(i, *(*replies)[i], fetched); !s.ok()) return s;
  }
  return fetched;
}

Result<std::int64_t> Client::life(std::string_view key, std::chrono::milliseconds timeout) {
  const Result<Reply> reply = run({"PTTL", key}, call(Kind::kRead, timeout));
  if (!reply) return reply.status();
  if ((*reply)->type != REDIS_REPLY_INTEGER) return unexpected_reply();
  return static_cast<std::int64_t>((*reply)->integer);
}

Result<Written> Client::set(std::string_view key, std::string_view value,
                            std::chrono::milliseconds ttl, Announce announce) {
  if (ttl.count() < 0 || ttl > kTtlMax) {
    return {Code::kInvalidArgument,
            "ttl of " + std::to_string(ttl.count()) + " ms; it is 0 (for ever) to 100 years"};
  }
  if (Status status = check_key(key); !status.ok()) return status;
  const bool with_value = announce == Announce::kValue;
  Order order{{}, {"SET", key, value}, ttl};
  order.event.action = with_value ? Action::kSet : Action::kInvalidate;
  order.event.key = key;
  if (with_value) order.event.value = value;
  const std::array<std::string_view, 2> keys{log_key_, key};
  const std::string ttl_ms = std::to_string(ttl.count());
  const std::array<std::string_view, 2> value_and_ttl{value, ttl_ms};
  return change(with_value ? scripts_.set : scripts_.invalidate, keys, std::move(order),
                std::span(value_and_ttl).first(ttl.count() == 0 ? 1 : 2));
}

Result<Written> Client::remove(std::string_view key) {
  if (Status status = check_key(key); !status.ok()) return status;
  Order order{{}, {"DEL", key}};
  order.event.action = Action::kDelete;
  order.event.key = key;
  const std::array<std::string_view, 2> keys{log_key_, key};
  return change(scripts_.remove, keys, std::move(order), {});
}

Result<Written> Client::delete_many(const std::vector<std::string>& keys) {
  Order order{{}, {"DEL"}};
  order.event.action = Action::kDeleteMany;
  order.event.keys = keys;
  order.command.insert(order.command.end(), keys.begin(), keys.end());
  Arguments log_and_keys{log_key_};
  log_and_keys.insert(log_and_keys.end(), keys.begin(), keys.end());
  return change(scripts_.delete_many, log_and_keys, std::move(order), {});
}

Status Client::delete_in_batches(std::vector<std::string> keys, Cleared& cleared) {
  std::vector<std::string> batch;
  std::size_t bytes = 0;
  const auto flush = [&]() -> Status {
    if (batch.empty()) return {};
    const Result<Written> written = delete_many(batch);
    if (!written) return written.status();
    cleared.removed += batch.size();
    batch.clear();
    bytes = 0;
    return {};
  };
  for (std::string& key : keys) {
    if (key.starts_with(kLogPrefix)) continue;
    if (batch.size() == kBatchKeys || bytes + key.size() > kBatchBytes) {
      if (Status status = flush(); !status.ok()) return status;
    }
    bytes += key.size();
    batch.push_back(std::move(key));
  }
  return flush();
}

Result<Cleared> Client::clear_prefix(std::string_view prefix) {
  if (prefix.empty()) {
    return {Code::kRefused,
            "clearing an empty prefix would remove every key of the database; set key_prefix, or "
            "clear_scope = database"};
  }
  const std::string pattern = glob_escaped(prefix) + '*';
  Cleared cleared;
  std::string cursor = "0";
  do {
    const Result<Reply> reply =
        run({"SCAN", cursor, "MATCH", pattern, "COUNT", kScanCount}, call(Kind::kRead));
    if (!reply) return reply.status();
    Result<ScanPage> page = read_page(**reply);
    if (!page) return page.status();
    Status status = delete_in_batches(std::move(page->keys), cleared);
    if (!status.ok()) return status;
    cursor = std::move(page->cursor);
  } while (cursor != "0");
  Result<Written> last = clear_local_copies(prefix);
  if (!last) return last.status();
  cleared.last = std::move(*last);
  return cleared;
}

Result<Written> Client::clear_local_copies(std::string_view prefix) {
  Order order;
  order.event.action = Action::kClear;
  order.event.prefix = prefix;
  const std::array<std::string_view, 1> keys{log_key_};
  const std::array<std::string_view, 1> more{prefix};
  return change(scripts_.clear, keys, std::move(order), more);
}

Result<Written> Client::clear_database() {
  Order order{{}, {"FLUSHDB"}};
  order.event.action = Action::kClear;
  const std::array<std::string_view, 1> keys{log_key_};
  return change(scripts_.clear_database, keys, std::move(order), {});
}

Status Client::ping() {
  const Result<Reply> reply = run({"PING"}, call(Kind::kRead));
  if (!reply) return reply.status();
  return is_text(**reply) ? Status{} : unexpected_reply();
}

}  // namespace larder::sync
