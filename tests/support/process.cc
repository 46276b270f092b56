#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

namespace larder::test {
namespace {

using std::chrono::milliseconds;

[[noreturn]] void give_up(const std::string& what) {
  std::fprintf(stderr, "test support: %s: %s\n", what.c_str(), std::strerror(errno));
  std::abort();
}

// Between fork and exec: only what is allowed after a fork of a program with threads.
[[noreturn]] void become(char* const* argv, int output, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  execv(argv[0], argv);
  constexpr char kMessage[] = "test support: cannot run the program\n";
  if (write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1) < 0) _exit(126);
  _exit(127);
}

}  // namespace

Process::Process(std::vector<std::string> argv) {
  std::vector<char*> pointers;
  pointers.reserve(argv.size() + 1);
  for (std::string& argument : argv) pointers.push_back(argument.data());
  pointers.push_back(nullptr);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) give_up("pipe2");
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) give_up("fork");
  if (pid_ == 0) become(pointers.data(), ends[1], parent);
  close(ends[1]);
  output_fd_ = ends[0];
  fcntl(output_fd_, F_SETFL, O_NONBLOCK);
  pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  if (pid_fd_ < 0) give_up("pidfd_open");
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pid_fd_(std::exchange(other.pid_fd_, -1)),
      output_fd_(std::exchange(other.output_fd_, -1)),
      exit_code_(other.exit_code_),
      output_(std::move(other.output_)) {}

Process::~Process() {
  if (pid_ > 0 && !exit_code_) {
    kill(pid_, SIGKILL);
    collect_exit(0);
  }
  if (pid_fd_ >= 0) close(pid_fd_);
  if (output_fd_ >= 0) close(output_fd_);
}

void Process::signal(int number) {
  if (!exit_code_) kill(pid_, number);
}

std::optional<int> Process::wait(milliseconds timeout) {
  const auto until = Clock::now() + timeout;
  for (;;) {
    collect_exit(WNOHANG);
    if (exit_code_ || Clock::now() >= until) break;
    wait_for_change(until);
  }
  read_output();
  return exit_code_;
}

bool Process::await_output(std::string_view text, milliseconds timeout) {
  const auto until = Clock::now() + timeout;
  for (;;) {
    // In this order: what it wrote before it ended is in the pipe once it has ended.
    collect_exit(WNOHANG);
    read_output();
    if (output_.find(text) != std::string::npos) return true;
    if (exit_code_ || Clock::now() >= until) return false;
    wait_for_change(until);
  }
}

const std::string& Process::output() {
  read_output();
  return output_;
}

void Process::read_output() {
  char bytes[4096];
  while (output_fd_ >= 0) {
    const ssize_t got = read(output_fd_, bytes, sizeof(bytes));
    if (got > 0) {
      output_.append(bytes, static_cast<std::size_t>(got));
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && errno == EAGAIN) {
      return;
    } else {
      close(std::exchange(output_fd_, -1));
    }
  }
}

void Process::collect_exit(int options) {
  int status = 0;
  if (exit_code_ || waitpid(pid_, &status, options) != pid_) return;
  exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Until it wrote something or ended.
void Process::wait_for_change(Clock::time_point until) {
  const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
  pollfd fds[] = {{pid_fd_, POLLIN, 0}, {output_fd_, POLLIN, 0}};  // poll skips an fd of -1
  poll(fds, 2, static_cast<int>(std::max<std::int64_t>(0, left.count())));
  read_output();
}

TempDir::TempDir(const std::string& parent) : path_(parent + "/larder-test-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) give_up("mkdtemp in " + parent);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void pause_before_asking_again() { std::this_thread::sleep_for(milliseconds(5)); }

}  // namespace larder::test
