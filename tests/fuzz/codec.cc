// Values from any peer: the codecs decode them or say that they cannot, and what decodes, encodes
// and decodes to the same. Through Typed they come out as the codec alone would have them.
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "larder/codec_json.h"
#include "larder/codec_msgpack.h"
#include "larder/typed.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/process.h"

namespace {

using larder::fuzz::require;

struct Post {
  std::int32_t id = 0;
  std::string title;
  std::vector<std::string> tags;
  std::map<std::string, double> scores;

  friend bool operator==(const Post&, const Post&) = default;
  MSGPACK_DEFINE(id, title, tags, scores)
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Post, id, title, tags, scores)

// Local only: what is set is what comes back.
larder::Cache& cache() {
  static const char* const parent = std::getenv("LARDER_FUZZ_DIR");
  static const larder::test::TempDir dir(parent != nullptr ? parent : "/dev/shm");
  static larder::Cache opened = [] {
    larder::Options options;
    options.directory = dir.path();
    options.segment_bytes = 512u << 10;
    auto cache = larder::Cache::open(options);
    require(cache.ok(), "a cache opens");
    return std::move(*cache);
  }();
  return opened;
}

// Not NaN, which MessagePack holds: it differs from itself.
template <class T>
bool equal(const T& one, const T& other) {
  return one == other || !(one == one);
}

template <class T, class C>
void test(std::string_view bytes) {
  const larder::Result<T> value = C::decode(bytes);
  if (value) {
    const auto encoded = C::encode(*value);
    require(encoded.ok(), "what decodes, encodes");
    const auto again = C::decode(*encoded);
    require(again.ok() && equal(*again, *value), "and decodes to the same");
  }
  if (!cache().set("key", bytes).ok()) return;
  const auto typed = larder::Typed<T, C>(cache()).get("key");
  require(typed.ok() == value.ok(), "Typed decodes what the codec does");
  require(!typed || (*typed && equal(**typed, *value)), "and to the same");
}

template <class T>
void test_both(std::string_view bytes) {
  test<T, larder::JsonCodec<T>>(bytes);
  test<T, larder::MsgpackCodec<T>>(bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  larder::fuzz::Bytes input(data, size);
  const std::uint8_t type = input.byte();
  const std::string_view bytes = input.rest();
  switch (type % 8) {
    case 0:
      test_both<Post>(bytes);
      break;
    case 1:
      test_both<std::string>(bytes);
      break;
    case 2:
      test_both<std::int8_t>(bytes);
      break;
    case 3:
      test_both<std::vector<std::uint64_t>>(bytes);
      break;
    case 4:
      test_both<std::map<std::string, std::vector<float>>>(bytes);
      break;
    case 5:
      test<nlohmann::json, larder::JsonCodec<nlohmann::json>>(bytes);
      break;
    case 6:
      test_both<std::tuple<bool, double, std::string>>(bytes);
      break;
    default:
      test<std::string, larder::RawCodec<>>(bytes);
      test<std::vector<std::byte>, larder::RawCodec<std::vector<std::byte>>>(bytes);
  }
  return 0;
}
