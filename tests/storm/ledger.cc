#include "tests/storm/ledger.h"

#include <algorithm>

namespace larder::storm {
namespace {

constexpr unsigned kKeyBits = 12;
constexpr unsigned kWriterBits = 8;
constexpr unsigned kKindBits = 2;
static_assert(Ledger::kKeys <= 1u << kKeyBits);

constexpr std::uint64_t mask(unsigned bits) { return (1ull << bits) - 1; }

std::uint64_t pack(const LoggedChange& change) {
  std::uint64_t word = change.seq;
  word = word << kKindBits | static_cast<std::uint64_t>(change.kind);
  word = word << kWriterBits | (change.writer & mask(kWriterBits));
  return word << kKeyBits | change.key;
}

LoggedChange unpack(std::uint64_t word) {
  LoggedChange change;
  change.key = static_cast<unsigned>(word & mask(kKeyBits));
  word >>= kKeyBits;
  change.writer = static_cast<unsigned>(word & mask(kWriterBits));
  word >>= kWriterBits;
  change.kind = static_cast<ChangeKind>(word & mask(kKindBits));
  change.seq = word >> kKindBits;
  return change;
}

}  // namespace

std::uint64_t Ledger::change(ChangeKind kind, unsigned writer, unsigned key) {
  for (;;) {
    std::uint64_t seq = next_.load();
    std::atomic<std::uint64_t>& place = log_[seq % kLength];
    std::uint64_t there = place.load();
    const std::uint64_t its_seq = unpack(there).seq;
    const bool ours =
        its_seq < seq && place.compare_exchange_strong(there, pack({seq, kind, writer, key}));
    const std::uint64_t made = seq;
    // Also for another, who may have died here.
    if (ours || its_seq == seq) next_.compare_exchange_strong(seq, seq + 1);
    if (!ours) continue;
    index_up_to(made);
    return made;
  }
}

Ledger::Reply Ledger::get(unsigned key) {
  const std::uint64_t reach = last();
  index_up_to(reach);
  const LoggedChange newest = unpack(newest_[key].load());
  const std::uint64_t cleared = cleared_.load();
  Reply reply{std::nullopt, std::max(reach, newest.seq)};
  if (newest.kind == ChangeKind::kSet && newest.seq > cleared) reply.value = newest;
  return reply;
}

std::optional<LoggedChange> Ledger::read(std::uint64_t seq) const {
  const LoggedChange change = unpack(log_[seq % kLength].load());
  if (change.seq != seq) return std::nullopt;
  return change;
}

void Ledger::index_up_to(std::uint64_t seq) {
  for (std::uint64_t i = indexed_.load(); i <= seq; i = indexed_.load()) {
    const std::uint64_t word = log_[i % kLength].load();
    const LoggedChange change = unpack(word);
    if (change.seq != i) continue;  // others went on, a whole ring's length
    if (change.kind == ChangeKind::kClear) {
      raise_to(cleared_, i);
    } else {
      raise_to(newest_[change.key], word);
    }
    indexed_.compare_exchange_strong(i, i + 1);
  }
}

}  // namespace larder::storm
