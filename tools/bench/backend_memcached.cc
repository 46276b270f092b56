// A memcached of this run alone, asked through libmemcached over a unix socket, one at a time.
#include "tools/bench/backend.h"

#if LARDER_BENCH_MEMCACHED
#include <libmemcached/memcached.h>

#include <cstdlib>

#include "tools/bench/server.h"

namespace larder::bench {
namespace {

constexpr std::size_t kMemcachedKeyMaxBytes = 250;

class Memcached {
 public:
  static constexpr Traits kTraits{
      .remote = true, .evicts = true, .key_max_bytes = kMemcachedKeyMaxBytes};

  Status open(const Setting& setting) {
    life_s_ = static_cast<time_t>(setting.ttl.count() / 1000);
    auto server = start_memcached(setting.folder, setting.room_bytes, setting.value_max_bytes);
    if (!server) return server.status();
    server_ = std::move(*server);
    return {};
  }
  Status connect() {
    connection_ = memcached_create(nullptr);
    const auto error = memcached_server_add_unix_socket(connection_, server_->socket().c_str());
    if (error == MEMCACHED_SUCCESS) return {};
    return {Code::kUnavailable,
            std::string("memcached: ") + memcached_strerror(connection_, error)};
  }
  void disconnect() { memcached_free(connection_); }

  bool get(std::string_view key) {
    std::size_t size = 0;
    std::uint32_t flags = 0;
    memcached_return_t error = MEMCACHED_SUCCESS;
    std::free(value_);
    value_ = memcached_get(connection_, key.data(), key.size(), &size, &flags, &error);
    view_ = {value_, size};
    return error == MEMCACHED_SUCCESS;
  }
  std::string_view value() const { return view_; }
  bool set(std::string_view key, std::string_view value) {
    return memcached_set(connection_, key.data(), key.size(), value.data(), value.size(), life_s_,
                         0) == MEMCACHED_SUCCESS;
  }

 private:
  std::unique_ptr<Server> server_;
  memcached_st* connection_ = nullptr;
  time_t life_s_ = 0;
  char* value_ = nullptr;
  std::string_view view_;
};

}  // namespace

std::unique_ptr<Backend> make_memcached(const std::string& name) {
  return backend_of<Memcached>(name);
}

}  // namespace larder::bench

#else

namespace larder::bench {
std::unique_ptr<Backend> make_memcached(const std::string&) { return nullptr; }
}  // namespace larder::bench

#endif
