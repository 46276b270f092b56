// The map that most programs begin with: one process, std::unordered_map, one lock.
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "tools/bench/backend.h"

namespace larder::bench {
namespace {

// Finds by std::string_view, so that no string is made to ask.
struct Hash : std::hash<std::string_view> {
  using is_transparent = void;
};

template <class Mutex, class ReadLock>
class LockedMap {
 public:
  static constexpr Traits kTraits{.shared = false};

  Status open(const Setting& setting) {
    map_.reserve(setting.keys);
    return {};
  }
  Status connect() { return {}; }

  bool get(std::string_view key) {
    const ReadLock lock(mutex_);
    const auto found = map_.find(key);
    if (found == map_.end()) return false;
    value_ = found->second;
    return true;
  }
  std::string_view value() const { return value_; }
  bool set(std::string_view key, std::string_view value) {
    const std::lock_guard<Mutex> lock(mutex_);
    if (const auto found = map_.find(key); found != map_.end()) {
      found->second = value;
    } else {
      map_.emplace(key, value);
    }
    return true;
  }

 private:
  Mutex mutex_;
  std::unordered_map<std::string, std::string, Hash, std::equal_to<>> map_;
  std::string value_;
};

using SharedMutexMap = LockedMap<std::shared_mutex, std::shared_lock<std::shared_mutex>>;
using MutexMap = LockedMap<std::mutex, std::lock_guard<std::mutex>>;

}  // namespace

std::unique_ptr<Backend> make_map(const std::string& name) {
  if (name == "umap-mutex") return backend_of<MutexMap>(name);
  return backend_of<SharedMutexMap>(name);
}

}  // namespace larder::bench
