// Who leads, when the leader or a candidate is killed, stopped, forked or replaced by another
// program at any moment. Real processes, a real Redis.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "larder/cache.h"
#include "tests/support/forked.h"
#include "tests/support/tracer.h"
#include "tests/support/two_hosts.h"

using namespace larder;
using namespace std::chrono_literals;
using test::await;
using test::Forked;
using test::Host;
using test::host_options;
using test::HostView;
using test::log_end;
using test::RedisConnection;
using test::RedisServer;
using test::Steps;
using test::TempDir;
using test::Tracer;
using test::TwoHosts;
using test::Worker;

namespace {

constexpr auto kPatience = 60s;
constexpr const char* kSyncThread = "larder-sync";

// Does it wait for a leader's death?
bool watches_a_leader(pid_t process) {
  namespace fs = std::filesystem;
  std::error_code error;
  for (const auto& fd : fs::directory_iterator("/proc/" + std::to_string(process) + "/fd", error)) {
    if (fs::read_symlink(fd, error) == "anon_inode:[pidfd]") return true;
  }
  return false;
}

// How many ranges of bytes it holds record locks on: one for its place, another to lead.
int record_locks(pid_t process) {
  std::ifstream locks("/proc/locks");
  const std::string holder = " WRITE " + std::to_string(process) + " ";
  int held = 0;
  for (std::string line; std::getline(locks, line);) held += line.find(holder) != line.npos;
  return held;
}

void check_events_reach_a(TwoHosts& hosts, Worker& reader) {
  CHECK(hosts.until_a_applies_an_event(reader, std::chrono::steady_clock::now(), kPatience));
}

void check_nothing_stale(TwoHosts& hosts) {
  for (const std::string& key : hosts.wrong_at_a()) FAIL_CHECK("a wrong value of " << key);
  CHECK(hosts.a.cache.stats().stale_term_writes == 0);
  CHECK(hosts.a.cache.stats().locks_lost == 0);
  for (const std::string& fault : hosts.a.view.check().violations) FAIL_CHECK(fault);
}

}  // namespace

// ---- candidates -------------------------------------------------------------------------------

TEST_CASE("a candidate killed before any of its system calls: the next one leads") {
  TwoHosts hosts(1, 1);
  Host& a = hosts.a;
  Worker& other_host = hosts.b.workers[0];
  bool elected = false;
  int calls = 0;
  while (!elected) {
    CAPTURE(calls);
    // The leader, the candidate, and who is to lead when both are dead.
    a.workers.emplace_back(a.cache);
    a.workers.emplace_back(a.cache);
    Worker& candidate = a.workers[1];
    Worker& heir = a.workers[2];
    for (const Worker* each : {&candidate, &heir}) {
      REQUIRE(await([&] { return watches_a_leader(each->pid()); }, kPatience));
    }
    heir.stop();
    {
      Tracer tracer(candidate.pid(), kSyncThread);
      REQUIRE(a.workers[0].pid() == static_cast<pid_t>(a.view.leader().pid));
      a.workers[0].kill();
      const auto leads = [&] {
        return a.view.in_sync() && a.view.leader().pid == static_cast<unsigned>(candidate.pid());
      };
      for (int i = 0; i <= calls && !elected; ++i) {
        tracer.to_system_call();
        elected = i > 0 && leads();
      }
      tracer.kill();
    }
    candidate.kill();
    ++calls;
    const std::string value = "value " + std::to_string(calls);
    REQUIRE(other_host.set("k", value).ok());
    heir.signal(SIGCONT);
    REQUIRE(await(
        [&] {
          return a.view.in_sync() && a.view.leader().pid == static_cast<unsigned>(heir.pid());
        },
        kPatience));
    CHECK(heir.get("k") == value);
    check_events_reach_a(hosts, heir);
    check_nothing_stale(hosts);
    a.workers.erase(a.workers.begin(), a.workers.begin() + 2);
  }
  MESSAGE("from the leader's death until it led, a candidate made " << calls - 1
                                                                    << " system calls");
  CHECK(calls > 20);
  CHECK(await([&] { return hosts.subscribers() == 2; }, kPatience));
}

namespace {

// Memory runs out whenever this is told that its process was elected, twice.
class Forgetful final : public Logger {
 public:
  void log(LogLevel, std::string_view message) override {
    if (message.starts_with("elected") && ++elections_ <= 2) throw std::bad_alloc();
  }

 private:
  std::atomic<int> elections_{0};
};

}  // namespace

TEST_CASE(
    "a candidate without memory at its election gives it back, and is elected in a later turn") {
  RedisServer server;
  TempDir folder;
  Options options = host_options(folder, "a", server.unix_socket());
  options.logger = std::make_shared<Forgetful>();
  // The first is elected as its thread begins, the second by the first one's death.
  Host a(options, 1);
  REQUIRE(await([&] { return a.view.in_sync(); }, kPatience));
  CHECK(a.view.leader().term == 3);
  a.workers.emplace_back(a.cache);
  REQUIRE(await([&] { return watches_a_leader(a.workers[1].pid()); }, kPatience));
  a.workers[0].kill();
  REQUIRE(await(
      [&] {
        return a.view.in_sync() && a.view.leader().pid == static_cast<unsigned>(a.workers[1].pid());
      },
      kPatience));
  CHECK(a.view.leader().term == 6);
  CHECK(record_locks(a.workers[1].pid()) == 2);
}

TEST_CASE("of candidates that wake at the same time one leads, and no term is wasted") {
  TwoHosts hosts(4, 1);
  Host& a = hosts.a;
  for (int round = 0; round < 10; ++round) {
    CAPTURE(round);
    for (const Worker& each : a.workers) {
      const bool leads = each.pid() == static_cast<pid_t>(a.view.leader().pid);
      REQUIRE(await([&] { return leads || watches_a_leader(each.pid()); }, kPatience));
    }
    const std::uint64_t changes = a.cache.stats().leader_changes;
    const std::uint64_t term = a.view.leader().term;
    Worker& victim = a.leader();
    victim.signal(SIGKILL);
    const pid_t dead = victim.pid();
    a.remove(victim);
    REQUIRE(await([&] { return a.view.in_sync() && a.view.leader().term > term; }, kPatience));
    CHECK(a.view.leader().pid != static_cast<unsigned>(dead));
    check_events_reach_a(hosts, a.workers[0]);
    CHECK(a.view.leader().term == term + 1);
    CHECK(a.cache.stats().leader_changes == changes + 1);
    CHECK(await([&] { return hosts.subscribers() == 2; }, kPatience));
    a.workers.emplace_back(a.cache);
  }
  check_nothing_stale(hosts);
}

TEST_CASE("a candidate stopped before it raises the term does not depose who was elected since") {
  constexpr int kBefore = 20;
  TwoHosts hosts(2, 1);
  Host& a = hosts.a;
  const auto leads = [&](const Worker& worker) {
    return a.view.in_sync() && a.view.leader().pid == static_cast<unsigned>(worker.pid());
  };
  const auto take_lock_of = [&](Worker& leader, const Worker& candidate, Tracer& tracer) {
    REQUIRE(record_locks(candidate.pid()) == 1);
    leader.kill();
    while (record_locks(candidate.pid()) == 1) {
      tracer.to_system_call();
      tracer.step();
    }
  };
  // How many instructions it takes a candidate from having the lock to raising the term.
  int instructions = 0;
  {
    Worker& first = a.leader();
    Worker& candidate = a.other_than(first);
    REQUIRE(await([&] { return watches_a_leader(candidate.pid()); }, kPatience));
    const std::uint64_t term = a.view.leader().term;
    {
      Tracer tracer(candidate.pid(), kSyncThread);
      take_lock_of(first, candidate, tracer);
      for (; a.view.leader().term == term; ++instructions) tracer.step();
    }
    REQUIRE(await([&] { return leads(candidate); }, kPatience));
    a.remove(first);
  }
  REQUIRE(instructions > kBefore);

  a.workers.emplace_back(a.cache);
  a.workers.emplace_back(a.cache);
  Worker& candidate = a.workers[1];
  Worker& elected = a.workers[2];
  for (const Worker* each : {&candidate, &elected}) {
    REQUIRE(await([&] { return watches_a_leader(each->pid()); }, kPatience));
  }
  elected.stop();
  const std::uint64_t term = a.view.leader().term;
  {
    Tracer tracer(candidate.pid(), kSyncThread);
    take_lock_of(a.workers[0], candidate, tracer);
    for (int i = 0; i < instructions - kBefore; ++i) tracer.step();
    tracer.leave_stopped();
  }
  REQUIRE(a.view.leader().term == term);
  // The candidate has the lock, so this one waits until nobody's heart has beaten for a while.
  elected.signal(SIGCONT);
  REQUIRE(await([&] { return leads(elected); }, kPatience));
  CHECK(a.view.leader().term == term + 1);

  candidate.signal(SIGCONT);
  CHECK(await([&] { return record_locks(candidate.pid()) == 1; }, kPatience));
  CHECK(await([&] { return record_locks(elected.pid()) == 2; }, kPatience));
  CHECK(leads(elected));
  CHECK(a.view.leader().term == term + 1);
  check_events_reach_a(hosts, candidate);
  check_nothing_stale(hosts);
  // It stands for the next election all the same.
  elected.kill();
  CHECK(await([&] { return leads(candidate); }, kPatience));
  check_events_reach_a(hosts, candidate);
}

// ---- a leader that is stopped ------------------------------------------------------------------

TEST_CASE("who took over from a stopped leader keeps leading when that one goes on") {
  TwoHosts hosts(4, 1);
  Host& a = hosts.a;
  for (int round = 0; round < 2; ++round) {
    CAPTURE(round);
    const std::uint64_t term = a.view.leader().term;
    Worker& stopped = a.leader();
    stopped.stop();
    REQUIRE(await([&] { return a.view.leader().term > term && a.view.in_sync(); }, kPatience));
    const shm::LeaderInfo next = a.view.leader();
    stopped.signal(SIGCONT);
    CHECK(await([&] { return hosts.subscribers() == 2; }, kPatience));
    // Time enough for everybody to have stood for election.
    CHECK(await(
        [&] {
          const shm::LeaderInfo now = a.view.leader();
          return now.term != next.term || now.heartbeat > next.heartbeat + 10;
        },
        kPatience));
    CHECK(a.view.leader().term == next.term);
    check_events_reach_a(hosts, a.workers[0]);
  }
  check_nothing_stale(hosts);
  // It has the lock by now, which is free at once when it dies.
  const std::uint64_t term = a.view.leader().term;
  Worker& victim = a.leader();
  victim.signal(SIGKILL);
  REQUIRE(await([&] { return a.view.leader().term > term && a.view.in_sync(); }, kPatience));
  a.remove(victim);
  check_events_reach_a(hosts, a.workers[0]);
}

// ---- a leader that is stopped in the midst of an event ----------------------------------------

TEST_CASE(
    "a leader stopped in the midst of an event does no harm when it goes on as another leads") {
  enum class Where { kBeforeTheLock, kAtItsBegin, kAfterTheWrite, kBehindTheLock };
  for (const Where where :
       {Where::kBeforeTheLock, Where::kAtItsBegin, Where::kAfterTheWrite, Where::kBehindTheLock}) {
    CAPTURE(static_cast<int>(where));
    const bool inside = where == Where::kAtItsBegin || where == Where::kAfterTheWrite;
    TwoHosts hosts(2, 1);
    Host& a = hosts.a;
    Worker& other_host = hosts.b.workers[0];
    // Another stripe than that of the key by which it is seen that events are applied.
    std::string key = "k";
    while (a.view.stripe_of(key) == a.view.stripe_of("probe")) key += 'k';
    REQUIRE(other_host.set(key, "old").ok());
    hosts.catch_up();
    Worker& stopped = a.leader();
    Worker& reader = a.other_than(stopped);
    REQUIRE(reader.get_local(key) == "old");

    const std::uint64_t term = a.view.leader().term;
    {
      Tracer tracer(stopped.pid(), kSyncThread);
      REQUIRE(other_host.set(key, "in its hands").ok());
      const std::uint64_t event = log_end(hosts.redis).seq;
      const auto locked = [&] { return a.view.locked(a.view.stripe_of(key)); };
      while (a.view.leader().head_seq != event) tracer.step();
      REQUIRE(a.view.leader().cursor.seq != event);
      if (where != Where::kBeforeTheLock) {
        while (!locked()) tracer.step();
      }
      if (where == Where::kAfterTheWrite) {
        while (a.view.value(key) != "in its hands") tracer.step();
      }
      if (where == Where::kBehindTheLock) {
        while (locked()) tracer.step();
      }
      REQUIRE(a.view.leader().cursor.seq != event);
      tracer.leave_stopped();
      REQUIRE(locked() == inside);
    }
    REQUIRE(other_host.set(key, "later").ok());
    REQUIRE(await([&] { return a.view.leader().term > term && a.view.in_sync(); }, kPatience));
    check_events_reach_a(hosts, reader);
    // Where it holds the lock nothing can be kept, and nothing old is found.
    if (inside) {
      CHECK(a.view.totals().bypassed_stripes == 1);
      CHECK(reader.get_local(key).source == Source::kNone);
    }
    CHECK(reader.get(key) == "later");

    stopped.signal(SIGCONT);
    // One subscription a host again: it has stepped down.
    CHECK(await([&] { return hosts.subscribers() == 2; }, kPatience));
    CHECK(stopped.get(key) == "later");
    CHECK(reader.get(key) == "later");
    // What it says of the cursor, too, is nobody's opinion.
    hosts.catch_up();
    // Who was not yet past its look at the sealed term was refused.
    const bool before_its_look = where == Where::kBeforeTheLock || where == Where::kAtItsBegin;
    CHECK(a.cache.stats().stale_term_refused == (before_its_look ? 1 : 0));
    REQUIRE(other_host.set(key, "last").ok());
    hosts.catch_up();
    for (Worker& worker : a.workers) CHECK(worker.get_local(key) == "last");
    CHECK(a.view.totals().bypassed_stripes == 0);
    check_nothing_stale(hosts);
  }
}

// ---- a leader that forks, or becomes another program ------------------------------------------

namespace {

// A pipe that nobody writes to: who reads it goes when the test goes, or closes it.
class Lifeline {
 public:
  Lifeline() { REQUIRE(pipe2(ends_, O_CLOEXEC) == 0); }
  ~Lifeline() {
    cut();
    close(ends_[0]);
  }
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  // In a child, before anything else: its copy must not keep the pipe open.
  void hold() { cut(); }
  bool is_cut(int timeout_ms) const {
    pollfd end{ends_[0], POLLIN, 0};
    return poll(&end, 1, timeout_ms) != 0;
  }
  // In a child: becomes a program that lives as long as the test wants.
  [[noreturn]] void exec() {
    dup2(ends_[0], STDIN_FILENO);
    execl("/bin/cat", "cat", nullptr);
    _exit(127);
  }
  void cut() {
    if (ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  int ends_[2];
};

// Host A of one process that leads and then does what the test says, and of workers that come
// later.
struct LeaderAlone {
  LeaderAlone()
      : a(host_options(folder, "a", server.unix_socket()), 0),
        b(host_options(folder, "b", server.unix_socket()), 1),
        redis(server.connect()) {}

  Forked lead_and(const std::function<void(Steps&)>& then) {
    Forked leader([&](Steps& steps) {
      lifeline.hold();
      CHILD_REQUIRE(a.cache.start().ok());
      steps.reached();
      steps.wait();
      then(steps);
      return 0;
    });
    REQUIRE(leader.await_step());
    REQUIRE(await([&] { return a.view.in_sync(); }, kPatience));
    REQUIRE(leads(leader.pid()));
    return leader;
  }

  bool leads(pid_t pid) const { return a.view.leader().pid == static_cast<unsigned>(pid); }
  void check_events_reach_a() {
    REQUIRE(b.workers[0].set("k", std::to_string(++changes)).ok());
    const shm::ChangeId end = log_end(redis);
    // Others may go on changing meanwhile.
    CHECK(await([&] { return a.view.leader().cursor.seq >= end.seq; }, kPatience));
    CHECK(a.view.value("k") == std::to_string(changes));
  }
  bool has_subscribers(std::int64_t wanted) {
    return await(
        [&] {
          const auto seen = redis.command({"PUBSUB", "NUMSUB", RedisOptions().channel});
          return seen.items.at(1).number == wanted;
        },
        kPatience);
  }

  RedisServer server;
  TempDir folder;
  Host a;
  Host b;
  RedisConnection redis;
  Lifeline lifeline;
  int changes = 0;
};

}  // namespace

TEST_CASE("a child of the leader works on beside it, and leads when its parent is killed") {
  LeaderAlone hosts;
  Forked leader = hosts.lead_and([&](Steps& steps) {
    if (fork() == 0) {
      for (int n = 1; !hosts.lifeline.is_cut(5); ++n) {
        if (!hosts.a.cache.set("child", std::to_string(n)).ok()) _exit(1);
      }
      _exit(0);
    }
    steps.wait_for_death();
  });
  const std::uint64_t term = hosts.a.view.leader().term;
  const auto child_works_on = [&] {
    const auto count = [&] {
      return std::atoi(hosts.redis.command({"GET", "child"}).text.c_str());
    };
    const int before = count();
    return await([&] { return count() > before + 3; }, kPatience);
  };
  leader.go_on();
  CHECK(child_works_on());
  hosts.check_events_reach_a();
  CHECK(hosts.leads(leader.pid()));
  CHECK(hosts.a.view.leader().term == term);
  CHECK(hosts.has_subscribers(2));

  leader.kill_now();
  REQUIRE(await([&] { return hosts.a.view.leader().term > term && hosts.a.view.in_sync(); },
                kPatience));
  CHECK_FALSE(hosts.leads(leader.pid()));
  CHECK(child_works_on());
  // The parent's subscription ended with it, although the child had inherited the connection.
  CHECK(hosts.has_subscribers(2));
  hosts.lifeline.cut();
  CHECK(hosts.has_subscribers(1));
}

TEST_CASE("a child of the leader that becomes another program takes nothing of it along") {
  LeaderAlone hosts;
  Forked leader = hosts.lead_and([&](Steps& steps) {
    const pid_t child = fork();
    if (child == 0) hosts.lifeline.exec();
    CHILD_REQUIRE(await(
        [&] {
          return std::filesystem::read_symlink("/proc/" + std::to_string(child) + "/exe")
                     .filename() != std::filesystem::read_symlink("/proc/self/exe").filename();
        },
        kPatience));
    steps.reached();
    steps.wait_for_death();
  });
  const std::uint64_t term = hosts.a.view.leader().term;
  leader.go_on();
  REQUIRE(leader.await_step());
  hosts.check_events_reach_a();
  CHECK(hosts.leads(leader.pid()));
  CHECK(hosts.a.view.leader().term == term);

  hosts.a.workers.emplace_back(hosts.a.cache);
  leader.kill_now();
  REQUIRE(await([&] { return hosts.leads(hosts.a.workers[0].pid()) && hosts.a.view.in_sync(); },
                kPatience));
  CHECK(hosts.has_subscribers(2));
  hosts.check_events_reach_a();
  CHECK(await([&] { return hosts.a.cache.stats().processes == 1; }, kPatience));
}

TEST_CASE("when the leader becomes another program, a worker leads") {
  LeaderAlone hosts;
  Forked leader = hosts.lead_and([&](Steps&) { hosts.lifeline.exec(); });
  hosts.a.workers.emplace_back(hosts.a.cache);
  Worker& worker = hosts.a.workers[0];
  leader.go_on();
  REQUIRE(await([&] { return hosts.leads(worker.pid()) && hosts.a.view.in_sync(); }, kPatience));
  CHECK_FALSE(leader.wait(0ms).has_value());
  CHECK(hosts.has_subscribers(2));
  hosts.check_events_reach_a();
  leader.kill_now();
  CHECK(await([&] { return hosts.a.cache.stats().processes == 1; }, kPatience));
}
