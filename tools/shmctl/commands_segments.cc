// list and rm: the segments of a directory.
#include <dirent.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "shm/inspect.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/text.h"
#include "tools/shmctl/unlinked.h"

namespace larder::tools {

using shm::Segment;

// ---- list -------------------------------------------------------------------------------------

namespace {

bool can_read(const std::string& directory) {
  DIR* opened = opendir(directory.c_str());
  if (opened == nullptr) return false;
  closedir(opened);
  return true;
}

Json json_of_listed(const std::string& directory, const std::string& name) {
  const std::string path = Segment::path_of(directory, name);
  Json one{{"name", json_text(name)}, {"path", json_text(path)}};
  auto segment = Segment::attach(path, shm::Access::kReadOnly);
  if (!segment) {
    one["error"] = json_text(segment.status().message());
    return one;
  }
  const shm::Totals totals = shm::totals(**segment);
  one["segment_bytes"] = (*segment)->geometry().segment_bytes;
  one["entries"] = totals.entries;
  one["live_bytes"] = totals.live_bytes;
  one["processes"] = totals.processes;
  one["created_unix_ms"] = (*segment)->superblock().created_unix_ms;
  one["age_ms"] = json_or_null(created_ms_ago(**segment));
  return one;
}

std::vector<std::string> cells_of_listed(const std::string& directory, const std::string& name) {
  auto segment = Segment::attach(Segment::path_of(directory, name), shm::Access::kReadOnly);
  if (!segment) {
    return {escape(name), "-", "-", "-", "-", "-", escape(segment.status().message())};
  }
  const shm::Totals totals = shm::totals(**segment);
  return {escape(name),
          format_bytes((*segment)->geometry().segment_bytes),
          format_bytes(totals.live_bytes),
          std::to_string(totals.entries),
          std::to_string(totals.processes),
          format_age(created_ms_ago(**segment)),
          ""};
}

// "removed, but processes 7, 9 still use it"
std::string note_of(const Unlinked& unlinked) {
  std::string note =
      unlinked.pids.size() == 1 ? "removed, but process " : "removed, but processes ";
  for (std::size_t i = 0; i < unlinked.pids.size(); ++i) {
    note += (i == 0 ? "" : ", ") + std::to_string(unlinked.pids[i]);
  }
  return note + (unlinked.pids.size() == 1 ? " still uses it" : " still use it");
}

Json json_of_unlinked(const Unlinked& unlinked) {
  return {{"name", json_text(unlinked.name)},
          {"inode", unlinked.inode},
          {"segment_bytes", unlinked.bytes},
          {"pids", unlinked.pids}};
}

void print_list_json(const std::string& directory, const std::vector<std::string>& names,
                     const std::vector<Unlinked>& unlinked) {
  Json all = Json::array();
  for (const auto& name : names) all.push_back(json_of_listed(directory, name));
  Json gone = Json::array();
  for (const Unlinked& each : unlinked) gone.push_back(json_of_unlinked(each));
  print_json({{"directory", json_text(directory)},
              {"status", "fine"},
              {"segments", all},
              {"unlinked", gone}});
}

void print_list(const std::string& directory, const std::vector<std::string>& names,
                const std::vector<Unlinked>& unlinked) {
  if (names.empty() && unlinked.empty()) {
    std::printf("no segments in %s\n", escape(directory).c_str());
    return;
  }
  using enum Table::Align;
  Table table({{"NAME", kLeft},
               {"SIZE", kRight},
               {"LIVE", kRight},
               {"ENTRIES", kRight},
               {"PROCESSES", kRight},
               {"AGE", kRight},
               {"NOTE", kLeft}});
  for (const auto& name : names) table.add(cells_of_listed(directory, name));
  for (const Unlinked& each : unlinked) {
    table.add({escape(each.name), format_bytes(each.bytes), "-", "-",
               std::to_string(each.pids.size()), "-", note_of(each)});
  }
  table.print(stdout);
}

}  // namespace

int list(const Arguments& arguments) {
  const std::string& directory = arguments.directory;
  if (!can_read(directory)) {
    return fail(arguments, kCannotAttach,
                "cannot read the directory " + directory + ": " + std::strerror(errno));
  }
  const auto names = Segment::list(directory);
  const auto unlinked = unlinked_segments(directory);
  if (arguments.json) {
    print_list_json(directory, names, unlinked);
  } else {
    print_list(directory, names, unlinked);
  }
  return kFine;
}

// ---- rm ---------------------------------------------------------------------------------------

int rm(const Arguments& arguments) {
  const auto [path, other] = paths_of(arguments);
  if (!other.empty()) {
    return fail(arguments, kUsage,
                "both " + path + " and " + other + " are there; say which by its full path");
  }
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == 0 ? "/" : path.substr(0, slash);
  const std::string file = path.substr(slash + 1);
  constexpr std::string_view kPrefix = "larder.";
  if (!file.starts_with(kPrefix) || file.size() == kPrefix.size()) {
    return fail(arguments, kUsage,
                path + " is not named like a segment (larder.NAME); remove a copy with rm(1)");
  }
  const Status removed = Segment::remove(directory, file.substr(kPrefix.size()), arguments.force);
  if (removed.code() == Code::kBusy) return fail(arguments, kDegraded, removed.message());
  if (!removed.ok()) return fail(arguments, kCannotAttach, removed.message());
  if (arguments.json) {
    print_json({{"path", json_text(path)}, {"status", "fine"}, {"removed", true}});
  } else {
    std::printf("removed %s\n", escape(path).c_str());
  }
  return kFine;
}

}  // namespace larder::tools
