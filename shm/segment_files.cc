#include "shm/segment_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "shm/layout.h"
#include "shm/lock_file.h"
#include "shm/os_error.h"
#include "shm/random.h"

namespace larder::shm {
namespace {

constexpr std::size_t kHexDigits = 16;

// The files PATH.<16 digits>ENDING.
std::vector<std::string> files_beside(const std::string& path, std::string_view ending) {
  std::vector<std::string> found;
  const std::size_t slash = path.rfind('/');
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(path.substr(0, slash + 1).c_str()),
                                                closedir);
  if (dir == nullptr) return found;
  const std::string stem = path.substr(slash + 1) + ".";
  while (const dirent* entry = readdir(dir.get())) {
    const std::string_view file = entry->d_name;
    if (file.size() == stem.size() + kHexDigits + ending.size() && file.starts_with(stem) &&
        file.ends_with(ending)) {
      found.push_back(path.substr(0, slash + 1) + entry->d_name);
    }
  }
  return found;
}

}  // namespace

// ---- names ------------------------------------------------------------------------------------

std::string hex(std::uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

std::string temporary_path_of(const std::string& path) {
  return path + "." + hex(random_word()) + ".tmp";
}

std::string lock_path_of(const std::string& segment_path, std::uint64_t instance) {
  return segment_path + "." + hex(instance) + ".lock";
}

std::string creation_lock_path_of(const std::string& segment_path) {
  return segment_path + ".create";
}

bool is_beside_segment(std::string_view name) {
  return name.ends_with(".lock") || name.ends_with(".create") || name.ends_with(".tmp");
}

std::string_view without_layout(std::string_view name) {
  const std::size_t digits = name.find_last_not_of("0123456789") + 1;
  const std::string_view stem = name.substr(0, digits);
  const bool has_one = digits < name.size() && stem.ends_with(kLayoutEnding);
  return has_one ? stem.substr(0, stem.size() - kLayoutEnding.size()) : name;
}

// ---- making and giving ------------------------------------------------------------------------

Result<Fd> make_own_file(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.ok()) return os_error(errno, "cannot create " + path);
  return fd;
}

Status give_as_asked(int fd, const std::string& path, const SegmentOptions& options) {
  const bool other_owner = options.owner != kNoOwner && options.owner != geteuid();
  if (other_owner || options.group != kNoGroup) {
    const uid_t owner = other_owner ? options.owner : kNoOwner;
    if (fchown(fd, owner, options.group) != 0) {
      std::string what = "cannot give " + path + " to";
      if (other_owner) what += " user " + std::to_string(owner);
      if (options.group != kNoGroup) what += " group " + std::to_string(options.group);
      Status s = os_error(errno, what);
      return {s.code(),
              s.message() + "; root gives to whom it likes, another user only to its own groups"};
    }
  }
  if (fchmod(fd, options.mode) != 0) return os_error(errno, "cannot set the mode of " + path);
  return {};
}

Result<Fd> make_file(const std::string& path, const SegmentOptions& options) {
  auto fd = make_own_file(path);
  if (!fd) return fd;
  if (Status s = give_as_asked((*fd).get(), path, options); !s.ok()) {
    ::unlink(path.c_str());
    return s;
  }
  return fd;
}

// ---- clearing away ----------------------------------------------------------------------------

void remove_temporaries(const std::string& segment_path) {
  for (const char* of : {"", ".create"}) {
    for (const std::string& path : files_beside(segment_path + of, ".tmp")) ::unlink(path.c_str());
  }
}

void remove_orphaned_lock_files(const std::string& segment_path) {
  for (const std::string& path : files_beside(segment_path, ".lock")) {
    const std::string digits = path.substr(segment_path.size() + 1, kHexDigits);
    auto lock_file = LockFile::open(path, std::strtoull(digits.c_str(), nullptr, 16));
    if (!lock_file) continue;
    bool held = (*lock_file)->is_shared();
    for (off_t byte = 0; byte < static_cast<off_t>(kMaxPlaces) + 1 && !held; ++byte) {
      held = (*lock_file)->held_by_other(byte);
    }
    if (!held) ::unlink(path.c_str());
  }
}

}  // namespace larder::shm
