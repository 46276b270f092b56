// What outlives processes: a warm segment, one of another version beside it, what a core dump
// leaves out. Real processes.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <list>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "shm/layout.h"
#include "shm/segment.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/process.h"

using namespace larder;
using test::Forked;
using test::host_options;
using test::Steps;
using test::TempDir;

namespace {

constexpr int kKeys = 200;

Cache open(const Options& options) {
  auto cache = Cache::open(options);
  REQUIRE_MESSAGE(cache.ok(), cache.status().to_string());
  return std::move(*cache);
}

std::string key_of(int i) { return "key " + std::to_string(i); }

std::optional<Lookup> local(Cache& cache, std::string_view key) {
  Lookup found;
  if (!cache.get_local(key, found).ok() || !found.hit()) return std::nullopt;
  return found;
}

// What is said while a cache is opened, a line each.
class Notes final : public Logger {
 public:
  void log(LogLevel level, std::string_view message) override {
    const std::lock_guard hold(mutex_);
    if (level >= LogLevel::kWarn) warnings_.emplace_back(message);
    all_.append(message).append("\n");
  }
  std::vector<std::string> warnings() const { return warnings_; }
  bool has(std::string_view text) const { return all_.find(text) != std::string::npos; }

 private:
  std::mutex mutex_;
  std::vector<std::string> warnings_;
  std::string all_;
};

std::shared_ptr<Notes> listen_to(Options& options) {
  auto notes = std::make_shared<Notes>();
  options.logger = notes;
  return notes;
}

// The flags of every mapping of `path` in /proc/self/smaps.
std::vector<std::string> mapping_flags(const std::string& path) {
  std::vector<std::string> flags;
  std::ifstream smaps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    const bool is_mapping = line.find('-') < line.find(' ');
    if (is_mapping) here = line.ends_with(path);
    if (here && line.starts_with("VmFlags:")) flags.push_back(line + " ");
  }
  return flags;
}

bool left_out_of_core_dumps(const std::string& path) {
  const std::vector<std::string> flags = mapping_flags(path);
  for (const std::string& each : flags) {
    if (each.find(" dd ") == std::string::npos) return false;
  }
  return !flags.empty();
}

// As a program of another version would have made it.
void give_other_layout(const std::string& path) {
  const std::uint32_t version = shm::kLayoutVersion - 1;
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(pwrite(fd, &version, sizeof version, offsetof(shm::Superblock, layout_version)) ==
        sizeof version);
  ::close(fd);
}

std::string own_layout_path(const Options& options) {
  return shm::Segment::path_of(options.directory, options.name) + ".layout" +
         std::to_string(shm::kLayoutVersion);
}

}  // namespace

TEST_CASE("a core dump leaves the segment out, in the opener, its children and who only looks") {
  const TempDir folder;
  const Options options = host_options(folder, "dumped", "");
  const std::string path = shm::Segment::path_of(options.directory, options.name);
  const Cache cache = open(options);
  CHECK(left_out_of_core_dumps(path));
  Forked child([&](Steps&) {
    CHILD_REQUIRE(left_out_of_core_dumps(path));
    return 0;
  });
  CHECK(child.wait() == 0);
  Forked other([&](Steps&) {
    const auto observed = shm::Segment::attach(path, shm::Access::kReadOnly);
    CHILD_REQUIRE(observed.ok() && mapping_flags(path).size() == 2);
    CHILD_REQUIRE(left_out_of_core_dumps(path));
    return 0;
  });
  CHECK(other.wait() == 0);
}

// With Redis too, but then nobody can tell yet what was missed meanwhile: what was held is served
// as stale until a leader follows again, and dropped then (tests/process/hosts_test.cc).
TEST_CASE("a restart of every worker keeps what they held, whether they ended or were killed") {
  const TempDir folder;
  const Options options = host_options(folder, "warm", "");
  const auto generation = [&](int first, int last) {
    return Forked([&options, first, last](Steps& steps) {
      auto cache = Cache::open(options);
      CHILD_REQUIRE(cache.ok() && cache->start().ok());
      for (int i = first; i < last; ++i) CHILD_REQUIRE(cache->set(key_of(i), "v").ok());
      for (int i = 0; i < last; ++i) {
        const auto found = local(*cache, key_of(i));
        CHILD_REQUIRE(found && found->value == "v" && !found->stale);
      }
      steps.reached();
      steps.wait();
      return 0;
    });
  };
  for (int round = 0; round < 4; ++round) {
    CAPTURE(round);
    std::list<Forked> workers;
    workers.push_back(generation(round * kKeys, (round + 1) * kKeys));
    REQUIRE(workers.back().await_step());
    workers.push_back(generation(0, (round + 1) * kKeys));
    REQUIRE(workers.back().await_step());
    for (Forked& worker : workers) {
      if (round % 2 == 0) {
        worker.go_on();
        CHECK(worker.wait() == 0);
      } else {
        worker.kill_now();
      }
    }
  }
  CHECK(open(options).stats().epoch == 1);
}

TEST_CASE("opened with another size, bound or policy the running segment is used, and it is said") {
  const TempDir folder;
  Options options = host_options(folder, "running", "");
  const auto first = listen_to(options);
  Cache running = open(options);
  REQUIRE(running.set("k", "v").ok());
  CHECK(first->warnings().empty());

  Options other = options;
  other.segment_bytes *= 2;
  other.max_entries = 1000;
  other.policy = Policy::kLru;
  const auto notes = listen_to(other);
  Cache cache = open(other);
  CHECK(local(cache, "k").has_value());
  REQUIRE(notes->warnings().size() == 3);
  const std::string size = std::to_string(options.segment_bytes);
  CHECK(notes->has("segment_bytes = " + size + ", not " + std::to_string(other.segment_bytes)));
  CHECK(notes->has("max_entries = 0, not 1000"));
  CHECK(notes->has("policy = lfu, not lru"));
  CHECK(cache.stats().segment_bytes == options.segment_bytes);
  // Once, however long it is used.
  REQUIRE(cache.set("k", "w").ok());
  CHECK(notes->warnings().size() == 3);
}

// ---- another version --------------------------------------------------------------------------

TEST_CASE("programs of two layouts share a host side by side, each with a segment of its own") {
  const TempDir folder;
  Options options = host_options(folder, "shop", "");
  const std::string plain = shm::Segment::path_of(options.directory, options.name);
  Cache old = open(options);
  REQUIRE(old.set("k", "old").ok());
  give_other_layout(plain);

  const auto notes = listen_to(options);
  Cache fresh = open(options);
  CHECK(std::filesystem::exists(own_layout_path(options)));
  CHECK(notes->has("is used beside one of another layout"));
  CHECK_FALSE(local(fresh, "k").has_value());
  REQUIRE(fresh.set("k", "new").ok());
  CHECK(local(old, "k")->value == "old");
  Cache second = open(options);
  CHECK(local(second, "k")->value == "new");
  CHECK(shm::Segment::list(options.directory).size() == 2);

  // The old one may be in use, which cannot be told; once it is removed, the new one stays.
  CHECK(shm::Segment::remove(options.directory, "shop", false).code() == Code::kMismatch);
  CHECK(shm::Segment::remove(options.directory, "shop", true).ok());
  Cache third = open(options);
  CHECK(local(third, "k")->value == "new");
  CHECK_FALSE(std::filesystem::exists(plain));
  const std::string own = std::filesystem::path(own_layout_path(options)).filename().string();
  const std::string name = own.substr(std::string("larder.").size());
  CHECK(shm::Segment::remove(options.directory, name, false).code() == Code::kBusy);
}

TEST_CASE("of many processes that come to a segment of another layout one makes the next") {
  const TempDir folder;
  const Options options = host_options(folder, "rolled", "");
  open(options);
  give_other_layout(shm::Segment::path_of(options.directory, options.name));
  std::list<Forked> openers;
  for (int i = 0; i < 8; ++i) {
    openers.emplace_back([&, i](Steps& steps) {
      auto cache = Cache::open(options);
      CHILD_REQUIRE(cache.ok() && cache->set(key_of(i), "v").ok());
      steps.reached();
      steps.wait();
      for (int other = 0; other < 8; ++other)
        CHILD_REQUIRE(local(*cache, key_of(other)).has_value());
      return 0;
    });
  }
  for (Forked& opener : openers) REQUIRE(opener.await_step());
  for (Forked& opener : openers) opener.go_on();
  for (Forked& opener : openers) CHECK(opener.wait() == 0);
  CHECK(shm::Segment::list(options.directory).size() == 2);
}

TEST_CASE("a name cannot be that of another name's layout") {
  const TempDir folder;
  CHECK(Cache::open(host_options(folder, "shop.layout3", "")).status().code() ==
        Code::kInvalidArgument);
  CHECK(Cache::open(host_options(folder, "shop.layout", "")).ok());
}
