// larder-prefork: an HTTP key-value server built as prefork servers are built.
//
// The parent opens the cache and forks; the workers serve. Start reading here, then parent.cc (who
// lives), worker.cc (what a request does), pool.cc (what may block).
#include <pwd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "larder/cache.h"
#include "parent.h"

namespace {

using larder::Code;
using larder::Result;
using larder::Status;

constexpr std::int64_t kMaxWorkers = 256;

struct Arguments {
  std::string name = "prefork";
  std::string directory = "/dev/shm";
  std::int64_t segment_mb = 64;
  std::string policy = "lfu";
  std::int64_t value_max_bytes = 8 << 20;
  std::int64_t ttl_ms = 0;

  std::string redis;
  std::string redis_user;
  std::string redis_password;
  std::int64_t redis_db = 0;
  std::int64_t redis_timeout_ms = 1000;
  std::string channel = "cache:invalidate";
  std::string prefix;
  std::string wire = "json";
  std::string go_peers = "verify";

  std::string listen = "127.0.0.1:8080";
  std::int64_t workers = 4;
  std::int64_t threads = 4;
  std::int64_t queue = 1024;
  std::string user;
  std::string log = "warn";
};

void declare(CLI::App& app, Arguments& a) {
  app.add_option("--name", a.name, "segment; processes with the same name share it")
      ->capture_default_str();
  app.add_option("--directory", a.directory, "where the segment lives, a tmpfs")
      ->capture_default_str();
  app.add_option("--segment-mb", a.segment_mb, "its size in MiB")
      ->check(CLI::Range(std::int64_t{4}, std::int64_t{16} << 20))
      ->capture_default_str();
  app.add_option("--policy", a.policy, "what to keep when it is full")
      ->check(CLI::IsMember({"lfu", "lru"}))
      ->capture_default_str();
  app.add_option("--value-max-bytes", a.value_max_bytes, "larger values are refused with 413")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{512} << 20))
      ->capture_default_str();
  app.add_option("--ttl-ms", a.ttl_ms, "life of values that are PUT without one; 0: for ever")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{10} * 365 * 24 * 3600 * 1000))
      ->capture_default_str();

  app.add_option("--redis", a.redis, "host:port or socket path; none: local only");
  app.add_option("--redis-user", a.redis_user, "ACL user");
  app.add_option("--redis-password", a.redis_password,
                 "better in the environment: arguments are visible to everybody in ps")
      ->envname("LARDER_REDIS_PASSWORD");
  app.add_option("--redis-db", a.redis_db, "database number")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{65535}))
      ->capture_default_str();
  app.add_option("--redis-timeout-ms", a.redis_timeout_ms, "bound of one call")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{600'000}))
      ->capture_default_str();
  app.add_option("--channel", a.channel, "where hosts tell each other of changes")
      ->capture_default_str();
  app.add_option("--prefix", a.prefix, "put before every key in Redis");
  app.add_option("--wire", a.wire, "format of events; json where Go peers listen")
      ->check(CLI::IsMember({"json", "msgpack"}))
      ->capture_default_str();
  app.add_option("--go-peers", a.go_peers, "a Go peer's set: read it again, or trust its value")
      ->check(CLI::IsMember({"verify", "trust"}))
      ->capture_default_str();

  app.add_option("--listen", a.listen, "host:port or [v6]:port")->capture_default_str();
  app.add_option("--workers", a.workers, "processes")
      ->check(CLI::Range(std::int64_t{1}, kMaxWorkers))
      ->capture_default_str();
  app.add_option("--threads", a.threads, "threads of each worker for calls to Redis")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{256}))
      ->capture_default_str();
  app.add_option("--queue", a.queue, "requests that may wait for a thread; 503 beyond")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000}))
      ->capture_default_str();
  app.add_option("--user", a.user, "workers become this user; needs root");
  app.add_option("--log", a.log, "least level of larder's own messages, on standard error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "none"}))
      ->capture_default_str();
}

std::shared_ptr<larder::Logger> make_logger(const std::string& level) {
  for (const larder::LogLevel each : {larder::LogLevel::kDebug, larder::LogLevel::kInfo,
                                      larder::LogLevel::kWarn, larder::LogLevel::kError}) {
    if (level == larder::level_name(each)) return larder::console_logger(each);
  }
  return nullptr;
}

larder::Options cache_options(const Arguments& a) {
  larder::Options options;
  options.name = a.name;
  options.directory = a.directory;
  options.segment_bytes = static_cast<std::uint64_t>(a.segment_mb) << 20;
  options.policy = a.policy == "lru" ? larder::Policy::kLru : larder::Policy::kLfu;
  options.value_max_bytes = static_cast<std::uint64_t>(a.value_max_bytes);
  options.default_ttl = std::chrono::milliseconds(a.ttl_ms);
  options.redis.address = a.redis;
  options.redis.username = a.redis_user;
  options.redis.password = a.redis_password;
  options.redis.database = static_cast<int>(a.redis_db);
  options.redis.timeout = std::chrono::milliseconds(a.redis_timeout_ms);
  options.redis.channel = a.channel;
  options.key_prefix = a.prefix;
  options.wire_format =
      a.wire == "msgpack" ? larder::WireFormat::kMsgpack : larder::WireFormat::kJson;
  options.go_peers = a.go_peers == "trust" ? larder::GoPeers::kTrust : larder::GoPeers::kVerify;
  options.logger = make_logger(a.log);
  return options;
}

Result<prefork::User> find_user(const std::string& name) {
  const passwd* entry = getpwnam(name.c_str());
  if (entry == nullptr) {
    return Status(Code::kInvalidArgument, "--user is '" + name + "'; this host has no such user");
  }
  if (geteuid() != 0 && geteuid() != entry->pw_uid) {
    return Status(Code::kInvalidArgument,
                  "--user is '" + name + "'; only root can let workers become another user");
  }
  return prefork::User{name, entry->pw_uid, entry->pw_gid};
}

Result<prefork::WorkerOptions> worker_options(const Arguments& a) {
  prefork::WorkerOptions options;
  auto address = prefork::parse_address(a.listen);
  if (!address) return address.status();
  options.listen = *address;
  if (address->port == 0 && a.workers > 1) {
    return Status(Code::kInvalidArgument,
                  "--listen has port 0, which gives every worker a port of its own; name a port, "
                  "or use --workers 1");
  }
  options.threads = static_cast<std::size_t>(a.threads);
  options.queue_max = static_cast<std::size_t>(a.queue);
  if (!a.user.empty()) {
    auto user = find_user(a.user);
    if (!user) return user.status();
    options.user = *user;
  }
  return options;
}

int fail(const Status& status) {
  std::fprintf(stderr, "larder-prefork: %s\n", status.message().c_str());
  const bool usage = status.code() == Code::kInvalidArgument;
  if (usage) std::fprintf(stderr, "Run with --help for more information.\n");
  return usage ? prefork::kExitUsage : prefork::kExitFailed;
}

int serve(const Arguments& arguments) {
  auto workers = worker_options(arguments);
  if (!workers) return fail(workers.status());
  larder::Options options = cache_options(arguments);
  // The segment is made by root here and opened by the workers' user.
  if (workers->user) options.owner = workers->user->uid;
  if (Status status = larder::validate(options); !status.ok()) return fail(status);

  auto cache = larder::Cache::open(options);
  if (!cache) return fail(cache.status());
  prefork::Parent parent(std::move(cache).value(), std::move(workers).value(),
                         static_cast<int>(arguments.workers));
  return parent.run();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CLI::App app("An HTTP key-value server: workers that share one warm cache per host.",
                 "larder-prefork");
    Arguments arguments;
    declare(app, arguments);
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? prefork::kExitFine : prefork::kExitUsage;
    }
    return serve(arguments);
  } catch (const std::exception& error) {  // of the standard library: no memory
    std::fprintf(stderr, "larder-prefork: %s\n", error.what());
    return prefork::kExitFailed;
  }
}
