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
    unsigned host = 0;
    unsigned key = 0;
    std::string_view text;
    bool fresh = false;
    std::uint64_t epoch = 0;
    ChangeId cursor;                    // all of these as they were before the read
    const Server* lease_of = nullptr;   // who answered the probe that gave the lease
    const Server* cursor_of = nullptr;  // whose changes the cursor follows
  };
  void read(const Read& read);
  // The host's own change has been told to its caller.
  void completed(unsigned host, unsigned key, CommitIndex commit, const Server& server,
                 std::uint64_t epoch);
  // A worker keeps an answer of this server.
  void keeps_answer(unsigned host, unsigned key, const Server& server, std::uint64_t epoch);

  // `holds`: what the host's table has of `key`.
  void healed(unsigned host, unsigned key, std::uint64_t epoch, std::optional<std::string> holds,
              Server& redis);
  // Events without ids may have been lost, of which nothing tells.
  bool plain_events_lost = false;
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
  };
  struct Own {
    CommitIndex commit = kNeverCommitted;
    const Server* at = nullptr;
    std::uint64_t epoch = 0;
  };
  struct OfHost {
    std::array<Seen, kKeys> seen;
    std::array<Own, kKeys> own;
    std::array<Answers, kKeys> answers;
  };

  bool is_excused(const Read& read) const;
  bool are_others(std::uint64_t servers, const Server& followed) const;
  bool is_comparable(const Read& read) const;
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
