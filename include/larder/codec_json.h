// Values as JSON text, through nlohmann-json (3.11). A type of yours needs `to_json` and
// `from_json`, or NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE.
//
//   larder::Typed<Post, larder::JsonCodec<Post>> posts(cache);
//
// Nothing is changed on the way without a word: NaN and infinities, text that is not UTF-8 and
// nesting beyond kCodecMaxDepth are refused, not replaced. Integers are exact over the whole range
// of 64 bits. Numbers, and containers of them, decode only from numbers that fit: 3.7 or 300 is
// not an int8_t. (Inside a type of yours its own `from_json` decides.)
//
// Threads, errors: see larder/codec.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <ranges>
#include <string>
#include <string_view>
#include <type_traits>

#include "larder/codec.h"

namespace larder {
namespace detail {

// What JSON text cannot hold, or null. nlohmann-json would write NaN as `null`, and recurses
// without a bound.
inline const char* json_obstacle(const nlohmann::json& value, std::size_t depth = 0) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    return "JSON has no NaN and no infinity";
  }
  if (!value.is_structured()) return nullptr;
  if (depth == kCodecMaxDepth) return "arrays and objects nest deeper than 100";
  for (const auto& each : value) {
    if (const char* found = json_obstacle(each, depth + 1)) return found;
  }
  return nullptr;
}

// Whether the text nests deeper than allowed. Exact up to the first syntax error, where the parser
// stops anyway.
inline bool json_too_deep(std::string_view text) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kCodecMaxDepth) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

template <class Int>
bool json_integer_fits(const nlohmann::json& value) {
  using Limits = std::numeric_limits<Int>;
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() || value.get<std::int64_t>() >= 0) {
    return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(Limits::max());
  }
  return value.get<std::int64_t>() >= static_cast<std::int64_t>(Limits::min());
}

// nlohmann-json casts numbers without a check, so that 300 would arrive as an int8_t of 44.
template <class T>
bool json_numbers_fit(const nlohmann::json& value) {
  const auto all_fit = [&]<class Element>(std::type_identity<Element>) {
    for (const auto& each : value) {
      if (!json_numbers_fit<Element>(each)) return false;
    }
    return true;
  };
  if constexpr (std::is_same_v<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::is_integral_v<T>) {
    return json_integer_fits<T>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return value.is_number() &&
           std::abs(value.get<double>()) <= static_cast<double>(std::numeric_limits<T>::max());
  } else if constexpr (requires { typename T::mapped_type; }) {
    return !value.is_object() || all_fit(std::type_identity<typename T::mapped_type>{});
  } else if constexpr (std::ranges::range<T> && requires { typename T::value_type; }) {
    // A type that holds itself (JSON, a path) has no numbers to check.
    if constexpr (std::is_same_v<typename T::value_type, T>)
      return true;
    else
      return !value.is_array() || all_fit(std::type_identity<typename T::value_type>{});
  }
  return true;
}

}  // namespace detail

template <class T>
struct JsonCodec {
  static constexpr std::string_view kName = "json";

  static Result<std::string> encode(const T& value) {
    constexpr Code kCode = Code::kInvalidArgument;
    return detail::codec_guard(kCode, kName, detail::kEncodeFailed, [&]() -> Result<std::string> {
      const nlohmann::json& json = value;  // converts, or refers when T is JSON itself
      if (const char* obstacle = detail::json_obstacle(json)) {
        return detail::codec_error(kCode, kName, detail::kEncodeFailed, obstacle);
      }
      return json.dump();  // strict: throws on text that is not UTF-8
    });
  }

  static Result<T> decode(std::string_view bytes) {
    constexpr Code kCode = Code::kCorrupt;
    return detail::codec_guard(kCode, kName, detail::kDecodeFailed, [&]() -> Result<T> {
      if (detail::json_too_deep(bytes)) {
        return detail::codec_error(kCode, kName, detail::kDecodeFailed,
                                   "arrays and objects nest deeper than 100");
      }
      const auto json = nlohmann::json::parse(bytes);
      if (!detail::json_numbers_fit<T>(json)) {
        return detail::codec_error(kCode, kName, detail::kDecodeFailed,
                                   "a number does not fit the type");
      }
      return json.get<T>();
    });
  }
};

}  // namespace larder
