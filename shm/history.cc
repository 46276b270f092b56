#include "shm/history.h"

#include <algorithm>

namespace larder::shm {

std::uint64_t History::reached() const noexcept {
  return std::max(sync_.cursor_seq.load(), sync_.head_seq.load());
}

bool History::rest_on(ChangeId id) noexcept {
  // No log: what Redis answered then, and what we followed, are the same history only if we have
  // followed nothing.
  if (id.none()) return sync_.cursor_seq.load() == 0;
  Atomic<std::uint64_t>& word = word_of(id);
  std::uint64_t noted = word.load();
  while (noted != pack(id)) {
    const std::uint64_t reached = this->reached();
    const bool is_ahead = id.seq > reached && id.seq - reached < kHistory;
    if (!is_ahead || same_seq(noted, id)) return false;
    // Either a leader that begins at another id sees the note, or we see its head.
    if (word.compare_exchange_weak(noted, pack(id))) return id.seq > this->reached();
  }
  return true;
}

bool History::follow(ChangeId id) noexcept {
  Atomic<std::uint64_t>& word = word_of(id);
  std::uint64_t noted = word.load();
  while (noted != pack(id)) {
    if (same_seq(noted, id)) return false;
    if (word.compare_exchange_weak(noted, pack(id))) return true;
  }
  return true;
}

bool History::begin_at(ChangeId id) noexcept {
  if (id.none()) return true;
  const std::uint64_t first = id.seq > kHistory ? id.seq - kHistory + 1 : 1;
  for (std::uint64_t seq = first; seq < id.seq; ++seq) {
    const ChangeId before{seq, 0};
    if (same_seq(word_of(before).load(), before)) return false;
  }
  return follow(id);
}

// The noted numbers are not in the words as a whole: each is put together with the seqs that its
// place may stand for, which are those right behind the cursor.
std::uint64_t History::ahead() const noexcept {
  const std::uint64_t cursor = sync_.cursor_seq.load(std::memory_order_acquire);
  for (std::uint64_t seq = cursor + kHistory - 1; seq > cursor; --seq) {
    const ChangeId id{seq, 0};
    if (same_seq(word_of(id).load(), id)) return seq;
  }
  return 0;
}

void History::forget() noexcept {
  for (std::size_t i = 0; i < kHistory; ++i) words_[i].store(0);
}

}  // namespace larder::shm
