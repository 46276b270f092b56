// What is measured: larder, or what one would otherwise use, behind one seam.
//
// A store is a plain class, without a virtual call on its way, so that the timed loop is compiled
// for each of them:
//   static constexpr Traits kTraits;
//   Status open(const Setting&);     once, in the parent; starts a server, makes a file
//   Status connect();                in each process after fork
//   bool get(std::string_view key);  false: a miss. value(): what was got, until the next get
//   bool set(std::string_view key, std::string_view value);
// One that can ask for many keys at once has kBatch and get_many instead of get; see below.
// `backend_of<Store>(name)` makes a Backend of it, which is asked once for a batch of operations.
//
// Threads: none. Fork: open, fork, connect. Crash: what a store leaves lies in the run's folder.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "larder/status.h"
#include "tools/bench/histogram.h"
#include "tools/bench/ticks.h"
#include "tools/bench/workload.h"

namespace larder::bench {

struct Traits {
  bool shared = true;   // one for all processes; false: each has its own copy
  bool remote = false;  // in another process, asked through a socket
  bool sets = true;     // can be written to while it is measured
  bool evicts = false;  // bounded, and drops something when it is full
  std::size_t key_max_bytes = kKeyMaxBytes;
};

// What a store is opened for.
struct Setting {
  std::string folder;           // of this run alone, on a tmpfs
  std::uint64_t room_bytes;     // of a segment, a file, a server
  std::uint64_t payload_bytes;  // keys and values
  std::uint64_t keys;
  std::uint64_t value_max_bytes;
  // Entries that a store which counts them may hold; known once larder is full.
  std::uint64_t capacity = 0;
  std::chrono::milliseconds ttl{0};  // 0: for ever; what knows no expiry ignores it
  Cache* larder = nullptr;           // open, not started; its variants share one segment
};

// What a process did in the timed part.
struct Counts {
  std::uint64_t reads = 0;
  std::uint64_t hits = 0;
  std::uint64_t failed_sets = 0;
  std::uint64_t wrong_values = 0;  // a hit that was not the key's value: a defect
};

// A process' way through its plan.
struct Walk {
  const Keys& keys;
  Values& values;
  std::span<const Operation> operations;  // a power of two of them
  std::size_t next = 0;
  Counts counts = {};

  // The keys of the operations soon to come are fetched, for a caller's key is at hand: it was just
  // made or received.
  Operation step() noexcept {
    constexpr std::size_t kAhead = 8;
    const std::size_t mask = operations.size() - 1;
    __builtin_prefetch(keys[operations[(next + kAhead) & mask].key].data());
    return operations[next++ & mask];
  }
  void count(bool hit, std::string_view value, std::uint32_t key) noexcept {
    ++counts.reads;
    if (!hit) return;
    ++counts.hits;
    if (!values.is_of(value, key)) ++counts.wrong_values;
  }
};

class Backend {
 public:
  explicit Backend(std::string name) : name_(std::move(name)) {}
  virtual ~Backend() = default;
  const std::string& name() const { return name_; }

  virtual const Traits& traits() const = 0;
  virtual Status open(const Setting& setting) = 0;
  virtual Status connect() = 0;
  virtual void disconnect() = 0;  // in good order, at the end of a process
  virtual bool set(std::string_view key, std::string_view value) = 0;
  // Why the last set failed, where the store says so.
  virtual std::string error() const = 0;
  // Every key once, so that all memory is mapped; how many are not there.
  virtual std::uint64_t touch(const Keys& keys) = 0;
  virtual void walk(Walk& walk, std::size_t operations) = 0;
  // The same with a clock around each call.
  virtual void walk_timed(Walk& walk, std::size_t operations, Histogram& into) = 0;

 private:
  const std::string name_;
};

template <class Store>
class Timed final : public Backend {
 public:
  using Backend::Backend;
  const Traits& traits() const override { return Store::kTraits; }
  Status open(const Setting& setting) override { return store_.open(setting); }
  Status connect() override { return store_.connect(); }
  void disconnect() override {
    if constexpr (requires { store_.disconnect(); }) store_.disconnect();
  }
  bool set(std::string_view key, std::string_view value) override { return store_.set(key, value); }
  std::string error() const override {
    if constexpr (requires { store_.error(); }) return store_.error();
    return "it has no room";
  }
  std::uint64_t touch(const Keys& keys) override {
    std::uint64_t absent = 0;
    for (std::uint32_t i = 0; i < keys.count(); ++i) absent += store_.get(keys[i]) ? 0u : 1u;
    return absent;
  }

  void walk(Walk& walk, std::size_t operations) override {
    go(walk, operations, [](auto&& call) { call(); });
  }
  void walk_timed(Walk& walk, std::size_t operations, Histogram& into) override {
    go(walk, operations, [&](auto&& call) {
      const std::uint64_t before = ticks();
      call();
      into.add(ticks() - before);
    });
  }

 private:
  static constexpr bool kMany = requires { Store::kBatch; };

  template <class Around>
  void go(Walk& walk, std::size_t operations, Around around) {
    for (std::size_t i = 0; i < operations;) {
      if constexpr (kMany) {
        i += get_many(walk, around);
      } else {
        one(walk, around);
        ++i;
      }
    }
  }

  template <class Around>
  void one(Walk& walk, Around& around) {
    const Operation operation = walk.step();
    const std::string_view key = walk.keys[operation.key];
    bool done = false;
    if (operation.is_set) {
      const std::string_view value = walk.values.of(operation.key);
      around([&] { done = store_.set(key, value); });
      if (!done) ++walk.counts.failed_sets;
    } else {
      around([&] { done = store_.get(key); });
      walk.count(done, done ? store_.value() : std::string_view(), operation.key);
    }
  }

  // Gets of a batch; only for plans without sets.
  template <class Around>
  std::size_t get_many(Walk& walk, Around& around) {
    std::uint32_t numbers[Store::kBatch];
    std::string_view keys[Store::kBatch];
    for (std::size_t i = 0; i < Store::kBatch; ++i) {
      numbers[i] = walk.step().key;
      keys[i] = walk.keys[numbers[i]];
    }
    around([&] { store_.get_many(keys); });
    for (std::size_t i = 0; i < Store::kBatch; ++i) {
      walk.count(store_.hit(i), store_.value(i), numbers[i]);
    }
    return Store::kBatch;
  }

  Store store_;
};

template <class Store>
std::unique_ptr<Backend> backend_of(std::string name) {
  return std::make_unique<Timed<Store>>(std::move(name));
}

// One function for each file; null where this build lacks what it needs.
std::unique_ptr<Backend> make_larder(const std::string& name);
std::unique_ptr<Backend> make_raw(const std::string& name);
std::unique_ptr<Backend> make_map(const std::string& name);
std::unique_ptr<Backend> make_lru(const std::string& name);
std::unique_ptr<Backend> make_boost(const std::string& name);
std::unique_ptr<Backend> make_lmdb(const std::string& name);
std::unique_ptr<Backend> make_memcached(const std::string& name);
std::unique_ptr<Backend> make_redis(const std::string& name);

// All names, in the order of a table. Those of larder come first.
const std::vector<std::string>& backend_names();
bool is_larder(std::string_view name);
// kNotFound: this build has it not; the message says what is missing.
Result<std::unique_ptr<Backend>> make_backend(const std::string& name);

}  // namespace larder::bench
