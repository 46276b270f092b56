#include "tools/bench/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

namespace larder::bench {
namespace {

constexpr std::size_t kMessageBytes = 480;

volatile sig_atomic_t interrupt_seen = 0;
void on_interrupt(int) { interrupt_seen = 1; }

// Interrupts are blocked but while waiting, so that none comes between a look and a wait.
sigset_t mask_while_waiting;

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigset_t interrupts;
  sigemptyset(&interrupts);
  for (const int number : {SIGINT, SIGTERM}) {
    sigaction(number, &action, nullptr);
    sigaddset(&interrupts, number);
  }
  sigprocmask(SIG_BLOCK, &interrupts, &mask_while_waiting);
}

bool interrupted() noexcept { return interrupt_seen != 0; }

Status interruption() { return {Code::kClosed, "interrupted"}; }

void wait_a_moment(double seconds) {
  timespec length{};
  length.tv_sec = static_cast<time_t>(seconds);
  length.tv_nsec = static_cast<long>((seconds - static_cast<double>(length.tv_sec)) * 1e9);
  (void)ppoll(nullptr, 0, &length, &mask_while_waiting);
}

// ---- pipes ------------------------------------------------------------------------------------

Pipe::Pipe() {
  if (pipe2(ends_, O_CLOEXEC) != 0) ends_[0] = ends_[1] = -1;
}

Pipe::~Pipe() {
  close_read();
  close_write();
}

void Pipe::close_end(int end) {
  if (ends_[end] >= 0) ::close(ends_[end]);
  ends_[end] = -1;
}

bool Pipe::tell() const { return ::write(ends_[1], "", 1) == 1; }

bool Pipe::hear() const {
  for (;;) {
    pollfd wanted{ends_[0], POLLIN, 0};
    if (ppoll(&wanted, 1, nullptr, &mask_while_waiting) < 0) {
      if (errno == EINTR && !interrupted()) continue;
      return false;
    }
    char byte;
    return ::read(ends_[0], &byte, 1) == 1;
  }
}

bool Pipe::waits(double seconds) const {
  pollfd wanted{ends_[0], POLLIN, 0};
  const timespec most{
      static_cast<time_t>(seconds),
      static_cast<long>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e9)};
  return ppoll(&wanted, 1, &most, &mask_while_waiting) > 0;
}

// ---- children ---------------------------------------------------------------------------------

Child::Child(const std::function<void()>& work) {
  const pid_t parent = getpid();
  std::fflush(nullptr);  // what is buffered is the parent's to print
  pid_ = fork();
  if (pid_ != 0) return;
  (void)::signal(SIGINT, SIG_DFL);
  (void)::signal(SIGTERM, SIG_DFL);
  sigprocmask(SIG_SETMASK, &mask_while_waiting, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    if (getppid() == parent) work();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "larder-bench: a worker failed: %s\n", error.what());
    _exit(1);
  }
  _exit(0);
}

Child::~Child() {
  if (pid_ <= 0) return;
  signal(SIGKILL);
  (void)wait();
}

bool Child::ended() {
  if (pid_ <= 0) return true;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  pid_ = -1;
  return true;
}

std::string Child::wait() {
  if (pid_ <= 0) return "already ended";
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return how(status);
}

std::string Child::how(int status) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return "killed by signal " + std::to_string(number) + " (" + strsignal(number) + ")";
  }
  return "exit status " + std::to_string(WEXITSTATUS(status));
}

void Child::signal(int number) const {
  if (pid_ > 0) (void)::kill(pid_, number);
}

Status no_process() {
  return {Code::kNoSpace, std::string("cannot make a process: ") + std::strerror(errno)};
}

Status in_child(const std::function<Status()>& work) {
  struct Answer {
    Code code;
    char message[kMessageBytes];
  };
  Shared<Answer> answer(1);
  Pipe done;
  if (!answer.ok() || !done.ok()) return no_process();
  Child child([&] {
    const Status status = work();
    answer[0].code = status.code();
    std::snprintf(answer[0].message, kMessageBytes, "%s", status.message().c_str());
    (void)done.tell();
  });
  if (!child.ok()) return no_process();
  done.close_write();
  if (!done.hear()) {
    if (interrupted()) return interruption();
    return {Code::kInternal, "a worker died: " + child.wait()};
  }
  (void)child.wait();
  return {answer[0].code, answer[0].message};
}

// ---- memory, cores, files ---------------------------------------------------------------------

void* map_shared(std::size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : at;
}

void unmap_shared(void* at, std::size_t bytes) {
  if (at != nullptr) munmap(at, bytes);
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

void populate(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    void* first = nullptr;
    void* end = nullptr;
    if (!line.ends_with(" " + path)) continue;
    if (std::sscanf(line.c_str(), "%p-%p", &first, &end) != 2) continue;
    const auto bytes =
        static_cast<std::size_t>(static_cast<char*>(end) - static_cast<char*>(first));
    (void)madvise(first, bytes, MADV_POPULATE_WRITE);
  }
}

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) cpus.push_back(i);
  }
  return cpus;
}

void pin(const std::vector<int>& cpus, std::uint32_t index) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[index % cpus.size()], &set);
  (void)sched_setaffinity(0, sizeof set, &set);  // a cpu that went offline: any will do
}

std::uint64_t cpu_nanoseconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(used.tv_nsec);
}

void start_idle_thread() {
  std::thread([] {
    for (;;) pause();
  }).detach();
}

Result<Scratch> Scratch::make(const std::string& directory) {
  std::string path = directory + "/larder-bench-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) {
    return Status(Code::kNotFound, "cannot make a folder in " + directory + ": " +
                                       std::strerror(errno) + "; --directory names another place");
  }
  return Scratch(std::move(path));
}

Scratch::Scratch(Scratch&& other) noexcept
    : path_(std::exchange(other.path_, {})), keep_(other.keep_) {}

Scratch::~Scratch() {
  std::error_code ignored;
  if (!path_.empty() && !keep_) std::filesystem::remove_all(path_, ignored);
}

}  // namespace larder::bench
