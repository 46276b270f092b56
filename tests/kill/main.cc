// larder-kill: does a process that dies at any instruction harm the others?
//
// Each operation on a segment runs one instruction at a time. After each instruction that changed
// the segment's files, a copy of them is given to another process, which must find every value old,
// new or missing, mend what is left and go on; now and then the process is really killed there.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/kill/operation.h"
#include "tests/kill/run.h"
#include "tests/support/process.h"

extern "C" const char __executable_start;
extern "C" const char etext;

namespace larder::kill {
namespace {

using Json = nlohmann::json;

struct Arguments {
  std::vector<std::string> only;
  RunOptions run;
  std::uint64_t every_operation = 1;
  unsigned jobs = std::max(1u, std::thread::hardware_concurrency());
  std::string instructions_file;
  bool json = false;
  bool list = false;
};

std::string title(const Operation& operation) { return operation.name + ", " + operation.variant; }

// Offsets in this program's file; what libraries do is not counted here.
std::vector<std::uintptr_t> own(const std::set<std::uintptr_t>& addresses) {
  const auto begin = reinterpret_cast<std::uintptr_t>(&__executable_start);
  const auto end = reinterpret_cast<std::uintptr_t>(&etext);
  std::vector<std::uintptr_t> offsets;
  for (const std::uintptr_t address : addresses) {
    if (address >= begin && address < end) offsets.push_back(address - begin);
  }
  return offsets;
}

Json as_json(const Operation& operation, const Report& report) {
  return {{"operation", operation.name},
          {"variant", operation.variant},
          {"points", report.points},
          {"distinct", report.distinct},
          {"skipped", report.skipped},
          {"judged", report.judged},
          {"real_kills", report.real_kills},
          {"real_missed", report.real_missed},
          {"violated", report.violated},
          {"violations", report.violations},
          {"instructions", own(report.instructions)},
          {"stores", own(report.stores)}};
}

// The process that is stepped and who steps it take turns: on one core that is several times
// faster.
// The two keep it so busy that others would starve beside them, hence the lowest priority.
void stay_on_core(unsigned core) {
  constexpr int kLowest = 19;
  [[maybe_unused]] const int priority = nice(kLowest);
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core % std::max(1u, std::thread::hardware_concurrency()), &cores);
  (void)sched_setaffinity(0, sizeof cores, &cores);
}

// Runs what `next` hands out, one operation a file. A judge that crashes or hangs is a violation
// that this process does not survive, so the parent sees to it.
void work(const std::vector<Operation>& all, std::atomic<std::size_t>& next,
          const RunOptions& options, const std::string& folder) {
  constexpr unsigned kLimitSeconds = 1800;
  for (std::size_t i = next++; i < all.size(); i = next++) {
    alarm(kLimitSeconds);
    std::ofstream(folder + "/begun." + std::to_string(i)) << title(all[i]);
    const Report report = kill_everywhere(all[i], options);
    std::ofstream(folder + "/done." + std::to_string(i)) << as_json(all[i], report);
    std::fprintf(
        stderr, "%-24s %-34s %9" PRIu64 " points %7" PRIu64 " judged %4" PRIu64 " violated\n",
        all[i].name.c_str(), all[i].variant.c_str(), report.points, report.judged, report.violated);
  }
}

std::vector<Operation> chosen(const Arguments& arguments) {
  std::vector<Operation> all = operations();
  std::size_t index = 0;
  std::erase_if(all, [&](const Operation& one) {
    const bool named =
        arguments.only.empty() ||
        std::any_of(arguments.only.begin(), arguments.only.end(),
                    [&](const auto& word) { return title(one).find(word) != std::string::npos; });
    return !named || (index++ + arguments.run.seed) % arguments.every_operation != 0;
  });
  return all;
}

int run(const Arguments& arguments) {
  const std::vector<Operation> all = chosen(arguments);
  if (arguments.list) {
    for (const Operation& one : all) std::printf("%s\n", title(one).c_str());
    return 0;
  }
  void* shared = mmap(nullptr, sizeof(std::atomic<std::size_t>), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto& next = *new (shared) std::atomic<std::size_t>(0);
  const test::TempDir folder;
  std::vector<pid_t> workers;
  for (unsigned j = 0; j < arguments.jobs; ++j) {
    const pid_t pid = fork();
    if (pid == 0) {
      stay_on_core(j);
      work(all, next, arguments.run, folder.path());
      _exit(0);
    }
    workers.push_back(pid);
  }
  int crashed = 0;
  for (const pid_t pid : workers) {
    int status = 0;
    waitpid(pid, &status, 0);
    if (status != 0) ++crashed;
  }

  Json sum = {{"operations", 0}, {"points", 0},     {"distinct", 0},    {"skipped", 0},
              {"judged", 0},     {"real_kills", 0}, {"real_missed", 0}, {"violated", 0}};
  Json violations = Json::array();
  std::set<std::uintptr_t> instructions;
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::ifstream file(folder.path() + "/done." + std::to_string(i));
    if (!file) {
      if (std::ifstream(folder.path() + "/begun." + std::to_string(i))) {
        violations.push_back(title(all[i]) + ": whoever came next crashed or hung");
        sum["violated"] = sum["violated"].get<std::uint64_t>() + 1;
      }
      continue;
    }
    const Json one = Json::parse(file);
    sum["operations"] = sum["operations"].get<std::uint64_t>() + 1;
    for (const char* figure :
         {"points", "distinct", "skipped", "judged", "real_kills", "real_missed", "violated"}) {
      sum[figure] = sum[figure].get<std::uint64_t>() + one[figure].get<std::uint64_t>();
    }
    for (const auto& what : one["violations"]) {
      violations.push_back(title(all[i]) + ": " + what.get<std::string>());
    }
    for (const auto& offset : one["instructions"])
      instructions.insert(offset.get<std::uintptr_t>());
  }
  if (!arguments.instructions_file.empty()) {
    std::ofstream out(arguments.instructions_file);
    for (const std::uintptr_t offset : instructions) out << std::hex << offset << '\n';
  }
  for (const auto& what : violations) std::printf("%s\n", what.get<std::string>().c_str());
  if (arguments.json) {
    sum["violations"] = violations;
    std::printf("%s\n", sum.dump().c_str());
  } else {
    std::printf("%" PRIu64 " operations, %" PRIu64 " kill points (%" PRIu64 " different), %" PRIu64
                " states judged, %" PRIu64 " real kills, %" PRIu64 " violations\n",
                sum["operations"].get<std::uint64_t>(), sum["points"].get<std::uint64_t>(),
                sum["distinct"].get<std::uint64_t>(), sum["judged"].get<std::uint64_t>(),
                sum["real_kills"].get<std::uint64_t>(), sum["violated"].get<std::uint64_t>());
  }
  return crashed != 0 || sum["violated"] != 0 ? 1 : 0;
}

}  // namespace
}  // namespace larder::kill

int main(int argc, char** argv) {
  larder::kill::Arguments arguments;
  CLI::App app("Kills operations on a segment at each of their instructions.");
  app.add_option("--only", arguments.only, "operations whose name has this in it; may be repeated");
  app.add_option("--every-operation", arguments.every_operation, "a sample: one operation in N");
  app.add_option("--judge-every", arguments.run.judge_every, "a sample: one changed state in N");
  app.add_option("--real-kills", arguments.run.real_kills,
                 "points of an operation where the process is really killed");
  app.add_option("--seed", arguments.run.seed, "of what is chosen by chance");
  app.add_option("--jobs", arguments.jobs, "processes at once");
  app.add_option("--instructions", arguments.instructions_file,
                 "write the offsets of all instructions that were killed at to this file");
  app.add_flag("--stop", arguments.run.stop_when_violated,
               "an operation is over at the first violation");
  app.add_flag("--json", arguments.json, "the sums as one JSON object");
  app.add_flag("--list", arguments.list, "the operations");
  CLI11_PARSE(app, argc, argv);
  return larder::kill::run(arguments);
}
