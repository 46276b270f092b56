// Events: what travels on the channel, as bytes and as values. Pure functions.
//
// An event is one change. The Go library's events have `key`, `sender`, `action` and `value`;
// ours add fields that its decoder ignores. A receiver tells JSON from MessagePack by the first
// byte. Bytes from the channel are hostile until `decode_event` returned ok.
//
//   {"key":K,"sender":S,"action":"set","value":B64            the Go library's fields
//    ,"key_b64":B64,"db":N,"prefix":P,"keys":[B64,...]        ours, where they say something
//    ,"id":"12-34","prev":"11-56","expires_at":MS}            the tail, made in Redis
//
//   MessagePack: [1, action, db, key, sender, body, id, prev, expires]: `body` is the value, the
//   prefix, the array of keys or nil; the last three are strings, empty where there is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "larder/options.h"
#include "larder/status.h"
#include "shm/layout.h"

namespace larder::sync {

using shm::ChangeId;

inline constexpr std::size_t kEventKeyMaxBytes = 65'535;
inline constexpr std::size_t kEventMaxBytes = 768u << 20;  // a value of 512 MiB as base64, and more

enum class Action {
  kSet,         // the value travels in the event
  kInvalidate,  // the key has a new value; read it when asked
  kDelete,      // the key is gone
  kClear,       // everything under `prefix` is gone
  kDeleteMany,  // `keys` are gone; only larder sends and understands it
};

// As written in JSON: "set", "invalidate", "delete", "clear", "delete_many".
std::string_view action_name(Action action) noexcept;

// Most keys that one kDeleteMany names: the script that sends it gets them as arguments, and Lua's
// stack holds no more than 8,000.
inline constexpr std::size_t kDeleteManyMax = 2'000;

struct Event {
  Action action = Action::kInvalidate;
  std::string key;                // exact bytes, prefix included; may be empty: Go peers allow that
  std::string sender;             // node id
  std::string value;              // kSet only
  std::string prefix;             // kClear of larder: what was cleared; empty: everything
  std::vector<std::string> keys;  // kDeleteMany only
  int database = 0;               // the log is per database, the channel is not
  ChangeId id;                    // {0, 0}: from a peer that sends none
  ChangeId prev;                  // the id it followed
  std::uint64_t expires_unix_ms = 0;  // absolute, Redis' clock; 0: never

  void clear() noexcept;  // as new, but for the memory of its strings
};

// The id and what follows it are known only inside the Redis script, so an event is written in two
// parts: `event_head` here, and the script appends id, prev, expiry and the closing bytes.
//
// An empty value is announced as kInvalidate, because Go peers ignore a set without a value. A key
// or prefix that is not UTF-8 changes in the field that Go peers read, as theirs do; an extra field
// carries its exact bytes.
std::string event_head(const Event& event, WireFormat format);

// The tail that the script makes, for transactions and tests: head + tail is a whole event. An
// event without an id (`id.none()`) carries no prev and no expiry either.
std::string event_tail(const Event& event, WireFormat format);

// kInvalidArgument with the reason for anything that is not an event: not JSON or MessagePack,
// missing fields, an unknown action, a key above 65,535 bytes, bad base64, an id beyond 2^48 - 1,
// a set with neither value nor id. JSON is read as Go reads it: field names in any case and order,
// unknown fields skipped, the last of equal fields wins.
// Never throws but std::bad_alloc, never reads beyond `payload`, allocates at most a small multiple
// of its size.
Result<Event> decode_event(std::string_view payload);
// The same into an event whose memory is used again; after an error it holds anything.
Status decode_event(std::string_view payload, Event& event);

// "12-18446744073709551615", the form in which Redis writes stream ids.
std::string to_string(ChangeId id);
// kInvalidArgument for anything else, and for a seq above 2^48 - 1.
Result<ChangeId> parse_change_id(std::string_view text);

}  // namespace larder::sync
