// What the system refuses: room, descriptors, places. Each is a clear error, harms nothing, and
// everything works again afterwards. Real limits, each in a process of its own.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <list>
#include <set>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "shm/check.h"
#include "shm/segment.h"
#include "shm/table.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

using namespace larder;
using namespace std::chrono_literals;
using test::await;
using test::Forked;
using test::host_options;
using test::RedisServer;
using test::Steps;
using test::TempDir;

namespace {

constexpr auto kPatience = 30s;
constexpr int kSkipped = 77;

bool says(const Status& status, const std::string& text) {
  const bool found = status.message().find(text) != std::string::npos;
  if (!found) std::cerr << "\"" << status.to_string() << "\" lacks \"" << text << "\"\n";
  return found;
}

// Everything but the file that creators lock.
std::set<std::string> files_in(const std::string& folder) {
  std::set<std::string> files;
  for (const auto& each : std::filesystem::directory_iterator(folder)) {
    if (each.path().extension() != ".create") files.insert(each.path().filename().string());
  }
  return files;
}

bool has_local(Cache& cache, std::string_view key, std::string_view value) {
  Lookup found;
  return cache.get_local(key, found).ok() && found.hit() && found.value == value;
}

bool is_sound(const std::string& path) {
  const auto segment = shm::Segment::attach(path, shm::Access::kReadOnly);
  return segment.ok() && shm::check(**segment, {.deep = true}).clean();
}

// In a mount namespace of its own, with a tmpfs of so many bytes on the folder.
template <class Work>
void on_small_tmpfs(const std::string& folder, const std::string& size, Work work) {
  Forked child([&](Steps&) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) != 0) {
      return kSkipped;
    }
    work();
    return 0;
  });
  const auto status = child.wait();
  if (status == kSkipped) {
    MESSAGE("skipped: no mount namespace of one's own here");
  } else {
    CHECK(status == 0);
  }
}

}  // namespace

// ---- room -------------------------------------------------------------------------------------

TEST_CASE("a 64 MB /dev/shm that is too small is said with the size to ask for, which then works") {
  const TempDir folder;
  on_small_tmpfs(folder.path(), "64m", [&] {
    Options options = host_options(folder, "large", "");
    options.segment_bytes = 96ull << 20;
    const Status refused = Cache::open(options).status();
    CHILD_REQUIRE(refused.code() == Code::kNoSpace);
    CHILD_REQUIRE(says(refused, "it needs 96 MiB"));
    CHILD_REQUIRE(says(refused, "has 64 MiB free of 64 MiB"));
    CHILD_REQUIRE(says(refused, "make segment_bytes smaller"));
    CHILD_REQUIRE(says(refused, "mount -o remount,size=97m " + folder.path()));
    CHILD_REQUIRE(says(refused, "Docker, which gives 64 MB: --shm-size=97m"));
    CHILD_REQUIRE(says(refused, "emptyDir with medium: Memory and sizeLimit: 97Mi"));
    CHILD_REQUIRE(files_in(folder.path()).empty());
    // The default of 64 MiB fits Docker's default to the byte.
    options.name = "default";
    options.segment_bytes = Options().segment_bytes;
    CHILD_REQUIRE(Cache::open(options).ok());
    CHILD_REQUIRE(shm::Segment::remove(options.directory, options.name, false).ok());
    // As advised.
    CHILD_REQUIRE(mount(nullptr, folder.path().c_str(), nullptr, MS_REMOUNT, "size=97m") == 0);
    options.name = "large";
    options.segment_bytes = 96ull << 20;
    CHILD_REQUIRE(Cache::open(options).ok());
  });
}

TEST_CASE("a segment's memory is its own from the start: a full tmpfs harms nobody later") {
  const TempDir folder;
  on_small_tmpfs(folder.path(), "8m", [&] {
    Options options = host_options(folder, "reserved", "");
    options.segment_bytes = 4ull << 20;
    auto cache = Cache::open(options);
    CHILD_REQUIRE(cache.ok() && cache->start().ok());
    // Somebody takes all that is left.
    const int fd = ::open((folder.path() + "/hog").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const std::string page(4096, 'x');
    while (write(fd, page.data(), page.size()) > 0) {
    }
    CHILD_REQUIRE(errno == ENOSPC);
    // Every byte is touched: a page that is not there would be SIGBUS.
    const std::string value(1000, 'v');
    for (int i = 0; cache->stats().evictions < 1000; ++i) {
      CHILD_REQUIRE(cache->set(std::to_string(i), value).ok());
    }
    options.name = "second";
    CHILD_REQUIRE(Cache::open(options).status().code() == Code::kNoSpace);
  });
}

// ---- places -----------------------------------------------------------------------------------

namespace {

bool has_place(const Options& options) {
  const std::string path = shm::Segment::path_of(options.directory, options.name);
  const auto segment = shm::Segment::attach(path, shm::Access::kReadOnly);
  CHILD_REQUIRE(segment.ok());
  for (std::uint32_t i = 1; i < (*segment)->geometry().place_count; ++i) {
    const shm::Place& place = (*segment)->place(i);
    if (place.pid.load() == static_cast<std::uint32_t>(getpid()) &&
        shm::state_alive(place.state.load())) {
      return true;
    }
  }
  return false;
}

}  // namespace

TEST_CASE("a full process table is an error that counts; one death later there is room") {
  const TempDir folder;
  const Options options = host_options(folder, "crowded", "");
  auto parent = Cache::open(options);
  REQUIRE(parent.ok());
  std::list<Forked> workers;
  Status refused;
  while (refused.ok()) {
    workers.emplace_back([&](Steps& steps) {
      const Status started = parent->start();
      if (started.ok()) CHILD_REQUIRE(parent->set("k", "v").ok());
      if (!started.ok()) {
        const std::string places = std::to_string(parent->stats().processes);
        CHILD_REQUIRE(started.code() == Code::kNoSpace);
        CHILD_REQUIRE(says(started, "all " + places + " places of "));
        CHILD_REQUIRE(says(started, "run fewer, or use a larger segment"));
        // It cannot write, but reads.
        CHILD_REQUIRE(parent->set("k", "w").code() == Code::kNoSpace);
        CHILD_REQUIRE(has_local(*parent, "k", "v"));
      }
      steps.reached();
      steps.wait();
      if (started.ok()) return 0;
      // Who only reads joins too, in time.
      const auto joined = [&] { return parent->get("k").ok() && has_place(options); };
      CHILD_REQUIRE(await(joined, kPatience));
      CHILD_REQUIRE(parent->set("k", "w").ok());
      return 0;
    });
    REQUIRE(workers.back().await_step());
    if (parent->stats().processes < workers.size()) refused = Status(Code::kNoSpace, "full");
    REQUIRE(workers.size() < 1024);
  }
  workers.front().kill_now();
  workers.back().go_on();
  CHECK(workers.back().wait() == 0);
  CHECK(has_local(*parent, "k", "w"));
}

// ---- descriptors ------------------------------------------------------------------------------

namespace {

// Leaves this process exactly so many descriptors that it can still open.
class FewDescriptors {
 public:
  explicit FewDescriptors(int left) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit low{64, before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
    for (int fd = 0; fd >= 0;) {
      fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (fd >= 0) taken_.push_back(fd);
    }
    for (; left > 0; --left) {
      ::close(taken_.back());
      taken_.pop_back();
    }
  }
  ~FewDescriptors() {
    setrlimit(RLIMIT_NOFILE, &before_);
    for (const int fd : taken_) ::close(fd);
  }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit before_{};
  std::vector<int> taken_;
};

int descriptors_in_use() {
  int count = 0;
  for (int fd = 0; fd < 64; ++fd) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

}  // namespace

TEST_CASE("without descriptors a segment is neither made nor attached, and nothing stays behind") {
  const TempDir folder;
  const Options options = host_options(folder, "many", "");
  Forked child([&](Steps&) {
    for (const bool there_already : {false, true}) {
      const int in_use = descriptors_in_use();
      int refusals = 0;
      for (int left = 0;; ++left) {
        const FewDescriptors few(left);
        const auto opened = Cache::open(options);
        if (opened.ok()) break;
        ++refusals;
        CHILD_REQUIRE(opened.status().code() == Code::kNoSpace);
        CHILD_REQUIRE(says(opened.status(), "Too many open files; close some, or raise"));
      }
      CHILD_REQUIRE(refusals > 0);
      CHILD_REQUIRE(descriptors_in_use() == in_use);
      // The segment and its lock file, whichever attempt made them.
      auto cache = Cache::open(options);
      CHILD_REQUIRE(cache.ok() && cache->set("k", "v").ok());
      CHILD_REQUIRE(files_in(folder.path()).size() == 2);
      if (!there_already) CHILD_REQUIRE(cache->stats().processes == 1);
    }
    return 0;
  });
  CHECK(child.wait() == 0);
  CHECK(is_sound(shm::Segment::path_of(options.directory, options.name)));
}

TEST_CASE("a fork child without descriptors works on shared memory, and is an error at Redis") {
  const TempDir folder;
  RedisServer redis;
  const Options options = host_options(folder, "child", redis.unix_socket());
  auto cache = Cache::open(options);
  REQUIRE(cache.ok());
  Forked child([&](Steps&) {
    {
      const FewDescriptors none(0);
      const Status started = cache->start();
      CHILD_REQUIRE(!started.ok());
      CHILD_REQUIRE(says(started, "Too many open files"));
      CHILD_REQUIRE(!cache->set("k", "v").ok());
      const auto found = cache->get("k");
      CHILD_REQUIRE(!found.ok() && says(found.status(), "Too many open files"));
    }
    CHILD_REQUIRE(cache->start().ok());
    CHILD_REQUIRE(await([&] { return cache->in_sync(); }, kPatience));
    CHILD_REQUIRE(cache->set("k", "v").ok());
    CHILD_REQUIRE(has_local(*cache, "k", "v"));
    // A leader that has its connections needs no more.
    const FewDescriptors none(0);
    CHILD_REQUIRE(cache->set("k", "w").ok());
    CHILD_REQUIRE(has_local(*cache, "k", "w"));
    return 0;
  });
  CHECK(child.wait() == 0);
  // However few there are: it starts or it does not, and goes on living.
  for (int left = 1; left <= 8; ++left) {
    CAPTURE(left);
    Forked poor([&](Steps&) {
      {
        const FewDescriptors few(left);
        (void)cache->start();
        (void)cache->set("k", "x");
      }
      CHILD_REQUIRE(cache->start().ok());
      CHILD_REQUIRE(await([&] { return cache->set("k", "y").ok(); }, kPatience));
      CHILD_REQUIRE(await([&] { return cache->in_sync(); }, kPatience));
      return 0;
    });
    CHECK(poor.wait() == 0);
  }
}

TEST_CASE("who has no descriptor takes over from the dead all the same") {
  const TempDir folder;
  const Options options = host_options(folder, "dead", "");
  shm::SegmentOptions segment_options;
  segment_options.directory = options.directory;
  segment_options.name = options.name;
  segment_options.bytes = options.segment_bytes;
  auto segment = shm::Segment::open(segment_options);
  REQUIRE(segment.ok());
  const auto lock_word_of = [&](std::uint32_t owner) {
    for (std::uint32_t s = 0; s < (*segment)->geometry().stripe_count; ++s) {
      (*segment)->stripe(s).lock.store(owner);
    }
  };
  Forked holder([&](Steps& steps) {
    shm::Table table(*segment, {});
    CHILD_REQUIRE(table.join().ok());
    lock_word_of(*table.processes().self());
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(holder.await_step());
  holder.kill_now();
  Forked child([&](Steps&) {
    shm::Table table(*segment, {50ms});
    const FewDescriptors none(0);
    CHILD_REQUIRE(table.set({"k", "v"}) == shm::Stored::kStored);
    std::string value;
    CHILD_REQUIRE(table.get("k", value) && value == "v");
    CHILD_REQUIRE(table.reap() == 1);
    return 0;
  });
  CHECK(child.wait() == 0);
  CHECK(is_sound((*segment)->path()));
}
