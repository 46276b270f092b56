#include "tools/bench/memory_memcached.h"

#if LARDER_BENCH_MEMCACHED
#include <libmemcached/memcached.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tools/bench/server.h"

namespace larder::bench {
namespace {

constexpr std::uint64_t kBatch = 100;

class Memcached final : public MemoryServer {
 public:
  explicit Memcached(std::unique_ptr<Server> server) : server_(std::move(server)) {}
  ~Memcached() override {
    if (writes_ != nullptr) memcached_free(writes_);
    if (reads_ != nullptr) memcached_free(reads_);
  }
  Memcached(const Memcached&) = delete;
  Memcached& operator=(const Memcached&) = delete;

  Status connect() override {
    writes_ = memcached_create(nullptr);
    reads_ = memcached_create(nullptr);
    for (memcached_st* each : {writes_, reads_}) {
      const auto error = memcached_server_add_unix_socket(each, server_->socket().c_str());
      if (error != MEMCACHED_SUCCESS) return failure(error);
    }
    memcached_behavior_set(writes_, MEMCACHED_BEHAVIOR_NOREPLY, 1);
    memcached_behavior_set(writes_, MEMCACHED_BEHAVIOR_BUFFER_REQUESTS, 1);
    return {};
  }

  void set(std::string_view key, std::string_view value) override {
    (void)memcached_set(writes_, key.data(), key.size(), value.data(), value.size(), 0, 0);
  }

  Status read_all(std::uint64_t count, const std::function<std::string_view(std::uint64_t)>& key_of,
                  const std::function<void(std::string_view, std::string_view)>& found) override {
    memcached_flush_buffers(writes_);
    memcached_quit(writes_);  // answers come after all that was sent was stored
    for (std::uint64_t first = 0; first < count; first += kBatch) {
      std::vector<std::string> keys;
      for (std::uint64_t i = first; i < std::min(count, first + kBatch); ++i) {
        keys.emplace_back(key_of(i));
      }
      if (Status status = read(keys, found); !status.ok()) return status;
    }
    return {};
  }

  std::uint64_t statistic(const char* name) override {
    memcached_return_t error = MEMCACHED_SUCCESS;
    memcached_stat_st* all = memcached_stat(reads_, nullptr, &error);
    if (all == nullptr) return 0;
    char* text = memcached_stat_get_value(reads_, all, name, &error);
    const std::uint64_t value = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
    std::free(text);
    memcached_stat_free(reads_, all);
    return value;
  }

 private:
  Status failure(memcached_return_t error) const {
    return {Code::kUnavailable, std::string("memcached: ") + memcached_strerror(reads_, error)};
  }

  Status read(const std::vector<std::string>& keys,
              const std::function<void(std::string_view, std::string_view)>& found) {
    std::vector<const char*> texts;
    std::vector<std::size_t> sizes;
    for (const auto& key : keys) {
      texts.push_back(key.data());
      sizes.push_back(key.size());
    }
    const auto error = memcached_mget(reads_, texts.data(), sizes.data(), texts.size());
    if (error != MEMCACHED_SUCCESS) return failure(error);
    memcached_return_t last = MEMCACHED_SUCCESS;
    while (memcached_result_st* result = memcached_fetch_result(reads_, nullptr, &last)) {
      found({memcached_result_key_value(result), memcached_result_key_length(result)},
            {memcached_result_value(result), memcached_result_length(result)});
      memcached_result_free(result);
    }
    return {};
  }

  std::unique_ptr<Server> server_;
  memcached_st* writes_ = nullptr;
  memcached_st* reads_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<MemoryServer>> start_memory_server(const std::string& folder,
                                                          std::uint64_t room_bytes,
                                                          std::uint64_t value_max_bytes) {
  auto server = start_memcached(folder, room_bytes, value_max_bytes);
  if (!server) return server.status();
  return std::unique_ptr<MemoryServer>(std::make_unique<Memcached>(std::move(*server)));
}

}  // namespace larder::bench

#else

namespace larder::bench {
Result<std::unique_ptr<MemoryServer>> start_memory_server(const std::string&, std::uint64_t,
                                                          std::uint64_t) {
  return Status(Code::kNotFound, "built without libmemcached");
}
}  // namespace larder::bench

#endif
