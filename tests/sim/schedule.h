// What happens later, in the order of its time; at the same time, in the order of its planning.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "tests/sim/clock.h"

namespace larder::sim {

class Schedule {
 public:
  using Task = std::function<void()>;

  void at(Time due, Task task) {
    heap_.push_back({std::max(due, true_time), order_++, std::move(task)});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  void in(Time delay, Task task) { at(true_time + delay, std::move(task)); }

  // Until nothing is due before or at `end`, which is the true time then.
  void run_until(Time end) {
    while (!heap_.empty() && heap_.front().due <= end) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      Planned next = std::move(heap_.back());
      heap_.pop_back();
      true_time = std::max(true_time, next.due);
      next.task();
    }
    true_time = std::max(true_time, end);
  }

 private:
  struct Planned {
    Time due;
    std::uint64_t order;
    Task task;
  };
  static bool later(const Planned& a, const Planned& b) {
    return a.due != b.due ? a.due > b.due : a.order > b.order;
  }

  std::vector<Planned> heap_;
  std::uint64_t order_ = 0;
};

}  // namespace larder::sim
