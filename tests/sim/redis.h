// A model of Redis: some keys with expiry, the capped log as the scripts of src/sync/scripts.cc
// leave it, a channel. What happened to it is written down, for the checker.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/sync/client.h"
#include "src/sync/event.h"
#include "src/sync/log.h"
#include "tests/sim/clock.h"
#include "tests/sim/schedule.h"

namespace larder::sim {

using shm::ChangeId;
using sync::Action;

inline constexpr std::string_view kPrefix = "sim:";
inline constexpr unsigned kOurKeys = 4;  // under kPrefix
inline constexpr unsigned kKeys = 5;     // and one that is another application's
using KeySet = std::uint8_t;             // bit k: key k
inline constexpr KeySet kAllOurKeys = (1u << kOurKeys) - 1;

const std::string& key_name(unsigned key);

// ---- what happened ------------------------------------------------------------------------------

using CommitIndex = std::uint32_t;  // in the order of time
inline constexpr CommitIndex kNeverCommitted = UINT32_MAX;

// One change that a server made.
struct Commit {
  ChangeId id;  // none: of a peer without ids
  KeySet keys = 0;
  std::uint64_t number = 0;  // of the value; 0: removed
  Time time = 0;
  bool with_id() const { return !id.none(); }
};

// A value says what it is: its key and a number that no other value has.
struct Value {
  unsigned key = 0;
  CommitIndex commit = kNeverCommitted;
  std::uint64_t expires_unix_ms = 0;  // Redis' clock
};

struct Ledger {
  std::vector<Commit> commits;
  std::vector<Value> values;

  std::uint64_t new_number(unsigned key) {
    values.push_back({key});
    return values.size();
  }
  Value& value(std::uint64_t number) { return values[number - 1]; }
  // The nonce of every id is the index of its commit and 1.
  static CommitIndex commit_of(ChangeId id) { return static_cast<CommitIndex>(id.nonce - 1); }
  std::string text(std::uint64_t number) const;
  // Nothing when these are not the bytes of a value of `key`.
  std::optional<std::uint64_t> number_of(unsigned key, std::string_view text) const;
};

// ---- a server -----------------------------------------------------------------------------------

struct ChangeOrder {
  Action action = Action::kSet;
  KeySet keys = 0;
  std::uint64_t number = 0;
  std::uint64_t ttl_ms = 0;
  bool announce_value = true;
};

struct ServerOptions {
  std::size_t log_max = 32;
  std::size_t page_rows = 8;
  WireFormat format = WireFormat::kJson;
};

using Payload = std::shared_ptr<const std::string>;

// Who hears the channel.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  virtual void published(const Payload& payload) = 0;
};

class Server {
 public:
  Server(Ledger& ledger, Schedule& schedule, const ServerOptions& options)
      : ledger_(ledger), schedule_(schedule), options_(options) {}
  // A replica that was promoted without the primary's last `lost` changes.
  Server(const Server& primary, unsigned lost);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // ---- what clients ask for ----
  sync::Fetched fetch(unsigned key);
  // Nothing: a replica takes no changes.
  std::optional<sync::Written> change(const ChangeOrder& order);
  // Which of our keys there are.
  KeySet scan();
  sync::LogPage log_page(ChangeId from);
  sync::ProbeAnswer probe() const;
  // A peer whose write and event are two commands.
  void plain_change(const ChangeOrder& order);
  // `commit`: named in an id, which such peers do not read, for a host that has no other means to
  // know which change it follows.
  void plain_publish(const ChangeOrder& order, std::string_view sender,
                     CommitIndex commit = kNeverCommitted);
  void publish_raw(std::string payload);

  void subscribe(Subscriber* subscriber) { subscribers_.push_back(subscriber); }
  void unsubscribe(Subscriber* subscriber) { std::erase(subscribers_, subscriber); }

  // ---- what befalls it ----
  void flush_all();
  void evict(unsigned key);
  void lose_log();
  void trim_log(std::size_t rows);
  // As it was before its last `lost` changes.
  void restore(unsigned lost);
  void become_replica_of(Server& primary, Time lag);

  unsigned number = 0;
  bool is_one_of_several = false;  // primaries, since a split brain
  bool up = true;
  bool reachable = true;     // for new connections
  unsigned unannounced = 0;  // of the next events: the log has them, the channel does not
  unsigned announced_twice = 0;

  // ---- for the checker ----
  bool is_primary() const { return primary_; }
  const Server& followed_primary() const {
    return primary_ || replicates_ == nullptr ? *this : replicates_->followed_primary();
  }
  std::uint64_t held(unsigned key);  // the value's number; 0: none
  // It was there until Redis evicted it; 0: no such value.
  std::uint64_t evicted(unsigned key) const { return data_.cells[key].evicted; }
  // The changes of a key, those that a restoration or failover lost left out.
  const std::vector<CommitIndex>& changes_of(unsigned key) const { return changes_[key]; }
  bool has_logged(CommitIndex commit) const;
  // The first change that the log as it is now could have.
  CommitIndex log_began() const { return log_began_; }
  // How often all that it has was replaced: by a snapshot, by a new primary's.
  unsigned replacements() const { return replacements_; }
  ChangeId log_end() const { return data_.has_log ? data_.last : ChangeId(); }

 private:
  struct Cell {
    std::uint64_t number = 0;
    std::uint64_t expires_unix_ms = 0;
    std::uint64_t evicted = 0;
  };
  struct Row {
    ChangeId id;
    ChangeId prev;
    Action action = Action::kSet;
    KeySet keys = 0;
  };
  static constexpr std::size_t kLogMost = 32;
  static constexpr std::size_t kKeptPictures = 8;

  // All that a snapshot or a replica has; plain bytes, since each change makes a picture of it.
  struct Data {
    std::array<Cell, kKeys> cells;
    bool has_log = false;
    ChangeId last;
    std::array<Row, kLogMost> rows;
    std::size_t row_count = 0;
    std::array<std::size_t, kKeys> changes{};  // how long changes_ was
    std::size_t logged = 0;
  };

  Cell& cell(unsigned key);
  void record(const Commit& commit, KeySet keys);
  void append(const Row& row);
  bool publish(std::string payload);
  void begin_log() { log_began_ = static_cast<CommitIndex>(ledger_.commits.size()); }
  void keep_picture();
  void forget_beyond(const Data& data);
  void mirror();

  Ledger& ledger_;
  Schedule& schedule_;
  const ServerOptions options_;
  bool primary_ = true;
  Data data_;
  CommitIndex log_began_ = 0;
  std::array<Data, kKeptPictures> pictures_;
  unsigned replacements_ = 0;
  std::pair<unsigned, unsigned> mirrored_;  // whose data, and which of it
  std::size_t picture_count_ = 0;
  std::array<std::vector<CommitIndex>, kKeys> changes_;
  std::vector<CommitIndex> logged_;
  std::vector<Subscriber*> subscribers_;
  std::vector<Server*> replicas_;
  Server* replicates_ = nullptr;
  Time lag_ = 0;
};

}  // namespace larder::sim
