#include "tests/sim/redis.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace larder::sim {

const std::string& key_name(unsigned key) {
  static const std::array<std::string, kKeys> kNames = {"sim:0", "sim:1", "sim:2", "sim:3",
                                                        "another:4"};
  return kNames[key];
}

std::string Ledger::text(std::uint64_t number) const {
  return key_name(values[number - 1].key) + "=" + std::to_string(number);
}

std::optional<std::uint64_t> Ledger::number_of(unsigned key, std::string_view text) const {
  const std::string& name = key_name(key);
  if (!text.starts_with(name) || text.size() <= name.size() + 1) return {};
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + name.size() + 1, end, number);
  if (error != std::errc() || stop != end || number == 0 || number > values.size()) return {};
  return number;
}

Server::Server(const Server& primary, unsigned lost)
    : number(primary.number + 1),
      ledger_(primary.ledger_),
      schedule_(primary.schedule_),
      options_(primary.options_),
      data_(primary.data_),
      log_began_(primary.log_began_),
      pictures_(primary.pictures_),
      picture_count_(primary.picture_count_),
      changes_(primary.changes_),
      logged_(primary.logged_) {
  restore(lost);
}

// ---- what clients ask for -----------------------------------------------------------------------

Server::Cell& Server::cell(unsigned key) {
  Cell& found = data_.cells[key];
  if (found.expires_unix_ms != 0 && found.expires_unix_ms <= redis_unix_ms()) found = {};
  return found;
}

std::uint64_t Server::held(unsigned key) { return cell(key).number; }

sync::Fetched Server::fetch(unsigned key) {
  const Cell& found = cell(key);
  sync::Fetched answer;
  if (found.number != 0) answer.value = ledger_.text(found.number);
  if (found.expires_unix_ms != 0) {
    answer.ttl_ms = static_cast<std::int64_t>(found.expires_unix_ms - redis_unix_ms());
  }
  answer.last = log_end();
  return answer;
}

KeySet Server::scan() {
  KeySet found = 0;
  for (unsigned key = 0; key < kOurKeys; ++key) {
    if (held(key) != 0) found = static_cast<KeySet>(found | 1u << key);
  }
  return found;
}

std::optional<sync::Written> Server::change(const ChangeOrder& order) {
  if (!primary_) return {};
  sync::Written written;
  written.prev = log_end();
  written.id = {written.prev.seq + 1, ledger_.commits.size() + 1};
  if (order.ttl_ms != 0) written.expires_unix_ms = redis_unix_ms() + order.ttl_ms;

  sync::Event event;
  event.action = order.action;
  event.id = written.id;
  event.prev = written.prev;
  event.expires_unix_ms = written.expires_unix_ms;
  event.sender = "host";
  KeySet changed = order.keys;
  for (unsigned key = 0; key < kKeys; ++key) {
    const auto bit = static_cast<KeySet>(1u << key);
    if (!(order.keys & bit)) continue;
    if (order.action == Action::kDeleteMany) event.keys.push_back(key_name(key));
    event.key = key_name(key);
    // A clear touches no data: what Redis has is not old because of it.
    if (order.action == Action::kClear) {
      if (held(key) != 0) changed = static_cast<KeySet>(changed & ~bit);
      continue;
    }
    data_.cells[key] = {order.number, written.expires_unix_ms, 0};
  }
  if (order.action == Action::kSet) {
    ledger_.value(order.number).expires_unix_ms = written.expires_unix_ms;
    if (order.announce_value) {
      event.value = ledger_.text(order.number);
    } else {
      event.action = Action::kInvalidate;
    }
  }
  if (order.action == Action::kClear) {
    event.key = "*";
    event.prefix = kPrefix;
    for (unsigned key = 0; key < kOurKeys; ++key) {
      if (held(key) == 0) data_.cells[key].evicted = 0;  // nobody may hold it any more
    }
  }
  append({written.id, written.prev, event.action, order.keys});
  record({written.id, order.keys, order.number, true_time}, changed);
  keep_picture();
  mirror();
  if (unannounced > 0) {
    --unannounced;
    written.published = {Code::kPermissionDenied, "NOPERM"};
  } else {
    publish(event_head(event, options_.format) + event_tail(event, options_.format));
  }
  return written;
}

void Server::append(const Row& row) {
  if (data_.row_count == std::min(options_.log_max, kLogMost)) {
    std::move(data_.rows.begin() + 1, data_.rows.begin() + static_cast<long>(data_.row_count),
              data_.rows.begin());
    --data_.row_count;
  }
  data_.rows[data_.row_count++] = row;
  data_.last = row.id;
  data_.has_log = true;
}

void Server::record(const Commit& commit, KeySet keys) {
  const auto index = static_cast<CommitIndex>(ledger_.commits.size());
  ledger_.commits.push_back(commit);
  for (unsigned key = 0; key < kKeys; ++key) {
    if (keys >> key & 1) changes_[key].push_back(index);
    data_.changes[key] = changes_[key].size();
  }
  if (commit.with_id()) logged_.push_back(index);
  data_.logged = logged_.size();
  if (commit.number != 0) ledger_.value(commit.number).commit = index;
}

sync::LogPage Server::log_page(ChangeId from) {
  sync::LogPage page;
  page.end = log_end();
  page.redis_unix_ms = static_cast<std::int64_t>(redis_unix_ms());
  for (std::size_t i = 0; i < data_.row_count && page.rows.size() < options_.page_rows; ++i) {
    const Row& row = data_.rows[i];
    // As Redis orders ids.
    if (std::pair(row.id.seq, row.id.nonce) < std::pair(from.seq, from.nonce)) continue;
    sync::LogPage::Row told{row.id, row.prev, row.action, {}};
    if (row.action == Action::kClear) {
      told.keys.emplace_back(kPrefix);
    } else {
      for (unsigned key = 0; key < kKeys; ++key) {
        if (row.keys >> key & 1) told.keys.push_back(key_name(key));
      }
    }
    page.rows.push_back(std::move(told));
  }
  return page;
}

sync::ProbeAnswer Server::probe() const {
  sync::ProbeAnswer answer;
  answer.is_primary = primary_;
  answer.end = log_end();
  answer.redis_unix_ms = static_cast<std::int64_t>(redis_unix_ms());
  return answer;
}

void Server::plain_change(const ChangeOrder& order) {
  if (!primary_) return;
  for (unsigned key = 0; key < kKeys; ++key) {
    if (order.keys >> key & 1) data_.cells[key] = {order.number, 0, 0};
  }
  record({{}, order.keys, order.number, true_time}, order.keys);
  keep_picture();
  mirror();
}

void Server::plain_publish(const ChangeOrder& order, std::string_view sender, CommitIndex commit) {
  sync::Event event;
  event.action = order.action;
  event.sender = sender;
  event.key = "*";
  for (unsigned key = 0; key < kKeys && order.action != Action::kClear; ++key) {
    if (order.keys >> key & 1) event.key = key_name(key);
  }
  if (order.action == Action::kSet) event.value = ledger_.text(order.number);
  if (commit != kNeverCommitted) event.id = {1, std::uint64_t{commit} + 1};
  publish_raw(event_head(event, WireFormat::kJson) + event_tail(event, WireFormat::kJson));
}

void Server::publish_raw(std::string payload) { publish(std::move(payload)); }

bool Server::publish(std::string payload) {
  const auto shared = std::make_shared<const std::string>(std::move(payload));
  const unsigned times = announced_twice > 0 ? 2 : 1;
  if (announced_twice > 0) --announced_twice;
  for (unsigned i = 0; i < times; ++i) {
    for (Subscriber* subscriber : subscribers_) subscriber->published(shared);
  }
  for (Server* replica : replicas_) {
    schedule_.in(lag_, [replica, shared] {
      if (!replica->up || replica->primary_) return;
      for (Subscriber* subscriber : replica->subscribers_) subscriber->published(shared);
    });
  }
  return true;
}

// ---- what befalls it ----------------------------------------------------------------------------

void Server::flush_all() {
  const Data before = data_;
  data_ = Data();
  // Without a log nothing tells that it was emptied, as with an eviction.
  for (unsigned key = 0; key < kKeys && !before.has_log; ++key) {
    const Cell& gone = before.cells[key];
    data_.cells[key].evicted = gone.number != 0 ? gone.number : gone.evicted;
  }
  data_.changes = before.changes;
  data_.logged = before.logged;
  begin_log();
  keep_picture();
  mirror();
}

void Server::evict(unsigned key) {
  Cell& victim = cell(key);
  if (victim.number != 0 && victim.expires_unix_ms == 0) victim = {0, 0, victim.number};
  mirror();
}

void Server::lose_log() {
  data_.has_log = false;
  data_.row_count = 0;
  data_.last = {};
  begin_log();
  mirror();
}

void Server::trim_log(std::size_t rows) {
  const std::size_t gone = data_.row_count - std::min(rows, data_.row_count);
  std::move(data_.rows.begin() + static_cast<long>(gone),
            data_.rows.begin() + static_cast<long>(data_.row_count), data_.rows.begin());
  data_.row_count -= gone;
  mirror();
}

void Server::keep_picture() { pictures_[picture_count_++ % kKeptPictures] = data_; }

void Server::restore(unsigned lost) {
  const std::size_t kept = std::min(picture_count_, kKeptPictures);
  if (lost == 0) return;
  data_ = lost < kept ? pictures_[(picture_count_ - 1 - lost) % kKeptPictures] : Data();
  picture_count_ = 0;
  ++replacements_;
  keep_picture();
  forget_beyond(data_);
  begin_log();
}

void Server::forget_beyond(const Data& data) {
  for (unsigned key = 0; key < kKeys; ++key) changes_[key].resize(data.changes[key]);
  logged_.resize(data.logged);
}

void Server::become_replica_of(Server& primary, Time lag) {
  primary_ = false;
  if (replicates_ != nullptr) std::erase(replicates_->replicas_, this);
  replicates_ = &primary;
  primary.lag_ = lag;
  primary.replicas_.push_back(this);
  primary.mirror();
}

// A replica is told everything, a little later.
void Server::mirror() {
  for (Server* replica : replicas_) {
    schedule_.in(lag_, [replica, data = data_, changes = changes_, logged = logged_,
                        began = log_began_, source = std::pair(number, replacements_)] {
      if (replica->primary_) return;
      if (std::exchange(replica->mirrored_, source) != source) {
        ++replica->replacements_;
      }
      replica->data_ = data;
      replica->changes_ = changes;
      replica->logged_ = logged;
      replica->log_began_ = began;
      replica->mirror();  // it may have replicas of its own
    });
  }
}

bool Server::has_logged(CommitIndex commit) const {
  return std::binary_search(logged_.begin(), logged_.end(), commit);
}

}  // namespace larder::sim
