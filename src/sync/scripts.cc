#include "src/sync/scripts.h"

#include <array>
#include <bit>
#include <cstdint>

namespace larder::sync {
namespace {

// What the scripts share. Numbers are doubles in Lua 5.1: exact up to 2^53, and written with
// %.0f because tostring() turns to exponents at 1e14. A nonce has 64 bits and stays text.
constexpr std::string_view kPrelude = R"lua(
local log = KEYS[1]

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
)lua";

// An id beyond 2^48 - 1 comes from a stranger's XADD; the segment has no room for it.
constexpr std::string_view kChangePrelude = R"lua(
local max_entries, nonce, channel, format, head = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local prev = last_id()
local seq = tonumber(string.match(prev, '^(%d+)-')) + 1
if seq > 281474976710655 then
  return redis.error_reply('LARDERLOG the last id of ' .. log .. ' is beyond 2^48 - 1')
end
local id = string.format('%.0f-%s', seq, nonce)

local function append(letter, ...)
  redis.call('XADD', log, 'MAXLEN', '~', max_entries, id, 'a', letter, 'p', prev, ...)
end

local function publish(expires)
  local tail
  if format == 'msgpack' then
    tail = cmsgpack.pack(id, prev, expires)
  else
    tail = ',"id":"' .. id .. '","prev":"' .. prev .. '"'
    if expires ~= '' then tail = tail .. ',"expires_at":' .. expires end
    tail = tail .. '}'
  end
  local outcome = redis.pcall('PUBLISH', channel, head .. tail)
  if type(outcome) == 'table' then outcome = outcome.err end
  return {id, prev, outcome, expires}
end
)lua";

constexpr std::string_view kFill = R"lua(
local value = redis.call('GET', KEYS[2])
local left_ms = redis.call('PTTL', KEYS[2])
return {value, left_ms, last_id(), string.format('%.0f', time_ms())}
)lua";

constexpr std::string_view kWrite = R"lua(
local key, letter, value, ttl_ms = KEYS[2], ARGV[6], ARGV[7], ARGV[8]
if letter ~= 'd' then
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= 'string' then
    return redis.error_reply('WRONGTYPE the key holds a ' .. kind .. ', not a string')
  end
end
append(letter, 'k', key)
local expires = ''
if letter == 'd' then
  redis.call('DEL', key)
elseif ttl_ms == '0' then
  redis.call('SET', key, value)
else
  expires = string.format('%.0f', time_ms() + ttl_ms)
  redis.call('SET', key, value, 'PX', ttl_ms)
end
return publish(expires)
)lua";

constexpr std::string_view kDeleteMany = R"lua(
local named = {}
for i = 2, #KEYS do
  named[#named + 1] = 'k'
  named[#named + 1] = KEYS[i]
end
append('m', unpack(named))
redis.call('DEL', unpack(KEYS, 2))
return publish('')
)lua";

constexpr std::string_view kClear = R"lua(
append('c', 'k', ARGV[6])
return publish('')
)lua";

// Appended before, so that a refusal (ACL, memory) comes while nothing is lost; and again after,
// because the log itself went with the rest.
constexpr std::string_view kClearDatabase = R"lua(
append('c', 'k', '')
redis.call('FLUSHDB')
append('c', 'k', '')
return publish('')
)lua";

constexpr std::string_view kLogEnd = R"lua(
return {last_id(), string.format('%.0f', time_ms())}
)lua";

constexpr std::string_view kLogPage = R"lua(
local rows = redis.call('XRANGE', log, ARGV[1], '+', 'COUNT', ARGV[2])
return {last_id(), rows, string.format('%.0f', time_ms())}
)lua";

Script make_script(std::string text) {
  std::string sha1 = sha1_hex(text);
  return {std::move(text), std::move(sha1)};
}

Script read_script(std::string_view body) {
  return make_script(std::string(kPrelude).append(body));
}

Script change_script(std::string_view body) {
  return make_script(std::string(kPrelude).append(kChangePrelude).append(body));
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

// Made when the library is loaded, not at first use: the guard of a static in a function would be
// locked for ever in a child whose parent was just making it on another thread.
const Script kFillScript = read_script(kFill);
const Script kWriteScript = change_script(kWrite);
const Script kDeleteManyScript = change_script(kDeleteMany);
const Script kClearScript = change_script(kClear);
const Script kClearDatabaseScript = change_script(kClearDatabase);
const Script kLogEndScript = read_script(kLogEnd);
const Script kLogPageScript = read_script(kLogPage);

}  // namespace

const Script& fill_script() { return kFillScript; }
const Script& write_script() { return kWriteScript; }
const Script& delete_many_script() { return kDeleteManyScript; }
const Script& clear_script() { return kClearScript; }
const Script& clear_database_script() { return kClearDatabaseScript; }
const Script& log_end_script() { return kLogEndScript; }
const Script& log_page_script() { return kLogPageScript; }

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
