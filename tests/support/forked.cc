#include "tests/support/forked.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tests/support/process.h"

namespace larder::test {
namespace {

constexpr int kLostParent = 125;

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

bool readable(int fd, std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    pollfd one{fd, POLLIN, 0};
    const int ready = poll(&one, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready >= 0) return ready > 0;
    if (errno != EINTR) return false;
  }
}

}  // namespace

void Steps::reached() {
  const char byte = '.';
  if (write(to_parent_, &byte, 1) != 1) _exit(kLostParent);
}

void Steps::wait() {
  char byte = 0;
  if (read(from_parent_, &byte, 1) != 1) _exit(kLostParent);
}

void Steps::stop() { raise(SIGSTOP); }

int Steps::wait_for_death() {
  for (;;) pause();
}

Forked::Forked(const std::function<int(Steps&)>& work) {
  int down[2];
  int up[2];
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) give_up("pipe2");
  const pid_t parent = getpid();
  std::fflush(nullptr);  // what is buffered here must not be written twice
  pid_ = fork();
  if (pid_ < 0) give_up("fork");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(kLostParent);  // it died before we asked to go with it
    close(down[1]);
    close(up[0]);
    Steps steps(down[0], up[1]);
    const int status = work(steps);
    std::fflush(nullptr);
    _exit(status);
  }
  close(down[0]);
  close(up[1]);
  to_child_ = down[1];
  from_child_ = up[0];
  pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  if (pid_fd_ < 0) give_up("pidfd_open");
}

Forked::Forked(Forked&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pid_fd_(std::exchange(other.pid_fd_, -1)),
      from_child_(std::exchange(other.from_child_, -1)),
      to_child_(std::exchange(other.to_child_, -1)),
      exit_status_(std::exchange(other.exit_status_, std::nullopt)) {}

Forked::~Forked() {
  if (pid_ < 0) return;
  kill_now();
  close(pid_fd_);
  close(from_child_);
  close(to_child_);
}

void Forked::signal(int number) {
  if (!exit_status_) kill(pid_, number);
}

void Forked::kill_now() {
  signal(SIGKILL);
  (void)wait();
}

bool Forked::await_step(std::chrono::milliseconds timeout) {
  char byte = 0;
  return readable(from_child_, timeout) && read(from_child_, &byte, 1) == 1;
}

void Forked::go_on() {
  const char byte = '.';
  // A child that is gone is noticed by whoever waits for it next.
  struct sigaction ignore {};
  struct sigaction before {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &before);
  (void)!write(to_child_, &byte, 1);
  sigaction(SIGPIPE, &before, nullptr);
}

bool Forked::await_stopped(std::chrono::milliseconds timeout) {
  siginfo_t info{};
  const bool changed = await(
      [&] {
        constexpr int kLook = WSTOPPED | WEXITED | WNOHANG | WNOWAIT;
        info = {};
        return waitid(P_PID, static_cast<id_t>(pid_), &info, kLook) == 0 && info.si_pid == pid_;
      },
      timeout);
  return changed && info.si_code == CLD_STOPPED;
}

bool Forked::await_zombie(std::chrono::milliseconds timeout) { return readable(pid_fd_, timeout); }

std::optional<int> Forked::wait(std::chrono::milliseconds timeout) {
  if (exit_status_) return exit_status_;
  if (!await_zombie(timeout)) {
    if (timeout.count() > 0) {
      std::fprintf(stderr, "child %d still runs after %lld ms\n", pid_,
                   static_cast<long long>(timeout.count()));
    }
    return std::nullopt;
  }
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) return std::nullopt;
  exit_status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return exit_status_;
}

void require(bool condition, const char* what, const char* file, int line) {
  if (condition) return;
  std::fprintf(stderr, "%s:%d: in child %d: %s does not hold\n", file, line, getpid(), what);
  std::fflush(stderr);
  _exit(1);
}

}  // namespace larder::test
