#include "tests/fault/worker.h"

#include <time.h>
#include <unistd.h>

#include "src/sync/event.h"
#include "tests/shm/fixture.h"
#include "tests/support/redis_server.h"

namespace larder::fault {
namespace {

using test::Random;

constexpr unsigned kReadsAtOnce = 48;
constexpr long kPauseNs = 1'000'000;

class Worker {
 public:
  Worker(Cache& cache, Ledger& ledger, unsigned seat, double writes_per_second)
      : cache_(cache),
        ledger_(ledger),
        seat_(ledger.seats[seat]),
        between_writes_ns_(static_cast<std::uint64_t>(1e9 / writes_per_second)),
        random_(now_ns() ^ static_cast<std::uint64_t>(getpid())) {
    for (unsigned key = 0; key < kKeys; ++key) names_.push_back(Ledger::key_name(key));
  }

  int run() {
    if (!cache_.start().ok()) return 1;
    std::uint64_t next_write_ns = now_ns();
    while (!ledger_.over) {
      for (unsigned i = 0; i < kReadsAtOnce; ++i) read();
      seat_.quiet = ledger_.no_more_writes.load();
      if (!seat_.quiet && now_ns() >= next_write_ns) {
        write();
        // Half to one and a half; what a fault kept it from is not made up for.
        next_write_ns = now_ns() + between_writes_ns_ / 2 + random_.below(between_writes_ns_);
      }
      const timespec pause{0, kPauseNs};
      nanosleep(&pause, nullptr);
    }
    return 0;
  }

 private:
  void read() {
    const auto key = static_cast<unsigned>(random_.below(kKeys));
    const std::uint64_t begun_ns = now_ns();
    if (!cache_.get(names_[key], found_).ok()) return count(seat_.failed);
    if (!found_.hit()) return count(seat_.misses);
    const auto number = Ledger::number_in(found_.value, key);
    if (!number) return count(seat_.foreign);
    if (found_.stale) return count(seat_.stale);
    if (found_.source == Source::kRemote) count(seat_.remote);
    count(seat_.fresh);
    ledger_.read(seat_, key, *number, begun_ns);
  }

  void write() {
    const auto key = static_cast<unsigned>(random_.below(kKeys));
    WriteKind kind = WriteKind::kSet;
    if (random_.one_in(20)) kind = WriteKind::kSetWithInvalidate;
    if (random_.one_in(20)) kind = WriteKind::kRemove;
    const std::uint64_t number = ledger_.begin_write(key, kind);
    Status done;
    switch (kind) {
      case WriteKind::kSet:
        done = cache_.set(names_[key], Ledger::value_of(number, key));
        break;
      case WriteKind::kSetWithInvalidate:
        done = cache_.set_with_invalidate(names_[key], Ledger::value_of(number, key));
        break;
      case WriteKind::kRemove:
        done = cache_.remove(names_[key]);
        break;
    }
    ledger_.end_write(number, done.ok());
  }

  static void count(std::atomic<std::uint64_t>& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  Cache& cache_;
  Ledger& ledger_;
  Seat& seat_;
  const std::uint64_t between_writes_ns_;
  Random random_;
  std::vector<std::string> names_;
  Lookup found_;
};

void hear(const std::string& payload, Ledger& ledger) {
  const auto event = sync::decode_event(payload);
  if (!event || event->action != sync::Action::kSet) return;
  constexpr std::size_t kPrefix = 4;  // "key:"
  const auto key = static_cast<unsigned>(std::stoul(event->key.substr(kPrefix)));
  if (const auto number = Ledger::number_in(event->value, key)) ledger.hear(*number);
}

}  // namespace

int work(Cache& cache, Ledger& ledger, unsigned seat, double writes_per_second) {
  return Worker(cache, ledger, seat, writes_per_second).run();
}

int tap(const std::string& redis, Ledger& ledger) {
  while (!ledger.over) {
    test::RedisConnection connection(redis);
    (void)connection.command({"CLIENT", "SETNAME", kTapName});
    if (!connection.command({"SUBSCRIBE", RedisOptions().channel}).is_error()) {
      ledger.tapped = true;
      for (;;) {
        const test::Reply message = connection.read();
        if (message.is_error()) break;  // also when nothing came for a while
        if (message.items.size() == 3) hear(message.items[2].text, ledger);
      }
    }
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
  return 0;
}

}  // namespace larder::fault
