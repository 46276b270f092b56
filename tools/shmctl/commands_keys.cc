// keys and get: what is in a segment.
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "shm/inspect.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/entries.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

using shm::Segment;

// ---- keys -------------------------------------------------------------------------------------

// Prints keys one by one: there may be millions.
class KeyPrinter {
 public:
  explicit KeyPrinter(const Arguments& arguments) : a_(arguments) {}

  void begin(const Segment& segment) const {
    if (a_.json) {
      std::printf("{\n  \"path\": %s,\n  \"status\": \"fine\",\n  \"keys\": [",
                  one_line(json_text(segment.path())).c_str());
    } else {
      std::printf("%12s  %14s  %sKEY\n", "VALUE BYTES", "EXPIRES IN",
                  a_.all ? "STATE            " : "");
    }
  }

  // False: enough.
  bool add(const shm::EntryInfo& entry, const std::string& why_not) {
    if (a_.limit != 0 && shown_ == a_.limit) {
      more_ = true;
      return false;
    }
    if (a_.json) {
      std::printf("%s\n    %s", shown_ == 0 ? "" : ",",
                  one_line(json_of_entry(entry, why_not)).c_str());
    } else {
      print_line(entry, why_not);
    }
    ++shown_;
    return std::ferror(stdout) == 0;
  }

  void end() const {
    if (a_.json) {
      std::printf("%s],\n  \"more\": %s\n}\n", shown_ == 0 ? "" : "\n  ", more_ ? "true" : "false");
    } else if (more_) {
      std::fprintf(stderr, "shmctl: there are more than --limit %lld keys\n",
                   static_cast<long long>(a_.limit));
    }
  }

 private:
  void print_line(const shm::EntryInfo& entry, const std::string& why_not) const {
    const auto left = life_left_ms(entry);
    std::printf("%12llu  %14s  ", static_cast<unsigned long long>(entry.value_bytes),
                left ? format_duration(*left).c_str() : "never");
    if (a_.all) std::printf("%-15s  ", why_not.empty() ? "served" : why_not.c_str());
    std::printf("%s\n", escape(entry.key).c_str());
  }

  const Arguments& a_;
  std::int64_t shown_ = 0;
  bool more_ = false;
};

}  // namespace

int keys(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  KeyPrinter printer(arguments);
  printer.begin(*segment);
  shm::for_each_entry(*segment, [&](const shm::EntryInfo& entry) {
    if (!entry.key.starts_with(arguments.prefix)) return true;
    const std::string why_not = why_not_served(*segment, entry);
    if (!why_not.empty() && !arguments.all) return true;
    return printer.add(entry, why_not);
  });
  printer.end();
  return kFine;
}

// ---- get --------------------------------------------------------------------------------------

int get(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  std::string value;
  const auto entry = shm::find_entry(*segment, arguments.key, value);
  const std::string why_not = entry ? why_not_served(*segment, *entry) : "";
  if (!entry || !why_not.empty()) {
    std::string message = "key '" + arguments.key + "' is not in " + segment->path();
    if (!why_not.empty()) message += ": an entry is there but not served (" + why_not + ")";
    return fail(arguments, kDegraded, message);
  }
  if (!arguments.json) {
    std::fwrite(value.data(), 1, value.size(), stdout);
    return kFine;
  }
  Json json = json_head(*segment, kFine);
  json.update(json_of_entry(*entry, why_not));
  add_bytes(json, "value", value);
  print_json(json);
  return kFine;
}

}  // namespace larder::tools
