// Everything that is stored in a segment, declared once.
//
//   superblock | processes | stripes | index (buckets) | guards | page descriptors | pages
//
// Rules: fixed-width integers, offsets from the segment's start, no pointers, no vtables. What the
// words mean, who writes them and what a crash may leave: shm/README.md. `layout_text()` prints
// the whole layout for the golden test; its hash is the signature that strangers are refused by.
//
// Primary state (I4): slots, entries, page ownership, generation and use, guards, epoch, floor,
// term, bypass. Everything else is derived, and any bit pattern in it is harmless.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace larder::shm {

inline constexpr std::uint64_t kMagic = 0x3130724564724c6cull;  // "lLrdEr01", written last
inline constexpr std::uint32_t kLayoutVersion = 1;
inline constexpr std::size_t kCacheLine = 64;

template <class T>
using Atomic = std::atomic<T>;
static_assert(Atomic<std::uint64_t>::is_always_lock_free && sizeof(Atomic<std::uint64_t>) == 8);
static_assert(Atomic<std::uint32_t>::is_always_lock_free && sizeof(Atomic<std::uint32_t>) == 4);
static_assert(Atomic<std::uint8_t>::is_always_lock_free && sizeof(Atomic<std::uint8_t>) == 1);

// ---- change ids -------------------------------------------------------------------------------

// The place of a change in the log that all hosts share. `seq` orders changes of one history; two
// histories are the same up to an id exactly when both contain it, nonce included. {0, 0}: none.
struct ChangeId {
  std::uint64_t seq = 0;
  std::uint64_t nonce = 0;
  friend bool operator==(const ChangeId&, const ChangeId&) = default;
  bool none() const noexcept { return seq == 0 && nonce == 0; }
};
inline constexpr std::uint64_t kMaxSeq = (1ull << 48) - 1;  // the floor packs a seq in 48 bits

// ---- counters ---------------------------------------------------------------------------------

// Derived. One block per process place, written by that process alone with relaxed adds, and one
// for the dead. The order is the order in which tools print them.
enum class Counter : std::uint32_t {
  kLocalHits,
  kLocalMisses,
  kRemoteHits,
  kRemoteMisses,
  kRemoteErrors,
  kStaleHits,
  kSets,
  kRemoves,
  kClears,
  kStored,
  kStoresRefused,
  kTooLarge,
  kEvictions,
  kExpirations,
  kLockTimeouts,
  kTakeovers,
  kWipes,
  kEventsApplied,
  kEventsOld,
  kEventsWithoutId,
  kEventsMalformed,
  kEventsForeign,
  kEpochRaises,
  kLeaderChanges,
  kUnpublished,
  kStaleTermWrites,
  kLocksLost,
  kCount
};
inline constexpr std::size_t kCounters = static_cast<std::size_t>(Counter::kCount);
const char* counter_name(Counter counter) noexcept;  // "local_hits"

struct CounterBlock {
  Atomic<std::uint64_t> values[32];
};
static_assert(kCounters <= 32);

// ---- superblock -------------------------------------------------------------------------------

inline constexpr std::size_t kBindingBytes = 2048;

// Where things are and how many; fixed at creation.
struct Geometry {
  std::uint64_t segment_bytes;
  std::uint32_t place_count;         // process places; place 0 is never used
  std::uint32_t stripe_count;        // power of two
  std::uint32_t buckets_per_stripe;  // even: a bucket and its neighbour form a pair
  std::uint32_t guards_per_stripe;   // power of two
  std::uint32_t pages_per_stripe;
  std::uint32_t page_bytes;  // power of two
  std::uint64_t places_offset;
  std::uint64_t stripes_offset;
  std::uint64_t buckets_offset;
  std::uint64_t guards_offset;
  std::uint64_t descriptors_offset;
  std::uint64_t pages_offset;
  friend bool operator==(const Geometry&, const Geometry&) = default;
};

// Read by every get, written rarely.
struct alignas(kCacheLine) HotWords {
  // Entries stamped with another epoch read as absent: raising it is an O(1) flush.
  Atomic<std::uint64_t> epoch;
  // {low 16 bits of an epoch, 48 bits of a seq}: within that epoch, entries whose reach is below
  // the seq are misses. Set by `clear`.
  Atomic<std::uint64_t> floor;
  Atomic<std::uint32_t> in_sync;  // 1 while a leader follows the channel
};

// The leader's words. `head` is written before an event's first effect, `cursor` after its last.
struct alignas(kCacheLine) SyncWords {
  Atomic<std::uint64_t> term;          // fencing number of the newest leader
  Atomic<std::uint32_t> leader_place;  // place of the newest leader; 0: none yet
  Atomic<std::uint32_t> leader_incarnation;
  Atomic<std::uint64_t> heartbeat;  // counts the leader's turns; time is the observer's own
  Atomic<std::uint64_t> cursor_seq;
  Atomic<std::uint64_t> cursor_nonce;
  Atomic<std::uint64_t> head_seq;
  Atomic<std::int64_t> redis_clock_ms;  // Redis' time minus CLOCK_BOOTTIME, in ms
};

struct Superblock {
  std::uint64_t magic;  // last word written by the creator
  std::uint32_t layout_version;
  std::uint32_t architecture;      // byte order and word size
  std::uint64_t layout_signature;  // hash of layout_text()
  std::uint64_t instance;          // random; names the lock file
  std::uint64_t hash_seed;         // random; an attacker cannot aim keys at one stripe
  std::uint64_t boot_hash;         // hash of the kernel's boot id
  std::int64_t created_unix_ms;
  std::uint32_t creator_pid;
  std::uint32_t policy;  // Policy's number
  Geometry geometry;
  // What the segment was made for, as "name=value" lines; compared word by word at attach.
  char binding[kBindingBytes];
  HotWords hot;
  SyncWords sync;
  alignas(kCacheLine) CounterBlock departed;  // counters of processes that are gone
};

// ---- processes --------------------------------------------------------------------------------

enum class PlaceState : std::uint32_t { kFree = 0, kAlive = 1 };

// Process i is alive while it holds a record lock on byte i of the lock file.
struct alignas(kCacheLine) Place {
  Atomic<std::uint64_t>
      state;  // {incarnation:32, PlaceState:32}; incarnation rises at every registration
  Atomic<std::uint32_t> pid;            // as the process sees itself
  Atomic<std::uint32_t> pid_namespace;  // inode; pids compare within one only
  Atomic<std::uint64_t> start_ticks;    // of /proc/PID/stat: tells a recycled pid
  Atomic<std::uint64_t> attached_ms;    // CLOCK_BOOTTIME
  alignas(kCacheLine) CounterBlock counters;
};

// ---- stripes ----------------------------------------------------------------------------------

// A lock word: 0 free, else {waiters:1, incarnation:21, place:10}. Never a thread id: those
// collide between PID namespaces.
inline constexpr std::uint32_t kPlaceBits = 10;
inline constexpr std::uint32_t kIncarnationBits = 21;
inline constexpr std::uint32_t kWaiters = 1u << 31;
inline constexpr std::uint32_t kMaxPlaces = 1u << kPlaceBits;

constexpr std::uint32_t make_owner(std::uint32_t place, std::uint32_t incarnation) {
  return place | (incarnation & ((1u << kIncarnationBits) - 1)) << kPlaceBits;
}
constexpr std::uint32_t owner_place(std::uint32_t owner) { return owner & (kMaxPlaces - 1); }
constexpr std::uint32_t owner_incarnation(std::uint32_t owner) {
  return (owner & ~kWaiters) >> kPlaceBits;
}

struct Stripe {
  // Readers look at this line and seldom see it change.
  //
  // Not zero: an invalidation could not get the lock; readers miss until the stripe is wiped.
  alignas(kCacheLine) Atomic<std::uint32_t> bypass;
  Atomic<std::uint32_t> tick;  // derived: the policy's coarse time, advances with inserts

  // Writers' lines.
  alignas(kCacheLine) Atomic<std::uint32_t> lock;  // futex
  Atomic<std::uint32_t> deaths;  // owners lost in a row; the third wipes the stripe
  Atomic<std::uint64_t> term;    // sealed by the leader; older leaders cannot write here
  // Derived, recomputed by repair.
  Atomic<std::uint32_t> open_page;   // index within the stripe's range; kNoPage: none
  Atomic<std::uint32_t> inserts;     // since the tick last moved
  Atomic<std::uint64_t> fill_order;  // stamped on pages as they are opened
  Atomic<std::uint64_t> entries;
  Atomic<std::uint64_t> live_bytes;
};
inline constexpr std::uint32_t kNoPage = UINT32_MAX;

// ---- index ------------------------------------------------------------------------------------

// A slot: {tag:20, offset in units of 8 bytes:44}; 0: empty. One store publishes an entry (I1).
inline constexpr std::uint32_t kTagBits = 20;
inline constexpr std::uint32_t kUnit = 8;
inline constexpr std::uint64_t kOffsetMask = (1ull << (64 - kTagBits)) - 1;

constexpr std::uint64_t make_slot(std::uint64_t hash, std::uint64_t offset) {
  return (hash >> (64 - kTagBits)) << (64 - kTagBits) | offset / kUnit;
}
constexpr std::uint64_t slot_offset(std::uint64_t slot) { return (slot & kOffsetMask) * kUnit; }
constexpr bool slot_matches(std::uint64_t slot, std::uint64_t hash) {
  return slot != 0 && (slot ^ hash) >> (64 - kTagBits) == 0;
}

inline constexpr std::size_t kSlotsPerBucket = 7;

// One cache line. A key lives in its bucket or in the bucket's neighbour (index ^ 1).
struct alignas(kCacheLine) Bucket {
  Atomic<std::uint64_t> slots[kSlotsPerBucket];
  // The policy's byte for each slot. Readers write it, unlocked and seldom; any value is legal.
  Atomic<std::uint8_t> use[8];
};
static_assert(sizeof(Bucket) == kCacheLine);

// ---- guards -----------------------------------------------------------------------------------

// Remembers, for the keys that share it, what late replies must not overwrite.
struct Guard {
  Atomic<std::uint64_t> epoch;  // `seq` counts only within this epoch
  Atomic<std::uint64_t> seq;    // highest change applied
  Atomic<std::uint64_t> count;  // changes without an id
};

// ---- pages ------------------------------------------------------------------------------------

struct PageDescriptor {
  Atomic<std::uint32_t> owner;       // stripe + 1; 0: free
  Atomic<std::uint32_t> generation;  // odd while the page is being recycled (I2)
  Atomic<std::uint32_t> used;        // appended so far; raised before the bytes are written
  Atomic<std::uint32_t> live;        // derived: bytes that slots point at
  Atomic<std::uint64_t> filled;      // derived: order in which the stripe opened its pages
};

inline constexpr std::uint32_t kPageMaxBytes = 256u << 10;
inline constexpr std::uint64_t kNeverExpires = 0;

// An entry is immutable once published: header, key, value, padding to 8 bytes.
struct EntryHeader {
  std::uint32_t value_bytes;
  std::uint16_t key_bytes;
  std::uint16_t flags;        // 0; none is defined yet
  std::uint32_t checksum;     // low 32 bits of xxh3 over the rest of the entry
  std::uint32_t epoch;        // low 32 bits of the epoch sampled before Redis was asked
  std::uint64_t reach_seq;    // the id Redis answered; 0: none (local only)
  std::uint32_t reach_nonce;  // its nonce's low 32 bits
  std::uint32_t base_lag;     // base = reach_seq - base_lag; saturated: 0, a lower base is safe
  std::uint64_t expires_ms;   // CLOCK_BOOTTIME; kNeverExpires
};
static_assert(sizeof(EntryHeader) == 40);

constexpr std::uint64_t entry_bytes(std::uint64_t key_bytes, std::uint64_t value_bytes) {
  return (sizeof(EntryHeader) + key_bytes + value_bytes + kUnit - 1) / kUnit * kUnit;
}

// Every size and offset above as text, one line each.
std::string layout_text();
std::uint64_t layout_signature();

}  // namespace larder::shm
