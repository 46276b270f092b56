#include "tools/bench/run.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <utility>

namespace larder::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kBatch = 1000;
constexpr std::size_t kMessageBytes = 480;

volatile sig_atomic_t interrupt_seen = 0;
void on_interrupt(int) { interrupt_seen = 1; }

// Interrupts are blocked but while waiting, so that none comes between a look and a wait.
sigset_t mask_while_waiting;

// A worker's answer; small enough for one atomic write to a pipe.
struct Answer {
  Sample sample;
  char error[kMessageBytes];  // empty: fine
};

std::uint64_t cpu_nanoseconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(used.tv_nsec);
}

void set_error(Answer& answer, const Status& status) {
  std::snprintf(answer.error, sizeof answer.error, "%s", status.to_string().c_str());
}

// Two ends of a pipe, closed on every way out.
class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC) != 0) ends_[0] = ends_[1] = -1;
  }
  ~Pipe() {
    close_read();
    close_write();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  bool ok() const { return ends_[0] >= 0; }
  void close_read() { close_end(0); }
  void close_write() { close_end(1); }

  bool write(const void* bytes, std::size_t size) const {
    return ::write(ends_[1], bytes, size) == static_cast<ssize_t>(size);
  }
  // All of it; false at the end of the pipe, on an error and when interrupted.
  bool read(void* bytes, std::size_t size) const {
    auto* to = static_cast<char*>(bytes);
    while (size > 0) {
      pollfd wanted{ends_[0], POLLIN, 0};
      if (ppoll(&wanted, 1, nullptr, &mask_while_waiting) < 0) {
        if (errno == EINTR && !interrupted()) continue;
        return false;
      }
      const ssize_t got = ::read(ends_[0], to, size);
      if (got <= 0) return false;
      to += got;
      size -= static_cast<std::size_t>(got);
    }
    return true;
  }

 private:
  void close_end(int end) {
    if (ends_[end] >= 0) ::close(ends_[end]);
    ends_[end] = -1;
  }
  int ends_[2];
};

// ---- in a worker ------------------------------------------------------------------------------

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // since Linux 5.14
#endif

// Maps every page of the segment now: otherwise the first write to each, a page fault, would be
// timed. An older kernel refuses, and then the figures of `set` contain those faults.
void populate(const Options& options) {
  const std::string path = options.directory + "/larder." + options.name;
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

class Worker {
 public:
  Worker(Cache& cache, const Keys& keys, const RunOptions& options, std::uint32_t index)
      : cache_(cache),
        keys_(keys),
        options_(options),
        value_(options.value_bytes),
        operations_(plan(options.kind, options.distribution, keys.count(), options.seed + index)) {}

  // Takes its place, maps all there is, and reads every key once.
  Status prepare() {
    if (Status status = cache_.start(); !status.ok()) return status;
    populate(cache_.options());
    for (std::uint32_t i = 0; i < keys_.count(); ++i) {
      if (Status status = cache_.get(keys_[i], lookup_); !status.ok()) return status;
      if (!lookup_.hit()) ++absent_;
    }
    return {};
  }

  Sample measure() {
    run_for(options_.warmup_seconds);
    counts_ = {};
    const std::uint64_t cpu_before = cpu_nanoseconds();
    const auto [batches, elapsed] = run_for(options_.seconds);
    counts_.operations = batches * kBatch;
    counts_.nanoseconds = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
    counts_.cpu_nanoseconds = cpu_nanoseconds() - cpu_before;
    counts_.absent_before = absent_;
    return counts_;
  }

 private:
  std::pair<std::uint64_t, Clock::duration> run_for(double seconds) {
    const auto wanted = std::chrono::duration<double>(seconds);
    const auto start = Clock::now();
    std::uint64_t batches = 0;
    Clock::duration elapsed{};
    do {
      run_batch();
      ++batches;
      elapsed = Clock::now() - start;
    } while (elapsed < wanted);
    return {batches, elapsed};
  }

  void run_batch() {
    const std::size_t mask = operations_.size() - 1;
    for (unsigned i = 0; i < kBatch; ++i) {
      const Operation operation = operations_[next_++ & mask];
      if (operation.is_set) {
        set(operation.key);
      } else {
        get(operation.key);
      }
    }
  }

  void get(std::uint32_t key) {
    ++counts_.reads;
    const Status status = cache_.get(keys_[key], lookup_);
    if (!status.ok() || !lookup_.hit()) return;
    ++counts_.hits;
    if (!value_.is_of(lookup_.value, key)) ++counts_.wrong_values;
  }

  void set(std::uint32_t key) {
    if (!cache_.set(keys_[key], value_.of(key)).ok()) ++counts_.failed_sets;
  }

  Cache& cache_;
  const Keys& keys_;
  const RunOptions& options_;
  Value value_;
  const std::vector<Operation> operations_;
  std::size_t next_ = 0;
  Lookup lookup_;
  Sample counts_;
  std::uint64_t absent_ = 0;
};

void pin(const std::vector<int>& cpus, std::uint32_t index) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[index % cpus.size()], &set);
  (void)sched_setaffinity(0, sizeof set, &set);  // a cpu that went offline: any will do
}

// ---- in the parent ----------------------------------------------------------------------------

// A forked process that does `work` and never returns from here. Killed when this object goes.
class Child {
 public:
  explicit Child(const std::function<void()>& work) {
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ != 0) return;
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &mask_while_waiting, nullptr);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) work();
    _exit(0);
  }
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    (void)wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool ok() const { return pid_ > 0; }
  // How it ended, in words.
  std::string wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    if (WIFSIGNALED(status)) {
      const int number = WTERMSIG(status);
      return "killed by signal " + std::to_string(number) + " (" + strsignal(number) + ")";
    }
    return "exit status " + std::to_string(WEXITSTATUS(status));
  }

 private:
  pid_t pid_;
};

Status interruption() { return {Code::kClosed, "interrupted"}; }
Status no_process() {
  return {Code::kNoSpace, std::string("cannot make a process: ") + std::strerror(errno)};
}

// The answer that a child owes; its death is an error that says how it died.
Status receive(const Pipe& pipe, Child& child, Answer& answer) {
  if (!pipe.read(&answer, sizeof answer)) {
    if (interrupted()) return interruption();
    return {Code::kInternal, "a worker died: " + child.wait()};
  }
  if (answer.error[0] != 0)
    return {Code::kInternal, std::string("a worker failed: ") + answer.error};
  return {};
}

// What a worker and the parent say to each other: prepared, go (the gate closes), done.
struct Seat {
  Pipe answers;
  std::unique_ptr<Child> child;
};

void work(Cache& cache, const Keys& keys, const RunOptions& options, std::uint32_t index,
          const Pipe& answers, Pipe& gate) {
  pin(options.cpus, index);
  Worker worker(cache, keys, options, index);
  Answer answer{};
  if (Status status = worker.prepare(); !status.ok()) set_error(answer, status);
  if (!answers.write(&answer, sizeof answer) || answer.error[0] != 0) return;
  gate.close_write();
  char none;
  (void)gate.read(&none, 1);  // ends when the parent closes its end, for all at once
  answer.sample = worker.measure();
  (void)answers.write(&answer, sizeof answer);
  const Cache leave(std::move(cache));  // gives the place back; the parent's copy is not touched
}

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

Status fill(Cache& cache, const Keys& keys, std::size_t value_bytes) {
  Pipe answers;
  if (!answers.ok()) return no_process();
  Child child([&] {
    Answer answer{};
    Value value(value_bytes);
    Status status = cache.start();
    for (std::uint32_t i = 0; i < keys.count() && status.ok(); ++i) {
      status = cache.set(keys[i], value.of(i));
    }
    if (!status.ok()) set_error(answer, status);
    (void)answers.write(&answer, sizeof answer);
    const Cache leave(std::move(cache));
  });
  if (!child.ok()) return no_process();
  answers.close_write();
  Answer answer{};
  if (Status status = receive(answers, child, answer); !status.ok()) return status;
  (void)child.wait();
  return {};
}

Result<std::vector<Sample>> run(Cache& cache, const Keys& keys, const RunOptions& options) {
  Pipe gate;
  if (!gate.ok()) return no_process();
  std::vector<std::unique_ptr<Seat>> seats;
  for (std::uint32_t i = 0; i < options.processes; ++i) {
    auto seat = std::make_unique<Seat>();
    if (!seat->answers.ok()) return no_process();
    seat->child =
        std::make_unique<Child>([&, i] { work(cache, keys, options, i, seat->answers, gate); });
    if (!seat->child->ok()) return no_process();
    seat->answers.close_write();
    seats.push_back(std::move(seat));
  }
  Answer answer{};
  for (auto& seat : seats) {
    if (Status status = receive(seat->answers, *seat->child, answer); !status.ok()) return status;
  }
  gate.close_write();
  std::vector<Sample> samples;
  for (auto& seat : seats) {
    if (Status status = receive(seat->answers, *seat->child, answer); !status.ok()) return status;
    samples.push_back(answer.sample);
  }
  for (auto& seat : seats) (void)seat->child->wait();
  return samples;
}

}  // namespace larder::bench
