// Out of memory: each operation, with each of its allocations failing in turn. It throws
// std::bad_alloc or does without; either way no lock stays held, nothing wrong is read, and the
// next call works. A program of its own, because it replaces operator new.
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "shm/inspect.h"
#include "shm/lock.h"
#include "shm/segment.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace {

// Of this thread: how many allocations still succeed; -1: all.
thread_local long allocations_left = -1;

void* allocate(std::size_t bytes) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace larder::shm {
namespace {

using test::Forked;
using test::Home;
using test::Steps;

// Runs `work` again and again, with one more allocation granted each time, until it needs no more;
// `after` judges what each attempt left. Returns how many attempts failed.
int fail_each(const std::function<void()>& work, const std::function<void(bool failed)>& after) {
  for (int granted = 0;; ++granted) {
    CAPTURE(granted);
    REQUIRE(granted < 1000);
    bool failed = false;
    allocations_left = granted;
    try {
      work();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocations_left = -1;
    after(failed);
    if (!failed) return granted;
  }
}

const std::string kOld(300, 'o');
const std::string kNew(400, 'n');

struct Fixture {
  Fixture() {
    for (const char* key : {"k", "a", "b"})
      REQUIRE(test::put(*table, key, kOld) == Stored::kStored);
  }

  // Nobody holds anything, everything is whole, and the key's stripe takes a write.
  void check_sound() {
    for (std::uint32_t i = 0; i < table->segment().geometry().stripe_count; ++i) {
      CHECK(table->segment().stripe(i).lock.load() == 0);
    }
    CHECK(test::faults(table->segment()) == "");
    const auto value = test::read(*table, "k");
    CHECK((!value || *value == kOld || *value == kNew));
    CHECK(test::put(*table, "k", kOld) == Stored::kStored);
    // Another process can do everything that needs this one's mutexes, or those in the segment.
    CHECK(table->reap() == 0);
  }

  // The lock of every stripe, as somebody who is dead by now held it.
  void lock_by_the_dead() {
    Forked holder([&](Steps& steps) {
      Table own(Segment::attach(home.path(), Access::kReadWrite).value(), {});
      CHILD_REQUIRE(own.join().ok());
      for (std::uint32_t i = 0; i < own.segment().geometry().stripe_count; ++i) {
        own.segment().stripe(i).lock.store(*own.processes().self());
      }
      steps.reached();
      return steps.wait_for_death();
    });
    REQUIRE(holder.await_step());
    holder.kill_now();
  }

  Home home;
  std::unique_ptr<Table> table = home.table();
};

}  // namespace

TEST_CASE("an allocation that fails in an operation of the table leaves it sound and unlocked") {
  Fixture f;
  Table& table = *f.table;
  const Sample sample = table.sample("k");
  struct Operation {
    const char* name;
    std::function<void()> work;
    bool allocates;
  };
  const std::string_view keys[] = {"k", "a", "b", "absent"};
  std::vector<std::string> values(4);
  std::string value;
  const Operation operations[] = {
      {"get", [&] { std::string().swap(value), (void)table.get("k", value); }, true},
      {"get_batch",
       [&] {
         for (std::string& each : values) std::string().swap(each);
         (void)table.get_batch(keys, [&](std::size_t i) -> std::string& { return values[i]; });
       },
       true},
      {"pin", [&] { unpin(*table.pin("k")); }, false},
      {"set",
       [&] {
         (void)table.set({"k", kNew}, table.sample("k"), {});
       },
       false},
      {"set of a new key",
       [&] {
         (void)table.set({"new", kNew});
       },
       false},
      {"fill",
       [&] {
         (void)table.fill({"k", kNew}, sample, {});
       },
       false},
      {"remove", [&] { (void)table.remove("k", sample, {}); }, false},
      {"drop", [&] { (void)table.drop("k"); }, false},
      {"raise_epoch", [&] { (void)table.raise_epoch(); }, false},
      {"begin_term", [&] { (void)table.begin_term(); }, false},
      {"join", [&] { (void)table.join(); }, false},
      {"reap", [&] { (void)table.reap(); }, false},
      {"totals", [&] { (void)totals(table.segment()); }, false},
      {"check", [&] { (void)check(table.segment(), {.deep = true}); }, true},
      {"processes", [&] { (void)processes(table.segment()); }, true},
  };
  for (const Operation& operation : operations) {
    CAPTURE(operation.name);
    const int failed = fail_each(operation.work, [&](bool) { f.check_sound(); });
    CHECK((failed > 0) == operation.allocates);
  }
}

TEST_CASE("a reader whom writers keep away, and who gets no memory, lets go of the lock it took") {
  Fixture f;
  Segment& segment = f.table->segment();
  const std::uint32_t stripe = place_of(segment, segment.hash("k")).stripe;
  int under_lock = 0;
  // Writes the key all the time, so that some reads get their turn only with the lock.
  Forked writer([&](Steps& steps) -> int {
    Table own(Segment::attach(f.home.path(), Access::kReadWrite).value(), {});
    steps.reached();
    for (;;) (void)own.set({"k", kOld});
  });
  REQUIRE(writer.await_step());
  for (int i = 0; i < 20'000; ++i) {
    std::string value;
    allocations_left = 0;
    try {
      (void)f.table->get("k", value);
    } catch (const std::bad_alloc&) {
    }
    allocations_left = -1;
    const std::uint32_t word = segment.stripe(stripe).lock.load() & ~kWaiters;
    under_lock += word == *f.table->processes().self();
  }
  writer.kill_now();
  CHECK(under_lock == 0);
  f.table->reap();
  f.check_sound();
}

TEST_CASE("taking over from the dead without memory fails and can be repeated") {
  Fixture f;
  f.lock_by_the_dead();
  const int failed = fail_each([&] { (void)f.table->set({"k", kNew}); }, [](bool) {});
  MESSAGE(failed, " allocations of a take-over failed");
  f.lock_by_the_dead();
  (void)fail_each([&] { (void)f.table->reap(); }, [](bool) {});
  CHECK(f.table->reap() <= 2);
  f.check_sound();
}

TEST_CASE("opening without memory fails, leaves no descriptor, and works when there is some") {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  for (const bool there_already : {false, true}) {
    CAPTURE(there_already);
    Home home;
    if (there_already) home.segment().reset();
    std::ofstream(home.path() + ".0123456789abcdef.lock") << "";  // of a segment that is gone
    const auto before = descriptors();
    std::shared_ptr<Segment> segment;
    const int failed = fail_each(
        [&] {
          auto opened = Segment::open(home.options);
          if (!opened) throw std::bad_alloc();
          segment = *opened;
        },
        [&](bool has_failed) {
          if (has_failed) CHECK(descriptors() == before);
        });
    CHECK(failed > 0);
    CHECK(descriptors() == before + 1);  // of the lock file
    // The segment, its lock file and the creators' lock: what failed attempts left is gone.
    const int orphans = there_already ? 1 : 0;  // for the next creator
    CHECK(std::distance(std::filesystem::directory_iterator(home.dir.path()), {}) == 3 + orphans);
    CHECK(test::faults(*segment) == "");
    segment.reset();
    CHECK(descriptors() == before);
    const int joined = fail_each(
        [&] {
          Table table(Segment::attach(home.path(), Access::kReadWrite).value(), {});
          if (!table.join().ok()) throw std::bad_alloc();
        },
        [&](bool) { CHECK(descriptors() == before); });
    CHECK(joined > 0);
    auto table = home.table();
    CHECK(totals(table->segment()).processes == 1);
  }
}

TEST_CASE("listing without memory fails and leaves no descriptor") {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  Home home;
  home.options.name = "a name that needs memory of its own";
  home.segment().reset();
  const auto before = descriptors();
  std::size_t listed = 0;
  const int failed = fail_each([&] { listed = Segment::list(home.options.directory).size(); },
                               [&](bool) { CHECK(descriptors() == before); });
  CHECK(failed > 0);
  CHECK(listed == 1);
}

TEST_CASE("a worker that reached its limit on memory reads on, and says what failed" *
          doctest::skip(test::kSanitized)) {
  Fixture f;
  // A value larger than what is left to it; the others it has room for.
  const std::string large(256 << 10, 'l');
  REQUIRE(test::put(*f.table, "large", large) == Stored::kStored);
  Forked worker([&](Steps&) {
    std::string small;
    CHILD_REQUIRE(f.table->get("k", small) && small == kOld);
    // Nothing more at all: what the heap still has is used up first.
    std::vector<void*> taken;
    taken.reserve(100'000);
    const rlimit none{1, RLIM_INFINITY};
    CHILD_REQUIRE(setrlimit(RLIMIT_AS, &none) == 0);
    for (void* memory = std::malloc(large.size()); memory != nullptr;
         memory = std::malloc(large.size())) {
      taken.push_back(memory);
      CHILD_REQUIRE(taken.size() < 100'000);
    }
    bool failed = false;
    std::string value;
    try {
      (void)f.table->get("large", value);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    CHILD_REQUIRE(failed && value.empty());
    CHILD_REQUIRE(f.table->get("k", small) && small == kOld);
    CHILD_REQUIRE(f.table->set({"k", small}) == Stored::kStored);
    // The segment cannot be mapped a second time.
    for (void* memory : taken) std::free(memory);
    const auto attached = Segment::attach(f.home.path(), Access::kReadWrite);
    CHILD_REQUIRE(attached.code() == Code::kNoSpace);
    CHILD_REQUIRE(attached.status().message().find("ulimit -v") != std::string::npos);
    return 0;
  });
  CHECK(worker.wait() == 0);
  CHECK(f.table->reap() == 1);
  f.check_sound();
}

}  // namespace larder::shm
