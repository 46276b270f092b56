#include "src/sync/json.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace larder::sync {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD
constexpr std::string_view kHex = "0123456789abcdef";

unsigned byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

bool is_continuation(std::string_view text, std::size_t i) {
  return i < text.size() && (byte_at(text, i) & 0xc0) == 0x80;
}

// Bytes of the UTF-8 sequence at `at`: 1 to 4, or 0 where there is none. Overlong forms,
// surrogates and code points above U+10FFFF are none.
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const unsigned lead = byte_at(text, at);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4 || !is_continuation(text, at + 1)) return 0;
  if (lead < 0xe0) return 2;
  const unsigned second = byte_at(text, at + 1);
  if (!is_continuation(text, at + 2)) return 0;
  if (lead < 0xf0) {
    const bool overlong = lead == 0xe0 && second < 0xa0;
    const bool surrogate = lead == 0xed && second > 0x9f;
    return overlong || surrogate ? 0 : 3;
  }
  const bool overlong = lead == 0xf0 && second < 0x90;
  const bool too_high = lead == 0xf4 && second > 0x8f;
  return overlong || too_high || !is_continuation(text, at + 3) ? 0 : 4;
}

void append_utf8(std::string& out, unsigned code_point) {
  const auto put = [&out](unsigned byte) { out += static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | code_point >> 6);
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3f));
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

void append_escaped_byte(std::string& out, unsigned byte) {
  out += "\\u00";
  out += kHex[byte >> 4];
  out += kHex[byte & 15];
}

// The letter of a short escape, or 0.
char short_escape(unsigned byte) {
  switch (byte) {
    case '"':
    case '\\':
      return static_cast<char>(byte);
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    default:
      return 0;
  }
}

void append_ascii(std::string& out, char c) {
  const unsigned byte = static_cast<unsigned char>(c);
  if (const char letter = short_escape(byte)) {
    out += '\\';
    out += letter;
  } else if (byte < 0x20 || c == '<' || c == '>' || c == '&') {
    append_escaped_byte(out, byte);
  } else {
    out += c;
  }
}

// How many characters from the front stand for themselves in a JSON string: ASCII, but no control
// character, quote or backslash. Eight at a time: each test leaves the high bit of a byte that it
// finds, and perhaps of one behind it, so the first is right.
std::size_t plain_run(std::string_view text) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  constexpr std::uint64_t kHighs = kOnes * 0x80;
  const auto below = [](std::uint64_t word, std::uint64_t bound) {
    return (word - kOnes * bound) & ~word;
  };
  std::size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    const std::uint64_t special =
        (word | below(word, 0x20) | below(word ^ kOnes * '"', 1) | below(word ^ kOnes * '\\', 1)) &
        kHighs;
    if (special == 0) continue;
    if constexpr (std::endian::native == std::endian::little) {
      return at + static_cast<std::size_t>(std::countr_zero(special)) / 8;
    }
    break;
  }
  for (; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x20 || byte >= 0x80 || byte == '"' || byte == '\\') break;
  }
  return at;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_surrogate(unsigned unit) { return unit >= 0xd800 && unit < 0xe000; }

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    const std::string_view sequence = text.substr(i, length);
    if (length == 0) {
      out += "\\ufffd";
    } else if (length == 1) {
      append_ascii(out, text[i]);
    } else if (sequence == "\xe2\x80\xa8") {
      out += "\\u2028";
    } else if (sequence == "\xe2\x80\xa9") {
      out += "\\u2029";
    } else {
      out += sequence;
    }
    i += length == 0 ? 1 : length;
  }
  out += '"';
}

// ---- reading ----------------------------------------------------------------------------------

void JsonReader::skip_space() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
}

bool JsonReader::take(char c) {
  if (at_ >= text_.size() || text_[at_] != c) return false;
  ++at_;
  return true;
}

bool JsonReader::take_word(std::string_view word) {
  if (!text_.substr(at_).starts_with(word)) return false;
  at_ += word.size();
  return true;
}

JsonReader::Kind JsonReader::next_kind() {
  skip_space();
  if (at_ >= text_.size()) return Kind::kNone;
  const char c = text_[at_];
  if (c == '-' || is_digit(c)) return Kind::kNumber;
  switch (c) {
    case '{':
      return Kind::kObject;
    case '[':
      return Kind::kArray;
    case '"':
      return Kind::kString;
    case 't':
    case 'f':
      return Kind::kBool;
    case 'n':
      return Kind::kNull;
    default:
      return Kind::kNone;
  }
}

bool JsonReader::read_string(std::string& out) {
  out.clear();
  skip_space();
  return scan_string(&out);
}

bool JsonReader::read_string(std::string& storage, std::string_view& out) {
  skip_space();
  const std::string_view rest = text_.substr(std::min(at_ + 1, text_.size()));
  const std::size_t plain = plain_run(rest);
  if (plain == rest.size() || rest[plain] != '"' || text_[at_] != '"') {
    if (!read_string(storage)) return false;
    out = storage;
    return true;
  }
  out = rest.substr(0, plain);
  at_ += plain + 2;
  return true;
}

// Into `out` when it is given; over it otherwise.
bool JsonReader::scan_string(std::string* out) {
  if (!take('"')) return false;
  for (;;) {
    const std::size_t plain = plain_run(text_.substr(at_));
    if (out != nullptr) out->append(text_, at_, plain);
    at_ += plain;
    if (at_ >= text_.size()) return false;
    const char c = text_[at_];
    if (c == '"') return take('"');
    if (static_cast<unsigned char>(c) < 0x20) return false;
    if (c == '\\') {
      ++at_;
      if (!scan_escape(out)) return false;
      continue;
    }
    const std::size_t length = utf8_length(text_, at_);
    if (out != nullptr) out->append(length == 0 ? kReplacement : text_.substr(at_, length));
    at_ += length == 0 ? 1 : length;
  }
}

bool JsonReader::scan_hex4(unsigned& unit) {
  if (text_.size() - at_ < 4) return false;
  unit = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = text_[at_ + i];
    const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
    const std::size_t digit = kHex.find(lower);
    if (digit == std::string_view::npos) return false;
    unit = unit << 4 | static_cast<unsigned>(digit);
  }
  at_ += 4;
  return true;
}

// What follows a backslash. A surrogate without its partner becomes U+FFFD, and the escape after
// it is read on its own.
bool JsonReader::scan_escape(std::string* out) {
  if (at_ >= text_.size()) return false;
  const char letter = text_[at_++];
  unsigned code_point = 0;
  switch (letter) {
    case '"':
    case '\\':
    case '/':
      code_point = static_cast<unsigned char>(letter);
      break;
    case 'b':
      code_point = '\b';
      break;
    case 'f':
      code_point = '\f';
      break;
    case 'n':
      code_point = '\n';
      break;
    case 'r':
      code_point = '\r';
      break;
    case 't':
      code_point = '\t';
      break;
    case 'u': {
      if (!scan_hex4(code_point)) return false;
      if (!is_surrogate(code_point)) break;
      const unsigned high = code_point;
      code_point = 0xfffd;
      const std::size_t back = at_;
      unsigned low = 0;
      if (take_word("\\u") && scan_hex4(low) && high < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
        code_point = 0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00));
      } else {
        at_ = back;
      }
      break;
    }
    default:
      return false;
  }
  if (out != nullptr) append_utf8(*out, code_point);
  return true;
}

bool JsonReader::scan_digits() {
  const std::size_t begin = at_;
  while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  return at_ > begin;
}

bool JsonReader::read_number(std::string_view& out) {
  skip_space();
  const std::size_t begin = at_;
  take('-');
  if (!take('0') && !scan_digits()) return false;
  if (take('.') && !scan_digits()) return false;
  if (take('e') || take('E')) {
    if (!take('+')) take('-');
    if (!scan_digits()) return false;
  }
  out = text_.substr(begin, at_ - begin);
  return true;
}

bool JsonReader::open(char opening, char closing, bool& done) {
  skip_space();
  if (!take(opening)) return false;
  skip_space();
  done = take(closing);
  return true;
}

bool JsonReader::next(char closing, bool& done) {
  skip_space();
  done = take(closing);
  return done || take(',');
}

bool JsonReader::open_object(bool& done) { return open('{', '}', done); }
bool JsonReader::open_array(bool& done) { return open('[', ']', done); }
bool JsonReader::next_member(bool& done) { return next('}', done); }
bool JsonReader::next_element(bool& done) { return next(']', done); }

bool JsonReader::read_name(std::string& name) {
  if (!read_string(name)) return false;
  skip_space();
  return take(':');
}

bool JsonReader::skip_scalar() {
  std::string_view number;
  switch (next_kind()) {
    case Kind::kString:
      return scan_string(nullptr);
    case Kind::kNumber:
      return read_number(number);
    case Kind::kBool:
      return take_word("true") || take_word("false");
    case Kind::kNull:
      return take_word("null");
    default:
      return false;
  }
}

bool JsonReader::skip_value() {
  const Kind kind = next_kind();
  if (kind != Kind::kObject && kind != Kind::kArray) return skip_scalar();
  std::vector<char> closers;  // of the objects and arrays entered and not yet left
  do {
    if (!skip_nested(closers)) return false;
  } while (!closers.empty());
  return true;
}

// One step: a scalar, or the opening of an object or array, and then every closing and the comma
// that follow it. Keeps `closers` instead of calling itself.
bool JsonReader::skip_nested(std::vector<char>& closers) {
  const Kind kind = next_kind();
  bool closed = true;
  if (kind == Kind::kObject || kind == Kind::kArray) {
    closers.push_back(kind == Kind::kObject ? '}' : ']');
    if (closers.size() >= kDepthMax) return false;
    if (!open(kind == Kind::kObject ? '{' : '[', closers.back(), closed)) return false;
    if (closed) closers.pop_back();
  } else if (!skip_scalar()) {
    return false;
  }
  while (closed && !closers.empty()) {
    if (!next(closers.back(), closed)) return false;
    if (closed) closers.pop_back();
  }
  if (closers.empty() || closers.back() == ']') return true;
  skip_space();
  if (!scan_string(nullptr)) return false;
  skip_space();
  return take(':');
}

bool JsonReader::at_end() {
  skip_space();
  return at_ == text_.size();
}

}  // namespace larder::sync
