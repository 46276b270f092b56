#include "shm/refusal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "shm/geometry.h"
#include "shm/hash.h"
#include "shm/os_error.h"
#include "shm/segment_files.h"

namespace larder::shm {
namespace {

constexpr const char* kRemoveIt = "; remove it, or use another name";

bool has_other_layout(const Superblock& block) {
  return block.layout_version != kLayoutVersion || block.layout_signature != layout_signature();
}

Status not_regular(const std::string& path) {
  return {Code::kMismatch, path + " is not a regular file; move it away, or use another name"};
}

}  // namespace

Result<std::uint64_t> boot_hash() {
  constexpr const char* kPath = "/proc/sys/kernel/random/boot_id";
  const Fd fd(::open(kPath, O_RDONLY | O_CLOEXEC));
  if (!fd.ok() && (errno == EMFILE || errno == ENFILE))
    return os_error(errno, "cannot open " + std::string(kPath));
  char id[64];
  const ssize_t size = fd.ok() ? read(fd.get(), id, sizeof id) : 0;
  const char* end = std::find(id, id + std::max<ssize_t>(size, 0), '\n');
  return XXH3_64bits(id, static_cast<std::size_t>(end - id));
}

bool is_trusted(uid_t user, const std::vector<uid_t>& owners) {
  return user == geteuid() || user == 0 ||
         std::find(owners.begin(), owners.end(), user) != owners.end();
}

std::vector<uid_t> trusted_by(const SegmentOptions& options) {
  std::vector<uid_t> owners = options.allowed_owners;
  if (options.owner != kNoOwner) owners.push_back(options.owner);
  return owners;
}

Status check_file(const std::string& path, const struct stat& file, Access access,
                  const std::vector<uid_t>& owners) {
  if (!S_ISREG(file.st_mode)) return not_regular(path);
  if (access == Access::kReadOnly) return {};  // an observer trusts nothing it reads anyway
  if (!is_trusted(file.st_uid, owners)) {
    return {Code::kMismatch, path + " belongs to user " + std::to_string(file.st_uid) +
                                 ", not to user " + std::to_string(geteuid()) +
                                 "; run as its owner, or name that user in allowed_owners if it "
                                 "is to be trusted"};
  }
  if (file.st_mode & S_IWOTH) {
    return {Code::kMismatch, path +
                                 " may be written by everybody; chmod o-w it if that is a "
                                 "mistake, or remove it"};
  }
  return {};
}

Result<Fd> read_header(const std::string& path, Access access, const std::vector<uid_t>& owners,
                       FileHeader& header) {
  const int mode = access == Access::kReadWrite ? O_RDWR : O_RDONLY;
  Fd fd(::open(path.c_str(), mode | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd.ok() && (errno == ELOOP || errno == EISDIR || errno == ENXIO)) {
    return not_regular(path);  // a link, a directory, a socket
  }
  if (!fd.ok()) return os_error(errno, "cannot open " + path);
  if (fstat(fd.get(), &header.file) != 0) return os_error(errno, "cannot stat " + path);
  if (Status s = check_file(path, header.file, access, owners); !s.ok()) return s;
  if (header.size() == 0) {
    return {Code::kCorrupt, path + " is empty: no larder segment, or a truncated one" + kRemoveIt};
  }
  if (header.size() < sizeof header.bytes ||
      pread(fd.get(), header.bytes, sizeof header.bytes, 0) != sizeof header.bytes) {
    return {Code::kCorrupt, path + " is no larder segment: too short, with " +
                                std::to_string(header.size()) + " bytes" + kRemoveIt};
  }
  return fd;
}

Status check_superblock(const std::string& path, const Superblock& block, std::uint64_t size) {
  const auto refuse = [&](Code code, const std::string& why) {
    return Status(code, path + " " + why);
  };
  // Of the other byte order everything else reads as nonsense.
  if (block.magic == __builtin_bswap64(kMagic) ||
      (block.magic == kMagic && block.architecture != kArchitecture)) {
    return refuse(Code::kMismatch, std::string("was made on another architecture (byte order or "
                                               "word size)") +
                                       kRemoveIt);
  }
  if (block.magic != kMagic) {
    return refuse(Code::kCorrupt, std::string("is not a larder segment") + kRemoveIt);
  }
  if (has_other_layout(block)) {
    return refuse(Code::kMismatch, "has layout " + std::to_string(block.layout_version) + "/" +
                                       hex(block.layout_signature) + ", this program has " +
                                       std::to_string(kLayoutVersion) + "/" +
                                       hex(layout_signature()) +
                                       "; use another name, or remove it once nobody uses it");
  }
  if (block.geometry.segment_bytes != size) {
    return refuse(Code::kCorrupt, "has " + std::to_string(size) + " bytes, its superblock says " +
                                      std::to_string(block.geometry.segment_bytes) +
                                      "; it was truncated or extended: remove it");
  }
  // The geometry follows from the size (whoever changes plan_geometry() raises kLayoutVersion), so
  // nothing of what our bounds are made of is taken on trust.
  const auto planned = plan_geometry(size, block.geometry.max_entries);
  if (!planned || !(*planned == block.geometry)) {
    return refuse(Code::kCorrupt, "has a damaged superblock; remove it");
  }
  return {};
}

Status check_boot(const std::string& path, const Superblock& block) {
  const auto boot = boot_hash();
  if (!boot) return boot.status();
  if (block.boot_hash != *boot) {
    return {Code::kMismatch, path +
                                 " was made before the last boot, or on another machine; "
                                 "remove it (a tmpfs forgets at boot, this directory did not)"};
  }
  return {};
}

Status compare_bindings(const std::string& path, std::string_view ours, std::string_view theirs) {
  if (ours == theirs) return {};
  while (!ours.empty() || !theirs.empty()) {
    const auto cut = [](std::string_view& text) {
      const std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), line.size() + 1));
      return line;
    };
    const std::string_view mine = cut(ours);
    const std::string_view other = cut(theirs);
    if (mine == other) continue;
    return {Code::kMismatch, path + " was made with " + std::string(other) + ", not " +
                                 std::string(mine) +
                                 "; use the same options in every process, or another name"};
  }
  return {};
}

bool is_of_other_layout(const std::string& path, const std::vector<uid_t>& owners) {
  FileHeader header;
  return read_header(path, Access::kReadWrite, owners, header).ok() &&
         header.block().magic == kMagic && header.block().architecture == kArchitecture &&
         header.block().layout_version != kLayoutVersion;
}

}  // namespace larder::shm
