#include "shm/check.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <thread>

#include "shm/arena.h"
#include "shm/checksum.h"
#include "shm/entry.h"
#include "shm/policy.h"
#include "shm/process.h"
#include "shm/racy_copy.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr std::size_t kMostReported = 100;
constexpr int kAttempts = 16;

class Checker {
 public:
  Checker(Segment& segment, const CheckOptions& options)
      : segment_(segment), g_(segment.geometry()), options_(options) {}

  CheckReport run() {
    check_superblock();
    for (std::uint32_t s = 0; s < g_.stripe_count; ++s) {
      const std::uint64_t before = violations_;
      check_stripe(s);
      if (violations_ != before) report_.broken_stripes.push_back(s);
    }
    if (violations_ > kMostReported) {
      report_.violations.push_back("and " + std::to_string(violations_ - kMostReported) + " more");
    }
    return std::move(report_);
  }

 private:
  void violation(const std::string& what) {
    if (violations_++ < kMostReported) report_.violations.push_back(what);
  }

  void check_superblock() {
    const Superblock& block = segment_.superblock();
    if (block.magic != kMagic) violation("superblock: magic is gone");
    if (!(block.geometry == g_)) violation("superblock: geometry changed after attach");
    if (block.layout_signature != layout_signature()) violation("superblock: layout changed");
  }

  void check_stripe(std::uint32_t s) {
    const std::string name = "stripe " + std::to_string(s);
    Stripe& stripe = segment_.stripe(s);
    const std::uint32_t lock_before = stripe.lock.load(kAcquire);
    check_lock(name, stripe, lock_before);
    runs_.clear();
    std::uint64_t payload = 0;
    for (std::uint32_t b = 0; b < g_.buckets_per_stripe; ++b) {
      for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) payload += check_slot(name, s, {b, i});
    }
    report_.entries += runs_.size();
    report_.payload_bytes += payload;
    // What moves while one looks says nothing about runs that overlap, or about counts.
    if (!options_.quiescent) return;
    const std::uint64_t granules = check_runs(name, s);
    const auto compare = [&](const char* what, std::uint64_t counted, std::uint64_t recorded) {
      if (counted == recorded) return;
      violation(name + ": " + what + " " + std::to_string(recorded) + ", counted " +
                std::to_string(counted));
    };
    compare("entries", runs_.size(), stripe.entries.load(kRelaxed));
    compare("granules in use", granules, stripe.live_granules.load(kRelaxed));
    compare("payload bytes", payload, stripe.payload_bytes.load(kRelaxed));
    check_map(name, s, granules);
  }

  // No two entries overlap. Returns the granules of all.
  std::uint64_t check_runs(const std::string& name, std::uint32_t s) {
    std::sort(runs_.begin(), runs_.end(),
              [](const Run& a, const Run& b) { return a.start < b.start; });
    const Arena arena(segment_, s);
    std::uint64_t granules = 0;
    std::uint32_t end = 0;
    for (const Run& run : runs_) {
      const std::string where = name + " granule " + std::to_string(run.start);
      if (run.start < end) violation(where + ": an entry that overlaps the one before it");
      if (!arena.is_taken(run)) violation(where + ": an entry that the map does not know");
      end = std::max(end, run.end());
      granules += run.granules;
    }
    return granules;
  }

  // Whatever else the map says is taken must be pinned.
  void check_map(const std::string& name, std::uint32_t s, std::uint64_t granules) {
    std::uint64_t set_aside = 0;
    for (const auto& each : segment_.stripe(s).quarantine) set_aside += each.load(kRelaxed) >> 32;
    if (segment_.stripe(s).quarantined.load(kRelaxed) > kQuarantine) return;
    const std::uint64_t taken = g_.arena_granules - Arena(segment_, s).count_free();
    if (segment_.stripe(s).swept_epoch.load(kRelaxed) == 0) return;  // never written to
    if (taken != granules + set_aside) {
      violation(name + ": the map has " + std::to_string(taken) + " granules taken, entries have " +
                std::to_string(granules) + " and pins hold " + std::to_string(set_aside));
    }
  }

  void check_lock(const std::string& name, const Stripe& stripe, std::uint32_t word) {
    if (stripe.bypass.load(kAcquire) != 0) {
      report_.degradations.push_back(name + ": bypassed, readers miss until the next writer");
    }
    if (word == 0) return;
    const std::uint32_t place = owner_place(word);
    if (place == 0 || place >= g_.place_count) {
      report_.degradations.push_back(name + ": lock names place " + std::to_string(place) +
                                     ", which does not exist; the next writer takes it over");
      return;
    }
    const std::uint64_t state = segment_.place(place).state.load(kAcquire);
    const bool alive =
        state_alive(state) && make_owner(place, state_incarnation(state)) == (word & ~kWaiters);
    if (options_.quiescent) violation(name + ": locked by place " + std::to_string(place));
    if (!alive && stripe.lock.load(kAcquire) == word) {
      report_.degradations.push_back(name + ": locked by a process that is gone");
    }
  }

  // Bytes of a sound entry's key and value, else 0. Notes its run.
  std::uint64_t check_slot(const std::string& name, std::uint32_t s, SlotRef at) {
    Bucket& bucket = segment_.bucket(s, at.bucket);
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::uint32_t index = index_of(s);
      const std::uint32_t version = bucket.version.load(kAcquire);
      const std::uint32_t word = bucket.slots[at.slot].load(kAcquire);
      if (word == 0) return 0;
      std::optional<EntryRef> entry;
      const std::string wrong = fault_of(s, at, word, entry);
      if (version_after_copy(bucket.version) != version || index_of(s) != index) continue;
      // What a writer is just about (a key that moves is in two slots for a moment) does not last.
      if (!wrong.empty() && !options_.quiescent && attempt + 1 < kAttempts) {
        std::this_thread::yield();
        continue;
      }
      if (wrong.empty()) {
        runs_.push_back(entry->run);
        return entry->payload_bytes();
      }
      std::string where = name;
      where.append(" bucket ").append(std::to_string(at.bucket));
      where.append(" slot ").append(std::to_string(at.slot));
      violation(where.append(": ").append(wrong));
      return 0;
    }
    return 0;  // would not stand still: in use, and so not ours to judge
  }

  std::string fault_of(std::uint32_t s, SlotRef at, std::uint32_t word,
                       std::optional<EntryRef>& entry) {
    entry = read_entry(segment_, s, word);
    if (!entry) return "points outside the arena, or to an entry that exceeds it";
    const std::string key(copy(entry->key(), entry->header.key_bytes()));
    const std::uint64_t hash = segment_.hash(key);
    const Homes homes = homes_of(s, hash);
    const bool at_home = std::find(homes.begin(), homes.end(), at.bucket) != homes.end();
    if (stripe_of(g_, hash) != s || !at_home || !slot_matches(word, hash)) {
      return "holds a key that belongs elsewhere";
    }
    if (is_duplicate(s, at, key, hash, homes)) return "holds a key that another slot holds too";
    if (options_.deep) {
      const std::string value(copy(entry->value(), entry->header.value_bytes()));
      if (entry->header.checksum() != entry_checksum(entry->header, hash, value)) {
        return "checksum differs: the entry's bytes were changed";
      }
    }
    return {};
  }

  // The two buckets of a key, then those of before the growth that is under way, or whose writer
  // died: the next one mends that. Otherwise the same two.
  using Homes = std::array<std::uint32_t, 4>;
  Homes homes_of(std::uint32_t s, std::uint64_t hash) {
    const std::uint32_t index = index_of(s);
    const std::uint32_t now = buckets_in_use(g_, index);
    const std::uint32_t before = index & kIndexGrowing ? now / 2 : now;
    return {home_bucket(now, hash), other_bucket(now, hash), home_bucket(before, hash),
            other_bucket(before, hash)};
  }

  std::uint32_t index_of(std::uint32_t s) { return segment_.stripe(s).index.load(kAcquire); }

  static std::string copy(const char* from, std::size_t bytes) {
    std::string to(bytes, '\0');
    copy_from_shared(to.data(), from, bytes);
    return to;
  }

  // Among the slots before this one, so that a pair of duplicates is reported once. One entry in
  // two slots is none while the lock is held: it moves, or did when the lock's owner died.
  bool is_duplicate(std::uint32_t s, SlotRef at, const std::string& key, std::uint64_t hash,
                    const Homes& homes) {
    const std::uint32_t own = segment_.bucket(s, at.bucket).slots[at.slot].load(kAcquire);
    const bool may_move = segment_.stripe(s).lock.load(kAcquire) != 0;
    for (const std::uint32_t other : homes) {
      if (other > at.bucket) continue;
      Bucket& bucket = segment_.bucket(s, other);
      for (std::uint32_t j = 0; j < kSlotsPerBucket && (other < at.bucket || j < at.slot); ++j) {
        const std::uint32_t word = bucket.slots[j].load(kAcquire);
        if (!slot_matches(word, hash) || (word == own && may_move)) continue;
        const auto entry = read_entry(segment_, s, word);
        if (entry && entry->key_is(key) && bucket.slots[j].load(kAcquire) == word) return true;
      }
    }
    return false;
  }

  Segment& segment_;
  const Geometry& g_;
  const CheckOptions options_;
  CheckReport report_;
  std::uint64_t violations_ = 0;
  std::vector<Run> runs_;  // of the stripe at hand
};

}  // namespace

CheckReport check(Segment& segment, const CheckOptions& options) {
  return Checker(segment, options).run();
}

}  // namespace larder::shm
