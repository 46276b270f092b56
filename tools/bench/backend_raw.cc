// The limit of this machine, raw.h, as a backend.
#include <memory>

#include "tools/bench/backend.h"
#include "tools/bench/raw.h"

namespace larder::bench {
namespace {

class RawStore {
 public:
  static constexpr Traits kTraits{};

  Status open(const Setting& setting) {
    constexpr std::uint64_t kMostKeys = 2'000'000;
    if (setting.keys > kMostKeys) return {Code::kNotFound, "it has 22 bits for an entry's place"};
    raw_ = std::make_unique<Raw>(setting.keys, setting.payload_bytes);
    return {};
  }
  Status connect() { return {}; }
  bool get(std::string_view key) { return raw_->get(key, value_); }
  std::string_view value() const { return value_; }
  bool set(std::string_view key, std::string_view value) {
    raw_->set(key, value);
    return true;
  }

 private:
  std::unique_ptr<Raw> raw_;
  std::string value_;
};

}  // namespace

std::unique_ptr<Backend> make_raw(const std::string& name) { return backend_of<RawStore>(name); }

}  // namespace larder::bench
