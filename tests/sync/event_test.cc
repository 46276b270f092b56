#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "src/sync/base64.h"
#include "src/sync/endpoint.h"
#include "src/sync/event.h"
#include "src/sync/json.h"
#include "src/sync/scripts.h"

using namespace larder;
using namespace larder::sync;
using namespace std::string_literals;

namespace {

constexpr WireFormat kFormats[] = {WireFormat::kJson, WireFormat::kMsgpack};

std::string whole(const Event& event, WireFormat format = WireFormat::kJson) {
  return event_head(event, format) + event_tail(event, format);
}

// From memory of exactly its size, so that a sanitizer sees a read beyond it.
Result<Event> decode(std::string_view payload) {
  const std::vector<char> exact(payload.begin(), payload.end());
  return decode_event({exact.data(), exact.size()});
}

Event set_event() {
  Event event;
  event.action = Action::kSet;
  event.key = "user:1";
  event.sender = "host-a-1f";
  event.value = "\x00\xff value"s;
  event.database = 3;
  event.id = {12, 18446744073709551615u};
  event.prev = {11, 7};
  event.expires_unix_ms = 1795346693688;
  return event;
}

std::vector<Event> one_of_each() {
  Event set = set_event();
  Event bad_key = set_event();
  bad_key.key = "bad\xff\xfe\x00utf8"s;
  Event invalidate = set_event();
  invalidate.action = Action::kInvalidate;
  invalidate.value.clear();
  invalidate.expires_unix_ms = 0;
  Event gone = invalidate;
  gone.action = Action::kDelete;
  Event clear = gone;
  clear.action = Action::kClear;
  clear.key = "*";
  clear.prefix = "app:\xff<"s;
  Event many = gone;
  many.action = Action::kDeleteMany;
  many.key.clear();
  many.keys = {"a", "b\xff\x00"s, std::string(300, 'c')};
  return {set, bad_key, invalidate, gone, clear, many};
}

void check_same(const Event& left, const Event& right) {
  CHECK(left.action == right.action);
  CHECK(left.key == right.key);
  CHECK(left.sender == right.sender);
  CHECK(left.value == right.value);
  CHECK(left.prefix == right.prefix);
  CHECK(left.keys == right.keys);
  CHECK(left.database == right.database);
  CHECK(left.id == right.id);
  CHECK(left.prev == right.prev);
  CHECK(left.expires_unix_ms == right.expires_unix_ms);
}

// ---- the capture of the Go library ------------------------------------------------------------

std::vector<std::string> capture_lines() {
  const char* folder = std::getenv("LARDER_TEST_DATA");
  REQUIRE_MESSAGE(folder != nullptr, "LARDER_TEST_DATA must name the folder of go-events.txt");
  std::ifstream file(std::string(folder) + "/go-events.txt");
  REQUIRE_MESSAGE(file.good(), "go-events.txt is missing");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string unhex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// The text of a Go %q literal at the start of `line`; `rest` is what follows it.
std::string unquote(std::string_view line, std::string_view& rest) {
  std::string out;
  std::size_t i = 1;
  for (; line[i] != '"'; ++i) {
    if (line[i] != '\\') {
      out += line[i];
      continue;
    }
    const char letter = line[++i];
    REQUIRE_MESSAGE((letter == '"' || letter == '\\' || letter == 'n'), line);
    out += letter == 'n' ? '\n' : letter;
  }
  rest = line.substr(i + 1);
  return out;
}

struct Captured {
  std::string operation;
  std::string payload;
};

std::vector<Captured> captured_payloads() {
  std::vector<Captured> captured;
  std::string operation;
  std::string payload;
  for (const std::string& line : capture_lines()) {
    if (line.starts_with("### ")) operation = line.substr(4);
    if (line.starts_with("payload (")) payload = line.substr(line.find(": ") + 2);
    if (!line.starts_with("hex: ")) continue;
    const std::string bytes = unhex(std::string_view(line).substr(5));
    CHECK(bytes == payload);
    captured.push_back({operation, bytes});
  }
  return captured;
}

}  // namespace

TEST_CASE("every event captured from the Go library is written again byte for byte") {
  int same = 0;
  int other = 0;
  for (const Captured& captured : captured_payloads()) {
    CAPTURE(captured.operation);
    const Result<Event> event = decode(captured.payload);
    if (captured.operation.starts_with("raw marshaller Set(\"rawempty\"")) {
      // A set without a value: Go pods ignore it, and so do we.
      CHECK(event.code() == Code::kInvalidArgument);
      ++other;
      continue;
    }
    REQUIRE_MESSAGE(event.ok(), event.status().message());
    if (captured.operation.starts_with("Set(\"bad\\xff\\xfe")) {
      // The key changed on the wire; from the exact key the same fields come, and one more.
      Event exact = *event;
      exact.key = "bad\xff\xfe\x00utf8"s;
      const std::string fields = captured.payload.substr(0, captured.payload.size() - 1);
      CHECK(whole(exact) == fields + ",\"key_b64\":\"YmFk//4AdXRmOA==\"}");
      ++other;
      continue;
    }
    CHECK(whole(*event) == captured.payload);
    ++same;
  }
  CHECK(same == 16);
  CHECK(other == 2);
}

TEST_CASE("what a Go pod made of a hand-written payload is what we make of it") {
  int stored = 0;
  int refused = 0;
  int dropped = 0;
  bool marshaller_refused = false;
  bool in_section = false;
  for (const std::string& line : capture_lines()) {
    if (line.starts_with("### ")) in_section = line.starts_with("### what a receiving pod makes");
    if (line.starts_with("====")) in_section = false;
    if (line.starts_with("   OnError: invalid character")) marshaller_refused = true;
    if (!in_section || !line.starts_with("\"")) continue;
    std::string_view rest;
    const std::string payload = unquote(line, rest);
    CAPTURE(line);
    const Result<Event> event = decode(payload);
    if (rest.starts_with(" -> stored [\"")) {
      const std::string_view key = rest.substr(13, rest.find("\"=") - 13);
      REQUIRE_MESSAGE(event.ok(), event.status().message());
      CHECK(event->action == Action::kSet);
      CHECK(event->key == key);
      CHECK(event->value == "\"hi\"");
      ++stored;
    } else if (rest == " -> stored []") {
      // Two of these are events all the same: the pod's own, and one with a value that its JSON
      // marshaller could not read.
      const bool is_event = payload.find("\"pod-2\"") != std::string::npos || marshaller_refused;
      CHECK(event.ok() == is_event);
      if (!is_event) CHECK(event.code() == Code::kInvalidArgument);
      marshaller_refused = false;
      ++refused;
    } else {
      REQUIRE(rest.starts_with(" -> local entries "));
      const std::string_view counts = rest.substr(18, rest.find(',') - 18);
      const std::size_t arrow = counts.find(" -> ");
      CHECK(event.ok() == (counts.substr(0, arrow) != counts.substr(arrow + 4)));
      ++dropped;
    }
  }
  CHECK(stored == 10);
  CHECK(refused == 8);
  CHECK(dropped == 3);
}

// ---- round trips ------------------------------------------------------------------------------

TEST_CASE("an event comes back as it was, in both formats") {
  for (const WireFormat format : kFormats) {
    for (const Event& event : one_of_each()) {
      CAPTURE(static_cast<int>(format));
      CAPTURE(static_cast<int>(event.action));
      const Result<Event> back = decode(whole(event, format));
      REQUIRE_MESSAGE(back.ok(), back.status().message());
      check_same(*back, event);
    }
  }
}

TEST_CASE("an event without an id comes back without id, prev and expiry") {
  for (const WireFormat format : kFormats) {
    Event event = set_event();
    event.id = {};
    const Result<Event> back = decode(whole(event, format));
    REQUIRE_MESSAGE(back.ok(), back.status().message());
    CHECK(back->id.none());
    CHECK(back->prev.none());
    CHECK(back->expires_unix_ms == 0);
    CHECK(back->value == event.value);
  }
}

TEST_CASE("the first change of a log names no predecessor") {
  for (const WireFormat format : kFormats) {
    Event event = set_event();
    event.id = {1, 99};
    event.prev = {};
    const Result<Event> back = decode(whole(event, format));
    REQUIRE_MESSAGE(back.ok(), back.status().message());
    CHECK(back->id == ChangeId{1, 99});
    CHECK(back->prev.none());
  }
}

TEST_CASE("our fields stand behind the Go library's, and only where they say something") {
  CHECK(whole(set_event()) ==
        "{\"key\":\"user:1\",\"sender\":\"host-a-1f\",\"action\":\"set\",\"value\":"
        "\"AP8gdmFsdWU=\",\"db\":3,\"id\":\"12-18446744073709551615\",\"prev\":\"11-7\","
        "\"expires_at\":1795346693688}");
  Event clear;
  clear.action = Action::kClear;
  clear.sender = "s";
  CHECK(whole(clear) == "{\"key\":\"*\",\"sender\":\"s\",\"action\":\"clear\"}");
  clear.prefix = "app:";
  CHECK(whole(clear) ==
        "{\"key\":\"*\",\"sender\":\"s\",\"action\":\"clear\",\"prefix\":\"app:\"}");
  Event many;
  many.action = Action::kDeleteMany;
  many.sender = "s";
  many.keys = {"a", "b"};
  CHECK(whole(many) ==
        "{\"key\":\"\",\"sender\":\"s\",\"action\":\"delete_many\",\"keys\":"
        "[\"YQ==\",\"Yg==\"]}");
}

TEST_CASE("an empty value is announced as an invalidation, because Go peers ignore such a set") {
  for (const WireFormat format : kFormats) {
    Event event = set_event();
    event.value.clear();
    const Result<Event> back = decode(whole(event, format));
    REQUIRE(back.ok());
    CHECK(back->action == Action::kInvalidate);
  }
}

TEST_CASE("MessagePack is smaller than JSON") {
  Event event = set_event();
  event.key = std::string(24, 'k');
  event.value = std::string(200, 'v');
  CHECK(whole(event, WireFormat::kMsgpack).size() * 4 < whole(event).size() * 3 + 100);
  CHECK(whole(event, WireFormat::kMsgpack).size() < whole(event).size());
}

// ---- reading as Go reads ----------------------------------------------------------------------

TEST_CASE("JSON is read as Go's decoder reads it") {
  const auto value_of = [](std::string_view value) {
    return decode("{\"key\":\"k\",\"action\":\"set\",\"value\":" + std::string(value) + "}");
  };
  SUBCASE("unknown fields of any kind are skipped") {
    const Result<Event> event = decode(
        "{\"x\":{\"a\":[1,-2.5e+9999,{}],\"b\":null},\"key\":\"k\",\"y\":[],\"z\":true,"
        "\"action\":\"delete\",\"w\":\"\\ud800\"}");
    REQUIRE_MESSAGE(event.ok(), event.status().message());
    CHECK(event->key == "k");
  }
  SUBCASE("field names fold as in Go, two letters beyond ASCII included") {
    const Result<Event> event = decode(
        "{\"\xe2\x84\xaa"
        "EY\":\"k\",\"\xc5\xbf"
        "ender\":\"me\",\"Action\":\"delete\"}");
    REQUIRE_MESSAGE(event.ok(), event.status().message());
    CHECK(event->key == "k");
    CHECK(event->sender == "me");
  }
  SUBCASE("null leaves a string as it was and empties a value") {
    CHECK(decode(R"({"key":"k","key":null,"action":"delete"})")->key == "k");
    CHECK_FALSE(decode(R"({"key":"k","action":"set","value":"YQ==","value":null})").ok());
  }
  SUBCASE("bytes that are not UTF-8 and lone surrogates become U+FFFD") {
    CHECK(decode("{\"key\":\"a\xff\",\"action\":\"delete\"}")->key == "a\xef\xbf\xbd");
    CHECK(decode(R"({"key":"\ud83d\ude42\ud83dx","action":"delete"})")->key ==
          "\xf0\x9f\x99\x82\xef\xbf\xbdx");
    CHECK(decode("{\"key\":\"\xed\xa0\x80\",\"action\":\"delete\"}")->key ==
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  }
  SUBCASE("a value is padded base64 with line ends anywhere, or numbers") {
    CHECK(value_of("\"YWI=\"")->value == "ab");
    CHECK(value_of("\"Y\\nWI\\r\\n=\\n\"")->value == "ab");
    CHECK(value_of("[0,255,null]")->value == "\x00\xff\x00"s);
    for (const char* bad :
         {"\"YWI\"", "\"YW=I\"", "\"YWI==\"", "\"=\"", "\"YWI=YWI=\"", "\"Y WI=\"", "\"_-8=\"",
          "[256]", "[-1]", "[1.0]", "[1e1]", "[\"a\"]", "{}", "7", "true", "\"\"", "null", "[]"}) {
      CAPTURE(bad);
      CHECK_FALSE(value_of(bad).ok());
    }
  }
}

TEST_CASE("what is not an event is refused with a reason") {
  const std::string long_key(65'536, 'k');
  for (const std::string& bad : {
           ""s,
           " "s,
           "null"s,
           "[]"s,
           "{}"s,
           "\"\""s,
           "{"s,
           "not json"s,
           "\xef\xbb\xbf{}"s,
           R"({"key":"k"})"s,
           R"({"key":"k","action":""})"s,
           R"({"key":"k","action":"SET","value":"YQ=="})"s,
           R"({"key":"k","action":"evict"})"s,
           R"({"action":"delete"})"s,
           R"({"key":7,"action":"delete"})"s,
           R"({"key":"k","action":"delete"},)"s,
           R"({"key":"k","action":"delete",})"s,
           R"({"key":"k" "action":"delete"})"s,
           R"({"key":"k","action":"delete","x":01})"s,
           R"({"key":"k","action":"delete","x":.5})"s,
           R"({"key":"k","action":"delete","x":nul})"s,
           R"({"key":"k","action":"delete","x":"\x"})"s,
           R"({"key":"k","action":"delete","x":"\u12g4"})"s,
           "{\"key\":\"k\n\",\"action\":\"delete\"}"s,
           "{\"key\":\"k\",\"action\":\"delete\"}\0"s,
           "{\"key\":\"k\",\"action\":\"delete\"\0}"s,
           "{\"key\":\"" + long_key + "\",\"action\":\"delete\"}",
           R"({"key":"k","action":"delete","key_b64":"YQ"})"s,
           R"({"key":"k","action":"delete","db":-1})"s,
           R"({"key":"k","action":"delete","db":65536})"s,
           R"({"key":"k","action":"delete","db":"1"})"s,
           R"({"key":"k","action":"delete","id":"1-2"})"s,
           R"({"key":"k","action":"delete","prev":"1-2"})"s,
           R"({"key":"k","action":"delete","id":7,"prev":"1-2"})"s,
           R"({"key":"k","action":"delete","id":"0-0","prev":"0-0"})"s,
           R"({"key":"k","action":"delete","id":"281474976710656-1","prev":"1-1"})"s,
           R"({"key":"k","action":"delete","id":"2-18446744073709551616","prev":"1-1"})"s,
           R"({"key":"k","action":"set","value":"YQ==","id":"2-1","prev":"1-1","expires_at":-1})"s,
           R"({"key":"k","action":"set","value":"YQ==","expires_at":1.5})"s,
           R"({"key":"","action":"delete_many"})"s,
           R"({"key":"","action":"delete_many","keys":[]})"s,
           R"({"key":"","action":"delete_many","keys":["YQ"]})"s,
           R"({"key":"","action":"delete_many","keys":"YQ=="})"s,
       }) {
    CAPTURE(bad.substr(0, 100));
    const Result<Event> event = decode(bad);
    CHECK(event.code() == Code::kInvalidArgument);
    CHECK(event.status().message().size() > std::string("event ignored: ").size());
  }
}

TEST_CASE("MessagePack that is no event of ours is refused") {
  const std::string good = whole(set_event(), WireFormat::kMsgpack);
  REQUIRE(decode(good).ok());
  CHECK_FALSE(decode(good + "\x01").ok());
  const auto with = [&good](std::size_t at, char byte) {
    std::string bytes = good;
    bytes[at] = byte;
    return bytes;
  };
  CHECK_FALSE(decode(with(0, '\x98')).ok());  // fewer fields
  CHECK_FALSE(decode(with(1, '\x02')).ok());  // another version
  CHECK_FALSE(decode(with(2, '\x09')).ok());  // an unknown action
  CHECK_FALSE(decode(with(3, '\xff')).ok());  // database -1
  for (const std::string& bad : {
           "\xdd\xff\xff\xff\xff"s,      // an array of 4 billion
           "\x99\xdd\xff\xff\xff\xff"s,  // another within
           "\x99\xc6\xff\xff\xff\xff"
           "abc"s,                           // 4 GB of bytes
           "\x99\x81\x01\x02"s,              // a map
           "\x99\xc9\xff\xff\xff\xff\x01"s,  // an extension
           std::string(100'000, '\x91'),     // arrays in arrays
           std::string(9, '\x99'),
           "\x90"s,
           "\xdc\x00\x09"s,
       }) {
    CAPTURE(bad.size());
    CHECK(decode(bad).code() == Code::kInvalidArgument);
  }
}

// ---- hostile input ----------------------------------------------------------------------------

TEST_CASE("no prefix of an event is an event") {
  for (const WireFormat format : kFormats) {
    for (const Event& event : one_of_each()) {
      const std::string bytes = whole(event, format);
      for (std::size_t size = 0; size < bytes.size(); ++size) {
        CHECK_FALSE(decode(std::string_view(bytes).substr(0, size)).ok());
      }
    }
  }
}

TEST_CASE("an event with any one byte changed is refused or within bounds") {
  long accepted = 0;
  for (const WireFormat format : kFormats) {
    for (const Event& event : one_of_each()) {
      std::string bytes = whole(event, format);
      for (char& byte : bytes) {
        const char before = byte;
        for (int flip = 1; flip < 256; ++flip) {
          byte = static_cast<char>(before ^ flip);
          const Result<Event> changed = decode(bytes);
          if (!changed) continue;
          ++accepted;
          REQUIRE(changed->key.size() <= kEventKeyMaxBytes);
          REQUIRE(changed->id.seq <= shm::kMaxSeq);
          REQUIRE(changed->database <= 65'535);
        }
        byte = before;
      }
    }
  }
  CHECK(accepted > 0);
}

TEST_CASE("depth is bounded where Go bounds it") {
  const auto nested = [](std::size_t depth) {
    return "{\"x\":" + std::string(depth, '[') + std::string(depth, ']') +
           ",\"key\":\"k\",\"action\":\"delete\"}";
  };
  CHECK(decode(nested(9'999)).ok());
  CHECK_FALSE(decode(nested(10'000)).ok());
  CHECK_FALSE(decode("{\"x\":" + std::string(3'000'000, '[')).ok());
  std::string objects = "{\"x\":";
  for (int i = 0; i < 100'000; ++i) objects += "{\"x\":";
  CHECK_FALSE(decode(objects).ok());
}

TEST_CASE("a value of 8 MiB and as many keys as one event may name travel, and no more") {
  Event big = set_event();
  big.value.resize(8u << 20);
  for (std::size_t i = 0; i < big.value.size(); ++i) big.value[i] = static_cast<char>(i * 31 >> 3);
  Event many = one_of_each().back();
  many.keys.clear();
  for (std::size_t i = 0; i < kDeleteManyMax; ++i) many.keys.push_back("key:" + std::to_string(i));
  Event too_many = many;
  too_many.keys.push_back("one more");
  for (const WireFormat format : kFormats) {
    CHECK(decode(whole(big, format))->value == big.value);
    CHECK(decode(whole(many, format))->keys == many.keys);
    CHECK(decode(whole(too_many, format)).code() == Code::kInvalidArgument);
  }
}

// ---- the parts --------------------------------------------------------------------------------

TEST_CASE("change ids are written as Redis writes stream ids") {
  CHECK(to_string(ChangeId{12, 18446744073709551615u}) == "12-18446744073709551615");
  CHECK(*parse_change_id("281474976710655-0") == ChangeId{shm::kMaxSeq, 0});
  CHECK(*parse_change_id("0-0") == ChangeId{});
  for (const char* bad : {"", "-", "1", "1-", "-1", "a-1", "1-a", "+1-1", "1-1-1", " 1-1", "1-1 ",
                          "281474976710656-0", "1-18446744073709551616"}) {
    CAPTURE(bad);
    CHECK(parse_change_id(bad).code() == Code::kInvalidArgument);
  }
}

TEST_CASE("base64 of every length comes back") {
  std::string bytes;
  for (int i = 0; i < 70; ++i) {
    std::string text;
    append_base64(text, bytes);
    CHECK(text.size() % 4 == 0);
    CHECK(decode_base64(text) == bytes);
    bytes += static_cast<char>(255 - i * 7);
  }
  std::string text;
  append_base64(text, "\xfb\xff\xfe");
  CHECK(text == "+//+");
}

TEST_CASE("UTF-8 is what Go takes for it") {
  for (const std::string& good : {""s, "a\x7f"s, "\xc2\x80"s, "\xe0\xa0\x80"s, "\xef\xbf\xbf"s,
                                  "\xf0\x90\x80\x80"s, "\xf4\x8f\xbf\xbf"s, "\x00"s}) {
    CHECK(is_utf8(good));
  }
  for (const std::string& bad :
       {"\x80"s, "\xc1\xbf"s, "\xc2"s, "\xe0\x9f\xbf"s, "\xe2\x82"s, "\xed\xa0\x80"s,
        "\xf0\x8f\xbf\xbf"s, "\xf4\x90\x80\x80"s, "\xf5\x80\x80\x80"s, "\xf0\x90\x80"s, "\xff"s}) {
    CHECK_FALSE(is_utf8(bad));
  }
}

TEST_CASE("SHA-1 gives the published test values") {
  CHECK(sha1_hex("") == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  CHECK(sha1_hex("abc") == "a9993e364706816aba3e25717850c26c9cd0d89d");
  CHECK(sha1_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  CHECK(sha1_hex(std::string(1'000'000, 'a')) == "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

TEST_CASE("an address is understood in each of its forms") {
  const auto shown = [](std::string_view address) {
    const Result<Endpoint> endpoint = parse_endpoint(address);
    return endpoint ? to_string(*endpoint) : endpoint.status().message();
  };
  CHECK(shown("10.0.0.5:6380") == "10.0.0.5:6380");
  CHECK(shown("redis.local") == "redis.local:6379");
  CHECK(shown("[::1]:7000") == "[::1]:7000");
  CHECK(shown("[fe80::1]") == "[fe80::1]:6379");
  CHECK(shown("redis://cache:1234/") == "cache:1234");
  CHECK(shown("redis://[::1]") == "[::1]:6379");
  CHECK(shown("/run/redis.sock") == "/run/redis.sock");
}

TEST_CASE("an address that cannot work is refused, and credentials in it are not repeated") {
  for (const std::string& bad :
       {""s, ":6379"s, "host:"s, "host:0"s, "host:65536"s, "host:+1"s, "host:6379x"s, "::1"s,
        "[::1"s, "[::1]7000"s, "a b:1"s, "host/0"s, "redis://host/1"s, "http://host"s,
        "rediss://host"s, "redis://"s, "/" + std::string(200, 'p'), "ho\0st"s}) {
    CAPTURE(bad);
    const Result<Endpoint> endpoint = parse_endpoint(bad);
    CHECK(endpoint.code() == Code::kInvalidArgument);
    CHECK(endpoint.status().message().find("redis.address") != std::string::npos);
  }
  CHECK(parse_endpoint("rediss://h").status().message().find("rediss://") != std::string::npos);
  const Result<Endpoint> secret = parse_endpoint("redis://me:hunter2@host:6379");
  CHECK(secret.code() == Code::kInvalidArgument);
  CHECK(secret.status().message().find("hunter2") == std::string::npos);
}

TEST_CASE("a name is resolved by the deadline, a number without asking anybody") {
  const Deadline soon = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  CHECK(*resolve(*parse_endpoint("127.0.0.1:1"), soon) == std::vector<std::string>{"127.0.0.1"});
  CHECK(*resolve(*parse_endpoint("[::1]:1"), soon) == std::vector<std::string>{"::1"});
  const Result<std::vector<std::string>> local = resolve(*parse_endpoint("localhost"), soon);
  REQUIRE_MESSAGE(local.ok(), local.status().message());
  CHECK_FALSE(local->empty());
  const Result<std::vector<std::string>> late =
      resolve(*parse_endpoint("localhost"), std::chrono::steady_clock::now());
  CHECK((late.ok() || late.code() == Code::kUnavailable));
}
