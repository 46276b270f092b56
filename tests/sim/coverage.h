// What the runs reached: inputs of the follower, by its state, and what they led to.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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
// Can the state machine of follower.cc make it, as its inputs are given?
bool is_possible(std::size_t index);

// Inputs that no follower gets in a state, and why.
struct NeverGiven {
  std::string_view input;
  std::string_view why;
};
const std::vector<NeverGiven>& never_given();

struct Coverage {
  std::array<std::uint64_t, kTransitions> transitions{};
  std::array<std::uint64_t, sync::kRaiseReasons> raises{};

  void add(const Coverage& other);
  // Possible and never reached, or reached and not possible.
  std::vector<std::string> unexpected() const;
};

}  // namespace larder::sim
