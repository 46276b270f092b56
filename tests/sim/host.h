// A host: its segment, its workers, and the one of them that leads. They do what src/cache.cc and
// src/sync/leader.cc do around the objects of the library, step by step, so that anything may
// happen in between.
#pragma once

#include <array>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "larder/logger.h"
#include "shm/lease.h"
#include "shm/table.h"
#include "src/sync/exchange.h"
#include "src/sync/follower.h"
#include "src/sync/table_host.h"
#include "tests/sim/clock.h"
#include "tests/sim/world.h"

namespace larder::sim {

class Host;

// One process as a caller of the cache.
class Worker {
 public:
  Worker(Host& host, unsigned index) : host_(host), index_(index) {}

  // Each does nothing while another call is under way, or the process is stopped.
  void get(unsigned key);
  void set(unsigned key, Time ttl, bool announce_value);
  void remove(unsigned key);
  void clear();

  bool is_free() const { return stops == 0 && !call_; }
  bool is_calling() const { return call_.has_value(); }
  void crash();
  void resume();
  std::string name() const;  // "host 1, worker 2"

  int stops = 0;
  unsigned generation = 0;  // of the process in this place
  Connection* connection = nullptr;

 private:
  enum class Kind { kGet, kSet, kRemove, kClear };
  struct Call {
    Kind kind = Kind::kGet;
    unsigned key = 0;
    std::uint64_t number = 0;
    bool holds_copy = false;
    std::uint64_t epoch = 0;  // of a clear
    KeySet removed = 0;       // and by which change
    CommitIndex removed_by = kNeverCommitted;
    std::optional<sync::Fill> fill;
    std::optional<sync::Change> change;
    std::uint64_t serial = 0;
    Time deadline = 0;
  };

  void begin(Call call);
  void order_clear();
  template <class Ask, class Done>
  void ask(Ask ask, Done done);
  void change(Kind kind, const ChangeOrder& order, Time ttl);
  void fetch(unsigned key, bool holds_copy);
  struct LogEnd;
  static LogEnd log_end_of(const Server& server);
  void fetch_end(const LogEnd& before, const sync::Fetched& answer);
  void fetched(const sync::Fetched& answer);
  void changed(const std::optional<sync::Written>& answer);
  void cleared(const std::optional<sync::Written>& answer);
  void fail();
  void give_up_if_late(std::uint64_t serial);
  void let_go();

  Host& host_;
  const unsigned index_;
  std::optional<Call> call_;
  std::uint64_t serials_ = 0;
};

// What the leading process's thread does.
class Leader {
 public:
  Leader(Host& host, Worker& process, std::uint64_t term);

  ~Leader();

  void start();
  void die();
  void resume();
  bool is_dead() const { return dead_; }
  bool is_following() const { return follower_.is_following(); }
  Worker& process() { return process_; }
  // When the probe was sent that noted this.
  Time probe_of(shm::CoarseTime noted) const;
  // Whom it follows. None while events and answers come from two: in a split brain a name may lead
  // its two connections to different servers, until a probe finds that these differ.
  Server* server() const;

  int stops = 0;
  Connection* subscriber() { return subscriber_; }
  Connection* commander() { return commander_; }

 private:
  struct Killed {};
  // The library's own host, and moments before each effect at which the process may be stopped,
  // replaced or killed.
  class Effects;
  enum class State { kWaiting, kConnecting, kSubscribed };

  void turn();
  void connect();
  void begin();
  void lose();
  void retry_in(Time wait);
  template <class Input>
  void tell(FollowerInput what, Input input);
  void act(sync::Next next);
  void read_log();
  void probe();
  void refetch(std::string_view name);
  void note_redis_clock(std::int64_t redis_unix_ms, std::uint64_t asked_boot_ms);
  template <class Done>
  void after_messages(Done done);
  template <class Ask, class Done>
  void ask(Ask ask, Done done);
  bool has_waited_too_long();
  void ask_if_quiet();
  void moment();
  FollowerState follower_state() const;
  std::string name() const;

  Host& host_;
  Worker& process_;
  const std::uint64_t term_;
  std::unique_ptr<Effects> effects_;
  sync::Follower follower_;
  bool dead_ = false;
  bool follower_lost_ = true;
  State state_ = State::kWaiting;
  Connection* subscriber_ = nullptr;
  Connection* commander_ = nullptr;
  bool confirmed_ = false;
  bool commander_is_ready_ = false;
  bool resigned_ = false;
  unsigned failures_ = 0;
  std::uint64_t subscription_ = 0;                     // counts them
  std::deque<Time> asked_, resubscribed_;              // questions without an answer
  std::deque<std::pair<std::uint64_t, Time>> probes_;  // {what the coarse clock said, when}
  Time heard_ = 0;
  Time answered_ = 0;
};

class Host {
 public:
  Host(World& in, unsigned number, shm::Table& held, unsigned worker_count);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // ---- faults ----
  void crash(unsigned worker);
  void crash(Worker& worker);
  // The process stops here, in the middle of a step. False: it was killed meanwhile.
  bool stand_still(Worker& worker);
  void restart_all();
  void stop(unsigned worker, Time time);
  void stop_leader(Time time);
  void kill_leader();
  void suspend(Time time);
  void partition(Time time);

  Leader* leader() { return leader_ != nullptr && !leader_->is_dead() ? leader_ : nullptr; }
  bool follows_with_lease();
  shm::HotWords& hot() { return table.segment().superblock().hot; }
  shm::SyncWords& sync_words() { return table.segment().superblock().sync; }
  std::uint64_t epoch() { return hot().epoch.load(); }

  World& world;
  const unsigned index;
  shm::Table& table;
  HostClock clock;
  std::deque<Worker> workers;
  const Server* lease_of = nullptr;   // who answered the probe that gave it
  Time lease_asked = 0;               // when that was sent
  const Server* cursor_of = nullptr;  // whose changes it follows
  bool suspended = false;
  Time cut_off_until = 0;
  Connection* connect(const int& stops);
  void elect_soon();

 private:
  void watch();
  void elect();
  std::vector<Leader*> stop_leaders(const Worker* process);
  void resume_leaders(const std::vector<Leader*>& stopped);

  std::vector<Connection*> connections_;
  std::list<Leader> leaders_;  // some are told while others are added
  Leader* leader_ = nullptr;   // the newest
  Time leader_seen_ = 0;       // last running
};

}  // namespace larder::sim
