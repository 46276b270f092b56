// Two hosts of four worker processes each, forked after the cache was opened, and a real Redis.
//
// This process plays the masters: it opens the caches and never joins, so it has no thread when it
// forks.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "shm/fork.h"
#include "shm/table.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"
#include "tests/support/two_hosts.h"

using namespace larder;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
using test::Answer;
using test::await;
using test::Host;
using test::host_options;
using test::HostView;
using test::open_cache;
using test::RedisServer;
using test::TempDir;
using test::TwoHosts;
using test::Worker;

namespace {

constexpr int kWorkers = 4;
// A takeover is a matter of milliseconds when the leader died, of seconds when it only stopped.
constexpr auto kTakeover = 5s;

std::ptrdiff_t thread_count() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator{});
}

void check_clean(const HostView& view, bool quiescent) {
  const shm::CheckReport report = view.check(quiescent);
  for (const std::string& violation : report.violations) FAIL_CHECK(violation);
}

}  // namespace

TEST_CASE("a master that only opens has no thread and no place") {
  const RedisServer server;
  const TempDir folder;
  const std::ptrdiff_t threads = thread_count();
  const Options options = host_options(folder, "h", server.unix_socket());
  Cache cache = open_cache(options);
  const HostView view(options);
  CHECK(thread_count() == threads);
  CHECK(cache.stats().processes == 0);
  CHECK(view.leader().term == 0);
  Worker worker(cache);
  CHECK(await([&] { return view.in_sync(); }));
  CHECK(view.leader().pid == static_cast<std::uint32_t>(worker.pid()));
  CHECK(cache.stats().processes == 1);
  CHECK(thread_count() == threads);
  CHECK(worker.finish() == 0);
  CHECK(cache.stats().processes == 0);
  CHECK(await([&] { return !cache.in_sync(); }));
  check_clean(view, true);
}

TEST_CASE("a value set by any worker is in every worker's reach on both hosts, without a GET") {
  TwoHosts t;
  int n = 0;
  for (Host* host : {&t.a, &t.b}) {
    for (Worker& writer : host->workers) {
      const std::string key = "key " + std::to_string(n);
      const std::string value = "value " + std::to_string(n++);
      REQUIRE(writer.set(key, value).ok());
      // On its own host at once.
      for (Worker& reader : host->workers) CHECK(reader.get_local(key) == value);
      t.catch_up();
      for (Host* each : {&t.a, &t.b}) {
        for (Worker& reader : each->workers) {
          const Answer found = reader.get(key);
          CHECK(found == value);
          CHECK(found.source == Source::kLocal);
          CHECK_FALSE(found.stale);
        }
      }
    }
  }
  CHECK(n == 2 * kWorkers);
  CHECK(t.server.command_calls("get") == 0);
  REQUIRE(t.a.workers[1].remove("key 0").ok());
  t.catch_up();
  for (Host* host : {&t.a, &t.b}) {
    for (Worker& reader : host->workers) CHECK(reader.get_local("key 0").source == Source::kNone);
  }
  check_clean(t.a.view, true);
  check_clean(t.b.view, true);
}

TEST_CASE("one process leads each host, and holds the host's only subscription") {
  TwoHosts t;
  CHECK(t.subscribers() == 2);
  for (Host* host : {&t.a, &t.b}) {
    CHECK(host->cache.stats().processes == kWorkers);
    CHECK(host->cache.stats().leader_changes == 1);
    CHECK(host->view.leader().term == 1);
    host->leader();
  }
  for (Host* host : {&t.a, &t.b}) {
    for (Worker& worker : host->workers) CHECK(worker.finish() == 0);
    host->workers.clear();
    CHECK(host->cache.stats().stale_term_writes == 0);
    CHECK(host->cache.stats().locks_lost == 0);
  }
  CHECK(await([&] { return t.subscribers() == 0; }));
}

TEST_CASE("when the leader is killed, another worker follows") {
  TwoHosts t;
  REQUIRE(t.b.workers[0].set("probe", "before").ok());
  t.catch_up();
  while (t.a.workers.size() > 1) {
    Worker& victim = t.a.leader();
    Worker& survivor = t.a.other_than(victim);
    REQUIRE(survivor.get_local("probe").ok());
    REQUIRE(t.b.workers[0].set("probe", "before").ok());
    t.catch_up();
    const auto begin = std::chrono::steady_clock::now();
    victim.kill();
    t.a.remove(victim);
    Worker& reader = t.a.workers.front();
    const auto took = t.until_a_applies_an_event(reader, begin, kTakeover + 10s);
    REQUIRE(took);
    MESSAGE("the next leader applied an event after "
            << std::chrono::duration_cast<milliseconds>(*took).count() << " ms");
    CHECK(*took < kTakeover);
    t.catch_up();
  }
  CHECK(t.subscribers() == 2);
  CHECK(t.a.cache.stats().stale_term_writes == 0);
  check_clean(t.a.view, true);
}

TEST_CASE("a stopped leader is replaced, and steps down when it goes on") {
  TwoHosts t;
  REQUIRE(t.b.workers[0].set("probe", "before").ok());
  t.catch_up();
  Worker& stopped = t.a.leader();
  Worker& reader = t.a.other_than(stopped);
  const std::uint64_t term = t.a.view.leader().term;
  const auto begin = std::chrono::steady_clock::now();
  stopped.stop();
  REQUIRE(
      await([&] { return t.a.view.leader().term > term && t.a.view.in_sync(); }, kTakeover + 5s));
  const auto took = t.until_a_applies_an_event(reader, begin, kTakeover + 10s);
  REQUIRE(took);
  MESSAGE("a stopped leader was replaced after "
          << std::chrono::duration_cast<milliseconds>(*took).count() << " ms");
  CHECK(*took < kTakeover);
  CHECK(t.a.view.leader().pid != static_cast<std::uint32_t>(stopped.pid()));

  stopped.signal(SIGCONT);
  // One subscription a host again: it has stepped down. (It may be elected later, as anybody.)
  CHECK(await([&] { return t.subscribers() == 2; }));
  for (int i = 0; i < 20; ++i) {
    const std::string value = "after " + std::to_string(i);
    REQUIRE(t.b.workers[1].set("k", value).ok());
    t.catch_up();
    for (Worker& worker : t.a.workers) CHECK(worker.get("k") == value);
  }
  CHECK(await([&] { return t.a.view.in_sync(); }));
  CHECK(t.a.cache.stats().locks_lost == 0);
  check_clean(t.a.view, true);
}

TEST_CASE("a worker that is stopped delays nobody's reads for long") {
  TwoHosts t;
  Worker& stopped = t.a.other_than(t.a.leader());
  Worker* reader = nullptr;
  for (Worker& worker : t.a.workers) {
    if (worker.pid() != stopped.pid()) reader = &worker;
  }
  REQUIRE(reader != nullptr);
  stopped.hammer(200);
  REQUIRE(await([&] { return t.a.cache.stats().sets > 50; }));
  stopped.stop();
  for (int i = 0; i < 200; ++i) {
    const std::string key = "hammer:" + std::to_string(i);
    const Answer found = reader->get(key);
    CHECK(found.ok());
    REQUIRE(reader->set(key, "new").ok());
    CHECK(reader->get(key) == "new");
  }
  stopped.signal(SIGCONT);
  check_clean(t.a.view, false);
}

TEST_CASE("workers killed in the middle of writes leave a sound segment and no wrong value") {
  const TempDir folder;
  std::mt19937 random(7);
  // Half of the rounds without Redis: then nearly all of the time is spent inside the segment.
  for (const bool with_redis : {false, true}) {
    CAPTURE(with_redis);
    std::optional<RedisServer> server;
    if (with_redis) server.emplace();
    const Options options = host_options(folder, with_redis ? "remote" : "alone",
                                         with_redis ? server->unix_socket() : "");
    Host host(options, 2);
    for (Worker& worker : host.workers) worker.hammer(3000);
    const int rounds = with_redis ? 15 : 60;
    for (int round = 0; round < rounds; ++round) {
      // At a random place: after some more writes, whoever made them.
      const std::uint64_t sets = host.cache.stats().sets + random() % 2000;
      REQUIRE(await([&] { return host.cache.stats().sets >= sets; }));
      Worker& victim = host.workers[round % 2];
      victim.signal(SIGKILL);
      const int status = victim.wait();
      REQUIRE(WIFSIGNALED(status));  // and not kWrongValue
      CHECK(WTERMSIG(status) == SIGKILL);
      check_clean(host.view, false);
      host.workers.erase(host.workers.begin() + round % 2);
      host.workers.insert(host.workers.begin() + round % 2, Worker(host.cache));
      host.workers[round % 2].hammer(3000);
    }
    for (Worker& worker : host.workers) {
      worker.signal(SIGKILL);
      CHECK(WIFSIGNALED(worker.wait()));
    }
    host.workers.clear();
    // Whoever comes next mends what the dead left, and serves only what belongs to its key.
    Worker heir(host.cache);
    for (int i = 0; i < 3000; ++i) {
      const std::string key = "hammer:" + std::to_string(i);
      const Answer found = heir.get_local(key);
      REQUIRE(found.ok());
      if (found.source == Source::kLocal) CHECK(found.value.starts_with(key + '=' + key));
      REQUIRE(heir.set(key, key + '=' + key).ok());
    }
    CHECK(await([&] { return host.cache.stats().processes == 1 || !with_redis; }));
    CHECK(host.cache.stats().locks_lost == 0);
    MESSAGE("stripes taken over from the dead: " << host.cache.stats().takeovers);
    check_clean(host.view, false);
  }
}

TEST_CASE(
    "schedule 14d: what a child of the leader's process does with its copy leaves the leader "
    "subscribed") {
  TwoHosts t;
  const auto subscriptions = t.subscriptions();
  REQUIRE(subscriptions.size() == 2);
  Worker& leader = t.a.leader();
  const std::uint64_t term = t.a.view.leader().term;
  const std::uint64_t raises = t.a.cache.stats().epoch_raises;
  int unasked = 0;
  for (int i = 0; i < 10; ++i) {
    const bool uses_cache = i % 2 == 1;
    const std::uint64_t asked = t.server.command_calls("subscribe");
    const Answer done = leader.fork_child(uses_cache);
    REQUIRE(done.ok());
    CHECK(done.message == "0");
    const std::string value = "value " + std::to_string(i);
    REQUIRE(t.b.workers[0].set("k", value).ok());
    t.catch_up();
    for (Worker& worker : t.a.workers) CHECK(worker.get_local("k") == value);
    unasked += uses_cache && t.server.command_calls("subscribe") == asked;
  }
  // A leader that hears nothing any more asks Redis after a while, and hears again.
  CHECK(unasked > 0);
  CHECK(t.a.view.leader().term == term);
  CHECK(t.a.cache.stats().epoch_raises == raises);
  CHECK(await([&] { return t.subscriptions() == subscriptions; }));  // its own, all the time
}

TEST_CASE(
    "schedule 5b: a second copy of the library in a process does not lose the locks of the first") {
  const TempDir folder;
  const Options options = host_options(folder, "alone", "");
  const std::string path = shm::Segment::path_of(options.directory, options.name);
  (void)shm::fork_generation();  // from here on the two copies count forks differently
  test::Forked owner([&](test::Steps& steps) {
    auto cache = Cache::open(options);
    CHILD_REQUIRE(cache.ok());
    CHILD_REQUIRE(cache->set("k", "v").ok());
    {
      // This program has the layers below once more, beside the shared library's.
      auto segment = shm::Segment::attach(path, shm::Access::kReadWrite);
      CHILD_REQUIRE(segment.ok());
      shm::Table second(*segment, shm::TableOptions{});
      CHILD_REQUIRE(second.join().ok());
      CHILD_REQUIRE(shm::processes(**segment).size() == 2);
    }
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(owner.await_step());
  const auto segment = shm::Segment::attach(path, shm::Access::kReadWrite);
  REQUIRE(segment.ok());
  const auto all = shm::processes(**segment);
  REQUIRE(all.size() == 1);
  CHECK(all[0].pid == static_cast<std::uint32_t>(owner.pid()));
  CHECK((*segment)->lock_file()->held_by_other(all[0].place));
}

TEST_CASE("schedule 5b, the leader: while one copy of the library leads, another cannot") {
  const RedisServer server;
  const TempDir folder;
  const Options options = host_options(folder, "one", server.unix_socket());
  (void)shm::fork_generation();
  test::Forked owner([&](test::Steps&) {
    auto cache = Cache::open(options);
    CHILD_REQUIRE(cache.ok());
    CHILD_REQUIRE(cache->start().ok());
    CHILD_REQUIRE(await([&] { return cache->in_sync(); }));
    auto segment = shm::Segment::attach(shm::Segment::path_of(options.directory, options.name),
                                        shm::Access::kReadWrite);
    CHILD_REQUIRE(segment.ok());
    shm::Table second(*segment, shm::TableOptions{});
    CHILD_REQUIRE(second.join().ok());
    CHILD_REQUIRE(!second.processes().try_lead());
    return 0;
  });
  CHECK(owner.wait() == 0);
}

TEST_CASE("when all workers are restarted, what they left is not served as in sync for long") {
  TwoHosts t;
  REQUIRE(t.a.workers[0].set("k", "old").ok());
  t.catch_up();
  // The leader last, so that nobody takes over: it dies in sync.
  while (t.a.workers.size() > 1) {
    Worker& follower = t.a.other_than(t.a.leader());
    follower.kill();
    t.a.remove(follower);
  }
  t.a.leader().kill();
  t.a.workers.clear();
  // Nobody at A hears this.
  REQUIRE(t.b.workers[0].set("k", "new").ok());
  t.server.pause();                                     // and nobody can ask
  REQUIRE(await([&] { return !t.a.view.in_sync(); }));  // the lease that it left ends

  SUBCASE("to a new worker of the same master") {
    Worker worker(t.a.cache);
    const Answer found = worker.get_local("k");
    CHECK((found.source == Source::kNone || found.stale));
    t.a.workers.push_back(std::move(worker));
  }
  SUBCASE("to a new master that reads without joining") {
    Cache master = open_cache(t.a.cache.options());
    Lookup found;
    REQUIRE(master.get_local("k", found).ok());
    CHECK((!found.hit() || found.stale));
    t.a.workers.emplace_back(master);
  }
  t.server.resume();
  REQUIRE(await([&] { return t.a.view.in_sync(); }));
  t.catch_up();
  const Answer found = t.a.workers[0].get("k");
  CHECK(found == "new");
  CHECK_FALSE(found.stale);
}

TEST_CASE("a master that never started notices that its last worker was killed") {
  TempDir folder;
  RedisServer redis;
  Host host(test::host_options(folder, "a", redis.unix_socket()), 1);
  REQUIRE(test::await([&] { return host.cache.in_sync(); }));
  REQUIRE(host.workers[0].set("k", "v").ok());
  host.workers.clear();  // SIGKILL: nobody is left to say that nobody follows
  CHECK(test::await([&] { return !host.cache.in_sync(); }));
  Lookup lookup;
  REQUIRE(host.cache.get_local("k", lookup).ok());
  CHECK(lookup.hit());
  CHECK(lookup.stale);
}

TEST_CASE("a host whose workers all left orderly is taken up again by the next") {
  TwoHosts t;
  for (int round = 0; round < 3; ++round) {
    for (Worker& worker : t.a.workers) CHECK(worker.finish() == 0);
    t.a.workers.clear();
    REQUIRE(await([&] { return !t.a.view.in_sync(); }));
    const std::string value = "value " + std::to_string(round);
    REQUIRE(t.b.workers[0].set("k", value).ok());
    for (int i = 0; i < kWorkers; ++i) t.a.workers.emplace_back(t.a.cache);
    REQUIRE(await([&] { return t.a.view.in_sync(); }));
    t.catch_up();
    for (Worker& worker : t.a.workers) CHECK(worker.get("k") == value);
  }
  CHECK(t.a.cache.stats().processes == kWorkers);
}
