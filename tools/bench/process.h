// Processes of a benchmark: forked children that answer through a pipe, and interrupts.
//
// Threads: none. Crash: a child that dies is reported with how it died; children do not outlive the
// parent. Interrupts: SIGINT and SIGTERM end every wait, with kClosed.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "larder/status.h"

namespace larder::bench {

// To be called first. SIGINT and SIGTERM then end whatever is under way, with kClosed.
void install_interrupt_handlers();
bool interrupted() noexcept;
Status interruption();
// Waits, at most so long; ends early when interrupted.
void wait_a_moment(double seconds);

// Two ends of a pipe, closed on every way out.
class Pipe {
 public:
  Pipe();
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  bool ok() const { return ends_[0] >= 0; }
  void close_read() { close_end(0); }
  void close_write() { close_end(1); }
  // One byte that means "done with this step".
  bool tell() const;
  // Waits for it; false at the end of the pipe, on an error and when interrupted.
  bool hear() const;
  bool waits(double seconds) const;  // for `hear` not to wait, at most so long

 private:
  void close_end(int end);
  int ends_[2];
};

// A forked process that does `work` and never returns from here. Killed when this object goes.
class Child {
 public:
  explicit Child(const std::function<void()>& work);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool ok() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  bool ended();  // asks, does not wait
  // Waits for its end and says in words how that was.
  std::string wait();
  void signal(int number) const;

 private:
  std::string how(int status);
  pid_t pid_;
};

Status no_process();  // from errno

// A `T` that parent and children share; zero at first.
void* map_shared(std::size_t bytes);
void unmap_shared(void* at, std::size_t bytes);
template <class T>
class Shared {
 public:
  explicit Shared(std::size_t count)
      : bytes_(count * sizeof(T)), at_(static_cast<T*>(map_shared(bytes_))) {}
  ~Shared() { unmap_shared(at_, bytes_); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  bool ok() const { return at_ != nullptr; }
  T& operator[](std::size_t i) const { return at_[i]; }

 private:
  std::size_t bytes_;
  T* at_;
};

// Maps every page of a file that this process has mapped: otherwise the first write to each, a page
// fault, would be timed. A kernel before 5.14 refuses, and then figures of sets contain faults.
void populate(const std::string& path);

std::vector<int> usable_cpus();
void pin(const std::vector<int>& cpus, std::uint32_t index);  // empty: not at all
std::uint64_t cpu_nanoseconds();                              // used by this process
// A second, idle thread. With one thread alone the C library takes mutexes without atomic
// instructions, and who has one thread needs no mutex.
void start_idle_thread();

// Does `work` in a process of its own, so that the parent stays as a master process is: it opens,
// it never takes part.
Status in_child(const std::function<Status()>& work);

// A folder of this run alone, with all that is in it removed at the end.
class Scratch {
 public:
  static Result<Scratch> make(const std::string& directory);
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch();

  const std::string& path() const { return path_; }
  void keep() { keep_ = true; }

 private:
  explicit Scratch(std::string path) : path_(std::move(path)) {}
  std::string path_;
  bool keep_ = false;
};

}  // namespace larder::bench
