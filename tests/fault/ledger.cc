#include "tests/fault/ledger.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace larder::fault {
namespace {

constexpr std::uint64_t kNever = UINT64_MAX;

}  // namespace

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

Ledger& Ledger::create() {
  // Zeroes, and no memory before it is used.
  void* at = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::runtime_error("no memory for the ledger");
  Ledger& ledger = *static_cast<Ledger*>(at);
  ledger.next_write_ = 1;
  ledger.next_order_ = 1;
  return ledger;
}

std::string Ledger::key_name(unsigned key) { return "key:" + std::to_string(key); }

// Of 40 to 240 bytes.
std::string Ledger::value_of(std::uint64_t number, unsigned key) {
  std::string value = std::to_string(number) + ' ' + key_name(key) + ' ';
  return value.append(20 + number * 37 % 200, 'x');
}

std::optional<std::uint64_t> Ledger::number_in(std::string_view value, unsigned key) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc{} || value != value_of(number, key)) return {};
  return number;
}

// ---- noting -----------------------------------------------------------------------------------

std::uint64_t Ledger::begin_write(unsigned key, WriteKind kind) {
  const std::uint64_t number = next_write_.fetch_add(1);
  if (number > kWritesMost) throw std::runtime_error("the ledger is full of writes");
  Write& write = writes_[number - 1];
  write.key = key;
  write.kind = kind;
  write.begun_ns = now_ns();
  return number;
}

void Ledger::end_write(std::uint64_t number, bool done) {
  Write& write = writes_[number - 1];
  write.returned_ns = now_ns();
  write.outcome = done ? Outcome::kDone : Outcome::kFailed;
}

void Ledger::hear(std::uint64_t number) {
  if (number == 0 || number > written()) return;
  Write& write = writes_[number - 1];
  write.heard_ns = now_ns();
  write.order = next_order_.fetch_add(1);
}

void Ledger::read(Seat& seat, unsigned key, std::uint64_t number, std::uint64_t begun_ns) {
  Reads& latest = seat.latest[key];
  const std::uint64_t before = latest.number.load(std::memory_order_relaxed);
  if (before != number) {
    if (before != 0) {
      const std::uint64_t row = next_row_.fetch_add(1);
      if (row < kRowsMost) rows_[row] = {before, latest.last_begun_ns};
    }
    // Killed in between, the former number is judged by a read that never was: an earlier one.
    latest.last_begun_ns.store(0, std::memory_order_relaxed);
    latest.number.store(number, std::memory_order_relaxed);
  }
  latest.last_begun_ns.store(begun_ns, std::memory_order_relaxed);
}

// ---- judging ----------------------------------------------------------------------------------

Judgement Ledger::judge() {
  Judgement all;
  all.writes = written();
  for (std::uint64_t i = 0; i < all.writes; ++i) {
    const bool done = writes_[i].outcome == Outcome::kDone;
    all.failed_writes += writes_[i].outcome == Outcome::kFailed;
    all.unheard_writes += done && writes_[i].kind == WriteKind::kSet && writes_[i].order == 0;
  }
  const std::vector<std::uint64_t> overwritten = overwritten_ns();
  const std::uint64_t rows = std::min(next_row_.load(), kRowsMost);
  for (std::uint64_t i = 0; i < rows; ++i) judge_row(rows_[i], overwritten, all);
  for (const Seat& seat : seats) {
    for (const Reads& latest : seat.latest) {
      if (latest.number != 0) judge_row({latest.number, latest.last_begun_ns}, overwritten, all);
    }
  }
  return all;
}

void Ledger::judge_row(const Row& row, const std::vector<std::uint64_t>& overwritten,
                       Judgement& all) {
  const Write& write = writes_[row.number - 1];
  if (write.outcome != Outcome::kDone && write.order == 0) {
    ++all.unjudged;
    return;
  }
  ++all.judged;
  const std::uint64_t since_ns = overwritten[row.number - 1];
  if (row.last_begun_ns <= since_ns || row.last_begun_ns - since_ns <= all.oldest_ns) return;
  all.oldest_ns = row.last_begun_ns - since_ns;
  all.oldest_at_ns = row.last_begun_ns;
  all.oldest_key = write.key;
}

// Of each write: when the first of those that came after it had happened for sure: it had returned,
// or was heard of.
std::vector<std::uint64_t> Ledger::overwritten_ns() const {
  const auto count = static_cast<std::size_t>(written());
  std::vector<std::vector<const Write*>> by_key(kKeys);
  for (std::size_t i = 0; i < count; ++i) by_key[writes_[i].key].push_back(&writes_[i]);

  const auto made_ns = [](const Write& write) {
    const std::uint64_t heard_ns = write.order == 0 ? kNever : write.heard_ns.load();
    return std::min(write.outcome == Outcome::kDone ? write.returned_ns.load() : kNever, heard_ns);
  };
  std::vector<std::uint64_t> overwritten(count, kNever);
  const auto lower = [&](const Write& write, std::uint64_t to_ns) {
    std::uint64_t& ns = overwritten[static_cast<std::size_t>(&write - writes_)];
    ns = std::min(ns, to_ns);
  };
  for (std::vector<const Write*>& writes : by_key) {
    // As Redis made them.
    std::sort(writes.begin(), writes.end(),
              [](const Write* a, const Write* b) { return a->order > b->order; });
    std::uint64_t first_ns = kNever;  // of those that came later
    for (const Write* write : writes) {
      if (write->order == 0) break;
      lower(*write, first_ns);
      first_ns = std::min(first_ns, made_ns(*write));
    }
    // As they cannot but have been made.
    std::sort(writes.begin(), writes.end(),
              [](const Write* a, const Write* b) { return a->begun_ns > b->begun_ns; });
    std::vector<std::uint64_t> first_of;  // of those that began as late or later
    first_ns = kNever;
    for (const Write* write : writes) {
      first_ns = std::min(first_ns, made_ns(*write));
      first_of.push_back(first_ns);
    }
    for (const Write* write : writes) {
      const std::uint64_t ns = made_ns(*write);
      if (ns == kNever) continue;
      const auto later = std::partition_point(
          writes.begin(), writes.end(), [&](const Write* other) { return other->begun_ns > ns; });
      if (later == writes.begin()) continue;
      lower(*write, first_of[static_cast<std::size_t>(later - writes.begin()) - 1]);
    }
  }
  return overwritten;
}

}  // namespace larder::fault
