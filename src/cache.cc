// The two levels: shared memory first, Redis behind it.
//
// The order of work, which everything rests on:
//   read    look in the segment; else note a sample, ask Redis, keep the answer under the sample
//   change  note a sample, change Redis (which logs and announces it), then the copy here
//   either  where the segment is closed, move over to the one that took its place, see shm/resize.h
// A change that Redis refused, or did not answer, leaves no copy here and is not repeated. While
// Redis is known to be gone, see sync/breaker.h, it is not asked: nothing happens then.
#include "larder/cache.h"

#include <limits.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

#include "shm/clock.h"
#include "shm/fork.h"
#include "shm/inspect.h"
#include "shm/lease.h"
#include "shm/table.h"
#include "src/sync/client.h"
#include "src/sync/exchange.h"
#include "src/sync/leader.h"

namespace larder {
namespace {

using shm::Counter;
using shm::kBatch;
using shm::Stored;
using std::chrono::milliseconds;

constexpr milliseconds kTtlMax{100ll * 366 * 24 * 3'600 * 1'000};
constexpr int kHeartbeatsOfLease = 5;
constexpr milliseconds kHeartbeatMost{1000};  // so that who stands still is soon known
constexpr milliseconds kSubscriptionTimeoutLeast{500};
constexpr milliseconds kSubscriptionTimeoutMost{2000};

class SilentLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};

// One "name=value" line of the segment's binding; bytes that could end it early are escaped.
std::string binding_line(std::string_view name, std::string_view value) {
  std::string line(name);
  line += '=';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7f && c != '%') {
      line += c;
    } else {
      char escaped[4];
      std::snprintf(escaped, sizeof escaped, "%%%02X", byte);
      line += escaped;
    }
  }
  return line += '\n';
}

// What every process that shares a segment must agree on.
std::string binding_of(const Options& options) {
  const RedisOptions& redis = options.redis;
  if (redis.address.empty())
    return binding_line("redis", "") + binding_line("prefix", options.key_prefix);
  return binding_line("redis", redis.address) +
         binding_line("database", std::to_string(redis.database)) +
         binding_line("channel", redis.channel) + binding_line("prefix", options.key_prefix) +
         binding_line("wire", options.wire_format == WireFormat::kMsgpack ? "msgpack" : "json");
}

shm::SegmentOptions segment_options(const Options& options) {
  shm::SegmentOptions segment;
  segment.directory = options.directory;
  segment.name = options.name;
  segment.bytes = options.segment_bytes;
  segment.max_entries = options.max_entries;
  segment.policy = static_cast<std::uint32_t>(options.policy);
  segment.owner = options.owner;
  segment.group = options.group;
  segment.mode = options.mode;
  segment.allowed_owners = options.allowed_owners;
  segment.binding = binding_of(options);
  return segment;
}

std::string make_node_id(const Options& options) {
  std::string id = options.node_id;
  if (const char* pod = std::getenv("POD_NAME"); id.empty() && pod != nullptr) id = pod;
  if (id.empty()) {
    char host[HOST_NAME_MAX + 1] = {};
    id = gethostname(host, sizeof host - 1) == 0 && host[0] != 0 ? host : "host";
  }
  std::uint32_t random = 0;
  while (getrandom(&random, sizeof random, 0) != sizeof random) {
  }
  char suffix[12];
  std::snprintf(suffix, sizeof suffix, "-%08x", random);
  return id + suffix;
}

sync::LeaderOptions leader_options(const Options& options, const sync::Endpoint& endpoint) {
  sync::LeaderOptions leader;
  leader.subscription.endpoint = endpoint;
  leader.subscription.username = options.redis.username;
  leader.subscription.password = options.redis.password;
  leader.subscription.database = options.redis.database;
  leader.subscription.channel = options.redis.channel;
  // Nobody waits for the subscription, so it can bear more than an impatient caller; but it must
  // know of a loss before it is itself taken for stopped.
  leader.subscription.timeout =
      std::clamp(options.redis.timeout, kSubscriptionTimeoutLeast, kSubscriptionTimeoutMost);
  leader.follower.database = options.redis.database;
  leader.follower.key_prefix = options.key_prefix;
  leader.follower.go_peers = options.go_peers;
  leader.follower.pages_max =
      static_cast<unsigned>(2 * options.redis.log_max_entries / sync::kPageRows);
  leader.lease = options.lease;
  leader.heartbeat = std::min(options.lease / kHeartbeatsOfLease, kHeartbeatMost);
  return leader;
}

// A look at the clock is a tenth of a local set.
milliseconds time_to(std::uint64_t deadline_ms) {
  if (deadline_ms == shm::kNeverExpires) return Cache::kForever;
  const std::uint64_t now = shm::now_ms();
  return milliseconds(deadline_ms > now ? deadline_ms - now : 0);
}

std::uint64_t deadline_after(milliseconds ttl) {
  return ttl.count() <= 0 ? shm::kNeverExpires
                          : shm::now_ms() + static_cast<std::uint64_t>(ttl.count());
}

// Can no other thread be inside a call? False also where that cannot be told.
bool is_only_thread() {
  constexpr nlink_t kOfEmptyFolder = 2;
  constexpr int kLooks = 10;  // a thread that was joined is seen there for a moment more
  for (int look = 0; look < kLooks; ++look) {
    struct stat tasks {};
    if (stat("/proc/self/task", &tasks) != 0) return false;
    if (tasks.st_nlink == kOfEmptyFolder + 1) return true;
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
  return false;
}

}  // namespace

class [[gnu::visibility("hidden")]] Cache::Impl {
 public:
  Impl(Options options, std::string node_id, std::shared_ptr<shm::Segment> segment,
       std::optional<sync::ClientOptions> client)
      : options_(std::move(options)),
        logger_(options_.logger ? options_.logger : std::make_shared<SilentLogger>()),
        node_id_(std::move(node_id)) {
    first_table_.emplace(std::move(segment), table_options());
    first_table_->bury_former_program();
    if (!client) return;
    leader_options_ = leader_options(options_, client->endpoint);
    client_.emplace(std::move(*client));
  }

  ~Impl() {
    // A child that never called has inherited the parent's thread object, but not the thread.
    if (started_generation_.load(std::memory_order_acquire) != shm::fork_generation()) {
      sync::Leader::abandon(std::move(leader_));
    }
  }

  [[gnu::noinline]] Status start() {
    (void)find_open_table();
    return is_started() ? Status() : start_in_this_process();
  }

  // ---- reading ----

  Status get_local(std::string_view key, Lookup & lookup) {
    if (!is_key(key)) [[unlikely]]
      return bad_key(key, lookup);
    const std::string_view name = full_key(key);
    if (!read_local(table(), name, lookup) && find_open_table())
      (void)read_after_move(name, lookup);
    if (lookup.stale) table().count(Counter::kStaleHits);
    return {};
  }

  [[gnu::always_inline]] Status get(std::string_view key, Lookup & lookup) {
    start_to_read();
    if (!is_key(key)) [[unlikely]]
      return bad_key(key, lookup);
    const std::string_view name = full_key(key);
    // A copy of the code for the table that was there from the start, where nothing of it has to be
    // loaded through a pointer: a hit would wait for that.
    const bool hit = moved_to_.load(std::memory_order_acquire) == nullptr
                         ? read_local(*first_table_, name, lookup)
                         : read_after_move(name, lookup);
    if (hit && !lookup.stale) [[likely]]
      return {};
    return hit ? read_stale(name, lookup, {}) : read_elsewhere(name, lookup, {});
  }

  Status get(std::string_view key, Lookup & lookup, const ReadOptions& how) {
    start_to_read();
    if (!is_key(key)) return bad_key(key, lookup);
    if (how.timeout.count() < 0) {
      missed(lookup);
      return {Code::kInvalidArgument, "timeout is negative; 0 means redis.timeout"};
    }
    const std::string_view name = full_key(key);
    if (client_ && how.freshness == Freshness::kRedis) {
      missed(lookup);
      return fetch(name, lookup, how.timeout, true);
    }
    if (!read_local(table(), name, lookup)) return read_elsewhere(name, lookup, how);
    return lookup.stale ? read_stale(name, lookup, how) : Status();
  }

  Result<Lookup> peek(std::string_view key) {
    if (Status s = check_key(key); !s.ok()) return s;
    const std::string_view name = full_key(key);
    (void)find_open_table();
    Lookup lookup;
    lookup.stale = is_stale(table());
    if (table().peek(name, lookup.value)) {
      lookup.source = Source::kLocal;
    } else {
      missed(lookup);
    }
    return lookup;
  }

  Result<std::optional<milliseconds>> ttl(std::string_view key) {
    start_to_read();
    if (Status s = check_key(key); !s.ok()) return s;
    const std::string_view name = full_key(key);
    (void)find_open_table();
    const bool stale = is_stale(table());
    const std::optional<std::uint64_t> held = table().expiry(name);
    const std::optional<milliseconds> left = held ? std::optional(time_to(*held)) : std::nullopt;
    if (!client_ || (held && !stale)) return left;
    const bool copy_will_do = held && (options_.stale_reads == StaleReads::kServe ||
                                       options_.stale_reads == StaleReads::kVerify);
    if (!may_ask()) return copy_will_do ? Result(left) : not_asked();
    const Result<std::int64_t> life = client_->life(name);
    if (!life) return copy_will_do ? Result(left) : life.status();
    if (*life == -2) return std::optional<milliseconds>();
    return std::optional(*life == -1 ? Cache::kForever : milliseconds(*life));
  }

  Status get_many(std::span<const std::string_view> keys, std::span<Lookup> lookups) {
    if (keys.size() != lookups.size()) {
      return {Code::kInvalidArgument, "get_many has " + std::to_string(keys.size()) + " keys and " +
                                          std::to_string(lookups.size()) + " lookups"};
    }
    start_to_read();
    if (table().is_closed()) (void)find_open_table();
    Status first;
    while (!keys.empty()) {
      std::size_t now = 0;
      while (now < std::min(keys.size(), kBatch) && is_key(keys[now])) ++now;
      Status s = now > 0 ? get_batch(keys.first(now), lookups.first(now))
                         : bad_key(keys[now++], lookups[0]);
      if (first.ok()) first = std::move(s);
      keys = keys.subspan(now);
      lookups = lookups.subspan(now);
    }
    return first;
  }

  Result<View> view(std::string_view key) {
    if (Status s = check_change(key); !s.ok()) return s;
    if (table().is_closed()) (void)find_open_table();
    const bool stale = is_stale(table());
    auto pinned = table().pin(full_key(key));
    if (!pinned) return pinned.status();
    View view;
    if (pinned->word == nullptr) return view;
    view.value_ = pinned->value;
    view.word_ = pinned->word;
    view.pin_ = pinned->pin;
    view.generation_ = pinned->generation;
    view.stale_ = stale;
    if (view.stale_) table().count(Counter::kStaleHits);
    return view;
  }

  // ---- changing ----

  Status set(std::string_view key, std::string_view value, milliseconds ttl,
             sync::Announce announce) {
    if (Status s = check_change(key); !s.ok()) return s;
    if (ttl.count() < 0) return {Code::kInvalidArgument, "ttl is negative; 0 means default_ttl"};
    if (ttl > kTtlMax) return {Code::kInvalidArgument, "ttl is longer than 100 years"};
    if (ttl.count() == 0) ttl = options_.default_ttl;
    const std::string_view name = full_key(key);
    table().count(Counter::kSets);
    if (!client_) return set_local_only({name, value, deadline_after(ttl)});

    if (!may_ask()) [[unlikely]]
      return not_asked();
    shm::Table& table = this->table();
    if (announce == sync::Announce::kValue) announce = announcement(table, name, value);
    const sync::Change change(table, name, ttl);
    const auto written = client_->set(name, value, ttl, announce);
    if (!written) return failed_change(name, written.status());
    change.finish_set(table, name, value, written->id);
    tell_successor(table, change.sample(), name, written->id);
    report(*written);
    const bool too_large = value.size() > options_.value_max_bytes;
    return too_large ? above_maximum(value.size(), "Redis has it, but no host keeps a copy of it")
                     : Status();
  }

  Status remove(std::string_view key) {
    if (Status s = check_change(key); !s.ok()) return s;
    const std::string_view name = full_key(key);
    table().count(Counter::kRemoves);
    if (!client_) return drop(name) == Stored::kBusy ? busy() : Status();
    if (!may_ask()) [[unlikely]]
      return not_asked();
    shm::Table& table = this->table();
    const sync::Change change(table, name);
    const auto written = client_->remove(name);
    if (!written) return failed_change(name, written.status());
    change.finish_removal(table, name, written->id);
    tell_successor(table, change.sample(), name, written->id);
    report(*written);
    return {};
  }

  Status clear() {
    if (Status s = start(); !s.ok()) return s;
    table().count(Counter::kClears);
    if (!client_) return flush();
    if (!may_ask()) return not_asked();
    const std::uint64_t epoch = epoch_of(table());
    if (options_.clear_scope == ClearScope::kDatabase) {
      return cleared(client_->clear_database(), epoch);
    }
    if (!options_.key_prefix.empty()) {
      const auto done = client_->clear_prefix(options_.key_prefix);
      if (!done) return cleared(done.status(), epoch);
      return cleared(done->last, epoch);
    }
    if (Status s = cleared(client_->clear_local_copies(""), epoch); !s.ok()) return s;
    return {Code::kRefused,
            "every local copy was dropped on every host, but Redis was left alone, because without "
            "a key_prefix its keys cannot be told from other applications'; set key_prefix, or set "
            "clear_scope to database to allow FLUSHDB"};
  }

  // ---- looking ----

  Stats stats() {
    (void)find_open_table();
    const shm::Totals t = shm::totals(table().segment());
    Stats s;
    s.local_hits = t[Counter::kLocalHits];
    s.local_misses = t[Counter::kLocalMisses];
    s.remote_hits = t[Counter::kRemoteHits];
    s.remote_misses = t[Counter::kRemoteMisses];
    s.remote_errors = t[Counter::kRemoteErrors];
    s.stale_hits = t[Counter::kStaleHits];
    s.sets = t[Counter::kSets];
    s.removes = t[Counter::kRemoves];
    s.clears = t[Counter::kClears];
    s.stored = t[Counter::kStored];
    s.stores_refused = t[Counter::kStoresRefused];
    s.too_large = t[Counter::kTooLarge];
    s.evictions = t[Counter::kEvictions];
    s.expirations = t[Counter::kExpirations];
    s.lock_timeouts = t[Counter::kLockTimeouts];
    s.takeovers = t[Counter::kTakeovers];
    s.wipes = t[Counter::kWipes];
    s.events_applied = t[Counter::kEventsApplied];
    s.events_old = t[Counter::kEventsOld];
    s.events_without_id = t[Counter::kEventsWithoutId];
    s.events_malformed = t[Counter::kEventsMalformed];
    s.events_foreign = t[Counter::kEventsForeign];
    s.epoch_raises = t[Counter::kEpochRaises];
    s.leader_changes = t[Counter::kLeaderChanges];
    s.stale_term_refused = t[Counter::kStaleTermRefused];
    s.unpublished = t[Counter::kUnpublished];
    s.stale_term_writes = t[Counter::kStaleTermWrites];
    s.locks_lost = t[Counter::kLocksLost];
    s.corrupt = t[Counter::kCorrupt];
    s.announced_large = t[Counter::kAnnouncedLarge];
    s.announced_cold = t[Counter::kAnnouncedCold];
    s.not_asked = t[Counter::kNotAsked];
    s.segment_bytes = table().segment().geometry().segment_bytes;
    s.live_bytes = t.live_bytes;
    s.pinned_bytes = t.pinned_bytes;
    s.free_bytes = t.free_bytes;
    s.index_bytes = t.index_bytes;
    s.metadata_bytes = t.metadata_bytes;
    s.arena_bytes = t.arena_bytes;
    s.payload_bytes = t.payload_bytes;
    s.views = t.pins;
    s.entries = t.entries;
    s.processes = t.processes;
    s.epoch = hot().epoch.load(std::memory_order_relaxed) & ~shm::kClosedEpoch;
    s.in_sync = in_sync();
    return s;
  }

  bool in_sync() {
    (void)find_open_table();
    return !is_stale(table());
  }
  const Options& options() const noexcept { return options_; }
  const std::string& node_id() const noexcept { return node_id_; }

 private:
  static shm::Lease lease_of(shm::Table & table) noexcept {
    return shm::Lease::of(table.segment().superblock().hot);
  }
  // To be asked before what it is to speak of is read.
  bool is_stale(shm::Table & table) const noexcept { return client_ && !lease_of(table).lasts(); }

  shm::HotWords& hot() { return table().segment().superblock().hot; }
  static std::uint64_t epoch_of(shm::Table & table) noexcept {
    return table.segment().superblock().hot.epoch.load(std::memory_order_acquire);
  }

  // A process that cannot join still reads: what it finds is as good.
  void start_to_read() {
    if (!is_started()) [[unlikely]]
      start_if_due();
  }

  // Where all places are taken, to look through them is too much for every read.
  [[gnu::noinline]] void start_if_due() {
    constexpr std::uint64_t kPauseMs = 1000;
    const std::uint64_t now = shm::now_ms();
    if (now < next_start_ms_.load(std::memory_order_relaxed)) return;
    if (!start().ok()) next_start_ms_.store(now + kPauseMs, std::memory_order_relaxed);
  }

  Status start_in_this_process() {
    std::lock_guard hold(start_mutex_);
    const std::uint64_t here = shm::fork_generation();
    if (started_generation_.load(std::memory_order_acquire) == here) return {};
    return join();
  }

  // With start_mutex_ held.
  Status join() {
    const std::uint64_t here = shm::fork_generation();
    if (Status s = table().join(); !s.ok()) return s;
    if (client_) {
      sync::Leader::abandon(std::move(leader_));  // a parent's
      auto leader = std::make_unique<sync::Leader>(table(), leader_options_, logger_);
      if (Status s = leader->start(); !s.ok()) return s;
      leader_ = std::move(leader);
    }
    started_generation_.store(here, std::memory_order_release);
    return {};
  }

  bool is_started() const noexcept {
    // acquire: pairs with the release in start_in_this_process().
    return shm::is_here(started_generation_.load(std::memory_order_acquire));
  }

  bool is_key(std::string_view key) const noexcept {
    return !key.empty() && options_.key_prefix.size() + key.size() <= kKeyMaxBytes;
  }

  [[gnu::noinline]] Status bad_key(std::string_view key, Lookup & lookup) const {
    missed(lookup);
    return check_key(key);
  }

  [[gnu::noinline]] bool read_after_move(std::string_view name, Lookup & lookup) {
    return read_local(table(), name, lookup);
  }

  [[gnu::always_inline]] bool read_local(shm::Table & table, std::string_view name,
                                         Lookup & lookup) {
    // The lease first: that it lasts speaks for whatever is read after it.
    const bool hit =
        table.get(name, lookup.value, [this, &table, &lookup] { lookup.stale = is_stale(table); });
    if (!hit) [[unlikely]]
      return missed(lookup);
    lookup.source = Source::kLocal;
    return true;
  }

  [[gnu::noinline]] static bool missed(Lookup & lookup) {
    lookup.source = Source::kNone;
    lookup.stale = false;
    lookup.value.clear();
    return false;
  }

  Status check_key(std::string_view key) const {
    if (is_key(key)) return {};
    const std::size_t bytes = options_.key_prefix.size() + key.size();
    return {Code::kInvalidArgument,
            (key.empty() ? std::string("the key is empty")
                         : "the key has " + std::to_string(bytes) + " bytes with its prefix") +
                "; a key has 1 to " + std::to_string(kKeyMaxBytes) + " bytes"};
  }

  Status check_change(std::string_view key) {
    if (!is_key(key)) [[unlikely]]
      return check_key(key);
    return is_started() ? Status() : start();
  }

  // Prefix and key. The bytes live until the thread's next call, in one of its places for them.
  std::string_view full_key(std::string_view key, std::size_t place = 0) const {
    return options_.key_prefix.empty() ? key : prefixed(key, place);
  }
  [[gnu::noinline]] std::string_view prefixed(std::string_view key, std::size_t place) const {
    thread_local std::array<std::string, kBatch> names;
    return names[place].assign(options_.key_prefix).append(key);
  }

  // At most kBatch keys, all of them good.
  Status get_batch(std::span<const std::string_view> keys, std::span<Lookup> lookups) {
    std::array<std::string_view, kBatch> names;
    if (!options_.key_prefix.empty()) {
      for (std::size_t i = 0; i < keys.size(); ++i) names[i] = prefixed(keys[i], i);
      keys = std::span(names).first(keys.size());
    }
    shm::Table& table = this->table();
    const bool stale = is_stale(table);
    const std::uint32_t hits = table.get_batch(
        keys, [&lookups](std::size_t i) -> std::string& { return lookups[i].value; });
    Status first;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (hits >> i & 1) [[likely]] {
        lookups[i].source = Source::kLocal;
        lookups[i].stale = stale;
        if (!stale) [[likely]]
          continue;
        if (Status s = read_stale(keys[i], lookups[i], {}); first.ok()) first = std::move(s);
        continue;
      }
      missed(lookups[i]);
      if (!client_) continue;
      if (Status s = fetch(keys[i], lookups[i], {}); first.ok()) first = std::move(s);
    }
    return first;
  }

  // Not in shared memory, or not in this one any more.
  [[gnu::noinline]] Status read_elsewhere(std::string_view name, Lookup & lookup,
                                          const ReadOptions& how) {
    if (find_open_table() && read_after_move(name, lookup)) {
      return lookup.stale ? read_stale(name, lookup, how) : Status();
    }
    return client_ ? fetch(name, lookup, how.timeout) : Status();
  }

  StaleReads stale_reads(Freshness freshness) const noexcept {
    if (freshness == Freshness::kAny) return StaleReads::kServe;
    if (freshness == Freshness::kLease) return StaleReads::kMiss;
    return options_.stale_reads;
  }

  // `lookup` has a copy that may be old.
  [[gnu::noinline]] Status read_stale(std::string_view name, Lookup & lookup,
                                      const ReadOptions& how) {
    switch (stale_reads(how.freshness)) {
      case StaleReads::kServe:
        return serve_stale(lookup, {});
      case StaleReads::kMiss:
        missed(lookup);
        return fetch(name, lookup, how.timeout, true);
      case StaleReads::kError:
        missed(lookup);
        return {Code::kUnavailable,
                "this host does not know whether its copy is up to date: it has not heard from "
                "Redis for longer than `lease`, and stale_reads = error"};
      case StaleReads::kVerify:
        break;
    }
    if (!may_ask()) return serve_stale(lookup, {});
    Lookup held;
    std::swap(held, lookup);
    Status asked = fetch_now(name, lookup, how.timeout, true);
    if (asked.code() != Code::kUnavailable) return asked;
    std::swap(held, lookup);
    return serve_stale(lookup, std::move(asked));
  }

  // `why` is what it comes to when the copy is too old.
  Status serve_stale(Lookup & lookup, Status why) {
    const auto limit_ms = static_cast<std::uint64_t>(options_.stale_limit.count());
    if (limit_ms != 0 && lease_of(table()).over_ms() > limit_ms) {
      missed(lookup);
      if (!why.ok()) return why;
      return {Code::kUnavailable,
              "this host's copy has been out of sync for longer than stale_limit"};
    }
    table().count(Counter::kStaleHits);
    return {};
  }

  // `holds_copy`: one is here, but is not to be trusted.
  [[gnu::noinline]] Status fetch(std::string_view name, Lookup & lookup, milliseconds timeout,
                                 bool holds_copy = false) {
    return may_ask() ? fetch_now(name, lookup, timeout, holds_copy) : not_asked();
  }
  Status fetch_now(std::string_view name, Lookup & lookup, milliseconds timeout, bool holds_copy) {
    shm::Table& table = this->table();
    const sync::Fill fill(table, name);
    // Without the lease nobody has made sure that this is a primary's log.
    const std::uint64_t least = is_stale(table) ? 0 : fill.base();
    auto fetched = client_->fetch(name, {.timeout = timeout, .least = least});
    if (!fetched) {
      table.count(Counter::kRemoteErrors);
      return fetched.status();
    }
    fill.finish(table, name, *fetched, holds_copy);
    table.count(fetched->value ? Counter::kRemoteHits : Counter::kRemoteMisses);
    lookup.stale = fetched->last.seq < least;
    if (lookup.stale) table.count(Counter::kStaleHits);
    if (!fetched->value) return {};
    lookup.source = Source::kRemote;
    lookup.value = std::move(*fetched->value);
    return {};
  }

  Status set_local_only(const shm::Record& record) {
    switch (change_alone([&](shm::Table& table) { return table.set(record); })) {
      case Stored::kStored:
      case Stored::kRefused:
      case Stored::kClosed:
        return {};  // cleared in the same moment
      case Stored::kTooLarge:
        if (record.value.size() > options_.value_max_bytes) {
          return above_maximum(record.value.size(),
                               "it was not kept, nor what was held of its key");
        }
        return {Code::kTooLarge, "key and value together exceed a stripe of the segment (" +
                                     std::to_string(table().segment().geometry().arena_bytes()) +
                                     " bytes), or views hold too much of it, and there is no Redis "
                                     "to keep them; make segment_bytes larger"};
      case Stored::kBusy:
        break;
    }
    return busy();
  }

  Status above_maximum(std::size_t bytes, std::string_view outcome) const {
    return {Code::kTooLarge,
            "a value of " + std::to_string(bytes) + " bytes exceeds value_max_bytes = " +
                std::to_string(options_.value_max_bytes) + ": " + std::string(outcome)};
  }

  Status busy() {
    if (table().is_closed()) {
      return {Code::kBusy,
              "another segment is taking this one's place, and could not be had within "
              "lock_timeout; try again, and see the log if that goes on"};
    }
    return {Code::kBusy,
            "a part of the segment was held by another process for longer than "
            "lock_timeout; the key is a miss until that part was emptied"};
  }

  // False while Redis is known to be gone. True is for one call, which is then to be made.
  bool may_ask() {
    const shm::SyncWords& words = table().segment().superblock().sync;
    return client_->breaker().admits(words.answered_ms.load(std::memory_order_relaxed));
  }
  Status not_asked() {
    table().count(Counter::kNotAsked);
    return {Code::kUnavailable,
            "Redis was not asked, and nothing was changed: it did not answer a moment ago, and is "
            "tried again now and then, or once this host hears of it again"};
  }

  sync::Announce announcement(shm::Table & table, std::string_view name, std::string_view value) {
    if (value.size() > std::min(options_.push_max_bytes, options_.value_max_bytes)) {
      table.count(Counter::kAnnouncedLarge);
      return sync::Announce::kInvalidation;
    }
    if (options_.push_held_only && !table.contains(name)) {
      table.count(Counter::kAnnouncedCold);
      return sync::Announce::kInvalidation;
    }
    return sync::Announce::kValue;
  }

  // It may or may not have happened: what is held of the key may be old now.
  Status failed_change(std::string_view name, const Status& why) {
    table().count(Counter::kRemoteErrors);
    (void)drop(name);
    return why;
  }

  void report(const sync::Written& written) {
    if (!client_->expects_scripts() && !told_of_scripts_.exchange(true)) {
      logger_->log(LogLevel::kWarn,
                   "this user of Redis may not run scripts (EVALSHA, EVAL): each change is a "
                   "transaction, which takes two round trips and may have to begin anew");
    }
    if (written.published.ok()) return;
    table().count(Counter::kUnpublished);
    logger_->log(LogLevel::kError,
                 "a change was made but not announced; other hosts notice at the "
                 "next one: " +
                     written.published.message());
  }

  Status cleared(const Result<sync::Written>& written, std::uint64_t epoch) {
    if (!written) {
      table().count(Counter::kRemoteErrors);
      (void)flush();  // some of it may have happened
      return written.status();
    }
    shm::Table& table = this->table();
    table.raise_floor(epoch, written->id.seq);
    // In another epoch, perhaps another segment's, that meant nothing; a closed one's is lost.
    if (shm::is_closed(epoch) || epoch_of(table) != epoch) (void)flush();
    report(*written);
    return {};
  }

  // ---- from a closed segment to the one that takes its place ----

  shm::Table& table() noexcept {
    // acquire: pairs with the release in move_to().
    shm::Table* const moved_to = moved_to_.load(std::memory_order_acquire);
    return moved_to != nullptr ? *moved_to : *first_table_;
  }

  shm::TableOptions table_options() const {
    return {options_.lock_timeout, options_.value_max_bytes, options_.verify_checksums};
  }

  // True when this made a difference: there is another segment, or this one was opened again.
  // Does not wait for who is replacing it.
  [[gnu::noinline]] bool find_open_table() {
    if (!table().is_closed()) [[likely]]
      return false;
    std::lock_guard hold(start_mutex_);
    return !table().is_closed() || try_to_move();
  }

  // With start_mutex_ held.
  bool try_to_move() {
    shm::Segment& closed = table().segment();
    if (closed.is_at_path()) {
      // Who replaces it may have died.
      (void)shm::Segment::reopen(segment_options(options_));
      return !table().is_closed();
    }
    auto segment = shm::Segment::open(segment_options(options_));
    if (!segment) {
      if (std::exchange(complained_of_, &closed) == &closed) return false;  // once is enough
      logger_->log(LogLevel::kError,
                   "cannot move to the segment that took the place of the one in use: " +
                       segment.status().message());
      return false;
    }
    if ((*segment)->superblock().instance == closed.superblock().instance) return false;
    move_to(std::move(*segment));
    return true;
  }

  void move_to(std::shared_ptr<shm::Segment> segment) {
    logger_->log(LogLevel::kInfo, "moving to the new segment " + segment->path() + " of " +
                                      std::to_string(segment->geometry().segment_bytes) + " bytes");
    tables_.emplace_back(std::move(segment), table_options());
    moved_to_.store(&tables_.back(), std::memory_order_release);
    const bool was_started = is_started();
    if (was_started) {
      leader_.reset();
      started_generation_.store(shm::kNoGeneration, std::memory_order_release);
    }
    forget_old_tables();
    if (was_started) (void)join();  // or at the next call
  }

  // The memory of a segment that was replaced goes once nothing here can look into it. With other
  // threads, which may be in the middle of a call, that is when the cache is closed.
  void forget_old_tables() {
    if (!is_only_thread()) return;
    if (first_table_ && !first_table_->has_pins()) first_table_.reset();
    std::erase_if(tables_, [this](const auto& old) {
      return &old != moved_to_.load(std::memory_order_relaxed) && !old.has_pins();
    });
  }

  // As find_open_table(), but waits until `deadline_ms`.
  bool wait_for_open_table(std::uint64_t deadline_ms) {
    for (;;) {
      if (!table().is_closed() || find_open_table()) return true;
      if (shm::now_ms() >= deadline_ms) return false;
      const timespec pause{0, 1'000'000};
      nanosleep(&pause, nullptr);
    }
  }

  std::uint64_t change_deadline_ms() const {
    return shm::now_ms() + static_cast<std::uint64_t>(options_.lock_timeout.count());
  }

  // A change of this host alone, in the segment that is in force.
  template <class Change>
  Stored change_alone(Change change) {
    for (std::uint64_t deadline_ms = 0;;) {
      const Stored stored = change(table());
      // Busy: who closes the segment may have copied that stripe before it was bypassed.
      const bool closed =
          stored == Stored::kClosed || (stored == Stored::kBusy && table().is_closed());
      if (!closed) [[likely]]
        return stored;
      if (deadline_ms == 0) deadline_ms = change_deadline_ms();
      if (!wait_for_open_table(deadline_ms) && !flush_closed()) return Stored::kBusy;
    }
  }

  // What could not be changed must not be read either, when the copy of it is in place. True: it is
  // in place already, and can be changed.
  bool flush_closed() {
    shm::Table& closed = table();
    if (!shm::is_closed(closed.raise_epoch())) return true;
    return find_open_table();
  }

  Stored drop(std::string_view name) {
    return change_alone([name](shm::Table& table) { return table.drop(name); });
  }

  Status flush() {
    const std::uint64_t deadline_ms = change_deadline_ms();
    while (shm::is_closed(table().raise_epoch())) {
      if (!wait_for_open_table(deadline_ms)) return busy();
    }
    return {};
  }

  // After a change that Redis took: the new segment may hold what was asked before it, or be about
  // to, and what the closed one knows of the change is lost.
  void tell_successor(shm::Table & told, const shm::Sample& sample, std::string_view name,
                      shm::ChangeId id) {
    if (!told.is_closed() && !shm::is_closed(sample.epoch)) [[likely]]
      return;
    // Still closed: what is asked for once it is open is newer than this change.
    if (!wait_for_open_table(0) && table().is_closed()) return;
    shm::Table& now = table();
    (void)now.remove(name, now.sample(name), id);
  }

  const Options options_;
  const std::shared_ptr<Logger> logger_;
  const std::string node_id_;
  std::optional<shm::Table> first_table_;
  std::list<shm::Table> tables_;  // moved to; the last is in use
  std::atomic<shm::Table*> moved_to_{nullptr};
  const shm::Segment* complained_of_ = nullptr;  // under start_mutex_
  std::optional<sync::Client> client_;
  sync::LeaderOptions leader_options_;
  shm::ForkMutex start_mutex_;
  std::atomic<std::uint64_t> started_generation_{shm::kNoGeneration};
  std::atomic<bool> told_of_scripts_{false};     // that Redis refuses them
  std::atomic<std::uint64_t> next_start_ms_{0};  // of a read, after one that could not join
  std::unique_ptr<sync::Leader> leader_;         // last: its thread uses everything above
};

View::View(View&& other) noexcept
    : value_(std::exchange(other.value_, {})),
      word_(std::exchange(other.word_, nullptr)),
      pin_(other.pin_),
      generation_(other.generation_),
      stale_(other.stale_) {}

View& View::operator=(View&& other) noexcept {
  View taken(std::move(other));
  std::swap(value_, taken.value_);
  std::swap(word_, taken.word_);
  std::swap(pin_, taken.pin_);
  std::swap(generation_, taken.generation_);
  std::swap(stale_, taken.stale_);
  return *this;
}

View::~View() {
  shm::unpin({value_, static_cast<shm::Atomic<std::uint64_t>*>(word_), pin_, generation_});
}

std::string_view View::value() const noexcept {
  return generation_ == shm::fork_generation() ? value_ : std::string_view();
}

Cache::Cache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Cache::Cache(Cache&&) noexcept = default;
Cache& Cache::operator=(Cache&&) noexcept = default;
Cache::~Cache() = default;

namespace {

// What was asked for and is not so, because the segment was there already. Its bytes say what runs:
// `shmctl info`, Stats.
void report_differences(const shm::Segment& segment, const Options& options) {
  const auto warn = [&](const std::string& what) {
    options.logger->log(LogLevel::kWarn, "the running segment " + segment.path() + " " + what +
                                             "; it is used as it is");
  };
  const shm::Geometry& g = segment.geometry();
  if (g.segment_bytes != options.segment_bytes) {
    warn("has segment_bytes = " + std::to_string(g.segment_bytes) + ", not " +
         std::to_string(options.segment_bytes));
  }
  if (g.max_entries != options.max_entries) {
    warn("has max_entries = " + std::to_string(g.max_entries) + ", not " +
         std::to_string(options.max_entries));
  }
  if (segment.superblock().policy != static_cast<std::uint32_t>(options.policy)) {
    const bool wants_lru = options.policy == Policy::kLru;
    warn(wants_lru ? "has policy = lfu, not lru" : "has policy = lru, not lfu");
  }
  if (segment.path() != shm::Segment::path_of(options.directory, options.name)) {
    options.logger->log(LogLevel::kInfo,
                        segment.path() +
                            " is used beside one of another layout; remove that with `shmctl rm "
                            "--force` once nobody uses it");
  }
}

}  // namespace

Result<Cache> Cache::open(const Options& options) {
  if (Status s = validate(options); !s.ok()) return s;
  std::string node_id = make_node_id(options);
  std::optional<sync::ClientOptions> client;
  if (!options.redis.address.empty()) {
    auto made = sync::client_options(options, node_id);
    if (!made) return made.status();
    client = std::move(*made);
  }
  auto segment = shm::Segment::open(segment_options(options));
  if (!segment) return segment.status();

  if (options.logger) report_differences(**segment, options);
  return Cache(
      std::make_unique<Impl>(options, std::move(node_id), std::move(*segment), std::move(client)));
}

namespace {
Status closed() { return {Code::kClosed, "this cache object was moved from"}; }
}  // namespace

Status Cache::start() { return impl_ ? impl_->start() : closed(); }

Result<Lookup> Cache::get(std::string_view key) {
  Result<Lookup> result{Lookup()};
  if (Status s = get(key, *result); !s.ok()) return s;
  return result;
}
// Flatten: left to itself, the compiler makes calls of the parts, and their pushes and pops cost a
// tenth of a hit.
[[gnu::flatten]] Status Cache::get(std::string_view key, Lookup& lookup) {
  return impl_ ? impl_->get(key, lookup) : closed();
}
Result<Lookup> Cache::get(std::string_view key, const ReadOptions& options) {
  Result<Lookup> result{Lookup()};
  if (Status s = get(key, *result, options); !s.ok()) return s;
  return result;
}
Status Cache::get(std::string_view key, Lookup& lookup, const ReadOptions& options) {
  return impl_ ? impl_->get(key, lookup, options) : closed();
}
Result<Lookup> Cache::peek(std::string_view key) {
  return impl_ ? impl_->peek(key) : Result<Lookup>(closed());
}
Result<std::optional<milliseconds>> Cache::ttl(std::string_view key) {
  return impl_ ? impl_->ttl(key) : Result<std::optional<milliseconds>>(closed());
}
Result<bool> Cache::contains(std::string_view key) {
  const auto left = ttl(key);
  if (!left) return left.status();
  return left->has_value();
}
Status Cache::get_local(std::string_view key, Lookup& lookup) {
  return impl_ ? impl_->get_local(key, lookup) : closed();
}
Status Cache::get_many(std::span<const std::string_view> keys, std::span<Lookup> lookups) {
  return impl_ ? impl_->get_many(keys, lookups) : closed();
}
Result<View> Cache::view(std::string_view key) {
  return impl_ ? impl_->view(key) : Result<View>(closed());
}
Status Cache::set(std::string_view key, std::string_view value, milliseconds ttl) {
  return impl_ ? impl_->set(key, value, ttl, sync::Announce::kValue) : closed();
}
Status Cache::set_with_invalidate(std::string_view key, std::string_view value, milliseconds ttl) {
  return impl_ ? impl_->set(key, value, ttl, sync::Announce::kInvalidation) : closed();
}
Status Cache::remove(std::string_view key) { return impl_ ? impl_->remove(key) : closed(); }
Status Cache::clear() { return impl_ ? impl_->clear() : closed(); }

Stats Cache::stats() const { return impl_ ? impl_->stats() : Stats(); }
bool Cache::in_sync() const { return impl_ && impl_->in_sync(); }
const Options& Cache::options() const noexcept {
  static const Options none;
  return impl_ ? impl_->options() : none;
}
const std::string& Cache::node_id() const noexcept {
  static const std::string none;
  return impl_ ? impl_->node_id() : none;
}

}  // namespace larder
