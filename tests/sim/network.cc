#include "tests/sim/network.h"

#include <algorithm>

namespace larder::sim {

Time Connection::delay() {
  const bool slow = random_->percent(delays_.slow_percent);
  return random_->between(delays_.shortest, slow ? delays_.slowest : delays_.longest);
}

void Connection::Pipe::send(Step step) {
  if (stops != nullptr && !connection.open_) return;  // the client has let go of it
  Time due = std::max(true_time + connection.delay(), connection.stalled_until_);
  if (!items.empty()) due = std::max(due, items.back().due);
  items.push_back({due, std::move(step)});
  connection.schedule_.at(due, [this] { pump(); });
}

void Connection::Pipe::pump() {
  while (!items.empty() && items.front().due <= true_time &&
         connection.stalled_until_ <= true_time && !connection.silent_ &&
         (stops == nullptr || *stops == 0)) {
    const Step step = std::move(items.front().step);
    items.pop_front();
    step();
  }
}

void Connection::subscribe(Step confirmed) {
  if (cut_) return;
  to_server_.send([this, confirmed = std::move(confirmed)] {
    if (!server_.up || cut_ || !open_) return;
    if (!subscribed_) server_.subscribe(this);
    subscribed_ = true;
    to_client_.send(confirmed);
  });
}

void Connection::published(const Payload& payload) {
  to_client_.send([this, payload] {
    if (heard) heard(payload);
  });
}

void Connection::close() {
  open_ = false;
  if (subscribed_) server_.unsubscribe(this);
  subscribed_ = false;
  to_client_.items.clear();
  heard = nullptr;
  cut_off = nullptr;
}

void Connection::cut(bool loses_questions, bool loses_answers) {
  if (!open_ || cut_) return;
  cut_ = true;
  if (subscribed_) server_.unsubscribe(this);
  subscribed_ = false;
  if (loses_questions) to_server_.items.clear();
  if (loses_answers) to_client_.items.clear();
  to_client_.send([this] {
    if (!open_) return;
    const Step told = std::move(cut_off);
    close();
    if (told) told();
  });
}

void Connection::stall(Time until) {
  stalled_until_ = std::max(stalled_until_, until);
  schedule_.at(stalled_until_, [this] {
    to_server_.pump();
    to_client_.pump();
  });
}

}  // namespace larder::sim
