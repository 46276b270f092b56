#include "tools/bench/memory.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "larder/cache.h"
#include "tools/bench/arguments.h"
#include "tools/bench/main.h"
#include "tools/bench/memory_memcached.h"
#include "tools/bench/process.h"
#include "tools/bench/progress.h"
#include "tools/bench/report.h"
#include "tools/bench/turnover.h"

namespace larder::bench {
namespace {

using tools::Json;

constexpr std::uint64_t kMb = 1 << 20;

struct MemoryArguments {
  std::int64_t segment_mb = 256;
  std::vector<std::int64_t> value_bytes{100, 1024};
  std::vector<std::string> sizes{"fixed"};
  std::int64_t key_bytes = 24;
  std::int64_t rounds = 10;
  std::int64_t seed = 1;
  std::string policy = "lfu";
  std::string directory = "/dev/shm";
  bool no_memcached = false;
  bool json = false;
  bool progress = false;
};

// Plain data, filled in a child.
struct Found {
  std::uint64_t written;        // sets
  std::uint64_t failed;         // of them
  std::uint64_t entries;        // read back
  std::uint64_t payload_bytes;  // of those: keys and values
  std::uint64_t wrong;          // of those: not the key's value
  // What grows with the entries beside them: headers, padding, index.
  std::uint64_t entry_bytes;
  std::uint64_t index_bytes;
};

struct Line {
  std::string store;
  std::string sizes;
  std::uint64_t value_bytes;
  std::uint64_t room_bytes;
  Found found;

  double share() const { return ratio(found.payload_bytes, room_bytes); }
  double growing_bytes() const {
    return ratio(found.entry_bytes - found.payload_bytes + found.index_bytes, found.entries);
  }
  double all_other_bytes() const {
    return ratio(room_bytes - std::min(room_bytes, found.payload_bytes), found.entries);
  }
  static double ratio(std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
  }
};

// Writes until the room was filled `rounds` times over. Every value is new to its key; where sizes
// differ, every other set overwrites one of the keys written last, with another size.
class Turnover {
 public:
  Turnover(const MemoryArguments& a, Sizes sizes, std::uint64_t room_bytes)
      : sizes_(sizes),
        key_(static_cast<std::size_t>(a.key_bytes)),
        value_(sizes_.most()),
        bytes_left_(room_bytes * static_cast<std::uint64_t>(a.rounds)),
        random_(static_cast<std::uint64_t>(a.seed)) {}

  template <class Set>
  void write(Found& found, std::uint64_t recent, Set set) {
    while (bytes_left_ > 0) {
      const std::uint64_t number = next_number(recent);
      const std::string_view key = key_.of(number);
      const std::string_view value = value_.of(number, sizes_.draw(random_));
      if (!set(key, value)) ++found.failed;
      ++found.written;
      bytes_left_ -= std::min(bytes_left_, key.size() + value.size());
    }
  }
  std::uint64_t keys() const { return keys_; }
  std::string_view key(std::uint64_t number) { return key_.of(number); }

 private:
  std::uint64_t next_number(std::uint64_t recent) {
    const bool again = sizes_.lognormal() && keys_ > 0 && random_() % 2 == 0;
    if (!again) return keys_++;
    return keys_ - 1 - random_() % std::min(keys_, recent);
  }

  Sizes sizes_;
  NumberedKey key_;
  NumberedValue value_;
  std::uint64_t bytes_left_;
  std::mt19937_64 random_;
  std::uint64_t keys_ = 0;
};

void count(Found& found, std::uint64_t number, std::string_view key, std::string_view value) {
  ++found.entries;
  found.payload_bytes += key.size() + value.size();
  if (!NumberedValue::is_of(value, number)) ++found.wrong;
}

class Memory {
 public:
  explicit Memory(const MemoryArguments& a)
      : a_(a), room_bytes_(static_cast<std::uint64_t>(a.segment_mb) * kMb), progress_(a.progress) {}

  Status run_all() {
    progress_.expect(a_.sizes.size() * a_.value_bytes.size() * (a_.no_memcached ? 1 : 2));
    for (const auto& sizes : a_.sizes) {
      for (const std::int64_t bytes : a_.value_bytes) {
        const auto median = static_cast<std::size_t>(bytes);
        const Sizes drawn(sizes == "lognormal", median);
        if (Status s = run("larder", sizes, median, drawn); !s.ok()) return s;
        if (a_.no_memcached) continue;
        if (Status s = run("memcached", sizes, median, drawn); !s.ok()) return s;
      }
    }
    progress_.clear();
    return {};
  }

  void print() const {
    if (a_.json) {
      std::printf("%s\n", json().dump(-1, ' ', true).c_str());
      return;
    }
    std::printf("%lld MiB, keys of %lld bytes, written %lld times over\n\n",
                static_cast<long long>(a_.segment_mb), static_cast<long long>(a_.key_bytes),
                static_cast<long long>(a_.rounds));
    table().print(stdout);
    std::printf(
        "\nPAYLOAD: keys and values read back. GROWING: bytes an entry beside them, of what grows "
        "with entries:\nheader, padding, index. OTHER: all of the room beside the payload. "
        "memcached keeps its index outside its limit.\n");
    for (const auto& note : notes_) std::printf("note: %s\n", note.c_str());
  }

 private:
  Status run(const std::string& store, const std::string& sizes, std::size_t median,
             const Sizes& drawn) {
    progress_.step(store + ", " + sizes + ", " + std::to_string(median) + " B");
    auto scratch = Scratch::make(a_.directory);
    if (!scratch) return scratch.status();
    Shared<Found> found(1);
    if (!found.ok()) return no_process();
    Status status = store == "larder" ? run_larder(scratch->path(), drawn, median, found[0])
                                      : run_memcached(scratch->path(), drawn, median, found[0]);
    if (status.code() == Code::kNotFound) {
      notes_.assign(1, store + " was left out: " + status.message());
      return {};
    }
    if (!status.ok()) return status;
    if (found[0].wrong != 0) {
      return {Code::kInternal, std::to_string(found[0].wrong) +
                                   " reads returned another key's value: a defect of " + store};
    }
    lines_.push_back({store, sizes, median, room_bytes_, found[0]});
    return {};
  }

  // Some of the keys that are surely held.
  std::uint64_t recent(std::size_t median) const {
    const auto each = median + static_cast<std::size_t>(a_.key_bytes);
    return std::max<std::uint64_t>(1, room_bytes_ / (4 * each));
  }

  Status run_larder(const std::string& folder, const Sizes& sizes, std::size_t median,
                    Found& found) {
    Options options;
    options.name = "bench";
    options.directory = folder;
    options.segment_bytes = room_bytes_;
    options.policy = policy_of(a_.policy);
    auto cache = Cache::open(options);
    if (!cache) return cache.status();
    return in_child([&]() -> Status {
      if (Status status = cache->start(); !status.ok()) return status;
      Turnover turnover(a_, sizes, room_bytes_);
      turnover.write(found, recent(median), [&](std::string_view key, std::string_view value) {
        return cache->set(key, value).ok();
      });
      Lookup lookup;
      for (std::uint64_t i = 0; i < turnover.keys(); ++i) {
        const std::string_view key = turnover.key(i);
        if (Status status = cache->get_local(key, lookup); !status.ok()) return status;
        if (lookup.hit()) count(found, i, key, lookup.value);
      }
      const Stats stats = cache->stats();
      found.entry_bytes = std::max(stats.live_bytes, found.payload_bytes);
      found.index_bytes = stats.index_bytes;
      const Cache leave(std::move(*cache));
      return {};
    });
  }

  Status run_memcached(const std::string& folder, const Sizes& sizes, std::size_t median,
                       Found& found) {
    auto server = start_memory_server(folder, room_bytes_, sizes.most());
    if (!server) return server.status();
    return in_child([&]() -> Status {
      MemoryServer& memcached = **server;
      if (Status status = memcached.connect(); !status.ok()) return status;
      Turnover turnover(a_, sizes, room_bytes_);
      turnover.write(found, recent(median), [&](std::string_view key, std::string_view value) {
        memcached.set(key, value);
        return true;
      });
      Status status = memcached.read_all(
          turnover.keys(), [&](std::uint64_t number) { return turnover.key(number); },
          [&](std::string_view key, std::string_view value) {
            count(found, std::stoull(std::string(key)), key, value);
          });
      found.entry_bytes = std::max(memcached.statistic("bytes"), found.payload_bytes);
      found.index_bytes = memcached.statistic("hash_bytes");
      return status;
    });
  }

  tools::Table table() const {
    using enum tools::Table::Align;
    tools::Table table({{"STORE", kLeft},
                        {"SIZES", kLeft},
                        {"VALUE B", kRight},
                        {"ENTRIES", kRight},
                        {"PAYLOAD", kRight},
                        {"OF ROOM", kRight},
                        {"GROWING B/ENTRY", kRight},
                        {"OTHER B/ENTRY", kRight},
                        {"FAILED SETS", kRight}});
    for (const Line& line : lines_) {
      table.add({line.store, line.sizes, std::to_string(line.value_bytes),
                 std::to_string(line.found.entries), tools::format_bytes(line.found.payload_bytes),
                 fixed(100 * line.share(), 1) + " %", fixed(line.growing_bytes(), 1),
                 fixed(line.all_other_bytes(), 1), std::to_string(line.found.failed)});
    }
    return table;
  }

  Json json() const {
    Json json{{"machine", machine_json()},
              {"settings",
               {{"mode", "memory"},
                {"segment_bytes", room_bytes_},
                {"key_bytes", a_.key_bytes},
                {"rounds", a_.rounds},
                {"seed", a_.seed},
                {"policy", a_.policy}}},
              {"notes", notes_}};
    json["runs"] = Json::array();
    for (const Line& line : lines_) {
      json["runs"].push_back({{"store", line.store},
                              {"sizes", line.sizes},
                              {"value_bytes", line.value_bytes},
                              {"room_bytes", line.room_bytes},
                              {"written", line.found.written},
                              {"failed_sets", line.found.failed},
                              {"entries", line.found.entries},
                              {"payload_bytes", line.found.payload_bytes},
                              {"payload_share", line.share()},
                              {"growing_bytes_per_entry", line.growing_bytes()},
                              {"other_bytes_per_entry", line.all_other_bytes()}});
    }
    return json;
  }

  const MemoryArguments& a_;
  const std::uint64_t room_bytes_;
  Progress progress_;
  std::vector<Line> lines_;
  std::vector<std::string> notes_;
};

void declare_options(CLI::App& app, MemoryArguments& a) {
  add_segment_mb(app, a.segment_mb, "the room of each, in MiB", 4);
  add_list(app, "--value-bytes", a.value_bytes, "sizes of values, or their median",
           CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  add_list(app, "--sizes", a.sizes,
           "fixed: new keys only; lognormal: sizes differ, and every other set overwrites",
           CLI::IsMember({"fixed", "lognormal"}));
  add_one(app, "--key-bytes", a.key_bytes, "length of a key",
          CLI::Range(std::int64_t{NumberedKey::kLeastBytes}, std::int64_t{250}));
  add_one(app, "--rounds", a.rounds, "how often the room is written over",
          CLI::Range(std::int64_t{1}, std::int64_t{1000}));
  add_seed(app, a.seed, "of sizes and overwrites");
  add_policy(app, a.policy);
  add_directory(app, a.directory, "where the segment is made, a tmpfs");
  app.add_flag("--no-memcached", a.no_memcached, "larder alone");
  add_json(app, a.json);
  add_progress(app, a.progress);
}

}  // namespace

void declare_memory(CLI::App& parent, int& exit_status) {
  CLI::App* app = parent.add_subcommand("memory", "How much of its room becomes keys and values");
  auto arguments = std::make_shared<MemoryArguments>();
  declare_options(*app, *arguments);
  app->callback([arguments, &exit_status] {
    install_interrupt_handlers();
    Memory memory(*arguments);
    Status status = memory.run_all();
    if (status.ok()) memory.print();
    exit_status = exit_status_of(status);
  });
}

}  // namespace larder::bench
