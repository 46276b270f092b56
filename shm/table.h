// The table: what a cache keeps of one host's keys, in shared memory.
//
// Threads and processes: every method may be called from any of them. Readers take no lock and
// write nothing but their own counters and, seldom, the policy's word. Writers meet only on a
// stripe, and wait for it at most `lock_timeout`.
// Crash: a process may die at any instruction; see shm/README.md for what it may leave.
// Fork: a child takes its own place at its first call.
// Knows nothing of Redis: ids and epochs come from the caller.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "larder/status.h"
#include "shm/layout.h"
#include "shm/load.h"
#include "shm/process.h"
#include "shm/reader.h"
#include "shm/segment.h"

namespace larder::shm {

struct TableOptions {
  std::chrono::milliseconds lock_timeout{100};
  std::uint64_t value_max_bytes = UINT64_MAX;  // of one value; a larger one is kTooLarge
  // Reads compare the entry with its checksum; one that differs is a miss, counted and dropped.
  bool verify_checksums = false;
};

// What a caller noted before it asked Redis; a change that came meanwhile refuses the store.
struct Sample {
  std::uint64_t epoch = 0;
  std::uint64_t guard_count = 0;
  std::uint64_t base = 0;  // the seq of the cursor, or of the event that is being applied
};

// The bytes of one entry, as written.
struct Record {
  std::string_view key;
  std::string_view value;
  std::uint64_t expires_ms = kNeverExpires;  // CLOCK_BOOTTIME
};

inline constexpr std::size_t kBatch = 32;  // keys that are looked up at a time

// A value that stays where it is until it is unpinned, whatever becomes of its key.
struct Pinned {
  std::string_view value;
  Atomic<std::uint64_t>* word = nullptr;  // null: a miss
  std::uint64_t pin = 0;                  // what the word holds meanwhile
  std::uint64_t generation = 0;           // of the process that pinned it, see fork.h
};

void unpin(const Pinned& pinned) noexcept;  // no-op for a miss

enum class Stored {
  kStored,    // readers see it
  kRefused,   // a newer change came meanwhile; any older copy is gone
  kTooLarge,  // above the maximum, or does not fit a stripe's arena; any older copy is gone
  kBusy,      // the stripe's lock was not to be had in time; for a change, readers miss there now
  kClosed,    // not done, since the segment is closed; it has to be done in the one that follows
};

// A change as the leader hears of it.
struct Change {
  enum class Kind { kSet, kDrop };
  Kind kind = Kind::kDrop;
  Record record;  // value only for kSet
  ChangeId id;    // {0, 0}: a peer that sends none
};

enum class Applied {
  kApplied,
  kOld,        // what is held already contains it
  kDeferred,   // no lock in time: readers miss there until the stripe was wiped
  kStaleTerm,  // the caller is no longer the leader; nothing was written
};

class Table {
 public:
  // `segment` must be mapped for writing.
  Table(std::shared_ptr<Segment> segment, TableOptions options);
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  Segment& segment() noexcept;
  Processes& processes() noexcept;
  // Is another segment taking this one's place? Then everything is a miss, and no change is done.
  bool is_closed() const noexcept;
  // Does this process hold views?
  bool has_pins() const noexcept;

  // Takes this process's place, which every change needs. Cheap once taken. kNoSpace when the
  // process table is full of the living.
  Status join();
  // Frees what the program held that this one replaced by exec: others cannot tell that it is gone
  // while this one maps the segment too. For who may never join.
  void bury_former_program();
  // Frees what dead processes left: their stripes, places, loads. Returns how many there were.
  unsigned reap();
  // Drops what cannot be trusted in a stripe and makes anew what is derived. False: it was not to
  // be had within the lock timeout, because a living process holds it.
  bool repair(std::uint32_t stripe);

  // ---- callers ----

  // Copies the value of `key` into `value`, whose memory is reused. False: a miss. In the header,
  // because every call on its way costs as much as a cache hit of the processor.
  [[gnu::always_inline]] bool get(std::string_view key, std::string& value) {
    return get(key, value, [] {});
  }
  // `first()` is called before anything is read, while the memory of it is on its way.
  template <class First>
  [[gnu::always_inline]] bool get(std::string_view key, std::string& value, First first) {
    const Wanted wanted = reader_.want(key);
    (void)reader_.approach(wanted.hash);
    first();
    if (verify_checksums_) [[unlikely]]
      return get_verified(key, value);
    const Look seen = reader_.look(wanted, true, [&value](const Seen& entry) {
      assign_from_shared(value, entry.value, entry.value_bytes);
    });
    if (seen != Look::kFound && !(seen == Look::kMoved && get_again(key, value))) [[unlikely]] {
      processes_.count(Counter::kLocalMisses);
      return false;
    }
    processes_.count(Counter::kLocalHits);
    return true;
  }

  // The same for at most kBatch keys, overlapping their cache misses: three passes, so that the
  // memory of all is on its way before any is waited for. `value_of(i)`: a string for the value of
  // keys[i]. Returns bit i for a hit.
  template <class ValueOf>
  [[gnu::always_inline]] std::uint32_t get_batch(std::span<const std::string_view> keys,
                                                 ValueOf value_of) {
    std::array<Approach, kBatch> approaches;
    const std::size_t count = std::min(keys.size(), kBatch);
    for (std::size_t i = 0; i < count; ++i) approaches[i] = reader_.approach(keys[i]);
    for (std::size_t i = 0; i < count; ++i) reader_.approach_entry(approaches[i]);
    if (verify_checksums_) [[unlikely]]
      return get_batch_verified(keys.first(count), value_of);
    std::uint32_t hits = 0;
    for (std::size_t i = 0; i < count; ++i) {
      std::string& value = value_of(i);
      const Look seen = reader_.look(keys[i], approaches[i], true, [&value](const Seen& entry) {
        assign_from_shared(value, entry.value, entry.value_bytes);
      });
      const bool hit = seen == Look::kFound || (seen == Look::kMoved && get_again(keys[i], value));
      hits |= static_cast<std::uint32_t>(hit) << i;
    }
    const auto found = static_cast<std::uint64_t>(std::popcount(hits));
    processes_.count(Counter::kLocalHits, found);
    if (found != count) processes_.count(Counter::kLocalMisses, count - found);
    return hits;
  }

  // Looks without it counting, as a use of the entry or as a hit. Returns until when the copy of
  // `key` lives (CLOCK_BOOTTIME, kNeverExpires: for ever); nothing for a miss.
  std::optional<std::uint64_t> peek(std::string_view key, std::string& value);
  std::optional<std::uint64_t> expiry(std::string_view key) const;

  // The value in place. A miss has no word. kBusy: this process holds kPins already.
  Result<Pinned> pin(std::string_view key);

  // To be taken before Redis is asked for `key`, or told to change it.
  Sample sample(std::string_view key) const;

  // Keeps what Redis answered to a read. `reach`: the last id of the log at that moment.
  Stored fill(const Record& record, const Sample& sample, ChangeId reach);
  // The same of what was fetched under `load`; kRefused, and nothing is touched, once that was
  // taken over.
  Stored fill(const Record& record, const Sample& sample, ChangeId reach, const LoadLease& load);
  // Keeps one's own change after Redis took it under `id`.
  Stored set(const Record& record, const Sample& sample, ChangeId id);
  // The same where there is no Redis. kClosed.
  Stored set(const Record& record);
  // One's own removal, taken by Redis under `id`. kRefused when something newer is held.
  Stored remove(std::string_view key, const Sample& sample, ChangeId id);
  // Drops whatever is held of `key`: a change whose outcome is not known. kClosed.
  Stored drop(std::string_view key);
  // Everything changed before `seq` becomes a miss, within `epoch`.
  void raise_floor(std::uint64_t epoch, std::uint64_t seq);
  // Drops everything held: an O(1) flush. Returns the new epoch. That of a closed segment: what
  // takes its place has dropped everything too, unless it was in place before.
  std::uint64_t raise_epoch();

  // ---- loading, see load.h ----

  Claimed claim_load(std::string_view key, std::chrono::milliseconds lease, LoadLease& load);
  bool wait_for_load(std::string_view key, std::chrono::milliseconds timeout);

  // ---- the leader ----

  // Raises the term and seals it into every stripe; a lease that the former leader was given goes
  // on. Called by who holds the leader's lock, or found its holder standing still; `seen` is the
  // term before that look.
  // kAlreadyExists, and nothing has changed: another process was elected since.
  Result<std::uint64_t> begin_term(std::uint64_t seen, bool holds_lock = true);
  Result<std::uint64_t> begin_term();  // whatever the term is now
  // Who began `term` without the lock has it now.
  void got_leader_lock(std::uint64_t term) noexcept;
  // Is the newest leader, which could not get the lock when it was elected, alive? Then a free lock
  // is its.
  bool leader_awaits_lock();
  bool term_is_current(std::uint64_t term) const noexcept;
  Applied apply(const Change& change, std::uint64_t term);
  // Is there a live copy of `key`?
  bool contains(std::string_view key) const { return expiry(key).has_value(); }

  // ---- everybody ----

  void count(Counter counter, std::uint64_t by = 1) noexcept;

 private:
  class Impl;
  void reap_former_program();
  // Writers kept changing the key's bucket.
  [[gnu::cold]] bool get_again(std::string_view key, std::string& value);
  [[gnu::noinline]] bool get_verified(std::string_view key, std::string& value);
  template <class ValueOf>
  [[gnu::noinline]] std::uint32_t get_batch_verified(std::span<const std::string_view> keys,
                                                     ValueOf value_of) {
    std::uint32_t hits = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      hits |= static_cast<std::uint32_t>(get_verified(keys[i], value_of(i))) << i;
    }
    return hits;
  }

  std::unique_ptr<Impl> impl_;
  const Reader reader_;
  Processes& processes_;
  const bool verify_checksums_;
};

}  // namespace larder::shm
