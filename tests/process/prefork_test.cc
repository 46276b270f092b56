// The prefork example end to end: real processes, real signals, real sockets, a real Redis.
//
// LARDER_PREFORK names the program.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/http.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

using namespace std::chrono_literals;
using larder::test::await;
using larder::test::free_port;
using larder::test::http;
using larder::test::HttpConnection;
using larder::test::HttpReply;
using larder::test::Process;
using larder::test::RedisServer;
using larder::test::TempDir;

namespace {

using Arguments = std::vector<std::string>;

// Generous: the machine may be busy. Nothing waits that long unless something is wrong.
constexpr auto kPatience = 30s;

std::string program() {
  const char* path = std::getenv("LARDER_PREFORK");
  REQUIRE_MESSAGE(path != nullptr, "set LARDER_PREFORK to the path of larder-prefork");
  return path;
}

Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// A running server: one segment, one port, some workers.
class Host {
 public:
  explicit Host(const std::string& name, int workers = 4, const Arguments& more = {})
      : Host(name, workers, more, free_port()) {}

  ~Host() {
    // Not killed: workers whose parent was killed drain on their own, after the test.
    process_.signal(SIGTERM);
    process_.wait(kPatience);
  }

  std::uint16_t port() const { return port_; }
  int workers() const { return workers_; }
  Process& process() { return process_; }

  HttpReply ask(std::string_view method, std::string_view path, std::string_view body = {}) {
    return http(port_, method, path, body);
  }
  HttpReply get(const std::string& key) { return ask("GET", "/kv/" + key); }
  HttpReply put(const std::string& key, std::string_view value, const std::string& query = "") {
    return ask("PUT", "/kv/" + key + query, value);
  }

  std::uint64_t stat(const char* name) {
    const HttpReply reply = ask("GET", "/stats");
    REQUIRE(reply.status == 200);
    return nlohmann::json::parse(reply.body).at(name).get<std::uint64_t>();
  }
  bool in_sync() { return ask("GET", "/healthz").status == 200; }

  // Who serves now. Connections are spread at random: asks until all were seen, within reason.
  std::set<std::string> worker_pids() {
    std::set<std::string> pids;
    const auto seen_all = [&] {
      const std::string pid = ask("GET", "/healthz").header("x-larder-worker");
      if (!pid.empty()) pids.insert(pid);
      return static_cast<int>(pids.size()) == workers_;
    };
    CHECK_MESSAGE(await(seen_all, kPatience), "not every worker answered");
    return pids;
  }

  // Asks until every worker has answered; each answer must satisfy `holds`.
  template <class Holds>
  void every_worker(const std::string& path, Holds holds) {
    std::set<std::string> left = worker_pids();
    const auto asked_all = [&] {
      const HttpReply reply = ask("GET", path);
      INFO("status " << reply.status << " " << reply.error << " body " << reply.body);
      CHECK(holds(reply));
      left.erase(reply.header("x-larder-worker"));
      return left.empty();
    };
    CHECK_MESSAGE(await(asked_all, kPatience), "not every worker answered " << path);
  }

 private:
  Host(const std::string& name, int workers, const Arguments& more, std::uint16_t port)
      : port_(port),
        workers_(workers),
        process_(Arguments{program(), "--name", name, "--directory", directory_.path(),
                           "--segment-mb", "8", "--workers", std::to_string(workers), "--listen",
                           "127.0.0.1:" + std::to_string(port)} +
                 more) {
    if (geteuid() == 0) chmod(directory_.path().c_str(), 01777);  // for --user, as /dev/shm is
    REQUIRE_MESSAGE(process_.await_output("listening on", kPatience), process_.output());
  }

  TempDir directory_;
  std::uint16_t port_;
  int workers_;
  Process process_;
};

Arguments redis_arguments(const RedisServer& redis, const Arguments& more = {}) {
  return Arguments{"--redis", redis.unix_socket(),  "--prefix",
                   "kv:",     "--redis-timeout-ms", "5000"} +
         more;
}

bool is_local(const HttpReply& reply, std::string_view value) {
  return reply.status == 200 && reply.body == value && reply.header("x-larder-source") == "local" &&
         reply.header("x-larder-stale").empty();
}

// Two hosts on one Redis, both following the channel.
struct TwoHosts {
  RedisServer redis;
  Host a{"host-a", 4, redis_arguments(redis)};
  Host b{"host-b", 4, redis_arguments(redis)};

  TwoHosts() {
    REQUIRE(await([&] { return a.in_sync() && b.in_sync(); }, kPatience));
  }
  // Runs `change` and waits until B has heard of it.
  template <class Change>
  void change_and_await_b(Change change) {
    const std::uint64_t before = b.stat("events_applied");
    REQUIRE(change().status == 204);
    REQUIRE(await([&] { return b.stat("events_applied") > before; }, kPatience));
  }
};

struct Ended {
  std::optional<int> code;
  std::string output;
};

Ended run_to_end(const Arguments& arguments) {
  Process process(Arguments{program()} + arguments);
  Ended ended;
  ended.code = process.wait(kPatience);
  ended.output = process.output();
  return ended;
}

}  // namespace

// ---- one host, no Redis -----------------------------------------------------------------------

TEST_CASE("Without Redis every worker serves what any of them was given") {
  Host host("local");
  CHECK(host.put("color", "blue").status == 204);
  host.every_worker("/kv/color", [](const HttpReply& r) { return is_local(r, "blue"); });
  CHECK(host.put("color", "red").status == 204);
  host.every_worker("/kv/color", [](const HttpReply& r) { return is_local(r, "red"); });
  CHECK(host.ask("DELETE", "/kv/color").status == 204);
  host.every_worker("/kv/color", [](const HttpReply& r) { return r.status == 404; });
}

TEST_CASE("Without Redis a host is in sync, and clear drops every value") {
  Host host("local", 2, {"--prefix", "kv:"});
  CHECK(host.in_sync());
  for (const char* key : {"a", "b", "c"}) CHECK(host.put(key, key).status == 204);
  CHECK(host.ask("POST", "/clear").status == 204);
  for (const char* key : {"a", "b", "c"}) CHECK(host.get(key).status == 404);
}

TEST_CASE("A key may hold any byte and a value may be empty") {
  Host host("local", 1);
  const std::string every_kind = "%00%ff%20/%2f%3f%23%25.+";
  CHECK(host.put(every_kind, "odd").status == 204);
  CHECK(host.get(every_kind).body == "odd");
  CHECK(host.get("%00%FF%20%2F/%3f%23%25.%2b").body == "odd");  // the same bytes, written otherwise
  CHECK(host.put("empty", "").status == 204);
  CHECK(is_local(host.get("empty"), ""));
}

TEST_CASE("A value with a ttl goes when its time is over, others stay") {
  Host host("local", 1);
  CHECK(host.put("short", "x", "?ttl_ms=50").status == 204);
  CHECK(host.put("long", "x", "?ttl_ms=3600000").status == 204);
  CHECK(await([&] { return host.get("short").status == 404; }, kPatience));
  CHECK(host.get("long").status == 200);
}

TEST_CASE("Wrong requests get a clear answer and harm nothing") {
  Host host("local", 1, {"--value-max-bytes", "1000"});
  CHECK(host.get("").status == 400);
  CHECK(host.get("%zz").status == 400);
  CHECK(host.get("abc%2").status == 400);
  CHECK(host.get(std::string(65'536, 'k')).status == 400);
  CHECK(host.put("k", "v", "?ttl_ms=-1").status == 400);
  CHECK(host.put("k", "v", "?ttl_ms=1e3").status == 400);
  CHECK(host.put("k", "v", "?ttl_ms=99999999999999999999").status == 400);
  CHECK(host.put("k", "v", "?mode=shout").status == 400);
  CHECK(host.put("k", std::string(1001, 'v')).status == 413);     // by the worker
  CHECK(host.put("k", std::string(100'000, 'v')).status == 413);  // by the server
  CHECK(host.ask("POST", "/kv/k", "v").status == 405);
  CHECK(host.ask("PATCH", "/kv/k", "v").status == 405);
  CHECK(host.ask("GET", "/clear").status == 405);
  CHECK(host.ask("GET", "/nowhere").status == 404);
  HttpConnection nonsense(host.port());
  nonsense.send_raw("\r\n\r\nNO SUCH PROTOCOL\r\n\r\n");
  nonsense.receive_until_closed();
  CHECK(host.get("k").status == 404);  // nothing of the above was stored
  CHECK(host.put("k", std::string(1000, 'v')).status == 204);
  CHECK(host.get("k").body == std::string(1000, 'v'));
}

TEST_CASE("Stats are one JSON object about the whole host") {
  Host host("local", 2);
  CHECK(host.put("k", "v").status == 204);
  const std::uint64_t hits = host.stat("local_hits");
  constexpr int kReads = 20;  // by either worker
  for (int i = 0; i < kReads; ++i) CHECK(host.get("k").status == 200);
  CHECK(host.stat("local_hits") == hits + kReads);
  CHECK(host.stat("entries") == 1);
  CHECK(host.stat("sets") == 1);
  CHECK(host.stat("segment_bytes") == 8u << 20);
  CHECK(host.stat("processes") == 2);  // the parent has no place
}

TEST_CASE("A connection serves several requests") {
  Host host("local", 1);
  HttpConnection connection(host.port());
  connection.send("PUT", "/kv/k", "v");
  CHECK(connection.receive().status == 204);
  connection.send("GET", "/kv/k");
  CHECK(connection.receive().body == "v");
  connection.send("HEAD", "/kv/k", "", "Connection: close\r\n");
  const std::string head = connection.receive_until_closed();
  CHECK(head.find("Content-Length: 1\r\n") != std::string::npos);
  CHECK(head.ends_with("\r\n\r\n"));  // no body
}

// ---- two hosts --------------------------------------------------------------------------------

TEST_CASE("A value put at one host is served by every worker of the other from shared memory") {
  TwoHosts hosts;
  hosts.change_and_await_b([&] { return hosts.a.put("color", "blue"); });
  const std::uint64_t gets_before = hosts.redis.command_calls("get");
  hosts.b.every_worker("/kv/color", [](const HttpReply& r) { return is_local(r, "blue"); });
  CHECK(hosts.redis.command_calls("get") == gets_before);
  CHECK(hosts.b.stat("remote_hits") == 0);
  CHECK(hosts.b.stat("remote_misses") == 0);
}

TEST_CASE("A value put with invalidate is read from Redis once per host and then shared") {
  TwoHosts hosts;
  hosts.change_and_await_b([&] { return hosts.a.put("color", "blue"); });
  hosts.change_and_await_b([&] { return hosts.a.put("color", "red", "?mode=invalidate"); });
  hosts.a.every_worker("/kv/color", [](const HttpReply& r) { return is_local(r, "red"); });
  const HttpReply first = hosts.b.get("color");
  CHECK(first.body == "red");
  CHECK(first.header("x-larder-source") == "remote");
  hosts.b.every_worker("/kv/color", [](const HttpReply& r) { return is_local(r, "red"); });
}

TEST_CASE("A deleted value is gone on the other host") {
  TwoHosts hosts;
  hosts.change_and_await_b([&] { return hosts.a.put("color", "blue"); });
  CHECK(hosts.b.get("color").status == 200);
  hosts.change_and_await_b([&] { return hosts.a.ask("DELETE", "/kv/color"); });
  hosts.b.every_worker("/kv/color", [](const HttpReply& r) { return r.status == 404; });
  hosts.a.every_worker("/kv/color", [](const HttpReply& r) { return r.status == 404; });
}

TEST_CASE("Clear empties the prefix on both hosts and in Redis") {
  TwoHosts hosts;
  for (const char* key : {"a", "b", "c"}) {
    hosts.change_and_await_b([&] { return hosts.a.put(key, key); });
  }
  hosts.change_and_await_b([&] { return hosts.a.ask("POST", "/clear"); });
  for (const char* key : {"a", "b", "c"}) {
    CHECK(hosts.a.get(key).status == 404);
    CHECK(await([&] { return hosts.b.get(key).status == 404; }, kPatience));
  }
  CHECK(hosts.a.put("a", "again").status == 204);
  CHECK(hosts.a.get("a").body == "again");
}

TEST_CASE("Clear without a prefix drops the local copies and refuses to touch Redis") {
  RedisServer redis;
  Host host("host", 2, {"--redis", redis.unix_socket()});
  REQUIRE(await([&] { return host.in_sync(); }, kPatience));
  CHECK(host.put("k", "v").status == 204);
  const HttpReply reply = host.ask("POST", "/clear");
  CHECK(reply.status == 409);
  CHECK(reply.body.find("prefix") != std::string::npos);
  const HttpReply again = host.get("k");
  CHECK(again.body == "v");
  CHECK(again.header("x-larder-source") == "remote");
}

// ---- Redis goes -------------------------------------------------------------------------------

TEST_CASE("While Redis is down a miss is 503 and what is held is served") {
  RedisServer redis;
  Host host("host", 2, redis_arguments(redis));
  REQUIRE(await([&] { return host.in_sync(); }, kPatience));
  CHECK(host.put("held", "v").status == 204);
  redis.stop();
  // The host notices: what it serves from now on is marked.
  REQUIRE(await([&] { return !host.in_sync(); }, kPatience));
  const HttpReply health = host.ask("GET", "/healthz");
  CHECK(health.status == 503);
  CHECK(health.body.find("not in sync") != std::string::npos);

  const HttpReply miss = host.get("not-held");
  CHECK(miss.status == 503);
  CHECK(miss.body.find("unavailable") != std::string::npos);
  CHECK(host.put("k", "v").status == 503);
  CHECK(host.ask("DELETE", "/kv/other").status == 503);
  host.every_worker("/kv/held", [](const HttpReply& r) {
    return r.status == 200 && r.body == "v" && r.header("x-larder-source") == "local" &&
           r.header("x-larder-stale") == "1";
  });

  redis.start();
  CHECK(await([&] { return host.in_sync(); }, kPatience));
  CHECK(await([&] { return host.put("k", "v").status == 204; }, kPatience));
  CHECK(host.get("not-held").status == 404);
}

TEST_CASE("A server starts while Redis is down") {
  Host host("host", 2, {"--redis", "127.0.0.1:" + std::to_string(free_port())});
  CHECK_FALSE(host.in_sync());
  CHECK(host.get("k").status == 503);
  CHECK(host.put("k", "v").status == 503);
}

// ---- processes --------------------------------------------------------------------------------

TEST_CASE("A killed worker is replaced and the others serve meanwhile") {
  Host host("local");
  CHECK(host.put("k", "v").status == 204);
  const std::set<std::string> before = host.worker_pids();
  const std::string victim = *before.begin();
  REQUIRE(kill(std::stoi(victim), SIGKILL) == 0);
  REQUIRE(host.process().await_output("(pid " + victim + ") was killed by signal 9", kPatience));

  // A connection in the dead worker's queue was reset; the next one finds a living worker.
  CHECK(await([&] { return is_local(host.get("k"), "v"); }, kPatience));
  const std::set<std::string> after = host.worker_pids();
  CHECK(after.size() == before.size());
  CHECK(after.count(victim) == 0);
  host.every_worker("/kv/k", [](const HttpReply& r) { return is_local(r, "v"); });
  CHECK(host.put("k", "w").status == 204);
  host.every_worker("/kv/k", [](const HttpReply& r) { return is_local(r, "w"); });
}

TEST_CASE("A worker that is told to stop drains and is replaced, one by one") {
  Host host("local", 2);
  CHECK(host.put("k", "v").status == 204);
  for (const std::string& pid : host.worker_pids()) {
    REQUIRE(kill(std::stoi(pid), SIGTERM) == 0);
    REQUIRE(host.process().await_output("(pid " + pid + ") exited with code 0", kPatience));
    CHECK(await([&] { return is_local(host.get("k"), "v"); }, kPatience));
    CHECK(host.worker_pids().count(pid) == 0);
  }
}

TEST_CASE("SIGTERM and SIGINT end everybody with code 0, and the segment stays warm") {
  TempDir directory;
  for (const int signal : {SIGTERM, SIGINT}) {
    const std::uint16_t port = free_port();
    Process server({program(), "--name", "warm", "--directory", directory.path(), "--segment-mb",
                    "8", "--workers", "3", "--listen", "127.0.0.1:" + std::to_string(port)});
    REQUIRE_MESSAGE(server.await_output("listening on", kPatience), server.output());
    if (signal == SIGTERM) CHECK(http(port, "PUT", "/kv/k", "v").status == 204);
    CHECK(is_local(http(port, "GET", "/kv/k"), "v"));
    server.signal(signal);
    CHECK(server.wait(kPatience) == 0);
    CHECK(http(port, "GET", "/kv/k").status == 0);  // nobody listens any more
  }
}

TEST_CASE("A request that waits for Redis is answered before its worker leaves") {
  RedisServer redis;
  Host host("host", 2, redis_arguments(redis));
  REQUIRE(await([&] { return host.in_sync(); }, kPatience));
  redis.pause();
  HttpConnection waiting(host.port());
  waiting.send("GET", "/kv/not-held");
  host.process().signal(SIGTERM);
  // The listening sockets are closed: everybody drains.
  REQUIRE(await([&] { return http(host.port(), "GET", "/healthz").status == 0; }, kPatience));
  CHECK(host.process().running());
  redis.resume();
  const HttpReply reply = waiting.receive();
  CHECK(reply.status == 404);
  CHECK(reply.header("connection") == "close");
  CHECK(host.process().wait(kPatience) == 0);
}

TEST_CASE("The loop answers while every thread of the pool waits for Redis") {
  RedisServer redis;
  Host host("host", 1, redis_arguments(redis, {"--threads", "2"}));
  REQUIRE(await([&] { return host.in_sync(); }, kPatience));
  CHECK(host.put("held", "v").status == 204);
  redis.pause();
  std::vector<std::unique_ptr<HttpConnection>> waiting;
  for (int i = 0; i < 8; ++i) {
    waiting.push_back(std::make_unique<HttpConnection>(host.port()));
    waiting.back()->send("GET", "/kv/not-held");
  }
  const HttpReply held = host.get("held");
  CHECK(held.status == 200);
  CHECK(held.header("x-larder-source") == "local");
  CHECK(host.ask("GET", "/stats").status == 200);
  redis.resume();
  for (const auto& connection : waiting) CHECK(connection->receive().status == 404);
}

TEST_CASE("When too many requests wait for Redis the next one is told to come back later") {
  RedisServer redis;
  Host host("host", 1, redis_arguments(redis, {"--threads", "1", "--queue", "4"}));
  REQUIRE(await([&] { return host.in_sync(); }, kPatience));
  redis.pause();
  std::vector<std::unique_ptr<HttpConnection>> sent;  // all stay open: what waits goes on waiting
  HttpReply refused;
  const auto is_refused = [&] {
    sent.push_back(std::make_unique<HttpConnection>(host.port(), 50ms));
    sent.back()->send("GET", "/kv/not-held");
    refused = sent.back()->receive();
    return refused.status != 0;
  };
  CHECK(await(is_refused, 4s));  // sooner than Redis' timeout ends the first of them
  CHECK(refused.status == 503);
  CHECK(refused.header("retry-after") == "1");
  CHECK(sent.size() > 4);
  redis.resume();
  CHECK(await([&] { return host.get("not-held").status == 404; }, kPatience));
}

TEST_CASE("A client that hangs up while Redis is slow harms nobody") {
  RedisServer redis;
  Host host("host", 1, redis_arguments(redis));
  REQUIRE(await([&] { return host.in_sync(); }, kPatience));
  const std::set<std::string> before = host.worker_pids();
  redis.pause();
  for (int i = 0; i < 20; ++i) {
    HttpConnection impatient(host.port());
    impatient.send("GET", "/kv/not-held");
  }
  redis.resume();
  CHECK(host.put("k", "v").status == 204);  // behind the twenty in the pool's queue
  CHECK(host.get("k").body == "v");
  CHECK(host.worker_pids() == before);
}

TEST_CASE("When the parent is killed its workers leave") {
  Host host("local", 3);
  const std::set<std::string> pids = host.worker_pids();
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // the orphans become this test's children
  host.process().signal(SIGKILL);
  CHECK(host.process().wait(kPatience) == 128 + SIGKILL);
  for (const std::string& pid : pids) {
    int status = -1;
    CHECK(await([&] { return waitpid(std::stoi(pid), &status, WNOHANG) > 0; }, kPatience));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);  // they drained
  }
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_CASE("Workers drop root for the user that is named" * doctest::skip(geteuid() != 0)) {
  const passwd* nobody = getpwnam("nobody");
  REQUIRE(nobody != nullptr);
  Host host("owned", 2, {"--user", "nobody"});
  CHECK(host.put("k", "v").status == 204);
  host.every_worker("/kv/k", [](const HttpReply& r) { return is_local(r, "v"); });
  for (const std::string& pid : host.worker_pids()) {
    std::ifstream status("/proc/" + pid + "/status");
    std::string text((std::istreambuf_iterator<char>(status)), std::istreambuf_iterator<char>());
    const std::string id = std::to_string(nobody->pw_uid);
    CHECK(text.find("Uid:\t" + id + "\t" + id + "\t" + id + "\t" + id) != std::string::npos);
    CHECK(text.find("Groups:\t" + std::to_string(nobody->pw_gid)) != std::string::npos);
  }
  // One that starts later does the same.
  const std::string victim = *host.worker_pids().begin();
  REQUIRE(kill(std::stoi(victim), SIGKILL) == 0);
  CHECK(await([&] { return host.worker_pids().count(victim) == 0; }, kPatience));
  host.every_worker("/kv/k", [](const HttpReply& r) { return is_local(r, "v"); });
}

// ---- starting ---------------------------------------------------------------------------------

TEST_CASE("Options that cannot work end with code 2 and a message that names them") {
  struct Wrong {
    Arguments arguments;
    const char* message;
  };
  const std::vector<Wrong> all = {
      {{"--workers", "0"}, "--workers"},
      {{"--workers", "-1"}, "--workers"},
      {{"--workers", "257"}, "256"},
      {{"--workers", "many"}, "--workers"},
      {{"--threads", "0"}, "--threads"},
      {{"--segment-mb", "-64"}, "--segment-mb"},
      {{"--segment-mb", "3"}, "--segment-mb"},
      {{"--segment-mb", "99999999999999999999"}, "--segment-mb"},
      {{"--ttl-ms", "-1"}, "--ttl-ms"},
      {{"--redis-timeout-ms", "0"}, "--redis-timeout-ms"},
      {{"--redis-db", "65536"}, "--redis-db"},
      {{"--listen", "8080"}, "host:port"},
      {{"--listen", "127.0.0.1:65536"}, "host:port"},
      {{"--listen", "127.0.0.1:"}, "host:port"},
      {{"--listen", "127.0.0.1:0"}, "--workers 1"},
      {{"--user", "no-such-user"}, "no-such-user"},
      {{"--name", "../etc"}, "name"},
      {{"--name", ""}, "name"},
      {{"--directory", "relative"}, "directory"},
      {{"--redis", "host:port:port"}, "redis"},
      {{"--policy", "random"}, "--policy"},
      {{"--no-such-option"}, "--no-such-option"},
  };
  TempDir directory;  // for what starts against our expectation
  for (const Wrong& wrong : all) {
    const bool names_one = wrong.arguments.front() == "--directory";
    const Arguments elsewhere =
        names_one ? Arguments{} : Arguments{"--directory", directory.path()};
    const Ended ended = run_to_end(wrong.arguments + elsewhere);
    INFO(wrong.arguments.front() << ": " << ended.output);
    CHECK(ended.code == 2);
    CHECK(ended.output.find(wrong.message) != std::string::npos);
  }
}

TEST_CASE("A port that is taken is said before any worker starts") {
  Host first("first", 1);
  TempDir directory;
  const Ended second =
      run_to_end({"--name", "second", "--directory", directory.path(), "--segment-mb", "8",
                  "--listen", "127.0.0.1:" + std::to_string(first.port())});
  CHECK(second.code == 1);
  CHECK(second.output.find("Address already in use") != std::string::npos);
  CHECK(second.output.find("listening on") == std::string::npos);
}

TEST_CASE("One worker may ask the kernel for a port") {
  TempDir directory;
  Process server({program(), "--directory", directory.path(), "--segment-mb", "8", "--workers", "1",
                  "--listen", "127.0.0.1:0"});
  REQUIRE_MESSAGE(server.await_output("listening on 127.0.0.1:", kPatience), server.output());
  const std::string line = server.output().substr(server.output().find("127.0.0.1:"));
  const int port = std::stoi(line.substr(line.find(':') + 1));
  CHECK(port > 0);
  CHECK(http(static_cast<std::uint16_t>(port), "GET", "/healthz").status == 200);
  server.signal(SIGTERM);
  CHECK(server.wait(kPatience) == 0);
}

TEST_CASE("A segment of another configuration is refused with both values") {
  RedisServer redis;
  TempDir directory;
  const Arguments common = {"--name",       "shop", "--directory", directory.path(),
                            "--segment-mb", "8",    "--workers",   "1"};
  const auto listen = [] {
    return Arguments{"--listen", "127.0.0.1:" + std::to_string(free_port())};
  };
  Process first(Arguments{program()} + common + listen() + redis_arguments(redis));
  REQUIRE_MESSAGE(first.await_output("listening on", kPatience), first.output());
  const Ended second = run_to_end(common + listen() +
                                  Arguments{"--redis", redis.unix_socket(), "--prefix", "other:"});
  CHECK(second.code == 1);
  CHECK(second.output.find("kv:") != std::string::npos);
  CHECK(second.output.find("other:") != std::string::npos);
  first.signal(SIGTERM);
  CHECK(first.wait(kPatience) == 0);
}

TEST_CASE("A folder that cannot hold the segment is an error of the start") {
  const Ended ended = run_to_end(
      {"--directory", "/no/such/folder", "--listen", "127.0.0.1:" + std::to_string(free_port())});
  CHECK(ended.code == 1);
  CHECK(ended.output.find("/no/such/folder") != std::string::npos);
}

TEST_CASE("A segment for which there is no room is an error of the start and leaves nothing") {
  TempDir directory;
  const Ended ended = run_to_end({"--directory", directory.path(), "--segment-mb", "16777216",
                                  "--listen", "127.0.0.1:" + std::to_string(free_port())});
  CHECK(ended.code == 1);
  CHECK(ended.output.find("16777216 MiB") != std::string::npos);
  for (const auto& file : std::filesystem::directory_iterator(directory.path())) {
    CHECK(file.file_size() == 0);  // the lock of the creation may stay, no memory may
  }
}
