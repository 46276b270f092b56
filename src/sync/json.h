// JSON as Go's encoding/json writes and reads it, so that larder and Go peers agree on every byte
// of an event. A general JSON library differs where it matters here: it refuses the invalid UTF-8,
// the lone surrogates and the huge numbers in unknown fields that Go accepts, and ends at a NUL.
//
// Threads: values, no sharing. Errors: by return; nothing is thrown but std::bad_alloc.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace larder::sync {

// True when Go would write `text` unchanged, escapes apart.
bool is_utf8(std::string_view text) noexcept;

// Appends `text` in quotes: < > & and U+2028, U+2029 escaped, 0x7f raw, each byte that is not
// UTF-8 as \ufffd.
void append_json_string(std::string& out, std::string_view text);

// Reads one JSON text from front to back, without recursion.
//
// Each method that returns bool says false when the text is not JSON, or not of the kind asked
// for; the reader is then of no further use.
class JsonReader {
 public:
  enum class Kind { kObject, kArray, kString, kNumber, kBool, kNull, kNone };
  // Go's own bound; objects and arrays within each other.
  static constexpr std::size_t kDepthMax = 10'000;

  explicit JsonReader(std::string_view text) : text_(text) {}

  // What the next value is, judged by its first character; kNone at the end or at no value.
  Kind next_kind();

  // Reads a string into `out`: escapes resolved, bytes that are not UTF-8 replaced by U+FFFD.
  bool read_string(std::string& out);
  // The same without a copy where the string stands for itself; else by way of `storage`.
  bool read_string(std::string& storage, std::string_view& out);
  // The characters of a number.
  bool read_number(std::string_view& out);
  // Any value of any depth.
  bool skip_value();

  // Walks an object: `open` once, then for each member `next_member` and one value. `done` is set
  // when the closing brace was read.
  bool open_object(bool& done);
  bool read_name(std::string& name);
  bool next_member(bool& done);
  // The same for an array's elements.
  bool open_array(bool& done);
  bool next_element(bool& done);

  // Nothing but white space is left.
  bool at_end();

 private:
  void skip_space();
  bool take(char c);
  bool take_word(std::string_view word);
  bool open(char opening, char closing, bool& done);
  bool next(char closing, bool& done);
  bool scan_string(std::string* out);
  bool scan_escape(std::string* out);
  bool scan_hex4(unsigned& unit);
  bool scan_digits();
  bool skip_scalar();
  bool skip_nested(std::vector<char>& closers);

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace larder::sync
