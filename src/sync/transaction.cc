#include "src/sync/transaction.h"

#include <optional>
#include <utility>

#include "src/sync/scripts.h"

namespace larder::sync {
namespace {

constexpr std::uint64_t kSeqMax = (1ull << 48) - 1;

// What is asked before anything is changed, each answer at its place; MULTI is the last. Not with
// what is to be queued: where it is refused, Redis carries that out at once.
enum Look { kWatch, kEnd, kTime, kType };

bool is_string_or_none(std::string_view type) { return type == "string" || type == "none"; }

class Transaction {
 public:
  explicit Transaction(TransactionRequest request)
      : request_(std::move(request)),
        head_(event_head(request_.event, request_.format)),
        row_action_(1, log_letter(request_.event.action)),
        max_entries_(std::to_string(request_.log_max_entries)),
        ttl_ms_(std::to_string(request_.ttl.count())) {}

  std::vector<Command> look_commands() const {
    std::vector<Command> commands = {
        {"WATCH", request_.log_key}, {"XINFO", "STREAM", request_.log_key}, {"TIME"}};
    if (is_set()) {
      commands[kWatch].push_back(request_.event.key);
      commands.push_back({"TYPE", request_.event.key});
    }
    commands.push_back({"MULTI"});
    return commands;
  }

  // Takes its place in the log, or says why there is none.
  Status take_place(const std::vector<Reply>& look) {
    for (const redisReply* opening : {look[kWatch].get(), look.back().get()}) {
      if (opening->type == REDIS_REPLY_ERROR) return status_of_error(text_of(*opening));
    }
    const Result<ChangeId> end = parse_log_end(*look[kEnd]);
    if (!end) return end.status();
    const Result<std::int64_t> now_ms = parse_time_ms(*look[kTime]);
    if (!now_ms) return now_ms.status();
    if (is_set() && !is_string_or_none(text_of(*look[kType]))) {
      return status_of_error("WRONGTYPE the key holds a " + std::string(text_of(*look[kType])) +
                             ", not a string");
    }
    if (end->seq >= kSeqMax) {
      return status_of_error("LARDERLOG the last id of " + std::string(request_.log_key) +
                             " is beyond 2^48 - 1");
    }
    Event& event = request_.event;
    event.prev = *end;
    event.id = {end->seq + 1, request_.nonce};
    event.expires_unix_ms = 0;
    if (request_.ttl.count() > 0) {
      event.expires_unix_ms = static_cast<std::uint64_t>(*now_ms + request_.ttl.count());
    }
    id_ = to_string(event.id);
    prev_ = to_string(event.prev);
    payload_ = head_ + event_tail(event, request_.format);
    return {};
  }

  // The row first and the event last, as a script does it.
  std::vector<Command> change_commands() const {
    std::vector<Command> commands = {row_command()};
    if (!request_.command.empty()) commands.push_back(request_.command);
    if (is_set() && request_.ttl.count() > 0) {
      commands.back().insert(commands.back().end(), {"PX", ttl_ms_});
    }
    // With everything else the log went.
    if (!request_.command.empty() && request_.command[0] == "FLUSHDB") {
      commands.push_back(row_command());
    }
    commands.push_back({"PUBLISH", request_.channel, payload_});
    commands.push_back({"EXEC"});
    return commands;
  }

  // None: somebody's change came in between, and nothing was made of this one.
  static std::optional<TransactionOutcome> outcome(const std::vector<Reply>& replies,
                                                   const Event& event) {
    const redisReply& exec = *replies.back();
    if (exec.type == REDIS_REPLY_NIL) return {};
    TransactionOutcome outcome;
    if (const redisReply* error = first_error(replies)) {
      outcome.refused = status_of_error(text_of(*error));
    } else if (exec.type != REDIS_REPLY_ARRAY || exec.elements != replies.size() - 1) {
      outcome.refused = {Code::kUnavailable, "Redis answered a transaction in an unexpected form"};
    } else {
      outcome = made(exec, event);
    }
    return outcome;
  }

  const Event& event() const { return request_.event; }

 private:
  bool is_set() const { return !request_.command.empty() && request_.command[0] == "SET"; }

  Command row_command() const {
    Command command = {"XADD", request_.log_key, "MAXLEN", "~",  max_entries_, id_,
                       "a",    row_action_,      "p",      prev_};
    const Event& event = request_.event;
    const auto name = [&](std::string_view key) { command.insert(command.end(), {"k", key}); };
    if (event.action == Action::kDeleteMany) {
      for (const std::string& key : event.keys) name(key);
    } else {
      name(event.action == Action::kClear ? event.prefix : event.key);
    }
    return command;
  }

  // Of a command that was not even queued: then EXEC's own error says nothing more.
  static const redisReply* first_error(const std::vector<Reply>& replies) {
    for (const Reply& reply : replies) {
      if (reply->type == REDIS_REPLY_ERROR) return reply.get();
    }
    return nullptr;
  }

  static TransactionOutcome made(const redisReply& exec, const Event& event) {
    TransactionOutcome outcome;
    for (std::size_t i = 0; i + 1 < exec.elements; ++i) {
      const redisReply& each = *exec.element[i];
      if (each.type != REDIS_REPLY_ERROR) continue;
      const Status why = status_of_error(text_of(each));
      outcome.refused = {why.code(), why.message() + "; a part of the change was made"};
      return outcome;
    }
    const redisReply& receivers = *exec.element[exec.elements - 1];
    outcome.written.id = event.id;
    outcome.written.prev = event.prev;
    outcome.written.expires_unix_ms = event.expires_unix_ms;
    if (receivers.type == REDIS_REPLY_INTEGER) {
      outcome.written.receivers = static_cast<std::uint64_t>(receivers.integer);
    } else {
      outcome.written.published = status_of_error(text_of(receivers));
    }
    return outcome;
  }

  TransactionRequest request_;
  const std::string head_;
  const std::string row_action_;
  const std::string max_entries_;
  const std::string ttl_ms_;
  std::string id_, prev_, payload_;
};

}  // namespace

Result<TransactionOutcome> transact(Connection& redis, TransactionRequest request,
                                    Deadline deadline) {
  Transaction transaction(std::move(request));
  for (;;) {
    const auto look = redis.commands(transaction.look_commands(), deadline);
    if (!look) return look.status();
    if (Status refused = transaction.take_place(*look); !refused.ok()) {
      const std::vector<Command> leave = {{"DISCARD"}, {"UNWATCH"}};
      if (const auto left = redis.commands(leave, deadline); !left) return left.status();
      return TransactionOutcome{std::move(refused), {}};
    }
    const auto replies = redis.commands(transaction.change_commands(), deadline);
    if (!replies) return replies.status();
    if (auto outcome = Transaction::outcome(*replies, transaction.event())) return *outcome;
  }
}

}  // namespace larder::sync
