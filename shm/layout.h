// Everything that is stored in a segment, declared once.
//
//   superblock | processes | loads | journal | stripes | guards | index (buckets) | sketches | maps
//   | arenas
//
// Rules: fixed-width integers, offsets from the segment's start, no pointers, no vtables. What the
// words mean, who writes them and what a crash may leave: shm/README.md. `layout_text()` prints
// the whole layout for the golden test; its hash is the signature that strangers are refused by.
//
// Primary state (I4): slots, entries, guards, epoch, floor, term, bypass, pins, loads, lease,
// cursor, history. Everything else is derived, and any bit pattern in it is harmless.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "shm/policy_words.h"

namespace larder::shm {

inline constexpr std::uint64_t kMagic = 0x3130724564724c6cull;  // "lLrdEr01", written last
inline constexpr std::uint32_t kLayoutVersion = 7;
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
  kStaleTermRefused,
  kUnpublished,
  kStaleTermWrites,
  kLocksLost,
  kCorrupt,
  kLoads,
  kLoadsTakenOver,
  kLoadWaits,
  kAnnouncedLarge,
  kAnnouncedCold,
  kNotAsked,
  kCount
};
inline constexpr std::size_t kCounters = static_cast<std::size_t>(Counter::kCount);
const char* counter_name(Counter counter) noexcept;  // "local_hits"

struct CounterBlock {
  Atomic<std::uint64_t> values[40];
};
static_assert(kCounters <= sizeof(CounterBlock) / 8);

// Derived. What the leaders of this host met; one block in the superblock, written by who leads.
enum class SyncCounter : std::uint32_t {
  kSubscriptions,  // that Redis confirmed
  kLogReadings,    // from the cursor on: after each subscription, and for a gap
  kGaps,           // what arrived, or what a probe saw, did not go on from the cursor
  kReplayed,       // changes taken from the log
  // Raises of the epoch, in the order of RaiseReason.
  kRaisesNew,
  kRaisesLogLost,
  kRaisesDiverged,
  kRaisesWithoutId,
  kRaisesBehind,
  kRaisesDisturbed,  // a former leader went on
  // Events of one key each, in the order of Happening and EventOutcome; see journal.h.
  kSetsApplied,
  kSetsOld,
  kSetsDeferred,
  kInvalidationsApplied,
  kInvalidationsOld,
  kInvalidationsDeferred,
  kDeletesApplied,
  kDeletesOld,
  kDeletesDeferred,
  kCount
};
inline constexpr std::size_t kSyncCounters = static_cast<std::size_t>(SyncCounter::kCount);
static_assert(kSyncCounters <= sizeof(CounterBlock) / 8);
const char* sync_counter_name(SyncCounter counter) noexcept;  // "log_readings"

// ---- lock words -------------------------------------------------------------------------------

// A lock word: 0 free, else {waiters:1, incarnation:21, place:10}. Never a thread id: those
// collide between PID namespaces.
inline constexpr std::uint32_t kPlaceBits = 10;
inline constexpr std::uint32_t kIncarnationBits = 21;
inline constexpr std::uint32_t kWaiters = 1u << 31;
inline constexpr std::uint32_t kMaxPlaces = 1u << kPlaceBits;

constexpr std::uint32_t make_owner(std::uint32_t place, std::uint32_t incarnation) {
  return place | (incarnation & ((1u << kIncarnationBits) - 1)) << kPlaceBits;
}
// The word for a leader. Its mark, in the bit that an owner leaves to a lock's waiters: elected
// while the former leader stood still, it leads and waits until that one lets the lock go.
inline constexpr std::uint32_t kAwaitsLock = 1u << 31;
constexpr std::uint64_t make_leader(std::uint64_t term, std::uint32_t owner, bool holds_lock) {
  return term << 32 | owner | (holds_lock ? 0 : kAwaitsLock);
}
constexpr std::uint32_t leader_owner(std::uint64_t leader) {
  return static_cast<std::uint32_t>(leader) & ~kAwaitsLock;
}
// Does it name a leader of this term? Who began a term may have died before it put its name down.
constexpr bool is_of_term(std::uint64_t leader, std::uint64_t term) {
  return leader >> 32 == static_cast<std::uint32_t>(term);
}
constexpr bool awaits_lock(std::uint64_t leader) { return (leader & kAwaitsLock) != 0; }
constexpr std::uint32_t owner_place(std::uint32_t owner) { return owner & (kMaxPlaces - 1); }
constexpr std::uint32_t owner_incarnation(std::uint32_t owner) {
  return (owner & ~kWaiters) >> kPlaceBits;
}

// ---- superblock -------------------------------------------------------------------------------

inline constexpr std::size_t kBindingBytes = 2048;

// Where things are and how many; fixed at creation, and a function of the first two.
struct Geometry {
  std::uint64_t segment_bytes;
  std::uint64_t max_entries;         // 0: as many as fit
  std::uint32_t place_count;         // process places; place 0 is never used
  std::uint32_t stripe_count;        // power of two
  std::uint32_t buckets_per_stripe;  // a multiple of 2 ^ index_halvings
  std::uint32_t index_halvings;      // how often less of them may be in use
  std::uint32_t guards_per_stripe;   // power of two
  std::uint32_t sketch_per_stripe;   // words of the policy's sketch; power of two
  std::uint32_t arena_granules;      // of one stripe; even
  std::uint32_t load_count;          // power of two
  std::uint32_t note_count;          // of the journal; power of two
  std::uint64_t places_offset;
  std::uint64_t loads_offset;
  std::uint64_t journal_offset;
  std::uint64_t stripes_offset;
  std::uint64_t guards_offset;
  std::uint64_t buckets_offset;
  std::uint64_t sketches_offset;
  std::uint64_t maps_offset;
  std::uint64_t arenas_offset;
  friend bool operator==(const Geometry&, const Geometry&) = default;

  std::uint32_t least_buckets() const noexcept { return buckets_per_stripe >> index_halvings; }
  std::uint64_t arena_bytes() const noexcept;           // of one stripe
  std::uint32_t blocks_per_stripe() const noexcept;     // of its map; the last may be cut short
  std::uint64_t map_words_per_stripe() const noexcept;  // the map, then a summary for each block
};

// Set in the epoch of a closed segment: one that another is taking the place of, or is about to
// take the place of another itself, see resize.h. No entry is stamped with such an epoch, so
// nothing held there can be read, and nothing is stored.
inline constexpr std::uint64_t kClosedEpoch = 1ull << 31;
constexpr bool is_closed(std::uint64_t epoch) { return (epoch & kClosedEpoch) != 0; }
// The one after it, open or closed as before. Never 0: no entry, swept or not, is of that.
constexpr std::uint64_t next_epoch(std::uint64_t epoch) {
  const std::uint64_t next = (epoch + 1) & (kClosedEpoch - 1);
  return (epoch & kClosedEpoch) | (next == 0 ? 1 : next);
}

// Read by every get, written rarely.
struct alignas(kCacheLine) HotWords {
  // Entries stamped with another epoch read as absent: raising it is an O(1) flush.
  Atomic<std::uint64_t> epoch;
  // {low 16 bits of an epoch, 48 bits of a seq}: within that epoch, entries whose reach is below
  // the seq are misses. Set by `clear`.
  Atomic<std::uint64_t> floor;
  // Until then what is held lacks no change that was made longer ago than a lease lasts. The same
  // moment by two clocks, see clock.h; 0: never held.
  Atomic<std::uint64_t> lease_until_ms;
  Atomic<std::uint64_t> lease_until_unix_ms;
};

// The leader's words. `head` is written before an event's first effect, `cursor` after its last.
struct alignas(kCacheLine) SyncWords {
  Atomic<std::uint64_t> term;  // fencing number of the newest leader
  // {low half of its term:32, awaits the lock:1, owner:31}; 0: none yet
  Atomic<std::uint64_t> leader;
  Atomic<std::uint64_t> heartbeat;  // counts the leader's turns; time is the observer's own
  Atomic<std::uint64_t> cursor_seq;
  Atomic<std::uint64_t> cursor_nonce;
  Atomic<std::uint64_t> head_seq;
  Atomic<std::uint64_t> lease_term;     // of the leader that extended the lease last
  Atomic<std::uint64_t> idless_epoch;   // the last with a change without an id; 0: none ever
  Atomic<std::int64_t> redis_clock_ms;  // Redis' time minus CLOCK_BOOTTIME, in ms
  // When the last probe was sent that Redis answered: CLOCK_MONOTONIC_COARSE, in ms.
  Atomic<std::uint64_t> answered_ms;
  Atomic<std::uint64_t> log_end_seq;  // that it told of
  Atomic<std::uint64_t> noted;        // how many notes the journal was ever given
  // The newest clear, of whatever epoch: it tells which events are of before one. See is_newer().
  Atomic<std::uint64_t> cleared_seq;
};

// How many of the last changes are known by their exact ids, and how far ahead of the cursor a copy
// may run. See history.h.
inline constexpr std::size_t kHistory = 2048;
// Of two positions that may be of different histories: so far apart, a log has begun anew between.
constexpr bool is_newer(std::uint64_t known, std::uint64_t seq) {
  return known > seq && known - seq <= kHistory;
}

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
  alignas(kCacheLine) Atomic<std::uint64_t> history[kHistory];
  alignas(kCacheLine) CounterBlock sync_counters;
  PolicyShared policy_words;
  // Bit i: place i has pinned something since it was taken. Who frees a run looks at those places.
  alignas(kCacheLine) Atomic<std::uint64_t> pinners[kMaxPlaces / 64];
  alignas(kCacheLine) CounterBlock departed;  // counters of processes that are gone
};

// ---- processes --------------------------------------------------------------------------------

enum class PlaceState : std::uint32_t { kFree = 0, kAlive = 1 };

inline constexpr std::size_t kPins = 32;  // views that one process may hold at a time

// Process i is alive while it holds a record lock on byte i of the lock file.
struct alignas(kCacheLine) Place {
  Atomic<std::uint64_t>
      state;  // {incarnation:32, PlaceState:32}; incarnation rises at every registration
  Atomic<std::uint32_t> pid;            // as the process sees itself
  Atomic<std::uint32_t> pid_namespace;  // inode; pids compare within one only
  Atomic<std::uint64_t> start_ticks;    // of /proc/PID/stat: tells a recycled pid
  Atomic<std::uint64_t> attached_ms;    // CLOCK_BOOTTIME
  Atomic<std::uint32_t> pins_used;      // of `pins`, the first so many were ever used
  Atomic<std::uint64_t> program;        // see own_program(): another one after exec
  // What this process's views point at, as pin words; primary while the process lives.
  alignas(kCacheLine) Atomic<std::uint64_t> pins[kPins];
  // The second block is for threads other than the one that registered; see Processes::count.
  alignas(kCacheLine) CounterBlock counters;
  alignas(kCacheLine) CounterBlock thread_counters;
};

// ---- loads ------------------------------------------------------------------------------------

// Who fetches the value of a key for everybody: {tag:8 of the key's hash, until:24, owner:32 as in
// a lock word}; 0: nobody. `until` counts CLOCK_BOOTTIME in units of 16 ms and wraps after three
// days. One word, so that no death leaves half of it.
inline constexpr unsigned kLoadTagBits = 8;
inline constexpr unsigned kLoadUntilBits = 24;
inline constexpr unsigned kLoadUnitBits = 4;  // of milliseconds

// ---- the journal ------------------------------------------------------------------------------

inline constexpr std::size_t kNoteText = 80;

// One thing that happened here; see journal.h.
struct alignas(kCacheLine) Note {
  Atomic<std::uint64_t> number;  // the note's and 1, written last; 0: being written
  Atomic<std::uint64_t> what;    // {happening:8, outcome:8, text bytes:16, value bytes:32}
  Atomic<std::uint64_t> seq;
  Atomic<std::uint64_t> nonce;
  Atomic<std::uint64_t> unix_ms;
  Atomic<std::uint64_t> hash;  // of the text
  Atomic<std::uint64_t> text[kNoteText / 8];
};
static_assert(sizeof(Note) == 128);

// ---- stripes ----------------------------------------------------------------------------------

inline constexpr std::size_t kQuarantine = 32;
inline constexpr std::size_t kHoles = 64;

// Padded, so that readers have a line that no writer's line shares.
struct Stripe {  // NOLINT(clang-analyzer-optin.performance.Padding)
  // Readers look at this line and seldom see it change.
  //
  // Not zero: an invalidation could not get the lock; readers miss until the stripe is wiped.
  alignas(kCacheLine) Atomic<std::uint32_t> bypass;
  Atomic<std::uint32_t> tick;  // derived: the policy's coarse time, advances with inserts
  // How much of the index is in use: {growing:1, buckets:31}; 0: nothing was written yet. Few
  // entries in few buckets stay in the processor's caches.
  Atomic<std::uint32_t> index;

  // Writers' lines.
  alignas(kCacheLine) Atomic<std::uint32_t> lock;  // futex
  Atomic<std::uint32_t> deaths;  // owners lost in a row; the third wipes the stripe
  Atomic<std::uint64_t> term;    // sealed by the leader; older leaders cannot write here
  // Derived, recomputed by repair.
  Atomic<std::uint64_t> swept_epoch;  // entries of an earlier epoch or floor than these are gone
  Atomic<std::uint64_t> swept_floor;
  Atomic<std::uint64_t> payload_bytes;  // keys and values of reachable entries
  Atomic<std::uint64_t> live_granules;
  Atomic<std::uint32_t> entries;
  Atomic<std::uint32_t> next_granule;  // where the last run was taken: the next one may fit behind
  Atomic<std::uint32_t> fit_bound;     // no free stretch is longer; lowered by a search in vain
  // Runs that no slot points at any more but that a pin still names, as {granules:32, start:32}.
  // A count above kQuarantine: there may be others; they are found by rebuilding the map.
  Atomic<std::uint32_t> quarantined;
  Atomic<std::uint32_t> allocations;  // how often room was asked for
  alignas(8) Atomic<std::uint64_t> quarantine[kQuarantine];
  // The first of a list of holes of each length (modulo their number), see Writer::push_hole.
  alignas(kCacheLine) Atomic<std::uint32_t> holes[kHoles];
  PolicyWords policy;
};

// ---- index ------------------------------------------------------------------------------------

// What the slots count in. Entries begin at multiples of it.
inline constexpr std::uint32_t kGranule = 8;
inline constexpr std::uint32_t kBlockGranules = 8192;  // an arena is a row of blocks of 64 KiB
inline constexpr std::uint32_t kBlockBytes = kBlockGranules * kGranule;

// A slot: {tag:10, granule within the stripe's arena + 1:22}; 0: empty. One store publishes an
// entry (I1).
inline constexpr std::uint32_t kTagBits = 10;
inline constexpr std::uint32_t kGranuleBits = 32 - kTagBits;
inline constexpr std::uint32_t kGranuleMask = (1u << kGranuleBits) - 1;
inline constexpr std::uint32_t kArenaMaxGranules = kGranuleMask & ~1u;  // 32 MiB

constexpr std::uint32_t tag_of(std::uint64_t hash) {
  return static_cast<std::uint32_t>(hash >> (64 - kTagBits)) << kGranuleBits;
}
constexpr std::uint32_t make_slot(std::uint64_t hash, std::uint32_t granule) {
  return tag_of(hash) | (granule + 1);
}
// Meaningless for 0: out of every arena.
constexpr std::uint32_t slot_granule(std::uint32_t slot) { return (slot & kGranuleMask) - 1; }
constexpr bool slot_matches(std::uint32_t slot, std::uint64_t hash) {
  return slot != 0 && (slot ^ tag_of(hash)) >> kGranuleBits == 0;
}

inline constexpr std::size_t kSlotsPerBucket = 10;

// Of a stripe's index word. While it grows, keys may be missing from where they belong.
inline constexpr std::uint32_t kIndexGrowing = 1u << 31;
inline std::uint32_t buckets_in_use(std::uint32_t most, std::uint32_t index_word) noexcept {
  const std::uint32_t buckets = index_word & ~kIndexGrowing;
  return buckets < most ? buckets : most;
}
inline std::uint32_t buckets_in_use(const Geometry& g, std::uint32_t index_word) noexcept {
  return buckets_in_use(g.buckets_per_stripe, index_word);
}

// One cache line. A key lives in one of two buckets, see home_bucket().
struct alignas(kCacheLine) Bucket {
  Atomic<std::uint32_t> slots[kSlotsPerBucket];
  // The policy's word for each slot. Readers write it, unlocked and seldom; any value is legal.
  Atomic<std::uint16_t> use[kSlotsPerBucket];
  // Rises after a slot was cleared or replaced and before the bytes that it pointed at are used
  // again (I2): a reader that finds it unchanged has read one whole entry.
  Atomic<std::uint32_t> version;
};
static_assert(sizeof(Bucket) == kCacheLine);

// ---- guards -----------------------------------------------------------------------------------

// Remembers, for the keys that share it, what late replies must not overwrite.
struct Guard {
  Atomic<std::uint64_t> epoch;  // that of `seq`; beyond it see is_newer()
  Atomic<std::uint64_t> seq;    // the highest change applied, made here, or read and dropped
  Atomic<std::uint64_t> count;  // of what no seq tells: changes without an id, repairs, wipes
};

// ---- arenas -----------------------------------------------------------------------------------

inline constexpr std::uint64_t kNeverExpires = 0;
inline constexpr std::uint64_t kExpiresMax = (1ull << 40) - 1;

// An entry is immutable once published: header, key, value, padding to a granule.
//
// Four words, each loaded once by a reader, so that they stay in registers:
//   sizes  {lag:8, flags:8, key bytes:16, value bytes:32}; lag: base = reach seq - lag, as
//          pack_lag() rounds it up, a lower base is safe; flags: {spare:6, EntrySource:2}
//   check  {low 32 bits of the epoch sampled before Redis was asked, checksum:32 of the rest}
//   reach  {spare:16, seq:48} of the id that Redis answered; 0: none (local only)
//   life   {low 24 bits of that id's nonce, CLOCK_BOOTTIME ms:40 or kNeverExpires}

// How it came here, for people.
enum class EntrySource : std::uint8_t {
  kAlone,  // set on this host, without Redis
  kFill,   // read from Redis
  kOwn,    // set on this host
  kEvent,  // set on another host, which announced it
};

struct EntryHeader {
  std::uint64_t sizes;
  std::uint64_t check;
  std::uint64_t reach;
  std::uint64_t life;

  std::uint32_t value_bytes() const noexcept { return static_cast<std::uint32_t>(sizes); }
  std::uint16_t key_bytes() const noexcept { return static_cast<std::uint16_t>(sizes >> 32); }
  EntrySource source() const noexcept { return static_cast<EntrySource>(sizes >> 48 & 3); }
  std::uint8_t lag() const noexcept { return static_cast<std::uint8_t>(sizes >> 56); }
  std::uint32_t checksum() const noexcept { return static_cast<std::uint32_t>(check); }
  std::uint32_t epoch() const noexcept { return static_cast<std::uint32_t>(check >> 32); }
  std::uint64_t reach_seq() const noexcept { return reach & kMaxSeq; }
  std::uint64_t expires_ms() const noexcept { return life & kExpiresMax; }
  // The low 24 bits.
  std::uint32_t nonce() const noexcept { return static_cast<std::uint32_t>(life >> 40); }
};
static_assert(sizeof(EntryHeader) == 32);
inline constexpr std::uint64_t kNonceMask = (1u << 24) - 1;

constexpr std::uint64_t entry_bytes(std::uint64_t key_bytes, std::uint64_t value_bytes) {
  return sizeof(EntryHeader) + key_bytes + value_bytes;
}
constexpr std::uint64_t entry_granules(std::uint64_t key_bytes, std::uint64_t value_bytes) {
  return (entry_bytes(key_bytes, value_bytes) + kGranule - 1) / kGranule;
}

// A lag of 0 to 15 exactly, longer ones rounded up to three bits behind the first; kUnknownLag:
// any.
inline constexpr std::uint8_t kUnknownLag = 255;
constexpr std::uint8_t pack_lag(std::uint64_t lag) {
  unsigned exponent = 0;
  for (; lag > 15; lag = (lag + 1) / 2) ++exponent;
  if (exponent == 0) return static_cast<std::uint8_t>(lag);
  return static_cast<std::uint8_t>(exponent > 29 ? kUnknownLag : 8 + exponent * 8 + (lag - 8));
}
constexpr std::uint64_t unpack_lag(std::uint8_t packed) {
  if (packed < 16) return packed;
  if (packed == kUnknownLag) return UINT64_MAX;
  const unsigned exponent = (packed - 8u) / 8;
  return std::uint64_t{8u + (packed - 8u) % 8} << exponent;
}

// A pin: {1:1, stripe:31, granule:32}; 0: none.
constexpr std::uint64_t make_pin(std::uint32_t stripe, std::uint32_t granule) {
  return 1ull << 63 | std::uint64_t{stripe} << 32 | granule;
}

// Of a word that a thread has taken but not yet pointed anywhere: no stripe has this number.
inline constexpr std::uint64_t kClaimedPin = UINT64_MAX;

inline std::uint64_t Geometry::arena_bytes() const noexcept {
  return std::uint64_t{arena_granules} * kGranule;
}
inline std::uint32_t Geometry::blocks_per_stripe() const noexcept {
  return (arena_granules + kBlockGranules - 1) / kBlockGranules;
}
inline std::uint64_t Geometry::map_words_per_stripe() const noexcept {
  return std::uint64_t{blocks_per_stripe()} * (kBlockGranules / 64 + 1);
}

// Every size and offset above as text, one line each.
std::string layout_text();
std::uint64_t layout_signature();

}  // namespace larder::shm
