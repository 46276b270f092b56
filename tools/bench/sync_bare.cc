#include "tools/bench/sync_bare.h"

#include <time.h>

#include <cstdio>
#include <cstdlib>

namespace larder::bench {

std::uint64_t monotonic_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

namespace {
[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "larder-sync-bench: %s\n", what);
  std::_Exit(1);
}
}  // namespace

Bare::Bare(const std::string& unix_socket) : context_(redisConnectUnix(unix_socket.c_str())) {
  if (context_ == nullptr || context_->err != 0) give_up("cannot connect to Redis");
}
Bare::~Bare() { redisFree(context_); }

void Bare::append(const std::vector<std::string_view>& words) {
  std::vector<const char*> at;
  std::vector<std::size_t> lengths;
  for (const std::string_view word : words) {
    at.push_back(word.data());
    lengths.push_back(word.size());
  }
  redisAppendCommandArgv(context_, static_cast<int>(words.size()), at.data(), lengths.data());
}

Bare::Reply Bare::read() {
  void* reply = nullptr;
  if (redisGetReply(context_, &reply) != REDIS_OK || reply == nullptr) give_up("Redis is gone");
  return {static_cast<redisReply*>(reply), freeReplyObject};
}

Bare::Reply Bare::command(const std::vector<std::string_view>& words) {
  append(words);
  return read();
}

void Bare::set_and_publish(std::string_view key, std::string_view value, std::string_view channel,
                           std::string_view payload) {
  append({"SET", key, value});
  append({"PUBLISH", channel, payload});
  (void)read();
  (void)read();
}

}  // namespace larder::bench
