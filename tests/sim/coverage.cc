#include "tests/sim/coverage.h"

#include <algorithm>

namespace larder::sim {
namespace {

using sync::Next;
using State = FollowerState;
using Input = FollowerInput;

// As follower.cc is written. Any input may find that another process leads.
constexpr Transition kPossible[] = {
    {State::kLost, Input::kSubscribed, Next::kReadLog, State::kReading},
    {State::kLost, Input::kSubscribed, Next::kResign, State::kResigned},
    {State::kLost, Input::kLost, Next::kNothing, State::kLost},
    {State::kLost, Input::kLost, Next::kResign, State::kResigned},

    {State::kReading, Input::kLogPage, Next::kReadLog, State::kReading},
    {State::kReading, Input::kLogPage, Next::kProbe, State::kFollowing},
    {State::kReading, Input::kLogPage, Next::kResign, State::kResigned},
    {State::kReading, Input::kMessage, Next::kNothing, State::kReading},
    {State::kReading, Input::kMessage, Next::kResign, State::kResigned},
    {State::kReading, Input::kProbe, Next::kNothing, State::kReading},
    {State::kReading, Input::kProbe, Next::kResign, State::kResigned},
    {State::kReading, Input::kLost, Next::kNothing, State::kLost},
    {State::kReading, Input::kLost, Next::kResign, State::kResigned},

    {State::kFollowing, Input::kMessage, Next::kNothing, State::kFollowing},
    {State::kFollowing, Input::kMessage, Next::kReadLog, State::kReading},
    {State::kFollowing, Input::kMessage, Next::kResign, State::kResigned},
    {State::kFollowing, Input::kProbe, Next::kNothing, State::kFollowing},
    {State::kFollowing, Input::kProbe, Next::kReadLog, State::kReading},
    {State::kFollowing, Input::kProbe, Next::kResubscribe, State::kLost},
    {State::kFollowing, Input::kProbe, Next::kResign, State::kResigned},
    {State::kFollowing, Input::kLost, Next::kNothing, State::kLost},
    {State::kFollowing, Input::kLost, Next::kResign, State::kResigned},

    {State::kResigned, Input::kLogPage, Next::kResign, State::kResigned},
    {State::kResigned, Input::kMessage, Next::kResign, State::kResigned},
    {State::kResigned, Input::kProbe, Next::kResign, State::kResigned},
    {State::kResigned, Input::kLost, Next::kResign, State::kResigned},
};

}  // namespace

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

bool is_possible(std::size_t index) {
  return std::any_of(std::begin(kPossible), std::end(kPossible),
                     [index](const Transition& each) { return index_of(each) == index; });
}

const std::vector<NeverGiven>& never_given() {
  static const std::vector<NeverGiven> kNever = {
      {"lost: log page, message, probe", "a subscription passes nothing on once it is lost"},
      {"reading, following: subscribed", "a subscription begins once, after it was lost"},
      {"following: log page", "one reading is asked for at a time, and it ends with its last page"},
      {"resigned: subscribed", "who resigned is gone before it could be subscribed again"},
  };
  return kNever;
}

void Coverage::add(const Coverage& other) {
  for (std::size_t i = 0; i < kTransitions; ++i) transitions[i] += other.transitions[i];
  for (std::size_t i = 0; i < raises.size(); ++i) raises[i] += other.raises[i];
}

std::vector<std::string> Coverage::unexpected() const {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kTransitions; ++i) {
    const bool reached = transitions[i] != 0;
    if (reached == is_possible(i)) continue;
    names.push_back((reached ? "not possible: " : "never reached: ") + transition_name(i));
  }
  for (std::size_t i = 0; i < raises.size(); ++i) {
    if (raises[i] != 0) continue;
    names.push_back("never raised: " +
                    std::string(sync::reason_name(static_cast<sync::RaiseReason>(i))));
  }
  return names;
}

}  // namespace larder::sim
