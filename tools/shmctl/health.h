// Who of a segment's processes is alive and which stripes suffer, asked without changing anything.
//
// Liveness is asked as the library asks it: a process holds a record lock on its byte of the lock
// file, and a free byte is proof of death only when the process is gone too. Opening and closing
// the lock file would drop the record locks of a process that holds some; this program holds none.
//
// Threads: none. Crash: nothing is left behind. Errors: what cannot be asked is kUnknown.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shm/segment.h"

namespace larder::tools {

enum class Alive { kYes, kNo, kUnknown };
const char* alive_name(Alive alive);  // "yes", "no", "unknown"

struct Life {
  Alive alive = Alive::kUnknown;
  // What the process does, or what keeps the answer from being plain: "sleeping", "stopped",
  // "gone", "a zombie", "alive, but lost its lock byte".
  std::string state;
};

class Liveness {
 public:
  explicit Liveness(shm::Segment& segment);
  ~Liveness();
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  // False for a copied file: nobody holds a lock for a copy.
  bool can_ask() const noexcept { return fd_ >= 0; }
  // Of a place that is taken.
  Life of_place(std::uint32_t index) const;
  // Does anybody hold the byte of this host's leader?
  Alive leading() const;

 private:
  // 1 held, 0 free, -1 cannot tell.
  int byte_held(std::uint64_t byte) const noexcept;

  shm::Segment& segment_;
  int fd_ = -1;
};

// A stripe whose lock names a process that is not there any more.
struct DeadLock {
  std::uint32_t stripe;
  std::uint32_t place;
  std::uint32_t pid;  // 0: its place was freed or taken by another since
  bool place_is_its;  // the place still stands in its name
};

// Who a stripe's lock word names.
struct Holder {
  std::uint32_t place = 0;
  std::uint32_t pid = 0;  // 0: the place is free or another's, or there is no such place
  Life life;
};
Holder holder_of(shm::Segment& segment, std::uint32_t lock_word, const Liveness& liveness);

inline constexpr const char* kClosedMeans =
    "closed, so that all is a miss: a resize is under way, or was stopped or killed; its process, "
    "or the next that needs the segment once that one is dead, opens one again";

struct Health {
  bool closed = false;  // another segment is taking its place, see shm/resize.h
  std::uint32_t locked_stripes = 0;
  std::uint32_t bypassed_stripes = 0;
  std::vector<DeadLock> dead_locks;

  bool degraded() const noexcept { return closed || bypassed_stripes != 0 || !dead_locks.empty(); }
};
Health health(shm::Segment& segment, const Liveness& liveness);

}  // namespace larder::tools
