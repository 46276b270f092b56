#include "tools/shmctl/text.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace larder::tools {
namespace {

// The character that starts at `at`, which moves past it; nothing, and no move, where the bytes are
// not UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
std::optional<char32_t> next_character(std::string_view bytes, std::size_t& at) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) {
    ++at;
    return first;
  }
  if (first < 0xc2 || first > 0xf4) return std::nullopt;
  const std::size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (bytes.size() - at < length) return std::nullopt;
  char32_t character = first & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return std::nullopt;
    character = character << 6 | (byte(at + i) & 0x3fu);
  }
  constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (character < kLeast[length] || character > 0x10ffff) return std::nullopt;
  if (character >= 0xd800 && character <= 0xdfff) return std::nullopt;
  at += length;
  return character;
}

// Shows as itself and leaves its neighbours alone: no control characters, no marks that reorder or
// hide text, no private use.
bool is_plain(char32_t c) noexcept {
  if (c < 0x20 || (c >= 0x7f && c < 0xa0)) return false;
  if (c == 0xad || c == 0x61c || c == 0xfeff) return false;
  if (c >= 0x200b && c <= 0x200f) return false;
  if (c >= 0x2028 && c <= 0x202e) return false;
  if (c >= 0x2060 && c <= 0x206f) return false;
  if (c >= 0xe000 && c <= 0xf8ff) return false;
  return c < 0xe0000;
}

}  // namespace

bool is_utf8(std::string_view bytes) noexcept {
  for (std::size_t at = 0; at < bytes.size();) {
    if (!next_character(bytes, at)) return false;
  }
  return true;
}

std::string escape(std::string_view bytes) {
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t start = at;
    const auto character = next_character(bytes, at);
    if (!character) ++at;
    if (character == U'\\') {
      out += "\\\\";
    } else if (character && is_plain(*character)) {
      out += bytes.substr(start, at - start);
    } else {
      for (std::size_t i = start; i < at; ++i) {
        char text[5];
        std::snprintf(text, sizeof text, "\\x%02x", static_cast<unsigned char>(bytes[i]));
        out += text;
      }
    }
  }
  return out;
}

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t left = std::min<std::size_t>(3, bytes.size() - at);
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      group = group << 8 | (i < left ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      out += i <= left ? kDigits[group >> (18 - 6 * i) & 63] : '=';
    }
  }
  return out;
}

Json json_text(std::string_view bytes) {
  return is_utf8(bytes) ? std::string(bytes) : escape(bytes);
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double amount = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; amount >= 1023.95 && unit + 1 < std::size(kUnits); ++unit) amount /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", amount, kUnits[unit]);
  return text;
}

std::string format_duration(std::uint64_t ms) {
  if (ms < 1000) return std::to_string(ms) + " ms";
  struct Unit {
    std::uint64_t ms;
    const char* name;
  };
  constexpr Unit kUnits[] = {{86'400'000, "d"}, {3'600'000, "h"}, {60'000, "min"}, {1000, "s"}};
  for (std::size_t i = 0; i < std::size(kUnits); ++i) {
    if (ms < kUnits[i].ms) continue;
    std::string text = std::to_string(ms / kUnits[i].ms) + " " + kUnits[i].name;
    if (i + 1 == std::size(kUnits)) return text;
    const std::uint64_t rest = ms % kUnits[i].ms / kUnits[i + 1].ms;
    if (rest != 0) text += " " + std::to_string(rest) + " " + kUnits[i + 1].name;
    return text;
  }
  return {};
}

std::string format_share(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%",
                100 * static_cast<double>(part) / static_cast<double>(whole));
  return text;
}

std::string format_count(std::uint64_t count, std::string_view noun) {
  std::string text = std::to_string(count) + " ";
  if (count == 1) return text.append(noun);
  if (noun.ends_with('y')) return text.append(noun.substr(0, noun.size() - 1)).append("ies");
  return text.append(noun).append(noun.ends_with('s') ? "es" : "s");
}

std::string format_hex(std::uint64_t word) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(word));
  return text;
}

void Facts::add(std::string name, std::string value) {
  lines_.emplace_back(std::move(name), std::move(value));
}

void Facts::print(std::FILE* to) const {
  std::size_t width = 0;
  for (const auto& [name, value] : lines_) width = std::max(width, name.size());
  for (const auto& [name, value] : lines_) {
    std::fprintf(to, "%-*s  %s\n", static_cast<int>(width), name.c_str(), value.c_str());
  }
}

void Table::print(std::FILE* to) const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.title.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  const auto print_row = [&](const auto& text_of) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& text = text_of(i);
      const std::string padding(widths[i] - text.size(), ' ');
      if (i != 0) line += "  ";
      line += columns_[i].align == Align::kRight ? padding + text : text + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    std::fprintf(to, "%s\n", line.c_str());
  };
  print_row([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) {
    print_row([&](std::size_t i) -> const std::string& { return row[i]; });
  }
}

}  // namespace larder::tools
