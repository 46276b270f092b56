// What the commands share: the segment that they look at, and how their answers begin and read.
//
// Threads: none. Errors: what goes wrong is said where people and programs read it, see fail().
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shm/segment.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {

// ---- the segment ------------------------------------------------------------------------------

struct Paths {
  std::string path;   // what every command means: what programs of this layout use by that name
  std::string other;  // the other one, where two layouts are side by side; empty: none
};
Paths paths_of(const Arguments& arguments);
// Read-only; null after saying why not.
std::shared_ptr<shm::Segment> attach(const Arguments& arguments);
// For a command that changes it, whoever owns it; refused without --write.
std::shared_ptr<shm::Segment> attach_to_change(const Arguments& arguments, int& exit);

// ---- times ------------------------------------------------------------------------------------

// How long ago; nothing for a moment of another boot or of a clock that was set back.
std::optional<std::uint64_t> created_ms_ago(const shm::Segment& segment);
std::optional<std::uint64_t> ms_ago(std::uint64_t boottime_ms);

std::string format_age(std::optional<std::uint64_t> ms);  // "3 h 12 min", "unknown"
std::string format_ago(std::optional<std::uint64_t> ms);  // "3 h 12 min ago", "at an unknown time"

// ---- counters ---------------------------------------------------------------------------------

struct Count {
  const char* name;
  std::uint64_t value;
};
// What the leaders met.
std::vector<Count> sync_counts_of(shm::Segment& segment);

// ---- answers ----------------------------------------------------------------------------------

const char* exit_name(int exit);
// What every answer starts with.
Json json_head(const shm::Segment& segment, int exit);
Json json_or_null(std::optional<std::uint64_t> number);
Json json_of_alive(Alive alive);
// Everything outside ASCII is escaped: a terminal gets no control character of anybody's key.
std::string one_line(const Json& json);
void print_json(const Json& json);

}  // namespace larder::tools
