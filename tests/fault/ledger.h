// What everybody does to the keys, in memory that all processes share, to be judged afterwards.
//
// Each write has a number, which travels in its value. Who writes notes when it began and when it
// had returned; the tap, which hears the channel beside the hosts, notes the order in which Redis
// made the writes. Who reads notes when the last read of each number began: of one number that is
// the read to be judged, for it is the oldest. A writer or reader may be killed anywhere; what it
// noted stays.
//
// The age of what was read: from when a write that came after it had returned, or was heard by the
// tap, until the read began.
// Which write came after is what Redis says, where the tap heard both; and whatever began after the
// one that was read had returned, or was heard, came after it in any case.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace larder::fault {

inline constexpr unsigned kHosts = 4;
inline constexpr unsigned kWorkersOfHost = 4;
inline constexpr unsigned kSeats = kHosts * kWorkersOfHost;
inline constexpr unsigned kKeys = 1000;

// CLOCK_MONOTONIC, which all processes share.
std::uint64_t now_ns();

enum class WriteKind : std::uint32_t { kSet, kSetWithInvalidate, kRemove };
enum class Outcome : std::uint32_t { kUnknown, kDone, kFailed };  // the first: under way, or died

struct Write {
  std::atomic<std::uint32_t> key;
  std::atomic<WriteKind> kind;
  std::atomic<std::uint64_t> begun_ns;
  std::atomic<std::uint64_t> returned_ns;
  std::atomic<Outcome> outcome;
  std::atomic<std::uint64_t> order;     // from 1 on; 0: the tap did not hear it
  std::atomic<std::uint64_t> heard_ns;  // by the tap
};

// Of one number, all reads of one process that came in a row.
struct Reads {
  std::atomic<std::uint64_t> number;
  std::atomic<std::uint64_t> last_begun_ns;
};

// One worker after the other has it.
struct alignas(64) Seat {
  std::atomic<std::uint64_t> fresh;   // reads of values that were not marked stale
  std::atomic<std::uint64_t> remote;  // of these, from Redis
  std::atomic<std::uint64_t> misses;
  std::atomic<std::uint64_t> stale;
  std::atomic<std::uint64_t> failed;
  std::atomic<std::uint64_t> foreign;  // values of other keys, or of none
  std::atomic<bool> quiet;             // writes nothing any more
  Reads latest[kKeys];
};

struct Judgement {
  std::uint64_t writes = 0;
  std::uint64_t failed_writes = 0;
  std::uint64_t unheard_writes = 0;  // that were done
  std::uint64_t judged = 0;          // ends of rows of reads
  std::uint64_t unjudged = 0;        // of a write that failed and was not heard
  std::uint64_t oldest_ns = 0;
  std::uint64_t oldest_at_ns = 0;
  unsigned oldest_key = 0;
};

class Ledger {
 public:
  // In memory that forked children share. Never freed: children die in the midst of it.
  static Ledger& create();

  static std::string key_name(unsigned key);
  static std::string value_of(std::uint64_t number, unsigned key);
  // Nothing when these are not the bytes of a value of `key`.
  static std::optional<std::uint64_t> number_in(std::string_view value, unsigned key);

  std::uint64_t begin_write(unsigned key, WriteKind kind);
  void end_write(std::uint64_t number, bool done);
  void hear(std::uint64_t number);
  void read(Seat& seat, unsigned key, std::uint64_t number, std::uint64_t begun_ns);

  // When nobody writes or reads any more.
  Judgement judge();

  std::atomic<bool> no_more_writes;
  std::atomic<bool> over;
  std::atomic<bool> tapped;  // the tap listens
  Seat seats[kSeats];

 private:
  static constexpr std::uint64_t kWritesMost = 8u << 20;
  static constexpr std::uint64_t kRowsMost = 32u << 20;
  struct Row {
    std::uint64_t number;
    std::uint64_t last_begun_ns;
  };

  std::uint64_t written() const { return std::min(next_write_.load() - 1, kWritesMost); }
  void judge_row(const Row& row, const std::vector<std::uint64_t>& overwritten, Judgement& all);
  std::vector<std::uint64_t> overwritten_ns() const;

  std::atomic<std::uint64_t> next_write_;
  std::atomic<std::uint64_t> next_order_;
  std::atomic<std::uint64_t> next_row_;
  Write writes_[kWritesMost];
  Row rows_[kRowsMost];
};

}  // namespace larder::fault
