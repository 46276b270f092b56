#include "tests/sim/checker.h"

#include <algorithm>

namespace larder::sim {
namespace {

// Redis rounds to milliseconds, and so do we.
constexpr std::uint64_t kExpirySlackMs = 2;

bool contains(const std::vector<CommitIndex>& changes, CommitIndex commit) {
  return std::binary_search(changes.begin(), changes.end(), commit);
}

}  // namespace

std::string_view property_name(Property property) {
  constexpr std::string_view kNames[kProperties] = {"versions", "staleness", "own",
                                                    "followed", "expired",   "agreement"};
  return kNames[static_cast<unsigned>(property)];
}

void Checker::violated(Property property, std::string what) {
  const bool known = std::any_of(violations_.begin(), violations_.end(),
                                 [&](const Violation& each) { return each.property == property; });
  if (known) return;  // the first says enough
  violations_.push_back({property, std::string(property_name(property)) + " at " +
                                       std::to_string(true_time) + " us: " + std::move(what)});
}

std::string Checker::describe(CommitIndex commit) const {
  if (commit == kNeverCommitted) return "a value that Redis never had";
  const Commit& change = ledger_.commits[commit];
  return "change " + std::to_string(commit) + " (" + sync::to_string(change.id) + ", value " +
         std::to_string(change.number) + ", at " + std::to_string(change.time) + " us)";
}

std::string Checker::describe(const Read& read, CommitIndex commit, CommitIndex newer) const {
  return "host " + std::to_string(read.host) + " read " + key_name(read.key) + " of " +
         describe(commit) + ", after " + describe(newer) + "; cursor " +
         sync::to_string(read.cursor) + (read.fresh ? ", under a lease" : "") + ", epoch " +
         std::to_string(read.epoch);
}

void Checker::read(const Read& read, std::uint64_t epoch_after) {
  ++reads_;
  if (read.fresh) ++fresh_reads_;
  const auto number = ledger_.number_of(read.key, read.text);
  if (!number)
    return violated(Property::kVersions, "no value of its key: " + std::string(read.text));
  const Value& value = ledger_.value(*number);
  if (value.commit == kNeverCommitted && excuses) {
    return violated(Property::kVersions, "a value that no Redis has taken");
  }
  if (value.expires_unix_ms != 0 && redis_unix_ms() > value.expires_unix_ms + kExpirySlackMs) {
    violated(Property::kExpired, describe(read, value.commit, value.commit));
  }
  if (read.cursor_of == nullptr) {  // nobody follows yet, or two servers at once
    ++excused_;
    return;
  }
  if (is_excused(read, epoch_after)) {
    ++excused_;
    return;
  }
  if (epoch_after == read.epoch) {  // else it is not known of which epoch this was
    check_own(read, value.commit);
    check_versions(read, value.commit);
    check_followed(read, value.commit);
  }
  if (read.fresh && read.lease_of == read.cursor_of) check_staleness(read, value.commit);
}

// Nothing is promised to who asks one server and follows another: of a split brain, or one that has
// not taken over yet for who follows. When the two differ, the next probe shows it; unless neither
// had a log, for "no log" is no history.
bool Checker::is_excused(const Read& read, std::uint64_t epoch_after) const {
  const Answers& answers = hosts_[read.host].answers[read.key];
  const bool of_this_epoch = answers.epoch == read.epoch || answers.epoch == epoch_after;
  return excuses && of_this_epoch && are_others(answers.servers, *read.cursor_of) &&
         (read.lease_asked <= answers.time || answers.of_no_log);
}

bool Checker::are_others(std::uint64_t servers, const Server& followed) const {
  const std::uint64_t newer = ~((2ull << followed.number) - 1);
  return (servers & (several_ | newer) & ~(1ull << followed.number)) != 0;
}

void Checker::keeps_answer(unsigned host, unsigned key, const Server& server, std::uint64_t epoch,
                           bool of_no_log) {
  Answers& answers = hosts_[host].answers[key];
  if (answers.epoch != epoch) answers = {epoch, 0, 0, false};
  answers.servers |= 1ull << server.number;
  answers.time = true_time;
  answers.of_no_log |= of_no_log;
  if (server.is_one_of_several) several_ |= 1ull << server.number;
}

void Checker::check_staleness(const Read& read, CommitIndex commit) {
  if (commit == kNeverCommitted) return;
  // A replica is no primary: who gets a lease from it rests on what it follows.
  const auto& changes = read.lease_of->followed_primary().changes_of(read.key);
  auto newer = std::upper_bound(changes.begin(), changes.end(), commit);
  while (excuses && newer != changes.end() && !ledger_.commits[*newer].with_id()) ++newer;
  if (newer == changes.end()) return;
  const Time since = ledger_.commits[*newer].time;
  if (read.begun <= since) return;
  const Time stale = read.begun - since;
  largest_staleness_ = std::max(largest_staleness_, stale);
  if (stale > kLease) violated(Property::kStaleness, describe(read, commit, *newer));
}

// A replica that answered may have lacked a change without an id: no number tells.
bool Checker::lagged_by(const Read& read, const Commit& newer) const {
  const Answers& answers = hosts_[read.host].answers[read.key];
  return !newer.with_id() && answers.epoch == read.epoch &&
         are_others(answers.servers, *read.cursor_of);
}

void Checker::check_versions(const Read& read, CommitIndex commit) {
  Seen& seen = hosts_[read.host].seen[read.key];
  const auto& changes = read.cursor_of->changes_of(read.key);
  const bool comparable =
      !excuses || seen.commit == kNeverCommitted || !lagged_by(read, ledger_.commits[seen.commit]);
  if (comparable && seen.epoch == read.epoch && seen.of == read.cursor_of &&
      seen.commit != kNeverCommitted && commit < seen.commit && contains(changes, seen.commit) &&
      contains(changes, commit)) {
    violated(Property::kVersions, describe(read, commit, seen.commit));
  }
  seen = {read.epoch, commit, read.cursor_of};
}

void Checker::completed(unsigned host, unsigned key, CommitIndex commit, const Server& server,
                        std::uint64_t epoch) {
  Own& own = hosts_[host].own[key];
  if (own.commit == kNeverCommitted || commit > own.commit) own = {commit, &server, epoch};
  if (server.is_one_of_several) several_ |= 1ull << server.number;
}

void Checker::check_own(const Read& read, CommitIndex commit) {
  const Own& own = hosts_[read.host].own[read.key];
  if (own.commit == kNeverCommitted || commit == kNeverCommitted || commit >= own.commit) return;
  // What Redis lost again was never promised.
  if (!contains(read.cursor_of->changes_of(read.key), own.commit)) return;
  if (are_others(1ull << own.at->number, *read.cursor_of)) return;
  // What is held is of the server that gave the lease, and the log of its successor not yet read.
  if (read.lease_of != nullptr && read.lease_of != read.cursor_of) return;
  if (!is_comparable(read)) return;
  violated(Property::kOwn, describe(read, commit, own.commit));
}

// When Redis loses its log, or the end of it, numbers that a host compares mean another thing until
// it notices, which its lease bounds. So while the log that has this change is not yet followed,
// only the lease is a promise.
bool Checker::is_comparable(const Read& read) const {
  const CommitIndex began = read.cursor_of->log_began();
  return began == 0 || (!read.cursor.none() && Ledger::commit_of(read.cursor) >= began);
}

void Checker::followed(unsigned host, unsigned key, CommitIndex commit) {
  CommitIndex& last = hosts_[host].followed[key];
  last = std::max(last, commit + 1);
}

void Checker::check_followed(const Read& read, CommitIndex commit) {
  const CommitIndex told = hosts_[read.host].followed[read.key];
  if (told != 0 && commit + 1 < told && commit != kNeverCommitted) {
    violated(Property::kFollowed, describe(read, commit, told - 1));
  }
  if (read.cursor.none()) return;
  const CommitIndex cursor = Ledger::commit_of(read.cursor);
  if (!read.cursor_of->has_logged(cursor)) return;
  const auto& changes = read.cursor_of->changes_of(read.key);
  auto followed = std::upper_bound(changes.begin(), changes.end(), cursor);
  while (followed != changes.begin() && !ledger_.commits[*(followed - 1)].with_id()) --followed;
  if (followed == changes.begin() || commit >= *(followed - 1)) return;
  violated(Property::kFollowed, describe(read, commit, *(followed - 1)));
}

void Checker::heard_plain(unsigned host, std::uint64_t epoch) {
  Heard& plain = hosts_[host].plain;
  if (plain.epoch != epoch) plain = {epoch, true_time};
}

// Nothing in the log tells of a change without an id. When its event is lost, or Redis loses it, a
// host notices only if it has heard of such peers in this epoch before: then it flushes after each
// interruption.
bool Checker::is_untold(unsigned host, std::uint64_t epoch, CommitIndex commit) const {
  const Commit& change = ledger_.commits[commit];
  const Heard& plain = hosts_[host].plain;
  return !change.with_id() && !(plain.epoch == epoch && plain.time <= change.time);
}

void Checker::healed(unsigned host, unsigned key, std::uint64_t epoch,
                     std::optional<std::string> holds, Server& redis) {
  if (!holds) return;
  const auto number = ledger_.number_of(key, *holds);
  if (number && (*number == redis.held(key) || *number == redis.evicted(key))) return;
  const CommitIndex held = number ? ledger_.value(*number).commit : kNeverCommitted;
  const auto& changes = redis.changes_of(key);
  const auto newer = std::upper_bound(changes.begin(), changes.end(), held);
  // Nor does a number tell that who answered was a replica that lagged by such a change.
  const Answers& answers = hosts_[host].answers[key];
  const bool from_another = answers.epoch == epoch && are_others(answers.servers, redis);
  // "No log" is no history either.
  if (excuses && from_another && answers.of_no_log) {
    ++excused_;
    return;
  }
  const bool overwritten_untold =
      newer != changes.end() &&
      (is_untold(host, epoch, *newer) || (from_another && !ledger_.commits[*newer].with_id()));
  const bool lost_again = held != kNeverCommitted && !contains(changes, held);
  if (excuses && (overwritten_untold || (lost_again && is_untold(host, epoch, held)))) {
    ++excused_;
    return;
  }
  const std::uint64_t has = redis.held(key);
  violated(Property::kAgreement, "host " + std::to_string(host) + " holds " + *holds + " of " +
                                     describe(held) + ", Redis has " +
                                     (has == 0 ? "nothing" : describe(ledger_.value(has).commit)));
}

}  // namespace larder::sim
