// Options: each field's bounds, and messages that name the field, the value and the bound.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "larder/options.h"

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <string>

namespace {

using larder::Code;
using larder::Options;
using std::chrono::milliseconds;
using Change = std::function<void(Options&)>;

larder::Status validated(const Change& change) {
  Options options;
  change(options);
  return larder::validate(options);
}

void accepts(const Change& change) {
  const auto status = validated(change);
  CHECK_MESSAGE(status.ok(), status.to_string());
}

// The message holds every one of `parts`.
void refuses(const Change& change, std::initializer_list<std::string_view> parts) {
  const auto status = validated(change);
  CHECK(status.code() == Code::kInvalidArgument);
  for (const auto part : parts) {
    CHECK_MESSAGE(status.message().find(part) != std::string::npos, "'", std::string(part),
                  "' is missing in: ", status.message());
  }
}

}  // namespace

TEST_CASE("the defaults are valid") {
  accepts([](Options&) {});
}

TEST_CASE("a name is 1 to 64 of the allowed characters and no hidden file") {
  accepts([](Options& o) { o.name = "a"; });
  accepts([](Options& o) { o.name = "Shop-2_eu.west"; });
  accepts([](Options& o) { o.name = std::string(64, 'n'); });
  refuses([](Options& o) { o.name = ""; }, {"name is ''", "1 to 64"});
  refuses([](Options& o) { o.name = std::string(65, 'n'); }, {"(65 bytes)", "1 to 64"});
  refuses([](Options& o) { o.name = ".hidden"; }, {"'.hidden'", "start with a dot"});
  refuses([](Options& o) { o.name = ".."; }, {"'..'"});
  refuses([](Options& o) { o.name = "a/b"; }, {"'a/b'"});
  refuses([](Options& o) { o.name = "a b"; }, {"'a b'"});
  refuses([](Options& o) { o.name = std::string("a\0b", 3); }, {"'a\\x00b'"});
  refuses([](Options& o) { o.name = "caf\xc3\xa9"; }, {"name is"});
}

TEST_CASE("a directory is an absolute path") {
  accepts([](Options& o) { o.directory = "/tmp/with space"; });
  refuses([](Options& o) { o.directory = ""; }, {"directory is ''", "absolute path"});
  refuses([](Options& o) { o.directory = "dev/shm"; }, {"'dev/shm'", "absolute path"});
  refuses([](Options& o) { o.directory = "/a\nb"; }, {"'/a\\x0ab'"});
  refuses([](Options& o) { o.directory = "/" + std::string(5'000, 'd'); }, {"5001 bytes", "3900"});
}

TEST_CASE("a segment has 512 KiB to 16 TiB") {
  accepts([](Options& o) { o.segment_bytes = 512ull << 10; });
  accepts([](Options& o) { o.segment_bytes = 16ull << 40; });
  refuses([](Options& o) { o.segment_bytes = 0; }, {"segment_bytes is 0", "524288", "512 KiB"});
  refuses([](Options& o) { o.segment_bytes = (512ull << 10) - 1; }, {"524287"});
  refuses([](Options& o) { o.segment_bytes = (16ull << 40) + 1; }, {"16 TiB"});
  refuses([](Options& o) { o.segment_bytes = std::numeric_limits<std::uint64_t>::max(); },
          {"18446744073709551615"});
}

TEST_CASE("numbers that are no value of an enum are refused") {
  refuses([](Options& o) { o.policy = larder::Policy{2}; }, {"policy is 2", "0 to 1"});
  refuses([](Options& o) { o.policy = larder::Policy{-1}; }, {"policy is -1"});
  refuses([](Options& o) { o.wire_format = larder::WireFormat{9}; }, {"wire_format is 9"});
  refuses([](Options& o) { o.clear_scope = larder::ClearScope{2}; }, {"clear_scope is 2"});
  refuses([](Options& o) { o.go_peers = larder::GoPeers{2}; }, {"go_peers is 2"});
  accepts([](Options& o) {
    o.policy = larder::Policy::kLru;
    o.wire_format = larder::WireFormat::kMsgpack;
    o.clear_scope = larder::ClearScope::kDatabase;
    o.go_peers = larder::GoPeers::kTrust;
  });
}

TEST_CASE("a mode gives the owner read and write, the group both or neither, others nothing") {
  accepts([](Options& o) { o.mode = 0600; });
  accepts([](Options& o) { o.mode = 0660; });
  refuses([](Options& o) { o.mode = 0640; }, {"mode is 0640", "group reads and writes", "0600 or"});
  refuses([](Options& o) { o.mode = 0620; }, {"mode is 0620", "group reads and writes", "0660"});
  refuses([](Options& o) { o.mode = 0; }, {"mode is 0000", "owner needs"});
  refuses([](Options& o) { o.mode = 0400; }, {"mode is 0400", "owner needs"});
  refuses([](Options& o) { o.mode = 0666; }, {"mode is 0666", "0660"});
  refuses([](Options& o) { o.mode = 0604; }, {"mode is 0604"});
  refuses([](Options& o) { o.mode = 0700; }, {"mode is 0700"});
  refuses([](Options& o) { o.mode = 04600; }, {"mode is 4600"});
}

TEST_CASE("a group is one that the mode lets in, and allowed owners are users") {
  accepts([](Options& o) { o.group = 100, o.mode = 0660; });
  refuses([](Options& o) { o.group = 100; }, {"group is 100", "mode is 0600", "use 0660"});
  refuses([](Options& o) { o.group = 100, o.mode = 0640; }, {"mode is 0640"});
  accepts([](Options& o) { o.allowed_owners = {0, 1000}; });
  refuses(
      [](Options& o) {
        o.allowed_owners = {0, static_cast<uid_t>(-1)};
      },
      {"allowed_owners holds -1"});
}

TEST_CASE("an address is one that Redis can be reached at") {
  for (const char* good : {"", "127.0.0.1:6379", "redis.internal:6380", "[::1]:6379",
                           "/run/redis/redis.sock", "/run/a@b.sock"}) {
    accepts([&](Options& o) { o.redis.address = good; });
  }
  for (const char* bad :
       {"host:0", "host:65536", "host:port", ":6379", "[::1", "rediss://host:1"}) {
    refuses([&](Options& o) { o.redis.address = bad; }, {"redis.address", bad});
  }
  refuses([](Options& o) { o.redis.address = "host\n:1"; }, {"host\\x0a:1"});
  refuses([](Options& o) { o.redis.address = std::string(301, 'h'); }, {"301 bytes", "300"});
}

TEST_CASE("a password never stands in a message") {
  const std::string secret = "s3cret";
  const auto in_address =
      validated([&](Options& o) { o.redis.address = "redis://user:" + secret + "@host:1"; });
  CHECK(in_address.code() == Code::kInvalidArgument);
  CHECK(in_address.message().find("redis.password") != std::string::npos);
  CHECK(in_address.message().find(secret) == std::string::npos);

  std::string huge;
  while (huge.size() <= 65'535) huge += secret;
  const auto too_long = validated([&](Options& o) { o.redis.password = huge; });
  CHECK(too_long.code() == Code::kInvalidArgument);
  CHECK(too_long.message().find("redis.password has 65538 bytes") != std::string::npos);
  CHECK(too_long.message().find(secret) == std::string::npos);

  accepts([&](Options& o) { o.redis.password = secret; });
}

TEST_CASE("the other Redis fields have their bounds") {
  accepts([](Options& o) { o.redis.database = 65'535; });
  refuses([](Options& o) { o.redis.database = -1; }, {"redis.database is -1", "0 to 65535"});
  refuses([](Options& o) { o.redis.database = 65'536; }, {"65536"});

  refuses([](Options& o) { o.redis.channel = ""; }, {"redis.channel is empty"});
  refuses([](Options& o) { o.redis.channel = std::string(256, 'c'); }, {"256 bytes", "255"});

  refuses([](Options& o) { o.redis.username = "a b"; }, {"redis.username is 'a b'"});
  refuses([](Options& o) { o.redis.username = std::string(513, 'u'); }, {"513 bytes"});

  accepts([](Options& o) { o.redis.timeout = milliseconds{1}; });
  accepts([](Options& o) { o.redis.timeout = std::chrono::minutes{10}; });
  refuses([](Options& o) { o.redis.timeout = milliseconds{0}; }, {"redis.timeout is 0", "1 to"});
  refuses([](Options& o) { o.redis.timeout = milliseconds{-5}; }, {"redis.timeout is -5"});
  refuses([](Options& o) { o.redis.timeout = milliseconds{600'001}; }, {"600001", "600000 ms"});

  refuses([](Options& o) { o.redis.log_max_entries = 999; }, {"redis.log_max_entries is 999"});
  refuses([](Options& o) { o.lease = std::chrono::milliseconds(99); }, {"lease is 99"});
  refuses([](Options& o) { o.lease = std::chrono::minutes(2); }, {"lease is 120000"});
  refuses([](Options& o) { o.stale_limit = std::chrono::milliseconds(-1); }, {"stale_limit is -1"});
  refuses([](Options& o) { o.stale_reads = static_cast<larder::StaleReads>(9); }, {"stale_reads"});
  refuses([](Options& o) { o.redis.log_max_entries = 100'000'001; }, {"100000000 entries"});
}

TEST_CASE("sizes and durations have their bounds") {
  accepts([](Options& o) { o.key_prefix = std::string(1'024, 'p'); });
  refuses([](Options& o) { o.key_prefix = std::string(1'025, 'p'); },
          {"key_prefix has 1025 bytes", "1024"});

  accepts([](Options& o) { o.value_max_bytes = 512ull << 20; });
  refuses([](Options& o) { o.value_max_bytes = (512ull << 20) + 1; },
          {"value_max_bytes", "512 MiB"});
  refuses([](Options& o) { o.value_max_bytes = 0; }, {"value_max_bytes is 0"});
  accepts([](Options& o) { o.push_max_bytes = 0; });
  refuses([](Options& o) { o.push_max_bytes = ~0ull; }, {"push_max_bytes", "512 MiB"});

  accepts([](Options& o) { o.default_ttl = std::chrono::hours{24 * 365}; });
  refuses([](Options& o) { o.default_ttl = milliseconds{-1}; }, {"default_ttl is -1", "0 to"});
  refuses([](Options& o) { o.default_ttl = milliseconds::max(); }, {"default_ttl"});

  accepts([](Options& o) { o.verify_checksums = true; });
  refuses([](Options& o) { o.lock_timeout = milliseconds{0}; }, {"lock_timeout is 0", "1 to"});
  refuses([](Options& o) { o.lock_timeout = milliseconds{10'001}; }, {"10001", "10000 ms"});
}

TEST_CASE("a node id is printable ASCII") {
  accepts([](Options& o) { o.node_id = "web-7.eu:a"; });
  refuses([](Options& o) { o.node_id = "a b"; }, {"node_id is 'a b'"});
  refuses([](Options& o) { o.node_id = "a\xff"; }, {"node_id", "printable ASCII"});
  refuses([](Options& o) { o.node_id = std::string(256, 'n'); }, {"256 bytes", "255"});
}

TEST_CASE("a long value is cut in the message") {
  const auto status = validated([](Options& o) { o.directory = std::string(3'000, 'x'); });
  CHECK(status.message().size() < 300);
  CHECK(status.message().find("xxx...'") != std::string::npos);
}
