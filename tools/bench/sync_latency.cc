// From `set` on one host to the value in another host's memory, beside a bare publisher and
// subscriber, in turns.
//
// The time of sending is in the value; it has arrived by the clock of the process that stored it,
// after the store. Nobody polls.
#include <event2/event.h>
#include <time.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "shm/segment.h"
#include "src/sync/endpoint.h"
#include "src/sync/follower.h"
#include "src/sync/subscription.h"
#include "src/sync/table_host.h"
#include "tools/bench/histogram.h"
#include "tools/bench/sync.h"
#include "tools/bench/sync_bare.h"

namespace larder::bench {
namespace {

constexpr std::string_view kBareChannel = "bare";
constexpr std::uint64_t kTurn = 500;  // sets of one kind before the other's turn

// By run.
struct Times {
  Histogram larder;
  Histogram bare;
};

std::uint64_t sent_at(std::string_view value) {
  std::uint64_t sent = 0;
  std::memcpy(&sent, value.data(), sizeof sent);
  return sent;
}

// The first bytes: when it was sent; then in which run.
std::string value_of(std::uint64_t run, std::uint64_t bytes) {
  std::string value(std::max<std::uint64_t>(bytes, 16), 'x');
  const std::uint64_t now = monotonic_ns();
  std::memcpy(value.data(), &now, sizeof now);
  std::memcpy(value.data() + 8, &run, sizeof run);
  return value;
}

void add(Histogram Times::*kind, Times* times, std::uint64_t runs, std::string_view value) {
  const std::uint64_t now = monotonic_ns();
  std::uint64_t run = 0;
  std::memcpy(&run, value.data() + 8, sizeof run);
  if (run < runs) (times[run].*kind).add(now - sent_at(value));
}

class SilentLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};

// As the library's leader does it, looking at the clock after each store.
class Listener final : private sync::SubscriptionListener {
 public:
  Listener(const Options& options, Times* times, std::uint64_t runs, Pipe& ready)
      : ready_(ready),
        segment_(must(shm::Segment::open(segment_options(options)))),
        table_(segment_, {}),
        host_(table_, must(table_.begin_term()), silent_, times, runs),
        follower_(host_, {}, host_.cursor()),
        base_(event_base_new()),
        subscription_(base_, subscription_options(options), *this) {}

  void run() { event_base_dispatch(base_); }

 private:
  class TimedHost final : public sync::TableHost {
   public:
    TimedHost(shm::Table& table, std::uint64_t term, Logger& logger, Times* times,
              std::uint64_t runs)
        : TableHost(table, term, std::chrono::seconds(1), logger, [](std::string_view) {}),
          times_(times),
          runs_(runs) {}
    sync::ApplyOutcome apply(const sync::Event& event) override {
      const sync::ApplyOutcome outcome = TableHost::apply(event);
      add(&Times::larder, times_, runs_, event.value);
      return outcome;
    }

   private:
    Times* times_;
    std::uint64_t runs_;
  };

  static shm::SegmentOptions segment_options(const Options& options) {
    shm::SegmentOptions segment;
    segment.directory = options.directory;
    segment.name = options.name;
    segment.bytes = options.segment_bytes;
    return segment;
  }
  static sync::SubscriptionOptions subscription_options(const Options& options) {
    sync::SubscriptionOptions subscription;
    subscription.endpoint = must(sync::parse_endpoint(options.redis.address));
    subscription.channel = options.redis.channel;
    return subscription;
  }

  void on_subscribed() override { act(follower_.subscribed()); }
  void on_message(std::string_view payload) override { act(follower_.message(payload)); }
  void on_lost(const Status& reason) override { must(reason); }

  void act(sync::Next next) {
    if (next == sync::Next::kProbe) (void)ready_.tell();
    if (next != sync::Next::kReadLog) return;
    (void)subscription_.read_log(
        follower_.cursor(), [this](const sync::LogPage& page) { act(follower_.log_page(page)); });
  }

  Pipe& ready_;
  SilentLogger silent_;
  std::shared_ptr<shm::Segment> segment_;
  shm::Table table_;
  TimedHost host_;
  sync::Follower follower_;
  event_base* base_;
  sync::Subscription subscription_;
};

void listen_bare(const std::string& socket, Times* times, std::uint64_t runs, Pipe& ready) {
  Bare bare(socket);
  (void)bare.command({"SUBSCRIBE", kBareChannel});
  (void)ready.tell();
  for (;;) {
    const auto message = bare.read();
    const redisReply& value = *message->element[2];
    add(&Times::bare, times, runs, {value.str, value.len});
  }
}

void send(const SyncArguments& a, const Options& options, const std::string& socket) {
  Cache cache = following(options);
  Bare bare(socket);
  const std::uint64_t step = 1'000'000'000 / a.rate;
  std::uint64_t due = monotonic_ns();
  const auto pace = [&] {
    due += step;
    const timespec until{static_cast<time_t>(due / 1'000'000'000),
                         static_cast<long>(due % 1'000'000'000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
  };
  for (std::uint64_t run = 0; run < a.runs; ++run) {
    for (std::uint64_t i = 0; i < 2 * a.count; ++i) {
      pace();
      const std::string key = "key:" + std::to_string(i % 1000);
      const std::string value = value_of(run, a.value_bytes);
      if (i / kTurn % 2 == 0) {
        must(cache.set(key, value));
      } else {
        bare.set_and_publish(key, value, kBareChannel, value);
      }
    }
  }
  wait_a_moment(0.2);
}

nlohmann::json json_of(const Histogram& times) {
  return {{"count", times.count()},
          {"median_us", times.quantile(0.5) / 1000},
          {"p99_us", times.quantile(0.99) / 1000},
          {"max_us", static_cast<double>(times.max()) / 1000}};
}

}  // namespace

int measure_latency(const SyncArguments& a) {
  Ground ground(a);
  const Shared<Times> times(a.runs);
  Pipe larder_ready, bare_ready;
  const Child listener([&] {
    auto* own = new Listener(ground.host("listener"), &times[0], a.runs, larder_ready);
    own->run();
  });
  const Child bare([&] { listen_bare(ground.redis().socket(), &times[0], a.runs, bare_ready); });
  if (!larder_ready.hear() || !bare_ready.hear()) return 1;
  Child sender([&] { send(a, ground.host("sender"), ground.redis().socket()); });
  const std::string end = sender.wait();
  if (end != "exit status 0") must({Code::kInternal, "the sender: " + end});

  nlohmann::json runs = nlohmann::json::array();
  std::vector<double> medians, tails;
  for (std::uint64_t i = 0; i < a.runs; ++i) {
    runs.push_back({{"larder", json_of(times[i].larder)}, {"bare", json_of(times[i].bare)}});
    medians.push_back(times[i].larder.quantile(0.5) / times[i].bare.quantile(0.5));
    tails.push_back(times[i].larder.quantile(0.99) / times[i].bare.quantile(0.99));
    if (times[i].larder.count() != a.count || times[i].bare.count() != a.count) {
      must({Code::kInternal, "not everything that was sent has arrived"});
    }
  }
  const nlohmann::json result = {{"runs", runs},
                                 {"median_ratios", medians},
                                 {"p99_ratios", tails},
                                 {"median_ratio", median_of(medians)},
                                 {"p99_ratio", median_of(tails)}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace larder::bench
