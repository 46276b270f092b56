#include "tests/fault/director.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "src/sync/scripts.h"
#include "tests/fault/proxy.h"
#include "tests/fault/worker.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/two_hosts.h"

namespace larder::fault {
namespace {

using std::chrono::milliseconds;
using test::Forked;
using test::HostView;
using test::Random;
using test::RedisConnection;
using test::RedisServer;
using test::Steps;

constexpr std::uint64_t kMs = 1'000'000;  // in ns
constexpr std::uint64_t kPatienceMs = 60'000;
constexpr std::uint64_t kLookMs = 5;

void sleep_ms(std::uint64_t ms) {
  const timespec time{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000 * kMs)};
  nanosleep(&time, nullptr);
}

// What the watcher needs to know, and what it saw.
struct Watched {
  std::atomic<bool> on;
  std::atomic<Fault> last[kHosts];
  std::atomic<std::uint64_t> looks[kFaults];
  std::atomic<std::uint64_t> held[kFaults];
};

Watched& create_watched() {
  void* at =
      mmap(nullptr, sizeof(Watched), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::runtime_error("no memory for the watcher");
  return *static_cast<Watched*>(at);
}

// Looks at every host's lease, in a process of its own.
int watch(const std::vector<Options>& hosts, Watched& watched, const Ledger& ledger) {
  std::vector<HostView> views;
  views.reserve(hosts.size());
  for (const Options& options : hosts) views.emplace_back(options);
  while (!ledger.over) {
    sleep_ms(kLookMs);
    if (!watched.on) continue;
    for (unsigned host = 0; host < kHosts; ++host) {
      const auto fault = static_cast<std::size_t>(watched.last[host].load());
      ++watched.looks[fault];
      watched.held[fault] += views[host].in_sync();
    }
  }
  return 0;
}

struct Host {
  Host(const Options& host_options, std::unique_ptr<Proxy> its_proxy)
      : options(host_options),
        proxy(std::move(its_proxy)),
        cache(test::open_cache(host_options)),
        view(host_options) {}

  Options options;
  std::unique_ptr<Proxy> proxy;
  Cache cache;  // nobody calls it here: there must be no thread when workers are forked
  HostView view;
};

// A worker's place; its process may be gone.
struct Post {
  pid_t pid = -1;
  bool stopped = false;
};

class Director {
 public:
  explicit Director(const CoherenceOptions& options)
      : options_(options),
        random_(options.seed),
        ledger_(Ledger::create()),
        watched_(create_watched()),
        server_({.lines = {"appendonly yes", "appendfsync no", "save \"\""}}) {}

  CoherenceReport run() {
    try {
      set_up();
      live_through(options_.calm_seconds, false);
      live_through(options_.seconds, true);
      heal_and_compare();
    } catch (const std::exception& error) {
      report_.failure = error.what();
    }
    tidy_up();
    sum_up();
    return report_;
  }

 private:
  // ---- the processes ----

  void set_up() {
    std::vector<std::unique_ptr<Proxy>> proxies;
    for (unsigned i = 0; i < kHosts; ++i) {
      proxies.push_back(std::make_unique<Proxy>(server_.unix_socket()));
    }
    std::vector<Options> all;
    for (unsigned i = 0; i < kHosts; ++i) {
      Options options =
          test::host_options(folder_, "host" + std::to_string(i), proxies[i]->address());
      // Of an impatient caller; a silent Redis costs each read outside the lease as much.
      options.redis.timeout = milliseconds(250);
      all.push_back(options);
      hosts_.push_back(std::make_unique<Host>(options, std::move(proxies[i])));
    }
    tap_.emplace([this](Steps&) { return tap(server_.unix_socket(), ledger_); });
    watcher_.emplace([this, all](Steps&) { return watch(all, watched_, ledger_); });
    await("the tap", [this] { return ledger_.tapped.load(); });
    for (unsigned seat = 0; seat < kSeats; ++seat) start(seat);
    redis_.emplace(server_.connect());
    await("the first leases", [this] { return all_hold_leases(); });
  }

  void start(unsigned seat) {
    const pid_t parent = getpid();
    Post& post = posts_[seat];
    post = {};
    post.pid = fork();
    if (post.pid < 0) throw std::runtime_error("cannot fork a worker");
    if (post.pid != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(3);
    for (const int number : {SIGTERM, SIGINT}) signal(number, SIG_DFL);
    _exit(work(hosts_[seat / kWorkersOfHost]->cache, ledger_, seat,
               options_.writes_per_second / kSeats));
  }

  // Fills places whose process has ended, once their time has come.
  void replace_the_dead() {
    for (unsigned seat = 0; seat < kSeats; ++seat) {
      Post& post = posts_[seat];
      int status = 0;
      if (post.pid < 0 || waitpid(post.pid, &status, WNOHANG) != post.pid) continue;
      if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) ++report_.crashes;
      post.pid = -1;
      later(random_.below(300), [this, seat] { start(seat); });
    }
  }

  void signal_post(unsigned seat, int number) {
    if (posts_[seat].pid > 0) ::kill(posts_[seat].pid, number);
  }

  // ---- time ----

  struct Plan {
    std::uint64_t at_ns;
    std::function<void()> what;
  };

  void later(std::uint64_t ms, std::function<void()> what) {
    plans_.push_back({now_ns() + ms * kMs, std::move(what)});
  }

  void do_what_is_due() {
    replace_the_dead();
    const std::uint64_t now = now_ns();
    for (std::size_t i = 0; i < plans_.size();) {
      if (plans_[i].at_ns > now) {
        ++i;
        continue;
      }
      const std::function<void()> what = std::move(plans_[i].what);
      plans_.erase(plans_.begin() + static_cast<std::ptrdiff_t>(i));
      what();
    }
  }

  void live_through(double seconds, bool with_faults) {
    const std::uint64_t end_ns = now_ns() + static_cast<std::uint64_t>(seconds * 1e9);
    std::uint64_t next_fault_ns = now_ns();
    watched_.on = true;
    while (now_ns() < end_ns) {
      do_what_is_due();
      if (with_faults && now_ns() >= next_fault_ns && now_ns() >= redis_is_back_ns_) {
        next_fault_ns += options_.every_ms * kMs;
        strike();
      }
      sleep_ms(2);
    }
    watched_.on = false;
  }

  template <class Condition>
  void await(const std::string& what, Condition condition) {
    const std::uint64_t until_ns = now_ns() + kPatienceMs * kMs;
    while (!condition()) {
      if (now_ns() > until_ns) throw std::runtime_error("waited in vain for " + what);
      do_what_is_due();
      sleep_ms(1);
    }
  }

  // ---- faults ----

  // Each kind as often as any other, in random order, so that a short run has many of them.
  Fault next_fault() {
    if (deck_.empty()) {
      for (std::size_t i = 1; i < kFaults; ++i) deck_.push_back(static_cast<Fault>(i));
      for (std::size_t i = deck_.size() - 1; i > 0; --i) {
        std::swap(deck_[i], deck_[random_.below(i + 1)]);
      }
    }
    const Fault fault = deck_.back();
    deck_.pop_back();
    return fault;
  }

  void strike() {
    const Fault fault = next_fault();
    const auto host = static_cast<unsigned>(random_.below(kHosts));
    ++report_.faults[static_cast<std::size_t>(fault)];
    history_.push_back({now_ns(), fault});
    const bool everywhere = strike_redis(fault);
    for (unsigned each = 0; each < kHosts; ++each) {
      if (everywhere || each == host) watched_.last[each] = fault;
    }
    if (!everywhere) strike_host(fault, host);
  }

  // False: that is a fault of one host.
  bool strike_redis(Fault fault) {
    switch (fault) {
      case Fault::kSubscriptionsKilled:
        kill_subscriptions();
        return true;
      case Fault::kClientsKilled:
        (void)redis_->command({"CLIENT", "KILL", "TYPE", "normal"});
        return true;
      case Fault::kPaused: {
        const std::uint64_t ms = 100 + random_.below(1400);
        (void)redis_->command({"CLIENT", "PAUSE", std::to_string(ms)});
        redis_is_back_ns_ = now_ns() + (ms + 20) * kMs;
        return true;
      }
      case Fault::kRedisStopped:
        stop_redis(100 + random_.below(800));
        return true;
      case Fault::kRedisStoppedLong:
        stop_redis(1100 + random_.below(900));
        return true;
      case Fault::kRedisKilled:
        server_.kill();
        server_.start();
        redis_.emplace(server_.connect());
        return true;
      case Fault::kFlushed:
        (void)redis_->command({"FLUSHALL"});
        return true;
      case Fault::kLogLost:
        (void)redis_->command({"UNLINK", sync::log_key(RedisOptions().channel)});
        return true;
      default:
        return false;
    }
  }

  void stop_redis(std::uint64_t ms) {
    server_.pause();
    redis_is_back_ns_ = UINT64_MAX;
    later(ms, [this] {
      server_.resume();
      redis_is_back_ns_ = now_ns();
    });
  }

  // But the tap's.
  void kill_subscriptions() {
    std::istringstream list(redis_->command({"CLIENT", "LIST", "TYPE", "PUBSUB"}).text);
    for (std::string line; std::getline(list, line);) {
      if (line.find(std::string("name=") + kTapName + ' ') != std::string::npos) continue;
      const std::string id = line.substr(3, line.find(' ') - 3);  // "id=7 addr=..."
      (void)redis_->command({"CLIENT", "KILL", "ID", id});
    }
  }

  void strike_host(Fault fault, unsigned host) {
    Proxy& proxy = *hosts_[host]->proxy;
    const std::uint64_t ms = 100 + random_.below(1900);
    switch (fault) {
      case Fault::kCut:
        proxy.cut();
        return;
      case Fault::kReset:
        proxy.cut(Which::kAll, true);
        return;
      case Fault::kForgotten:
        proxy.forget();
        return;
      case Fault::kHalfOpen:
        return change_weather(proxy, {.silent = true}, Which::kAll, ms);
      case Fault::kHalfOpenSubscription:
        return change_weather(proxy, {.silent = true}, Which::kSubscriptions, ms);
      case Fault::kDelay:
        return change_weather(
            proxy, {.delay_ms = static_cast<std::uint32_t>(random_.below(400)), .jitter_ms = 100},
            Which::kAll, ms);
      case Fault::kThrottle:
        return change_weather(proxy, {.bytes_per_second = 50'000}, Which::kAll, ms);
      case Fault::kRefused:
        proxy.doors(Doors::kRefuse);
        proxy.cut();
        later(ms, [&proxy] { proxy.heal(); });
        return;
      case Fault::kLeaderKilled:
        return signal_post(leader_of(host), SIGKILL);
      case Fault::kLeaderStopped:
        return stop_post(leader_of(host), 200 + random_.below(4000));
      case Fault::kWorkerKilled:
        return signal_post(any_of(host), SIGKILL);
      case Fault::kWorkerStopped:
        return stop_post(any_of(host), 200 + random_.below(4000));
      case Fault::kHostCrashed:
        for (unsigned i = 0; i < kWorkersOfHost; ++i) {
          signal_post(host * kWorkersOfHost + i, SIGKILL);
        }
        return;
      default:
        return;
    }
  }

  void change_weather(Proxy& proxy, const Weather& weather, Which which, std::uint64_t ms) {
    proxy.weather(weather, which);
    later(ms, [&proxy] { proxy.heal(); });
  }

  unsigned any_of(unsigned host) {
    return host * kWorkersOfHost + static_cast<unsigned>(random_.below(kWorkersOfHost));
  }
  unsigned leader_of(unsigned host) {
    const auto pid = static_cast<pid_t>(hosts_[host]->view.leader().pid);
    for (unsigned i = 0; i < kWorkersOfHost; ++i) {
      if (posts_[host * kWorkersOfHost + i].pid == pid) return host * kWorkersOfHost + i;
    }
    return any_of(host);
  }

  // Whoever has the place when the time is over, goes on.
  void stop_post(unsigned seat, std::uint64_t ms) {
    signal_post(seat, SIGSTOP);
    later(ms, [this, seat] { signal_post(seat, SIGCONT); });
  }

  // ---- afterwards ----

  bool all_hold_leases() const {
    return std::all_of(hosts_.begin(), hosts_.end(),
                       [](const auto& host) { return host->view.in_sync(); });
  }

  // One blow more, so that there is something to heal: half of the hosts miss the last second.
  void heal_and_compare() {
    await("Redis and the stopped", [this] { return plans_.empty(); });
    for (unsigned i = 0; i < kHosts / 2; ++i) {
      hosts_[i]->proxy->doors(Doors::kRefuse);
      hosts_[i]->proxy->cut();
    }
    live_through(1, false);
    ledger_.no_more_writes = true;
    await("the last writes", [this] {
      return std::all_of(std::begin(ledger_.seats), std::end(ledger_.seats),
                         [](const Seat& seat) { return seat.quiet.load(); });
    });
    for (const auto& host : hosts_) host->proxy->heal();
    const std::uint64_t healed_ns = now_ns();
    await("the leases", [this] { return all_hold_leases(); });
    const std::uint64_t leased_ns = now_ns();
    report_.lease_ms = ms_since(healed_ns);
    const shm::ChangeId end = test::log_end(*redis_);
    await("equality", [this, end] {
      return compare() == 0 && std::all_of(hosts_.begin(), hosts_.end(), [end](const auto& host) {
               return host->view.follows(end);
             });
    });
    report_.equal_ms = ms_since(healed_ns);
    report_.equal_after_lease_ms = ms_since(leased_ns);
    sleep_ms(500);  // and nothing comes after it
    report_.differences = compare();
  }

  static double ms_since(std::uint64_t ns) { return static_cast<double>(now_ns() - ns) / 1e6; }

  // How many keys a host holds otherwise than Redis.
  std::uint64_t compare() {
    std::vector<std::string> question{"MGET"};
    for (unsigned key = 0; key < kKeys; ++key) question.push_back(Ledger::key_name(key));
    const test::Reply answer = redis_->command(question);
    if (answer.items.size() != kKeys) throw std::runtime_error("Redis does not answer");
    std::uint64_t differences = 0;
    report_.held_keys = 0;
    for (const auto& host : hosts_) {
      for (const auto& [name, value] : host->view.values()) {
        ++report_.held_keys;
        differences += !(answer.items.at(std::stoul(name.substr(4))) == value);
      }
    }
    return differences;
  }

  void tidy_up() {
    ledger_.over = true;
    if (server_.pid() > 0) ::kill(server_.pid(), SIGCONT);
    for (Post& post : posts_) {
      if (post.pid <= 0) continue;
      ::kill(post.pid, SIGCONT);
    }
    const std::uint64_t until_ns = now_ns() + kPatienceMs * kMs;
    for (Post& post : posts_) {
      if (post.pid <= 0) continue;
      int status = 0;
      pid_t ended = 0;
      while ((ended = waitpid(post.pid, &status, WNOHANG)) == 0 && now_ns() < until_ns) sleep_ms(2);
      if (ended == post.pid && status == 0) continue;
      ++report_.crashes;
      ::kill(post.pid, SIGKILL);
      waitpid(post.pid, &status, 0);
    }
    // The tap may wait for a message for as long as it likes.
    tap_.reset();
    watcher_.reset();
  }

  void sum_up() {
    for (std::size_t i = 0; i < kFaults; ++i) {
      report_.leases[i] = {watched_.looks[i], watched_.held[i]};
    }
    for (const Seat& seat : ledger_.seats) {
      report_.fresh_reads += seat.fresh;
      report_.remote_reads += seat.remote;
      report_.stale_reads += seat.stale;
      report_.misses += seat.misses;
      report_.failed_reads += seat.failed;
      report_.foreign_values += seat.foreign;
    }
    for (const auto& host : hosts_) {
      const Stats stats = host->cache.stats();
      report_.epoch_raises += stats.epoch_raises;
      report_.leader_changes += stats.leader_changes;
    }
    report_.judgement = ledger_.judge();
    for (const auto& [at_ns, fault] : history_) {
      if (at_ns <= report_.judgement.oldest_at_ns) report_.oldest_during = fault;
    }
  }

  const CoherenceOptions options_;
  Random random_;
  Ledger& ledger_;
  Watched& watched_;
  RedisServer server_;
  test::TempDir folder_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::optional<Forked> tap_;
  std::optional<Forked> watcher_;
  std::optional<RedisConnection> redis_;
  std::array<Post, kSeats> posts_;
  std::vector<Plan> plans_;
  std::vector<Fault> deck_;
  std::vector<std::pair<std::uint64_t, Fault>> history_;
  std::uint64_t redis_is_back_ns_ = 0;  // no fault before: it could not be dealt
  CoherenceReport report_;
};

}  // namespace

const char* fault_name(Fault fault) {
  static constexpr const char* kNames[] = {
      "none",           "cut",          "reset",         "half-open",      "half-open sub",
      "forgotten",      "delay",        "throttle",      "refused",        "subs killed",
      "clients killed", "client pause", "redis stopped", "redis stop >T",  "redis killed",
      "flushall",       "log lost",     "leader killed", "leader stopped", "worker killed",
      "worker stopped", "host crashed"};
  static_assert(std::size(kNames) == kFaults);
  return kNames[static_cast<std::size_t>(fault)];
}

CoherenceReport run_coherence(const CoherenceOptions& options) { return Director(options).run(); }

}  // namespace larder::fault
