// Refusal of strangers: is this file a segment that this program may use?
//
// First the file is looked at, then its superblock through a descriptor, and only then it is
// mapped: reading a truncated file is an error, touching its mapping is SIGBUS. Every refusal says
// what was found and what to do about it.
//
// Threads: any; nothing is changed and no lock is taken.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"
#include "shm/fd.h"
#include "shm/layout.h"
#include "shm/segment_options.h"

namespace larder::shm {

// Byte order and pointer width: an image of another machine is not ours.
inline constexpr std::uint32_t kArchitecture =
    (std::endian::native == std::endian::little ? 1u : 2u) << 16 | sizeof(void*) * 8;

// Of this boot; of nothing where there is no such file. That none can be opened just now is an
// error: everything would seem to be of another boot.
Result<std::uint64_t> boot_hash();

// Who owns a segment can put anything into it, so not just anybody may. Root could anyway.
bool is_trusted(uid_t user, const std::vector<uid_t>& owners);
std::vector<uid_t> trusted_by(const SegmentOptions& options);

// Is this file one that we may trust with our memory? Its bytes are not looked at yet.
Status check_file(const std::string& path, const struct stat& file, Access access,
                  const std::vector<uid_t>& owners);

struct FileHeader {
  alignas(Superblock) char bytes[sizeof(Superblock)] = {};
  struct stat file {};

  const Superblock& block() const { return *reinterpret_cast<const Superblock*>(bytes); }
  std::uint64_t size() const { return static_cast<std::uint64_t>(file.st_size); }
};

// Opens a file that passes check_file(), and reads its superblock, which is not looked at yet.
Result<Fd> read_header(const std::string& path, Access access, const std::vector<uid_t>& owners,
                       FileHeader& header);
// `size`: of the file.
Status check_superblock(const std::string& path, const Superblock& block, std::uint64_t size);
// Was it made on this machine, since it was booted?
Status check_boot(const std::string& path, const Superblock& block);
// The first line in which two bindings differ is named.
Status compare_bindings(const std::string& path, std::string_view ours, std::string_view theirs);

// A segment that programs of another version made, and may be using.
bool is_of_other_layout(const std::string& path, const std::vector<uid_t>& owners);

}  // namespace larder::shm
