#include "tests/fault/scene.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "tests/support/process.h"

namespace larder::fault {

using std::chrono::milliseconds;
using test::await;

namespace {

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

Cache open_and_start(const Options& options) {
  auto cache = Cache::open(options);
  require(cache.ok(), cache.status().to_string());
  const Status started = cache->start();
  require(started.ok(), started.to_string());
  return std::move(*cache);
}

Options site_options(const Scene& scene, const SceneOptions& scene_options, const char* name,
                     std::string address, milliseconds timeout) {
  Options options = test::host_options(scene.folder, name, std::move(address));
  options.redis.timeout = timeout;
  scene_options.change(options);
  return options;
}

std::string watched_key(std::uint64_t number) {
  constexpr std::uint64_t kKeys = 16;
  return "watched:" + std::to_string(number % kKeys);
}

}  // namespace

void Journal::log(LogLevel, std::string_view message) {
  const std::lock_guard lock(mutex_);
  lines_.emplace_back(message);
}

bool Journal::has(std::string_view text) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(lines_.begin(), lines_.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

std::string Journal::all() const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const std::string& line : lines_) text += line + '\n';
  return text;
}

// ---- the scene --------------------------------------------------------------------------------

Site::Site(Options options)
    : journal(std::make_shared<Journal>()),
      cache((options.logger = journal, open_and_start(options))),
      view(options) {}

std::string Site::local(std::string_view key) {
  Lookup found;
  const Status status = cache.get_local(key, found);
  require(status.ok(), status.to_string());
  return found.value;
}

Lookup Site::get(std::string_view key) {
  Lookup found;
  require(await([&] { return cache.get(key, found).ok(); }, kPatience), "no answer at all");
  return found;
}

// The far host gives up early, because it is to be kept waiting. (Not too early for a machine with
// other things to do.)
Scene::Scene(const SceneOptions& options)
    : server(options.server),
      proxy(server.unix_socket()),
      far(site_options(*this, options, "far", proxy.address(), milliseconds(2000))),
      near(site_options(*this, options, "near",
                        options.both_far ? proxy.address() : server.unix_socket(),
                        milliseconds(10'000))) {
  recover();
}

milliseconds Scene::recover() { return recover(server); }

milliseconds Scene::recover(const test::RedisServer& primary) {
  const auto begin = std::chrono::steady_clock::now();
  test::RedisConnection redis = primary.connect();
  const bool followed = await(
      [&] {
        const shm::ChangeId end = test::log_end(redis);
        return far.view.follows(end) && near.view.follows(end);
      },
      kPatience);
  require(followed, "the hosts do not follow again; far logged:\n" + far.journal->all() +
                        "near logged:\n" + near.journal->all());
  return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin);
}

std::vector<std::string> Scene::differences() { return differences(server); }

std::vector<std::string> Scene::differences(const test::RedisServer& primary) {
  test::RedisConnection redis = primary.connect();
  std::vector<std::string> keys;
  for (Site* site : {&far, &near}) {
    for (const auto& [key, value] : site->view.values()) {
      if (!(redis.command({"GET", key}) == value)) keys.push_back(key);
    }
  }
  return keys;
}

std::int64_t Scene::subscribers() {
  return server.connect().command({"PUBSUB", "NUMSUB", RedisOptions().channel}).items.at(1).number;
}

void Scene::hold(std::string_view key, std::string_view value) {
  const Status set = near.cache.set(key, value);
  require(set.ok(), set.to_string());
  const bool held = await(
      [&] {
        const auto got = far.cache.get(key);
        return got.ok() && got->value == value && far.local(key) == value;
      },
      kPatience);
  require(held, "the far host does not get what the near one sets");
}

// ---- watching ---------------------------------------------------------------------------------

Watch::Watch(Cache& writer, Cache& reader) : writer_(writer), reader_(reader) {
  threads_[0] = std::thread([this] { write(); });
  threads_[1] = std::thread([this] { read(); });
}

Watch::~Watch() {
  if (!over_) (void)finish();
}

Watch::Report Watch::finish() {
  over_ = true;
  for (std::thread& thread : threads_) thread.join();
  return judge();
}

void Watch::write() {
  while (!over_) {
    const std::uint64_t number = log_.size() + 1;
    const bool done = writer_.set(watched_key(number), std::to_string(number)).ok();
    log_.push_back({done, Clock::now()});
    ++(done ? writes_ : failed_writes_);
    std::this_thread::sleep_for(milliseconds(1));
  }
}

void Watch::read() {
  Lookup found;
  for (std::uint64_t i = 0; !over_; ++i) {
    const auto begin = Clock::now();
    if (!reader_.get(watched_key(i), found).ok()) {
      ++failed_reads_;
    } else if (found.stale) {
      ++stale_reads_;
    } else if (found.hit()) {
      ++fresh_reads_;
      last_read_[std::strtoull(found.value.c_str(), nullptr, 10)] = begin;
    }
    if (i % 16 == 0) std::this_thread::sleep_for(milliseconds(1));
  }
}

// Of one number the last read is the oldest. It was overwritten when the next set of its key that
// succeeded had returned, since these came one after the other.
Watch::Report Watch::judge() const {
  Report report;
  report.writes = writes_;
  report.failed_writes = failed_writes_;
  report.fresh_reads = fresh_reads_;
  report.stale_reads = stale_reads_;
  report.failed_reads = failed_reads_;
  for (const auto& [number, begin] : last_read_) {
    if (!log_.at(number - 1).done) {
      ++report.unknown_reads;
      continue;
    }
    std::uint64_t next = number + 1;
    while (next <= log_.size() &&
           !(log_[next - 1].done && watched_key(next) == watched_key(number))) {
      ++next;
    }
    if (next > log_.size()) continue;
    const auto age = begin - log_[next - 1].returned;
    report.oldest =
        std::max(report.oldest, std::chrono::duration_cast<std::chrono::microseconds>(age));
  }
  return report;
}

}  // namespace larder::fault
