#include "src/sync/exchange.h"

#include <algorithm>

#include "shm/clock.h"

namespace larder::sync {

Fill::Fill(const shm::Table& table, std::string_view key)
    : sample_(table.sample(key)), asked_ms_(shm::now_ms()) {}

void Fill::finish(shm::Table& table, std::string_view key, const Fetched& answer,
                  bool holds_copy) const {
  // The caller has it all the same, so nothing that may be older is read here afterwards.
  if (answer.overtaken) {
    (void)table.remove(key, sample_, answer.last);
    return;
  }
  if (!answer.value) {
    if (holds_copy) (void)table.remove(key, sample_, answer.last);
    return;
  }
  // Of the moment before it was asked, so that the copy does not outlive the value. 0 ms left is
  // not "for ever".
  const std::uint64_t expires_ms =
      answer.ttl_ms < 0
          ? shm::kNeverExpires
          : asked_ms_ + static_cast<std::uint64_t>(std::max<std::int64_t>(answer.ttl_ms, 1));
  (void)table.fill({key, *answer.value, expires_ms}, sample_, answer.last);
}

// A look at the clock is a tenth of a local set.
Change::Change(const shm::Table& table, std::string_view key, std::chrono::milliseconds ttl)
    : sample_(table.sample(key)),
      expires_ms_(ttl.count() <= 0 ? shm::kNeverExpires
                                   : shm::now_ms() + static_cast<std::uint64_t>(ttl.count())) {}

void Change::finish_set(shm::Table& table, std::string_view key, std::string_view value,
                        shm::ChangeId id) const {
  (void)table.set({key, value, expires_ms_}, sample_, id);
}

void Change::finish_removal(shm::Table& table, std::string_view key, shm::ChangeId id) const {
  (void)table.remove(key, sample_, id);
}

}  // namespace larder::sync
