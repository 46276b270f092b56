// info and stat: what a segment is, and how it does as a whole.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "shm/inspect.h"
#include "shm/policy.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

using shm::Segment;

// ---- both -------------------------------------------------------------------------------------

int exit_of(const Health& health) { return health.degraded() ? kDegraded : kFine; }

// What is wrong, a line each.
std::vector<std::string> health_lines(const Health& health) {
  std::vector<std::string> lines;
  if (health.closed) lines.emplace_back(kClosedMeans);
  if (health.bypassed_stripes != 0) {
    lines.push_back("readers miss in " + format_count(health.bypassed_stripes, "bypassed stripe") +
                    " until the next writer there");
  }
  if (!health.dead_locks.empty()) {
    lines.push_back("a process that is gone holds the lock of " +
                    format_count(health.dead_locks.size(), "stripe") +
                    "; the next writer takes it over");
  }
  return lines;
}

void print_health(const Health& health) {
  for (const auto& line : health_lines(health)) std::printf("degraded: %s\n", line.c_str());
}

// ---- info -------------------------------------------------------------------------------------

std::string policy_name(std::uint32_t policy) {
  if (policy == shm::kPolicyLfu) return "lfu";
  if (policy == shm::kPolicyLru) return "lru";
  return "unknown (" + std::to_string(policy) + ")";
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

std::vector<Count> geometry_of(const Segment& segment) {
  const shm::Geometry& g = segment.geometry();
  return {{"segment_bytes", g.segment_bytes},
          {"place_count", g.place_count},
          {"load_count", g.load_count},
          {"note_count", g.note_count},
          {"stripe_count", g.stripe_count},
          {"buckets_per_stripe", g.buckets_per_stripe},
          {"slots_per_bucket", shm::kSlotsPerBucket},
          {"guards_per_stripe", g.guards_per_stripe},
          {"sketch_per_stripe", g.sketch_per_stripe},
          {"arena_bytes", g.arena_bytes()},
          {"max_entries", g.max_entries},
          {"places_offset", g.places_offset},
          {"loads_offset", g.loads_offset},
          {"journal_offset", g.journal_offset},
          {"stripes_offset", g.stripes_offset},
          {"buckets_offset", g.buckets_offset},
          {"guards_offset", g.guards_offset},
          {"sketches_offset", g.sketches_offset},
          {"maps_offset", g.maps_offset},
          {"arenas_offset", g.arenas_offset}};
}

std::string layout_of(const shm::Superblock& block) {
  return std::to_string(block.layout_version) + "/" + format_hex(block.layout_signature);
}

std::string mode_of(const struct ::stat& file) {
  char mode[8];
  std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(file.st_mode & 07777));
  return mode;
}

Facts facts_of(const Segment& segment, const struct ::stat& file) {
  const shm::Superblock& block = segment.superblock();
  const std::uint64_t bytes = segment.geometry().segment_bytes;
  Facts facts;
  facts.add("path", escape(segment.path()));
  facts.add("size", format_bytes(bytes) + " (" + std::to_string(bytes) + " bytes)");
  facts.add("owner", "user " + std::to_string(file.st_uid) + ", group " +
                         std::to_string(file.st_gid) + ", mode " + mode_of(file));
  facts.add("created", format_ago(created_ms_ago(segment)) + " by process " +
                           std::to_string(block.creator_pid));
  facts.add("instance", format_hex(block.instance));
  facts.add("layout", layout_of(block));
  facts.add("policy", policy_name(block.policy));
  std::string name = "made for";
  for (const auto& line : lines_of(segment.binding()))
    facts.add(std::exchange(name, ""), escape(line));
  return facts;
}

void print_info(const Segment& segment, const struct ::stat& file) {
  facts_of(segment, file).print(stdout);
  std::printf("\n");
  Facts geometry;
  for (const Count& count : geometry_of(segment)) {
    geometry.add(count.name, std::to_string(count.value));
  }
  geometry.print(stdout);
}

Json json_of_info(const Segment& segment, const struct ::stat& file, int exit) {
  const shm::Superblock& block = segment.superblock();
  Json json = json_head(segment, exit);
  json["segment_bytes"] = segment.geometry().segment_bytes;
  json["owner"] = file.st_uid;
  json["group"] = file.st_gid;
  json["mode"] = file.st_mode & 07777;
  json["created_unix_ms"] = block.created_unix_ms;
  json["age_ms"] = json_or_null(created_ms_ago(segment));
  json["creator_pid"] = block.creator_pid;
  json["instance"] = format_hex(block.instance);
  json["layout"] = {{"version", block.layout_version},
                    {"signature", format_hex(block.layout_signature)}};
  json["policy"] = policy_name(block.policy);
  json["binding"] = Json::array();
  for (const auto& line : lines_of(segment.binding())) json["binding"].push_back(json_text(line));
  for (const Count& count : geometry_of(segment)) json["geometry"][count.name] = count.value;
  return json;
}

}  // namespace

int info(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  struct ::stat file {};
  if (::stat(segment->path().c_str(), &file) != 0) {
    return fail(arguments, kCannotAttach,
                "cannot stat " + segment->path() + ": " + std::strerror(errno));
  }
  const Health found = health(*segment, Liveness(*segment));
  const int exit = exit_of(found);
  if (arguments.json) {
    Json json = json_of_info(*segment, file, exit);
    json["degradations"] = health_lines(found);
    print_json(json);
  } else {
    print_info(*segment, file);
    print_health(found);
  }
  return exit;
}

// ---- stat -------------------------------------------------------------------------------------

namespace {

// Where the segment's bytes are; the parts add up to the whole whatever was read.
struct Part {
  const char* name;
  std::uint64_t bytes;
  const char* what;
};

std::vector<Part> space_of(const Segment& segment, const shm::Totals& totals) {
  return {{"live", totals.live_bytes, "reachable entries: headers, keys, values, padding"},
          {"pinned", totals.pinned_bytes, "not reachable any more, but a view still shows them"},
          {"free", totals.free_bytes, "room for entries"},
          {"index", totals.index_bytes, "buckets, and what the policy remembers"},
          {"metadata", totals.metadata_bytes, "superblock, processes, stripes, guards, maps"},
          {"segment", segment.geometry().segment_bytes, "all of the above"}};
}

void print_space(const std::vector<Part>& space) {
  using enum Table::Align;
  Table table({{"SPACE", kLeft}, {"BYTES", kRight}, {"", kRight}, {"OF ALL", kRight}, {"", kLeft}});
  for (const Part& part : space) {
    table.add({part.name, std::to_string(part.bytes), format_bytes(part.bytes),
               format_share(part.bytes, space.back().bytes), part.what});
  }
  table.print(stdout);
}

Json json_of_space(const std::vector<Part>& space) {
  Json json;
  for (const Part& part : space) json[std::string(part.name) + "_bytes"] = part.bytes;
  return json;
}

Json json_of_counters(const shm::Totals& totals) {
  Json json;
  for (std::size_t i = 0; i < shm::kCounters; ++i) {
    json[shm::counter_name(static_cast<shm::Counter>(i))] = totals.counters[i];
  }
  return json;
}

std::vector<Count> counts_of(const shm::Totals& totals) {
  std::vector<Count> counts;
  for (std::size_t i = 0; i < shm::kCounters; ++i) {
    counts.push_back({shm::counter_name(static_cast<shm::Counter>(i)), totals.counters[i]});
  }
  return counts;
}

void print_counters(const std::vector<Count>& counts) {
  std::size_t width = 0;
  for (const Count& count : counts) width = std::max(width, std::strlen(count.name));
  for (const Count& count : counts) {
    std::printf("%-*s  %12llu\n", static_cast<int>(width), count.name,
                static_cast<unsigned long long>(count.value));
  }
}

std::uint64_t hits_of(const shm::Totals& totals) { return totals[shm::Counter::kLocalHits]; }
std::uint64_t reads_of(const shm::Totals& totals) {
  return hits_of(totals) + totals[shm::Counter::kLocalMisses];
}

Json json_of_hit_ratio(const shm::Totals& totals) {
  if (reads_of(totals) == 0) return nullptr;
  return static_cast<double>(hits_of(totals)) / static_cast<double>(reads_of(totals));
}

Json json_of_stat(Segment& segment, const shm::Totals& totals, const Health& found) {
  Json json = json_head(segment, exit_of(found));
  json["entries"] = totals.entries;
  json["processes"] = totals.processes;
  json["hit_ratio"] = json_of_hit_ratio(totals);
  json["stripes"] = {{"count", segment.geometry().stripe_count},
                     {"locked", found.locked_stripes},
                     {"locked_by_dead", found.dead_locks.size()},
                     {"bypassed", found.bypassed_stripes}};
  json["space"] = json_of_space(space_of(segment, totals));
  json["counters"] = json_of_counters(totals);
  for (const Count& count : sync_counts_of(segment)) {
    json["sync_counters"][count.name] = count.value;
  }
  json["degradations"] = health_lines(found);
  return json;
}

std::string stripes_line(const Segment& segment, const Health& found) {
  return std::to_string(segment.geometry().stripe_count) + ", " +
         std::to_string(found.locked_stripes) + " locked (" +
         std::to_string(found.dead_locks.size()) + " by the dead), " +
         std::to_string(found.bypassed_stripes) + " bypassed";
}

std::string in_sync_line(Segment& segment) {
  const shm::LeaderInfo leader = shm::leader(segment);
  if (leader.place == 0) return "alone (without Redis, or nobody has led yet)";
  if (leader.lease_left_ms == 0) return "no: the lease is over";
  return "yes, lease " + std::to_string(leader.lease_left_ms) + " ms left";
}

void print_stat(Segment& segment, const shm::Totals& totals, const Health& found) {
  Facts facts;
  facts.add("entries", std::to_string(totals.entries));
  facts.add("processes", std::to_string(totals.processes) + " attached");
  facts.add("in sync", in_sync_line(segment));
  facts.add("hit ratio", format_share(hits_of(totals), reads_of(totals)) + " of local reads");
  facts.add("stripes", stripes_line(segment, found));
  facts.print(stdout);
  std::printf("\n");
  print_space(space_of(segment, totals));
  std::printf("\ncounters, of every process that ever attached\n");
  print_counters(counts_of(totals));
  std::printf("\ncounters, of every leader that there was\n");
  print_counters(sync_counts_of(segment));
  print_health(found);
}

}  // namespace

int stat(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const shm::Totals totals = shm::totals(*segment);
  const Health found = health(*segment, Liveness(*segment));
  if (arguments.json) {
    print_json(json_of_stat(*segment, totals, found));
  } else {
    print_stat(*segment, totals, found);
  }
  return exit_of(found);
}

}  // namespace larder::tools
