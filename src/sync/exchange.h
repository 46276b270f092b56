// One question to Redis, from what is noted before it to what becomes of the answer here. How it
// travels is the caller's: a blocking call, a loop, a simulator.
//
// Threads, crash: as Table.  Fork: finished by the process that began it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "shm/table.h"
#include "src/sync/client.h"

namespace larder::sync {

// A read. Begin it before Redis is asked.
class Fill {
 public:
  Fill(const shm::Table& table, std::string_view key);

  // What this host had followed of the log by then: an answer of before that is of a server that
  // lags, or of another history.
  std::uint64_t base() const noexcept { return sample_.base; }

  // Keeps what Redis answered, unless it was overtaken or something newer came meanwhile.
  // `holds_copy`: one is here, but is not to be trusted; it goes when Redis has none.
  void finish(shm::Table& table, std::string_view key, const Fetched& answer,
              bool holds_copy = false) const;

 private:
  shm::Sample sample_;
  std::uint64_t asked_ms_;
};

// A set or a removal. Begin it before Redis is told.
class Change {
 public:
  // `ttl` 0: for ever.
  Change(const shm::Table& table, std::string_view key, std::chrono::milliseconds ttl = {});

  // Redis took it under `id`. What could not be stored here leaves no older copy either.
  void finish_set(shm::Table& table, std::string_view key, std::string_view value,
                  shm::ChangeId id) const;
  void finish_removal(shm::Table& table, std::string_view key, shm::ChangeId id) const;

  const shm::Sample& sample() const noexcept { return sample_; }

 private:
  shm::Sample sample_;
  std::uint64_t expires_ms_;
};

}  // namespace larder::sync
