#include "tests/storm/value.h"

#include <xxhash.h>

#include <cstring>

#include "tests/shm/fixture.h"

namespace larder::storm {
namespace {

struct Header {
  Description description;
  std::uint64_t bytes;
  std::uint64_t checksum;
};

std::uint64_t checksum_of(std::string_view key, const Description& description,
                          std::string_view filling) {
  const std::uint64_t over_key = XXH3_64bits(key.data(), key.size());
  const std::uint64_t over_both = XXH3_64bits_withSeed(&description, sizeof description, over_key);
  return XXH3_64bits_withSeed(filling.data(), filling.size(), over_both);
}

std::size_t filling_bytes(test::Random& random, bool larger) {
  if (larger || random.one_in(50)) return 30'000 + random.below(70'000);
  if (random.one_in(8)) return random.below(15'000);
  return random.below(random.one_in(2) ? 64 : 1500);
}

}  // namespace

std::string make_value(std::string_view key, const Description& description, bool larger) {
  test::Random random(description.number);
  std::string value(sizeof(Header) + filling_bytes(random, larger), '\0');
  // One random byte is enough to tell values apart, and quick to make; the checksum tells the rest.
  std::memset(value.data(), static_cast<int>(random.below(256)), value.size());
  const std::string_view filling = std::string_view(value).substr(sizeof(Header));
  const Header header{description, value.size(), checksum_of(key, description, filling)};
  std::memcpy(value.data(), &header, sizeof header);
  return value;
}

std::optional<Description> describe(std::string_view key, std::string_view value) {
  Header header{};
  if (value.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, value.data(), sizeof header);
  if (header.bytes != value.size() ||
      header.checksum != checksum_of(key, header.description, value.substr(sizeof header))) {
    return std::nullopt;
  }
  return header.description;
}

}  // namespace larder::storm
