// Events from the channel: whatever the bytes are, they decode or are refused; what decodes,
// encodes in both formats and decodes to the same again.
#include "src/sync/event.h"

#include "src/sync/base64.h"
#include "src/sync/json.h"
#include "tests/fuzz/fuzz.h"

namespace {

using larder::WireFormat;
using larder::fuzz::require;
using larder::sync::Action;
using larder::sync::Event;

// What an encoder may say of an event, and no more.
Event announced(Event event, WireFormat format) {
  if (event.action == Action::kSet && event.value.empty()) event.action = Action::kInvalidate;
  if (event.action == Action::kClear) event.key = "*";
  if (event.action == Action::kDeleteMany) event.key.clear();
  if (event.id.none()) {
    event.prev = {};
    event.expires_unix_ms = 0;
  }
  if (format == WireFormat::kJson && !larder::sync::is_utf8(event.sender)) {
    // JSON holds text; an id that is none reads as Go reads it.
    std::string text;
    larder::sync::append_json_string(text, event.sender);
    larder::sync::JsonReader(text).read_string(event.sender);
  }
  return event;
}

void require_equal(const Event& one, const Event& other) {
  require(one.action == other.action, "the action stays");
  require(one.key == other.key, "the key stays");
  require(one.sender == other.sender, "the sender stays");
  require(one.value == other.value, "the value stays");
  require(one.prefix == other.prefix, "the prefix stays");
  require(one.keys == other.keys, "the keys stay");
  require(one.database == other.database, "the database stays");
  require(one.id == other.id && one.prev == other.prev, "the ids stay");
  require(one.expires_unix_ms == other.expires_unix_ms, "the expiry stays");
}

void test_event(std::string_view payload) {
  const auto event = larder::sync::decode_event(payload);
  if (!event) return;
  for (const WireFormat format : {WireFormat::kJson, WireFormat::kMsgpack}) {
    const std::string bytes =
        larder::sync::event_head(*event, format) + larder::sync::event_tail(*event, format);
    const auto again = larder::sync::decode_event(bytes);
    require(again.ok(), "what decodes, encodes");
    require_equal(announced(*event, format), *again);
  }
}

// The parts on their own: bytes that no event would lead to them.
void test_parts(std::string_view bytes) {
  std::string base64;
  larder::sync::append_base64(base64, bytes);
  require(larder::sync::decode_base64(base64) == bytes, "base64 comes back");
  (void)larder::sync::decode_base64(bytes);

  std::string quoted;
  larder::sync::append_json_string(quoted, bytes);
  std::string text;
  larder::sync::JsonReader reader(quoted);
  require(reader.read_string(text) && reader.at_end(), "a JSON string reads");
  require(larder::sync::is_utf8(text), "what was read of JSON is UTF-8");
  require(!larder::sync::is_utf8(bytes) || text == bytes, "text comes back");
  larder::sync::JsonReader any(bytes);
  (void)any.skip_value();

  if (const auto id = larder::sync::parse_change_id(bytes)) {
    const auto again = larder::sync::parse_change_id(larder::sync::to_string(*id));
    require(again.ok() && *again == *id, "an id comes back");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  test_event(bytes);
  test_parts(bytes);
  return 0;
}
