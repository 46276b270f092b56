// What Redis answers about the log.
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

// Some of the log, as it was at one moment.
struct LogPage {
  struct Row {
    ChangeId id;
    ChangeId prev;  // {0, 0}: none, or the row is not of our making
    Action action = Action::kInvalidate;
    std::vector<std::string> keys;  // of a clear: its prefix
  };
  std::vector<Row> rows;            // from the id that was asked for on, if the log still has it
  ChangeId end;                     // the id generated last; {0, 0}: a log that was never written
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

// Of log_page_script. The reply's error, or kUnavailable for what is no such reply.
Result<LogPage> parse_log_page(const redisReply& reply);

// What a probe asks, in one go. The role last: who says that it is a primary was one, or had all
// that it has as one, when it said where its log ends. No MULTI, which Redis refuses when it is
// full.
std::vector<std::vector<std::string_view>> probe_commands(std::string_view log_key);
// The answer to command `number` of them. What the asking is about is the caller's.
Status take_probe_reply(std::size_t number, const redisReply& reply, ProbeAnswer& answer);

}  // namespace larder::sync
