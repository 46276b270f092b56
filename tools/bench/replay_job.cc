#include "tools/bench/replay_job.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

namespace larder::bench {
namespace {

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string error_text(int error) { return std::strerror(error); }

}  // namespace

// ---- what is stored -----------------------------------------------------------------------------

// The finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, 2014), folded onto the range.
std::uint32_t item_bytes(std::uint32_t id) noexcept {
  std::uint64_t x = id + 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return kItemLeastBytes + static_cast<std::uint32_t>(x % (kItemMostBytes - kItemLeastBytes + 1));
}

namespace {

// "k7:1234"
class KeyOf {
 public:
  explicit KeyOf(std::uint64_t seed) : head_(append("k", seed)) { text_[head_++] = ':'; }
  std::string_view operator()(std::uint32_t id) noexcept {
    char* const end = std::to_chars(text_.data() + head_, text_.data() + text_.size(), id).ptr;
    return {text_.data(), static_cast<std::size_t>(end - text_.data())};
  }

 private:
  std::size_t append(std::string_view name, std::uint64_t seed) noexcept {
    std::memcpy(text_.data(), name.data(), name.size());
    char* const from = text_.data() + name.size();
    return static_cast<std::size_t>(std::to_chars(from, text_.data() + text_.size(), seed).ptr -
                                    text_.data());
  }
  std::array<char, 48> text_{};
  std::size_t head_;
};

// Values carry their id at both ends.
class ValueOf {
 public:
  ValueOf() { bytes_.fill('v'); }
  std::string_view operator()(std::uint32_t id, std::size_t size) noexcept {
    const std::uint64_t mark = id;
    static_assert(sizeof mark == kMarkBytes);
    std::memcpy(bytes_.data(), &mark, kMarkBytes);
    // The bytes that were the end of a longer or shorter value stay: nobody compares the middle.
    std::memcpy(bytes_.data() + size - kMarkBytes, &mark, kMarkBytes);
    return {bytes_.data(), size};
  }
  static bool is_of(std::string_view value, std::uint32_t id, std::size_t size) noexcept {
    const std::uint64_t mark = id;
    return value.size() == size && std::memcmp(value.data(), &mark, kMarkBytes) == 0 &&
           std::memcmp(value.data() + size - kMarkBytes, &mark, kMarkBytes) == 0;
  }

 private:
  std::array<char, kItemMostBytes> bytes_;
};

// Goes through requests on behalf of one process.
class Replayer {
 public:
  Replayer(Cache& cache, const Trace& trace, std::uint64_t seed, bool sized, Outcome& outcome)
      : cache_(cache), trace_(trace), key_of_(seed), sized_(sized), outcome_(outcome) {}

  // Get; on a miss, put.
  Status request(std::uint64_t position) {
    const std::uint32_t id = trace_.ids[trace_.requests[position]];
    const std::string_view key = key_of_(id);
    const std::size_t size = sized_ ? item_bytes(id) - key.size() : kMarkBytes;
    ++outcome_.requests;
    if (Status status = cache_.get_local(key, lookup_); !status.ok()) return status;
    if (lookup_.hit()) {
      ++outcome_.hits;
      if (!ValueOf::is_of(lookup_.value, id, size)) ++outcome_.wrong_values;
      return {};
    }
    Status status = cache_.set(key, value_of_(id, size));
    if (status.ok() || status.code() != Code::kBusy) return status;
    ++outcome_.failed_sets;
    return {};
  }

 private:
  Cache& cache_;
  const Trace& trace_;
  KeyOf key_of_;
  ValueOf value_of_;
  const bool sized_;
  Outcome& outcome_;
  Lookup lookup_;
};

}  // namespace

Status replay(Cache& cache, const Trace& trace, std::uint64_t seed, bool sized, Job::Shared& shared,
              Outcome& outcome) {
  if (Status status = cache.start(); !status.ok()) return status;
  Outcome mine;  // not in the shared mapping, where the processes' counts are neighbours
  Replayer replayer(cache, trace, seed, sized, mine);
  Job::wait_for_others(shared);
  mine.began_ns = now_ns();
  for (std::uint64_t i = 0; (i = Job::take(shared)) < trace.requests.size();) {
    if (Status status = replayer.request(i); !status.ok()) return status;
  }
  mine.ended_ns = now_ns();
  outcome = mine;
  return {};
}

// ---- processes ----------------------------------------------------------------------------------

Signals::Signals() {
  (void)signal(SIGCHLD, SIG_DFL);  // whoever started us may have had it ignored
  (void)signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error of writing
  sigemptyset(&waited_for_);
  for (const int number : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&waited_for_, number);
  sigprocmask(SIG_BLOCK, &waited_for_, &mask_before_);
}

Signals::~Signals() { sigprocmask(SIG_SETMASK, &mask_before_, nullptr); }

bool Signals::wait_for_child() {
  int number = -1;
  while (!interrupted_ && (number = sigwaitinfo(&waited_for_, nullptr)) < 0) {
  }
  if (number == SIGINT || number == SIGTERM) interrupted_ = true;
  return !interrupted_;
}

bool Signals::interrupted() {
  sigset_t interrupts;
  sigemptyset(&interrupts);
  sigaddset(&interrupts, SIGINT);
  sigaddset(&interrupts, SIGTERM);
  const timespec at_once{};
  // Taken, not just looked at: one left pending would strike when this object goes.
  while (sigtimedwait(&interrupts, nullptr, &at_once) > 0) interrupted_ = true;
  return interrupted_;
}

struct Job::Shared {
  pthread_barrier_t begin;
  std::atomic<std::uint64_t> position{0};

  // One a process; they lie behind this.
  Outcome* outcomes() noexcept { return reinterpret_cast<Outcome*>(this + 1); }
};

void Job::wait_for_others(Shared& shared) { pthread_barrier_wait(&shared.begin); }

std::uint64_t Job::take(Shared& shared) noexcept {
  // Relaxed: positions are all that processes tell each other here.
  return shared.position.fetch_add(1, std::memory_order_relaxed);
}

Job::Job(std::uint32_t processes)
    : shared_bytes_(sizeof(Shared) + processes * sizeof(Outcome)), shared_(nullptr) {}

Result<std::unique_ptr<Job>> Job::start(std::uint32_t processes, const Work& work) {
  std::unique_ptr<Job> job(new Job(processes));
  void* const memory =
      mmap(nullptr, job->shared_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Status(Code::kNoSpace, "no memory: " + error_text(errno));
  job->shared_ = new (memory) Shared;
  pthread_barrierattr_t between_processes;
  pthread_barrierattr_init(&between_processes);
  pthread_barrierattr_setpshared(&between_processes, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&job->shared_->begin, &between_processes, processes);
  const pid_t parent = getpid();
  for (std::uint32_t i = 0; i < processes; ++i) {
    Outcome& outcome = *new (&job->shared_->outcomes()[i]) Outcome;
    const pid_t pid = fork();
    if (pid < 0) return Status(Code::kNoSpace, "cannot fork: " + error_text(errno));
    if (pid > 0) {
      job->running_.push_back(pid);
      continue;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // it died before that took hold
    if (const Status status = work(*job->shared_, outcome); !status.ok()) {
      std::snprintf(outcome.error, sizeof outcome.error, "%s", status.to_string().c_str());
    }
    _exit(0);
  }
  return job;
}

Job::~Job() {
  for (const pid_t pid : running_) {
    if (pid > 0) kill(pid, SIGKILL);
  }
  for (pid_t& pid : running_) collect(pid, true);
  if (shared_ != nullptr) munmap(shared_, shared_bytes_);
}

void Job::collect(pid_t& pid, bool wait) {
  int how = 0;
  pid_t got = -1;
  do {
    got = pid > 0 ? waitpid(pid, &how, wait ? 0 : WNOHANG) : 0;
  } while (got < 0 && errno == EINTR);
  if (got == 0) return;
  const auto index = static_cast<std::size_t>(&pid - running_.data());
  pid = -1;
  if (!failed_.ok()) return;
  const char* const error = shared_->outcomes()[index].error;
  if (WIFSIGNALED(how)) {
    failed_ = {Code::kInternal, "a process died: killed by signal " +
                                    std::to_string(WTERMSIG(how)) + "; nothing of it counts"};
  } else if (error[0] != '\0') {
    failed_ = {Code::kInternal, error};
  }
}

bool Job::ended() {
  for (pid_t& pid : running_) collect(pid, false);
  return !failed_.ok() ||
         std::all_of(running_.begin(), running_.end(), [](pid_t pid) { return pid < 0; });
}

Result<Outcome> Job::outcome() const {
  if (!failed_.ok()) return failed_;
  Outcome sum = shared_->outcomes()[0];
  for (std::size_t i = 1; i < running_.size(); ++i) {
    const Outcome& one = shared_->outcomes()[i];
    sum.requests += one.requests;
    sum.hits += one.hits;
    sum.wrong_values += one.wrong_values;
    sum.failed_sets += one.failed_sets;
    sum.began_ns = std::min(sum.began_ns, one.began_ns);
    sum.ended_ns = std::max(sum.ended_ns, one.ended_ns);
  }
  return sum;
}

// ---- segments -----------------------------------------------------------------------------------

Result<std::unique_ptr<SegmentFolder>> SegmentFolder::make(const std::string& directory) {
  std::string path = directory + "/larder-bench-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) {
    return Status(Code::kPermissionDenied,
                  "cannot make a folder in " + directory + ": " + error_text(errno));
  }
  return std::unique_ptr<SegmentFolder>(new SegmentFolder(std::move(path)));
}

SegmentFolder::~SegmentFolder() {
  std::error_code ignored;  // what cannot be removed now stays
  std::filesystem::remove_all(path_, ignored);
}

Options SegmentFolder::next_options() {
  Options options;
  options.directory = path_;
  options.name = std::to_string(next_++);
  return options;
}

void SegmentFolder::remove(const Options& options) const {
  std::error_code ignored;
  std::vector<std::filesystem::path> files;
  const std::string file = "larder." + options.name;
  for (const auto& entry : std::filesystem::directory_iterator(path_, ignored)) {
    const std::string name = entry.path().filename();
    if (name == file || name.starts_with(file + ".")) files.push_back(entry.path());
  }
  for (const auto& each : files) std::filesystem::remove(each, ignored);
}

namespace {

constexpr std::uint64_t kPageBytes = 4096;

// What larder accepts: looked for, as it is a matter of the layout.
std::uint64_t smallest_segment_bytes() {
  Options options;
  std::uint64_t refused = 0;
  std::uint64_t accepted = options.segment_bytes / kPageBytes;
  while (accepted - refused > 1) {
    const std::uint64_t pages = refused + (accepted - refused) / 2;
    options.segment_bytes = pages * kPageBytes;
    (validate(options).ok() ? accepted : refused) = pages;
  }
  return accepted * kPageBytes;
}

Result<Room> room_of(SegmentFolder& folder, Policy policy, std::uint64_t segment_bytes) {
  Options options = folder.next_options();
  options.policy = policy;
  options.segment_bytes = segment_bytes;
  auto cache = Cache::open(options);
  if (!cache) return cache.status();
  const Room room{segment_bytes, cache->stats().arena_bytes};
  folder.remove(options);
  return room;
}

// Between two segments, the one whose room is `bytes` if room grows evenly; else their middle.
std::uint64_t between(const Room& below, const Room& above, std::uint64_t bytes, bool evenly) {
  const std::uint64_t pages = (above.segment_bytes - below.segment_bytes) / kPageBytes;
  const double share = evenly ? static_cast<double>(bytes - below.bytes) /
                                    static_cast<double>(above.bytes - below.bytes)
                              : 0.5;
  const auto step = static_cast<std::uint64_t>(share * static_cast<double>(pages));
  return below.segment_bytes + std::clamp<std::uint64_t>(step, 1, pages - 1) * kPageBytes;
}

}  // namespace

Result<Room> find_room(SegmentFolder& folder, Policy policy, std::uint64_t bytes) {
  auto below = room_of(folder, policy, smallest_segment_bytes());
  if (!below || below->bytes > bytes) return below;
  Result<Room> above = below;
  for (std::uint64_t pages = (bytes + bytes / 8) / kPageBytes + 64; above->bytes <= bytes;
       pages *= 2) {
    above = room_of(folder, policy, pages * kPageBytes);
    if (!above) return above;
  }
  const std::uint64_t near_enough = bytes / 2000;
  Room best = *below;  // room may jump where a segment is divided otherwise, down as well
  bool evenly = true;
  while (above->segment_bytes - below->segment_bytes > kPageBytes &&
         bytes - below->bytes > near_enough) {
    auto room = room_of(folder, policy, between(*below, *above, bytes, evenly));
    if (!room) return room;
    if (room->bytes <= bytes && room->bytes > best.bytes) best = *room;
    (room->bytes <= bytes ? below : above) = std::move(room);
    evenly = !evenly;
  }
  return best;
}

}  // namespace larder::bench
