#include "shm/proc_facts.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace larder::shm {
namespace {

// A PID namespace that was made without mounting its /proc sees the one of outside, where its pids
// are others' or nobody's.
bool proc_is_ours() {
  char text[16];
  const ssize_t size = readlink("/proc/self", text, sizeof text - 1);
  if (size <= 0) return false;
  text[size] = 0;
  return std::strtol(text, nullptr, 10) == getpid();
}

bool exists(std::uint32_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH; }

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

// The next mapping of a process: "7f00-7f01 rw-s 00000000 00:19 12  /dev/shm/larder.shop".
struct Mapping {
  std::uintptr_t begin;
  std::uintptr_t end;
  char file[64];  // device and inode, as the kernel prints them
};
bool next_mapping(std::FILE* maps, Mapping& mapping) {
  char line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    char device[24];
    unsigned long inode = 0;
    // What does not fit is the rest of a long path.
    if (std::sscanf(line, "%lx-%lx %*4s %*x %23s %lu", &mapping.begin, &mapping.end, device,
                    &inode) != 4) {
      continue;
    }
    std::snprintf(mapping.file, sizeof mapping.file, "%s %lu", device, inode);
    return true;
  }
  return false;
}

}  // namespace

// From /proc/PID/stat, whose second field may hold anything, parentheses included.
ProcessFacts facts_of(std::uint32_t pid) {
  if (pid == 0 || pid > static_cast<std::uint32_t>(INT_MAX)) return {};  // damage: nobody's
  if (!proc_is_ours()) return {exists(pid)};
  char path[40];
  std::snprintf(path, sizeof path, "/proc/%u/stat", pid);
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  // No such file also where /proc is not mounted or hides other users' processes.
  if (fd < 0) return {exists(pid)};
  char text[1024];
  ssize_t size = 0;
  do {
    size = ::read(fd, text, sizeof text - 1);
  } while (size < 0 && errno == EINTR);
  const bool gone = size == 0 || (size < 0 && errno == ESRCH);  // between open and read
  ::close(fd);
  if (size <= 0) return {!gone};
  text[size] = 0;
  ProcessFacts facts{true};
  const char* after_name = std::strrchr(text, ')');
  if (after_name == nullptr) return facts;
  char state = '?';
  unsigned threads = 0;
  unsigned long long start = 0;
  // Fields 3 (state), 20 (threads) and 22 (start time).
  if (std::sscanf(after_name + 1,
                  " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %u %*s %llu",
                  &state, &threads, &start) == 3) {
    // It looks like a zombie when its first thread has ended, and may live on in others.
    facts.state = state;
    facts.ended = (state == 'Z' || state == 'X') && threads <= 1;
    facts.start_ticks = start;
  }
  return facts;
}

std::uint64_t own_program() {
  // Random bytes that the kernel makes at exec. Hashed, because secrets are made of them.
  // NOLINTNEXTLINE(performance-no-int-to-ptr): that is how the kernel gives an address.
  static const auto* const bytes = reinterpret_cast<const void*>(getauxval(AT_RANDOM));
  static const std::uint64_t program = XXH3_64bits(bytes, 16);
  return program;
}

std::uint32_t own_namespace() {
  struct stat file {};
  if (stat("/proc/self/ns/pid", &file) != 0) return 0;
  return static_cast<std::uint32_t>(file.st_ino);
}

bool may_map(std::uint32_t pid, const void* address) {
  if (!proc_is_ours()) return true;
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  Mapping own{};
  {
    const File maps(std::fopen("/proc/self/maps", "re"), std::fclose);
    if (maps == nullptr) return true;
    bool found = false;
    while (!found && next_mapping(maps.get(), own)) found = own.begin <= at && at < own.end;
    if (!found) return true;
  }
  char path[40];
  std::snprintf(path, sizeof path, "/proc/%u/maps", pid);
  const File maps(std::fopen(path, "re"), std::fclose);
  if (maps == nullptr) return true;
  Mapping its{};
  bool any = false;
  while (next_mapping(maps.get(), its)) {
    if (std::strcmp(its.file, own.file) == 0) return true;
    any = true;
  }
  // Of a process that is just ending, or another user's, nothing can be read.
  return !any || std::ferror(maps.get()) != 0;
}

}  // namespace larder::shm
