// One thread of a child process, halted by ptrace exactly where a test wants it.
//
// Threads: the one that made it. Errors: throws std::runtime_error, also where ptrace is forbidden.
// The process's other threads run on.
#pragma once

#include <sys/types.h>

#include <string_view>

namespace larder::test {

class Tracer {
 public:
  // Halts the thread of `process` that has this name.
  Tracer(pid_t process, std::string_view thread_name);
  ~Tracer();  // lets it run on, if it still lives
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Runs it until it is about to make its next system call.
  void to_system_call();
  // One instruction.
  void step();
  // SIGKILL for the whole process, whose end may be waited for after this.
  void kill();
  // SIGSTOP for the whole process; the thread stops where it is, and is traced no more.
  void leave_stopped();

 private:
  void resume(int how);
  void detach() noexcept;

  pid_t process_;
  pid_t thread_;
};

}  // namespace larder::test
