#include "tests/shm/fixture.h"

#include <xxhash.h>

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
    if (shm::place_of(segment.geometry(), segment.hash(key)).stripe == stripe) {
      keys.push_back(std::move(key));
    }
  }
  return keys;
}

std::vector<std::string> keys_of_bucket_pair(Segment& segment, std::size_t how_many) {
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; keys.size() < how_many; ++i) {
    std::string key = "pair-" + std::to_string(i);
    const shm::KeyPlace home = shm::place_of(segment.geometry(), segment.hash(key));
    if (home.stripe == 0 && home.bucket < 2) keys.push_back(std::move(key));
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
  for (std::size_t i = sizeof(ValueHeader); i < value.size(); ++i) {
    value[i] = static_cast<char>(random.next());
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
  return all;
}

}  // namespace larder::test
