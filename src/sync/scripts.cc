#include "src/sync/scripts.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>

namespace larder::sync {
namespace {

// Every script is one stretch of code, put together of these: what it refuses, its row in the log,
// what it does to the data, the event. Without functions, which Lua would make anew at each call,
// and with numbers as text, which Redis would make of them: that is a fifth of a script's time.

constexpr std::string_view kBegin = R"lua(
local log, key, nonce, head = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local call, pcall = redis.call, redis.pcall
)lua";

// A set only.
constexpr std::string_view kRefuseOtherTypes = R"lua(
local length = pcall('STRLEN', key)
if type(length) == 'table' then
  if string.sub(length.err, 1, 9) ~= 'WRONGTYPE' then return length end
  return redis.error_reply('WRONGTYPE the key holds a ' .. call('TYPE', key).ok .. ', not a string')
end
)lua";

// The log's last row has its last id, and is had for a third of what XINFO costs; unless somebody
// deleted rows, which XADD then refuses. An id beyond 2^48 - 1 comes from a stranger's XADD; the
// segment has no room for it. Numbers are doubles in Lua 5.1: exact up to 2^53, and written with
// %.0f because tostring() turns to exponents at 1e14. A nonce has 64 bits and stays text.
constexpr std::string_view kAppend = R"lua(
local row = call('XREVRANGE', log, '+', '-', 'COUNT', '1')[1]
local prev, id, added = row and row[1]
for _ = 1, 2 do
  if not prev then
    prev = '0-0'
    local info = call('EXISTS', log) == 1 and call('XINFO', 'STREAM', log) or {}
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then prev = info[i + 1] end
    end
  end
  local seq = tonumber(string.match(prev, '^(%d+)-')) + 1
  if seq > 281474976710655 then
    return redis.error_reply('LARDERLOG the last id of ' .. log .. ' is beyond 2^48 - 1')
  end
  id = string.format('%.0f-%s', seq, nonce)
  added = ADD_ROW
  if type(added) == 'string' then break end
  prev = nil
end
if type(added) ~= 'string' then return added end
)lua";

constexpr std::string_view kAddRow =
    "pcall('XADD', log, 'MAXLEN', '~', MAX_ENTRIES, id, 'a', LETTER, 'p', prev, NAMES)";

constexpr std::string_view kWithoutExpiry = "\nlocal expires = ''\n";

constexpr std::string_view kStore = R"lua(
local value, ttl_ms = ARGV[3], ARGV[4]
local expires = ''
if ttl_ms then
  local now = call('TIME')
  expires = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ttl_ms)
  call('SET', key, value, 'PX', ttl_ms)
else
  call('SET', key, value)
end
)lua";

constexpr std::string_view kNameKeys = R"lua(
local named = {}
for i = 2, #KEYS do
  named[#named + 1] = 'k'
  named[#named + 1] = KEYS[i]
end
)lua";

// The row was added before, so that a refusal (ACL, memory) comes while nothing is lost; and is
// added again, because the log itself went with the rest.
constexpr std::string_view kFlush = R"lua(
call('FLUSHDB')
added = ADD_ROW
if type(added) ~= 'string' then return added end
)lua";

constexpr std::string_view kJsonTail = R"lua(
local expiry = expires ~= '' and ',"expires_at":' .. expires or ''
local tail = ',"id":"' .. id .. '","prev":"' .. prev .. '"' .. expiry .. '}'
)lua";

constexpr std::string_view kMsgpackTail = R"lua(
local tail = cmsgpack.pack(id, prev, expires)
)lua";

constexpr std::string_view kPublish = R"lua(
local outcome = pcall('PUBLISH', CHANNEL, head .. tail)
if type(outcome) == 'table' then outcome = outcome.err end
return id .. ' ' .. prev .. ' ' .. expires .. ' ' .. outcome
)lua";

Script make_script(std::string text) {
  std::string sha1 = sha1_hex(text);
  return {std::move(text), std::move(sha1)};
}

// As a string of Lua, whatever bytes it has.
std::string lua_quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    char escaped[5];
    std::snprintf(escaped, sizeof escaped, "\\%03u", static_cast<unsigned char>(c));
    quoted += escaped;
  }
  return quoted += '\'';
}

// ---- SHA-1 (FIPS 180-4) -----------------------------------------------------------------------

using Sha1State = std::array<std::uint32_t, 5>;
constexpr std::size_t kSha1Block = 64;

std::uint32_t big_endian(const char* bytes) {
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word = word << 8 | static_cast<unsigned char>(bytes[i]);
  return word;
}

void mix_block(Sha1State& state, const char* block) {
  std::array<std::uint32_t, 80> words;
  for (std::size_t i = 0; i < 16; ++i) words[i] = big_endian(block + 4 * i);
  for (std::size_t i = 16; i < 80; ++i) {
    words[i] = std::rotl(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
  }
  auto [a, b, c, d, e] = state;
  for (std::size_t i = 0; i < 80; ++i) {
    std::uint32_t mixed = 0;
    if (i < 20) {
      mixed = ((b & c) | (~b & d)) + 0x5a827999u;
    } else if (i < 40) {
      mixed = (b ^ c ^ d) + 0x6ed9eba1u;
    } else if (i < 60) {
      mixed = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcu;
    } else {
      mixed = (b ^ c ^ d) + 0xca62c1d6u;
    }
    const std::uint32_t next = std::rotl(a, 5) + mixed + e + words[i];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  state = {state[0] + a, state[1] + b, state[2] + c, state[3] + d, state[4] + e};
}

// The message with its length behind it, in whole blocks.
std::string padded(std::string_view bytes) {
  std::string message(bytes);
  message += '\x80';
  while (message.size() % kSha1Block != kSha1Block - 8) message += '\0';
  const std::uint64_t bits = static_cast<std::uint64_t>(bytes.size()) * 8;
  for (int shift = 56; shift >= 0; shift -= 8) message += static_cast<char>(bits >> shift & 0xff);
  return message;
}

}  // namespace

std::string sha1_hex(std::string_view bytes) {
  Sha1State state = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u, 0xc3d2e1f0u};
  const std::string message = padded(bytes);
  for (std::size_t at = 0; at < message.size(); at += kSha1Block) {
    mix_block(state, message.data() + at);
  }
  std::string hex;
  for (const std::uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  }
  return hex;
}

namespace {

struct Parts {
  Action action;
  std::string_view first;  // before the row
  std::string_view names;  // fields of the row, after `a` and `p`
  std::string data;        // after it
};

void replace(std::string& text, std::string_view name, std::string_view by) {
  const std::size_t at = text.find(name);
  if (at != std::string::npos) text.replace(at, name.size(), by);
}

}  // namespace

ChangeScripts::ChangeScripts(std::string_view channel, WireFormat format,
                             std::uint64_t log_max_entries) {
  const auto make = [&](const Parts& parts) {
    std::string text = "local CHANNEL, MAX_ENTRIES, LETTER = " + lua_quoted(channel) + ", '" +
                       std::to_string(log_max_entries) + "', '" + log_letter(parts.action) + "'";
    text.append(kBegin).append(parts.first).append(kAppend).append(parts.data);
    for (int i = 0; i < 2; ++i) {
      replace(text, "ADD_ROW", kAddRow);
      replace(text, "NAMES", parts.names);
    }
    text.append(format == WireFormat::kMsgpack ? kMsgpackTail : kJsonTail).append(kPublish);
    return make_script(std::move(text));
  };
  const auto without_expiry = [](std::string_view command) {
    return std::string(command).append(kWithoutExpiry);
  };
  constexpr std::string_view kOneKey = "'k', key", kPrefix = "'k', ARGV[3]";
  set = make({Action::kSet, kRefuseOtherTypes, kOneKey, std::string(kStore)});
  invalidate = make({Action::kInvalidate, kRefuseOtherTypes, kOneKey, std::string(kStore)});
  remove = make({Action::kDelete, "", kOneKey, without_expiry("call('DEL', key)")});
  delete_many = make({Action::kDeleteMany, kNameKeys, "unpack(named)",
                      without_expiry("call('DEL', unpack(KEYS, 2))")});
  clear = make({Action::kClear, "", kPrefix, without_expiry("")});
  clear_database = make({Action::kClear, "", "'k', ''", without_expiry(kFlush)});
}

std::string log_key(std::string_view channel) { return std::string(kLogPrefix).append(channel); }

namespace {
struct Letter {
  Action action;
  char letter;
};
constexpr Letter kLetters[] = {{Action::kSet, 's'},
                               {Action::kInvalidate, 'i'},
                               {Action::kDelete, 'd'},
                               {Action::kClear, 'c'},
                               {Action::kDeleteMany, 'm'}};
}  // namespace

char log_letter(Action action) noexcept {
  for (const Letter& known : kLetters) {
    if (known.action == action) return known.letter;
  }
  return '?';
}

std::optional<Action> action_of_log_letter(std::string_view letter) noexcept {
  for (const Letter& known : kLetters) {
    if (letter.size() == 1 && letter[0] == known.letter) return known.action;
  }
  return std::nullopt;
}

}  // namespace larder::sync
