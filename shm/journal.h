// What happened to this host last: events as they had their effects, and why everything was
// dropped. For people; the protocol does not look at it.
//
// A ring of notes, each with a number that counts up. Only the leader writes.
// Threads and processes: one writer at a time; a former leader that wakes up may write beside it,
//   and so spoil one note. Readers copy, and leave out what was being written or is overwritten.
// Crash: a note is not there until its number is.  Damage: any bytes are legal.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "shm/layout.h"
#include "shm/segment.h"

namespace larder::shm {

enum class Happening : std::uint8_t {
  kSet,
  kInvalidate,
  kDelete,
  kClear,
  kRaise,       // of the epoch; the text says why
  kElected,     // a new leader; the id's seq is its term
  kSubscribed,  // Redis confirmed the channel
  kLost,        // the subscription; the text says why
};
inline constexpr std::size_t kHappenings = 8;
std::string_view happening_name(Happening happening) noexcept;  // "set", "epoch raised", ...

// What an event came to.
enum class EventOutcome : std::uint8_t {
  kApplied,
  kOld,       // what is held contains it
  kDeferred,  // no lock in time: the stripe is bypassed until it was emptied
};
inline constexpr std::size_t kEventOutcomes = 3;
std::string_view outcome_name(EventOutcome outcome) noexcept;  // "applied", ...

class Journal {
 public:
  struct Entry {
    std::uint64_t number = 0;
    std::uint64_t unix_ms = 0;  // CLOCK_REALTIME_COARSE
    Happening happening{};
    EventOutcome outcome{};
    ChangeId id;  // none: an event without one, or none at all
    std::uint64_t hash = 0;
    std::uint64_t value_bytes = 0;
    std::size_t text_bytes = 0;  // of which `text` has the first kNoteText
    std::string text;            // the key
  };

  explicit Journal(Segment& segment) noexcept : segment_(segment) {}

  void note(Happening happening, EventOutcome outcome, ChangeId id, std::string_view text,
            std::uint64_t value_bytes) noexcept;

  // From the oldest that may still be there to the one that the next note will have.
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
  };
  Range range() const noexcept;
  // Nothing: overwritten, or not written to its end.
  std::optional<Entry> read(std::uint64_t number) const;

 private:
  Note& place_of(std::uint64_t number) const noexcept;

  Segment& segment_;
};

}  // namespace larder::shm
