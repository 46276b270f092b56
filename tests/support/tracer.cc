#include "tests/support/tracer.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "tests/support/process.h"

namespace larder::test {
namespace {

constexpr int kSystemCallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD

std::filesystem::path tasks_of(pid_t process) {
  return "/proc/" + std::to_string(process) + "/task";
}

pid_t find_thread(pid_t process, std::string_view name) {
  for (const auto& task : std::filesystem::directory_iterator(tasks_of(process))) {
    std::string seen;
    std::getline(std::ifstream(task.path() / "comm"), seen);
    if (seen == name) return std::stoi(task.path().filename());
  }
  throw std::runtime_error("there is no thread " + std::string(name));
}

bool all_stopped(pid_t process) {
  for (const auto& task : std::filesystem::directory_iterator(tasks_of(process))) {
    std::string stat;
    std::getline(std::ifstream(task.path() / "stat"), stat);
    const auto state = stat.find(") ");
    if (state == std::string::npos || stat[state + 2] != 'T') return false;
  }
  return true;
}

[[noreturn]] void give_up(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

}  // namespace

Tracer::Tracer(pid_t process, std::string_view thread_name)
    : process_(process), thread_(find_thread(process, thread_name)) {
  if (ptrace(PTRACE_SEIZE, thread_, nullptr, PTRACE_O_TRACESYSGOOD) != 0) give_up("ptrace");
  if (ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr) != 0) give_up("ptrace");
  int status = 0;
  if (waitpid(thread_, &status, __WALL) != thread_ || !WIFSTOPPED(status)) give_up("waitpid");
}

Tracer::~Tracer() { detach(); }

void Tracer::detach() noexcept {
  if (thread_ >= 0) (void)ptrace(PTRACE_DETACH, thread_, nullptr, nullptr);
  thread_ = -1;
}

void Tracer::resume(int how) {
  int status = 0;
  if (ptrace(static_cast<__ptrace_request>(how), thread_, nullptr, nullptr) != 0) give_up("ptrace");
  if (waitpid(thread_, &status, __WALL) != thread_ || !WIFSTOPPED(status)) {
    throw std::runtime_error("the traced thread has ended");
  }
  const int signal = WSTOPSIG(status);
  if (signal != SIGTRAP && signal != kSystemCallStop) {
    throw std::runtime_error("the traced thread got signal " + std::to_string(signal));
  }
}

void Tracer::to_system_call() {
  __ptrace_syscall_info info{};
  do {
    resume(PTRACE_SYSCALL);
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread_, sizeof info, &info) <= 0) give_up("ptrace");
  } while (info.op != PTRACE_SYSCALL_INFO_ENTRY);
}

void Tracer::step() { resume(PTRACE_SINGLESTEP); }

void Tracer::kill() {
  ::kill(process_, SIGKILL);
  // Its process is not gone before this thread of it was waited for.
  while (waitpid(thread_, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  thread_ = -1;
}

void Tracer::leave_stopped() {
  ::kill(process_, SIGSTOP);
  // Sees the signal before it runs another instruction.
  detach();
  if (!await([this] { return all_stopped(process_); }, std::chrono::seconds(30))) {
    throw std::runtime_error("the traced process does not stop");
  }
}

}  // namespace larder::test
