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
// Replies: every id is text, every time is text of milliseconds since 1970 in Redis' clock.
// ACL: +subscribe +evalsha +eval +exists +type +xinfo +xadd +xrange +get +pttl +set +del +publish
// +time +scan +ping +select +multi +exec +role, `~prefix*`, `~larder:log:channel`, `&channel`, and
// +flushdb for the database scope.
//
// Threads: constants, made when the library is loaded. Everything else here is a pure function.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "src/sync/event.h"

namespace larder::sync {

struct Script {
  std::string text;
  std::string sha1;  // hexadecimal, as EVALSHA wants it
};

// KEYS log, key. Replies {value or nil, PTTL, last id, time}.
const Script& fill_script();

// KEYS log, key. ARGV log_max_entries, nonce, channel, format, head, letter, value, ttl_ms (0:
// none). Sets the key (letters s, i) or removes it (d). Replies {id, prev, receivers or error text,
// expiry or ""}.
// Refuses to set a key of another type than string, and changes nothing then.
const Script& write_script();

// KEYS log, keys... ARGV log_max_entries, nonce, channel, format, head. Removes the keys under one
// log entry and one event. Replies {id, prev, receivers or error text, ""}.
const Script& delete_many_script();

// KEYS log. ARGV log_max_entries, nonce, channel, format, head, prefix. Touches no data.
// Replies as above.
const Script& clear_script();

// KEYS log. ARGV as clear_script's. FLUSHDB, and the log begins anew with the id after its last.
const Script& clear_database_script();

// KEYS log. Replies {last id, time}.
const Script& log_end_script();

// KEYS log. ARGV from, most. Replies {last id, rows, time}: the first rows of the log from the id
// `from` on, as XRANGE gives them.
const Script& log_page_script();

// Every log's key begins with this; no clear removes such a key.
inline constexpr std::string_view kLogPrefix = "larder:log:";
std::string log_key(std::string_view channel);

// s, i, d, c, m in the order of Action.
char log_letter(Action action) noexcept;
std::optional<Action> action_of_log_letter(std::string_view letter) noexcept;

std::string sha1_hex(std::string_view bytes);

}  // namespace larder::sync
