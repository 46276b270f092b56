// The typed view over a cache without Redis.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "larder/typed.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "larder/codec_json.h"

namespace {

using larder::Code;
using larder::JsonCodec;
using larder::RawCodec;
using larder::Source;
using larder::Typed;

// A local cache in a directory of its own.
struct Local {
  Local() {
    char path[] = "/tmp/larder-typed-XXXXXX";
    REQUIRE(::mkdtemp(path) != nullptr);
    larder::Options options;
    options.directory = path;
    options.segment_bytes = 4u << 20;
    auto opened = larder::Cache::open(options);
    REQUIRE_MESSAGE(opened.ok(), opened.status().to_string());
    cache.emplace(*std::move(opened));
  }
  ~Local() {
    const auto directory = cache->options().directory;
    cache.reset();
    std::filesystem::remove_all(directory);
  }
  std::optional<larder::Cache> cache;
};

}  // namespace

TEST_CASE("a typed value comes back with its type, and a miss is not an error") {
  Local local;
  Typed<std::vector<int>, JsonCodec<std::vector<int>>> lists(*local.cache);
  REQUIRE(lists.set("numbers", {1, 2, 3}).ok());

  const auto got = lists.get("numbers");
  REQUIRE(got.ok());
  CHECK(*got == std::vector{1, 2, 3});

  const auto found = lists.lookup("numbers");
  REQUIRE(found.ok());
  CHECK(found->source == Source::kLocal);
  CHECK_FALSE(found->stale);
  CHECK(found->value == std::vector{1, 2, 3});

  const auto held = lists.peek("numbers");
  REQUIRE(held.ok());
  CHECK(held->value == std::vector{1, 2, 3});
  CHECK(lists.get("numbers", {.freshness = larder::Freshness::kRedis}).ok());

  const auto missing = lists.get("none");
  REQUIRE(missing.ok());
  CHECK_FALSE(missing->has_value());
  CHECK(lists.lookup("none")->source == Source::kNone);
}

TEST_CASE("an empty value is a hit") {
  Local local;
  Typed<std::string, RawCodec<>> texts(*local.cache);
  REQUIRE(texts.set("empty", "").ok());
  const auto got = texts.get("empty");
  REQUIRE(got.ok());
  CHECK(*got == "");
}

TEST_CASE("bytes of another type are an error that names the key, never a miss") {
  Local local;
  REQUIRE(local.cache->set("user:1", "not json").ok());
  Typed<int, JsonCodec<int>> numbers(*local.cache);
  for (const auto& status : {numbers.get("user:1").status(), numbers.lookup("user:1").status(),
                             numbers.peek("user:1").status()}) {
    CHECK(status.code() == Code::kCorrupt);
    CHECK(status.message().find("'user:1'") != std::string::npos);
    CHECK(status.message().find("json codec") != std::string::npos);
  }
  CHECK(local.cache->get("user:1")->value == "not json");

  REQUIRE(numbers.set_with_invalidate("user:1", 7).ok());
  CHECK(*numbers.get("user:1") == 7);
  REQUIRE(numbers.remove("user:1").ok());
  CHECK_FALSE(numbers.get("user:1")->has_value());
}

TEST_CASE("a value that cannot be encoded leaves what was there") {
  Local local;
  Typed<double, JsonCodec<double>> numbers(*local.cache);
  REQUIRE(numbers.set("x", 1.5).ok());
  CHECK(numbers.set("x", std::nan("")).code() == Code::kInvalidArgument);
  CHECK(*numbers.get("x") == 1.5);
}

TEST_CASE("JSON itself is a type, and two callers never share an object") {
  Local local;
  using Json = nlohmann::json;
  Typed<Json, JsonCodec<Json>> documents(*local.cache);
  REQUIRE(documents.set("d", Json{{"n", 9007199254740993}}).ok());
  auto first = documents.get("d");
  REQUIRE(first.ok());
  (**first)["n"] = 0;
  CHECK((**documents.get("d"))["n"] == 9007199254740993);
}
