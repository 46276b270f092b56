// What Redis is in production: the truth about keys, and a log of their changes.
//
// In shared memory, for processes that die at any instruction: a change happens with one
// compare-and-swap, and whoever comes next completes what a dead one had left to do after it. The
// log is a ring; a follower that falls behind by its length has lost events.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace larder::storm {

enum class ChangeKind : std::uint64_t { kSet = 1, kRemove = 2, kClear = 3 };

struct LoggedChange {
  std::uint64_t seq = 0;
  ChangeKind kind = ChangeKind::kSet;
  unsigned writer = 0;
  unsigned key = 0;
};

class Ledger {
 public:
  static constexpr unsigned kKeys = 1024;
  static constexpr std::uint64_t kLength = 1u << 18;

  struct Reply {
    std::optional<LoggedChange> value;  // the change that set it
    std::uint64_t reach;                // no change up to this is missing in it
  };

  // Returns the change's place in the log.
  std::uint64_t change(ChangeKind kind, unsigned writer, unsigned key);
  Reply get(unsigned key);
  std::uint64_t last() const { return next_.load() - 1; }  // 0: nothing was changed yet
  // Nothing when it has not happened yet, or when the ring has gone round since.
  std::optional<LoggedChange> read(std::uint64_t seq) const;

 private:
  void index_up_to(std::uint64_t seq);

  // Words of the log: {seq:42, kind:2, writer:8, key:12}; a higher one is a later one.
  std::atomic<std::uint64_t> log_[kLength];
  std::atomic<std::uint64_t> next_{1};
  // The newest change of each key, and of all keys, of those before `indexed_`.
  std::atomic<std::uint64_t> indexed_{1};
  std::atomic<std::uint64_t> newest_[kKeys];
  std::atomic<std::uint64_t> cleared_{0};
};

// Raises `word` to at least `to`.
inline void raise_to(std::atomic<std::uint64_t>& word, std::uint64_t to) {
  std::uint64_t now = word.load();
  while (now < to && !word.compare_exchange_weak(now, to)) {
  }
}

}  // namespace larder::storm
