#include "tools/shmctl/answer.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <optional>

#include "shm/clock.h"
#include "shm/inspect.h"

namespace larder::tools {

using shm::Segment;

// ---- the segment ------------------------------------------------------------------------------

namespace {

std::optional<uid_t> owner_of(const std::string& path) {
  struct ::stat file {};
  if (::lstat(path.c_str(), &file) != 0) return std::nullopt;
  return file.st_uid;
}

}  // namespace

Paths paths_of(const Arguments& arguments) {
  if (arguments.target.find('/') != std::string::npos) return {arguments.target, ""};
  const std::string plain = Segment::path_of(arguments.directory, arguments.target);
  const std::string own = Segment::layout_path_of(arguments.directory, arguments.target);
  const auto owner_of_plain = owner_of(plain);
  const auto owner_of_own = owner_of(own);
  if (!owner_of_own) return {plain, ""};
  if (!owner_of_plain) return {own, ""};
  // Whoever owns the plain one is trusted: a tool does not know the options of its users.
  const std::string path =
      Segment::current_path_of(arguments.directory, arguments.target, {*owner_of_plain});
  return {path, path == own ? plain : own};
}

namespace {

int cannot_attach(const Arguments& arguments, const Status& why) {
  std::string message = why.message();
  if (why.code() == Code::kNotFound) {
    message += "; `shmctl list` shows what there is, --directory looks elsewhere";
  } else if (why.code() == Code::kPermissionDenied) {
    message += "; run as the user or group that owns it";
  }
  return fail(arguments, kCannotAttach, message);
}

}  // namespace

std::shared_ptr<Segment> attach(const Arguments& arguments) {
  auto segment = Segment::attach(paths_of(arguments).path, shm::Access::kReadOnly);
  if (segment) return *segment;
  (void)cannot_attach(arguments, segment.status());
  return nullptr;
}

std::shared_ptr<Segment> attach_to_change(const Arguments& arguments, int& exit) {
  if (!arguments.write) {
    exit = fail(arguments, kUsage, "this changes the segment: say --write");
    return nullptr;
  }
  const std::string path = paths_of(arguments).path;
  // Who names a segment to be changed means it, whoever's it is.
  struct ::stat file {};
  const uid_t owner = ::stat(path.c_str(), &file) == 0 ? file.st_uid : geteuid();
  auto segment = Segment::attach(path, shm::Access::kReadWrite, {owner});
  if (segment) return *segment;
  exit = cannot_attach(arguments, segment.status());
  return nullptr;
}

// ---- times ------------------------------------------------------------------------------------

namespace {

std::int64_t unix_ms() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

std::optional<std::uint64_t> created_ms_ago(const Segment& segment) {
  const std::int64_t then = segment.superblock().created_unix_ms;
  const std::int64_t now = unix_ms();
  if (then <= 0 || then > now) return std::nullopt;
  return static_cast<std::uint64_t>(now - then);
}
std::optional<std::uint64_t> ms_ago(std::uint64_t boottime_ms) {
  const std::uint64_t now = shm::now_ms();
  if (boottime_ms == 0 || boottime_ms > now) return std::nullopt;
  return now - boottime_ms;
}

std::string format_age(std::optional<std::uint64_t> ms) {
  return ms ? format_duration(*ms) : "unknown";
}
std::string format_ago(std::optional<std::uint64_t> ms) {
  return ms ? format_duration(*ms) + " ago" : "at an unknown time";
}

// ---- counters ---------------------------------------------------------------------------------

std::vector<Count> sync_counts_of(shm::Segment& segment) {
  const auto values = shm::sync_counters(segment);
  std::vector<Count> counts;
  for (std::size_t i = 0; i < shm::kSyncCounters; ++i) {
    counts.push_back({shm::sync_counter_name(static_cast<shm::SyncCounter>(i)), values[i]});
  }
  return counts;
}

// ---- answers ----------------------------------------------------------------------------------

const char* exit_name(int exit) {
  switch (exit) {
    case kFine:
      return "fine";
    case kDegraded:
      return "degraded";
    case kBroken:
      return "broken";
    case kCannotAttach:
      return "cannot attach";
    default:
      return "usage";
  }
}

Json json_head(const Segment& segment, int exit) {
  return {{"path", json_text(segment.path())}, {"status", exit_name(exit)}};
}

Json json_or_null(std::optional<std::uint64_t> number) {
  return number ? Json(*number) : Json(nullptr);
}

Json json_of_alive(Alive alive) {
  return alive == Alive::kUnknown ? Json(nullptr) : Json(alive == Alive::kYes);
}

std::string one_line(const Json& json) { return json.dump(-1, ' ', true); }

void print_json(const Json& json) { std::printf("%s\n", json.dump(2, ' ', true).c_str()); }

int fail(const Arguments& arguments, int exit, const std::string& message) {
  std::fprintf(stderr, "shmctl: %s\n", escape(message).c_str());
  if (arguments.json) {
    print_json({{"status", exit_name(exit)}, {"error", json_text(message)}});
  }
  return exit;
}

}  // namespace larder::tools
