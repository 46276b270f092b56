// Values that describe themselves: whose key, who wrote it, as which number, until when, and a
// checksum over all of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace larder::storm {

struct Description {
  std::uint64_t number = 0;  // rises with every change of the key
  std::uint64_t writer = 0;
  std::uint64_t expires_ms = 0;  // CLOCK_BOOTTIME; 0: never
};

// Of a length that follows from the number: mostly short, some beyond 64 KiB. `larger`: one of the
// long ones.
std::string make_value(std::string_view key, const Description& description, bool larger = false);
// Nothing when these are not the bytes of one value of `key`.
std::optional<Description> describe(std::string_view key, std::string_view value);

}  // namespace larder::storm
