// resize: a segment of another size in the place of one that is in use.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "shm/resize.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

bool is_named_like_a_segment(const std::string& path) {
  constexpr std::string_view kPrefix = "larder.";
  const std::size_t slash = path.rfind('/');
  const std::string_view file = std::string_view(path).substr(slash + 1);
  return slash != std::string::npos && file.starts_with(kPrefix) && file.size() > kPrefix.size();
}

int exit_of(Code code) {
  if (code == Code::kInvalidArgument) return kUsage;
  return code == Code::kBusy || code == Code::kNoSpace ? kDegraded : kCannotAttach;
}

void print(const std::string& path, std::uint64_t bytes, const shm::Resized& resized) {
  std::printf("%s has %s now, %s before\n", escape(path).c_str(), format_bytes(bytes).c_str(),
              format_bytes(resized.bytes_before).c_str());
  if (resized.has_redis) {
    std::printf("it begins empty: what is in it comes from Redis\n");
  } else {
    std::printf("%s of %llu copied, the most used; %llu changed meanwhile\n",
                format_count(resized.copied, "entry").c_str(),
                static_cast<unsigned long long>(resized.entries_before),
                static_cast<unsigned long long>(resized.changed));
    if (resized.flushed)
      std::printf("dropped again: a change could not wait for the new segment\n");
  }
  std::printf("processes move over at their next call; all was a miss for %llu ms\n",
              static_cast<unsigned long long>(resized.closed.count()));
}

Json json_of(const std::string& path, std::uint64_t bytes, const shm::Resized& resized) {
  return {{"path", json_text(path)},
          {"status", exit_name(kFine)},
          {"segment_bytes", bytes},
          {"segment_bytes_before", resized.bytes_before},
          {"entries_before", resized.entries_before},
          {"copied", resized.copied},
          {"changed", resized.changed},
          {"flushed", resized.flushed},
          {"closed_ms", resized.closed.count()}};
}

}  // namespace

int resize(const Arguments& arguments) {
  int exit = kFine;
  // Refuses what is no segment of ours, and says so as the other commands do.
  const auto segment = attach_to_change(arguments, exit);
  if (segment == nullptr) return exit;
  const std::string& path = segment->path();
  if (!is_named_like_a_segment(path)) {
    return fail(arguments, kUsage,
                path + " is not named like a segment (larder.NAME): nobody would move over");
  }
  const auto resized = shm::resize(path, arguments.size);
  if (!resized) return fail(arguments, exit_of(resized.code()), resized.status().message());
  if (arguments.json) {
    print_json(json_of(path, arguments.size, *resized));
  } else {
    print(path, arguments.size, *resized);
  }
  return kFine;
}

}  // namespace larder::tools
