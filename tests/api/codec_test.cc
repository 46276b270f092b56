// Codecs and the typed view: what goes in comes back, and bytes from strangers do no harm.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "larder/codec.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "larder/codec_json.h"
#include "larder/codec_msgpack.h"

namespace {

using larder::Code;
using larder::JsonCodec;
using larder::MsgpackCodec;
using larder::RawCodec;

struct Post {
  std::int64_t id = 0;
  std::string title;
  std::vector<std::string> tags;
  double score = 0;
  bool operator==(const Post&) const = default;
  MSGPACK_DEFINE(id, title, tags, score)
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Post, id, title, tags, score)

struct Thrower {};
void to_json(nlohmann::json&, const Thrower&) { throw 42; }
void from_json(const nlohmann::json&, Thrower&) { throw std::runtime_error("from_json's own"); }

static_assert(larder::Codec<RawCodec<>, std::string>);
static_assert(larder::Codec<RawCodec<std::vector<std::byte>>, std::vector<std::byte>>);
static_assert(larder::Codec<JsonCodec<Post>, Post>);
static_assert(larder::Codec<MsgpackCodec<Post>, Post>);
static_assert(!larder::Codec<RawCodec<>, Post>);

template <template <class> class C, class T>
void check_round_trip(const T& value) {
  const auto bytes = C<T>::encode(value);
  REQUIRE_MESSAGE(bytes.ok(), bytes.status().to_string());
  const auto back = C<T>::decode(*bytes);
  REQUIRE_MESSAGE(back.ok(), back.status().to_string());
  CHECK(*back == value);
}

template <class T>
void check_both(const T& value) {
  check_round_trip<JsonCodec>(value);
  check_round_trip<MsgpackCodec>(value);
}

template <class C>
void check_refused(std::string_view bytes, std::string_view reason) {
  const auto got = C::decode(bytes);
  REQUIRE(!got.ok());
  CHECK(got.code() == Code::kCorrupt);
  CHECK(got.status().message().starts_with(std::string(C::kName) + " codec: "));
  CHECK_MESSAGE(got.status().message().find(reason) != std::string::npos, got.status().message());
}

std::string repeated(std::string_view text, std::size_t times) {
  std::string all;
  for (std::size_t i = 0; i < times; ++i) all += text;
  return all;
}

}  // namespace

TEST_CASE("raw bytes come back as they were, empty and binary ones too") {
  const std::string binary("\0\xff{\n", 4);
  for (const std::string& value : {std::string(), std::string("Ada"), binary}) {
    check_round_trip<RawCodec>(value);
  }
  check_round_trip<RawCodec>(std::vector<std::byte>{std::byte{0}, std::byte{0xff}});
  check_round_trip<RawCodec>(std::vector<std::byte>{});
}

TEST_CASE("a struct comes back equal through JSON and MessagePack") {
  check_both(Post{7, "Grüße", {"a", ""}, 0.1});
  check_both(Post{});
}

TEST_CASE("empty values are values") {
  check_both(std::string());
  check_both(std::vector<int>());
  check_both(std::map<std::string, int>());
}

TEST_CASE("integers are exact beyond 2^53") {
  constexpr std::int64_t kBeyond = (std::int64_t{1} << 53) + 1;
  for (const std::int64_t value : {kBeyond, -kBeyond, std::numeric_limits<std::int64_t>::max(),
                                   std::numeric_limits<std::int64_t>::min()}) {
    check_both(value);
    check_both(Post{value, "", {}, 0});
  }
  check_both(std::numeric_limits<std::uint64_t>::max());
}

TEST_CASE("doubles come back bit by bit") {
  for (const double value : {0.1, -0.0, 5e-324, std::numeric_limits<double>::max(), 1.0}) {
    check_both(value);
  }
  CHECK(std::signbit(*JsonCodec<double>::decode(*JsonCodec<double>::encode(-0.0))));
  check_both(0.1f);
}

TEST_CASE("JSON refuses NaN and infinities, wherever they are, instead of writing null") {
  const double nan = std::nan("");
  CHECK(JsonCodec<double>::encode(nan).code() == Code::kInvalidArgument);
  CHECK(JsonCodec<float>::encode(std::numeric_limits<float>::infinity()).code() ==
        Code::kInvalidArgument);
  const auto nested = JsonCodec<Post>::encode(Post{1, "", {}, nan});
  CHECK(nested.code() == Code::kInvalidArgument);
  CHECK(nested.status().message().find("no NaN") != std::string::npos);
}

TEST_CASE("MessagePack keeps NaN and infinities") {
  const auto bytes = MsgpackCodec<double>::encode(std::nan(""));
  REQUIRE(bytes.ok());
  CHECK(std::isnan(*MsgpackCodec<double>::decode(*bytes)));
  check_round_trip<MsgpackCodec>(std::numeric_limits<double>::infinity());
}

TEST_CASE("text that is not UTF-8 is refused by JSON and kept by MessagePack") {
  const std::string bad = "a\xff\xfe";
  const auto refused = JsonCodec<std::string>::encode(bad);
  CHECK(refused.code() == Code::kInvalidArgument);
  CHECK(refused.status().message().find("UTF-8") != std::string::npos);
  CHECK(JsonCodec<Post>::encode(Post{1, bad, {}, 0}).code() == Code::kInvalidArgument);
  check_refused<JsonCodec<std::string>>("\"a\xff\"", "UTF-8");
  check_round_trip<MsgpackCodec>(bad);
}

TEST_CASE("a number that does not fit the type is refused, not cast") {
  check_refused<JsonCodec<std::int8_t>>("300", "does not fit");
  check_refused<JsonCodec<std::uint32_t>>("-1", "does not fit");
  check_refused<JsonCodec<int>>("3.7", "does not fit");
  check_refused<JsonCodec<int>>("true", "does not fit");
  check_refused<JsonCodec<bool>>("1", "does not fit");
  check_refused<JsonCodec<std::int64_t>>("9223372036854775808", "does not fit");
  check_refused<JsonCodec<std::uint64_t>>("18446744073709551616", "does not fit");
  check_refused<JsonCodec<float>>("1e300", "does not fit");
  check_refused<JsonCodec<double>>("1e999", "");
  check_refused<JsonCodec<std::vector<std::uint8_t>>>("[1,256]", "does not fit");
  check_refused<JsonCodec<std::map<std::string, int>>>("{\"a\":1.5}", "does not fit");

  check_refused<MsgpackCodec<std::int8_t>>(*MsgpackCodec<int>::encode(300), "");
  check_refused<MsgpackCodec<std::uint32_t>>(*MsgpackCodec<int>::encode(-1), "");
  check_refused<MsgpackCodec<int>>(*MsgpackCodec<double>::encode(3.7), "");
  check_refused<MsgpackCodec<std::vector<std::uint8_t>>>(
      *MsgpackCodec<std::vector<int>>::encode({1, 256}), "");
}

TEST_CASE("another type's bytes are refused") {
  check_refused<JsonCodec<Post>>("{\"id\":\"seven\"}", "");
  check_refused<JsonCodec<Post>>("[]", "");
  check_refused<JsonCodec<std::string>>("7", "");
  check_refused<MsgpackCodec<Post>>(*MsgpackCodec<int>::encode(7), "");
  check_refused<MsgpackCodec<std::string>>(*MsgpackCodec<int>::encode(7), "");
}

TEST_CASE("empty, cut and prolonged bytes are refused") {
  const auto json = *JsonCodec<Post>::encode(Post{7, "title", {"a"}, 1.5});
  const auto pack = *MsgpackCodec<Post>::encode(Post{7, "title", {"a"}, 1.5});
  for (std::size_t size = 0; size < json.size(); ++size) {
    check_refused<JsonCodec<Post>>(std::string_view(json).substr(0, size), "");
  }
  for (std::size_t size = 0; size < pack.size(); ++size) {
    check_refused<MsgpackCodec<Post>>(std::string_view(pack).substr(0, size), "cut short");
  }
  check_refused<JsonCodec<Post>>(json + "x", "");
  check_refused<MsgpackCodec<Post>>(pack + "x", "more bytes follow");
  check_refused<MsgpackCodec<int>>("\xc1", "malformed");  // a byte that MessagePack never uses
}

TEST_CASE("nesting is refused beyond 100, however long the input") {
  using Json = nlohmann::json;
  using Nested = JsonCodec<Json>;
  CHECK(Nested::decode(repeated("[", 100) + repeated("]", 100)).ok());
  check_refused<Nested>(repeated("[", 101) + repeated("]", 101), "deeper than 100");
  check_refused<Nested>(repeated("[", 4'000'000), "deeper than 100");
  check_refused<Nested>(repeated("{\"a\":", 4'000'000), "deeper than 100");
  CHECK(Nested::decode("\"" + repeated("[", 200) + "\\\"" + repeated("{", 200) + "\"").ok());

  check_refused<MsgpackCodec<std::vector<int>>>(repeated("\x91", 4'000'000), "deeper than 100");
  check_refused<MsgpackCodec<std::vector<int>>>(repeated("\x81\x01", 2'000'000), "deeper than 100");
}

TEST_CASE("a value that nests too deep is not encoded either") {
  nlohmann::json deep = nlohmann::json::array();
  for (int i = 0; i < 100'000; ++i) {
    nlohmann::json outer = nlohmann::json::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  CHECK(JsonCodec<nlohmann::json>::encode(deep).code() == Code::kInvalidArgument);
}

TEST_CASE("a header that announces more than there is allocates nothing for it") {
  // Arrays of 2^32-1 elements, a map of as many pairs, a string and a blob of 4 GiB.
  using Ints = std::vector<int>;
  check_refused<MsgpackCodec<Ints>>("\xdd\xff\xff\xff\xff", "cut short");
  check_refused<MsgpackCodec<Ints>>(repeated("\xdd\xff\xff\xff\xff", 50), "cut short");
  check_refused<MsgpackCodec<Ints>>("\xdf\xff\xff\xff\xff", "cut short");
  check_refused<MsgpackCodec<std::string>>("\xdb\xff\xff\xff\xff", "cut short");
  check_refused<MsgpackCodec<std::string>>("\xc6\xff\xff\xff\xff", "cut short");
  // An extension of 2^32-1 bytes: msgpack-c itself throws here.
  check_refused<MsgpackCodec<std::string>>("\xc9\xff\xff\xff\xff\x01", "");
}

TEST_CASE("a large value comes back whole") {
  check_both(std::string(8u << 20, 'x'));
  check_both(std::vector<std::int64_t>(100'000, -1));
}

TEST_CASE("what a type's own conversion throws becomes a Status") {
  CHECK(JsonCodec<Thrower>::encode(Thrower{}).code() == Code::kInvalidArgument);
  check_refused<JsonCodec<Thrower>>("{}", "from_json's own");
}
