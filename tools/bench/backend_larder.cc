// larder through its public Cache, in the ways a caller may read from it.
#include <array>
#include <optional>
#include <utility>

#include "tools/bench/backend.h"
#include "tools/bench/process.h"

namespace larder::bench {
namespace {

class Larder {
 public:
  static constexpr Traits kTraits{.evicts = true};

  Status open(const Setting& setting) {
    cache_ = setting.larder;
    ttl_ = setting.ttl;
    return {};
  }
  Status connect() {
    if (Status status = cache_->start(); !status.ok()) return status;
    populate(cache_->options().directory + "/larder." + cache_->options().name);
    return {};
  }
  // Gives the place back; the parent's copy is not touched.
  void disconnect() { const Cache leave(std::move(*cache_)); }

  bool set(std::string_view key, std::string_view value) {
    Status status = cache_->set(key, value, ttl_);
    if (status.ok()) return true;
    failure_ = std::move(status);
    return false;
  }
  std::string error() const { return failure_.to_string(); }

 protected:
  Cache* cache_ = nullptr;

 private:
  std::chrono::milliseconds ttl_{0};
  Status failure_;
};

// Into a buffer that the caller uses again.
class Reused : public Larder {
 public:
  bool get(std::string_view key) {
    return cache_->get(key, lookup_).ok() && lookup_.source == Source::kLocal;
  }
  std::string_view value() const { return lookup_.value; }

 private:
  Lookup lookup_;
};

// As a value of its own.
class Fresh : public Larder {
 public:
  bool get(std::string_view key) {
    auto got = cache_->get(key);
    if (!got || got->source != Source::kLocal) return false;
    lookup_ = std::move(*got);
    return true;
  }
  std::string_view value() const { return lookup_.value; }

 private:
  Lookup lookup_;
};

// 32 keys at once; a call is one batch.
class Many : public Larder {
 public:
  static constexpr std::size_t kBatch = 32;

  bool get(std::string_view key) {
    return cache_->get(key, lookups_[0]).ok() && lookups_[0].source == Source::kLocal;
  }
  void get_many(std::span<const std::string_view> keys) {
    ok_ = cache_->get_many(keys, lookups_).ok();
  }
  bool hit(std::size_t i) const { return ok_ && lookups_[i].source == Source::kLocal; }
  std::string_view value(std::size_t i) const { return lookups_[i].value; }

 private:
  std::array<Lookup, kBatch> lookups_;
  bool ok_ = false;
};

// Where it lies, pinned until the next get; nothing is copied.
class Pinned : public Larder {
 public:
  bool get(std::string_view key) {
    view_.reset();
    auto got = cache_->view(key);
    if (!got || !*got) return false;
    view_.emplace(std::move(*got));
    return true;
  }
  std::string_view value() const { return view_->value(); }
  void disconnect() {
    view_.reset();
    Larder::disconnect();
  }

 private:
  std::optional<View> view_;
};

// Like Reused, and each value's checksum is verified.
class Verified : public Reused {
 public:
  Status open(const Setting& setting) {
    Options options = setting.larder->options();
    options.verify_checksums = true;
    auto cache = Cache::open(options);
    if (!cache) return cache.status();
    own_.emplace(std::move(*cache));
    Setting with_own = setting;
    with_own.larder = &*own_;
    return Reused::open(with_own);
  }

 private:
  std::optional<Cache> own_;
};

}  // namespace

std::unique_ptr<Backend> make_larder(const std::string& name) {
  if (name == "larder") return backend_of<Reused>(name);
  if (name == "larder-fresh") return backend_of<Fresh>(name);
  if (name == "larder-many") return backend_of<Many>(name);
  if (name == "larder-view") return backend_of<Pinned>(name);
  if (name == "larder-verify") return backend_of<Verified>(name);
  return nullptr;
}

}  // namespace larder::bench
