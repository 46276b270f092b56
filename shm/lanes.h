// Eight 16-bit numbers at a time, for searches through buckets and sketch lines. The compiler makes
// vector instructions of it where there are any, and plain code elsewhere.
#pragma once

#include <cstdint>

namespace larder::shm {

inline constexpr std::uint32_t kLanes = 8;
using Lanes = std::uint16_t __attribute__((vector_size(16)));
using SignedLanes = std::int16_t __attribute__((vector_size(16)));

// All ones where true.
inline Lanes equal(Lanes a, Lanes b) noexcept { return reinterpret_cast<Lanes>(a == b); }
// Of numbers below 0x8000.
inline Lanes less(Lanes a, Lanes b) noexcept {
  return reinterpret_cast<Lanes>(reinterpret_cast<SignedLanes>(a) <
                                 reinterpret_cast<SignedLanes>(b));
}
// `mask` is all ones or all zeros in each lane.
inline Lanes select(Lanes mask, Lanes yes, Lanes no) noexcept {
  return (mask & yes) | (~mask & no);
}
inline Lanes all(std::uint32_t number) noexcept {
  return Lanes{} + static_cast<std::uint16_t>(number);
}

}  // namespace larder::shm
