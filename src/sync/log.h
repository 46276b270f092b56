// What Redis answers about changes and their log.
#pragma once

#include <hiredis/hiredis.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"
#include "shm/clock.h"
#include "shm/layout.h"
#include "src/sync/event.h"

namespace larder::sync {

using shm::ChangeId;

// A change that Redis has made.
struct Written {
  ChangeId id;
  ChangeId prev;
  std::uint64_t expires_unix_ms = 0;  // Redis' clock; 0: never
  // Why the event was not published, or ok. The change and its log entry stand in either case;
  // other hosts notice the missing event by the log.
  Status published;
  std::uint64_t receivers = 0;  // subscriptions that got the event
};

// Some of the log.
struct LogPage {
  struct Row {
    ChangeId id;
    ChangeId prev;  // {0, 0}: none, or the row is not of our making
    Action action = Action::kInvalidate;
    std::vector<std::string> keys;  // of a clear: its prefix
  };
  std::vector<Row> rows;  // from the id that was asked for on, if the log still has it
  // The id generated last, before the rows were read; {0, 0}: a log that was never written.
  ChangeId end;
  std::int64_t redis_unix_ms = 0;   // Redis' clock
  std::uint64_t asked_boot_ms = 0;  // ours, when the question was sent
};
inline constexpr std::size_t kPageRows = 100;

// Where the log ends, and whose it is.
struct ProbeAnswer {
  bool is_primary = false;
  ChangeId end;                    // the id generated last
  std::int64_t redis_unix_ms = 0;  // Redis' clock
  // Of when the question was sent: our clocks, and Follower::ahead().
  std::uint64_t asked_boot_ms = 0;
  shm::CoarseTime asked;
  std::uint64_t ahead = 0;
};

// The id generated last, of what XINFO STREAM answers; {0, 0}: there is no log. The reply's error,
// or kUnavailable for what is no such reply.
Result<ChangeId> parse_log_end(const redisReply& reply);

// Of what TIME answers, since 1970.
Result<std::int64_t> parse_time_ms(const redisReply& reply);

// What a reading asks, in one go: the end first, so that what is added meanwhile lies beyond it and
// is read next. `from` and `most` as XRANGE takes them.
std::vector<std::vector<std::string_view>> page_commands(std::string_view log_key,
                                                         std::string_view from,
                                                         std::string_view most);
// The answer to command `number` of them. When it was asked is the caller's.
Status take_page_reply(std::size_t number, const redisReply& reply, LogPage& page);

// What a probe asks, in one go. The role last: who says that it is a primary was one, or had all
// that it has as one, when it said where its log ends. No MULTI, which Redis refuses when it is
// full.
std::vector<std::vector<std::string_view>> probe_commands(std::string_view log_key);
// The answer to command `number` of them. What the asking is about is the caller's.
Status take_probe_reply(std::size_t number, const redisReply& reply, ProbeAnswer& answer);

}  // namespace larder::sync
