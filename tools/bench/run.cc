#include "tools/bench/run.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "tools/bench/process.h"

namespace larder::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMessageBytes = 480;
constexpr std::size_t kBatch = 1024;
constexpr std::size_t kRemoteBatch = 32;  // a look at the clock is nothing beside a round trip

// What workers and parent share.
struct Answer {
  Sample sample;
  Histogram latency;
  char error[kMessageBytes];  // empty: fine
};
struct Board {
  std::atomic<bool> writer_shall_stop;
};

Status store_all(Backend& backend, const Keys& keys, Values values) {
  for (std::uint32_t i = 0; i < keys.count(); ++i) {
    // A store may be busy for a moment; one that refuses for good does so every time.
    if (!backend.set(keys[i], values.of(i)) && !backend.set(keys[i], values.of(i))) {
      return {Code::kNoSpace, backend.name() + " refused key " + std::to_string(i) + " of " +
                                  std::to_string(keys.count()) +
                                  " while it was filled: " + backend.error()};
    }
  }
  return {};
}

// ---- in a worker ------------------------------------------------------------------------------

class Worker {
 public:
  Worker(Backend& backend, const Keys& keys, const Values& values, const RunOptions& options,
         std::uint32_t index)
      : backend_(backend),
        options_(options),
        values_(values),
        is_writer_(index == options.processes),
        operations_(plan(is_writer_ ? Kind::kSet : options.kind, options.distribution, keys.count(),
                         options.seed + index, share(index))),
        walk_{keys, values_, operations_} {}

  // Takes its place, maps all there is, and reads every key once.
  Status prepare() {
    start_idle_thread();
    if (Status status = backend_.connect(); !status.ok()) return status;
    if (!backend_.traits().shared) {
      if (Status status = store_all(backend_, walk_.keys, values_); !status.ok()) return status;
    }
    if (!backend_.traits().remote) absent_ = backend_.touch(walk_.keys);
    return {};
  }

  void measure(Answer& answer) {
    run_for(options_.warmup_seconds, [&] { walk(); });
    walk_.counts = {};
    const std::uint64_t cpu_before = cpu_nanoseconds();
    const auto [batches, elapsed] = run_for(options_.seconds, [&] { walk(); });
    answer.sample.cpu_nanoseconds = cpu_nanoseconds() - cpu_before;
    answer.sample.counts = walk_.counts;
    answer.sample.operations = batches * batch();
    answer.sample.nanoseconds = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
    answer.sample.absent_before = absent_;
    if (options_.latency) {
      run_for(options_.seconds, [&] { backend_.walk_timed(walk_, batch(), answer.latency); });
    }
  }

  void write_until(const std::atomic<bool>& stop) {
    while (!stop.load(std::memory_order_relaxed)) walk();
  }

 private:
  double share(std::uint32_t index) const {
    return static_cast<double>(index) / (options_.processes + 1);
  }
  std::size_t batch() const { return backend_.traits().remote ? kRemoteBatch : kBatch; }
  void walk() { backend_.walk(walk_, batch()); }

  template <class Step>
  std::pair<std::uint64_t, Clock::duration> run_for(double seconds, Step step) {
    const auto wanted = std::chrono::duration<double>(seconds);
    const auto start = Clock::now();
    std::uint64_t batches = 0;
    Clock::duration elapsed{};
    do {
      step();
      ++batches;
      elapsed = Clock::now() - start;
    } while (elapsed < wanted);
    return {batches, elapsed};
  }

  Backend& backend_;
  const RunOptions& options_;
  Values values_;
  const bool is_writer_;
  const std::vector<Operation> operations_;
  Walk walk_;
  std::uint64_t absent_ = 0;
};

// ---- worker and parent ------------------------------------------------------------------------

// They say to each other: prepared, go (the gate closes), done.
struct Seat {
  Pipe told;
  std::unique_ptr<Child> child;
};

struct Crew {
  Crew(Backend& b, const Keys& k, const Values& v, const RunOptions& o)
      : backend(b), keys(k), values(v), options(o), answers(o.processes + 1u), board(1) {}

  void work(std::uint32_t index, const Pipe& told);
  Status hire(std::uint32_t index);
  // Its next word; its death is an error that says how it died.
  Status hear(std::size_t index);

  Backend& backend;
  const Keys& keys;
  const Values& values;
  const RunOptions& options;
  Pipe gate;
  Shared<Answer> answers;
  Shared<Board> board;
  std::vector<std::unique_ptr<Seat>> seats;
};

void Crew::work(std::uint32_t index, const Pipe& told) {
  pin(options.cpus, index);
  Worker worker(backend, keys, values, options, index);
  if (Status status = worker.prepare(); !status.ok()) {
    std::snprintf(answers[index].error, kMessageBytes, "%s", status.to_string().c_str());
  }
  if (!told.tell() || answers[index].error[0] != 0) return;
  gate.close_write();
  (void)gate.hear();  // ends when the parent closes its end, for all at once
  if (index == options.processes) {
    worker.write_until(board[0].writer_shall_stop);
  } else {
    worker.measure(answers[index]);
  }
  backend.disconnect();
  (void)told.tell();
}

Status Crew::hire(std::uint32_t index) {
  auto seat = std::make_unique<Seat>();
  if (!seat->told.ok()) return no_process();
  seat->child = std::make_unique<Child>([&, this] { work(index, seat->told); });
  if (!seat->child->ok()) return no_process();
  seat->told.close_write();
  seats.push_back(std::move(seat));
  return {};
}

Status Crew::hear(std::size_t index) {
  if (!seats[index]->told.hear()) {
    if (interrupted()) return interruption();
    return {Code::kInternal, "a worker died: " + seats[index]->child->wait()};
  }
  const char* error = answers[index].error;
  if (error[0] != 0) return {Code::kInternal, std::string("a worker failed: ") + error};
  return {};
}

}  // namespace

Status fill(Backend& backend, const Keys& keys, const Values& values) {
  if (!backend.traits().shared) return {};
  return in_child([&]() -> Status {
    if (Status status = backend.connect(); !status.ok()) return status;
    Status status = store_all(backend, keys, values);
    backend.disconnect();
    return status;
  });
}

Result<Repeat> run(Backend& backend, const Keys& keys, const Values& values,
                   const RunOptions& options) {
  Crew crew(backend, keys, values, options);
  if (!crew.gate.ok() || !crew.answers.ok() || !crew.board.ok()) return no_process();
  const std::uint32_t all = options.processes + (options.writer ? 1 : 0);
  for (std::uint32_t i = 0; i < all; ++i) {
    if (Status status = crew.hire(i); !status.ok()) return status;
  }
  for (std::uint32_t i = 0; i < all; ++i) {
    if (Status status = crew.hear(i); !status.ok()) return status;
  }
  crew.gate.close_write();
  for (std::uint32_t i = 0; i < options.processes; ++i) {
    if (Status status = crew.hear(i); !status.ok()) return status;
  }
  crew.board[0].writer_shall_stop.store(true);
  if (options.writer) {
    if (Status status = crew.hear(options.processes); !status.ok()) return status;
  }
  Repeat repeat;
  for (std::uint32_t i = 0; i < options.processes; ++i) {
    repeat.samples.push_back(crew.answers[i].sample);
    repeat.latency.merge(crew.answers[i].latency);
  }
  for (auto& seat : crew.seats) (void)seat->child->wait();
  return repeat;
}

}  // namespace larder::bench
