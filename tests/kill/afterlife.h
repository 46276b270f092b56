// What must hold when a process died, whatever it was at.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shm/segment.h"
#include "shm/table.h"
#include "tests/kill/world.h"

namespace larder::kill {

using Contents = std::map<std::string, std::string>;  // what a reader finds: value by key

// Who looked before the operation and goes on now: readers that find the version of their bucket
// unchanged, views that are still held. What they saw must be what is there.
class EarlierReaders {
 public:
  explicit EarlierReaders(const Image& before);
  std::vector<std::string> faults(const char* segment) const;

 private:
  struct Seen {
    std::uint64_t version_at;  // offsets in the segment
    std::uint32_t version;
    bool pinned;
    std::uint64_t bytes_at;
    std::uint64_t bytes;
  };
  std::string before_;
  std::vector<Seen> seen_;
};

struct Judgement {
  const std::vector<std::string>& keys;  // all that may be read, also those that nobody may see
  const Contents& before;
  const Contents& after;
  bool completed = false;  // the operation was over: nothing of before that it replaced may show
  unsigned living = 0;     // processes that did not die
  bool held = false;       // one of them holds the stripe's lock
  const EarlierReaders* readers = nullptr;
  // The change that the operation follows; 0: none. Visible only after the head names it; over once
  // the cursor does.
  std::uint64_t follows = 0;
};

// Another process comes, reads, takes the dead one's locks, repairs, writes. Returns what was not
// as it must be, one line each.
std::vector<std::string> judge(shm::Segment& segment, const Judgement& judgement);

// Judges pictures of a segment, one after the other, in a folder of its own. The pictured lock
// file knows nothing of who lived: `dead` is made to look dead, everybody else's pid is believed.
class Afterlife {
 public:
  std::vector<std::string> judge(const Image& image, pid_t dead, const Judgement& judgement);
  // Every key that a slot leads to, and what readers find of them.
  std::vector<std::string> keys(const Image& image);
  Contents contents(const Image& image);
  // The same of a folder where a segment was being created, removed or resized: the next one to
  // come gets a whole segment, and leaves nothing else lying about, or who `cleans` after it does.
  std::vector<std::string> judge_files(
      Image image, pid_t dead, const shm::SegmentOptions& options, const Judgement& judgement,
      const std::function<void(const shm::SegmentOptions&)>& cleans);

 private:
  // Empty, or why nobody can attach.
  std::string show(const Image& image, pid_t dead);

  World world_;
  std::shared_ptr<shm::Segment> segment_;
};

}  // namespace larder::kill
