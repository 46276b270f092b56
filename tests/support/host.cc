#include "tests/support/host.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "shm/entry.h"
#include "src/sync/event.h"
#include "src/sync/scripts.h"

namespace larder::test {
namespace {

using std::chrono::milliseconds;

constexpr int kPatienceMs = 30'000;

struct Request {
  char what = 0;
  std::string key;
  std::string value;
  milliseconds ttl{};
};

// Whole messages over a stream: each field as its size and its bytes.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}

  bool put(std::string_view bytes) {
    const std::uint64_t size = bytes.size();
    return write_all(&size, sizeof size) && write_all(bytes.data(), bytes.size());
  }
  bool put_number(std::int64_t number) {
    return put({reinterpret_cast<const char*>(&number), sizeof number});
  }
  bool take(std::string& bytes) {
    std::uint64_t size = 0;
    if (!read_all(&size, sizeof size)) return false;
    bytes.resize(size);
    return read_all(bytes.data(), size);
  }
  bool take_number(std::int64_t& number) {
    std::string bytes;
    if (!take(bytes) || bytes.size() != sizeof number) return false;
    std::memcpy(&number, bytes.data(), sizeof number);
    return true;
  }

 private:
  bool write_all(const void* data, std::size_t size) {
    for (const char* at = static_cast<const char*>(data); size > 0;) {
      const ssize_t done = send(fd_, at, size, MSG_NOSIGNAL);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return false;
      at += done;
      size -= static_cast<std::size_t>(done);
    }
    return true;
  }
  bool read_all(void* data, std::size_t size) {
    for (char* at = static_cast<char*>(data); size > 0;) {
      const ssize_t done = recv(fd_, at, size, 0);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return false;
      at += done;
      size -= static_cast<std::size_t>(done);
    }
    return true;
  }

  int fd_;
};

bool take_request(Wire& wire, Request& request) {
  std::string what;
  std::int64_t ttl = 0;
  if (!wire.take(what) || !wire.take(request.key) || !wire.take(request.value) ||
      !wire.take_number(ttl)) {
    return false;
  }
  request.what = what.at(0);
  request.ttl = milliseconds(ttl);
  return true;
}

bool put_answer(Wire& wire, const Answer& answer) {
  return wire.put_number(static_cast<std::int64_t>(answer.code)) &&
         wire.put_number(static_cast<std::int64_t>(answer.source)) &&
         wire.put_number(answer.stale ? 1 : 0) && wire.put(answer.value) &&
         wire.put(answer.message);
}

// ---- in the worker ----------------------------------------------------------------------------

Answer answer_of(const Status& status, Lookup lookup = {}) {
  return {status.code(), lookup.source, lookup.stale, std::move(lookup.value), status.message()};
}

[[noreturn]] void hammer_forever(Cache& cache, unsigned keys) {
  Lookup lookup;
  for (unsigned i = 0;; i = (i + 1) % keys) {
    const std::string key = "hammer:" + std::to_string(i);
    // Longer and shorter values, so that the segment turns over all the time.
    std::string value = key + "=";
    for (unsigned n = 0; n < 20 + i % 40; ++n) value += key;
    (void)cache.set(key, value);
    const Status read = cache.get(key, lookup);
    if (read.ok() && lookup.hit() && lookup.value != value) _exit(Worker::kWrongValue);
  }
}

Answer run_child(Cache& cache, bool uses_cache) {
  const pid_t child = fork();
  if (child == 0) {
    if (!uses_cache) _exit(0);
    const bool worked = cache.set("child", "was here").ok() && cache.get("child").ok();
    {
      // The child's own copy goes, as when a program returns from main.
      const Cache closing = std::move(cache);
    }
    _exit(worked ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  Answer answer;
  answer.message = std::to_string(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  return answer;
}

Answer perform(Cache& cache, const Request& request) {
  Lookup lookup;
  switch (request.what) {
    case 'g': {
      const Status status = cache.get(request.key, lookup);
      return answer_of(status, std::move(lookup));
    }
    case 'l': {
      const Status status = cache.get_local(request.key, lookup);
      return answer_of(status, std::move(lookup));
    }
    case 's':
      return answer_of(cache.set(request.key, request.value, request.ttl));
    case 'r':
      return answer_of(cache.remove(request.key));
    case 'c':
      return answer_of(cache.clear());
    case 'f':
      return run_child(cache, request.value == "uses");
    case 'j':
      return answer_of(cache.start());
    case 'h':
      hammer_forever(cache, static_cast<unsigned>(std::stoul(request.value)));
    default:
      return {Code::kInternal, Source::kNone, false, {}, "no such request"};
  }
}

[[noreturn]] void serve(Cache& cache, int socket, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  // What the test's framework would report of itself is not for its workers to report.
  for (const int number : {SIGTERM, SIGINT, SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) {
    ::signal(number, SIG_DFL);
  }
  Wire wire(socket);
  Request request;
  // Its end cannot be told by the socket's: workers forked later hold the other end too.
  while (take_request(wire, request) && request.what != 'q' &&
         put_answer(wire, perform(cache, request))) {
  }
  { const Cache closing = std::move(cache); }
  _exit(0);
}

}  // namespace

// ---- the host ---------------------------------------------------------------------------------

Options host_options(const TempDir& directory, std::string name, std::string address) {
  Options options;
  options.directory = directory.path();
  options.name = std::move(name);
  options.segment_bytes = 4u << 20;
  options.redis.address = std::move(address);
  // Nothing waits that long unless something is wrong, or the machine is busy.
  options.redis.timeout = milliseconds(10'000);
  return options;
}

shm::ChangeId log_end(RedisConnection& redis, const std::string& channel) {
  const Reply info = redis.command({"XINFO", "STREAM", sync::log_key(channel)});
  for (std::size_t i = 0; i + 1 < info.items.size(); i += 2) {
    if (!(info.items[i] == "last-generated-id")) continue;
    const auto id = sync::parse_change_id(info.items[i + 1].text);
    if (id) return *id;
  }
  return {};
}

HostView::HostView(const Options& options) {
  auto segment = shm::Segment::attach(shm::Segment::path_of(options.directory, options.name),
                                      shm::Access::kReadOnly);
  if (!segment) throw std::runtime_error(segment.status().to_string());
  segment_ = std::move(*segment);
}

std::uint32_t HostView::stripe_of(std::string_view key) const {
  return shm::stripe_of(segment_->geometry(), segment_->hash(key));
}

bool HostView::locked(std::uint32_t stripe) const {
  return segment_->stripe(stripe).lock.load(std::memory_order_relaxed) != 0;
}

bool HostView::follows(shm::ChangeId end) const {
  const shm::LeaderInfo now = leader();
  return now.follows && now.cursor == end;
}

std::string HostView::value(std::string_view key) const {
  std::string value;
  return shm::find_entry(*segment_, key, value) ? value : std::string();
}

std::vector<std::pair<std::string, std::string>> HostView::values() const {
  std::vector<std::pair<std::string, std::string>> all;
  shm::for_each_entry(*segment_, [&](const shm::EntryInfo& entry) {
    std::string value;
    if (entry.live && shm::find_entry(*segment_, entry.key, value)) {
      all.emplace_back(entry.key, std::move(value));
    }
    return true;
  });
  return all;
}

shm::CheckReport HostView::check(bool quiescent) const {
  return shm::check(*segment_, {.deep = true, .quiescent = quiescent});
}

// ---- the worker, seen from the test -----------------------------------------------------------

Worker::Worker(Cache& cache) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    throw std::runtime_error("socketpair failed");
  }
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ == 0) {
    close(ends[0]);
    serve(cache, ends[1], parent);
  }
  close(ends[1]);
  socket_ = ends[0];
  ask('j');
  const Answer joined = answer();
  if (!joined.ok()) throw std::runtime_error("a worker could not start: " + joined.message);
}

Worker::Worker(Worker&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), socket_(std::exchange(other.socket_, -1)) {}

Worker& Worker::operator=(Worker&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(socket_, other.socket_);
  return *this;
}

Worker::~Worker() {
  if (socket_ >= 0) close(socket_);
  if (pid_ > 0) kill();
}

void Worker::ask(char what, std::string_view key, std::string_view value, milliseconds ttl) {
  Wire wire(socket_);
  if (!wire.put({&what, 1}) || !wire.put(key) || !wire.put(value) ||
      !wire.put_number(ttl.count())) {
    throw std::runtime_error("the worker is gone");
  }
}

Answer Worker::answer() {
  pollfd watched{socket_, POLLIN, 0};
  if (poll(&watched, 1, kPatienceMs) != 1) throw std::runtime_error("the worker does not answer");
  Wire wire(socket_);
  std::int64_t code = 0;
  std::int64_t source = 0;
  std::int64_t stale = 0;
  Answer answer;
  if (!wire.take_number(code) || !wire.take_number(source) || !wire.take_number(stale) ||
      !wire.take(answer.value) || !wire.take(answer.message)) {
    throw std::runtime_error("the worker died");
  }
  answer.code = static_cast<Code>(code);
  answer.source = static_cast<Source>(source);
  answer.stale = stale != 0;
  return answer;
}

Answer Worker::get(std::string_view key) {
  ask('g', key);
  return answer();
}

Answer Worker::get_local(std::string_view key) {
  ask('l', key);
  return answer();
}

Answer Worker::set(std::string_view key, std::string_view value, milliseconds ttl) {
  ask('s', key, value, ttl);
  return answer();
}

Answer Worker::remove(std::string_view key) {
  ask('r', key);
  return answer();
}

Answer Worker::clear() {
  ask('c');
  return answer();
}

void Worker::hammer(unsigned keys) { ask('h', {}, std::to_string(keys)); }

Answer Worker::fork_child(bool uses_cache) {
  ask('f', {}, uses_cache ? "uses" : "idle");
  return answer();
}

void Worker::signal(int number) { ::kill(pid_, number); }

void Worker::stop() {
  signal(SIGSTOP);
  int status = 0;
  waitpid(pid_, &status, WUNTRACED);
  if (!WIFSTOPPED(status)) throw std::runtime_error("the worker did not stop");
}

int Worker::wait() {
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return status;
}

int Worker::finish() {
  ask('q');
  int status = 0;
  if (!await([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, milliseconds(kPatienceMs))) {
    throw std::runtime_error("the worker does not exit");
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace larder::test
