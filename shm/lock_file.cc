#include "shm/lock_file.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "shm/fork.h"

namespace larder::shm {

bool ForkMutex::try_lock() noexcept {
  const std::uint64_t here = fork_generation();
  std::uint64_t holder = holder_.load(std::memory_order_relaxed);
  if (holder == here) return false;
  // acquire: pairs with the release in unlock().
  return holder_.compare_exchange_strong(holder, here, std::memory_order_acquire,
                                         std::memory_order_relaxed);
}

void ForkMutex::lock() noexcept {
  while (!try_lock()) {
    const timespec pause{0, 200'000};
    nanosleep(&pause, nullptr);
  }
}

void ForkMutex::unlock() noexcept { holder_.store(0, std::memory_order_release); }

struct LockFile::Shared {
  int fd = -1;
  int users = 0;
  ForkMutex process_mutex;
  ForkMutex leader_mutex;
};

namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::uint64_t, LockFile::Shared> files;  // by the segment's instance
};

}  // namespace

// Exported and inline: a program that links larder twice still has one registry.
inline __attribute__((visibility("default"))) void* larder_lock_file_registry() {
  static Registry* registry = new Registry;  // never destroyed: locks outlive static destructors
  return registry;
}

static Registry& registry() { return *static_cast<Registry*>(larder_lock_file_registry()); }

Result<std::shared_ptr<LockFile>> LockFile::open(const std::string& path, std::uint64_t instance) {
  Registry& all = registry();
  std::lock_guard hold(all.mutex);
  Shared& shared = all.files[instance];
  if (shared.users == 0) {
    shared.fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (shared.fd < 0) {
      const int error = errno;
      all.files.erase(instance);
      return Status(error == ENOENT ? Code::kNotFound : Code::kPermissionDenied,
                    "cannot open the lock file " + path + ": " + std::strerror(error));
    }
  }
  ++shared.users;
  return std::shared_ptr<LockFile>(new LockFile(&shared, instance));
}

LockFile::~LockFile() {
  Registry& all = registry();
  std::lock_guard hold(all.mutex);
  if (--shared_->users > 0) return;
  ::close(shared_->fd);
  all.files.erase(instance_);
}

namespace {
struct flock byte_lock(short type, off_t byte) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}
}  // namespace

bool LockFile::lock(off_t byte) noexcept {
  struct flock lock = byte_lock(F_WRLCK, byte);
  return fcntl(shared_->fd, F_SETLK, &lock) == 0;
}

void LockFile::unlock(off_t byte) noexcept {
  struct flock lock = byte_lock(F_UNLCK, byte);
  (void)fcntl(shared_->fd, F_SETLK, &lock);
}

bool LockFile::held_by_other(off_t byte) const noexcept {
  struct flock lock = byte_lock(F_WRLCK, byte);
  // Cannot tell: say held, so that nobody is taken for dead.
  return fcntl(shared_->fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

ForkMutex& LockFile::process_mutex() noexcept { return shared_->process_mutex; }
ForkMutex& LockFile::leader_mutex() noexcept { return shared_->leader_mutex; }

}  // namespace larder::shm
