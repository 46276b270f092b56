// Each check names the field, what it holds and what it may hold. Values are quoted with their
// control characters escaped; the password's value is never printed.
#include "larder/options.h"

#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "src/sync/endpoint.h"

namespace larder {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kNameMaxBytes = 64;
constexpr std::size_t kDirectoryMaxBytes = 3'900;  // the file's name still fits PATH_MAX
// Address, channel and prefix are recorded in the segment's binding: together below 2 KiB.
constexpr std::size_t kAddressMaxBytes = 300;
constexpr std::size_t kChannelMaxBytes = 255;
constexpr std::size_t kUsernameMaxBytes = 512;
constexpr std::size_t kPasswordMaxBytes = 65'535;  // a managed Redis hands out long tokens
constexpr std::size_t kPrefixMaxBytes = 1'024;
constexpr std::size_t kNodeIdMaxBytes = 255;
constexpr std::uint64_t kValueMaxBytes = 512ull << 20;  // Redis' own bound
constexpr milliseconds kTtlMax{100ll * 365 * 24 * 3'600 * 1'000};

Status invalid(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

bool has_control(std::string_view text) {
  for (const char c : text) {
    if (is_control(c)) return true;
  }
  return false;
}

// The value as it may stand in a message: escaped, and cut when it is long.
std::string quoted(std::string_view text) {
  constexpr std::size_t kShown = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) {
    if (is_control(c)) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  out += text.size() > kShown ? "...'" : "'";
  return out;
}

std::string octal(mode_t mode) {
  char text[16];
  std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode));
  return text;
}

template <class Number>
Status check_range(std::string_view field, Number value, Number least, Number most,
                   std::string_view unit) {
  if (value >= least && value <= most) return {};
  std::string message(field);
  message.append(" is ").append(std::to_string(value));
  message.append("; it must be ").append(std::to_string(least)).append(" to ");
  message.append(std::to_string(most));
  if (!unit.empty()) message.append(" ").append(unit);
  return invalid(std::move(message));
}

Status check_duration(std::string_view field, milliseconds value, milliseconds least,
                      milliseconds most) {
  return check_range(field, value.count(), least.count(), most.count(), "ms");
}

Status check_length(std::string_view field, std::string_view value, std::size_t most) {
  if (value.size() <= most) return {};
  return invalid(std::string(field) + " has " + std::to_string(value.size()) +
                 " bytes; it may have at most " + std::to_string(most));
}

// An enum is set by name in C++, but by number from C or from a file.
template <class Enum>
Status check_enum(std::string_view field, Enum value, std::initializer_list<Enum> known) {
  for (const Enum each : known) {
    if (value == each) return {};
  }
  return invalid(std::string(field) + " is " + std::to_string(static_cast<int>(value)) +
                 "; its values go from 0 to " + std::to_string(known.size() - 1));
}

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

Status check_name(std::string_view name) {
  bool fits = !name.empty() && name.size() <= kNameMaxBytes && name.front() != '.';
  for (const char c : name) fits = fits && is_name_char(c);
  if (fits) return {};
  return invalid("name is " + quoted(name) + " (" + std::to_string(name.size()) +
                 " bytes); it must be 1 to 64 of [A-Za-z0-9._-] and not start with a dot");
}

Status check_directory(std::string_view directory) {
  if (auto status = check_length("directory", directory, kDirectoryMaxBytes); !status.ok()) {
    return status;
  }
  if (directory.starts_with('/') && !has_control(directory)) return {};
  return invalid("directory is " + quoted(directory) +
                 "; it must be an absolute path without control characters, such as '/dev/shm'");
}

Status check_mode(mode_t mode) {
  constexpr mode_t kOwner = 0600;
  constexpr mode_t kGroup = 0060;
  if ((mode & kOwner) != kOwner) {
    return invalid("mode is " + octal(mode) + "; the owner needs read and write: use 0600 or 0660");
  }
  if ((mode & ~(kOwner | kGroup)) != 0) {
    return invalid("mode is " + octal(mode) +
                   "; only the owner and the group may read and write: use 0600 or 0660");
  }
  // Who may only read the lock file could lock bytes of it all the same, and keep everybody out.
  if ((mode & kGroup) != 0 && (mode & kGroup) != kGroup) {
    return invalid("mode is " + octal(mode) +
                   "; the group reads and writes, or neither: use 0600 or 0660");
  }
  return {};
}

Status check_group(gid_t group, mode_t mode) {
  constexpr mode_t kGroup = 0060;
  if (group == static_cast<gid_t>(-1) || (mode & kGroup) == kGroup) return {};
  return invalid("group is " + std::to_string(group) + ", but mode is " + octal(mode) +
                 ", which lets no group in: use 0660");
}

Status check_allowed_owners(const std::vector<uid_t>& owners) {
  for (const uid_t owner : owners) {
    if (owner == static_cast<uid_t>(-1)) {
      return invalid("allowed_owners holds -1, which is no user; leave it empty for none");
    }
  }
  return {};
}

Status check_address(std::string_view address) {
  if (address.empty()) return {};  // local only
  // Before anything quotes the address: it could hold a password.
  if (!address.starts_with('/') && address.find('@') != std::string_view::npos) {
    return invalid(
        "redis.address holds credentials (a '@'); it must be 'host:port', '[v6]:port' or an "
        "absolute socket path, with redis.username and redis.password set on their own");
  }
  if (auto status = check_length("redis.address", address, kAddressMaxBytes); !status.ok()) {
    return status;
  }
  if (has_control(address)) {
    return invalid("redis.address is " + quoted(address) + "; it must not hold control characters");
  }
  const auto endpoint = sync::parse_endpoint(address);
  if (endpoint.ok()) return {};
  return invalid("redis.address is " + quoted(address) + ": " + endpoint.status().message());
}

Status check_username(std::string_view username) {
  if (auto status = check_length("redis.username", username, kUsernameMaxBytes); !status.ok()) {
    return status;
  }
  if (!has_control(username) && username.find(' ') == std::string_view::npos) return {};
  return invalid("redis.username is " + quoted(username) +
                 "; Redis allows no space and no control character in it");
}

Status check_channel(std::string_view channel) {
  if (channel.empty()) {
    return invalid(
        "redis.channel is empty; it must have 1 to 255 bytes, by default "
        "'cache:invalidate'");
  }
  return check_length("redis.channel", channel, kChannelMaxBytes);
}

Status check_node_id(std::string_view node_id) {
  if (auto status = check_length("node_id", node_id, kNodeIdMaxBytes); !status.ok()) return status;
  for (const char c : node_id) {
    if (c > ' ' && c < 0x7f) continue;
    return invalid("node_id is " + quoted(node_id) +
                   "; it travels in every event and must be printable ASCII without spaces");
  }
  return {};
}

// The first of several checks that failed. All of them run; none costs anything.
Status first_of(std::initializer_list<Status> checks) {
  for (const Status& status : checks) {
    if (!status.ok()) return status;
  }
  return {};
}

Status check_redis(const RedisOptions& redis) {
  return first_of({
      check_address(redis.address),
      check_username(redis.username),
      check_length("redis.password", redis.password, kPasswordMaxBytes),
      check_range("redis.database", redis.database, 0, 65'535, ""),
      check_channel(redis.channel),
      check_duration("redis.timeout", redis.timeout, milliseconds{1}, milliseconds{600'000}),
      check_range<std::uint64_t>("redis.log_max_entries", redis.log_max_entries, 1'000, 100'000'000,
                                 "entries"),
  });
}

}  // namespace

Status validate(const Options& options) {
  return first_of({
      check_name(options.name),
      check_directory(options.directory),
      check_range<std::uint64_t>("segment_bytes", options.segment_bytes, 512ull << 10, 16ull << 40,
                                 "bytes (512 KiB to 16 TiB)"),
      check_enum("policy", options.policy, {Policy::kLfu, Policy::kLru}),
      check_mode(options.mode),
      check_group(options.group, options.mode),
      check_allowed_owners(options.allowed_owners),
      check_redis(options.redis),
      check_length("key_prefix", options.key_prefix, kPrefixMaxBytes),
      check_enum("clear_scope", options.clear_scope, {ClearScope::kPrefix, ClearScope::kDatabase}),
      check_enum("wire_format", options.wire_format, {WireFormat::kJson, WireFormat::kMsgpack}),
      check_enum("go_peers", options.go_peers, {GoPeers::kVerify, GoPeers::kTrust}),
      check_duration("lease", options.lease, milliseconds{100}, milliseconds{60'000}),
      check_enum("stale_reads", options.stale_reads,
                 {StaleReads::kVerify, StaleReads::kServe, StaleReads::kMiss, StaleReads::kError}),
      check_duration("stale_limit", options.stale_limit, milliseconds{0}, kTtlMax),
      check_range<std::uint64_t>("push_max_bytes", options.push_max_bytes, 0, kValueMaxBytes,
                                 "bytes (512 MiB)"),
      check_range<std::uint64_t>("value_max_bytes", options.value_max_bytes, 1, kValueMaxBytes,
                                 "bytes (512 MiB)"),
      check_duration("default_ttl", options.default_ttl, milliseconds{0}, kTtlMax),
      check_duration("lock_timeout", options.lock_timeout, milliseconds{1}, milliseconds{10'000}),
      check_node_id(options.node_id),
  });
}

}  // namespace larder
