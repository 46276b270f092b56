// check: whether everything in a segment is as it must be.
#include <cstdio>
#include <string>

#include "shm/check.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

using shm::Segment;

// The checker sees a lock of a place that is free or another's; that the process of a place which
// still stands in its name was killed, only the lock file and /proc tell.
void add_health(Segment& segment, shm::CheckReport& report) {
  const Health found = health(segment, Liveness(segment));
  if (found.closed) report.degradations.emplace_back(kClosedMeans);
  for (const DeadLock& dead : found.dead_locks) {
    if (!dead.place_is_its) continue;
    report.degradations.push_back("stripe " + std::to_string(dead.stripe) + ": locked by process " +
                                  std::to_string(dead.pid) + " (place " +
                                  std::to_string(dead.place) +
                                  "), which is gone; the next writer takes it over");
  }
}

int exit_of(const shm::CheckReport& report) {
  if (!report.clean()) return kBroken;
  return report.degradations.empty() ? kFine : kDegraded;
}

Json json_of(const Segment& segment, const shm::CheckReport& report, bool deep) {
  Json json = json_head(segment, exit_of(report));
  json["deep"] = deep;
  json["entries"] = report.entries;
  json["payload_bytes"] = report.payload_bytes;
  json["violations"] = report.violations;
  json["degradations"] = report.degradations;
  return json;
}

void print(const shm::CheckReport& report, bool deep) {
  for (const auto& line : report.violations) std::printf("violation: %s\n", line.c_str());
  for (const auto& line : report.degradations) std::printf("degraded: %s\n", line.c_str());
  std::printf("%s: %s, %s of keys and values%s\n", exit_name(exit_of(report)),
              format_count(report.entries, "entry").c_str(),
              format_bytes(report.payload_bytes).c_str(), deep ? ", every checksum compared" : "");
}

}  // namespace

int check(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  shm::CheckOptions options;
  options.deep = arguments.deep;
  shm::CheckReport report = shm::check(*segment, options);
  add_health(*segment, report);
  if (arguments.json) {
    print_json(json_of(*segment, report, options.deep));
  } else {
    print(report, options.deep);
  }
  return exit_of(report);
}

}  // namespace larder::tools
