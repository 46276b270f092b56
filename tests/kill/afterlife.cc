#include "tests/kill/afterlife.h"

#include <signal.h>

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>

#include "shm/check.h"
#include "shm/entry.h"
#include "shm/inspect.h"
#include "shm/layout.h"
#include "tests/shm/fixture.h"

namespace larder::kill {
namespace {

using shm::Segment;
using shm::Superblock;
using shm::Table;

constexpr std::chrono::milliseconds kLockTimeout{50};
constexpr std::chrono::milliseconds kLoadLease{1000};
constexpr char kSegmentFile[] = "larder.test";
// Of the pictured segments, so that their lock file is not the living ones'.
constexpr std::uint64_t kInstance = 0xa57e211fe;

// A value as found: old, new or missing, never anything else.
std::string fault_of_value(const std::string& key, const std::optional<std::string>& found,
                           const Judgement& j, const shm::SyncWords& sync) {
  if (!found) return {};
  const auto before = j.before.find(key);
  const auto after = j.after.find(key);
  const bool is_old = before != j.before.end() && *found == before->second;
  if (after != j.after.end() && *found == after->second) {
    if (is_old || sync.head_seq.load() >= j.follows) return {};
    return key + ": the new value, and the head does not name its change";
  }
  if (!is_old) return key + ": neither the old nor the new value";
  if (j.completed) return key + ": the old value, although the operation was over";
  if (j.follows != 0 && sync.cursor_seq.load() >= j.follows) {
    return key + ": the old value, although the cursor names its change";
  }
  return {};
}

void read_all(Table& table, const Judgement& j, const char* when,
              std::vector<std::string>& faults) {
  std::string value;
  const auto look = [&](const std::string& key) {
    std::optional<std::string> found;
    if (table.get(key, value)) found = value;
    const shm::SyncWords& sync = table.segment().superblock().sync;
    if (auto fault = fault_of_value(key, found, j, sync); !fault.empty()) {
      faults.push_back(std::string(when) + ": " + fault);
    }
  };
  for (const std::string& key : j.keys) look(key);
}

// A key that nobody has, in a stripe.
std::string key_in_stripe(Segment& segment, std::uint32_t stripe) {
  for (int i = 0;; ++i) {
    std::string key = "nobody-" + std::to_string(i);
    if (shm::stripe_of(segment.geometry(), segment.hash(key)) == stripe) return key;
  }
}

// The start of a part of a pictured segment.
template <class Part>
const Part* part(const char* segment, std::uint64_t offset) {
  return reinterpret_cast<const Part*>(segment + offset);
}

}  // namespace

EarlierReaders::EarlierReaders(const Image& before) {
  const auto file = before.find(kSegmentFile);
  if (file == before.end()) return;
  before_ = file->second;
  const char* segment = before_.data();
  const shm::Geometry& g = part<Superblock>(segment, 0)->geometry;
  const auto arena_at = [&](std::uint32_t stripe) {
    return g.arenas_offset + stripe * g.arena_bytes();
  };
  const auto run_bytes = [&](std::uint32_t stripe, std::uint32_t granule) -> std::uint64_t {
    shm::EntryRef entry;
    if (!shm::read_entry_at(segment + arena_at(stripe), g.arena_granules, granule, entry)) return 0;
    return shm::entry_bytes(entry.header.key_bytes(), entry.header.value_bytes());
  };
  for (std::uint32_t i = 0; i < g.stripe_count * g.buckets_per_stripe; ++i) {
    const std::uint64_t bucket_at = g.buckets_offset + i * sizeof(shm::Bucket);
    const auto* bucket = part<shm::Bucket>(segment, bucket_at);
    const std::uint32_t stripe = i / g.buckets_per_stripe;
    for (const auto& slot : bucket->slots) {
      const std::uint32_t granule = shm::slot_granule(slot.load());
      const std::uint64_t bytes = run_bytes(stripe, granule);
      if (bytes == 0) continue;
      seen_.push_back({bucket_at + offsetof(shm::Bucket, version), bucket->version.load(), false,
                       arena_at(stripe) + std::uint64_t{granule} * shm::kGranule, bytes});
    }
  }
  for (std::uint32_t i = 0; i < g.place_count; ++i) {
    const auto* place = part<shm::Place>(segment, g.places_offset) + i;
    if (!shm::state_alive(place->state.load())) continue;
    for (const auto& word : place->pins) {
      const std::uint64_t pin = word.load();
      if (pin == 0) continue;
      const auto stripe = static_cast<std::uint32_t>(pin >> 32 & 0x7fffffff);
      const auto granule = static_cast<std::uint32_t>(pin);
      const std::uint64_t word_at =
          static_cast<std::uint64_t>(reinterpret_cast<const char*>(&word) - segment);
      seen_.push_back({word_at, granule, true,
                       arena_at(stripe) + std::uint64_t{granule} * shm::kGranule,
                       run_bytes(stripe, granule)});
    }
  }
}

std::vector<std::string> EarlierReaders::faults(const char* segment) const {
  for (const Seen& seen : seen_) {
    // Of a pin the word's lower half: where it points; 0 once it was let go.
    const std::uint32_t now = part<std::atomic<std::uint32_t>>(segment, seen.version_at)->load();
    if (now != seen.version) continue;
    if (std::memcmp(segment + seen.bytes_at, before_.data() + seen.bytes_at, seen.bytes) == 0) {
      continue;
    }
    return {seen.pinned ? "the bytes of a view that is held have changed"
                        : "an entry's bytes have changed, its bucket's version has not"};
  }
  return {};
}

std::vector<std::string> judge(Segment& segment, const Judgement& j) {
  std::vector<std::string> faults;
  const auto expect = [&faults](bool holds, const char* what) {
    if (!holds) faults.emplace_back(what);
  };
  const auto check = [&](const char* when, bool quiescent) {
    const std::string found = test::faults(segment, quiescent);
    if (!found.empty()) faults.push_back(std::string(when) + ": " + found);
  };
  auto shared = std::shared_ptr<Segment>(&segment, [](Segment*) {});
  Table table(shared, {kLockTimeout});
  const auto earlier_readers = [&](const char* when) {
    if (j.readers == nullptr) return;
    for (const auto& what : j.readers->faults(test::at(segment, 0))) {
      faults.push_back(std::string(when) + ": " + what);
    }
  };
  earlier_readers("before repair");
  check("before repair", false);
  read_all(table, j, "before repair", faults);

  // Whoever held the lock all the while goes on.
  if (j.held) segment.stripe(0).lock.store(0);
  expect(table.join().ok(), "nobody can join");
  (void)table.reap();
  for (std::uint32_t s = 0; s < segment.geometry().stripe_count; ++s) {
    const std::string key = key_in_stripe(segment, s);
    // The second turn ends the count of deaths.
    for (int turn = 0; turn < 2; ++turn) {
      expect(table.drop(key) == shm::Stored::kStored, "a stripe cannot be locked");
    }
  }
  check("after repair", true);
  read_all(table, j, "after repair", faults);

  const std::string value = test::make_value("newcomer", 1, 300);
  const shm::ChangeId id{shm::kMaxSeq - 1, 1};  // above every floor and guard
  test::follow(segment, id);
  const auto store = [&] { return table.set({"newcomer", value}, table.sample("newcomer"), id); };
  expect(store() == shm::Stored::kStored, "nothing can be stored");
  expect(test::read(table, "newcomer") == value, "what is stored cannot be read");
  shm::LoadLease lease;
  const bool claimed = table.claim_load("newcomer", kLoadLease, lease) == shm::Claimed::kMine;
  expect(claimed && shm::Loads::end(lease), "nothing can be loaded");
  if (table.processes().try_lead()) {
    const std::uint64_t term = segment.superblock().sync.term.load();
    const auto begun = table.begin_term();
    expect(begun.ok() && *begun > term, "nobody can lead");
    table.processes().stop_leading();
  } else {
    faults.emplace_back("the leader's lock is not free");
  }
  const shm::Totals totals = shm::totals(segment);
  expect(totals.processes == j.living + 1, "a dead process keeps its place");
  expect(j.living > 0 || totals.pins == 0, "a dead process's view holds memory");
  expect(j.living > 0 || totals.loads == 0, "a dead process's load is left");
  // Runs that only the dead had pinned come free with time.
  if (j.living == 0 && totals.pinned_bytes != 0) {
    for (int i = 0; i < 64; ++i) (void)store();
    expect(shm::totals(segment).pinned_bytes == 0, "memory that nobody pins is held back");
  }
  check("at the end", true);
  earlier_readers("at the end");
  table.processes().leave();
  return faults;
}

static void declare_dead(std::string& bytes, pid_t dead) {
  auto* block = reinterpret_cast<Superblock*>(bytes.data());
  for (std::uint32_t i = 0; i < block->geometry.place_count; ++i) {
    auto* place = reinterpret_cast<shm::Place*>(bytes.data() + block->geometry.places_offset) + i;
    const auto pid = static_cast<pid_t>(place->pid.load());
    if (pid == dead) {
      place->start_ticks.fetch_add(1);  // the same pid, another start time: that process is gone
    } else if (pid > 0 && ::kill(pid, 0) == 0) {
      place->pid_namespace.fetch_add(1);  // out of sight, or its lack of this mapping would show
    }
  }
}

std::string Afterlife::show(const Image& image, pid_t dead) {
  std::string bytes = image.at(kSegmentFile);
  reinterpret_cast<Superblock*>(bytes.data())->instance = kInstance;
  declare_dead(bytes, dead);
  if (segment_ != nullptr) {
    std::memcpy(test::at(*segment_, 0), bytes.data(), bytes.size());
    return {};
  }
  char lock_file[64];
  std::snprintf(lock_file, sizeof lock_file, "%s.%016llx.lock", kSegmentFile,
                static_cast<unsigned long long>(kInstance));
  world_.restore({{kSegmentFile, bytes}, {lock_file, ""}});
  auto attached = Segment::attach(world_.directory() + "/" + kSegmentFile, shm::Access::kReadWrite);
  if (!attached) return "nobody can attach: " + attached.status().message();
  segment_ = *attached;
  return {};
}

std::vector<std::string> Afterlife::keys(const Image& image) {
  if (!show(image, 0).empty()) return {};
  std::set<std::string> keys;
  shm::for_each_entry(*segment_, [&](const shm::EntryInfo& entry) {
    keys.insert(entry.key);
    return true;
  });
  return {keys.begin(), keys.end()};
}

Contents Afterlife::contents(const Image& image) {
  Contents contents;
  const std::vector<std::string> all = keys(image);
  if (all.empty()) return contents;
  Table table(segment_, {kLockTimeout});
  std::string value;
  for (const std::string& key : all) {
    if (table.get(key, value)) contents.emplace(key, value);
  }
  return contents;
}

std::vector<std::string> Afterlife::judge(const Image& image, pid_t dead, const Judgement& j) {
  if (const std::string why = show(image, dead); !why.empty()) return {why};
  return kill::judge(*segment_, j);
}

std::vector<std::string> Afterlife::judge_files(
    Image image, pid_t dead, const shm::SegmentOptions& original, const Judgement& j,
    const std::function<void(const shm::SegmentOptions&)>& cleans) {
  std::vector<std::string> faults;
  segment_.reset();
  if (const auto file = image.find(kSegmentFile); file != image.end()) {
    declare_dead(file->second, dead);
  }
  world_.restore(image);
  shm::SegmentOptions options = original;
  options.directory = world_.directory();
  {
    auto opened = Segment::open(options);
    if (!opened) return {"nobody can open it: " + opened.status().message()};
    const auto is_closed = [&] { return shm::is_closed((*opened)->superblock().hot.epoch.load()); };
    if (is_closed()) (void)Segment::reopen(options);
    if (is_closed()) return {"nobody can open it again"};
    faults = kill::judge(**opened, j);
  }
  if (cleans) cleans(options);
  std::size_t locks = 0;
  for (const auto& file : std::filesystem::directory_iterator(options.directory)) {
    const std::string name = file.path().filename();
    if (name.ends_with(".lock")) ++locks;
    if (name.ends_with(".tmp")) faults.push_back("a temporary file stays: " + name);
  }
  if (locks != 1) faults.push_back(std::to_string(locks) + " lock files stay");
  return faults;
}

}  // namespace larder::kill
