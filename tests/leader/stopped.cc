#include "tests/leader/stopped.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "shm/lock.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"
#include "tools/bench/histogram.h"

namespace larder::leader {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using test::Forked;
using test::Home;
using test::Steps;

constexpr std::uint32_t kStripe = 0;
constexpr unsigned kReaders = 2;
constexpr std::size_t kKeys = 256;
constexpr std::size_t kValueBytes = 400;
constexpr auto kWindow = 400ms;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

std::uint64_t nanoseconds(Clock::duration duration) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

// Memory that this process and its children share.
template <class T>
class Shared {
 public:
  Shared() {
    void* memory =
        mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    value_ = new (memory) T{};
  }
  ~Shared() { munmap(value_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator*() { return *value_; }

 private:
  T* value_;
};

// Takes the stripe's lock and stops itself, whenever it is told to.
class Holder {
 public:
  explicit Holder(const Home& home)
      : child_([&home](Steps& steps) -> int {
          auto table = home.table();
          shm::Stripe& stripe = table->segment().stripe(kStripe);
          for (;;) {
            steps.wait();
            const std::uint32_t self = *table->processes().self();
            CHILD_REQUIRE(shm::acquire(stripe, self, table->processes(), 10s) ==
                          shm::Acquired::kClean);
            steps.stop();
            CHILD_REQUIRE(shm::release(stripe, self));
            steps.reached();
          }
        }) {}

  void enter_and_stop() {
    child_.go_on();
    require(child_.await_stopped(), "the writer did not stop in the lock");
  }
  void leave() {
    child_.signal(SIGCONT);
    require(child_.await_step(), "the writer did not leave the lock");
  }

 private:
  Forked child_;
};

struct Readings {
  std::atomic<bool> measures;
  std::atomic<unsigned> round;  // of the window; readers begin a new histogram with it
  struct Reader {
    std::atomic<unsigned> done_round;
    bench::Histogram histogram;
    std::uint64_t misses;
  } readers[kReaders];
};

int read_for_ever(const Home& home, Readings& readings, unsigned number) {
  auto table = home.table();
  const auto keys = test::keys_of_stripe(table->segment(), kStripe, kKeys);
  Readings::Reader& mine = readings.readers[number];
  std::string value;
  for (;;) {
    while (!readings.measures.load()) std::this_thread::sleep_for(1ms);
    mine.histogram = {};
    mine.misses = 0;
    for (std::size_t i = number; readings.measures.load(std::memory_order_relaxed); ++i) {
      const auto begin = Clock::now();
      const bool hit = table->get(keys[i % kKeys], value);
      mine.histogram.add(nanoseconds(Clock::now() - begin));
      if (!hit) ++mine.misses;
    }
    mine.done_round.store(readings.round.load());
  }
}

double measure_window(Readings& readings) {
  const unsigned round = readings.round.load() + 1;
  readings.round.store(round);
  readings.measures.store(true);
  std::this_thread::sleep_for(kWindow);
  readings.measures.store(false);
  bench::Histogram all{};
  for (Readings::Reader& reader : readings.readers) {
    require(test::await([&] { return reader.done_round.load() == round; }, 30s),
            "a reader does not end its window");
    require(reader.misses == 0, "a reader missed what nobody removed");
    all.merge(reader.histogram);
  }
  return all.quantile(0.999);
}

}  // namespace

std::vector<ReadTurn> read_beside_stopped_writer(unsigned turns) {
  const Home home;
  {
    auto table = home.table();
    for (const std::string& key : test::keys_of_stripe(table->segment(), kStripe, kKeys)) {
      require(test::put(*table, key, test::make_value(key, 1, kValueBytes)) == shm::Stored::kStored,
              "cannot fill the segment");
    }
  }
  Shared<Readings> readings;
  Holder holder(home);
  std::vector<Forked> readers;
  for (unsigned i = 0; i < kReaders; ++i) {
    readers.emplace_back([&, i](Steps&) { return read_for_ever(home, *readings, i); });
  }
  const auto quiet = [&] { return measure_window(*readings); };
  const auto beside_stopped = [&] {
    holder.enter_and_stop();
    const double seen = measure_window(*readings);
    holder.leave();
    return seen;
  };
  (void)quiet();  // everything is mapped and warm
  std::vector<ReadTurn> seen(turns);
  for (unsigned i = 0; i < turns; ++i) {
    if (i % 2 == 0) seen[i].quiet_ns = quiet();
    seen[i].stopped_ns = beside_stopped();
    if (i % 2 == 1) seen[i].quiet_ns = quiet();
  }
  return seen;
}

std::vector<double> write_behind_stopped_writer_ms(unsigned turns) {
  constexpr unsigned kWriters = 4;
  const auto bound = shm::TableOptions().lock_timeout;
  const Home home;
  const auto segment = home.segment();  // stays when all others have left
  Holder holder(home);
  Shared<std::array<std::uint64_t, kWriters>> waited_ns;
  std::vector<Forked> writers;
  for (unsigned i = 0; i < kWriters; ++i) {
    writers.emplace_back([&, i](Steps& steps) -> int {
      auto table = home.table(bound);
      const auto key = test::keys_of_stripe(table->segment(), kStripe, 1)[0];
      for (;;) {
        steps.wait();
        const auto begin = Clock::now();
        const shm::Stored stored = table->fill({key, "v"}, table->sample(key), {});
        (*waited_ns)[i] = nanoseconds(Clock::now() - begin);
        CHILD_REQUIRE(stored == shm::Stored::kBusy);
        steps.reached();
      }
    });
  }
  std::vector<double> beyond_ms;
  for (unsigned turn = 0; turn < turns; ++turn) {
    holder.enter_and_stop();
    for (Forked& writer : writers) writer.go_on();
    std::uint64_t longest = 0;
    for (unsigned i = 0; i < kWriters; ++i) {
      require(writers[i].await_step(), "a writer waits on and on");
      longest = std::max(longest, (*waited_ns)[i]);
    }
    holder.leave();
    beyond_ms.push_back(static_cast<double>(longest) / 1e6 - static_cast<double>(bound.count()));
  }
  return beyond_ms;
}

}  // namespace larder::leader
