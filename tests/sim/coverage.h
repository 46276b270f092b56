// What the runs reached: inputs of the follower, by its state, and what they led to.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "src/sync/follower.h"

namespace larder::sim {

enum class FollowerState { kLost, kReading, kFollowing, kResigned };
enum class FollowerInput { kSubscribed, kLogPage, kMessage, kProbe, kLost };

struct Transition {
  FollowerState before = FollowerState::kLost;
  FollowerInput input = FollowerInput::kSubscribed;
  sync::Next next = sync::Next::kNothing;
  FollowerState after = FollowerState::kLost;
};
inline constexpr std::size_t kTransitions = 4 * 5 * 5 * 4;
std::size_t index_of(const Transition& transition);
std::string transition_name(std::size_t index);  // "following, probe: resubscribe, lost"

struct Coverage {
  std::array<std::uint64_t, kTransitions> transitions{};
  std::array<std::uint64_t, sync::kRaiseReasons> raises{};
};

}  // namespace larder::sim
