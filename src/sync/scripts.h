// The Lua scripts that larder runs inside Redis, and what they leave there.
//
// A script is atomic with regard to other clients, but nothing is undone when it fails half-way.
// So each of them checks what can be checked, then appends to the log, and only then touches data:
// what a failure after that leaves is at worst an invalidation too many. The event is published
// last and its outcome returned, because the change has happened by then whoever heard of it.
//
// The log is a capped stream. Each entry's id is the change's id; its fields are
//   a  what happened, one letter (log_letter)      p  the id it followed
//   k  the key; once for each key of `delete_many`; the prefix of `clear`
//
// Times are milliseconds since 1970 in Redis' clock.
// ACL: +subscribe +evalsha +eval +exists +type +xinfo +xadd +xrange +xrevrange +get +pttl +set
// +strlen +del +publish +time +scan +ping +select +role, `~prefix*`, `~larder:log:channel`,
// `&channel`, and +flushdb for the database scope. Where scripts are refused (then every change is
// a transaction, of two round trips): +watch +unwatch +multi +discard +exec instead of +evalsha
// +eval +exists.
//
// Threads: constants. Everything else here is a pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "larder/options.h"
#include "src/sync/event.h"

namespace larder::sync {

struct Script {
  std::string text;
  std::string sha1;  // hexadecimal, as EVALSHA wants it
};

// What changes one channel's data, log and hosts. What is the same for every call is part of the
// text: each argument costs Redis and us as much as a tenth of a GET.
//
// ARGV begins with nonce, head of the event. The reply is text: id, prev, expiry or nothing, and
// how many received the event, or the error text of PUBLISH, with a space after each of the first
// three.
struct ChangeScripts {
  ChangeScripts(std::string_view channel, WireFormat format, std::uint64_t log_max_entries);

  // KEYS log, key. ARGV ..., value, ttl_ms (none: for ever). The event has the value (`set`), or
  // does not (`invalidate`). Refuses a key of another type than string, and changes nothing then.
  Script set;
  Script invalidate;
  Script remove;          // KEYS log, key
  Script delete_many;     // KEYS log, keys...: under one log entry and one event
  Script clear;           // KEYS log. ARGV ..., prefix. Touches no data
  Script clear_database;  // KEYS log. FLUSHDB, and the log begins anew with the id after its last
};

// Every log's key begins with this; no clear removes such a key.
inline constexpr std::string_view kLogPrefix = "larder:log:";
std::string log_key(std::string_view channel);

// s, i, d, c, m in the order of Action.
char log_letter(Action action) noexcept;
std::optional<Action> action_of_log_letter(std::string_view letter) noexcept;

std::string sha1_hex(std::string_view bytes);

}  // namespace larder::sync
