#include "src/sync/scripts.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>

namespace larder::sync {
namespace {

// What the scripts share. Numbers are doubles in Lua 5.1: exact up to 2^53, and written with
// %.0f because tostring() turns to exponents at 1e14. A nonce has 64 bits and stays text.
//
// The log's last row has its last id, and is had for a third of what XINFO costs; unless somebody
// deleted rows, which XADD then refuses. An id beyond 2^48 - 1 comes from a stranger's XADD; the
// segment has no room for it.
constexpr std::string_view kPrelude = R"lua(
local log, nonce, head = KEYS[1], ARGV[1], ARGV[2]
local id, prev

local function last_id()
  if redis.call('EXISTS', log) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local function time_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local function add_row(letter, ...)
  local done = redis.pcall('XADD', log, 'MAXLEN', '~', MAX_ENTRIES, id, 'a', letter, 'p', prev, ...)
  return type(done) == 'table' and done.err and done
end

local function append_after(last, ...)
  local seq = tonumber(string.match(last, '^(%d+)-')) + 1
  if seq > 281474976710655 then
    return redis.error_reply('LARDERLOG the last id of ' .. log .. ' is beyond 2^48 - 1')
  end
  id, prev = string.format('%.0f-%s', seq, nonce), last
  return add_row(...)
end

local function append(...)
  local row = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if row and not append_after(row[1], ...) then return nil end
  return append_after(last_id(), ...)
end

local function publish(expires)
  local outcome = redis.pcall('PUBLISH', CHANNEL, head .. tail(id, prev, expires))
  if type(outcome) == 'table' then outcome = outcome.err end
  return {id, prev, outcome, expires}
end
)lua";

constexpr std::string_view kJsonTail = R"lua(
local function tail(id, prev, expires)
  if expires ~= '' then expires = ',"expires_at":' .. expires end
  return ',"id":"' .. id .. '","prev":"' .. prev .. '"' .. expires .. '}'
end
)lua";

constexpr std::string_view kMsgpackTail = R"lua(
local tail = cmsgpack.pack
)lua";

constexpr std::string_view kSet = R"lua(
local key, value, ttl_ms = KEYS[2], ARGV[3], ARGV[4]
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and kind ~= 'string' then
  return redis.error_reply('WRONGTYPE the key holds a ' .. kind .. ', not a string')
end
local refused = append(LETTER, 'k', key)
if refused then return refused end
local expires = ''
if ttl_ms then
  expires = string.format('%.0f', time_ms() + ttl_ms)
  redis.call('SET', key, value, 'PX', ttl_ms)
else
  redis.call('SET', key, value)
end
return publish(expires)
)lua";

constexpr std::string_view kRemove = R"lua(
local refused = append('d', 'k', KEYS[2])
if refused then return refused end
redis.call('DEL', KEYS[2])
return publish('')
)lua";

constexpr std::string_view kDeleteMany = R"lua(
local named = {}
for i = 2, #KEYS do
  named[#named + 1] = 'k'
  named[#named + 1] = KEYS[i]
end
local refused = append('m', unpack(named))
if refused then return refused end
redis.call('DEL', unpack(KEYS, 2))
return publish('')
)lua";

constexpr std::string_view kClear = R"lua(
return append('c', 'k', ARGV[3]) or publish('')
)lua";

// The row is added before, so that a refusal (ACL, memory) comes while nothing is lost; and again
// after, because the log itself went with the rest.
constexpr std::string_view kClearDatabase = R"lua(
local refused = append('c', 'k', '')
if refused then return refused end
redis.call('FLUSHDB')
return add_row('c', 'k', '') or publish('')
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

ChangeScripts::ChangeScripts(std::string_view channel, WireFormat format,
                             std::uint64_t log_max_entries) {
  std::string shared = "local CHANNEL, MAX_ENTRIES = " + lua_quoted(channel) + ", " +
                       std::to_string(log_max_entries) + "\n";
  shared.append(format == WireFormat::kMsgpack ? kMsgpackTail : kJsonTail).append(kPrelude);
  const auto letter = [](Action action) {
    return std::string("local LETTER = '") + log_letter(action) + "'\n";
  };
  set = make_script(letter(Action::kSet).append(shared).append(kSet));
  invalidate = make_script(letter(Action::kInvalidate).append(shared).append(kSet));
  remove = make_script(shared + std::string(kRemove));
  delete_many = make_script(shared + std::string(kDeleteMany));
  clear = make_script(shared + std::string(kClear));
  clear_database = make_script(shared + std::string(kClearDatabase));
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
