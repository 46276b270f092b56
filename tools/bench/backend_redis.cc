// A redis-server of this run alone, asked through hiredis over a unix socket, one at a time.
#include <hiredis/hiredis.h>

#include <memory>

#include "tools/bench/backend.h"
#include "tools/bench/server.h"

namespace larder::bench {
namespace {

class Redis {
 public:
  static constexpr Traits kTraits{.remote = true, .evicts = true};

  Status open(const Setting& setting) {
    life_ms_ = std::to_string(setting.ttl.count());
    auto server = start_redis(setting.folder, "redis", setting.room_bytes);
    if (!server) return server.status();
    server_ = std::move(*server);
    return {};
  }
  Status connect() {
    connection_ = redisConnectUnix(server_->socket().c_str());
    if (connection_ != nullptr && connection_->err == 0) return {};
    return {Code::kUnavailable,
            std::string("redis: ") + (connection_ == nullptr ? "no memory" : connection_->errstr)};
  }
  void disconnect() { redisFree(connection_); }

  bool get(std::string_view key) {
    reply_.reset(ask("GET %b", key.data(), key.size()));
    return reply_ != nullptr && reply_->type == REDIS_REPLY_STRING;
  }
  std::string_view value() const { return {reply_->str, reply_->len}; }
  bool set(std::string_view key, std::string_view value) {
    reply_.reset(life_ms_ == "0"
                     ? ask("SET %b %b", key.data(), key.size(), value.data(), value.size())
                     : ask("SET %b %b PX %s", key.data(), key.size(), value.data(), value.size(),
                           life_ms_.c_str()));
    return reply_ != nullptr && reply_->type == REDIS_REPLY_STATUS;
  }

 private:
  struct Free {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  template <class... Words>
  redisReply* ask(const char* format, Words... words) {
    return static_cast<redisReply*>(redisCommand(connection_, format, words...));
  }

  std::unique_ptr<Server> server_;
  redisContext* connection_ = nullptr;
  std::string life_ms_;
  std::unique_ptr<redisReply, Free> reply_;
};

}  // namespace

std::unique_ptr<Backend> make_redis(const std::string& name) { return backend_of<Redis>(name); }

}  // namespace larder::bench
