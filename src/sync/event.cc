#include "src/sync/event.h"

#include <algorithm>
#include <charconv>
#include <msgpack.hpp>
#include <optional>

#include "src/sync/base64.h"
#include "src/sync/json.h"

namespace larder::sync {
namespace {

Status malformed(std::string reason) {
  return {Code::kInvalidArgument, "event ignored: " + std::move(reason)};
}

struct ActionName {
  Action action;
  std::string_view name;
  std::uint64_t number;  // in MessagePack
};
constexpr ActionName kActions[] = {
    {Action::kSet, "set", 0},
    {Action::kInvalidate, "invalidate", 1},
    {Action::kDelete, "delete", 2},
    {Action::kClear, "clear", 3},
    {Action::kDeleteMany, "delete_many", 4},
};

std::optional<Action> action_named(std::string_view name) {
  for (const ActionName& known : kActions) {
    if (known.name == name) return known.action;
  }
  return std::nullopt;
}

std::optional<Action> action_numbered(std::uint64_t number) {
  for (const ActionName& known : kActions) {
    if (known.number == number) return known.action;
  }
  return std::nullopt;
}

std::uint64_t action_number(Action action) {
  for (const ActionName& known : kActions) {
    if (known.action == action) return known.number;
  }
  return 0;
}

// What the event says of itself: Go peers ignore a set without a value.
Action announced(const Event& event) {
  return event.action == Action::kSet && event.value.empty() ? Action::kInvalidate : event.action;
}

// The key field that Go peers read.
std::string_view announced_key(const Event& event) {
  switch (event.action) {
    case Action::kClear:
      return "*";
    case Action::kDeleteMany:
      return "";
    default:
      return event.key;
  }
}

// A decimal number without sign, or none.
std::optional<std::uint64_t> parse_unsigned(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// What holds of every event, however it was written.
Status check(const Event& event) {
  if (event.key.size() > kEventKeyMaxBytes) {
    return malformed("key of " + std::to_string(event.key.size()) + " bytes, above 65535");
  }
  for (const std::string& key : event.keys) {
    if (key.size() > kEventKeyMaxBytes) {
      return malformed("one of `keys` has " + std::to_string(key.size()) + " bytes, above 65535");
    }
  }
  if (event.action == Action::kSet && event.value.empty() && event.id.none()) {
    return malformed("a set with neither value nor id");
  }
  if (event.action == Action::kDeleteMany && event.keys.empty()) {
    return malformed("delete_many without keys");
  }
  return {};
}

// ---- JSON, writing ----------------------------------------------------------------------------

void append_json_base64(std::string& out, std::string_view bytes) {
  out += '"';
  append_base64(out, bytes);
  out += '"';
}

void append_json_keys(std::string& out, const std::vector<std::string>& keys) {
  out += ",\"keys\":[";
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i > 0) out += ',';
    append_json_base64(out, keys[i]);
  }
  out += ']';
}

// The fields that the Go library writes, in its order.
void append_go_fields(std::string& out, const Event& event) {
  out += "{\"key\":";
  append_json_string(out, announced_key(event));
  out += ",\"sender\":";
  append_json_string(out, event.sender);
  out += ",\"action\":\"";
  out += action_name(announced(event));
  out += '"';
  if (announced(event) == Action::kSet) {
    out += ",\"value\":";
    append_json_base64(out, event.value);
  }
}

std::string json_head(const Event& event) {
  std::string out;
  append_go_fields(out, event);
  if (!is_utf8(announced_key(event))) {
    out += ",\"key_b64\":";
    append_json_base64(out, announced_key(event));
  }
  if (event.database != 0) out += ",\"db\":" + std::to_string(event.database);
  if (event.action == Action::kClear && !event.prefix.empty()) {
    out += ",\"prefix\":";
    append_json_string(out, event.prefix);
    if (!is_utf8(event.prefix)) {
      out += ",\"prefix_b64\":";
      append_json_base64(out, event.prefix);
    }
  }
  if (event.action == Action::kDeleteMany) append_json_keys(out, event.keys);
  return out;
}

std::string json_tail(const Event& event) {
  std::string out;
  if (!event.id.none()) {
    out += ",\"id\":\"" + to_string(event.id) + "\",\"prev\":\"" + to_string(event.prev) + '"';
    if (event.expires_unix_ms != 0) {
      out += ",\"expires_at\":" + std::to_string(event.expires_unix_ms);
    }
  }
  return out + '}';
}

// ---- JSON, reading ----------------------------------------------------------------------------

// A field name as Go compares it: ASCII letters without case, and the two letters beyond ASCII
// that fold to ASCII ones (the long s and the Kelvin sign).
std::string folded(std::string_view name) {
  const auto folds = [](char c) {
    return (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
  };
  if (std::none_of(name.begin(), name.end(), folds)) return std::string(name);
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const std::string_view rest = name.substr(i);
    if (rest.starts_with("\xc5\xbf")) {
      out += 's';
      i += 1;
    } else if (rest.starts_with("\xe2\x84\xaa")) {
      out += 'k';
      i += 2;
    } else {
      const char c = name[i];
      out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  return out;
}

// Reads the members of one JSON object into an event.
class JsonEvent {
 public:
  JsonEvent(std::string_view payload, Event& event) : reader_(payload), event_(event) {}

  Status decode() {
    if (!read_members()) return malformed(reason_.empty() ? "not a JSON object" : reason_);
    if (!action_) return malformed(names_action_ ? "unknown action" : "no action");
    event_.action = *action_;
    return finish();
  }

 private:
  using Kind = JsonReader::Kind;

  // One false from the reader means text that is not JSON; `reason_` says what else went wrong.
  bool fail(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }

  bool read_members() {
    bool done = false;
    if (!reader_.open_object(done)) return false;
    std::string name;
    while (!done) {
      if (!reader_.read_name(name) || !read_member(name) || !reader_.next_member(done)) {
        return false;
      }
    }
    return reader_.at_end() || fail("text after the JSON object");
  }

  bool read_member(const std::string& name) {
    const std::string go_name = folded(name);
    if (go_name == "key") return read_key();
    if (go_name == "sender") return read_text(event_.sender, "sender");
    if (go_name == "action") return read_action();
    if (go_name == "value") return read_value();
    if (name == "key_b64") return read_bytes(exact_key_, "key_b64");
    if (name == "prefix") return read_text(event_.prefix, "prefix");
    if (name == "prefix_b64") return read_bytes(exact_prefix_, "prefix_b64");
    if (name == "keys") return read_keys();
    if (name == "db") return read_database();
    if (name == "id") return read_id(event_.id, "id");
    if (name == "prev") return read_id(prev_.emplace(), "prev");
    if (name == "expires_at") return read_expiry();
    return reader_.skip_value();
  }

  bool read_key() {
    names_key_ = names_key_ || reader_.next_kind() != Kind::kNull;
    return read_text(event_.key, "key");
  }

  bool read_action() {
    if (reader_.next_kind() == Kind::kNull) return reader_.skip_value();
    if (reader_.next_kind() != Kind::kString) return fail("action is not a string");
    std::string_view name;
    if (!reader_.read_string(scratch_, name)) return false;
    names_action_ = !name.empty();
    action_ = action_named(name);
    return true;
  }

  // As Go reads into a string: null leaves it as it was, another kind is an error.
  bool read_text(std::string& out, std::string_view name) {
    switch (reader_.next_kind()) {
      case Kind::kString:
        return reader_.read_string(out);
      case Kind::kNull:
        return reader_.skip_value();
      default:
        return fail(std::string(name) + " is not a string");
    }
  }

  bool read_base64(std::string& out, std::string_view name) {
    if (reader_.next_kind() != Kind::kString) return fail(std::string(name) + " is not a string");
    std::string_view text;
    if (!reader_.read_string(scratch_, text)) return false;
    return decode_base64(text, out) || fail(std::string(name) + " is not padded standard base64");
  }

  bool read_bytes(std::optional<std::string>& out, std::string_view name) {
    return read_base64(out.emplace(), name);
  }

  // As Go reads into a byte slice: base64, an array of numbers, or null.
  bool read_value() {
    switch (reader_.next_kind()) {
      case Kind::kString:
        return read_base64(event_.value, "value");
      case Kind::kArray:
        return read_byte_array();
      case Kind::kNull:
        event_.value.clear();
        return reader_.skip_value();
      default:
        return fail("value is neither base64 nor an array of bytes");
    }
  }

  bool read_byte_array() {
    event_.value.clear();
    bool done = false;
    if (!reader_.open_array(done)) return false;
    while (!done) {
      if (!read_byte() || !reader_.next_element(done)) return false;
    }
    return true;
  }

  bool read_byte() {
    if (reader_.next_kind() == Kind::kNull) {
      event_.value += '\0';
      return reader_.skip_value();
    }
    const std::optional<std::uint64_t> byte = read_unsigned();
    if (!byte || *byte > 255) return fail("value has an element that is not a byte");
    event_.value += static_cast<char>(*byte);
    return true;
  }

  bool read_keys() {
    event_.keys.clear();
    bool done = false;
    if (!reader_.open_array(done)) return fail("keys is not an array");
    while (!done) {
      if (event_.keys.size() == kDeleteManyMax) return fail("more keys than one event names");
      if (!read_base64(event_.keys.emplace_back(), "keys") || !reader_.next_element(done)) {
        return false;
      }
    }
    return true;
  }

  std::optional<std::uint64_t> read_unsigned() {
    std::string_view digits;
    if (!reader_.read_number(digits)) return std::nullopt;
    return parse_unsigned(digits);
  }

  bool read_database() {
    const std::optional<std::uint64_t> number = read_unsigned();
    if (!number || *number > 65'535) return fail("db is not a number from 0 to 65535");
    event_.database = static_cast<int>(*number);
    return true;
  }

  bool read_expiry() {
    const std::optional<std::uint64_t> number = read_unsigned();
    if (!number) return fail("expires_at is not a number of milliseconds");
    event_.expires_unix_ms = *number;
    return true;
  }

  bool read_id(ChangeId& out, std::string_view name) {
    if (reader_.next_kind() != Kind::kString) return fail(std::string(name) + " is not a string");
    std::string_view text;
    if (!reader_.read_string(scratch_, text)) return false;
    const Result<ChangeId> id = parse_change_id(text);
    if (!id) return fail(std::string(name) + ": " + id.status().message());
    out = *id;
    has_id_ = has_id_ || name == "id";
    return true;
  }

  Status finish() {
    if (has_id_ && event_.id.seq == 0) return malformed("id 0 is no change");
    if (has_id_ != prev_.has_value()) return malformed("only one of id and prev");
    const bool names_key = event_.action != Action::kClear && event_.action != Action::kDeleteMany;
    if (names_key && !names_key_ && !exact_key_) return malformed("no key");
    if (exact_key_) event_.key = std::move(*exact_key_);
    if (exact_prefix_) event_.prefix = std::move(*exact_prefix_);
    event_.prev = prev_.value_or(ChangeId{});
    drop_foreign_fields();
    return check(event_);
  }

  // Fields of other actions are allowed and mean nothing.
  void drop_foreign_fields() {
    if (event_.action != Action::kSet) event_.value.clear();
    if (event_.action != Action::kClear) event_.prefix.clear();
    if (event_.action != Action::kDeleteMany) event_.keys.clear();
    if (event_.action == Action::kDeleteMany) event_.key.clear();
  }

  JsonReader reader_;
  Event& event_;
  std::optional<Action> action_;
  bool names_action_ = false;
  bool names_key_ = false;
  std::optional<std::string> exact_key_;
  std::optional<std::string> exact_prefix_;
  std::optional<ChangeId> prev_;
  bool has_id_ = false;
  std::string scratch_;
  std::string reason_;
};

// ---- MessagePack ------------------------------------------------------------------------------

constexpr std::uint32_t kFields = 9;
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kUnpackDepthMax = 3;  // the event, its keys, and one to spare

// What msgpack::packer writes to.
struct StringSink {
  std::string& out;
  void write(const char* bytes, std::size_t size) { out.append(bytes, size); }
};
using Packer = msgpack::packer<StringSink>;

void pack_text(Packer& packer, std::string_view text) {
  packer.pack_str(static_cast<std::uint32_t>(text.size()));
  packer.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
}

void pack_bytes(Packer& packer, std::string_view bytes) {
  packer.pack_bin(static_cast<std::uint32_t>(bytes.size()));
  packer.pack_bin_body(bytes.data(), static_cast<std::uint32_t>(bytes.size()));
}

void pack_body(Packer& packer, const Event& event) {
  switch (announced(event)) {
    case Action::kSet:
      pack_bytes(packer, event.value);
      break;
    case Action::kClear:
      pack_bytes(packer, event.prefix);
      break;
    case Action::kDeleteMany:
      packer.pack_array(static_cast<std::uint32_t>(event.keys.size()));
      for (const std::string& key : event.keys) pack_bytes(packer, key);
      break;
    default:
      packer.pack_nil();
  }
}

std::string msgpack_head(const Event& event) {
  std::string out;
  StringSink sink{out};
  Packer packer(sink);
  packer.pack_array(kFields);
  packer.pack_uint64(kVersion);
  packer.pack_uint64(action_number(announced(event)));
  packer.pack_int(event.database);
  pack_bytes(packer, announced_key(event));
  pack_text(packer, event.sender);
  pack_body(packer, event);
  return out;
}

std::string msgpack_tail(const Event& event) {
  const bool with_id = !event.id.none();
  const bool expires = with_id && event.expires_unix_ms != 0;
  std::string out;
  StringSink sink{out};
  Packer packer(sink);
  pack_text(packer, with_id ? to_string(event.id) : "");
  pack_text(packer, with_id ? to_string(event.prev) : "");
  pack_text(packer, expires ? std::to_string(event.expires_unix_ms) : "");
  return out;
}

bool is_bytes(const msgpack::object& object) {
  return object.type == msgpack::type::BIN || object.type == msgpack::type::STR;
}

// Only after is_bytes().
std::string_view bytes_of(const msgpack::object& object) {
  return object.type == msgpack::type::BIN
             ? std::string_view(object.via.bin.ptr, object.via.bin.size)
             : std::string_view(object.via.str.ptr, object.via.str.size);
}

std::optional<std::uint64_t> unsigned_of(const msgpack::object& object) {
  if (object.type != msgpack::type::POSITIVE_INTEGER) return std::nullopt;
  return object.via.u64;
}

Status read_body(const msgpack::object& body, Event& event) {
  switch (event.action) {
    case Action::kSet:
      if (!is_bytes(body)) return malformed("the value is not bytes");
      event.value = bytes_of(body);
      return {};
    case Action::kClear:
      if (!is_bytes(body)) return malformed("the prefix is not bytes");
      event.prefix = bytes_of(body);
      return {};
    case Action::kDeleteMany:
      if (body.type != msgpack::type::ARRAY) return malformed("keys is not an array");
      if (body.via.array.size > kDeleteManyMax) return malformed("more keys than one event names");
      for (const msgpack::object& key : body.via.array) {
        if (!is_bytes(key)) return malformed("one of keys is not bytes");
        event.keys.emplace_back(bytes_of(key));
      }
      return {};
    default:
      return {};
  }
}

// The three strings at the end, all empty in an event without an id.
Status read_tail(const msgpack::object* fields, Event& event) {
  for (int i = 0; i < 3; ++i) {
    if (!is_bytes(fields[i])) return malformed("id, prev and expiry are not strings");
  }
  const std::string_view id_text = bytes_of(fields[0]);
  const std::string_view prev_text = bytes_of(fields[1]);
  const std::string_view expires_text = bytes_of(fields[2]);
  if (id_text.empty() != prev_text.empty()) return malformed("only one of id and prev");
  if (!id_text.empty()) {
    const Result<ChangeId> id = parse_change_id(id_text);
    const Result<ChangeId> prev = parse_change_id(prev_text);
    if (!id) return malformed("id: " + id.status().message());
    if (!prev) return malformed("prev: " + prev.status().message());
    if (id->seq == 0) return malformed("id 0 is no change");
    event.id = *id;
    event.prev = *prev;
  }
  if (!expires_text.empty()) {
    const std::optional<std::uint64_t> expires = parse_unsigned(expires_text);
    if (!expires) return malformed("the expiry is not a number of milliseconds");
    event.expires_unix_ms = *expires;
  }
  return {};
}

// Fields beyond those known are a later writer's and mean nothing here.
Status read_fields(const msgpack::object& root, Event& event) {
  if (root.type != msgpack::type::ARRAY || root.via.array.size < kFields) {
    return malformed("not an array of " + std::to_string(kFields) + " fields");
  }
  const msgpack::object* fields = root.via.array.ptr;
  if (unsigned_of(fields[0]) != kVersion) return malformed("unknown version");
  const std::optional<std::uint64_t> number = unsigned_of(fields[1]);
  const std::optional<Action> action = number ? action_numbered(*number) : std::nullopt;
  if (!action) return malformed("unknown action");
  const std::optional<std::uint64_t> database = unsigned_of(fields[2]);
  if (!database || *database > 65'535) return malformed("db is not a number from 0 to 65535");
  if (!is_bytes(fields[3]) || !is_bytes(fields[4])) return malformed("key or sender is not bytes");

  event.action = *action;
  event.database = static_cast<int>(*database);
  event.key = bytes_of(fields[3]);
  event.sender = bytes_of(fields[4]);
  if (Status status = read_body(fields[5], event); !status.ok()) return status;
  if (Status status = read_tail(fields + 6, event); !status.ok()) return status;
  return check(event);
}

// Strings and bytes stay where they are until an event is made of them.
bool keep_in_payload(msgpack::type::object_type, std::size_t, void*) { return true; }

Status decode_msgpack(std::string_view payload, Event& event) {
  // An array of n elements takes n bytes at least, so no honest event exceeds its own size; the
  // limits keep a header that claims more from being believed.
  const std::size_t size = payload.size();
  const msgpack::unpack_limit limit(size, 0, size, size, 0, kUnpackDepthMax);
  try {
    // Kept for the next event: its memory is most of what an event would cost.
    thread_local msgpack::zone zone;
    zone.clear();
    std::size_t offset = 0;
    bool referenced = false;
    const msgpack::object root = msgpack::unpack(zone, payload.data(), size, offset, referenced,
                                                 keep_in_payload, nullptr, limit);
    if (offset != size) return malformed("bytes after the MessagePack array");
    return read_fields(root, event);
  } catch (const msgpack::unpack_error&) {
    return malformed("neither JSON nor complete MessagePack");
  }
}

bool is_msgpack_array(char first) {
  const unsigned byte = static_cast<unsigned char>(first);
  return byte >> 4 == 0x9 || byte == 0xdc || byte == 0xdd;
}

}  // namespace

std::string_view action_name(Action action) noexcept {
  for (const ActionName& known : kActions) {
    if (known.action == action) return known.name;
  }
  return "unknown";
}

std::string event_head(const Event& event, WireFormat format) {
  return format == WireFormat::kMsgpack ? msgpack_head(event) : json_head(event);
}

std::string event_tail(const Event& event, WireFormat format) {
  return format == WireFormat::kMsgpack ? msgpack_tail(event) : json_tail(event);
}

void Event::clear() noexcept {
  for (std::string* text : {&key, &sender, &value, &prefix}) text->clear();
  keys.clear();
  action = Action::kInvalidate;
  database = 0;
  id = prev = {};
  expires_unix_ms = 0;
}

Status decode_event(std::string_view payload, Event& event) {
  if (payload.empty()) return malformed("empty");
  if (payload.size() > kEventMaxBytes) return malformed("larger than 768 MiB");
  event.clear();
  if (is_msgpack_array(payload.front())) return decode_msgpack(payload, event);
  return JsonEvent(payload, event).decode();
}

Result<Event> decode_event(std::string_view payload) {
  Event event;
  if (Status s = decode_event(payload, event); !s.ok()) return s;
  return event;
}

std::string to_string(ChangeId id) {
  return std::to_string(id.seq) + '-' + std::to_string(id.nonce);
}

Result<ChangeId> parse_change_id(std::string_view text) {
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return {Code::kInvalidArgument, "not of the form 12-34"};
  const std::optional<std::uint64_t> seq = parse_unsigned(text.substr(0, dash));
  const std::optional<std::uint64_t> nonce = parse_unsigned(text.substr(dash + 1));
  if (!seq || !nonce) return {Code::kInvalidArgument, "not of the form 12-34"};
  if (*seq > shm::kMaxSeq)
    return {Code::kInvalidArgument, "the number before the dash exceeds 2^48 - 1"};
  return ChangeId{*seq, *nonce};
}

}  // namespace larder::sync
