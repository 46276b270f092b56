#include "tools/shmctl/notes.h"

#include <time.h>

#include <cstdio>

#include "tools/shmctl/entries.h"

namespace larder::tools {
namespace {

using shm::Happening;

std::string local_time(std::uint64_t unix_ms) {
  const auto seconds = static_cast<time_t>(unix_ms / 1000);
  struct tm parts {};
  if (localtime_r(&seconds, &parts) == nullptr) return "at no time";
  char date[32];
  const std::size_t length = strftime(date, sizeof date, "%F %T", &parts);
  char millis[8];
  std::snprintf(millis, sizeof millis, ".%03u", static_cast<unsigned>(unix_ms % 1000));
  return std::string(date, length) + millis;
}

bool is_event(Happening happening) {
  return happening == Happening::kSet || happening == Happening::kInvalidate ||
         happening == Happening::kDelete;
}

// What it was about: a key, a reason.
std::string subject(const shm::Journal::Entry& note) {
  std::string text = escape(note.text);
  if (note.text_bytes > note.text.size()) {
    text += "... (" + std::to_string(note.text_bytes) + " bytes)";
  }
  if (note.happening == Happening::kSet) text += " (" + format_bytes(note.value_bytes) + ")";
  return text;
}

}  // namespace

std::string note_line(const shm::Journal::Entry& note) {
  const std::string id = note.id.seq == 0 ? "-" : std::to_string(note.id.seq);
  const std::string_view outcome = is_event(note.happening) ? outcome_name(note.outcome) : "";
  char line[160];
  std::snprintf(line, sizeof line, "%s  %-12s  %-8s  %12s  ", local_time(note.unix_ms).c_str(),
                std::string(happening_name(note.happening)).c_str(), std::string(outcome).c_str(),
                id.c_str());
  return line + subject(note);
}

Json json_of_note(const shm::Journal::Entry& note) {
  Json json;
  json["number"] = note.number;
  json["unix_ms"] = note.unix_ms;
  json["happening"] = happening_name(note.happening);
  if (is_event(note.happening)) {
    json["outcome"] = outcome_name(note.outcome);
    json["id"] = {{"seq", note.id.seq}, {"nonce", std::to_string(note.id.nonce)}};
    add_bytes(json, "key", note.text);
    json["key_bytes"] = note.text_bytes;
    json["value_bytes"] = note.value_bytes;
    return json;
  }
  if (note.happening == Happening::kElected) json["term"] = note.id.seq;
  if (note.happening == Happening::kClear) json["id"] = {{"seq", note.id.seq}};
  if (note.text_bytes != 0) json["reason"] = json_text(note.text);
  return json;
}

}  // namespace larder::tools
