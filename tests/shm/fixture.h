// What the tests of shm/ share: a segment in a folder of its own, keys that land where a test wants
// them, values that tell whether they are whole.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shm/check.h"
#include "shm/inspect.h"
#include "shm/policy.h"
#include "shm/segment.h"
#include "shm/table.h"
#include "shm/writer.h"
#include "tests/support/process.h"

namespace larder::test {

inline constexpr std::chrono::milliseconds kShortWait{
    50};  // a lock timeout that a test can sit out

// Two stripes of some 4,000 entries of 400 bytes each.
inline constexpr std::uint64_t kTwoStripesBytes = 4u << 20;

// AddressSanitizer takes ten times as long over what is written byte by byte.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// A folder in a tmpfs with a segment that is made on demand.
struct Home {
  explicit Home(std::uint64_t bytes = kTwoStripesBytes, std::uint32_t policy = shm::kPolicyLfu,
                std::uint64_t max_entries = 0) {
    options.directory = dir.path();
    options.name = "test";
    options.bytes = bytes;
    options.policy = policy;
    options.max_entries = max_entries;
  }
  // Ends the test program when it cannot be had: nothing can be tested then.
  std::shared_ptr<shm::Segment> segment() const {
    auto opened = shm::Segment::open(options);
    if (!opened) give_up(opened.status());
    return std::move(*opened);
  }
  std::unique_ptr<shm::Table> table(std::chrono::milliseconds lock_timeout = kShortWait) const {
    auto made = std::make_unique<shm::Table>(segment(), shm::TableOptions{lock_timeout});
    if (Status s = made->join(); !s.ok()) give_up(s);
    return made;
  }
  std::string path() const { return shm::Segment::path_of(options.directory, options.name); }

  TempDir dir;
  shm::SegmentOptions options;

 private:
  [[noreturn]] static void give_up(const Status& status);
};

// What callers without Redis do.
shm::Stored put(shm::Table& table, std::string_view key, std::string_view value,
                std::uint64_t expires_ms = shm::kNeverExpires);
shm::Stored erase(shm::Table& table, std::string_view key);
std::optional<std::string> read(shm::Table& table, std::string_view key);

std::uint64_t counted(shm::Table& table, shm::Counter counter);

// Keys of one stripe, or whose two buckets are the first two of stripe 0 when all of its index is
// in use: seldom, where that is large.
std::vector<std::string> keys_of_stripe(shm::Segment& segment, std::uint32_t stripe,
                                        std::size_t how_many);
std::vector<std::string> keys_of_bucket_pair(shm::Segment& segment, std::size_t how_many);

// Values that describe themselves: key, number, length and a checksum over all of it.
std::string make_value(std::string_view key, std::uint64_t number, std::size_t bytes);
// The number, or nothing when these are not the bytes of one value of `key`.
std::optional<std::uint64_t> number_of(std::string_view key, std::string_view value);

// A small fast generator; the same numbers for a seed everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

// All that the checker found, and what does not add up in the accounting, as one text: empty when
// all is well.
std::string faults(shm::Segment& segment, bool quiescent = true);

// What the leader leaves that has followed the log up to `id`.
void follow(shm::Segment& segment, shm::ChangeId id);

// The byte at an offset of the segment.
char* at(shm::Segment& segment, std::uint64_t offset);
// How many bytes of values one stripe can hold at most, in one entry of `key`.
std::size_t most_value_bytes(shm::Segment& segment, std::string_view key);

}  // namespace larder::test
