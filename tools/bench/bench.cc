#include "tools/bench/bench.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "larder/cache.h"
#include "tools/bench/backend.h"
#include "tools/bench/process.h"
#include "tools/bench/server.h"

namespace larder::bench {
namespace {

constexpr std::uint64_t kMb = 1 << 20;
constexpr std::uint64_t kLarderEntryBytes = 64;  // beside key and value, rounded up

void note(std::vector<std::string>& notes, std::string text) {
  if (std::find(notes.begin(), notes.end(), text) == notes.end()) notes.push_back(std::move(text));
}

std::uint64_t payload_bytes(const Keys& keys, const Values& values, std::uint32_t count) {
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < count; ++i) sum += keys[i].size() + values.size_of(i);
  return sum;
}

}  // namespace

// ---- one group --------------------------------------------------------------------------------

class Bench::Group {
 public:
  Group(Bench& bench, const Plan& plan)
      : bench_(bench),
        a_(bench.a_),
        plan_(plan),
        held_(plan.kind == Kind::kInsert ? static_cast<std::uint32_t>(a_.keys)
                                         : keys_of(plan.kind, static_cast<std::uint32_t>(a_.keys))),
        keys_(keys_of(plan.kind, static_cast<std::uint32_t>(a_.keys)),
              static_cast<std::size_t>(a_.key_bytes)),
        values_(plan.kind == Kind::kLarge ? kLargeLeastBytes : plan.value_bytes, plan.value_bytes) {
  }

  Status run() {
    if (Status status = open(); !status.ok()) return status;
    for (std::int64_t repeat = 0; repeat < a_.repeats; ++repeat) {
      if (Status status = measure_each_once(repeat); !status.ok()) return status;
    }
    for (Turn& turn : turns_) bench_.report_.cases.push_back(std::move(turn.result));
    return {};
  }

 private:
  // A backend with a number of processes, with or without a writer.
  struct Turn {
    Backend* backend;
    Case result;
  };

  Status open() {
    auto scratch = Scratch::make(a_.directory);
    if (!scratch) return scratch.status();
    scratch_.emplace(std::move(*scratch));
    setting_ = {scratch_->path(), room_bytes(), payload_bytes(keys_, values_, held_), held_,
                std::max<std::uint64_t>(plan_.value_bytes, 1)};
    setting_.ttl = ttl_of(a_.ttl);
    if (Status status = open_larder(); !status.ok()) return status;
    for (const auto& name : a_.backends) {
      if (Status status = add(name); !status.ok()) return status;
    }
    return {};
  }

  // Twice the bytes, for overwrites leave dead entries behind; and room for the index. An insert
  // shall find it full.
  std::uint64_t room_bytes() const {
    if (a_.segment_mb != 0) return static_cast<std::uint64_t>(a_.segment_mb) * kMb;
    const std::uint64_t bytes = payload_bytes(keys_, values_, held_) + kLarderEntryBytes * held_;
    if (plan_.kind == Kind::kInsert) return std::max(bytes / kMb + 1, std::uint64_t{4}) * kMb;
    return (std::max(2 * bytes, 768 * std::uint64_t{held_}) / kMb + 16) * kMb;
  }

  Status open_larder() {
    Options options;
    options.name = "bench";
    options.directory = scratch_->path();
    options.segment_bytes = setting_.room_bytes;
    options.value_max_bytes = std::max(options.value_max_bytes, setting_.value_max_bytes);
    options.policy = a_.policy == "lru" ? Policy::kLru : Policy::kLfu;
    if (a_.redis) {
      auto server = start_redis(scratch_->path(), "larder-redis", 0);
      if (!server) return server.status();
      redis_ = std::move(*server);
      options.redis.address = redis_->socket();
    }
    auto cache = Cache::open(options);
    if (!cache) return cache.status();
    cache_.emplace(std::move(*cache));
    setting_.larder = &*cache_;
    return a_.redis ? start_leader() : Status();
  }

  // A process beside those that are measured leads, so that none of them does.
  Status start_leader() {
    Pipe ready;
    if (!ready.ok()) return no_process();
    leader_ = std::make_unique<Child>([&] {
      if (!cache_->start().ok()) return;
      while (!cache_->in_sync()) wait_a_moment(0.005);
      if (ready.tell()) wait_a_moment(1e6);
    });
    if (!leader_->ok()) return no_process();
    ready.close_write();
    if (ready.hear()) return {};
    if (interrupted()) return interruption();
    return {Code::kInternal, "the leader died: " + leader_->wait()};
  }

  std::string unfit(const Traits& traits) const {
    if (plan_.kind == Kind::kInsert && !traits.evicts)
      return "it is not bounded, and insert is about what is full";
    if (keys_[0].size() > traits.key_max_bytes) {
      return "it has keys of at most " + std::to_string(traits.key_max_bytes) + " bytes";
    }
    return {};
  }

  void leave_out(const std::string& name, const std::string& why) {
    note(bench_.report_.notes, name + " was left out: " + why);
    bench_.progress_.skip(a_.processes.size() * (a_.writer ? 2 : 1) *
                          static_cast<std::size_t>(a_.repeats));
  }

  Status add(const std::string& name) {
    auto backend = make_backend(name);
    if (!backend) {
      leave_out(name, backend.status().message());
      return {};
    }
    if (const std::string why = unfit((*backend)->traits()); !why.empty()) {
      leave_out(name, why);
      return {};
    }
    if (name == "larder-many" && plan_.kind != Kind::kGetHit) {
      leave_out(name, "it is measured with get-hit only");
      return {};
    }
    if (Status status = (*backend)->open(setting_); !status.ok()) {
      if (status.code() != Code::kNotFound) return status;
      leave_out(name, status.message());
      return {};
    }
    if (Status status = fill_once(**backend); !status.ok()) return status;
    add_turns(**backend);
    backends_.push_back(std::move(*backend));
    return {};
  }

  Status fill_once(Backend& backend) {
    if (is_larder(backend.name()) && std::exchange(larder_filled_, true)) return {};
    Status status = fill(backend, keys_, values_);
    if (status.ok() && is_larder(backend.name())) setting_.capacity = cache_->stats().entries;
    return status;
  }

  void add_turns(Backend& backend) {
    for (const std::int64_t processes : a_.processes) {
      for (const bool writer : {false, true}) {
        if (writer && !a_.writer) continue;
        if (writer && (!backend.traits().shared || plan_.kind == Kind::kInsert)) {
          note(bench_.report_.notes,
               plan_.kind == Kind::kInsert
                   ? "insert is not measured beside a writer"
                   : backend.name() + " is not measured beside a writer: it is not shared");
          bench_.progress_.skip(static_cast<std::size_t>(a_.repeats));
          continue;
        }
        if (processes > 1 && !backend.traits().shared) {
          note(bench_.report_.notes,
               backend.name() + " lives within one process: each process has a copy of its own");
        }
        turns_.push_back({&backend,
                          {backend.name(),
                           backend.traits(),
                           plan_.kind,
                           plan_.distribution,
                           plan_.value_bytes,
                           static_cast<std::uint32_t>(processes),
                           writer,
                           setting_.room_bytes,
                           {}}});
      }
    }
  }

  Status measure_each_once(std::int64_t repeat) {
    std::vector<std::size_t> order(turns_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::mt19937_64 random(static_cast<std::uint64_t>(a_.seed + repeat));
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      if (Status status = measure(turns_[i], repeat); !status.ok()) return status;
    }
    return {};
  }

  Status measure(Turn& turn, std::int64_t repeat) {
    Case& one = turn.result;
    bench_.progress_.step(kind_name(one.kind) + ", " + std::to_string(one.value_bytes) + " B, " +
                          one.backend + ", processes " + std::to_string(one.processes) +
                          (one.writer ? " and a writer" : "") + ", repeat " +
                          std::to_string(repeat + 1) + " of " + std::to_string(a_.repeats));
    RunOptions options;
    options.kind = one.kind;
    options.distribution = one.distribution;
    options.processes = one.processes;
    options.writer = one.writer;
    options.latency = a_.latency;
    options.warmup_seconds = a_.warmup;
    options.seconds = a_.seconds;
    // Another order in each repeat, the same in the same repeat of every run of this program.
    options.seed = static_cast<std::uint64_t>(a_.seed + repeat * (kMaxProcesses + 1));
    if (!a_.no_pin) options.cpus = bench_.cpus_;
    auto result = bench::run(*turn.backend, keys_, values_, options);
    if (!result) return result.status();
    if (Status status = bench_.check(one, *result, keys_.count()); !status.ok()) return status;
    one.repeats.push_back(std::move(*result));
    return {};
  }

  Bench& bench_;
  const Arguments& a_;
  const Plan plan_;
  const std::uint32_t held_;  // how many keys shall fit
  const Keys keys_;
  const Values values_;
  std::optional<Scratch> scratch_;
  std::unique_ptr<Server> redis_;
  std::optional<Cache> cache_;
  std::unique_ptr<Child> leader_;
  Setting setting_{};
  bool larder_filled_ = false;
  std::vector<std::unique_ptr<Backend>> backends_;
  std::vector<Turn> turns_;
};

// ---- all groups -------------------------------------------------------------------------------

Bench::Bench(const Arguments& arguments)
    : a_(arguments), cpus_(usable_cpus()), progress_(arguments.progress) {
  report_.compare = a_.compare;
  report_.latency = a_.latency;
}

std::vector<Bench::Plan> Bench::plans() const {
  std::vector<Plan> plans;
  for (const std::int64_t value_bytes : a_.value_bytes) {
    for (const auto& workload : a_.workloads) {
      for (const auto& distribution : a_.distributions) {
        const Kind kind = kind_of(workload);
        const bool zipf = distribution == "zipf";
        // Large values have their own sizes, new keys their own order: once is enough.
        if (kind == Kind::kLarge && value_bytes != a_.value_bytes.front()) continue;
        if (kind == Kind::kInsert && distribution != a_.distributions.front()) continue;
        plans.push_back({kind, zipf ? Distribution::kZipf : Distribution::kUniform,
                         kind == Kind::kLarge ? std::size_t{kLargeMostBytes}
                                              : static_cast<std::size_t>(value_bytes)});
      }
    }
  }
  return plans;
}

std::size_t Bench::steps() const {
  return plans().size() * a_.backends.size() * a_.processes.size() * (a_.writer ? 2u : 1u) *
         static_cast<std::size_t>(a_.repeats);
}

Status Bench::run_all() {
  warn();
  progress_.expect(steps());
  for (const Plan& plan : plans()) {
    if (Status status = Group(*this, plan).run(); !status.ok()) return status;
  }
  progress_.clear();
  return {};
}

void Bench::warn() const {
  const std::int64_t most = *std::max_element(a_.processes.begin(), a_.processes.end());
  if (cpus_.empty() || most <= static_cast<std::int64_t>(cpus_.size())) return;
  std::fprintf(stderr,
               "larder-bench: warning: %lld processes on %zu usable cores: they will wait for "
               "each other, and ns/op includes that\n",
               static_cast<long long>(most), cpus_.size());
}

// A case that shared its cores measured the neighbours too.
void Bench::warn_if_disturbed() const {
  constexpr double kQuiet = 0.95;
  const auto disturbed = [&](const Case& one) {
    const std::uint32_t busy = one.processes + (one.writer ? 1 : 0);
    const bool waits = one.traits.remote || (a_.redis && has_sets(one.kind));
    return !waits && busy <= cpus_.size() && cpu_share(one) < kQuiet;
  };
  if (std::none_of(report_.cases.begin(), report_.cases.end(), disturbed)) return;
  std::fprintf(stderr,
               "larder-bench: warning: other programs ran on the same cores (see CORE TIME, or "
               "cpu_share); the figures are too high\n");
}

// What the samples of one repeat say about the run itself; ok: they count.
Status Bench::check(const Case& one, const Repeat& repeat, std::uint32_t keys) const {
  for (const Sample& sample : repeat.samples) {
    if (sample.counts.wrong_values != 0) {
      return {Code::kInternal, std::to_string(sample.counts.wrong_values) +
                                   " reads returned another key's value: a defect of " +
                                   one.backend};
    }
    const bool misses = sample.absent_before != 0 || sample.counts.hits != sample.counts.reads;
    if (one.kind == Kind::kGetHit && misses) {
      return {
          Code::kNoSpace,
          std::to_string(std::max(sample.absent_before, sample.counts.reads - sample.counts.hits)) +
              " of " + std::to_string(keys) + " keys do not fit a segment of " +
              tools::format_bytes(one.segment_bytes) +
              ", so this would not measure hits; raise --segment-mb, or measure 'mixed'"};
    }
  }
  return {};
}

void Bench::print() const {
  warn_if_disturbed();
  if (a_.json) {
    std::printf("%s\n", report_.json(settings()).dump(-1, ' ', true).c_str());
    return;
  }
  std::printf("%lld keys of %lld bytes; %lld repeats of %g s\n\n", static_cast<long long>(a_.keys),
              static_cast<long long>(a_.key_bytes), static_cast<long long>(a_.repeats), a_.seconds);
  report_.table().print(stdout);
  if (a_.latency) {
    std::printf(
        "\nOf single operations (of larder-many: of 32); the clock's own %.0f ns are in it\n\n",
        tick_facts().cost_nanoseconds);
    report_.latency_table().print(stdout);
  }
  if (!report_.notes.empty()) std::printf("\n");
  for (const auto& text : report_.notes) std::printf("note: %s\n", text.c_str());
}

tools::Json Bench::settings() const {
  return {{"mode", a_.compare ? "compare" : "run"},
          {"keys", a_.keys},
          {"key_bytes", a_.key_bytes},
          {"seconds", a_.seconds},
          {"warmup", a_.warmup},
          {"repeats", a_.repeats},
          {"seed", a_.seed},
          {"ttl", a_.ttl},
          {"policy", a_.policy},
          {"redis", a_.redis},
          {"pinned", !a_.no_pin},
          {"usable_cpus", cpus_.size()},
          {"clock_ns", tick_facts().cost_nanoseconds}};
}

}  // namespace larder::bench
