#include "tests/kill/stepper.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace larder::kill {
namespace {

constexpr unsigned char kBreakpoint = 0xcc;

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::_Exit(3);
}

// Where the child stops by itself, before and after the operation.
[[gnu::noinline]] void stop_here() { asm volatile("int3"); }
[[gnu::noinline]] void over() { asm volatile("" ::: "memory"); }

long trace(__ptrace_request request, pid_t pid, std::uintptr_t address, std::uintptr_t data) {
  return ptrace(request, pid, reinterpret_cast<void*>(address), reinterpret_cast<void*>(data));
}

}  // namespace

Stepper::Stepper(const std::function<void()>& prepare, const std::function<void()>& operation) {
  std::fflush(nullptr);
  pid_ = fork();
  if (pid_ < 0) give_up("fork");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prepare();
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) give_up("ptrace");
    stop_here();
    operation();
    over();
    _exit(0);
  }
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_ || !WIFSTOPPED(status)) {
    std::fprintf(stderr, "the child of an operation ended before it began (status %x)\n", status);
    std::_Exit(3);
  }
  trace(PTRACE_SETOPTIONS, pid_, 0, PTRACE_O_EXITKILL);
  at_ = read_at();
}

Stepper::~Stepper() { kill(); }

void Stepper::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

std::uintptr_t Stepper::read_at() const {
  return static_cast<std::uintptr_t>(
      trace(PTRACE_PEEKUSER, pid_, offsetof(user_regs_struct, rip), 0));
}

bool Stepper::at_system_call() const {
  constexpr unsigned char kSyscall[] = {0x0f, 0x05};
  return std::memcmp(reinterpret_cast<const void*>(at_), kSyscall, sizeof kSyscall) == 0;
}

namespace {

// The part of an instruction behind its opcode that tells where an operand is.
struct Operand {
  bool is_register;
  bool on_stack;  // addressed from the stack pointer
  unsigned extension;
};
Operand operand_at(const unsigned char* at, bool rex_b) {
  const unsigned mode = at[0] >> 6;
  const bool from_rsp = !rex_b && (at[0] & 7) == 4 && (at[1] & 7) == 4;
  return {mode == 3, mode != 3 && from_rsp, (at[0] >> 3) & 7u};
}

bool two_byte_may_store(unsigned char opcode, const Operand& operand) {
  if (opcode >= 0x80 && opcode <= 0x8f) return false;  // jcc
  if (opcode >= 0x40 && opcode <= 0x4f) return false;  // cmov
  if (opcode >= 0x51 && opcode <= 0x76) return false;  // SSE, into a register
  switch (opcode) {
    case 0x10:
    case 0x12:
    case 0x14:
    case 0x15:
    case 0x16:
    case 0x1e:
    case 0x1f:
    case 0x28:
    case 0x2a:
    case 0x2c:
    case 0x2d:
    case 0x2e:
    case 0x2f:
    case 0xa3:
    case 0xaf:
    case 0xb6:
    case 0xb7:
    case 0xb8:
    case 0xbc:
    case 0xbd:
    case 0xbe:
    case 0xbf:
    case 0xd4:
    case 0xd7:
    case 0xdb:
    case 0xeb:
    case 0xef:
    case 0xfe:
      return false;
    default:
      return !operand.is_register && !operand.on_stack;
  }
}

}  // namespace

bool Stepper::may_store() const {
  const auto* at = reinterpret_cast<const unsigned char*>(at_);
  bool rex_b = false;
  for (;; ++at) {
    if (*at == 0xf0) return true;  // lock
    const bool prefix = *at == 0x66 || *at == 0xf2 || *at == 0xf3 || *at == 0x64 || *at == 0x65;
    const bool rex = (*at & 0xf0) == 0x40;
    if (!prefix && !rex) break;
    rex_b = rex && (*at & 1);
  }
  const unsigned char opcode = *at;
  if (opcode == 0x0f) {
    if (at[1] == 0x05) return true;  // a system call
    return two_byte_may_store(at[1], operand_at(at + 2, rex_b));
  }
  const Operand operand = operand_at(at + 1, rex_b);
  if (opcode < 0x40) {  // arithmetic: its first two forms write memory, the others registers
    const unsigned form = opcode & 7;
    if (form >= 2 && form <= 5) return false;
    if ((opcode & 0xf8) == 0x38) return false;  // cmp
    return form >= 6 || (!operand.is_register && !operand.on_stack);
  }
  if (opcode >= 0x50 && opcode <= 0x5f) return false;  // push, pop
  if (opcode >= 0x70 && opcode <= 0x7f) return false;  // jcc
  if (opcode >= 0xb0 && opcode <= 0xbf) return false;  // mov, a constant into a register
  switch (opcode) {
    case 0x63:
    case 0x69:
    case 0x6b:
    case 0x84:
    case 0x85:
    case 0x8a:
    case 0x8b:
    case 0x8d:
    case 0x90:
    case 0x98:
    case 0x99:
    case 0xa8:
    case 0xa9:
    case 0xc2:
    case 0xc3:
    case 0xc9:
    case 0xe8:
    case 0xe9:
    case 0xeb:
      return false;
    case 0x80:
    case 0x81:
    case 0x83:
      if (operand.extension == 7) return false;  // cmp
      break;
    case 0xf6:
    case 0xf7:
      if (operand.extension != 2 && operand.extension != 3) return false;  // test, mul, div
      break;
    case 0xff:
      if (operand.extension >= 2) return false;  // call, jmp, push
      break;
    case 0x88:
    case 0x89:
    case 0xc0:
    case 0xc1:
    case 0xc6:
    case 0xc7:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xfe:
      break;
    default:
      return true;
  }
  return !operand.is_register && !operand.on_stack;
}

void Stepper::resume(int how) {
  trace(static_cast<__ptrace_request>(how), pid_, 0, 0);
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_ || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
    std::fprintf(stderr, "the child of an operation ended in its midst (status %x)\n", status);
    std::abort();
  }
  at_ = read_at();
}

bool Stepper::step() {
  resume(PTRACE_SINGLESTEP);
  return at_ != reinterpret_cast<std::uintptr_t>(&over);
}

bool Stepper::run_to(std::uintptr_t address, std::uint64_t turn) {
  const auto end = reinterpret_cast<std::uintptr_t>(&over);
  const auto with_breakpoint = [&](std::uintptr_t where) {
    const long word = trace(PTRACE_PEEKTEXT, pid_, where, 0);
    trace(PTRACE_POKETEXT, pid_, where,
          (static_cast<std::uintptr_t>(word) & ~std::uintptr_t{0xff}) | kBreakpoint);
    return word;
  };
  const auto without = [&](std::uintptr_t where, long word) {
    trace(PTRACE_POKETEXT, pid_, where, static_cast<std::uintptr_t>(word));
  };
  for (std::uint64_t seen = at_ == address ? 1 : 0; seen < turn; ++seen) {
    if (at_ == address && !step()) return false;
    if (at_ == address) continue;  // an instruction that repeats
    const long word = with_breakpoint(address);
    const long end_word = with_breakpoint(end);
    resume(PTRACE_CONT);
    at_ -= 1;  // behind the breakpoint
    trace(PTRACE_POKEUSER, pid_, offsetof(user_regs_struct, rip), at_);
    without(end, end_word);
    without(address, word);
    if (at_ == end) return false;
  }
  return true;
}

bool Stepper::step_out() {
  const auto stack =
      static_cast<std::uintptr_t>(trace(PTRACE_PEEKUSER, pid_, offsetof(user_regs_struct, rsp), 0));
  return run_to(static_cast<std::uintptr_t>(trace(PTRACE_PEEKDATA, pid_, stack, 0)), 1);
}

void Stepper::finish() {
  const auto end = reinterpret_cast<std::uintptr_t>(&over);
  if (at_ != end) (void)run_to(end, 1);
}

}  // namespace larder::kill
