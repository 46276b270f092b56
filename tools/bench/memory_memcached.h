// The memcached side of `larder-bench memory`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "larder/status.h"

namespace larder::bench {

// A memcached of its own with a limit, written to without waiting for answers, read in batches.
class MemoryServer {
 public:
  virtual ~MemoryServer() = default;
  virtual Status connect() = 0;
  virtual void set(std::string_view key, std::string_view value) = 0;
  // Keys [0, count) as `key_of` names them; `found` is told of each that is there.
  virtual Status read_all(std::uint64_t count,
                          const std::function<std::string_view(std::uint64_t)>& key_of,
                          const std::function<void(std::string_view, std::string_view)>& found) = 0;
  // A number of its statistics, as "hash_bytes"; 0 where there is none.
  virtual std::uint64_t statistic(const char* name) = 0;
};

// kNotFound: built without libmemcached, or there is no program.
Result<std::unique_ptr<MemoryServer>> start_memory_server(const std::string& folder,
                                                          std::uint64_t room_bytes,
                                                          std::uint64_t value_max_bytes);

}  // namespace larder::bench
