#include "shm/resize.h"

#include <signal.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "shm/checksum.h"
#include "shm/clock.h"
#include "shm/entry.h"
#include "shm/inspect.h"
#include "shm/lock.h"
#include "shm/policy.h"
#include "shm/process.h"
#include "shm/racy_copy.h"
#include "shm/table.h"
#include "shm/writer.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr std::chrono::milliseconds kStripeWait{100};
// Of the new segment's room. Its stripes do not fill evenly, and what overflows is evicted.
constexpr std::uint64_t kFillPercent = 90;

// A slot of the old segment that holds something.
struct Candidate {
  std::uint32_t worth;
  std::uint32_t stripe;
  std::uint32_t bucket;
  std::uint32_t slot;
};

// What was read there, and when.
struct Copied {
  std::uint64_t hash;  // in the new segment
  std::uint32_t stripe;
  std::uint32_t bucket;
  std::uint32_t version;
};

// An entry as it was at one moment.
struct Copy {
  std::string key;
  std::string value;
  EntryHeader header;
  std::uint32_t version;
};

class Copier {
 public:
  // `table` has joined: stripes are locked by its name.
  Copier(Table& table, Segment& next)
      : old_(table.segment()),
        next_(next),
        policy_(policy_of(old_.superblock().policy)),
        old_processes_(table.processes()),
        next_processes_(next),
        epoch_(old_.superblock().hot.epoch.load(kAcquire)) {
    for (std::uint32_t i = 0; i < next.geometry().stripe_count; ++i) {
      writers_.emplace_back(next, i, policy_, next_processes_).sweep_if_due();
    }
  }

  // Most wanted last, so that they are what was used last there too.
  void copy() {
    std::vector<Candidate> wanted = candidates();
    std::sort(wanted.begin(), wanted.end(),
              [](const Candidate& a, const Candidate& b) { return a.worth > b.worth; });
    wanted.resize(count_that_fit(wanted));
    copied_.reserve(wanted.size());
    Copy copy;
    std::for_each(wanted.rbegin(), wanted.rend(), [&](const Candidate& candidate) {
      if (read(candidate, copy)) keep(candidate, copy);
    });
    // For drop_changed(), while nobody waits yet.
    std::sort(copied_.begin(), copied_.end(), [](const Copied& a, const Copied& b) {
      return std::tie(a.stripe, a.bucket) < std::tie(b.stripe, b.bucket);
    });
  }

  // Returns the epoch of the closed segment.
  std::uint64_t close() {
    return closed_ = old_.superblock().hot.epoch.fetch_or(kClosedEpoch) | kClosedEpoch;
  }

  // Returns how many there were.
  std::uint64_t drop_changed() {
    if (copied_.empty()) return 0;
    if ((closed_ & ~kClosedEpoch) != epoch_) return drop_all();
    std::uint64_t dropped = 0;
    for (auto first = copied_.begin(); first != copied_.end();) {
      const auto last = std::find_if(first, copied_.end(), [&](const Copied& copied) {
        return copied.stripe != first->stripe;
      });
      dropped += drop_changed({&*first, static_cast<std::size_t>(last - first)});
      first = last;
    }
    return dropped;
  }

 private:
  std::vector<Candidate> candidates() const {
    std::vector<Candidate> all;
    const Geometry& g = old_.geometry();
    for (std::uint32_t s = 0; s < g.stripe_count; ++s) {
      const std::uint32_t tick = old_.stripe(s).tick.load(kRelaxed);
      const std::uint32_t buckets = buckets_in_use(g, old_.stripe(s).index.load(kAcquire));
      for (std::uint32_t b = 0; b < buckets; ++b) {
        const Bucket& bucket = old_.bucket(s, b);
        for (std::uint32_t i = 0; i < kSlotsPerBucket; ++i) {
          if (bucket.slots[i].load(kRelaxed) == 0) continue;
          all.push_back({policy_.worth(bucket.use[i].load(kRelaxed), tick), s, b, i});
        }
      }
    }
    return all;
  }

  // By what their headers say now; an estimate will do.
  std::size_t count_that_fit(const std::vector<Candidate>& wanted) const {
    const Geometry& g = next_.geometry();
    std::uint64_t room = std::uint64_t{g.arena_granules} * g.stripe_count * kFillPercent / 100;
    std::size_t count = 0;
    for (const Candidate& candidate : wanted) {
      const auto entry = read_entry(old_, candidate.stripe, slot_of(candidate).load(kAcquire));
      const std::uint64_t granules = entry ? entry->run.granules : 0;
      if (granules > room) break;
      room -= granules;
      ++count;
    }
    return count;
  }

  Bucket& bucket_of(const Candidate& candidate) const {
    return old_.bucket(candidate.stripe, candidate.bucket);
  }
  const Atomic<std::uint32_t>& slot_of(const Candidate& candidate) const {
    return bucket_of(candidate).slots[candidate.slot];
  }

  // As a reader does, but the version is compared once more, in drop_changed().
  bool read(const Candidate& candidate, Copy& copy) const {
    const Bucket& bucket = bucket_of(candidate);
    // acquire: as in Reader, what is read after this is as new as the version.
    copy.version = bucket.version.load(kAcquire);
    const std::uint32_t word = slot_of(candidate).load(kAcquire);
    const auto entry = read_entry(old_, candidate.stripe, word);
    if (word == 0 || !entry) return false;
    copy.header = entry->header;
    assign_from_shared(copy.key, entry->key(), entry->header.key_bytes());
    assign_from_shared(copy.value, entry->value(), entry->header.value_bytes());
    if (version_after_copy(bucket.version) != copy.version) return false;
    return is_current(copy.header, epoch_, old_.superblock().hot.floor.load(kAcquire)) &&
           !is_expired(copy.header) &&
           copy.header.checksum() == entry_checksum(copy.header, old_.hash(copy.key), copy.value);
  }

  void keep(const Candidate& candidate, const Copy& copy) {
    const std::uint64_t hash = next_.hash(copy.key);
    Writer& writer = writers_[stripe_of(next_.geometry(), hash)];
    const NewEntry entry{copy.key,
                         hash,
                         copy.value,
                         copy.header.expires_ms(),
                         {next_.superblock().hot.epoch.load(kRelaxed), 0, {}}};
    // Held already: it moved within the old segment while we went through it. Both are in
    // `copied_`, so this one goes when either did.
    if (writer.put(entry, writer.find(copy.key, hash))) {
      copied_.push_back({hash, candidate.stripe, candidate.bucket, copy.version});
    }
  }

  std::uint64_t drop_changed(std::span<Copied> of_stripe) {
    const std::uint32_t index = of_stripe.front().stripe;
    Stripe& stripe = old_.stripe(index);
    const std::uint32_t self = old_processes_.self_or_none();
    const Acquired acquired =
        self == 0 ? Acquired::kTimeout : acquire(stripe, self, old_processes_, kStripeWait);
    const bool whole = acquired == Acquired::kClean && stripe.bypass.load() == 0;
    std::uint64_t dropped = 0;
    for (const Copied& copied : of_stripe) {
      if (whole && old_.bucket(index, copied.bucket).version.load(kAcquire) == copied.version) {
        continue;
      }
      drop(copied.hash);
      ++dropped;
    }
    // In case it is opened again.
    if (acquired == Acquired::kFromDead) Writer(old_, index, policy_, old_processes_).repair();
    if (acquired != Acquired::kTimeout) (void)release(stripe, self);
    return dropped;
  }

  std::uint64_t drop_all() {
    for (const Copied& copied : copied_) drop(copied.hash);
    return copied_.size();
  }

  // Two keys of one hash are dropped together.
  void drop(std::uint64_t hash) {
    const KeyPlace place = place_of(next_, hash);
    Writer& writer = writers_[place.stripe];
    for (const std::uint32_t b : {place.home, place.other}) {
      for (const auto& slot : next_.bucket(place.stripe, b).slots) {
        const std::uint32_t word = slot.load(kRelaxed);
        if (!slot_matches(word, hash)) continue;
        const auto entry = read_entry(next_, place.stripe, word);
        if (!entry) continue;
        const std::string_view key(entry->key(), entry->header.key_bytes());
        if (next_.hash(key) != hash) continue;
        if (const auto found = writer.find(key, hash)) writer.erase(*found);
      }
    }
  }

  Segment& old_;
  Segment& next_;
  const Policy& policy_;
  Processes& old_processes_;
  Processes next_processes_;   // never joins: nobody else is there
  const std::uint64_t epoch_;  // of the old segment, when the copy began
  std::uint64_t closed_ = 0;   // and when it was closed
  std::deque<Writer> writers_;
  std::vector<Copied> copied_;
};

bool has_redis(const Segment& segment) {
  constexpr std::string_view kLine = "redis=";
  const std::string binding = segment.binding();
  return binding.starts_with(kLine) && !binding.substr(kLine.size()).starts_with('\n');
}

// What the host counted so far goes on.
void take_over_counters(const Totals& old, Segment& next) {
  for (std::size_t i = 0; i < kCounters; ++i) {
    next.superblock().departed.values[i].store(old.counters[i], kRelaxed);
  }
}

// Once the path names it. Whoever could not wait for it has flushed the old one, or, if it was
// there already, this one. True: the old one was flushed, so this one begins empty.
bool open(Segment& next, const Segment& old, std::uint64_t closed) {
  Atomic<std::uint64_t>& epoch = next.superblock().hot.epoch;
  const bool flushed = old.superblock().hot.epoch.load() != closed;
  std::uint64_t now = epoch.load();
  while (!epoch.compare_exchange_weak(now, (flushed ? next_epoch(now) : now) & ~kClosedEpoch)) {
  }
  return flushed;
}

// Who works on the old one must find a place in the new one.
Status check_places(Table& old, const Segment& next) {
  (void)old.reap();
  const unsigned processes = old.processes().alive_count() - 1;  // without this one
  const std::uint32_t places = next.geometry().place_count - 1;
  if (processes <= places) return {};
  return {Code::kNoSpace, "a segment of that size has " + std::to_string(places) + " places, and " +
                              std::to_string(processes) +
                              " processes use the one in force; make it larger"};
}

// A signal that ends this process while nothing can be read or changed would empty the segment.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t ending;
    sigemptyset(&ending);
    for (const int number : {SIGHUP, SIGINT, SIGTERM}) sigaddset(&ending, number);
    pthread_sigmask(SIG_BLOCK, &ending, &before_);
  }
  ~SignalsHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Result<Resized> resize(const std::string& path, std::uint64_t bytes) {
  Resized done;
  std::uint64_t closed = 0;
  std::uint64_t closed_at_ms = 0;
  std::optional<SignalsHeld> held;
  const auto before = [&](const std::shared_ptr<Segment>& old, Segment& next) -> Status {
    Table table(old, {});
    if (Status s = table.join(); !s.ok()) return s;
    if (Status s = check_places(table, next); !s.ok()) return s;
    done.bytes_before = old->geometry().segment_bytes;
    done.has_redis = has_redis(*old);
    Copier copier(table, next);
    if (!done.has_redis) copier.copy();
    held.emplace();
    closed_at_ms = now_ms();
    closed = copier.close();
    done.changed = copier.drop_changed();
    const Totals was = totals(*old);
    done.entries_before = was.entries;
    done.copied = totals(next).entries;
    take_over_counters(was, next);
    return {};
  };
  const auto after = [&](Segment& old, Segment& next) {
    done.flushed = open(next, old, closed);
    done.closed = std::chrono::milliseconds(now_ms() - closed_at_ms);
  };
  const Status replaced = Segment::replace(path, bytes, {before, after});
  if (!replaced.ok()) return replaced;
  return done;
}

}  // namespace larder::shm
