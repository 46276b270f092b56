#include "parent.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

namespace prefork {
namespace {

using larder::Code;
using larder::Status;
using std::chrono::milliseconds;

// A worker that lived this long is replaced at once; one that dies sooner waits longer each time.
constexpr milliseconds kHealthy{1000};
constexpr milliseconds kFirstBackoff{100};
constexpr milliseconds kLongestBackoff{5000};
// When no worker runs and each failed this often in a row, the supervisor should hear of it.
constexpr int kGiveUpAfter = 6;
// Workers leave by themselves when their drain ends; this much later they are killed.
constexpr milliseconds kPatience{2000};

milliseconds backoff(int failures) {
  milliseconds delay = kFirstBackoff;
  for (int i = 1; i < failures && delay < kLongestBackoff; ++i) delay *= 2;
  return std::min(delay, kLongestBackoff);
}

std::string describe(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    return "was killed by signal " + std::to_string(WTERMSIG(wait_status));
  }
  return "exited with code " + std::to_string(WEXITSTATUS(wait_status));
}

sigset_t our_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

Status system_error(const char* call) {
  return Status(Code::kNoSpace, std::string(call) + ": " + std::strerror(errno));
}

}  // namespace

Parent::Parent(larder::Cache cache, WorkerOptions options, int workers)
    : cache_(std::move(cache)),
      options_(std::move(options)),
      places_(static_cast<std::size_t>(workers)) {}

Parent::~Parent() {
  for (const int fd : {signal_fd_, report_read_, report_write_}) {
    if (fd >= 0) close(fd);
  }
}

Status Parent::open() {
  // Blocked before the first fork: workers inherit that and read SIGTERM from their own signalfd.
  const sigset_t signals = our_signals();
  if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return system_error("sigprocmask");
  // A client that hangs up is an error of write(), not the end of the server.
  std::signal(SIGPIPE, SIG_IGN);
  signal_fd_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signal_fd_ < 0) return system_error("signalfd");
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return system_error("pipe2");
  report_read_ = ends[0];
  report_write_ = ends[1];
  return check_port_is_free(options_.listen);
}

int Parent::run() {
  options_.parent = getpid();
  if (Status status = open(); !status.ok()) {
    std::fprintf(stderr, "larder-prefork: %s\n", status.message().c_str());
    return kExitFailed;
  }
  while (!stopping_ || anybody_left()) {
    if (!stopping_) start_due_workers();
    wait_for_something();
    read_reports();
    read_signals();
  }
  return exit_code_;
}

bool Parent::anybody_left() const {
  return std::any_of(places_.begin(), places_.end(), [](const Place& p) { return p.pid != 0; });
}

// ---- starting ---------------------------------------------------------------------------------

void Parent::start_due_workers() {
  const Clock::time_point now = Clock::now();
  for (int number = 0; number < static_cast<int>(places_.size()); ++number) {
    const Place& place = places_[static_cast<std::size_t>(number)];
    if (place.pid == 0 && place.restart_at <= now) start_worker(number);
  }
}

void Parent::start_worker(int number) {
  Place& place = places_[static_cast<std::size_t>(number)];
  std::fflush(nullptr);  // or the child would print it a second time
  const pid_t pid = fork();
  if (pid == 0) become_worker(number);
  if (pid < 0) {
    ++place.failures;
    place.restart_at = Clock::now() + backoff(place.failures);
    std::fprintf(stderr, "larder-prefork: cannot fork worker %d: %s; trying again\n", number,
                 std::strerror(errno));
    return;
  }
  place.pid = pid;
  place.ready = false;
  place.started = Clock::now();
}

void Parent::become_worker(int number) {
  close(std::exchange(signal_fd_, -1));
  close(std::exchange(report_read_, -1));
  const auto ready = [&](std::uint16_t port) {
    const Report report{number, getpid(), port};
    // Smaller than PIPE_BUF: whole or not at all.
    if (write(report_write_, &report, sizeof(report)) != sizeof(report)) {
      std::fprintf(stderr, "larder-prefork: worker %d cannot report to its parent\n", number);
    }
  };
  const Status status = run_worker(*cache_, options_, ready);
  if (!status.ok()) {
    std::fprintf(stderr, "larder-prefork: worker %d cannot start: %s\n", number,
                 status.message().c_str());
  }
  cache_.reset();  // leaves the segment in good order, which is polite and not necessary
  std::fflush(nullptr);
  _exit(status.ok() ? kExitFine : kExitFailed);
}

// ---- waiting ----------------------------------------------------------------------------------

std::optional<Parent::Clock::time_point> Parent::next_wakeup() const {
  if (stopping_) return killed_ ? std::nullopt : std::optional(kill_at_);
  std::optional<Clock::time_point> next;
  for (const Place& place : places_) {
    if (place.pid == 0 && (!next || place.restart_at < *next)) next = place.restart_at;
  }
  return next;
}

void Parent::wait_for_something() {
  int timeout_ms = -1;
  if (const auto next = next_wakeup()) {
    const auto left = std::chrono::ceil<milliseconds>(*next - Clock::now());
    timeout_ms = static_cast<int>(std::max<std::int64_t>(0, left.count()));
  }
  pollfd fds[] = {{signal_fd_, POLLIN, 0}, {report_read_, POLLIN, 0}};
  poll(fds, 2, timeout_ms);
  if (stopping_ && !killed_ && Clock::now() >= kill_at_) {
    std::fprintf(stderr, "larder-prefork: workers did not leave in time; killing them\n");
    killed_ = true;
    exit_code_ = kExitFailed;
    kill_workers(SIGKILL);
  }
}

void Parent::read_signals() {
  signalfd_siginfo info;
  while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGCHLD) {
      reap();
    } else if (!stopping_) {
      stop(kExitFine);
    }
  }
}

void Parent::read_reports() {
  Report report;
  while (read(report_read_, &report, sizeof(report)) == sizeof(report)) {
    Place& place = places_[static_cast<std::size_t>(report.place)];
    if (place.pid != report.pid) continue;  // it died since
    place.ready = true;
    options_.listen.port = report.port;  // differs only for port 0: the next one takes the same
  }
  announce();
}

void Parent::announce() {
  const auto ready = [](const Place& place) { return place.ready; };
  if (announced_ || !std::all_of(places_.begin(), places_.end(), ready)) return;
  announced_ = true;
  std::printf("listening on %s, workers %zu, segment %s\n", options_.listen.to_string().c_str(),
              places_.size(), cache_->options().name.c_str());
  std::fflush(stdout);
}

// ---- endings ----------------------------------------------------------------------------------

void Parent::reap() {
  // One SIGCHLD may stand for several children.
  int wait_status = 0;
  for (pid_t pid = waitpid(-1, &wait_status, WNOHANG); pid > 0;
       pid = waitpid(-1, &wait_status, WNOHANG)) {
    const auto place =
        std::find_if(places_.begin(), places_.end(), [&](const Place& p) { return p.pid == pid; });
    if (place != places_.end()) on_exit(static_cast<int>(place - places_.begin()), wait_status);
  }
}

void Parent::on_exit(int number, int wait_status) {
  Place& place = places_[static_cast<std::size_t>(number)];
  const pid_t pid = std::exchange(place.pid, 0);
  const bool was_ready = std::exchange(place.ready, false);
  if (stopping_) return;

  // It said why on its own. What keeps the first ones from starting keeps all of them.
  const bool could_not_start =
      !was_ready && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == kExitFailed;
  if (could_not_start && !announced_) {
    std::fprintf(stderr, "larder-prefork: the workers cannot start; see the message above\n");
    return stop(kExitFailed);
  }
  const Clock::time_point now = Clock::now();
  const bool lived = was_ready && now - place.started >= kHealthy;
  place.failures = lived ? 0 : place.failures + 1;
  const milliseconds delay = lived ? milliseconds(0) : backoff(place.failures);
  place.restart_at = now + delay;
  const std::string when = lived ? "now" : "in " + std::to_string(delay.count()) + " ms";
  std::fprintf(stderr, "larder-prefork: worker %d (pid %d) %s; starting another %s\n", number,
               static_cast<int>(pid), describe(wait_status).c_str(), when.c_str());

  const bool hopeless = std::all_of(places_.begin(), places_.end(), [](const Place& p) {
    return p.pid == 0 && p.failures >= kGiveUpAfter;
  });
  if (!hopeless) return;
  std::fprintf(stderr,
               "larder-prefork: every worker died %d times in a row at its start; leaving\n",
               kGiveUpAfter);
  stop(kExitFailed);
}

void Parent::stop(int exit_code) {
  stopping_ = true;
  exit_code_ = exit_code;
  kill_at_ = Clock::now() + options_.drain + kPatience;
  kill_workers(SIGTERM);
}

void Parent::kill_workers(int signal) {
  for (const Place& place : places_) {
    if (place.pid != 0) kill(place.pid, signal);
  }
}

}  // namespace prefork
