#include "src/sync/log.h"

#include <charconv>
#include <optional>
#include <span>

#include "src/sync/link.h"
#include "src/sync/scripts.h"

namespace larder::sync {
namespace {

constexpr const char* kPage = "cannot read the log";
constexpr const char* kProbe = "cannot ask where the log ends";

std::string_view text_of(const redisReply& reply) {
  const bool is_text = reply.type == REDIS_REPLY_STRING || reply.type == REDIS_REPLY_STATUS;
  return is_text ? std::string_view(reply.str, reply.len) : std::string_view();
}

std::span<redisReply* const> elements_of(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ARRAY) return {};
  return {reply.element, reply.elements};
}

std::string_view text_of_error(const redisReply& reply) {
  return reply.type == REDIS_REPLY_ERROR ? std::string_view(reply.str, reply.len)
                                         : std::string_view();
}

Status strange(const char* what) {
  return {Code::kUnavailable, std::string(what) + ": Redis answered something else"};
}

Status error_of(const char* what, const redisReply& reply) {
  return status_of_error_reply(what, {reply.str, reply.len});
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

Status take_end(const redisReply& reply, ProbeAnswer& answer) {
  const auto info = elements_of(reply);
  for (std::size_t i = 0; i + 1 < info.size(); i += 2) {
    if (text_of(*info[i]) != "last-generated-id") continue;
    const auto end = parse_change_id(text_of(*info[i + 1]));
    if (!end) return {Code::kUnavailable, std::string(kProbe) + ": " + end.status().message()};
    answer.end = *end;
    return {};
  }
  return strange(kProbe);
}

Status take_time(const redisReply& reply, ProbeAnswer& answer) {
  const auto time = elements_of(reply);
  const auto seconds = time.size() == 2 ? number_of(*time[0]) : std::nullopt;
  const auto micros = time.size() == 2 ? number_of(*time[1]) : std::nullopt;
  if (!seconds || !micros) return strange(kProbe);
  answer.redis_unix_ms = *seconds * 1000 + *micros / 1000;
  return {};
}

Status take_role(const redisReply& reply, ProbeAnswer& answer) {
  const auto role = elements_of(reply);
  if (role.empty()) return strange(kProbe);
  answer.is_primary = text_of(*role[0]) == "master";
  return {};
}

}  // namespace

Result<LogPage> parse_log_page(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_ERROR) return error_of(kPage, reply);
  const auto parts = elements_of(reply);
  if (parts.size() != 3 || parts[1]->type != REDIS_REPLY_ARRAY) return strange(kPage);
  LogPage page;
  const auto end = parse_change_id(text_of(*parts[0]));
  if (!end) return {Code::kUnavailable, std::string(kPage) + ": " + end.status().message()};
  page.end = *end;
  const auto time_ms = number_of(*parts[2]);
  if (!time_ms) return strange(kPage);
  page.redis_unix_ms = *time_ms;
  for (const redisReply* each : elements_of(*parts[1])) {
    const auto row = elements_of(*each);
    if (row.size() != 2) return strange(kPage);
    const auto id = parse_change_id(text_of(*row[0]));
    if (!id) return {Code::kUnavailable, std::string(kPage) + ": " + id.status().message()};
    page.rows.push_back(parse_row(*id, elements_of(*row[1])));
  }
  return page;
}

std::vector<std::vector<std::string_view>> probe_commands(std::string_view log_key) {
  return {{"XINFO", "STREAM", log_key}, {"TIME"}, {"ROLE"}};
}

Status take_probe_reply(std::size_t number, const redisReply& reply, ProbeAnswer& answer) {
  const bool is_of_log = number == 0;
  const bool no_log = is_of_log && text_of_error(reply).starts_with("ERR no such key");
  if (no_log) return {};
  if (reply.type == REDIS_REPLY_ERROR) return error_of(kProbe, reply);
  if (is_of_log) return take_end(reply, answer);
  return number == 1 ? take_time(reply, answer) : take_role(reply, answer);
}

}  // namespace larder::sync
