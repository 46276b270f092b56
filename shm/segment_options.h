// What is asked of a segment: which one, how large, for whom.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace larder::shm {

inline constexpr uid_t kNoOwner = static_cast<uid_t>(-1);
inline constexpr gid_t kNoGroup = static_cast<gid_t>(-1);

struct SegmentOptions {
  std::string directory = "/dev/shm";
  std::string name = "default";
  std::uint64_t bytes = 64ull << 20;
  std::uint64_t max_entries = 0;  // 0: as many as fit
  std::uint32_t policy = 0;
  // Whose the files become, and who may use them; by default the creator's.
  uid_t owner = kNoOwner;
  gid_t group = kNoGroup;
  mode_t mode = 0600;
  // Files of these users are accepted, beside one's own, root's and those of `owner`.
  std::vector<uid_t> allowed_owners;
  // "name=value" lines; a segment made for other lines is refused with both values.
  std::string binding;
};

enum class Access { kReadWrite, kReadOnly };

}  // namespace larder::shm
