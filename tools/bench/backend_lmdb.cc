// LMDB on a tmpfs, set up for speed: nothing is synced, pages are written through the map, and the
// read transaction is used again.
#include "tools/bench/backend.h"

#if LARDER_BENCH_LMDB
#include <lmdb.h>

namespace larder::bench {
namespace {

constexpr std::size_t kLmdbKeyMaxBytes = 511;  // as Debian builds it

class Lmdb {
 public:
  static constexpr Traits kTraits{.key_max_bytes = kLmdbKeyMaxBytes};

  Status open(const Setting& setting) {
    path_ = setting.folder + "/lmdb";
    map_bytes_ = 4 * (setting.payload_bytes + setting.keys * kEach) + (16u << 20);
    return {};
  }

  // An environment does not survive fork: each process opens its own.
  Status connect() {
    int error = mdb_env_create(&environment_);
    if (error == 0) error = mdb_env_set_mapsize(environment_, map_bytes_);
    if (error == 0) error = mdb_env_open(environment_, path_.c_str(), kFlags, 0600);
    MDB_txn* write = nullptr;
    if (error == 0) error = mdb_txn_begin(environment_, nullptr, 0, &write);
    if (error == 0) error = mdb_dbi_open(write, nullptr, 0, &table_);
    if (error == 0) error = mdb_txn_commit(write);
    if (error == 0) error = mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &read_);
    if (error != 0) return {Code::kNoSpace, std::string("lmdb: ") + mdb_strerror(error)};
    mdb_txn_reset(read_);
    return {};
  }
  void disconnect() {
    mdb_txn_abort(read_);
    mdb_env_close(environment_);
  }

  bool get(std::string_view key) {
    if (mdb_txn_renew(read_) != 0) return false;
    MDB_val name = text(key);
    MDB_val found;
    const bool hit = mdb_get(read_, table_, &name, &found) == 0;
    if (hit) value_.assign(static_cast<const char*>(found.mv_data), found.mv_size);
    mdb_txn_reset(read_);
    return hit;
  }
  std::string_view value() const { return value_; }
  bool set(std::string_view key, std::string_view value) {
    MDB_txn* write = nullptr;
    if (mdb_txn_begin(environment_, nullptr, 0, &write) != 0) return false;
    MDB_val name = text(key);
    MDB_val bytes = text(value);
    if (mdb_put(write, table_, &name, &bytes, 0) == 0) return mdb_txn_commit(write) == 0;
    mdb_txn_abort(write);
    return false;
  }

 private:
  static constexpr unsigned kFlags = MDB_NOSUBDIR | MDB_NOSYNC | MDB_WRITEMAP;
  static constexpr std::uint64_t kEach = 256;  // of room beside key and value
  static MDB_val text(std::string_view bytes) {
    return {bytes.size(), const_cast<char*>(bytes.data())};
  }

  std::string path_;
  std::uint64_t map_bytes_ = 0;
  MDB_env* environment_ = nullptr;
  MDB_txn* read_ = nullptr;
  MDB_dbi table_ = 0;
  std::string value_;
};

}  // namespace

std::unique_ptr<Backend> make_lmdb(const std::string& name) { return backend_of<Lmdb>(name); }

}  // namespace larder::bench

#else

namespace larder::bench {
std::unique_ptr<Backend> make_lmdb(const std::string&) { return nullptr; }
}  // namespace larder::bench

#endif
