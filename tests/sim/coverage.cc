#include "tests/sim/coverage.h"

#include <string_view>

namespace larder::sim {

std::size_t index_of(const Transition& transition) {
  const auto before = static_cast<std::size_t>(transition.before);
  const auto input = static_cast<std::size_t>(transition.input);
  const auto next = static_cast<std::size_t>(transition.next);
  return ((before * 5 + input) * 5 + next) * 4 + static_cast<std::size_t>(transition.after);
}

std::string transition_name(std::size_t index) {
  constexpr std::string_view kStates[] = {"lost", "reading", "following", "resigned"};
  constexpr std::string_view kInputs[] = {"subscribed", "log page", "message", "probe", "lost"};
  constexpr std::string_view kNexts[] = {"nothing", "read log", "probe", "resubscribe", "resign"};
  std::string name(kStates[index / 100]);
  name.append(", ").append(kInputs[index / 20 % 5]);
  name.append(": ").append(kNexts[index / 4 % 5]);
  return name.append(", ").append(kStates[index % 4]);
}

}  // namespace larder::sim
