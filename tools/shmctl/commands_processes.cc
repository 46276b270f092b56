// procs and leader: who works on a segment.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "shm/inspect.h"
#include "shm/process.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
using shm::Segment;

// The leader's place may since have gone to another process, which is not the leader.
bool names_leader(Segment& segment, std::uint32_t place, std::uint32_t incarnation) {
  const std::uint64_t leader = segment.superblock().sync.leader.load(kRelaxed);
  return place != 0 && shm::leader_owner(leader) == shm::make_owner(place, incarnation);
}

// ---- procs ------------------------------------------------------------------------------------

// A process, and what is asked about it.
struct Seen {
  shm::ProcessInfo process;
  Life life;
  bool leads;
};

std::vector<Seen> processes_of(Segment& segment) {
  const Liveness liveness(segment);
  std::vector<Seen> all;
  for (const shm::ProcessInfo& process : shm::processes(segment)) {
    all.push_back({process, liveness.of_place(process.place),
                   names_leader(segment, process.place, process.incarnation)});
  }
  return all;
}

Json json_of(const Seen& seen) {
  return {{"place", seen.process.place},
          {"pid", seen.process.pid},
          {"incarnation", seen.process.incarnation},
          {"pid_namespace", seen.process.pid_namespace},
          {"age_ms", json_or_null(ms_ago(seen.process.attached_ms))},
          {"leader", seen.leads},
          {"held_stripes", seen.process.held_stripes},
          {"alive", json_of_alive(seen.life.alive)},
          {"state", seen.life.state}};
}

void print_processes_json(const Segment& segment, const std::vector<Seen>& all) {
  Json json = json_head(segment, kFine);
  json["processes"] = Json::array();
  for (const Seen& seen : all) json["processes"].push_back(json_of(seen));
  print_json(json);
}

void print_processes(const std::vector<Seen>& all) {
  if (all.empty()) {
    std::printf("no process is attached\n");
    return;
  }
  using enum Table::Align;
  Table table({{"PLACE", kRight},
               {"PID", kRight},
               {"INCARNATION", kRight},
               {"NAMESPACE", kRight},
               {"ATTACHED FOR", kRight},
               {"LEADER", kLeft},
               {"STRIPES HELD", kRight},
               {"ALIVE", kLeft},
               {"STATE", kLeft}});
  for (const Seen& seen : all) {
    const shm::ProcessInfo& process = seen.process;
    table.add({std::to_string(process.place), std::to_string(process.pid),
               std::to_string(process.incarnation), std::to_string(process.pid_namespace),
               format_age(ms_ago(process.attached_ms)), seen.leads ? "yes" : "",
               std::to_string(process.held_stripes), alive_name(seen.life.alive), seen.life.state});
  }
  table.print(stdout);
}

}  // namespace

int procs(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const std::vector<Seen> all = processes_of(*segment);
  if (arguments.json) {
    print_processes_json(*segment, all);
  } else {
    print_processes(all);
  }
  return kFine;
}

// ---- leader -----------------------------------------------------------------------------------

namespace {

// The leader's process, while it still has its place; else 0.
std::uint32_t pid_of(Segment& segment, const shm::LeaderInfo& leader) {
  if (leader.place == 0 || leader.place >= segment.geometry().place_count) return 0;
  const std::uint64_t state = segment.place(leader.place).state.load(kRelaxed);
  const bool in_place =
      shm::state_alive(state) && names_leader(segment, leader.place, shm::state_incarnation(state));
  return in_place ? leader.pid : 0;
}

// Changes that the log had at the last probe and that are not applied yet.
std::uint64_t lag(const shm::LeaderInfo& leader) {
  return leader.log_end_seq - std::min(leader.log_end_seq, leader.cursor.seq);
}

std::optional<std::uint64_t> answered_ms_ago(const shm::LeaderInfo& leader) {
  if (leader.answered_ms_ago == UINT64_MAX) return std::nullopt;
  return leader.answered_ms_ago;
}

void print_leader_json(const Segment& segment, const shm::LeaderInfo& leader,
                       const std::vector<Count>& sync_counts, std::uint32_t pid, Alive leading) {
  Json json = json_head(segment, kFine);
  json["term"] = leader.term;
  json["place"] = leader.place;
  json["pid"] = pid == 0 ? Json(nullptr) : Json(pid);
  json["leading"] = json_of_alive(leading);
  json["heartbeat"] = leader.heartbeat;
  json["in_sync"] = leader.lease_left_ms != 0;
  json["lease_left_ms"] = leader.lease_left_ms;
  json["follows"] = leader.follows;
  json["epoch"] = leader.epoch;
  json["cursor"] = {{"seq", leader.cursor.seq}, {"nonce", std::to_string(leader.cursor.nonce)}};
  json["head_seq"] = leader.head_seq;
  json["log_end_seq"] = leader.log_end_seq;
  json["lag"] = lag(leader);
  json["answered_ms_ago"] = json_or_null(answered_ms_ago(leader));
  json["floor_seq"] = leader.floor_seq;
  for (const Count& count : sync_counts) json["counters"][count.name] = count.value;
  print_json(json);
}

std::string leader_line(const shm::LeaderInfo& leader, std::uint32_t pid) {
  if (leader.place == 0) return "none yet (without Redis there is none)";
  const std::string who = "place " + std::to_string(leader.place);
  return pid == 0 ? "gone; it had " + who : "process " + std::to_string(pid) + ", " + who;
}

const char* lock_line(Alive leading) {
  if (leading == Alive::kYes) return "held";
  if (leading == Alive::kNo) return "free: nobody leads now";
  return "unknown: no lock file to ask";
}

std::string cursor_line(const shm::ChangeId& cursor) {
  if (cursor.none()) return "none";
  return std::to_string(cursor.seq) + "-" + std::to_string(cursor.nonce);
}

void print_leader(const shm::LeaderInfo& leader, const std::vector<Count>& sync_counts,
                  std::uint32_t pid, Alive leading) {
  const auto number_or = [](std::uint64_t seq, const char* none) {
    return seq == 0 ? none : std::to_string(seq);
  };
  Facts facts;
  facts.add("leader", leader_line(leader, pid));
  facts.add("lock", lock_line(leading));
  facts.add("term", std::to_string(leader.term));
  facts.add("heartbeat", std::to_string(leader.heartbeat) + " turns");
  facts.add("in sync", leader.lease_left_ms != 0 ? "yes" : "no");
  facts.add("lease", leader.lease_left_ms != 0
                         ? std::to_string(leader.lease_left_ms) + " ms left"
                         : "over: nobody knows whether what is held is up to date");
  facts.add("epoch", std::to_string(leader.epoch));
  facts.add("cursor", cursor_line(leader.cursor));
  facts.add("head", number_or(leader.head_seq, "none"));
  facts.add("floor", number_or(leader.floor_seq, "none in this epoch"));
  facts.add("redis",
            leader.answered_ms_ago == UINT64_MAX
                ? "has answered no probe yet"
                : "answered a probe " + std::to_string(leader.answered_ms_ago) + " ms ago");
  facts.add("lag", format_count(lag(leader), "change") + " behind the log's end at that probe");
  facts.print(stdout);
  std::printf("\ncounters, of every leader that there was\n");
  Facts counters;
  for (const Count& count : sync_counts) counters.add(count.name, std::to_string(count.value));
  counters.print(stdout);
}

}  // namespace

int leader(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const shm::LeaderInfo leader = shm::leader(*segment);
  const Alive leading = Liveness(*segment).leading();
  const std::uint32_t pid = pid_of(*segment, leader);
  const std::vector<Count> sync_counts = sync_counts_of(*segment);
  if (arguments.json) {
    print_leader_json(*segment, leader, sync_counts, pid, leading);
  } else {
    print_leader(leader, sync_counts, pid, leading);
  }
  return kFine;
}

}  // namespace larder::tools
