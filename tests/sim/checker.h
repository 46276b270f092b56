// What must never be seen, whatever happens.
//
//   versions   within an epoch, a host never reads an older version of a key after a newer one
//   staleness  what is read under a lease was not overwritten, on the server that the lease was
//              got from, more than T ago
//   own        after a change was completed on a host, nothing older is read there
//   followed   nothing is read that is older than a change which the host has followed; so also
//              nothing returns after a removal or clear
//   expired    nothing is read after its expiry
//   agreement  after healing each host follows, has a lease, and holds what Redis has, or nothing
//
// An event that was lost without a trace shows as a violation of `followed`, `staleness` or
// `agreement`: the change's key is held at an older version, behind a cursor or lease that says
// otherwise.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/sim/clock.h"
#include "tests/sim/redis.h"

namespace larder::sim {

inline constexpr unsigned kHostsMost = 5;
inline constexpr Time kLease = 1000 * kMs;

enum class Property { kVersions, kStaleness, kOwn, kFollowed, kExpired, kAgreement };
inline constexpr unsigned kProperties = 6;
std::string_view property_name(Property property);

struct Violation {
  Property property;
  std::string what;
};

class Checker {
 public:
  explicit Checker(Ledger& ledger) : ledger_(ledger) {}

  // A read of the local copy. `fresh`: it was given out as not stale.
  struct Read {
    Time begun = 0;
    unsigned host = 0;
    unsigned key = 0;
    std::string_view text;
    bool fresh = false;
    std::uint64_t epoch = 0;
    ChangeId cursor;                    // all of these as they were before the read
    const Server* lease_of = nullptr;   // who answered the probe that gave the lease
    Time lease_asked = 0;               // when that probe was sent
    const Server* cursor_of = nullptr;  // whose changes the cursor follows
  };
  // `epoch_after`: the epoch was raised meanwhile, when it is another.
  void read(const Read& read, std::uint64_t epoch_after);
  // The host's own change has been told to its caller.
  void completed(unsigned host, unsigned key, CommitIndex commit, const Server& server,
                 std::uint64_t epoch);
  // The host has applied the event of this change. For one that has a cursor, that tells.
  void followed(unsigned host, unsigned key, CommitIndex commit);
  // A worker keeps an answer of this server.
  void keeps_answer(unsigned host, unsigned key, const Server& server, std::uint64_t epoch,
                    bool of_no_log = false);

  // `holds`: what the host's table has of `key`.
  void healed(unsigned host, unsigned key, std::uint64_t epoch, std::optional<std::string> holds,
              Server& redis);
  // The host heard of a change without an id.
  void heard_plain(unsigned host, std::uint64_t epoch);
  void violated(Property property, std::string what);

  const std::vector<Violation>& violations() const { return violations_; }
  std::uint64_t reads() const { return reads_; }
  std::uint64_t fresh_reads() const { return fresh_reads_; }
  std::uint64_t excused() const { return excused_; }
  Time largest_staleness() const { return largest_staleness_; }

  // The reads of a library without leases all count as fresh, and nothing excuses them.
  bool excuses = true;

 private:
  struct Seen {
    std::uint64_t epoch = 0;
    CommitIndex commit = kNeverCommitted;
    const Server* of = nullptr;
  };
  // Which servers gave answers that were kept in this epoch.
  struct Answers {
    std::uint64_t epoch = 0;
    std::uint64_t servers = 0;  // bit i: server i
    Time time = 0;              // of the last
    bool of_no_log = false;     // one of them
  };
  struct Own {
    CommitIndex commit = kNeverCommitted;
    const Server* at = nullptr;
    std::uint64_t epoch = 0;
  };
  struct Heard {
    std::uint64_t epoch = 0;
    Time time = 0;
  };
  struct OfHost {
    Heard plain;  // the first in its epoch
    std::array<Seen, kKeys> seen;
    std::array<Own, kKeys> own;
    std::array<Answers, kKeys> answers;
    std::array<CommitIndex, kKeys> followed{};  // behind the change; 0: none
  };

  bool is_excused(const Read& read, std::uint64_t epoch_after) const;
  bool are_others(std::uint64_t servers, const Server& followed) const;
  bool is_comparable(const Read& read) const;
  bool lagged_by(const Read& read, const Commit& newer) const;
  bool is_untold(unsigned host, std::uint64_t epoch, CommitIndex commit) const;
  void check_staleness(const Read& read, CommitIndex commit);
  void check_versions(const Read& read, CommitIndex commit);
  void check_own(const Read& read, CommitIndex commit);
  void check_followed(const Read& read, CommitIndex commit);
  std::string describe(const Read& read, CommitIndex commit, CommitIndex newer) const;
  std::string describe(CommitIndex commit) const;

  Ledger& ledger_;
  std::array<OfHost, kHostsMost> hosts_;
  std::vector<Violation> violations_;
  std::uint64_t reads_ = 0;
  std::uint64_t fresh_reads_ = 0;
  std::uint64_t excused_ = 0;
  std::uint64_t several_ = 0;  // bit i: server i is or was one of several primaries
  Time largest_staleness_ = 0;
};

}  // namespace larder::sim
