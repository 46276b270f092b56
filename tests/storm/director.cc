#include "tests/storm/director.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "shm/clock.h"
#include "shm/process.h"
#include "tests/storm/afterwards.h"
#include "tests/storm/namespaces.h"

namespace larder::storm {
namespace {

using shm::now_ms;

// Far beyond every bound that a deed has, on a machine with other things to do.
constexpr std::uint64_t kStuckMs = 30'000;
constexpr std::uint64_t kLongStopMs = shm::kGraceMs + 1000;
constexpr std::uint64_t kBetweenBlowsMs = 80;  // at most
constexpr pid_t kFirstPidInside = 30'000;

std::atomic<bool> interrupted{false};

struct Post {
  pid_t pid = -1;
  bool stopped = false;
  bool killed = false;
  std::uint64_t go_on_ms = 0;  // when a stopped one is continued
  std::uint64_t running_since_ms = 0;
};

class Director {
 public:
  Director(const StormOptions& options, const Life& life)
      : options_(options),
        life_(life),
        shared_(*life.shared),
        random_(options.seed),
        posts_(options.workers) {}

  Outcome run() {
    if (!make_namespaces()) return outcome_;
    // The children of the dead become ours, so that we know when all have ended.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (unsigned seat = 0; seat < posts_.size(); ++seat) start(seat);
    const auto ms = static_cast<std::uint64_t>(options_.seconds * 1000);
    const std::uint64_t end = now_ms() + ms;
    while (now_ms() < end && !interrupted) {
      pause_until(std::min(end, now_ms() + random_.below(kBetweenBlowsMs)));
      strike();
      shared_.no_more_flushes = now_ms() + ms / 2 >= end;
    }
    finish();
    afterwards();
    return outcome_;
  }

 private:
  bool make_namespaces() {
    if (!options_.namespaces) return true;
    for (const bool own_proc : {true, false}) {
      auto made = PidNamespace::create(own_proc, outcome_.refused);
      if (!made) return false;
      namespaces_.push_back(std::move(*made));
    }
    return true;
  }

  Life life_of(unsigned seat) const {
    Life life = life_;
    life.seat = seat;
    return life;
  }

  // Seats of one pair have the same pid in two namespaces; whoever comes next gets it again.
  void start(unsigned seat) {
    const Life life = life_of(seat);
    std::fflush(nullptr);
    const pid_t parent = getpid();
    Post& post = posts_[seat];
    post = {};
    shared_.seats[seat].deed = Deed::kNothing;
    shared_.seats[seat].ambushed = false;
    if (!namespaces_.empty()) {
      const pid_t inside = kFirstPidInside + static_cast<pid_t>(seat / 2);
      post.pid = namespaces_[seat % 2].start(worker_arguments(life), inside);
    } else if (post.pid = fork(); post.pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(3);
      _exit(work(life));
    }
    if (post.pid < 0) complain("cannot start a worker");
    post.running_since_ms = now_ms();
  }

  void complain(const std::string& what) {
    ++outcome_.crashes;
    shared_.complain(what);
  }

  // ---- blows ----

  void strike() {
    const unsigned seat = static_cast<unsigned>(random_.below(posts_.size()));
    Post& post = posts_[seat];
    const std::uint64_t which = random_.below(100);
    if (which < 1) {
      for (Post& each : posts_) deal_kill(each);
    } else if (which < 50) {
      deal_kill(post);
    } else if (which < 80) {
      deal_stop(seat);
    } else if (which < 90) {
      if (deal(post, kBecomeFreshSignal)) ++outcome_.replacements;
    } else {
      (void)deal(post, kExitSignal);
    }
  }

  bool deal(const Post& post, int signal) { return post.pid > 0 && kill(post.pid, signal) == 0; }

  void deal_kill(Post& post) {
    if (post.killed || !deal(post, SIGKILL)) return;
    post.killed = true;
    ++outcome_.kills;
  }

  void deal_stop(unsigned seat) {
    Post& post = posts_[seat];
    if (post.stopped || post.killed) return;
    ++shared_.seats[seat].stops;
    if (!deal(post, SIGSTOP)) return;
    post.stopped = true;
    ++outcome_.stops;
    std::uint64_t ms = random_.below(60);
    if (random_.one_in(4)) ms = random_.below(700);
    if (random_.one_in(40) && !in_long_stop()) {
      ms = kLongStopMs;
      ++outcome_.long_stops;
    }
    post.go_on_ms = now_ms() + ms;
  }
  bool in_long_stop() const {
    return std::any_of(posts_.begin(), posts_.end(), [](const Post& post) {
      return post.stopped && post.go_on_ms > now_ms() + 1000;
    });
  }

  void go_on(Post& post) {
    post.stopped = false;
    post.running_since_ms = now_ms();
    (void)deal(post, SIGCONT);
  }

  // ---- between the blows ----

  void pause_until(std::uint64_t until) {
    do {
      std::this_thread::sleep_for(std::chrono::milliseconds(random_.below(10)));
      look_after();
    } while (now_ms() < until && !interrupted);
  }

  void look_after() {
    collect();
    for (unsigned seat = 0; seat < posts_.size(); ++seat) {
      Post& post = posts_[seat];
      if (post.stopped && now_ms() >= post.go_on_ms) go_on(post);
      if (post.pid > 0 && !post.stopped && !post.killed) watch(seat);
      if (post.pid < 0 && !shared_.over) start(seat);
    }
    count_pid_pairs();
  }

  // Everybody who ended, children of workers included.
  void collect() {
    int status = 0;
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
      for (unsigned seat = 0; seat < posts_.size(); ++seat) {
        if (posts_[seat].pid == pid) judge(seat, status);
      }
    }
  }

  void judge(unsigned seat, int status) {
    Post& post = posts_[seat];
    post.pid = -1;
    const bool was_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      ++outcome_.exits;
    } else if (was_killed && !post.killed && shared_.seats[seat].ambushed) {
      ++outcome_.ambushes;
    } else if (!was_killed || !post.killed) {
      complain("worker " + std::to_string(seat) + " ended with status " + std::to_string(status) +
               " in " + deed_name(shared_.seats[seat].deed));
    }
  }

  void watch(unsigned seat) {
    const Seat& at = shared_.seats[seat];
    Post& post = posts_[seat];
    const Deed deed = at.deed;
    if (deed == Deed::kNothing && !shared_.over) return;
    const std::uint64_t since = std::max<std::uint64_t>(at.begun_ms, post.running_since_ms);
    if (now_ms() < since + kStuckMs) return;
    ++outcome_.stuck;
    shared_.complain("worker " + std::to_string(seat) + " is stuck in " + deed_name(deed));
    deal_kill(post);
  }

  void count_pid_pairs() {
    if (namespaces_.empty()) return;
    std::uint64_t pairs = 0;
    for (unsigned seat = 0; seat + 1 < posts_.size(); seat += 2) {
      const bool both = posts_[seat].pid > 0 && posts_[seat + 1].pid > 0;
      const std::uint32_t pid = shared_.seats[seat].pid;
      if (both && pid != 0 && pid == shared_.seats[seat + 1].pid) ++pairs;
    }
    outcome_.pid_pairs = std::max(outcome_.pid_pairs, pairs);
  }

  // ---- the end ----

  // Half of them end when they are told to, the others where they are.
  void finish() {
    shared_.over = true;
    for (Post& post : posts_) {
      if (post.stopped) go_on(post);
      if (random_.one_in(2)) deal_kill(post);
    }
    const auto ended = [&] {
      look_after();
      return std::all_of(posts_.begin(), posts_.end(),
                         [](const Post& post) { return post.pid < 0; });
    };
    if (!test::await(ended, std::chrono::milliseconds(2 * kStuckMs))) complain("some do not end");
    namespaces_.clear();  // ends their children too
    int status = 0;
    const auto all_collected = [&] {
      while (waitpid(-1, &status, WNOHANG) > 0) {
      }
      return errno == ECHILD;
    };
    if (!test::await(all_collected, std::chrono::milliseconds(kStuckMs))) {
      complain("some children do not end");
    }
  }

  // In a process that never saw the segments.
  void afterwards() {
    const Life life = life_of(0);
    std::fflush(nullptr);
    const pid_t pid = fork();
    if (pid == 0) {
      look_around_afterwards(life);
      _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (status != 0) complain("who came afterwards ended with status " + std::to_string(status));
  }

  const StormOptions& options_;
  const Life& life_;
  Shared& shared_;
  test::Random random_;
  std::vector<Post> posts_;
  std::vector<PidNamespace> namespaces_;
  Outcome outcome_;
};

}  // namespace

Outcome direct(const StormOptions& options, const Life& life) {
  // Whoever interrupts it finds everything tidied up.
  for (const int number : {SIGINT, SIGTERM}) signal(number, [](int) { interrupted = true; });
  constexpr int kSomeWay = 5;
  [[maybe_unused]] const int priority = nice(kSomeWay);  // others want to get on beside it
  block_signals();  // those that it sends; workers inherit that
  return Director(options, life).run();
}

}  // namespace larder::storm
