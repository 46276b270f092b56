// The commands of shmctl. Each prints to standard output and returns how the program shall exit.
//
// Most only look: the segment is mapped read-only, no lock is taken and no place, so they work
// while a writer holds locks, is stopped, or died, and on a copy of the file. Those that change
// anything are rm, and repair, reap and resize with --write; they wait for nobody without a bound.
#pragma once

#include <cstdint>
#include <string>

namespace larder::tools {

enum Exit : int {
  kFine = 0,
  kDegraded = 1,      // works, less well; also: no such key, a segment in use and so not removed
  kBroken = 2,        // invariants are violated
  kCannotAttach = 3,  // no segment to look at; the message says why and what to do
  kUsage = 4,         // wrong arguments, or the output could not be written
};

struct Arguments {
  std::string directory = "/dev/shm";
  std::string target = "default";  // a segment's name or, with a slash, a path
  std::string key;
  std::string prefix;
  std::int64_t limit = 0;  // 0: all
  std::int64_t last = 0;
  std::uint64_t size = 0;  // bytes
  bool all = false;
  bool deep = false;
  bool force = false;
  bool json = false;
  bool write = false;
};

int list(const Arguments& arguments);
int info(const Arguments& arguments);
int stat(const Arguments& arguments);
int keys(const Arguments& arguments);
int get(const Arguments& arguments);
int explain(const Arguments& arguments);
int procs(const Arguments& arguments);
int leader(const Arguments& arguments);
int watch(const Arguments& arguments);
int check(const Arguments& arguments);
int locks(const Arguments& arguments);
int pins(const Arguments& arguments);
int repair(const Arguments& arguments);
int reap(const Arguments& arguments);
int resize(const Arguments& arguments);
int rm(const Arguments& arguments);

// Says on standard error what went wrong and, with --json, on standard output too.
int fail(const Arguments& arguments, int exit, const std::string& message);

}  // namespace larder::tools
