// A change where Redis refuses scripts: the same row, value and event, put together here.
//
// The log's end is read under WATCH and the id made of it; MULTI then does it all, or nothing when
// anybody wrote to the log or to the key meanwhile: then it is tried again. So what holds of a
// change by script holds of this one, at two round trips instead of one. The exceptions:
//   - where PUBLISH is refused, nothing is changed;
//   - a right that is withdrawn between the queueing of SET and EXEC leaves row and event without
//     the value;
//   - it takes luck among others' changes: where they come faster than two round trips with this
//     one's value, the time may run out. Nothing was changed then, and the error says so.
//
// Threads: one at a time.  Fork: as Connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"
#include "src/sync/connection.h"
#include "src/sync/event.h"
#include "src/sync/log.h"

namespace larder::sync {

using Command = std::vector<std::string_view>;

// What views point to outlives it.
struct TransactionRequest {
  std::string_view log_key;
  std::string_view channel;
  WireFormat format = WireFormat::kJson;
  std::uint64_t log_max_entries = 0;
  std::uint64_t nonce = 0;
  Event event;                       // without id, prev and expiry
  Command command;                   // what it does to the data; empty: nothing
  std::chrono::milliseconds ttl{0};  // of a set; 0: for ever
};

struct TransactionOutcome {
  Status refused;  // by Redis; ok: it was made
  Written written;
};

// An error is the connection's, which is broken then.
Result<TransactionOutcome> transact(Connection& redis, TransactionRequest request,
                                    Deadline deadline);

}  // namespace larder::sync
