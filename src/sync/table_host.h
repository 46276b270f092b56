// The follower's Host over a real table: what an event does to a segment.
//
// Threads: the leader's loop only.  Fork, crash: as Table.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "larder/logger.h"
#include "shm/history.h"
#include "shm/journal.h"
#include "shm/table.h"
#include "src/sync/follower.h"

namespace larder::sync {

class TableHost : public Host {
 public:
  // Writes under `term` only. `lease`: how long one lasts. `refetch` asks Redis for a key, later.
  TableHost(shm::Table& table, std::uint64_t term, std::chrono::milliseconds lease, Logger& logger,
            std::function<void(std::string_view)> refetch)
      : table_(table),
        history_(table.segment()),
        journal_(table.segment()),
        term_(term),
        lease_(lease),
        logger_(logger),
        refetch_(std::move(refetch)),
        set_last_(cursor()) {}

  // Where a former leader of this host stopped.
  ChangeId cursor() noexcept;
  // Once more, in case a former leader that was stopped wrote its own when it woke up.
  void repeat_cursor(ChangeId id) noexcept;
  // For the journal: what happened to the leader itself.
  void note(shm::Happening happening, std::string_view text = {}) noexcept;

  bool leading() override;
  bool set_head(ChangeId id) override;
  bool begin_at(ChangeId id) override;
  ApplyOutcome apply(const Event& event) override;
  void set_cursor(ChangeId id) override;
  bool knows(ChangeId id) override;
  std::uint64_t ahead() override;
  bool heard_without_id() override;
  void hear_without_id() override;
  void raise_epoch(RaiseReason reason) override;
  void raise_floor(std::uint64_t seq) override;
  void clear_all() override;
  bool holds(std::string_view key) override;
  void refetch(std::string_view key) override;
  void extend_lease(shm::CoarseTime asked) override;
  void count(shm::Counter counter) override;
  void count(shm::SyncCounter counter) override;
  void log(LogLevel level, std::string_view message) override;

 private:
  shm::HotWords& hot() { return table_.segment().superblock().hot; }
  std::uint64_t epoch() { return hot().epoch.load(std::memory_order_acquire); }
  bool is_disturbed() noexcept;
  void drop_what_another_left(ChangeId next);
  void note_event(const Event& event, shm::EventOutcome outcome) noexcept;
  shm::SyncWords& words() { return table_.segment().superblock().sync; }

  shm::Table& table_;
  shm::History history_;
  shm::Journal journal_;
  const std::uint64_t term_;
  const std::chrono::milliseconds lease_;
  Logger& logger_;
  const std::function<void(std::string_view)> refetch_;
  std::optional<ChangeId> set_last_;  // the cursor, since this host last forgot the history
};

// A deadline in Redis' clock as one in CLOCK_BOOTTIME, by the segment's last measurement of the
// difference. 0 stays 0: never.
std::uint64_t local_deadline_ms(const shm::SyncWords& words,
                                std::uint64_t expires_unix_ms) noexcept;

}  // namespace larder::sync
