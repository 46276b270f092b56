// The bounded cache that most programs go on with: std::unordered_map, a std::list in order of use,
// one mutex. Holds as many entries as larder does in the same run.
#include <list>
#include <mutex>
#include <unordered_map>

#include "tools/bench/backend.h"

namespace larder::bench {
namespace {

class ListLru {
 public:
  static constexpr Traits kTraits{.shared = false, .evicts = true};

  Status open(const Setting& setting) {
    capacity_ = setting.capacity != 0 ? setting.capacity : setting.keys;
    places_.reserve(capacity_);
    return {};
  }
  Status connect() { return {}; }

  bool get(std::string_view key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = places_.find(key);
    if (found == places_.end()) return false;
    entries_.splice(entries_.begin(), entries_, found->second);
    value_ = found->second->value;
    return true;
  }
  std::string_view value() const { return value_; }

  bool set(std::string_view key, std::string_view value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = places_.find(key); found != places_.end()) {
      found->second->value = value;
      entries_.splice(entries_.begin(), entries_, found->second);
      return true;
    }
    if (entries_.size() == capacity_) {
      places_.erase(entries_.back().key);
      entries_.pop_back();
    }
    entries_.push_front({std::string(key), std::string(value)});
    places_.emplace(entries_.front().key, entries_.begin());
    return true;
  }

 private:
  struct Entry {
    std::string key;
    std::string value;
  };
  std::mutex mutex_;
  std::size_t capacity_ = 0;
  std::list<Entry> entries_;  // the last used first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> places_;
  std::string value_;
};

}  // namespace

std::unique_ptr<Backend> make_lru(const std::string& name) { return backend_of<ListLru>(name); }

}  // namespace larder::bench
