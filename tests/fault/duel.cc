#include "tests/fault/duel.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <vector>

#include "tests/fault/ledger.h"
#include "tests/support/forked.h"
#include "tests/support/host.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"
#include "tests/support/two_hosts.h"

namespace larder::fault {
namespace {

using test::Forked;
using test::HostView;
using test::RedisConnection;
using test::RedisServer;
using test::Steps;

constexpr std::uint64_t kBatch = 1000;
constexpr std::chrono::seconds kPatience{60};

enum class Turn : std::uint32_t { kFailed, kDone, kGotOld };

// When each was at it, and what came of it.
struct Span {
  std::atomic<std::uint64_t> begun_ns;
  std::atomic<std::uint64_t> ended_ns;
  std::atomic<Turn> turn;
};

struct Ring {
  std::atomic<std::uint64_t> arrivals;
  std::atomic<std::uint64_t> round;     // for which both have arrived
  std::atomic<std::uint64_t> start_ns;  // when it begins
  Span spans[2][kBatch];
  std::atomic<bool> failed;
};

Ring& create_ring() {
  void* at = mmap(nullptr, sizeof(Ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::runtime_error("no memory for the duel");
  return *static_cast<Ring*>(at);
}

std::string key_of(std::uint64_t round) { return "duel:" + std::to_string(round); }

// What one side does in a round.
using Move = std::function<Turn(Cache&, std::uint64_t round)>;

class Duel {
 public:
  Duel(Move first, Move second) : moves_{std::move(first), std::move(second)} {}

  // `prepare` is called before each batch, with its first round and the number of them.
  DuelReport run(
      std::uint64_t rounds,
      const std::function<void(RedisConnection&, std::uint64_t, std::uint64_t)>& prepare) {
    const std::uint64_t begun_ns = now_ns();
    try {
      Ring& ring = create_ring();
      std::vector<Forked> sides;
      for (unsigned side = 0; side < 2; ++side) {
        sides.emplace_back([&, side](Steps& steps) { return play(steps, side, rounds, ring); });
      }
      for (Forked& side : sides) require(side.await_step(), "a side does not get in sync");
      RedisConnection redis = server_.connect();
      for (std::uint64_t first = 0; first < rounds; first += kBatch) {
        const std::uint64_t count = std::min(kBatch, rounds - first);
        prepare(redis, first, count);
        for (Forked& side : sides) side.go_on();
        for (Forked& side : sides) require(side.await_step(), "a side does not come back");
        require(!ring.failed, "a set or get failed");
        compare(redis, first, count);
        count_meetings(ring, count);
        report_.rounds += count;
      }
    } catch (const std::exception& error) {
      report_.failure = error.what();
    }
    report_.seconds = static_cast<double>(now_ns() - begun_ns) / 1e9;
    return report_;
  }

 private:
  static void require(bool holds, const char* what) {
    if (!holds) throw std::runtime_error(what);
  }

  int play(Steps& steps, unsigned side, std::uint64_t rounds, Ring& ring) {
    Cache cache = test::open_cache(options_[side]);
    if (!cache.start().ok() || !test::await([&] { return cache.in_sync(); }, kPatience)) return 1;
    steps.reached();
    for (std::uint64_t first = 0; first < rounds; first += kBatch) {
      steps.wait();
      const std::uint64_t count = std::min(kBatch, rounds - first);
      for (std::uint64_t i = 0; i < count; ++i) {
        meet(ring, first + i + 1);
        Span& span = ring.spans[side][i];
        span.begun_ns = now_ns();
        span.turn = moves_[side](cache, first + i);
        span.ended_ns = now_ns();
        if (span.turn == Turn::kFailed) ring.failed = true;
      }
      steps.reached();
    }
    return steps.wait_for_death();
  }

  // Whoever comes second says when both begin, so that neither has to wait for the other's waking.
  static void meet(Ring& ring, std::uint64_t round) {
    constexpr std::uint64_t kNoticeNs = 200'000;
    constexpr timespec kNap{0, 20'000};
    if (ring.arrivals.fetch_add(1) % 2 == 1) {
      ring.start_ns = now_ns() + kNoticeNs;
      ring.round = round;
    }
    while (ring.round < round) nanosleep(&kNap, nullptr);
    while (now_ns() < ring.start_ns) {
    }
  }

  // When both have followed the log to its end.
  void compare(RedisConnection& redis, std::uint64_t first, std::uint64_t count) {
    const HostView views[] = {HostView(options_[0]), HostView(options_[1])};
    const shm::ChangeId end = test::log_end(redis);
    require(test::await([&] { return views[0].follows(end) && views[1].follows(end); }, kPatience),
            "the hosts do not follow the log to its end");
    std::vector<std::string> question{"MGET"};
    for (std::uint64_t i = 0; i < count; ++i) question.push_back(key_of(first + i));
    const test::Reply answer = redis.command(question);
    for (const HostView& view : views) {
      for (const auto& [key, value] : view.values()) {
        const std::uint64_t round = std::stoull(key.substr(key.find(':') + 1));
        if (round < first) continue;  // compared already
        ++report_.compared;
        report_.wrong += !(answer.items.at(round - first) == value);
      }
    }
  }

  void count_meetings(const Ring& ring, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const Span& a = ring.spans[0][i];
      const Span& b = ring.spans[1][i];
      const bool met = a.begun_ns < b.ended_ns && b.begun_ns < a.ended_ns;
      report_.met += met;
      report_.overtaken += met && a.turn == Turn::kGotOld;
    }
  }

  const std::array<Move, 2> moves_;
  RedisServer server_;
  test::TempDir folder_;
  const std::array<Options, 2> options_{test::host_options(folder_, "a", server_.unix_socket()),
                                        test::host_options(folder_, "b", server_.unix_socket())};
  DuelReport report_;
};

// Of every second round the value is not pushed: the other host is left with nothing that would
// tell it what is newer.
Turn set(Cache& cache, std::uint64_t round, const char* whose) {
  const std::string value = whose + std::to_string(round);
  const Status done = round % 2 == 0 ? cache.set(key_of(round), value)
                                     : cache.set_with_invalidate(key_of(round), value);
  return done.ok() ? Turn::kDone : Turn::kFailed;
}

}  // namespace

DuelReport cross(std::uint64_t rounds) {
  Duel duel([](Cache& cache, std::uint64_t round) { return set(cache, round, "a's "); },
            [](Cache& cache, std::uint64_t round) { return set(cache, round, "b's "); });
  return duel.run(rounds, [](RedisConnection&, std::uint64_t, std::uint64_t) {});
}

DuelReport fill_late(std::uint64_t rounds) {
  const auto read = [](Cache& cache, std::uint64_t round) {
    const auto got = cache.get(key_of(round));
    if (!got.ok() || !got->hit()) return Turn::kFailed;
    return got->value.starts_with("old") ? Turn::kGotOld : Turn::kDone;
  };
  Duel duel(read, [](Cache& cache, std::uint64_t round) { return set(cache, round, "new "); });
  return duel.run(rounds, [](RedisConnection& redis, std::uint64_t first, std::uint64_t count) {
    std::vector<std::string> command{"MSET"};
    for (std::uint64_t i = 0; i < count; ++i) {
      command.push_back(key_of(first + i));
      command.push_back("old " + std::to_string(first + i));
    }
    if (redis.command(command).is_error()) throw std::runtime_error("Redis takes no old values");
  });
}

}  // namespace larder::fault
