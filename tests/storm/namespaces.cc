#include "tests/storm/namespaces.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace larder::storm {
namespace {

// As fork(), with more wishes. The child is a copy of the only thread and must end or exec soon:
// the C library does not know of it.
pid_t clone_process(std::uint64_t flags, pid_t* wanted_pid) {
  clone_args arguments{};
  arguments.flags = flags;
  arguments.exit_signal = SIGCHLD;
  if (wanted_pid != nullptr) {
    arguments.set_tid = reinterpret_cast<std::uintptr_t>(wanted_pid);
    arguments.set_tid_size = 1;
  }
  return static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof arguments));
}

// The first process of the namespace: when it ends, the kernel kills all others there.
[[noreturn]] void be_init(bool own_proc, int answer) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGCHLD, SIG_IGN);  // whoever is orphaned here leaves no zombie
  int error = 0;
  if (own_proc && (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                   mount("proc", "/proc", "proc", 0, nullptr) != 0)) {
    error = errno;
  }
  if (write(answer, &error, sizeof error) != sizeof error || error != 0) _exit(1);
  for (;;) pause();
}

int open_namespace(pid_t of, const char* kind) {
  const std::string path = "/proc/" + std::to_string(of) + "/ns/" + kind;
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
}

}  // namespace

std::optional<PidNamespace> PidNamespace::create(bool own_proc, std::string& reason) {
  int answer[2];
  if (pipe2(answer, O_CLOEXEC) != 0) return std::nullopt;
  const pid_t init = clone_process(CLONE_NEWPID | (own_proc ? CLONE_NEWNS : 0), nullptr);
  if (init == 0) be_init(own_proc, answer[1]);
  const int clone_error = errno;
  ::close(answer[1]);
  int error = -1;
  const bool answered = init > 0 && read(answer[0], &error, sizeof error) == sizeof error;
  ::close(answer[0]);
  if (init > 0 && answered && error == 0) return PidNamespace(init, own_proc);
  reason = init < 0 ? std::string("clone3: ") + std::strerror(clone_error)
                    : std::string("mounting /proc: ") + std::strerror(error);
  if (init > 0) waitpid(init, nullptr, 0);
  return std::nullopt;
}

PidNamespace::PidNamespace(pid_t init, bool own_proc)
    : init_(init),
      own_proc_(own_proc),
      pid_fd_(open_namespace(init, "pid")),
      mount_fd_(open_namespace(init, "mnt")) {}

PidNamespace::PidNamespace(PidNamespace&& other) noexcept
    : init_(std::exchange(other.init_, -1)),
      own_proc_(other.own_proc_),
      pid_fd_(std::exchange(other.pid_fd_, -1)),
      mount_fd_(std::exchange(other.mount_fd_, -1)) {}

PidNamespace::~PidNamespace() {
  if (init_ < 0) return;
  kill(init_, SIGKILL);
  waitpid(init_, nullptr, 0);
  ::close(pid_fd_);
  ::close(mount_fd_);
}

pid_t PidNamespace::start(const std::vector<std::string>& arguments, pid_t pid_inside) {
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);
  const int own = open_namespace(getpid(), "pid");
  pid_t pid = -1;
  if (setns(pid_fd_, CLONE_NEWPID) == 0) {
    pid = clone_process(0, &pid_inside);
    if (pid < 0) pid = clone_process(0, nullptr);  // taken, or choosing is not permitted
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (own_proc_ && setns(mount_fd_, CLONE_NEWNS) != 0) _exit(3);
      execv(pointers[0], pointers.data());
      _exit(3);
    }
    if (setns(own, CLONE_NEWPID) != 0) std::abort();
  }
  ::close(own);
  return pid;
}

}  // namespace larder::storm
