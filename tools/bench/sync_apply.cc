// How many events a second the leader applies on one core, beside how many Redis delivers to one
// bare subscriber, in turns. The stream is recorded: the replies as they come from the socket.
#include <sched.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <string>

#include "shm/segment.h"
#include "src/sync/event.h"
#include "src/sync/follower.h"
#include "src/sync/table_host.h"
#include "tools/bench/sync.h"
#include "tools/bench/sync_bare.h"

namespace larder::bench {
namespace {

constexpr std::string_view kChannel = "cache:invalidate";
constexpr std::uint64_t kKeys = 10'000;
constexpr std::uint64_t kPipelined = 64;

sync::Event event_of(std::uint64_t number, const std::string& value) {
  sync::Event event;
  event.action = sync::Action::kSet;
  event.key = "key:" + std::to_string(number % kKeys);
  event.sender = "host-1234-0a1b2c3d";
  event.value = value;
  event.id = {number, number * 0x9e3779b97f4a7c15};
  if (number > 1) event.prev = {number - 1, (number - 1) * 0x9e3779b97f4a7c15};
  return event;
}

std::string payload_of(std::uint64_t number, const std::string& value, WireFormat format) {
  const sync::Event event = event_of(number, value);
  return event_head(event, format) + event_tail(event, format);
}

std::string as_reply(const std::string& payload) {
  std::string reply("*3\r\n$7\r\nmessage\r\n$");
  reply.append(std::to_string(kChannel.size())).append("\r\n").append(kChannel);
  reply.append("\r\n$").append(std::to_string(payload.size())).append("\r\n");
  return reply.append(payload).append("\r\n");
}

class SilentLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};

// Events a second, of one process on one core, parsing the replies included.
double apply(const SyncArguments& a, const std::string& stream, std::uint64_t& applied) {
  const Scratch scratch = must(Scratch::make(a.directory));
  shm::SegmentOptions options;
  options.directory = scratch.path();
  options.name = "apply";
  options.bytes = 64u << 20;
  const auto segment = must(shm::Segment::open(options));
  shm::Table table(segment, {});
  SilentLogger silent;
  sync::TableHost host(table, must(table.begin_term()), std::chrono::seconds(1), silent,
                       [](std::string_view) {});
  sync::Follower follower(host, {}, {});
  (void)follower.subscribed();
  (void)follower.log_page({});
  populate(segment->path());

  constexpr std::size_t kRead = 16u << 10;  // as hiredis reads from a socket
  redisReader* reader = redisReaderCreate();
  const std::uint64_t begun = cpu_nanoseconds();
  for (std::size_t at = 0; at < stream.size(); at += kRead) {
    redisReaderFeed(reader, stream.data() + at, std::min(kRead, stream.size() - at));
    for (;;) {
      void* reply = nullptr;
      if (redisReaderGetReply(reader, &reply) != REDIS_OK || reply == nullptr) break;
      const redisReply& payload = *static_cast<redisReply*>(reply)->element[2];
      (void)follower.message({payload.str, payload.len});
      freeReplyObject(reply);
    }
  }
  const std::uint64_t took = cpu_nanoseconds() - begun;
  redisReaderFree(reader);
  applied = follower.cursor().seq;
  return static_cast<double>(applied) * 1e9 / static_cast<double>(took);
}

// Messages a second that arrive at one subscriber, while a publisher sends as fast as it can.
double deliver(const SyncArguments& a, Server& redis, const std::string& payload) {
  const Shared<std::atomic<std::uint64_t>> heard(1);
  Pipe ready;
  const Child subscriber([&] {
    Bare bare(redis.socket());
    (void)bare.command({"SUBSCRIBE", kChannel});
    (void)ready.tell();
    for (;;) {
      (void)bare.read();
      heard[0].fetch_add(1, std::memory_order_relaxed);
    }
  });
  if (!ready.hear()) return 0;
  const Child publisher([&] {
    Bare bare(redis.socket());
    for (;;) {
      for (std::uint64_t i = 0; i < kPipelined; ++i) bare.append({"PUBLISH", kChannel, payload});
      for (std::uint64_t i = 0; i < kPipelined; ++i) (void)bare.read();
    }
  });
  wait_a_moment(0.2);
  const std::uint64_t first = heard[0].load();
  const std::uint64_t begun = monotonic_ns();
  wait_a_moment(a.seconds);
  return static_cast<double>(heard[0].load() - first) * 1e9 /
         static_cast<double>(monotonic_ns() - begun);
}

}  // namespace

int measure_apply(const SyncArguments& a) {
  Ground ground(a);
  const WireFormat format = a.msgpack ? WireFormat::kMsgpack : WireFormat::kJson;
  const std::string value(a.value_bytes, 'v');
  std::string stream;
  for (std::uint64_t i = 1; i <= a.count; ++i) stream += as_reply(payload_of(i, value, format));
  const std::string payload = payload_of(1, value, format);
  std::vector<double> applied, delivered, ratios;
  for (std::uint64_t run = 0; run < a.runs; ++run) {
    delivered.push_back(deliver(a, ground.redis(), payload));
    std::uint64_t count = 0;
    applied.push_back(apply(a, stream, count));
    if (count != a.count) must({Code::kInternal, "not every event was applied"});
    ratios.push_back(applied.back() / delivered.back());
  }
  const nlohmann::json result = {{"applied", applied},
                                 {"delivered", delivered},
                                 {"payload_bytes", payload.size()},
                                 {"ratios", ratios},
                                 {"ratio", median_of(ratios)}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace larder::bench
