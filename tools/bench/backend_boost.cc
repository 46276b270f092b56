// A map in shared memory as Boost.Interprocess' documentation builds one: strings and a map with
// the segment's allocator, one interprocess_mutex. A key is made a string of the segment to ask.
#include <boost/interprocess/allocators/allocator.hpp>
#include <boost/interprocess/containers/map.hpp>
#include <boost/interprocess/containers/string.hpp>
#include <boost/interprocess/managed_mapped_file.hpp>
#include <boost/interprocess/sync/interprocess_mutex.hpp>
#include <boost/interprocess/sync/scoped_lock.hpp>
#include <functional>
#include <memory>
#include <scoped_allocator>
#include <utility>

#include "tools/bench/backend.h"
#include "tools/bench/process.h"

namespace larder::bench {
namespace {

namespace bip = boost::interprocess;

class BoostMap {
 public:
  static constexpr Traits kTraits{};

  Status open(const Setting& setting) {
    path_ = setting.folder + "/boost";
    // A node of the map, two strings and what the allocator adds to each.
    constexpr std::uint64_t kEach = 320;
    const std::uint64_t bytes = 2 * setting.payload_bytes + kEach * setting.keys + (1u << 20);
    try {
      file_ = std::make_unique<bip::managed_mapped_file>(bip::create_only, path_.c_str(), bytes);
      mutex_ = file_->construct<bip::interprocess_mutex>("mutex")();
      map_ = file_->construct<Map>("map")(std::less<String>(), file_->get_segment_manager());
    } catch (const bip::interprocess_exception& error) {
      return {Code::kNoSpace, "boost-map: cannot make " + path_ + ": " + error.what()};
    }
    return {};
  }
  Status connect() {
    populate(path_);
    return {};
  }

  bool get(std::string_view key) {
    const Lock lock(*mutex_);
    const auto found = map_->find(text(key));
    if (found == map_->end()) return false;
    value_.assign(found->second.data(), found->second.size());
    return true;
  }
  std::string_view value() const { return value_; }
  bool set(std::string_view key, std::string_view value) try {
    const Lock lock(*mutex_);
    const auto found = map_->find(text(key));
    if (found != map_->end()) {
      found->second.assign(value.data(), value.size());
    } else {
      map_->emplace(text(key), text(value));
    }
    return true;
  } catch (const bip::bad_alloc&) {
    return false;
  }

 private:
  using Manager = bip::managed_mapped_file::segment_manager;
  using String = bip::basic_string<char, std::char_traits<char>, bip::allocator<char, Manager>>;
  using Pair = std::pair<const String, String>;
  using Map = bip::map<String, String, std::less<String>, bip::allocator<Pair, Manager>>;
  using Lock = bip::scoped_lock<bip::interprocess_mutex>;

  String text(std::string_view bytes) {
    return {bytes.data(), bytes.size(), file_->get_segment_manager()};
  }

  std::string path_;
  std::unique_ptr<bip::managed_mapped_file> file_;
  bip::interprocess_mutex* mutex_ = nullptr;
  Map* map_ = nullptr;
  std::string value_;
};

}  // namespace

std::unique_ptr<Backend> make_boost(const std::string& name) { return backend_of<BoostMap>(name); }

}  // namespace larder::bench
