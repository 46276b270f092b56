#include "shm/lock_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <mutex>
#include <utility>

#include "shm/fork.h"
#include "shm/layout.h"
#include "shm/os_error.h"

namespace larder::shm {

struct LockFile::Shared {
  std::string path;
  int fd = -1;
  dev_t device = 0;
  ino_t inode = 0;
  int users = 0;
  ForkMutex fd_mutex;
  ForkMutex process_mutex;
  ForkMutex leader_mutex;
  // The generation of the process that holds each byte, see Registry; a child's copy says 0 or its
  // parent's.
  std::array<std::atomic<std::uint64_t>, kMaxPlaces + 1> holders{};

  Status open();
  void open_anew() noexcept;
  bool is_ours(int some_fd) const noexcept {
    struct stat file {};
    return fstat(some_fd, &file) == 0 && file.st_dev == device && file.st_ino == inode;
  }
};

namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::uint64_t, LockFile::Shared> files;  // by the segment's instance
  // fork_generation() of the copy of larder that made this: each counts forks for itself.
  std::uint64_t (*generation)() noexcept;
};

void* new_registry();

}  // namespace

// Exported and inline, so that the linkers merge its variable: a program that has larder twice
// still has one registry. A pointer without a type, because a variable of a type that is private to
// this file would be private too. Whoever changes Registry changes the number in the name.
inline __attribute__((visibility("default"))) void* lock_file_registry_3() {
  static void* const registry =
      new_registry();  // never destroyed: locks outlive static destructors
  return registry;
}

static Registry& registry() { return *static_cast<Registry*>(lock_file_registry_3()); }

namespace {
// A child must not inherit the mutex locked, or the map half changed, by another thread.
void* new_registry() {
  pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                 [] { registry().mutex.unlock(); });
  return new Registry{{}, {}, []() noexcept { return fork_generation(); }};
}
}  // namespace

static constexpr int kOpenFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

bool ForkMutex::try_lock() noexcept {
  const std::uint64_t here = registry().generation();
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

Result<std::shared_ptr<LockFile>> LockFile::open(const std::string& path, std::uint64_t instance) {
  // First, so that want of memory leaves no descriptor behind.
  std::unique_ptr<LockFile> file(new LockFile(instance));
  {
    Registry& all = registry();
    std::lock_guard hold(all.mutex);
    Shared& shared = all.files[instance];
    if (shared.users == 0) {
      shared.path = path;
      if (Status s = shared.open(); !s.ok()) {
        all.files.erase(instance);
        return s;
      }
    }
    ++shared.users;
    file->shared_ = &shared;
  }
  return std::shared_ptr<LockFile>(std::move(file));
}

Status LockFile::Shared::open() {
  struct stat file {};
  fd = ::open(path.c_str(), kOpenFlags);
  if (fd < 0 || fstat(fd, &file) != 0) return os_error(errno, "cannot open the lock file " + path);
  device = file.st_dev;
  inode = file.st_ino;
  return {};
}

LockFile::~LockFile() {
  if (shared_ == nullptr) return;
  Registry& all = registry();
  std::lock_guard hold(all.mutex);
  if (--shared_->users > 0) return;
  if (shared_->is_ours(shared_->fd)) ::close(shared_->fd);
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

// Who closed it has dropped the locks. What nobody else took meanwhile is ours again.
void LockFile::Shared::open_anew() noexcept {
  fd = ::open(path.c_str(), kOpenFlags);
  if (fd < 0) return;
  if (!is_ours(fd)) {
    ::close(std::exchange(fd, -1));
    return;
  }
  const std::uint64_t here = registry().generation();
  for (std::size_t byte = 0; byte < holders.size(); ++byte) {
    struct flock lock = byte_lock(F_WRLCK, static_cast<off_t>(byte));
    if (holders[byte].load() == here) (void)fcntl(fd, F_SETLK, &lock);
  }
}

// A careless closefrom() may have closed it, and its number may stand for another file by now, on
// which locks would succeed and mean nothing. Then the file is opened anew; -1 when it is gone.
int LockFile::descriptor() const noexcept {
  std::lock_guard hold(shared_->fd_mutex);
  if (!shared_->is_ours(shared_->fd)) [[unlikely]]
    shared_->open_anew();
  return shared_->fd;
}

bool LockFile::lock(off_t byte) noexcept {
  struct flock lock = byte_lock(F_WRLCK, byte);
  if (fcntl(descriptor(), F_SETLK, &lock) != 0) return false;
  shared_->holders[static_cast<std::size_t>(byte)].store(registry().generation());
  return true;
}

void LockFile::unlock(off_t byte) noexcept {
  shared_->holders[static_cast<std::size_t>(byte)].store(0);
  struct flock lock = byte_lock(F_UNLCK, byte);
  (void)fcntl(descriptor(), F_SETLK, &lock);
}

bool LockFile::held_by_other(off_t byte) const noexcept {
  struct flock lock = byte_lock(F_WRLCK, byte);
  // Cannot tell: say held, so that nobody is taken for dead.
  return fcntl(descriptor(), F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

bool LockFile::is_shared() const {
  std::lock_guard hold(registry().mutex);
  return shared_->users > 1;
}

ForkMutex& LockFile::process_mutex() noexcept { return shared_->process_mutex; }
ForkMutex& LockFile::leader_mutex() noexcept { return shared_->leader_mutex; }

}  // namespace larder::shm
