#include "shm/creation_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "shm/os_error.h"
#include "shm/segment_files.h"

namespace larder::shm {
namespace {

// Named when it is given, so that nobody who may use it ever finds it closed.
Result<Fd> create(const std::string& path, const SegmentOptions& options) {
  const std::string temporary = temporary_path_of(path);
  auto fd = make_file(temporary, options);
  if (!fd) return fd;
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) {
    return fd;
  }
  const int error = errno;
  ::unlink(temporary.c_str());
  return os_error(error, "cannot create " + path);
}

// One that another program or version left for fewer users, as far as we may. A name of another
// file (a hard link) is none of ours to give away.
void mend(int fd, const std::string& path, const SegmentOptions& options) {
  struct stat file {};
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || file.st_nlink != 1) return;
  const bool is_as_asked = (file.st_mode & 07777) == options.mode &&
                           (options.owner == kNoOwner || file.st_uid == options.owner) &&
                           (options.group == kNoGroup || file.st_gid == options.group);
  const bool may_mend = geteuid() == 0 || geteuid() == file.st_uid;
  if (!is_as_asked && may_mend) (void)give_as_asked(fd, path, options);
}

// Without O_CREAT first: in a sticky directory that is refused for another user's file.
Result<Fd> open_or_create(const std::string& path, const SegmentOptions& options) {
  constexpr int kAttempts = 3;  // somebody may remove or make it
  Status last;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (fd.ok()) {
      mend(fd.get(), path, options);
      return fd;
    }
    if (errno != ENOENT) return os_error(errno, "cannot open " + path);
    auto made = create(path, options);
    if (made || (made.code() != Code::kAlreadyExists && made.code() != Code::kNotFound)) {
      return made;
    }
    last = made.status();
  }
  return last;
}

bool is_at(const std::string& path, int fd) {
  struct stat named {};
  struct stat opened {};
  return lstat(path.c_str(), &named) == 0 && fstat(fd, &opened) == 0 &&
         named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

}  // namespace

Result<std::unique_ptr<CreationLock>> CreationLock::take(const std::string& segment_path,
                                                         const SegmentOptions& options,
                                                         std::uint64_t wait_ms) {
  const std::string path = creation_lock_path_of(segment_path);
  for (std::uint64_t waited_ms = 0;; waited_ms += 10) {
    auto fd = open_or_create(path, options);
    if (!fd) return fd.status();
    std::unique_ptr<CreationLock> lock(new CreationLock(std::move(*fd)));
    const bool locked = flock(lock->fd_.get(), LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno != EWOULDBLOCK && errno != EINTR) {
      return os_error(errno, "cannot lock " + path);
    }
    // Who removes a segment removes this file too: then what we locked excludes nobody.
    if (locked && is_at(path, lock->fd_.get())) return lock;
    if (waited_ms >= wait_ms) {
      return {Code::kBusy,
              "another process has been creating " + segment_path + " for 5 s; is it stopped?"};
    }
    if (locked) continue;
    const timespec pause{0, 10'000'000};
    nanosleep(&pause, nullptr);
  }
}

CreationLock::~CreationLock() { flock(fd_.get(), LOCK_UN); }

}  // namespace larder::shm
