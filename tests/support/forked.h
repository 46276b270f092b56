// Forked children of a test.
//
// A child runs one function and reports by its exit status; nothing of doctest may be used in it.
// It goes with its object, and the kernel kills it when the test dies. Not for use from several
// threads.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>

namespace larder::test {

// What a child uses to go step by step with its parent.
class Steps {
 public:
  // Tells the parent, who waits in Forked::await_step().
  void reached();
  // Waits for Forked::go_on(). Ends the child when the parent is gone.
  void wait();
  // Stops the child right here (SIGSTOP), until it is continued or killed.
  void stop();
  // Sleeps until somebody kills the child.
  [[noreturn]] int wait_for_death();

 private:
  friend class Forked;
  Steps(int from_parent, int to_parent) : from_parent_(from_parent), to_parent_(to_parent) {}
  int from_parent_;
  int to_parent_;
};

class Forked {
 public:
  // `work` returns the exit status. The child ends without running any destructor but those of
  // `work`'s own objects, so what it inherited stays untouched.
  explicit Forked(const std::function<int(Steps&)>& work);
  ~Forked();  // SIGKILL, if it still runs
  Forked(Forked&& other) noexcept;
  Forked& operator=(Forked&&) = delete;

  static constexpr std::chrono::milliseconds kPatience{30'000};

  pid_t pid() const { return pid_; }
  void signal(int number);
  // SIGKILL, and waits until it is gone (a zombie no more).
  void kill_now();

  // False when the child ended, or did not get there in time.
  bool await_step(std::chrono::milliseconds timeout = kPatience);
  void go_on();
  // Until the kernel reports it stopped. False when it ended, or did not stop in time.
  bool await_stopped(std::chrono::milliseconds timeout = kPatience);
  // Until it has ended, leaving it a zombie: wait() has not been called for it.
  bool await_zombie(std::chrono::milliseconds timeout = kPatience);
  // The exit status, or 128 + the signal that killed it; empty when it still runs after `timeout`.
  std::optional<int> wait(std::chrono::milliseconds timeout = kPatience);

 private:
  pid_t pid_ = -1;
  int pid_fd_ = -1;
  int from_child_ = -1;
  int to_child_ = -1;
  std::optional<int> exit_status_;
};

// In a child: ends it with status 1 and says where, unless `condition` holds.
void require(bool condition, const char* what, const char* file, int line);
#define CHILD_REQUIRE(condition) \
  ::larder::test::require((condition), #condition, __FILE__, __LINE__)

}  // namespace larder::test
