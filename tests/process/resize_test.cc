// A segment gets another size under its workers: what they read meanwhile, where they go on, and
// what is left when the one who does it is killed. Real processes; the command is the real shmctl.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "larder/cache.h"
#include "shm/layout.h"
#include "shm/segment.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"

using namespace larder;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using test::await;
using test::Forked;
using test::host_options;
using test::Process;
using test::Steps;
using test::TempDir;

namespace {

constexpr milliseconds kPatience{120'000};  // on a busy machine
constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kStartBytes = 4 * kMiB;
constexpr unsigned kWorkers = 8;
constexpr unsigned kKeysEach = 40;  // of one writer
constexpr unsigned kKeys = kWorkers * kKeysEach;

Cache open(const Options& options) {
  auto cache = Cache::open(options);
  REQUIRE_MESSAGE(cache.ok(), cache.status().to_string());
  return std::move(*cache);
}

std::string shmctl() {
  const char* path = std::getenv("SHMCTL");
  return path != nullptr ? path : "build/tools/shmctl/shmctl";
}

std::vector<std::string> resize_command(const Options& options, const std::string& size) {
  return {shmctl(),          "resize", options.name, "--directory",
          options.directory, "--size", size,         "--write"};
}

void resize(const Options& options, const std::string& size) {
  Process command(resize_command(options, size));
  REQUIRE(command.wait(kPatience) == 0);
}

// ---- what is written and what may be read -----------------------------------------------------

std::string key_of(unsigned key) { return "key " + std::to_string(key); }

// Repeats what it is of over its whole length, so that no part of another fits.
std::string value_of(unsigned key, std::uint64_t version) {
  const std::string word = std::to_string(key) + "/" + std::to_string(version) + " ";
  std::string value;
  const std::size_t length = 40 + (key * 37 + version * 11) % 1500;
  while (value.size() < length) value += word;
  return value;
}

// Shared by all workers. A key is written by one of them, its versions count up; a removal is one
// too. What is read of a key must be no older than the last version that was completed before.
struct Ledger {
  struct Key {
    std::atomic<std::uint64_t> begun;
    std::atomic<std::uint64_t> completed;
  };
  std::array<Key, kKeys> keys;
  std::atomic<bool> stop;
  std::atomic<bool> failed;
  std::atomic<std::uint64_t> reads;
  std::atomic<std::uint64_t> hits;
  std::atomic<std::uint64_t> busy;
  std::array<std::atomic<std::uint64_t>, kWorkers> segment_bytes;  // of what each works on
};

struct Unmap {
  void operator()(Ledger* ledger) const { munmap(ledger, sizeof *ledger); }
};
using SharedLedger = std::unique_ptr<Ledger, Unmap>;

SharedLedger make_ledger() {
  void* memory =
      mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  return SharedLedger(new (memory) Ledger{});
}

// True when it was a right answer, a miss included.
bool is_right(const Ledger& ledger, unsigned key, std::uint64_t completed_before,
              const Lookup& found) {
  if (!found.hit()) return true;
  const std::uint64_t version =
      std::strtoull(found.value.c_str() + found.value.find('/') + 1, nullptr, 10);
  const bool right = found.value == value_of(key, version) && version >= completed_before &&
                     version <= ledger.keys[key].begun.load();
  if (!right) {
    std::fprintf(stderr, "key %u: %.40s, completed before: %llu\n", key, found.value.c_str(),
                 static_cast<unsigned long long>(completed_before));
  }
  return right;
}

constexpr int kWrongValue = 33;
constexpr int kFailed = 34;

bool read_one(Cache& cache, Ledger& ledger, unsigned key, Lookup& found) {
  const std::uint64_t completed = ledger.keys[key].completed.load();
  if (!cache.get(key_of(key), found).ok()) return true;
  ledger.reads.fetch_add(1, std::memory_order_relaxed);
  if (found.hit()) ledger.hits.fetch_add(1, std::memory_order_relaxed);
  return is_right(ledger, key, completed, found);
}

// Ok and busy are what may come of it.
bool change_one(Cache& cache, Ledger& ledger, unsigned key, bool remove) {
  Ledger::Key& entry = ledger.keys[key];
  const std::uint64_t version = entry.begun.fetch_add(1) + 1;
  const Status done =
      remove ? cache.remove(key_of(key)) : cache.set(key_of(key), value_of(key, version));
  if (done.ok()) entry.completed.store(version);
  if (done.code() == Code::kBusy) ledger.busy.fetch_add(1, std::memory_order_relaxed);
  return done.ok() || done.code() == Code::kBusy;
}

// Reads all keys and writes its own until it is told to stop.
int work(Cache& cache, Ledger& ledger, unsigned worker) {
  Lookup found;
  unsigned random = worker * 7919 + 1;
  const auto next = [&random](unsigned below) {
    random = random * 1'664'525 + 1'013'904'223;
    return (random >> 8) % below;
  };
  while (!ledger.stop.load()) {
    for (int i = 0; i < 12; ++i) {
      if (!read_one(cache, ledger, next(kKeys), found)) return kWrongValue;
    }
    const unsigned own = worker * kKeysEach + next(kKeysEach);
    if (!change_one(cache, ledger, own, next(8) == 0)) return kFailed;
    ledger.segment_bytes[worker].store(cache.stats().segment_bytes);
  }
  return 0;
}

class Workers {
 public:
  Workers(Cache& cache, Ledger& ledger) : ledger_(ledger) {
    for (unsigned i = 0; i < kWorkers; ++i) {
      all_.emplace_back([&cache, &ledger, i](Steps&) {
        const int status = work(cache, ledger, i);
        if (status != 0) ledger.failed.store(true);
        return status;
      });
    }
    REQUIRE(await([&] { return all_on(0, true); }, kPatience));
  }
  // All are on a segment of so many bytes; or on any. Or there is nothing to wait for any more.
  bool all_on(std::uint64_t bytes, bool any = false) const {
    if (ledger_.failed.load()) return true;
    for (const auto& on : ledger_.segment_bytes) {
      if (any ? on.load() == 0 : on.load() != bytes) return false;
    }
    return true;
  }
  void finish() {
    ledger_.stop.store(true);
    for (Forked& worker : all_) CHECK(worker.wait(kPatience) == 0);
  }

 private:
  Ledger& ledger_;
  std::list<Forked> all_;
};

// ---- one that is killed -----------------------------------------------------------------------

// Halted at the program's first instruction.
pid_t start_traced(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const auto& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    (void)dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) execv(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE_MESSAGE(WIFSTOPPED(status), "ptrace is forbidden, or there is no " << command[0]);
  const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
  REQUIRE(ptrace(PTRACE_SETOPTIONS, child, nullptr, options) == 0);
  return child;
}

using SystemCall = decltype(__ptrace_syscall_info::entry);

// Runs it until `here(call)` says so of a system call that it is about to make. False: it came to
// its end before.
bool run_to_call(pid_t child, const std::function<bool(const SystemCall& call)>& here) {
  constexpr int kSystemCallStop = SIGTRAP | 0x80;
  for (;;) {
    REQUIRE(ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) == 0);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!WIFSTOPPED(status)) {
      REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
      return false;
    }
    __ptrace_syscall_info info{};
    if (WSTOPSIG(status) == kSystemCallStop &&
        ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info) > 0 &&
        info.op == PTRACE_SYSCALL_INFO_ENTRY && here(info.entry)) {
      return true;
    }
  }
}

void run_to_end(pid_t child) {
  REQUIRE(!run_to_call(child, [](const SystemCall&) { return false; }));
}

// SIGKILL as it is about to make its call number `number`, counted from the one that takes the
// creation lock. False: it came to its end before.
bool kill_at_call(pid_t child, unsigned number) {
  bool locked = false;
  unsigned calls = 0;
  const bool halted = run_to_call(child, [&](const SystemCall& call) {
    locked = locked || call.nr == SYS_flock;
    return locked && calls++ >= number;
  });
  if (!halted) return false;
  kill(child, SIGKILL);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  return true;
}

// ---- what is there ----------------------------------------------------------------------------

std::vector<std::string> files_of(const Options& options) {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(options.directory)) {
    names.push_back(file.path().filename());
  }
  return names;
}

// The segment, its lock file, and the one that is held while creating.
void check_nothing_is_left(const Options& options) {
  const auto names = files_of(options);
  CHECK_MESSAGE(names.size() == 3, names.size() << " files");
  CHECK(!std::filesystem::exists(shm::Segment::path_of(options.directory, options.name) + ".tmp"));
}

void check_whole(const Options& options) {
  Process check({shmctl(), "check", options.name, "--directory", options.directory, "--deep"});
  const auto status = check.wait(kPatience);
  CHECK_MESSAGE(status == 0, check.output());
}

}  // namespace

TEST_CASE("what is held moves into the new segment, the most used first, and processes with it") {
  const TempDir directory;
  const Options options = host_options(directory, "sized", "");
  Cache cache = open(options);
  constexpr int kEntries = 2000;
  const std::string value(1000, 'v');
  for (int i = 0; i < kEntries; ++i) REQUIRE(cache.set("k" + std::to_string(i), value).ok());
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 100; ++i) CHECK(cache.get("k" + std::to_string(i))->hit());
    // Time, for the policy, is inserts.
    for (int i = 0; i < 400; ++i) REQUIRE(cache.set("n" + std::to_string(i), "x").ok());
    for (int i = 0; i < 400; ++i) REQUIRE(cache.remove("n" + std::to_string(i)).ok());
  }
  const auto hits = [&cache](int from, int to) {
    int found = 0;
    for (int i = from; i < to; ++i) {
      const auto got = cache.get("k" + std::to_string(i));
      found += got.ok() && got->hit();
    }
    return found;
  };

  SUBCASE("a larger one has all of it") {
    resize(options, "8MiB");
    CHECK(hits(0, kEntries) == kEntries);
    CHECK(cache.stats().segment_bytes == 8 * kMiB);
  }
  SUBCASE("a smaller one has what was used most") {
    const std::uint64_t sets = cache.stats().sets;
    resize(options, "1MiB");
    CHECK(hits(0, 100) >= 95);
    CHECK(hits(100, kEntries) < kEntries / 2);
    CHECK(cache.stats().segment_bytes == 1 * kMiB);
    CHECK(cache.stats().sets == sets);  // what was counted goes on
  }
  CHECK(cache.set("new", "value").ok());
  CHECK(cache.get("new")->value == "value");
  // A process of one thread lets the old one go.
  Process maps({"/bin/grep", "-c", "deleted", "/proc/" + std::to_string(getpid()) + "/maps"});
  REQUIRE(maps.wait(kPatience));
  CHECK(maps.output().find("larder.sized") == std::string::npos);
  check_whole(options);
  check_nothing_is_left(options);
}

TEST_CASE("expiry moves along; what was removed stays so") {
  const TempDir directory;
  const Options options = host_options(directory, "life", "");
  Cache cache = open(options);
  REQUIRE(cache.set("short", "1", milliseconds(300)).ok());
  REQUIRE(cache.set("long", "2", std::chrono::hours(1)).ok());
  REQUIRE(cache.set("gone", "3").ok());
  REQUIRE(cache.remove("gone").ok());
  resize(options, "6MiB");
  CHECK(cache.get("long")->value == "2");
  CHECK(!cache.get("gone")->hit());
  CHECK(await([&] { return !cache.get("short")->hit(); }, kPatience));
}

TEST_CASE("a view that is held across the switch stays readable") {
  const TempDir directory;
  const Options options = host_options(directory, "views", "");
  Cache cache = open(options);
  const std::string value(200'000, 'w');
  REQUIRE(cache.set("large", value).ok());
  {
    auto view = cache.view("large");
    REQUIRE(view.ok());
    resize(options, "8MiB");
    REQUIRE(cache.set("large", "small now").ok());
    CHECK(cache.get("large")->value == "small now");
    resize(options, "16MiB");
    CHECK(cache.get("large")->value == "small now");
    CHECK(view->value() == value);
  }
  auto view = cache.view("large");
  REQUIRE(view.ok());
  CHECK(view->value() == "small now");
}

TEST_CASE("eight workers read and write through many switches; nothing old, torn or foreign") {
  const TempDir directory;
  std::unique_ptr<test::RedisServer> server;
  SUBCASE("alone") {}
  SUBCASE("with Redis") { server = std::make_unique<test::RedisServer>(); }
  const Options options =
      host_options(directory, "busy", server ? server->unix_socket() : std::string());
  Cache cache = open(options);
  const SharedLedger ledger = make_ledger();
  Workers workers(cache, *ledger);
  milliseconds longest{0};
  for (const unsigned size : {8, 2, 16, 4, 1, 8, 3, 6}) {
    const auto begun = steady_clock::now();
    resize(options, std::to_string(size) + "MiB");
    REQUIRE(await([&] { return workers.all_on(size * kMiB); }, kPatience));
    longest =
        std::max(longest, std::chrono::duration_cast<milliseconds>(steady_clock::now() - begun));
    const std::uint64_t reads = ledger->reads.load();
    REQUIRE(await([&] { return ledger->failed.load() || ledger->reads.load() > reads + 2000; },
                  kPatience));
  }
  workers.finish();
  MESSAGE("all moved within " << longest.count() << " ms; " << ledger->reads.load() << " reads, "
                              << ledger->hits.load() << " hits, " << ledger->busy.load()
                              << " changes refused as busy");
  CHECK(ledger->hits.load() > 0);
  check_whole(options);
  resize(options, "4MiB");
  check_nothing_is_left(options);
}

TEST_CASE("no room: refused with the advice, and all goes on as it was") {
  const TempDir directory;
  const Options options = host_options(directory, "full", "");
  Cache cache = open(options);
  REQUIRE(cache.set("key", "value").ok());
  struct statvfs fs {};
  REQUIRE(statvfs(options.directory.c_str(), &fs) == 0);
  const std::uint64_t bytes = std::uint64_t{fs.f_blocks} * fs.f_frsize + kMiB;
  Process command(resize_command(options, std::to_string(bytes)));
  REQUIRE(command.wait(kPatience) == 1);
  CHECK(command.output().find("no room for") != std::string::npos);
  CHECK(command.output().find("--shm-size=") != std::string::npos);
  CHECK(cache.get("key")->value == "value");
  CHECK(cache.stats().segment_bytes == kStartBytes);
  check_nothing_is_left(options);
}

TEST_CASE("a size with too few places for those at work is refused, and all goes on as it was") {
  const TempDir directory;
  const Options options = host_options(directory, "crowd", "");
  Cache cache = open(options);
  REQUIRE(cache.set("key", "value").ok());
  std::list<Forked> workers;
  constexpr int kMoreThanIn2MiB = 20;
  while (workers.size() < kMoreThanIn2MiB) {
    workers.emplace_back([&](Steps& steps) {
      CHILD_REQUIRE(cache.start().ok());
      steps.reached();
      return steps.wait_for_death();
    });
    REQUIRE(workers.back().await_step());
  }
  {
    Process command(resize_command(options, "2MiB"));
    CHECK(command.wait(kPatience) == 1);
    CHECK(command.output().find("places") != std::string::npos);
  }
  CHECK(cache.get("key")->value == "value");
  CHECK(cache.stats().segment_bytes == kStartBytes);
  check_nothing_is_left(options);
  // The dead need none.
  workers.clear();
  resize(options, "2MiB");
  CHECK(cache.get("key")->value == "value");
  CHECK(cache.stats().segment_bytes == 2 * kMiB);
}

TEST_CASE("a full process table does not cost what is held") {
  const TempDir directory;
  const Options options = host_options(directory, "places", "");
  Cache cache = open(options);
  REQUIRE(cache.set("key", "value").ok());
  const auto segment = shm::Segment::attach(shm::Segment::path_of(options.directory, options.name),
                                            shm::Access::kReadOnly);
  REQUIRE(segment.ok());
  const std::uint32_t places = (*segment)->geometry().place_count;
  std::list<Forked> workers;
  while (workers.size() + 2 < places) {  // place 0 is nobody's, one is ours
    workers.emplace_back([&](Steps& steps) {
      CHILD_REQUIRE(cache.start().ok());
      steps.reached();
      return steps.wait_for_death();
    });
    REQUIRE(workers.back().await_step());
  }
  {
    Process command(resize_command(options, "8MiB"));
    CHECK(command.wait(kPatience) == 1);
    CHECK(command.output().find("are taken by live processes") != std::string::npos);
  }
  CHECK(cache.get("key")->value == "value");
  workers.clear();  // dead, not reaped
  resize(options, "8MiB");
  CHECK(cache.get("key")->value == "value");
}

TEST_CASE("wrong sizes and missing --write are refused, and nothing happens") {
  const TempDir directory;
  const Options options = host_options(directory, "usage", "");
  Cache cache = open(options);
  REQUIRE(cache.set("key", "value").ok());
  for (const char* size : {"1KiB", "20000GiB", "x", "-1"}) {
    Process command(resize_command(options, size));
    const auto status = command.wait(kPatience);
    CHECK_MESSAGE((status == 4 || status == 1), std::string(size));
  }
  auto command = resize_command(options, "8MiB");
  command.pop_back();
  CHECK(Process(command).wait(kPatience) == 4);
  CHECK(cache.get("key")->value == "value");
  CHECK(cache.stats().segment_bytes == kStartBytes);
}

// Halted in the midst of copying: where it wants memory for a value that is larger than all others,
// and is used more, so that it comes after them.
TEST_CASE("what is changed after it was copied is not found as it was") {
  const TempDir directory;
  const Options options = host_options(directory, "changed", "");
  Cache cache = open(options);
  constexpr unsigned kLargeBytes = 300'000;
  constexpr unsigned kSmall = 300;
  const std::string large(kLargeBytes, 'L');
  const auto set_all = [&cache](std::uint64_t version) {
    for (unsigned key = 0; key < kSmall; ++key) {
      REQUIRE(cache.set(key_of(key), value_of(key, version)).ok());
    }
  };
  REQUIRE(cache.set("large", large).ok());
  for (std::uint64_t version = 1; version <= 20; ++version) {
    set_all(version);
    for (unsigned key = 0; key < kSmall; ++key) REQUIRE(cache.remove(key_of(key)).ok());
    REQUIRE(cache.get("large")->hit());
  }
  set_all(21);
  const pid_t child = start_traced(resize_command(options, "8MiB"));
  const auto wants_memory = [](const SystemCall& call) {
    return call.nr == SYS_mmap && call.args[1] > kLargeBytes && call.args[1] < 2 * kLargeBytes;
  };
  // The program itself is loaded before.
  REQUIRE(run_to_call(child, [](const SystemCall& call) { return call.nr == SYS_flock; }));
  REQUIRE(run_to_call(child, wants_memory));
  SUBCASE("overwritten") {
    set_all(22);
    run_to_end(child);
    unsigned dropped = 0;
    for (unsigned key = 0; key < kSmall; ++key) {
      const auto got = cache.get(key_of(key));
      REQUIRE(got.ok());
      if (got->hit()) CHECK(got->value == value_of(key, 22));
      dropped += !got->hit();
    }
    CHECK(dropped > 0);  // or none had been copied yet
  }
  SUBCASE("removed") {
    for (unsigned key = 0; key < kSmall; ++key) REQUIRE(cache.remove(key_of(key)).ok());
    run_to_end(child);
    for (unsigned key = 0; key < kSmall; ++key) CHECK(!cache.get(key_of(key))->hit());
  }
  SUBCASE("cleared") {
    REQUIRE(cache.clear().ok());
    run_to_end(child);
    for (unsigned key = 0; key < kSmall; ++key) CHECK(!cache.get(key_of(key))->hit());
    CHECK(!cache.get("large")->hit());
  }
  CHECK(cache.stats().segment_bytes == 8 * kMiB);
  check_whole(options);
}

TEST_CASE("halted while the segment is closed: reads miss, what cannot be changed is not kept") {
  const TempDir directory;
  const Options options = host_options(directory, "halted", "");
  Cache cache = open(options);
  for (const char* key : {"set", "removed", "other"}) REQUIRE(cache.set(key, "old").ok());
  const pid_t child = start_traced(resize_command(options, "8MiB"));
  REQUIRE(run_to_call(child, [](const SystemCall& call) { return call.nr == SYS_rename; }));
  CHECK(!cache.get("other")->hit());
  CHECK(!*cache.view("other"));

  SUBCASE("nothing was changed: the copy is kept") {
    run_to_end(child);
    CHECK(cache.get("other")->value == "old");
  }
  SUBCASE("a change gives up") {
    CHECK(cache.set("set", "new").code() == Code::kBusy);
    CHECK(cache.remove("removed").code() == Code::kBusy);
    run_to_end(child);
    CHECK(!cache.get("set")->hit());
    CHECK(!cache.get("removed")->hit());
  }
  SUBCASE("a clear gives up") {
    CHECK(cache.clear().code() == Code::kBusy);
    run_to_end(child);
    CHECK(!cache.get("other")->hit());
  }
  SUBCASE("a change waits") {
    Options patient = options;
    patient.lock_timeout = std::chrono::seconds(10);
    Forked writer([&](Steps& steps) {
      auto mine = Cache::open(patient);
      if (!mine) return kFailed;
      steps.reached();
      return mine->set("set", "new").ok() ? 0 : kFailed;
    });
    REQUIRE(writer.await_step());
    run_to_end(child);
    REQUIRE(writer.wait(kPatience) == 0);
    CHECK(cache.get("set")->value == "new");
    CHECK(cache.get("other")->value == "old");
  }
  CHECK(cache.stats().segment_bytes == 8 * kMiB);
  CHECK(cache.set("set", "newer").ok());
  CHECK(cache.get("set")->value == "newer");
}

// At its n-th system call, for every n: what changes nothing but memory lies between two of them.
TEST_CASE("killed at every system call: the old or the new one is in force, and nothing old") {
  const TempDir directory;
  const Options options = host_options(directory, "killed", "");
  Cache cache = open(options);
  const SharedLedger ledger = make_ledger();
  Lookup found;
  unsigned killed = 0;
  unsigned kept = 0;     // the old one was in force, with what it held
  unsigned emptied = 0;  // it was, but closed when its killer came
  bool ended = false;
  for (unsigned call = 0; !ended; ++call) {
    for (unsigned key = 0; key < kKeys; ++key) {
      REQUIRE(change_one(cache, *ledger, key, key % 10 == 0));
    }
    const std::uint64_t before = cache.stats().segment_bytes;
    ended = !kill_at_call(start_traced(resize_command(options, "8MiB")), call);

    unsigned hits = 0;
    for (unsigned key = 0; key < kKeys; ++key) {
      REQUIRE(read_one(cache, *ledger, key, found));
      hits += found.hit();
    }
    for (unsigned key = 0; key < kKeys; ++key) {
      REQUIRE(change_one(cache, *ledger, key, key % 7 == 0));
      REQUIRE(read_one(cache, *ledger, key, found));
      REQUIRE(found.hit() == (key % 7 != 0));
    }
    const std::uint64_t now = cache.stats().segment_bytes;
    REQUIRE((now == before || now == 8 * kMiB));
    killed += !ended;
    kept += !ended && now == before && hits > 0;
    emptied += !ended && hits == 0;
    check_whole(options);
    resize(options, "4MiB");
    check_nothing_is_left(options);
  }
  CHECK(ledger->busy.load() == 0);
  CHECK(kept > 0);
  CHECK(emptied > 0);
  CHECK(killed > kept + emptied);
  MESSAGE(killed << " kills: " << kept << " left the old one as it was, " << emptied
                 << " an empty one");
}
