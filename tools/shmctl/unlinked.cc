#include "tools/shmctl/unlinked.h"

#include <dirent.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string_view>

namespace larder::tools {
namespace {

// One line of /proc/PID/maps: "7f00-7f01 rw-s 00000000 00:19 12  /dev/shm/larder.shop (deleted)".
struct Mapping {
  std::uint64_t bytes;
  std::uint64_t inode;
  std::string name;  // of the segment; empty: of something else
};

Mapping parse(const std::string& line, const std::string& prefix) {
  unsigned long long start = 0;
  unsigned long long end = 0;
  unsigned long long inode = 0;
  int path_at = 0;
  if (std::sscanf(line.c_str(), "%llx-%llx %*s %*s %*s %llu %n", &start, &end, &inode, &path_at) !=
      3) {
    return {};
  }
  constexpr std::string_view kDeleted = " (deleted)";
  std::string_view path = std::string_view(line).substr(static_cast<std::size_t>(path_at));
  if (!path.starts_with(prefix) || !path.ends_with(kDeleted)) return {};
  path.remove_prefix(prefix.size());
  path.remove_suffix(kDeleted.size());
  if (path.find('/') != std::string_view::npos || path.ends_with(".tmp")) return {};
  return {end - start, inode, std::string(path)};
}

}  // namespace

std::vector<Unlinked> unlinked_segments(const std::string& directory) {
  std::map<std::uint64_t, Unlinked> by_inode;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(opendir("/proc"), closedir);
  if (proc == nullptr) return {};
  char* real = realpath(directory.c_str(), nullptr);
  const std::string prefix = std::string(real != nullptr ? real : directory.c_str()) + "/larder.";
  std::free(real);
  while (const dirent* entry = readdir(proc.get())) {
    const auto pid = static_cast<std::uint32_t>(std::strtoul(entry->d_name, nullptr, 10));
    if (pid == 0) continue;
    std::ifstream maps("/proc/" + std::string(entry->d_name) + "/maps");
    for (std::string line; std::getline(maps, line);) {
      Mapping mapping = parse(line, prefix);
      if (mapping.name.empty()) continue;
      Unlinked& found = by_inode[mapping.inode];
      found.name = std::move(mapping.name);
      found.inode = mapping.inode;
      found.bytes = std::max(found.bytes, mapping.bytes);
      if (found.pids.empty() || found.pids.back() != pid) found.pids.push_back(pid);
    }
  }
  std::vector<Unlinked> all;
  all.reserve(by_inode.size());
  for (auto& [inode, found] : by_inode) all.push_back(std::move(found));
  return all;
}

}  // namespace larder::tools
