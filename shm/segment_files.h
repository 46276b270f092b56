// The files of a segment: how they are named, whose they become, which of them nobody needs.
//
// segment.h lists the names. Another user may have put anything under one, so what is made here did
// not exist before, and links are not followed.
//
// Threads: any. Whoever removes files holds the creation lock of the plain name.
// Crash: what the dead leave is in nobody's way, and the next creator removes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "larder/status.h"
#include "shm/fd.h"
#include "shm/segment_options.h"

namespace larder::shm {

inline constexpr std::string_view kFilePrefix = "larder.";
inline constexpr std::string_view kLayoutEnding = ".layout";  // then a version

std::string hex(std::uint64_t number);  // 16 digits
// A name that nobody else has: what another user left under it could not be removed.
std::string temporary_path_of(const std::string& path);
std::string lock_path_of(const std::string& segment_path, std::uint64_t instance);
std::string creation_lock_path_of(const std::string& segment_path);
// The files beside a segment have its name and one of a few endings: is this such a name?
bool is_beside_segment(std::string_view name);
// Without the ending of a layout, if it has one.
std::string_view without_layout(std::string_view name);

// A file that did not exist, its maker's own until it is given.
Result<Fd> make_own_file(const std::string& path);
// Who may use a file is decided by the options, not by the umask.
Status give_as_asked(int fd, const std::string& path, const SegmentOptions& options);
// Both of these.
Result<Fd> make_file(const std::string& path, const SegmentOptions& options);

// Of those who died while they made a segment or its creation lock.
void remove_temporaries(const std::string& segment_path);
// Lock files of segments that are gone and that nobody holds.
void remove_orphaned_lock_files(const std::string& segment_path);

}  // namespace larder::shm
