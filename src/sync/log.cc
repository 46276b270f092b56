#include "src/sync/log.h"

#include <charconv>
#include <optional>
#include <span>

#include "src/sync/connection.h"
#include "src/sync/link.h"
#include "src/sync/scripts.h"

namespace larder::sync {
namespace {

constexpr const char* kPage = "cannot read the log";
constexpr const char* kEnd = "cannot ask where the log ends";

std::span<redisReply* const> elements_of(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ARRAY) return {};
  return {reply.element, reply.elements};
}

std::string_view text_of_error(const redisReply& reply) {
  return reply.type == REDIS_REPLY_ERROR ? text_of(reply) : std::string_view();
}

Status strange(const char* what) {
  return {Code::kUnavailable, std::string(what) + ": Redis answered something else"};
}

Status error_of(const char* what, const redisReply& reply) {
  return status_of_error_reply(what, {reply.str, reply.len});
}

// Nothing but larder's log may stand under its key.
Status status_of_log_error(const char* what, const redisReply& reply) {
  if (!text_of_error(reply).starts_with("WRONGTYPE")) return error_of(what, reply);
  return {Code::kRefused, std::string(what) + ": " + status_of_foreign_log().message()};
}

std::optional<std::int64_t> number_of(const redisReply& reply) {
  const std::string_view text = text_of(reply);
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return {};
  return number;
}

// A stranger's row keeps `prev` none, so it follows nothing.
LogPage::Row parse_row(ChangeId id, std::span<redisReply* const> fields) {
  LogPage::Row row;
  row.id = id;
  ChangeId prev;
  bool is_ours = false;
  for (std::size_t i = 0; i + 1 < fields.size(); i += 2) {
    const std::string_view name = text_of(*fields[i]);
    const std::string_view value = text_of(*fields[i + 1]);
    if (name == "k") row.keys.emplace_back(value);
    if (name == "p") {
      if (const auto id_before = parse_change_id(value)) prev = *id_before;
    }
    const auto action = name == "a" ? action_of_log_letter(value) : std::nullopt;
    if (!action) continue;
    row.action = *action;
    is_ours = true;
  }
  if (is_ours && !row.keys.empty()) row.prev = prev;
  return row;
}

Status take_role(const redisReply& reply, ProbeAnswer& answer) {
  if (reply.type == REDIS_REPLY_ERROR) return error_of("cannot ask for the role", reply);
  const auto role = elements_of(reply);
  if (role.empty()) return strange("cannot ask for the role");
  answer.is_primary = text_of(*role[0]) == "master";
  return {};
}

template <class Number>
Status take(const Result<Number>& from, Number& to) {
  if (!from) return from.status();
  to = *from;
  return {};
}

Status take_rows(const redisReply& reply, LogPage& page) {
  if (reply.type == REDIS_REPLY_ERROR) return status_of_log_error(kPage, reply);
  if (reply.type != REDIS_REPLY_ARRAY) return strange(kPage);
  for (const redisReply* each : elements_of(reply)) {
    const auto row = elements_of(*each);
    if (row.size() != 2) return strange(kPage);
    const auto id = parse_change_id(text_of(*row[0]));
    if (!id) return {Code::kUnavailable, std::string(kPage) + ": " + id.status().message()};
    page.rows.push_back(parse_row(*id, elements_of(*row[1])));
  }
  return {};
}

}  // namespace

Result<ChangeId> parse_log_end(const redisReply& reply) {
  if (text_of_error(reply).starts_with("ERR no such key")) return ChangeId();
  if (reply.type == REDIS_REPLY_ERROR) return status_of_log_error(kEnd, reply);
  const auto info = elements_of(reply);
  for (std::size_t i = 0; i + 1 < info.size(); i += 2) {
    if (text_of(*info[i]) != "last-generated-id") continue;
    const std::string_view last = text_of(*info[i + 1]);
    const Result<ChangeId> end = parse_change_id(last);
    if (end) return *end;
    return status_of_error_reply(
        kEnd, "LARDERLOG the log's last id " + std::string(last) + " is beyond 2^48 - 1");
  }
  return strange(kEnd);
}

Result<std::int64_t> parse_time_ms(const redisReply& reply) {
  constexpr const char* kTime = "cannot ask for the time";
  if (reply.type == REDIS_REPLY_ERROR) return error_of(kTime, reply);
  const auto time = elements_of(reply);
  const auto seconds = time.size() == 2 ? number_of(*time[0]) : std::nullopt;
  const auto micros = time.size() == 2 ? number_of(*time[1]) : std::nullopt;
  if (!seconds || !micros) return strange(kTime);
  return *seconds * 1000 + *micros / 1000;
}

std::vector<std::vector<std::string_view>> page_commands(std::string_view log_key,
                                                         std::string_view from,
                                                         std::string_view most) {
  return {{"XINFO", "STREAM", log_key}, {"XRANGE", log_key, from, "+", "COUNT", most}, {"TIME"}};
}

Status take_page_reply(std::size_t number, const redisReply& reply, LogPage& page) {
  if (number == 0) return take(parse_log_end(reply), page.end);
  if (number == 1) return take_rows(reply, page);
  return take(parse_time_ms(reply), page.redis_unix_ms);
}

std::vector<std::vector<std::string_view>> probe_commands(std::string_view log_key) {
  return {{"XINFO", "STREAM", log_key}, {"TIME"}, {"ROLE"}};
}

Status take_probe_reply(std::size_t number, const redisReply& reply, ProbeAnswer& answer) {
  if (number == 0) return take(parse_log_end(reply), answer.end);
  if (number == 1) return take(parse_time_ms(reply), answer.redis_unix_ms);
  return take_role(reply, answer);
}

}  // namespace larder::sync
