// What the director, the workers and their children share besides the segments: an anonymous file
// that every worker maps. It holds what may be read of each key, and what was done.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "tests/storm/ledger.h"

namespace larder::storm {

inline constexpr unsigned kMaxWorkers = 64;
inline constexpr unsigned kKeys = Ledger::kKeys;
inline constexpr std::size_t kComplaints = 32;
inline constexpr std::size_t kComplaintBytes = 512;

// What a worker does, by the names of the report.
enum class Deed : unsigned {
  kNothing,
  kStart,
  kGet,
  kGetMany,
  kContains,
  kPin,
  kUnpin,
  kSetNew,
  kOverwrite,
  kLarger,
  kExpiring,
  kRemove,
  kFlush,
  kFill,
  kLoad,
  kLoadWait,
  kOwnSet,
  kOwnRemove,
  kClear,
  kDrop,
  kResync,
  kElection,
  kTerm,
  kApply,
  kStepDown,
  kReap,
  kMend,
  kCheck,
  kFork,
  kExec,
  kExit,
  kAttach,
  kDetach,
  kCount
};
inline constexpr std::size_t kDeeds = static_cast<std::size_t>(Deed::kCount);
const char* deed_name(Deed deed);

// One worker after the other has it; its forked children have another.
struct alignas(64) Seat {
  std::atomic<Deed> deed;
  std::atomic<std::uint64_t> begun_ms;  // of the deed
  std::atomic<std::uint64_t> stops;     // SIGSTOPs sent; one more before each
  std::atomic<std::uint64_t> lives;     // how many started here
  std::atomic<std::uint32_t> pid;       // as the worker sees itself
  std::atomic<bool> ambushed;           // a timer kills the worker in the midst of a change
  std::atomic<std::uint64_t> done[kDeeds];
  std::atomic<std::uint64_t> longest_ms[kDeeds];  // while not stopped
};

// A key without Redis. Only the worker in its seat changes it, so its changes have an order.
struct AloneKey {
  std::atomic<std::uint64_t> issued;  // the newest number
  std::atomic<std::uint64_t> done;    // the newest one whose change was completed
  // What was read, overwritten, removed or flushed since: whoever begins to read now must not see
  // less.
  std::atomic<std::uint64_t> least;
};

// A key of the ledger: everybody changes it.
struct FollowedKey {
  std::atomic<std::uint64_t> applied;  // the newest change of which a leader applied the event
  // The newest one that its own writer completed, {epoch:22, seq:42}. Of that epoch only: who knows
  // of it are guards, and an epoch starts without any; then the event is what counts.
  std::atomic<std::uint64_t> own;
  std::atomic<std::uint64_t> loads;  // claimed so far
};
inline constexpr unsigned kSeqBits = 42;

struct Shared {
  // From half-time on: a flush makes a stripe's counts and map anew, and so hides what is wrong.
  std::atomic<bool> no_more_flushes;
  std::atomic<bool> over;
  std::atomic<std::uint64_t> wrong;      // values that must not have been read
  std::atomic<std::uint64_t> faults;     // of the segments, seen by an observer
  std::atomic<std::uint64_t> leaks;      // what was left when everybody had ended
  std::atomic<std::uint64_t> takeovers;  // from who died inside a stripe
  std::atomic<std::uint64_t> wipes;
  std::atomic<std::uint32_t> complaints;
  char complaint[kComplaints][kComplaintBytes];

  std::array<Seat, 2 * kMaxWorkers> seats;  // the second half: children's
  std::array<AloneKey, kKeys> alone;
  std::array<FollowedKey, kKeys> followed;
  Ledger ledger;

  void complain(const std::string& text);
};

// Maps the shared file; ends the program when that fails.
int create_shared();
Shared& map_shared(int fd);

}  // namespace larder::storm
