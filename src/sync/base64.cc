#include "src/sync/base64.h"

#include <array>
#include <cstdint>

namespace larder::sync {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint8_t kNotInAlphabet = 0xff;

consteval std::array<std::uint8_t, 256> make_sextets() {
  std::array<std::uint8_t, 256> sextets{};
  sextets.fill(kNotInAlphabet);
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
    sextets[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  }
  return sextets;
}
constexpr auto kSextets = make_sextets();

constexpr bool is_line_end(char c) { return c == '\n' || c == '\r'; }

// Decodes whole groups from the front, until there is one with padding or a line end in it, or that
// is none. How many.
std::size_t decode_groups(std::string_view text, char* out) {
  const auto sextet = [text](std::size_t i) -> std::uint32_t {
    return kSextets[static_cast<unsigned char>(text[i])];
  };
  std::size_t groups = 0;
  for (; groups < text.size() / 4; ++groups) {
    const std::size_t at = groups * 4;
    const std::uint32_t a = sextet(at), b = sextet(at + 1), c = sextet(at + 2), d = sextet(at + 3);
    if ((a | b | c | d) > 63) break;
    const std::uint32_t group = a << 18 | b << 12 | c << 6 | d;
    *out++ = static_cast<char>(group >> 16);
    *out++ = static_cast<char>(group >> 8 & 0xff);
    *out++ = static_cast<char>(group & 0xff);
  }
  return groups;
}

std::uint32_t byte_at(std::string_view bytes, std::size_t i) {
  return static_cast<unsigned char>(bytes[i]);
}

// The 24 bits of a group as four characters, the last `padding` of them '='.
void append_group(std::string& out, std::uint32_t group, int padding) {
  for (int i = 0; i < 4; ++i) {
    out += i < 4 - padding ? kAlphabet[group >> (18 - 6 * i) & 63] : '=';
  }
}

}  // namespace

void append_base64(std::string& out, std::string_view bytes) {
  out.reserve(out.size() + (bytes.size() + 2) / 3 * 4);
  std::size_t i = 0;
  for (; i + 3 <= bytes.size(); i += 3) {
    append_group(out, byte_at(bytes, i) << 16 | byte_at(bytes, i + 1) << 8 | byte_at(bytes, i + 2),
                 0);
  }
  const std::size_t rest = bytes.size() - i;
  if (rest == 1) append_group(out, byte_at(bytes, i) << 16, 2);
  if (rest == 2) append_group(out, byte_at(bytes, i) << 16 | byte_at(bytes, i + 1) << 8, 1);
}

bool decode_base64(std::string_view text, std::string& out) {
  out.resize(text.size() / 4 * 3);
  const std::size_t groups = decode_groups(text, out.data());
  out.resize(groups * 3);
  text.remove_prefix(groups * 4);

  std::uint32_t group = 0;
  int filled = 0;   // characters of the group seen, padding included
  int padding = 0;  // '=' among them
  for (const char c : text) {
    if (is_line_end(c)) continue;
    if (padding > 0 && filled == 0) return false;  // text after the padded group
    if (c == '=') {
      if (filled < 2) return false;
      ++padding;
      group <<= 6;
    } else {
      const std::uint8_t sextet = kSextets[static_cast<unsigned char>(c)];
      if (padding > 0 || sextet == kNotInAlphabet) return false;
      group = group << 6 | sextet;
    }
    if (++filled < 4) continue;
    for (int i = 0; i < 3 - padding; ++i) out += static_cast<char>(group >> (16 - 8 * i) & 0xff);
    group = 0;
    filled = 0;
  }
  return filled == 0;
}

std::optional<std::string> decode_base64(std::string_view text) {
  std::string out;
  if (!decode_base64(text, out)) return std::nullopt;
  return out;
}

}  // namespace larder::sync
