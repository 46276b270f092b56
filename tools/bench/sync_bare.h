// What a program without larder does: blocking calls of hiredis on one connection.
//
// Errors: what a measurement cannot go on without ends the process, with a message.
#pragma once

#include <hiredis/hiredis.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace larder::bench {

std::uint64_t monotonic_ns() noexcept;

class Bare {
 public:
  using Reply = std::unique_ptr<redisReply, void (*)(void*)>;

  explicit Bare(const std::string& unix_socket);
  ~Bare();
  Bare(const Bare&) = delete;
  Bare& operator=(const Bare&) = delete;

  void append(const std::vector<std::string_view>& words);
  Reply read();
  Reply command(const std::vector<std::string_view>& words);
  // SET and PUBLISH in one pipeline: what a cache needs at least.
  void set_and_publish(std::string_view key, std::string_view value, std::string_view channel,
                       std::string_view payload);

 private:
  redisContext* context_;
};

}  // namespace larder::bench
