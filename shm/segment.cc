#include "shm/segment.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "shm/creation.h"
#include "shm/creation_lock.h"
#include "shm/open_file.h"
#include "shm/os_error.h"
#include "shm/refusal.h"
#include "shm/segment_files.h"

namespace larder::shm {
namespace {

namespace bip = boost::interprocess;

// Not a path, and not what another file of a segment could be named.
bool is_usable_name(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && !is_beside_segment(name) &&
         without_layout(name) == name;
}

// Gone together with its segment, or alone? A segment without a lock file cannot tell who is alive.
Status lock_file_error(const std::string& path, const struct stat& segment, Status error) {
  struct stat now {};
  const bool removed = stat(path.c_str(), &now) != 0 || now.st_ino != segment.st_ino;
  if (error.code() != Code::kNotFound || removed) return error;
  return {Code::kCorrupt, error.message() + "; remove " + path + " once nobody uses it"};
}

// Who may use a segment may use the creation lock that its remover leaves.
SegmentOptions given_like(const std::string& path, const std::string& otherwise) {
  SegmentOptions options;
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0 && lstat(otherwise.c_str(), &file) != 0) return options;
  if (geteuid() == 0) options.owner = file.st_uid;
  const bool has_group = (file.st_mode & 0060) == 0060;
  if (geteuid() == 0 || has_group) options.group = file.st_gid;
  if (has_group) options.mode = 0660;
  return options;
}

// Whatever was held is absent: who closed it did not come to the end.
void open_empty(Segment& segment) {
  Atomic<std::uint64_t>& epoch = segment.superblock().hot.epoch;
  std::uint64_t now = epoch.load(std::memory_order_acquire);
  while (is_closed(now) && !epoch.compare_exchange_weak(now, next_epoch(now) & ~kClosedEpoch)) {
  }
}

// Of the same users, for the same use.
SegmentOptions options_like(Segment& segment, const struct stat& file, std::uint64_t bytes) {
  SegmentOptions options;
  const std::size_t slash = segment.path().rfind('/');
  options.directory = slash == 0 ? "/" : segment.path().substr(0, slash);
  options.bytes = bytes;
  options.max_entries = segment.geometry().max_entries;
  options.policy = segment.superblock().policy;
  options.owner = file.st_uid;
  options.group = file.st_gid;
  options.mode = file.st_mode & 07777;
  options.binding = segment.binding();
  return options;
}

}  // namespace

// ---- names ------------------------------------------------------------------------------------

std::string Segment::path_of(std::string_view directory, std::string_view name) {
  std::string path(directory);
  return path.append("/").append(kFilePrefix).append(name);
}

std::string Segment::layout_path_of(std::string_view directory, std::string_view name) {
  return path_of(directory, name).append(kLayoutEnding).append(std::to_string(kLayoutVersion));
}

std::string Segment::current_path_of(std::string_view directory, std::string_view name,
                                     const std::vector<uid_t>& owners) {
  std::string own = layout_path_of(directory, name);
  struct stat file {};
  const bool is_used = lstat(own.c_str(), &file) == 0 && is_trusted(file.st_uid, owners);
  return is_used ? own : path_of(directory, name);
}

std::vector<std::string> Segment::list(const std::string& directory) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory.c_str()), closedir);
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir.get())) {
    const std::string_view file = entry->d_name;
    if (!file.starts_with(kFilePrefix)) continue;
    if (is_beside_segment(file)) continue;
    names.emplace_back(file.substr(kFilePrefix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// ---- opening ----------------------------------------------------------------------------------

Segment::Segment(std::string path, bip::mapped_region region, Access access,
                 const Geometry& geometry)
    : path_(std::move(path)),
      region_(std::move(region)),
      access_(access),
      base_(static_cast<char*>(region_.get_address())),
      superblock_(reinterpret_cast<Superblock*>(base_)),
      geometry_(geometry),
      hash_seed_(superblock_->hash_seed),
      places_(reinterpret_cast<Place*>(base_ + geometry_.places_offset)),
      loads_(reinterpret_cast<Atomic<std::uint64_t>*>(base_ + geometry_.loads_offset)),
      journal_(reinterpret_cast<Note*>(base_ + geometry_.journal_offset)),
      stripes_(reinterpret_cast<Stripe*>(base_ + geometry_.stripes_offset)),
      buckets_(reinterpret_cast<Bucket*>(base_ + geometry_.buckets_offset)),
      guards_(reinterpret_cast<Guard*>(base_ + geometry_.guards_offset)),
      sketches_(reinterpret_cast<Atomic<std::uint64_t>*>(base_ + geometry_.sketches_offset)),
      maps_(reinterpret_cast<Atomic<std::uint64_t>*>(base_ + geometry_.maps_offset)),
      arenas_(base_ + geometry_.arenas_offset) {
  // A core dump of a worker should not carry the whole cache. Advice only.
  (void)madvise(base_, region_.get_size(), MADV_DONTDUMP);
  // Where the kernel was told to allow it (/sys/kernel/mm/transparent_hugepage/shmem_enabled), a
  // read then misses the TLB seldom. Elsewhere this does nothing.
  (void)madvise(base_, region_.get_size(), MADV_HUGEPAGE);
}

Result<std::shared_ptr<Segment>> Segment::attach(const std::string& path, Access access,
                                                 const std::vector<uid_t>& owners) {
  const bool writable = access == Access::kReadWrite;
  FileHeader header;
  const auto fd = read_header(path, access, owners, header);
  if (!fd) return fd.status();
  if (Status s = check_superblock(path, header.block(), header.size()); !s.ok()) return s;
  if (writable) {
    if (Status s = check_boot(path, header.block()); !s.ok()) return s;
  }
  auto region = map_file(*fd, writable ? bip::read_write : bip::read_only, header.size(), path);
  if (!region) return region.status();
  const Superblock& block = header.block();
  std::shared_ptr<Segment> segment(new Segment(path, std::move(*region), access, block.geometry));
  segment->device_ = header.file.st_dev;
  segment->inode_ = header.file.st_ino;
  if (writable) {
    auto lock_file = LockFile::open(lock_path_of(path, block.instance), block.instance);
    if (!lock_file) return lock_file_error(path, header.file, lock_file.status());
    segment->lock_file_ = std::move(*lock_file);
  }
  return segment;
}

Result<std::shared_ptr<Segment>> Segment::create(const SegmentOptions& options) {
  const std::string plain = path_of(options.directory, options.name);
  auto geometry = plan_geometry(options.bytes, options.max_entries);
  if (!geometry) return geometry.status();
  if (options.binding.size() >= kBindingBytes) {
    return {Code::kInvalidArgument, "addresses, channel and prefix together exceed " +
                                        std::to_string(kBindingBytes - 1) + " bytes"};
  }
  // Of the plain name, whichever is made: so that no two are, one of each.
  auto lock = CreationLock::take(plain, options);
  if (!lock) return lock.status();
  const std::vector<uid_t> owners = trusted_by(options);
  std::string path = current_path_of(options.directory, options.name, owners);
  if (path == plain && is_of_other_layout(plain, owners)) {
    path = layout_path_of(options.directory, options.name);
  }
  if (struct stat file{}; lstat(path.c_str(), &file) == 0) {
    Status s = check_file(path, file, Access::kReadWrite, owners);
    return s.ok() ? Status(Code::kAlreadyExists, path + " exists") : s;
  }
  remove_orphaned_lock_files(path);

  const auto made = make_unnamed(plain, path, options, *geometry);
  if (!made) return made.status();
  if (Status s = give_name(*made, path); !s.ok()) return s;
  auto segment = attach(path, Access::kReadWrite, owners);
  if (segment) (*segment)->created_ = true;
  return segment;
}

Result<std::shared_ptr<Segment>> Segment::open(const SegmentOptions& options) {
  if (!is_usable_name(options.name)) {
    return {Code::kInvalidArgument,
            "a segment cannot be named \"" + options.name +
                "\": no slash, and not .lock, .create, .tmp or .layout1 at the end"};
  }
  // Again: somebody may create it between our look and our turn, or remove it, or both.
  constexpr int kAttempts = 8;
  const std::vector<uid_t> owners = trusted_by(options);
  Status last;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::string path = current_path_of(options.directory, options.name, owners);
    auto segment = attach(path, Access::kReadWrite, owners);
    if (segment) {
      if (Status s = compare_bindings(path, options.binding, (*segment)->binding()); !s.ok())
        return s;
      return segment;
    }
    last = segment.status();
    if (segment.code() == Code::kBusy) continue;  // replaced under our hands
    const bool other_layout = segment.code() == Code::kMismatch && is_of_other_layout(path, owners);
    if (segment.code() != Code::kNotFound && !other_layout) return segment;
    auto created = create(options);
    if (created || (created.code() != Code::kAlreadyExists && created.code() != Code::kNotFound)) {
      return created;
    }
    last = created.status();
  }
  return last;
}

// ---- removing ---------------------------------------------------------------------------------

Status Segment::remove(std::string_view directory, std::string_view name, bool force) {
  const std::string path = path_of(directory, name);
  const std::string plain = path_of(directory, without_layout(name));
  auto lock = CreationLock::take(plain, given_like(path, creation_lock_path_of(plain)));
  if (!lock) return lock.status();
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) {
    Status s = os_error(errno, "cannot remove " + path);
    ::unlink(creation_lock_path_of(plain).c_str());
    return s;
  }
  // A damaged segment must be removable: then nobody can be asked who uses it.
  auto segment = attach(path, Access::kReadWrite, {file.st_uid});
  if (segment) {
    LockFile& locks = *(*segment)->lock_file();
    for (off_t byte = 1; byte < static_cast<off_t>((*segment)->geometry().place_count); ++byte) {
      if (!force && locks.held_by_other(byte)) {
        const auto pid = (*segment)->place(static_cast<std::uint32_t>(byte)).pid.load();
        return {Code::kBusy, path + " is in use by process " + std::to_string(pid) +
                                 "; stop it, or force the removal"};
      }
    }
    if (!force && locks.is_shared()) return {Code::kBusy, path + " is in use by this process"};
  } else if (!force && segment.code() != Code::kCorrupt) {
    // Another layout, say: its processes may be at work, and we cannot ask.
    return {segment.code(), segment.status().message() +
                                "; whether it is in use cannot be told, force the removal if not"};
  }
  if (::unlink(path.c_str()) != 0) return os_error(errno, "cannot remove " + path);
  // After the segment: one without a lock file would be refused as damaged.
  if (segment) ::unlink(lock_path_of(path, (*segment)->superblock().instance).c_str());
  remove_temporaries(plain);
  ::unlink(creation_lock_path_of(plain).c_str());
  return {};
}

// ---- replacing --------------------------------------------------------------------------------

Status Segment::replace(const std::string& path, std::uint64_t bytes, const Succession& steps) {
  const std::string plain(without_layout(path));
  auto lock = CreationLock::take(plain, given_like(path, creation_lock_path_of(plain)));
  if (!lock) return lock.status();
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) {
    Status s = os_error(errno, "cannot resize " + path);
    ::unlink(creation_lock_path_of(plain).c_str());
    return s;
  }
  auto old = attach(path, Access::kReadWrite, {file.st_uid});
  if (!old) return old.status();
  open_empty(**old);  // who closed it died
  const SegmentOptions options = options_like(**old, file, bytes);
  const auto geometry = plan_geometry(options.bytes, options.max_entries);
  if (!geometry) return geometry.status();
  remove_orphaned_lock_files(path);

  const auto made = make_unnamed(plain, path, options, *geometry);
  if (!made) return made.status();
  auto region = map_file(made->fd, bip::read_write, bytes, made->temporary);
  if (!region) {
    ::unlink(made->temporary.c_str());
    return region.status();
  }
  Segment next(path, std::move(*region), Access::kReadWrite, *geometry);
  Status failed = steps.before(*old, next);
  next.superblock().hot.epoch.fetch_or(kClosedEpoch);
  if (failed.ok() && !(*old)->is_at_path()) {
    failed = Status(Code::kBusy, path + " was removed or replaced meanwhile; try again");
  }
  if (failed.ok()) {
    failed = give_name(*made, path);
  } else {
    ::unlink(made->temporary.c_str());
  }
  if (!failed.ok()) {
    ::unlink(lock_path_of(path, next.superblock().instance).c_str());
    open_empty(**old);
    return failed;
  }
  steps.after(**old, next);
  ::unlink(lock_path_of(path, (*old)->superblock().instance).c_str());
  return {};
}

Status Segment::reopen(const SegmentOptions& options) {
  const std::string plain = path_of(options.directory, options.name);
  auto lock = CreationLock::take(plain, options, 0);
  if (!lock) return lock.status();
  const std::vector<uid_t> owners = trusted_by(options);
  const std::string path = current_path_of(options.directory, options.name, owners);
  auto segment = attach(path, Access::kReadWrite, owners);
  if (!segment) return segment.status();
  if (!is_closed((*segment)->superblock().hot.epoch.load(std::memory_order_acquire))) return {};
  remove_temporaries(plain);
  remove_orphaned_lock_files(path);
  open_empty(**segment);
  return {};
}

bool Segment::is_at_path() const noexcept {
  struct stat named {};
  return stat(path_.c_str(), &named) == 0 && named.st_ino == inode_ && named.st_dev == device_;
}

std::string Segment::binding() const {
  return {superblock_->binding, strnlen(superblock_->binding, kBindingBytes)};
}

}  // namespace larder::shm
