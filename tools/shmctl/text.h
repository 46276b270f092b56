// Bytes and numbers as people and JSON read them. Keys and values are other people's bytes: nothing
// here passes a control character on to a terminal.
//
// Pure functions, no state.
#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace larder::tools {

using Json = nlohmann::ordered_json;

bool is_utf8(std::string_view bytes) noexcept;
// Printable characters as they are; backslash, control and invisible characters and bytes that are
// not UTF-8 as \\ or \xNN.
std::string escape(std::string_view bytes);
std::string base64(std::string_view bytes);
// As a JSON string: UTF-8 as it is, anything else escaped.
Json json_text(std::string_view bytes);

std::string format_bytes(std::uint64_t bytes);                         // "64.0 MiB"
std::string format_duration(std::uint64_t ms);                         // "3 h 12 min"
std::string format_share(std::uint64_t part, std::uint64_t whole);     // "12.5 %"
std::string format_count(std::uint64_t count, std::string_view noun);  // "1 entry", "2 entries"
std::string format_hex(std::uint64_t word);                            // 16 digits

// "name  value" lines, names padded to one width. An empty name continues the line before.
class Facts {
 public:
  void add(std::string name, std::string value);
  void print(std::FILE* to) const;

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
};

// A table: numbers to the right, text to the left, the last column as long as it likes.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void print(std::FILE* to) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace larder::tools
