#include "tests/storm/shared.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace larder::storm {
namespace {

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::exit(2);
}

}  // namespace

const char* deed_name(Deed deed) {
  static constexpr const char* kNames[] = {
      "nothing",  "start",     "get",     "get_many",   "contains", "pin",   "unpin",
      "set_new",  "overwrite", "larger",  "expiring",   "remove",   "flush", "fill",
      "load",     "load wait", "own_set", "own_remove", "clear",    "drop",  "resync",
      "election", "term",      "apply",   "step_down",  "reap",     "mend",  "check",
      "fork",     "exec",      "exit",    "attach",     "detach"};
  static_assert(std::size(kNames) == kDeeds);
  return kNames[static_cast<std::size_t>(deed)];
}

void Shared::complain(const std::string& text) {
  const std::uint32_t i = complaints.fetch_add(1);
  if (i < kComplaints) std::strncpy(complaint[i], text.c_str(), kComplaintBytes - 1);
}

int create_shared() {
  // Inherited by workers that replace themselves, hence without MFD_CLOEXEC.
  const int fd = memfd_create("larder-storm", 0);
  if (fd < 0 || ftruncate(fd, sizeof(Shared)) != 0) give_up("memfd_create");
  // Ledger's counters begin at 1, everything else at 0 as the file does.
  new (&map_shared(fd)) Shared{};
  return fd;
}

Shared& map_shared(int fd) {
  void* at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) give_up("mmap");
  return *static_cast<Shared*>(at);
}

}  // namespace larder::storm
