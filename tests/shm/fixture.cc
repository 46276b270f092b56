#include "tests/shm/fixture.h"
#include "shm/history.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace larder::test {

using shm::Segment;
using shm::Table;

void Home::give_up(const Status& status) {
  std::fprintf(stderr, "no segment to test with: %s\n", status.message().c_str());
  std::abort();
}

shm::Stored put(Table& table, std::string_view key, std::string_view value,
                std::uint64_t expires_ms) {
  return table.set({key, value, expires_ms}, table.sample(key), {});
}

shm::Stored erase(Table& table, std::string_view key) {
  return table.remove(key, table.sample(key), {});
}

std::optional<std::string> read(Table& table, std::string_view key) {
  std::string value;
  if (!table.get(key, value)) return std::nullopt;
  return value;
}

std::uint64_t counted(Table& table, shm::Counter counter) {
  return shm::totals(table.segment())[counter];
}

std::vector<std::string> keys_of_stripe(Segment& segment, std::uint32_t stripe,
                                        std::size_t how_many) {
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; keys.size() < how_many; ++i) {
    std::string key = "key-" + std::to_string(i);
    if (shm::place_of(segment, segment.hash(key)).stripe == stripe) {
      keys.push_back(std::move(key));
    }
  }
  return keys;
}

std::vector<std::string> keys_of_bucket_pair(Segment& segment, std::size_t how_many) {
  const shm::Geometry& g = segment.geometry();
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; keys.size() < how_many; ++i) {
    std::string key = "pair-" + std::to_string(i);
    const std::uint64_t hash = segment.hash(key);
    const std::uint32_t home = shm::home_bucket(g.buckets_per_stripe, hash);
    const std::uint32_t other = shm::other_bucket(g.buckets_per_stripe, hash);
    const bool here = shm::stripe_of(g, hash) == 0 && home + other == 1;
    if (here) keys.push_back(std::move(key));
  }
  return keys;
}

namespace {
struct ValueHeader {
  std::uint64_t number;
  std::uint64_t bytes;
  std::uint64_t checksum;
};

std::uint64_t checksum_of(std::string_view key, std::uint64_t number, std::string_view filling) {
  const std::uint64_t over_key = XXH3_64bits_withSeed(key.data(), key.size(), number);
  return XXH3_64bits_withSeed(filling.data(), filling.size(), over_key);
}
}  // namespace

std::string make_value(std::string_view key, std::uint64_t number, std::size_t bytes) {
  std::string value(std::max(bytes, sizeof(ValueHeader)), '\0');
  Random random(number);
  constexpr std::size_t kBytes = 6;  // random ones of a word
  for (std::size_t i = sizeof(ValueHeader); i < value.size(); i += kBytes) {
    const std::uint64_t word = random.next();
    std::memcpy(value.data() + i, &word, std::min(kBytes, value.size() - i));
  }
  const std::string_view filling = std::string_view(value).substr(sizeof(ValueHeader));
  const ValueHeader header{number, value.size(), checksum_of(key, number, filling)};
  std::memcpy(value.data(), &header, sizeof header);
  return value;
}

std::optional<std::uint64_t> number_of(std::string_view key, std::string_view value) {
  ValueHeader header{};
  if (value.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, value.data(), sizeof header);
  const bool whole =
      header.bytes == value.size() &&
      header.checksum == checksum_of(key, header.number, value.substr(sizeof header));
  return whole ? std::optional(header.number) : std::nullopt;
}

std::uint64_t Random::next() {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return state_ * 0x2545f4914f6cdd1dull >> 16;
}

std::string faults(Segment& segment, bool quiescent) {
  const shm::CheckReport report = shm::check(segment, {.deep = true, .quiescent = quiescent});
  std::string all;
  for (const std::string& violation : report.violations) all += violation + "\n";
  if (!quiescent) return all;
  const shm::Totals sum = shm::totals(segment);
  const std::uint64_t parts =
      sum.live_bytes + sum.pinned_bytes + sum.free_bytes + sum.index_bytes + sum.metadata_bytes;
  const std::uint64_t whole = segment.geometry().segment_bytes;
  const auto differ = [&all](const char* what, std::uint64_t one, std::uint64_t other) {
    if (one == other) return;
    all += what + std::string(" ") + std::to_string(one) + ", not " + std::to_string(other) + "\n";
  };
  differ("the parts of the segment add up to", parts, whole);
  differ("the parts of the arenas add up to", sum.live_bytes + sum.pinned_bytes + sum.free_bytes,
         sum.arena_bytes);
  differ("entries counted", sum.entries, report.entries);
  differ("payload bytes counted", sum.payload_bytes, report.payload_bytes);
  return all;
}

void follow(shm::Segment& segment, shm::ChangeId id) {
  shm::SyncWords& words = segment.superblock().sync;
  (void)shm::History(segment).follow(id);
  words.head_seq.store(id.seq);
  words.cursor_nonce.store(id.nonce);
  words.cursor_seq.store(id.seq);
}

char* at(Segment& segment, std::uint64_t offset) {
  return reinterpret_cast<char*>(&segment.superblock()) + offset;
}

std::size_t most_value_bytes(Segment& segment, std::string_view key) {
  return segment.geometry().arena_bytes() - shm::entry_bytes(key.size(), 0);
}

}  // namespace larder::test
