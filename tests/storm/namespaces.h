// PID namespaces, made by this program, that share everything else with it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace larder::storm {

class PidNamespace {
 public:
  // `own_proc`: with a /proc of its own, as in a container; else, as after `unshare --pid --fork`,
  // /proc shows the pids of outside. Empty, with the reason, where it is not permitted.
  static std::optional<PidNamespace> create(bool own_proc, std::string& reason);
  ~PidNamespace();  // ends every process in it
  PidNamespace(PidNamespace&& other) noexcept;
  PidNamespace& operator=(PidNamespace&&) = delete;

  // Starts a program in it, as a child of the caller, under this pid there where that is free.
  // Returns its pid outside, -1 when it cannot be started.
  pid_t start(const std::vector<std::string>& arguments, pid_t pid_inside);

 private:
  PidNamespace(pid_t init, bool own_proc);

  pid_t init_;
  bool own_proc_;
  int pid_fd_;
  int mount_fd_;
};

}  // namespace larder::storm
