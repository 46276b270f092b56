#include "src/sync/transaction.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>
#include <span>
#include <thread>
#include <utility>

#include "src/sync/scripts.h"

namespace larder::sync {
namespace {

constexpr std::uint64_t kSeqMax = (1ull << 48) - 1;
constexpr std::string_view kUnexpected =
    "Redis answered a transaction in an unexpected form; a proxy or an incompatible server may "
    "stand in between; whether the change was made is not known";

// What is asked before anything is changed, each answer at its place; MULTI is the last. Not with
// what is to be queued: where it is refused, Redis carries that out at once.
enum Look { kWatch, kEnd, kTime, kType };

Status refused_by_type(const redisReply& type) {
  if (type.type == REDIS_REPLY_ERROR) return status_of_error(text_of(type));
  if (type.type != REDIS_REPLY_STATUS) return {Code::kUnavailable, std::string(kUnexpected)};
  if (text_of(type) == "string" || text_of(type) == "none") return {};
  return status_of_error("WRONGTYPE the key holds a " + std::string(text_of(type)) +
                         ", not a string");
}

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
    if (is_set()) {
      if (Status refused = refused_by_type(*look[kType]); !refused.ok()) return refused;
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
  std::optional<TransactionOutcome> outcome(const std::vector<Reply>& replies) const {
    const redisReply& exec = *replies.back();
    if (exec.type == REDIS_REPLY_NIL) return {};
    // Of a command that was not even queued: EXEC's own error says nothing more.
    const auto error = std::find_if(replies.begin(), replies.end(), [](const Reply& reply) {
      return reply->type == REDIS_REPLY_ERROR;
    });
    if (error != replies.end()) return refused(status_of_error(text_of(**error)));
    if (exec.type != REDIS_REPLY_ARRAY || exec.elements != replies.size() - 1) {
      return refused({Code::kUnavailable, std::string(kUnexpected)});
    }
    return made({exec.element, exec.elements});
  }

  static TransactionOutcome refused(Status why) { return {std::move(why), {}}; }

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

  TransactionOutcome made(std::span<redisReply* const> answers) const {
    const redisReply& receivers = *answers.back();
    for (const redisReply* each : answers.first(answers.size() - 1)) {
      if (each->type != REDIS_REPLY_ERROR) continue;
      const Status why = status_of_error(text_of(*each));
      return refused({why.code(), why.message() + "; a part of the change was made"});
    }
    if (text_of(*answers.front()) != id_) {
      return refused({Code::kUnavailable, std::string(kUnexpected)});
    }
    TransactionOutcome outcome;
    outcome.written.id = request_.event.id;
    outcome.written.prev = request_.event.prev;
    outcome.written.expires_unix_ms = request_.event.expires_unix_ms;
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

// Whether Redis has left MULTI and forgotten what was watched. EXEC does both whatever it answers,
// unless it is refused itself (its error begins with EXECABORT where that ends the transaction
// too).
bool has_ended(const redisReply& exec) {
  if (exec.type != REDIS_REPLY_ERROR) {
    return exec.type == REDIS_REPLY_NIL || exec.type == REDIS_REPLY_ARRAY;
  }
  return text_of(exec).starts_with("EXECABORT");
}

Status leave(Connection& redis, Deadline deadline) {
  const std::vector<Command> commands = {{"DISCARD"}, {"UNWATCH"}};
  const auto replies = redis.commands(commands, deadline);
  if (!replies) return replies.status();
  const std::string_view discard = text_of(*(*replies)[0]);
  const bool was_in_none = discard.find("without MULTI") != std::string_view::npos;
  if ((discard != "OK" && !was_in_none) || text_of(*(*replies)[1]) != "OK") redis.give_up();
  return {};
}

Status always_overtaken() {
  return {Code::kUnavailable,
          "other changes came in between each time, so nothing was changed; let this user of Redis "
          "run scripts, which none can come between"};
}

}  // namespace

Result<TransactionOutcome> transact(Connection& redis, TransactionRequest request,
                                    Deadline deadline) {
  std::minstd_rand random(static_cast<unsigned>(request.nonce));
  Transaction transaction(std::move(request));
  for (int tries = 1;; ++tries) {
    const auto begun = std::chrono::steady_clock::now();
    const auto look = redis.commands(transaction.look_commands(), deadline);
    if (!look) return look.status();
    if (Status refused = transaction.take_place(*look); !refused.ok()) {
      if (Status left = leave(redis, deadline); !left.ok()) return left;
      return Transaction::refused(std::move(refused));
    }
    const auto replies = redis.commands(transaction.change_commands(), deadline);
    if (!replies) return replies.status();
    if (!has_ended(*replies->back())) redis.give_up();
    if (auto outcome = transaction.outcome(*replies)) return *outcome;

    const auto now = std::chrono::steady_clock::now();
    if (now + 2 * (now - begun) > deadline) return Transaction::refused(always_overtaken());
    // Two that meet would meet again.
    std::uniform_int_distribution<int> wait_us(0, std::min(50 * tries, 1000));
    std::this_thread::sleep_for(std::chrono::microseconds(wait_us(random)));
  }
}

}  // namespace larder::sync
