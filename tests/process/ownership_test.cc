// Whose a segment is: a root parent and workers that are somebody else, users that share a group,
// strangers. Real processes that really change their user, so most of it needs root.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <list>
#include <string>
#include <vector>

#include "larder/cache.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

using namespace larder;
using namespace std::chrono_literals;
using test::await;
using test::Forked;
using test::host_options;
using test::HostView;
using test::RedisServer;
using test::Steps;
using test::TempDir;

namespace {

constexpr uid_t kUser = 65534;
constexpr uid_t kOtherUser = 65533;
constexpr uid_t kStranger = 65530;
constexpr gid_t kGroup = 65531;
constexpr auto kPatience = 30s;

// Everything root could do is gone afterwards.
void become(uid_t user, gid_t group) {
  CHILD_REQUIRE(setgroups(0, nullptr) == 0);
  CHILD_REQUIRE(setresgid(group, group, group) == 0);
  CHILD_REQUIRE(setresuid(user, user, user) == 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // forgotten with the user
}

int as_user(uid_t user, gid_t group, const std::function<void()>& work) {
  Forked child([&](Steps&) {
    become(user, group);
    work();
    return 0;
  });
  return child.wait().value_or(-1);
}

bool has_local(Cache& cache, std::string_view key, std::string_view value) {
  Lookup found;
  return cache.get_local(key, found).ok() && found.hit() && found.value == value;
}

// One worker: takes its place, writes, and then does so on demand until it is killed.
int work(Cache& cache, const std::string& name, Steps& steps) {
  CHILD_REQUIRE(cache.start().ok());
  for (int i = 0;; ++i) {
    CHILD_REQUIRE(cache.set(name, std::to_string(i)).ok());
    steps.reached();
    steps.wait();
  }
}

bool cannot_become_others() {
  if (geteuid() == 0) return false;
  MESSAGE("skipped: needs root to become somebody else");
  return true;
}

struct Shared {
  explicit Shared(mode_t mode) : redis(RedisServer::Config{.tcp = true}) {
    REQUIRE(chmod(folder.path().c_str(), mode) == 0);
    options = host_options(folder, "shared", redis.tcp_address());
  }
  Cache open() const {
    auto cache = Cache::open(options);
    REQUIRE_MESSAGE(cache.ok(), cache.status().to_string());
    return std::move(*cache);
  }
  std::string path() const { return folder.path() + "/larder.shared"; }

  RedisServer redis;
  TempDir folder;
  Options options;
};

// The mode, owner and group of every file there.
std::vector<std::string> files_not_of(const TempDir& folder, uid_t owner, gid_t group,
                                      mode_t mode) {
  std::vector<std::string> others;
  for (const auto& each : std::filesystem::directory_iterator(folder.path())) {
    struct stat file {};
    REQUIRE(lstat(each.path().c_str(), &file) == 0);
    if (file.st_uid == owner && file.st_gid == group && (file.st_mode & 07777) == mode) continue;
    others.push_back(each.path().filename().string() + " of " + std::to_string(file.st_uid) + ":" +
                     std::to_string(file.st_gid));
  }
  return others;
}

// A copy of this program, as an upgrade would put one in its place; run as `--attach`.
struct CopyOfThisProgram {
  explicit CopyOfThisProgram(const TempDir& folder) : path(folder.path() + "/upgraded") {
    std::filesystem::copy_file("/proc/self/exe", path);
    std::filesystem::permissions(path, std::filesystem::perms(0755));
    // It finds the library by its own place otherwise.
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line) && library_folder.empty();) {
      const std::size_t at = line.find('/');
      if (at == std::string::npos || line.find("/liblarder.so") == std::string::npos) continue;
      library_folder = std::filesystem::path(line.substr(at)).parent_path().string();
    }
    REQUIRE_FALSE(library_folder.empty());
  }

  int exec(const Options& options) const {
    setenv("LD_LIBRARY_PATH", library_folder.c_str(), 1);
    execl(path.c_str(), path.c_str(), "--attach", options.directory.c_str(), options.name.c_str(),
          options.redis.address.c_str(), nullptr);
    return 1;
  }

  std::string path;
  std::string library_folder;
};

// What the copy does.
int attach_and_work(char** arguments) {
  Options options;
  options.directory = arguments[0];
  options.name = arguments[1];
  options.redis.address = arguments[2];
  auto cache = Cache::open(options);
  if (!cache.ok()) {
    std::cerr << cache.status().to_string() << "\n";
    return 2;
  }
  const bool works = cache->start().ok() && has_local(*cache, "kept", "warm") &&
                     cache->set("upgraded", "yes").ok();
  return works ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::string_view(argv[1]) == "--attach") return attach_and_work(argv + 2);
  return doctest::Context(argc, argv).run();
}

TEST_CASE("by default the files of a segment are their creator's alone, whatever the umask") {
  for (const mode_t mask : {mode_t{0}, mode_t{0077}}) {
    const TempDir folder;
    const mode_t before = umask(mask);
    const auto cache = Cache::open(host_options(folder, "own", ""));
    umask(before);
    REQUIRE(cache.ok());
    CHECK(files_not_of(folder, geteuid(), getegid(), 0600) == std::vector<std::string>{});
  }
}

TEST_CASE("a root parent creates; its workers are another user, register, lead, write, respawn") {
  if (cannot_become_others()) return;
  Shared shared(0755);
  shared.options.owner = kUser;
  Cache parent = shared.open();
  CHECK(files_not_of(shared.folder, kUser, getegid(), 0600) == std::vector<std::string>{});

  const auto spawn = [&](const std::string& name) {
    return Forked([&](Steps& steps) {
      become(kUser, kUser);
      return work(parent, name, steps);
    });
  };
  std::list<Forked> workers;
  for (const char* name : {"a", "b"}) workers.push_back(spawn(name));
  for (Forked& worker : workers) REQUIRE(worker.await_step());
  const HostView view(shared.options);
  const auto leads = [&](const Forked& worker) {
    return view.in_sync() && static_cast<pid_t>(view.leader().pid) == worker.pid();
  };
  REQUIRE(await([&] { return view.in_sync(); }, kPatience));
  // Whoever leads dies, the other takes over; the next worker takes the place of the dead.
  for (int round = 0; round < 3; ++round) {
    REQUIRE(std::erase_if(workers, leads) == 1);  // and kills it
    Forked& other = workers.front();
    REQUIRE(await([&] { return leads(other); }, kPatience));
    other.go_on();
    REQUIRE(other.await_step());
    workers.push_back(spawn("round " + std::to_string(round)));
    REQUIRE(workers.back().await_step());
  }
  CHECK(has_local(parent, "round 2", "0"));
  CHECK(view.check().violations == std::vector<std::string>{});
}

TEST_CASE("a program that replaced the workers' attaches as their user") {
  if (cannot_become_others()) return;
  Shared shared(0755);
  shared.options.owner = kUser;
  Cache parent = shared.open();
  CHECK(as_user(kUser, kUser, [&] { CHILD_REQUIRE(parent.set("kept", "warm").ok()); }) == 0);
  const CopyOfThisProgram copy(shared.folder);
  Forked upgraded([&](Steps&) {
    become(kUser, kUser);
    return copy.exec(shared.options);
  });
  CHECK(upgraded.wait() == 0);
  CHECK(has_local(parent, "upgraded", "yes"));
}

TEST_CASE("users who share a group share a segment of it, each leads and makes it anew") {
  if (cannot_become_others()) return;
  Shared shared(01777);  // like /dev/shm
  shared.options.group = kGroup;
  shared.options.mode = 0660;
  shared.options.allowed_owners = {kUser, kOtherUser};
  {
    const Cache parent = shared.open();
    CHECK(files_not_of(shared.folder, 0, kGroup, 0660) == std::vector<std::string>{});
  }
  // They open it themselves, as programs do that root did not start.
  const auto spawn = [&](uid_t user, const std::string& name) {
    return Forked([&, user](Steps& steps) {
      become(user, kGroup);
      auto cache = Cache::open(shared.options);
      if (!cache.ok()) std::cerr << cache.status().to_string() << "\n";
      CHILD_REQUIRE(cache.ok());
      return work(*cache, name, steps);
    });
  };
  {
    const HostView view(shared.options);
    const auto leads = [&](const Forked& worker) {
      return view.in_sync() && static_cast<pid_t>(view.leader().pid) == worker.pid();
    };
    Forked one = spawn(kUser, "one");
    REQUIRE(one.await_step());
    REQUIRE(await([&] { return leads(one); }, kPatience));
    Forked other = spawn(kOtherUser, "other");
    REQUIRE(other.await_step());
    one.kill_now();
    REQUIRE(await([&] { return leads(other); }, kPatience));
    // Reaps the dead, who was another user.
    other.go_on();
    REQUIRE(other.await_step());
    Forked third = spawn(kUser, "one");
    REQUIRE(third.await_step());
    other.kill_now();
    REQUIRE(await([&] { return leads(third); }, kPatience));
  }
  std::filesystem::remove(shared.path());
  Forked creator = spawn(kOtherUser, "other");
  REQUIRE(creator.await_step());
  struct stat file {};
  REQUIRE(stat(shared.path().c_str(), &file) == 0);
  CHECK(file.st_uid == kOtherUser);
  CHECK(file.st_gid == kGroup);
  CHECK((file.st_mode & 07777) == 0660);
  Forked user = spawn(kUser, "one");
  CHECK(user.await_step());
  // Root goes by the same rule.
  CHECK(Cache::open(shared.options).ok());
  shared.options.allowed_owners = {kUser};
  CHECK(Cache::open(shared.options).status().code() == Code::kMismatch);
}

TEST_CASE("a stranger is refused, and what a stranger put there is refused by everybody") {
  if (cannot_become_others()) return;
  Shared shared(01777);
  shared.options.group = kGroup;
  shared.options.mode = 0660;
  const Cache parent = shared.open();
  CHECK(as_user(kStranger, kStranger, [&] {
          const auto refused = Cache::open(shared.options);
          CHILD_REQUIRE(refused.status().code() == Code::kPermissionDenied);
          CHILD_REQUIRE(refused.status().message().find(shared.path()) != std::string::npos);
        }) == 0);

  Options planted = host_options(shared.folder, "planted", "");
  CHECK(as_user(kStranger, kStranger, [&] { CHILD_REQUIRE(Cache::open(planted).ok()); }) == 0);
  REQUIRE(chmod((shared.folder.path() + "/larder.planted").c_str(), 0660) == 0);
  for (const uid_t user : {uid_t{0}, kUser}) {
    CHECK(as_user(user, kStranger, [&] {
            const Status refused = Cache::open(planted).status();
            CHILD_REQUIRE(refused.code() == Code::kMismatch);
            CHILD_REQUIRE(refused.message().find("belongs to user 65530") != std::string::npos);
          }) == 0);
  }
}

TEST_CASE("a stranger's file with the name of our layout keeps nobody from the plain name") {
  if (cannot_become_others()) return;
  Shared shared(01777);
  const std::string planted =
      shm::Segment::layout_path_of(shared.options.directory, shared.options.name);
  CHECK(as_user(kStranger, kStranger, [&] { std::ofstream(planted) << "x"; }) == 0);
  // One creates it there, the next attaches.
  for (int i = 0; i < 2; ++i) {
    const auto cache = Cache::open(shared.options);
    REQUIRE_MESSAGE(cache.ok(), cache.status().to_string());
  }
  CHECK(std::filesystem::exists(shared.path()));
  // Where the plain name is another layout's, the refusal says whose file is in the way.
  const std::uint32_t version = shm::kLayoutVersion - 1;
  std::fstream file(shared.path(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(offsetof(shm::Superblock, layout_version));
  file.write(reinterpret_cast<const char*>(&version), sizeof version);
  file.close();
  const Status refused = Cache::open(shared.options).status();
  CHECK(refused.code() == Code::kMismatch);
  CHECK_MESSAGE(refused.message().find(planted + " belongs to user 65530") != std::string::npos,
                refused.message());
}

TEST_CASE("a creation lock is left for all who may use the segment, and mended by who may") {
  if (cannot_become_others()) return;
  Shared shared(01777);
  shared.options.group = kGroup;
  shared.options.mode = 0660;
  shared.options.allowed_owners = {kUser, kOtherUser};
  const std::string lock = shared.path() + ".create";
  const Cache parent = shared.open();
  // Root looks whether it may be removed; the lock's file is gone, or as somebody left it.
  for (const bool is_there : {false, true}) {
    CAPTURE(is_there);
    std::filesystem::remove(lock);
    if (is_there) std::ofstream(lock) << "";
    REQUIRE((!is_there || chmod(lock.c_str(), 0600) == 0));
    Forked worker([&](Steps& steps) {
      auto cache = Cache::open(shared.options);
      CHILD_REQUIRE(cache.ok());
      return work(*cache, "worker", steps);
    });
    REQUIRE(worker.await_step());
    CHECK(shm::Segment::remove(shared.options.directory, "shared", false).code() == Code::kBusy);
    CHECK(files_not_of(shared.folder, 0, kGroup, 0660) == std::vector<std::string>{});
  }
  // And who opens what is not there: its own lock, closed to the others, is in the way.
  std::filesystem::remove(shared.path());
  std::filesystem::remove(lock);
  std::ofstream(lock) << "";
  REQUIRE(chown(lock.c_str(), kUser, kUser) == 0);
  REQUIRE(chmod(lock.c_str(), 0600) == 0);
  CHECK(as_user(kUser, kGroup, [&] { CHILD_REQUIRE(Cache::open(shared.options).ok()); }) == 0);
  struct stat file {};
  REQUIRE(stat(lock.c_str(), &file) == 0);
  CHECK(file.st_gid == kGroup);
  CHECK((file.st_mode & 07777) == 0660);
}

TEST_CASE("users who come together for the first time never meet a creation lock that is closed") {
  if (cannot_become_others()) return;
  Shared shared(01777);
  shared.options.group = kGroup;
  shared.options.mode = 0660;
  shared.options.allowed_owners = {kUser, kOtherUser};
  shared.options.segment_bytes = 512 << 10;
  for (int round = 0; round < 100; ++round) {
    CAPTURE(round);
    shared.options.name = "round" + std::to_string(round);
    std::list<Forked> users;
    for (const uid_t user : {kUser, kOtherUser}) {
      users.emplace_back([&, user](Steps& steps) {
        become(user, kGroup);
        steps.reached();
        steps.wait();
        const Status opened = Cache::open(shared.options).status();
        if (!opened.ok()) std::cerr << opened.to_string() << "\n";
        CHILD_REQUIRE(opened.ok());
        return 0;
      });
    }
    for (Forked& user : users) REQUIRE(user.await_step());
    for (Forked& user : users) user.go_on();
    for (Forked& user : users) CHECK(user.wait() == 0);
  }
}

TEST_CASE("who is not root gives a segment to a group of its own, and to nobody else") {
  if (cannot_become_others()) return;
  const TempDir folder;
  REQUIRE(chmod(folder.path().c_str(), 0777) == 0);
  Options options = host_options(folder, "unprivileged", "");
  const auto refused = [&](const char* says) {
    const Status status = Cache::open(options).status();
    CHILD_REQUIRE(status.code() == Code::kPermissionDenied);
    CHILD_REQUIRE(status.message().find(says) != std::string::npos);
    CHILD_REQUIRE(status.message().find("only to its own groups") != std::string::npos);
    CHILD_REQUIRE(std::filesystem::is_empty(folder.path()));
  };
  CHECK(as_user(kUser, kUser, [&] {
          options.mode = 0660;
          options.owner = kOtherUser;
          refused("to user 65533");
          options.owner = static_cast<uid_t>(-1);
          options.group = kGroup;
          refused("to group 65531");
        }) == 0);
  Forked creator([&](Steps&) {
    const gid_t groups[] = {kGroup};
    CHILD_REQUIRE(setgroups(1, groups) == 0 && setresgid(kUser, kUser, kUser) == 0 &&
                  setresuid(kUser, kUser, kUser) == 0);
    options.mode = 0660;
    options.group = kGroup;
    auto cache = Cache::open(options);
    CHILD_REQUIRE(cache.ok() && cache->set("k", "v").ok());
    return 0;
  });
  CHECK(creator.wait() == 0);
  CHECK(files_not_of(folder, kUser, kGroup, 0660) == std::vector<std::string>{});
  CHECK(as_user(kOtherUser, kGroup, [&] {
          CHILD_REQUIRE(Cache::open(options).status().code() == Code::kMismatch);
          options.allowed_owners = {kUser};
          auto cache = Cache::open(options);
          CHILD_REQUIRE(cache.ok() && has_local(*cache, "k", "v") && cache->set("l", "w").ok());
        }) == 0);
}
