// Values as MessagePack, through msgpack-c for C++ (4.1). A type of yours needs
// MSGPACK_DEFINE or an adaptor.
//
//   larder::Typed<Post, larder::MsgpackCodec<Post>> posts(cache);
//
// NaN, any bytes in a string and integers of 64 bits come back exactly; an integer that does not
// fit the type, and a float where an integer is wanted, are refused.
//
// Bytes are walked once before anything is allocated: a header that announces more elements than
// there are bytes, nesting beyond kCodecMaxDepth and bytes after the value are refused, so memory
// stays within about 24 times the value's size.
//
// Threads, errors: see larder/codec.h.
#pragma once

#include <msgpack.hpp>
#include <string>
#include <string_view>
#include <type_traits>

#include "larder/codec.h"

namespace larder {
namespace detail {

struct MsgpackDepth : msgpack::null_visitor {
  std::size_t depth = 0;
  bool too_deep = false;

  bool enter() {
    too_deep = ++depth > kCodecMaxDepth;
    return !too_deep;
  }
  bool leave() {
    --depth;
    return true;
  }
  bool start_array(std::uint32_t) { return enter(); }
  bool start_map(std::uint32_t) { return enter(); }
  bool end_array() { return leave(); }
  bool end_map() { return leave(); }
};

// Why the bytes are not exactly one value within the limits, or null.
inline const char* msgpack_obstacle(std::string_view bytes) {
  MsgpackDepth visitor;
  std::size_t offset = 0;
  const bool complete = msgpack::parse(bytes.data(), bytes.size(), offset, visitor);
  if (visitor.too_deep) return "arrays and maps nest deeper than 100";
  if (!complete) return "they are cut short or malformed";
  if (offset != bytes.size()) return "more bytes follow the value";
  return nullptr;
}

}  // namespace detail

template <class T>
struct MsgpackCodec {
  static_assert(!std::is_same_v<T, std::string_view> && !std::is_same_v<T, msgpack::object>,
                "the decoded value must own its bytes");
  static constexpr std::string_view kName = "msgpack";

  static Result<std::string> encode(const T& value) {
    return detail::codec_guard(Code::kInvalidArgument, kName, detail::kEncodeFailed,
                               [&]() -> Result<std::string> {
                                 msgpack::sbuffer buffer;
                                 msgpack::pack(buffer, value);
                                 return std::string(buffer.data(), buffer.size());
                               });
  }

  static Result<T> decode(std::string_view bytes) {
    constexpr Code kCode = Code::kCorrupt;
    return detail::codec_guard(kCode, kName, detail::kDecodeFailed, [&]() -> Result<T> {
      if (const char* obstacle = detail::msgpack_obstacle(bytes)) {
        return detail::codec_error(kCode, kName, detail::kDecodeFailed, obstacle);
      }
      // Strings are not copied twice: the object refers to `bytes`, the value then owns its copy.
      const auto refer = [](msgpack::type::object_type, std::size_t, void*) { return true; };
      const auto size = bytes.size();
      const msgpack::unpack_limit limit(size, size, size, size, size, kCodecMaxDepth);
      const auto handle = msgpack::unpack(bytes.data(), size, refer, nullptr, limit);
      return handle.get().template as<T>();
    });
  }
};

}  // namespace larder
