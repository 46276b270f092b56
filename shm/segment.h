// A segment: one file in a tmpfs, mapped by every process of a host that shares a cache.
//
//   <directory>/larder.<name>                    the segment
//   <directory>/larder.<name>.<instance>.lock    liveness: byte i is process i, see process.h
//   <directory>/larder.<name>.create             held while creating
//   <directory>/larder.<name>.<random>.tmp       a file being made; renamed when complete
//   <directory>/larder.<name>.layout<version>    the segment of programs of that layout, made while
//                                                one of another layout had the plain name
//
// So programs of two versions share a host side by side, each with a segment that its own processes
// share. The older one is removed (`shmctl rm --force`) when nobody uses it any more.
//
// Threads: the methods of one object may be called from any thread; open and attach too.
// Fork: a child uses the mapping and the lock file's descriptor that it inherited.
// Crash: nobody ever sees half a segment; a dead creator leaves only the temporary file, which the
// next creator removes.
// A peer that truncates the file after we mapped it raises SIGBUS here: only a sealed memory file
// could prevent that.
#pragma once

#include <sys/types.h>

#include <boost/interprocess/mapped_region.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"
#include "shm/geometry.h"
#include "shm/hash.h"
#include "shm/layout.h"
#include "shm/lock_file.h"
#include "shm/segment_options.h"

namespace larder::shm {

class Segment {
 public:
  // Attaches to the segment, or creates it when there is none.
  static Result<std::shared_ptr<Segment>> open(const SegmentOptions& options);
  // Attaches to an existing segment by path, whatever it was made for. kReadOnly works on a wedged
  // segment and on a copied file: no lock is taken and no place.
  // `owners`: users whose files are accepted, beside one's own and root's.
  static Result<std::shared_ptr<Segment>> attach(const std::string& path, Access access,
                                                 const std::vector<uid_t>& owners = {});
  static std::string path_of(std::string_view directory, std::string_view name);
  // Where programs of this layout have theirs, while one of another layout has the plain name.
  static std::string layout_path_of(std::string_view directory, std::string_view name);
  // The path that `open` would attach to: that of this program's layout, if there is one of
  // somebody who is trusted; a stranger's must not keep anybody from the plain name.
  static std::string current_path_of(std::string_view directory, std::string_view name,
                                     const std::vector<uid_t>& owners = {});
  // Names of the segments in a directory, sorted.
  static std::vector<std::string> list(const std::string& directory);
  // Removes a segment and its lock file. kBusy while a process is attached, unless `force`: those
  // go on with what they have mapped, newcomers make a new one.
  static Status remove(std::string_view directory, std::string_view name, bool force);

  // What is to be done when a segment takes another's place, see resize.h.
  struct Succession {
    // Nobody else has `next` yet. Refuses before it closes `old`.
    std::function<Status(const std::shared_ptr<Segment>& old, Segment& next)> before;
    std::function<void(Segment& old, Segment& next)> after;  // the path names `next`, still closed
  };
  // Makes a segment of `bytes` beside the one at `path`, for the same users and the same binding,
  // and gives it that path. An error: the old one is in force, empty if it was closed meanwhile.
  static Status replace(const std::string& path, std::uint64_t bytes, const Succession& steps);
  // Opens, empty, the closed segment that `open` would attach to, if who was replacing it is dead.
  // kBusy: that one is at it.
  static Status reopen(const SegmentOptions& options);
  // Does the path still name this file?
  bool is_at_path() const noexcept;

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const std::string& path() const noexcept { return path_; }
  bool created() const noexcept { return created_; }
  Access access() const noexcept { return access_; }
  // Null when attached read-only.
  LockFile* lock_file() noexcept { return lock_file_.get(); }

  Superblock& superblock() noexcept { return *superblock_; }
  const Superblock& superblock() const noexcept { return *superblock_; }
  // A private copy, verified at attach: what others do to the superblock cannot move our bounds.
  const Geometry& geometry() const noexcept { return geometry_; }
  std::string binding() const;

  // In range by contract; callers mask or check what they read from the segment.
  Place& place(std::uint32_t index) noexcept { return places_[index]; }
  // Of load leases, see load.h.
  Atomic<std::uint64_t>& claim_word(std::uint32_t index) noexcept { return loads_[index]; }
  Note& note(std::uint32_t index) noexcept { return journal_[index]; }
  Stripe& stripe(std::uint32_t index) noexcept { return stripes_[index]; }
  Bucket& bucket(std::uint32_t stripe, std::uint32_t index) noexcept {
    return buckets_[std::uint64_t{stripe} * geometry_.buckets_per_stripe + index];
  }
  Guard& guard(std::uint32_t stripe, std::uint32_t index) noexcept {
    return guards_[std::uint64_t{stripe} * geometry_.guards_per_stripe + index];
  }
  Atomic<std::uint64_t>* sketch(std::uint32_t stripe) noexcept {
    return sketches_ + std::uint64_t{stripe} * geometry_.sketch_per_stripe;
  }
  // One bit a granule, then one summary a block; see arena.h.
  Atomic<std::uint64_t>* map(std::uint32_t stripe) noexcept {
    return maps_ + stripe * geometry_.map_words_per_stripe();
  }
  Atomic<std::uint64_t>* summaries(std::uint32_t stripe) noexcept {
    return map(stripe) + std::uint64_t{geometry_.blocks_per_stripe()} * (kBlockGranules / 64);
  }
  char* arena(std::uint32_t stripe) noexcept { return arenas_ + stripe * geometry_.arena_bytes(); }

  std::uint64_t hash(std::string_view key) const noexcept { return hash_of_key(key, hash_seed_); }

 private:
  Segment(std::string path, boost::interprocess::mapped_region region, Access access,
          const Geometry& geometry);
  static Result<std::shared_ptr<Segment>> create(const SegmentOptions& options);

  std::string path_;
  boost::interprocess::mapped_region region_;
  Access access_;
  bool created_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::shared_ptr<LockFile> lock_file_;

  char* base_;
  Superblock* superblock_;
  Geometry geometry_;
  std::uint64_t hash_seed_;
  Place* places_;
  Atomic<std::uint64_t>* loads_;
  Note* journal_;
  Stripe* stripes_;
  Bucket* buckets_;
  Guard* guards_;
  Atomic<std::uint64_t>* sketches_;
  Atomic<std::uint64_t>* maps_;
  char* arenas_;
};

}  // namespace larder::shm
