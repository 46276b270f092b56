// A segment of another size in the place of one that is in use.
//
//   1  make the new one beside the old one
//   2  copy the hottest entries that fit, most wanted last
//   3  close the old one: from here on everything there is a miss, and no change is done there
//   4  drop from the new one what changed in the old one since it was copied
//   5  rename the new one, which is closed too, to the path
//   6  open the new one; empty if the old one was flushed since it was closed
//
// Who finds its segment closed looks at the path. While that names the same file, reads are misses
// and changes wait; then it attaches to what is there and goes on in it. Nothing but the epoch says
// so, which every read looks at anyway.
//
// Nothing old can be read in the new segment:
// - The copy of an entry is one long read. It counts when its bucket's version is the same in step
//   4, under the stripe's lock (I2): then its slot was neither cleared nor replaced since.
// - A change looks under that lock whether the segment is closed. If it was not, step 4 comes after
//   the change, and sees it; if it was, the change is done again in the new segment. None is done
//   in both.
// - A change that cannot wait any longer flushes the closed segment, looks at the path once more,
//   and only then fails. Either step 6 sees the flush, or that look finds the new segment.
// - A stripe whose lock is not to be had, whose holder died, or that is bypassed, is not copied.
// With Redis nothing is copied, because changes of other hosts may be missed in between: the new
// segment begins as a newly made one. What a process changed in Redis meanwhile, it then tells the
// new segment (Table::remove with that change's id), because its sample is one of the old.
//
// Threads, processes: one at a time, by the creation lock. Fork: no.
// Crash: before step 3 the old segment goes on. Between 3 and 6 the one at the path is closed, and
// the next who needs it opens it, empty, once the creation lock is free (Segment::reopen).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "larder/status.h"
#include "shm/segment.h"

namespace larder::shm {

struct Resized {
  std::uint64_t bytes_before = 0;
  std::uint64_t entries_before = 0;
  std::uint64_t copied = 0;             // entries that the new segment begins with
  std::uint64_t changed = 0;            // that were copied, but changed meanwhile
  bool has_redis = false;               // then nothing is copied
  bool flushed = false;                 // the copies were dropped: a change could not wait for them
  std::chrono::milliseconds closed{0};  // how long nothing could be read or changed
};

// kNoSpace: the old and the new segment have no room beside each other (says how to get it), or the
// new one has too few places for the processes of the old one.
Result<Resized> resize(const std::string& path, std::uint64_t bytes);

}  // namespace larder::shm
