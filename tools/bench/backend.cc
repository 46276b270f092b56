#include "tools/bench/backend.h"

namespace larder::bench {
namespace {

struct Known {
  std::string name;
  std::unique_ptr<Backend> (*make)(const std::string& name);
  std::string missing;  // why this build may have it not
};

const std::vector<Known>& known() {
  static const std::vector<Known> all{
      {"larder", make_larder, ""},
      {"larder-fresh", make_larder, ""},
      {"larder-many", make_larder, ""},
      {"larder-view", make_larder, ""},
      {"larder-verify", make_larder, ""},
      {"raw", make_raw, ""},
      {"umap-shared-mutex", make_map, ""},
      {"umap-mutex", make_map, ""},
      {"list-lru", make_lru, ""},
      {"boost-map", make_boost, ""},
      {"lmdb", make_lmdb, "built without liblmdb"},
      {"memcached", make_memcached, "built without libmemcached"},
      {"redis", make_redis, ""},
  };
  return all;
}

}  // namespace

const std::vector<std::string>& backend_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Known& each : known()) all.push_back(each.name);
    return all;
  }();
  return names;
}

bool is_larder(std::string_view name) { return name.starts_with("larder"); }

Result<std::unique_ptr<Backend>> make_backend(const std::string& name) {
  for (const Known& each : known()) {
    if (each.name != name) continue;
    if (auto backend = each.make(name); backend != nullptr) return backend;
    return Status(Code::kNotFound, each.missing);
  }
  return Status(Code::kNotFound, "'" + name + "' is not known");
}

}  // namespace larder::bench
