#include "tests/support/two_hosts.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tests/support/process.h"

namespace larder::test {
namespace {

constexpr std::chrono::seconds kPatience{30};

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

}  // namespace

Cache open_cache(const Options& options) {
  auto cache = Cache::open(options);
  if (!cache) throw std::runtime_error(cache.status().to_string());
  return std::move(*cache);
}

Host::Host(const Options& options, int count) : cache(open_cache(options)), view(options) {
  for (int i = 0; i < count; ++i) workers.emplace_back(cache);
}

Worker* Host::leader_if_any() {
  const auto pid = static_cast<pid_t>(view.leader().pid);
  for (Worker& worker : workers) {
    if (worker.pid() == pid) return &worker;
  }
  return nullptr;
}

Worker& Host::leader() {
  Worker* worker = leader_if_any();
  require(worker != nullptr, "no worker leads");
  return *worker;
}

Worker& Host::other_than(const Worker& one) {
  for (Worker& worker : workers) {
    if (worker.pid() != one.pid()) return worker;
  }
  throw std::runtime_error("there is no other worker");
}

void Host::remove(const Worker& one) {
  const pid_t pid = one.pid();
  std::erase_if(workers, [&](const Worker& worker) { return worker.pid() == pid; });
}

TwoHosts::TwoHosts(int workers_at_a, int workers_at_b)
    : a(host_options(folder, "a", server.unix_socket()), workers_at_a),
      b(host_options(folder, "b", server.unix_socket()), workers_at_b),
      redis(server.connect()) {
  require(await([&] { return a.view.in_sync() && b.view.in_sync(); }, kPatience),
          "the hosts do not get in sync");
}

void TwoHosts::catch_up() {
  const shm::ChangeId end = log_end(redis);
  require(await([&] { return a.view.follows(end) && b.view.follows(end); }, kPatience),
          "the hosts do not follow the log to its end");
}

std::optional<std::chrono::nanoseconds> TwoHosts::until_a_applies_an_event(
    Worker& at_a, std::chrono::steady_clock::time_point begin, std::chrono::milliseconds patience) {
  // Shorter than what is to be measured, long enough to leave the processor to others.
  constexpr std::chrono::microseconds kPause{200};
  const std::uint64_t first = probes_ + 1;
  for (;;) {
    require(b.workers[0].set("probe", std::to_string(++probes_)).ok(), "B cannot set");
    const Answer found = at_a.get_local("probe");
    const auto took = std::chrono::steady_clock::now() - begin;
    if (found.ok() && found.source == Source::kLocal && !found.stale &&
        std::strtoull(found.value.c_str(), nullptr, 10) >= first) {
      return took;
    }
    if (took > patience) return std::nullopt;
    std::this_thread::sleep_for(kPause);
  }
}

std::set<std::string> TwoHosts::subscriptions() {
  std::istringstream list(redis.command({"CLIENT", "LIST", "TYPE", "PUBSUB"}).text);
  std::set<std::string> ids;
  for (std::string line; std::getline(list, line);) ids.insert(line.substr(0, line.find(' ')));
  return ids;
}

std::int64_t TwoHosts::subscribers() {
  return redis.command({"PUBSUB", "NUMSUB", RedisOptions().channel}).items.at(1).number;
}

std::vector<std::string> TwoHosts::wrong_at_a() {
  catch_up();
  std::vector<std::string> wrong;
  for (const auto& [key, value] : a.view.values()) {
    if (!(redis.command({"GET", key}) == value)) wrong.push_back(key);
  }
  return wrong;
}

}  // namespace larder::test
