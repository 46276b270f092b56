// Runs an operation in a forked child, one instruction at a time (ptrace; x86-64 only).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>

namespace larder::kill {

class Stepper {
 public:
  // The child calls `prepare` unwatched. When this returns it stands before the first instruction
  // of `operation`. Ends the program with a message where ptrace is forbidden.
  Stepper(const std::function<void()>& prepare, const std::function<void()>& operation);
  ~Stepper();  // SIGKILL, if it still runs
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  pid_t pid() const { return pid_; }
  // Address of the instruction that comes next. The child was forked, so it is this process's too.
  std::uintptr_t at() const { return at_; }
  bool at_system_call() const;
  // Might what comes next store anywhere but on the stack? False for most instructions that do not;
  // true in doubt.
  bool may_store() const;
  // One instruction further; one turn of one that repeats. False: the operation is over.
  bool step();
  // Until the instruction at `address` comes next for the `turn`-th time (1: the first). False: the
  // operation ended before.
  bool run_to(std::uintptr_t address, std::uint64_t turn);
  // At a function's first instruction: until it has returned.
  bool step_out();
  // To the end of the operation.
  void finish();
  // SIGKILL; returns when the kernel has released what it held.
  void kill();

 private:
  void resume(int how);
  std::uintptr_t read_at() const;

  pid_t pid_ = -1;
  std::uintptr_t at_ = 0;
};

}  // namespace larder::kill
