// Where larder's own messages go. The default drops them.
//
// Threads: `log` is called from the caller's threads and from the sync thread, also at the same
// time; an implementation locks what it shares. It must not call back into the cache.
// Fork: a child calls the copy it inherited. Crash: nothing is buffered by larder.
#pragma once

#include <memory>
#include <string_view>

#include "larder/status.h"

namespace larder {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

LARDER_API std::string_view level_name(
    LogLevel level) noexcept;  // "debug", "info", "warn", "error"

class LARDER_API Logger {
 public:
  virtual ~Logger() = default;
  virtual void log(LogLevel level, std::string_view message) = 0;
};

// One line a message on standard error, "larder[pid] warn: ...", from `least` on.
LARDER_API std::shared_ptr<Logger> console_logger(LogLevel least = LogLevel::kInfo);

}  // namespace larder
