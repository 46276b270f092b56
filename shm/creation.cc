#include "shm/creation.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <utility>

#include "shm/open_file.h"
#include "shm/os_error.h"
#include "shm/random.h"
#include "shm/refusal.h"
#include "shm/segment_files.h"

namespace larder::shm {
namespace {

namespace bip = boost::interprocess;

std::string mib(std::uint64_t bytes) {
  std::ostringstream out;
  out.precision(bytes < (10ull << 20) ? 2 : 0);
  out << std::fixed << static_cast<double>(bytes) / (1 << 20) << " MiB";
  return out.str();
}

std::int64_t unix_ms() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Where the file system of `directory` is mounted.
std::string mount_point_of(std::string directory) {
  struct stat here {};
  if (stat(directory.c_str(), &here) != 0) return directory;
  while (directory.size() > 1) {
    const std::size_t slash = directory.rfind('/');
    const std::string above = slash == 0 ? "/" : directory.substr(0, slash);
    struct stat parent {};
    if (stat(above.c_str(), &parent) != 0 || parent.st_dev != here.st_dev) break;
    directory = above;
  }
  return directory;
}

// What is missing and how to get it, with the numbers to type.
Status no_room(const SegmentOptions& options, const std::string& path) {
  const std::string what = "no room for " + path + ": it needs " + mib(options.bytes) + ", ";
  struct statvfs fs {};
  if (statvfs(options.directory.c_str(), &fs) != 0) {
    return {Code::kNoSpace, what + "more than " + options.directory + " has free"};
  }
  const std::uint64_t whole = std::uint64_t{fs.f_blocks} * fs.f_frsize;
  const std::uint64_t free = std::uint64_t{fs.f_bavail} * fs.f_frsize;
  if (free >= options.bytes) {
    return {Code::kNoSpace, what + options.directory + " has " + mib(free) +
                                " free, but memory or a limit on it (a container's) does not "
                                "allow that; make segment_bytes smaller or the limit larger"};
  }
  constexpr std::uint64_t kMiB = 1 << 20;
  const std::string size = std::to_string((whole - free + options.bytes) / kMiB + 1);
  return {Code::kNoSpace,
          what + options.directory + " has " + mib(free) + " free of " + mib(whole) +
              "; make segment_bytes smaller, or that larger: mount -o remount,size=" + size + "m " +
              mount_point_of(options.directory) + "; for Docker, which gives 64 MB: " +
              "--shm-size=" + size + "m; for Kubernetes: an emptyDir with medium: Memory and " +
              "sizeLimit: " + size + "Mi, mounted at " + mount_point_of(options.directory)};
}

Status reserve(int fd, const SegmentOptions& options, const std::string& path) {
  // Now, as an error; a sparse file on a full tmpfs would be SIGBUS at some later touch.
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(fd, 0, static_cast<off_t>(options.bytes));
  if (error == 0) return {};
  if (error == ENOSPC || error == EFBIG || error == ENOMEM) return no_room(options, path);
  return os_error(error, "cannot reserve " + path);
}

// Everything of a new segment but its magic.
void initialise(Superblock& block, const SegmentOptions& options, const Geometry& geometry,
                std::uint64_t boot) {
  block.layout_version = kLayoutVersion;
  block.architecture = kArchitecture;
  block.layout_signature = layout_signature();
  block.instance = random_word();
  block.hash_seed = random_word();
  block.boot_hash = boot;
  block.created_unix_ms = unix_ms();
  block.creator_pid = static_cast<std::uint32_t>(getpid());
  block.policy = options.policy;
  block.geometry = geometry;
  std::memcpy(block.binding, options.binding.data(), options.binding.size());
  block.hot.epoch.store(1, std::memory_order_relaxed);
}

// Everything, and gives it away. What it leaves when it fails is for the caller to remove.
Status fill_new_file(const Fd& fd, const std::string& temporary, const std::string& path,
                     const SegmentOptions& options, const Geometry& geometry) {
  const auto boot = boot_hash();
  if (!boot) return boot.status();
  if (Status s = reserve(fd.get(), options, path); !s.ok()) return s;
  const auto region = map_file(fd, bip::read_write, options.bytes, temporary);
  if (!region) return region.status();
  auto& block = *static_cast<Superblock*>((*region).get_address());
  initialise(block, options, geometry, *boot);
  const auto lock_fd = make_file(lock_path_of(path, block.instance), options);
  if (!lock_fd) return lock_fd.status();
  std::atomic_thread_fence(std::memory_order_release);
  block.magic = kMagic;
  // Only now: who owns it could write into it, or put something else in its place.
  return give_as_asked(fd.get(), temporary, options);
}

}  // namespace

Result<Unnamed> make_unnamed(const std::string& plain, const std::string& path,
                             const SegmentOptions& options, const Geometry& geometry) {
  remove_temporaries(plain);
  std::string temporary = temporary_path_of(plain);
  auto fd = make_own_file(temporary);
  if (!fd) return fd.status();
  if (Status s = fill_new_file(*fd, temporary, path, options, geometry); !s.ok()) {
    ::unlink(temporary.c_str());
    return s;
  }
  return Unnamed{std::move(temporary), std::move(*fd)};
}

Status give_name(const Unnamed& made, const std::string& path) {
  if (rename(made.temporary.c_str(), path.c_str()) == 0) return {};
  const int error = errno;
  ::unlink(made.temporary.c_str());
  return os_error(error, "cannot rename " + made.temporary);
}

}  // namespace larder::shm
