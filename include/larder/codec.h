// Codecs: how a typed value becomes the bytes that are kept, and the other way round.
//
// The cache knows only bytes. A codec is a type with two static functions and a name; `RawCodec`
// here leaves bytes as they are, `JsonCodec` and `MsgpackCodec` have headers of their own, because
// they need their libraries. Write your own by having these three:
//
//   struct PostCodec {
//     static constexpr std::string_view kName = "post";
//     static larder::Result<std::string> encode(const Post& post);
//     static larder::Result<Post> decode(std::string_view bytes);
//   };
//
// Threads: no state. Errors: `encode` kInvalidArgument for a value that the format cannot hold,
// `decode` kCorrupt for bytes that are not such a value; both name the codec and the reason. No
// exception leaves a codec. Bytes may come from any peer: a codec must survive all of them.
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "larder/status.h"

namespace larder {

// C turns values of type T into bytes and back.
template <class C, class T>
concept Codec = requires(const T& value, std::string_view bytes) {
  { C::kName } -> std::convertible_to<std::string_view>;
  { C::encode(value) } -> std::same_as<Result<std::string>>;
  { C::decode(bytes) } -> std::same_as<Result<T>>;
};

// How deep arrays and maps may nest in a value. Recursion over one stays far below any stack.
inline constexpr std::size_t kCodecMaxDepth = 100;

// The bytes themselves: std::string, std::vector<std::byte> and other containers of bytes.
template <class T = std::string>
requires(sizeof(typename T::value_type) == 1) struct RawCodec {
  static constexpr std::string_view kName = "raw";

  static Result<std::string> encode(const T& value) {
    return std::string(reinterpret_cast<const char*>(value.data()), value.size());
  }

  static Result<T> decode(std::string_view bytes) {
    const auto* first = reinterpret_cast<const typename T::value_type*>(bytes.data());
    return T(first, first + bytes.size());
  }
};

namespace detail {

inline Status codec_error(Code code, std::string_view codec, std::string_view what,
                          std::string_view reason) {
  std::string message(codec);
  message.append(" codec: ").append(what).append(": ").append(reason);
  return {code, std::move(message)};
}

// A library's exception, or one of the type's own conversion, ends here.
template <class Work>
auto codec_guard(Code code, std::string_view codec, std::string_view what, Work work)
    -> decltype(work()) {
  try {
    return work();
  } catch (const std::exception& error) {
    return codec_error(code, codec, what, error.what());
  } catch (...) {
    return codec_error(code, codec, what, "an exception that is not a std::exception");
  }
}

inline constexpr std::string_view kEncodeFailed = "the value cannot be encoded";
inline constexpr std::string_view kDecodeFailed = "the bytes are not such a value";

}  // namespace detail

}  // namespace larder
