// Which changes a host's copy rests on, by their ids.
//
// The leader follows the log change by change. A worker runs ahead of it: Redis answers a write or
// a fill with an id whose event has not arrived yet. Redis may lose that change afterwards (a
// failover to a replica that lagged, an older snapshot), and then gives the same number to another
// change. So every id is noted before anything is stored that rests on it, and when the log turns
// out to hold another change under a noted number, or none, everything held has to go.
//
// One word for each of the last numbers: {seq / kHistory:24, nonce:39, 1:1}; 0: nothing yet.
// Threads and processes: any; each step is one atomic exchange.  Crash: what is noted and was
// stored by nobody costs at most a needless flush.  Damage: any word is legal; the worst is such a
// flush, or a loss that is not noticed.
#pragma once

#include <cstdint>

#include "shm/layout.h"
#include "shm/segment.h"

namespace larder::shm {

class History {
 public:
  explicit History(Segment& segment) noexcept
      : words_(segment.superblock().history), sync_(segment.superblock().sync) {}

  // May something be stored that rests on `id`? Notes it when it is ahead of cursor and head.
  // False: another change has its number here, or it is too far ahead or too long ago to tell.
  bool rest_on(ChangeId id) noexcept;

  // The leader's: the log has `id`, which follows the cursor. False: another change of this number
  // was noted, so something held may rest on a change that was lost. That stays noted until
  // `forget`, for the next leader to find if this one dies before it could flush.
  bool follow(ChangeId id) noexcept;

  // The same of an id that does not follow the cursor: held is nothing, everything was forgotten
  // and the head stands at `id`. False also when something before it was noted since: nothing tells
  // whether that was of this log.
  bool begin_at(ChangeId id) noexcept;

  // The highest seq noted ahead of the cursor; 0: none.
  std::uint64_t ahead() const noexcept;

  // Is this exact id among the last that were followed or noted?
  bool knows(ChangeId id) const noexcept { return word_of(id).load() == pack(id); }

  // Nothing held rests on anything any more: the epoch was raised. A note of a worker that looked
  // at the epoch before may come later; see Crash.
  void forget() noexcept;

 private:
  static constexpr unsigned kSeqShift = 40;

  static std::uint64_t pack(ChangeId id) noexcept {
    return id.seq / kHistory << kSeqShift | (id.nonce << 1 & ((1ull << kSeqShift) - 1)) | 1;
  }
  static bool same_seq(std::uint64_t word, ChangeId id) noexcept {
    return word != 0 && (word ^ pack(id)) >> kSeqShift == 0;
  }
  // What the leader has come to: the cursor, or the head of the event that it is applying.
  std::uint64_t reached() const noexcept;
  Atomic<std::uint64_t>& word_of(ChangeId id) const noexcept { return words_[id.seq % kHistory]; }

  Atomic<std::uint64_t>* words_;
  SyncWords& sync_;
};

}  // namespace larder::shm
