#include "larder/logger.h"

#include <unistd.h>

#include <string>

namespace larder {

std::string_view level_name(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
  }
  return "unknown";
}

namespace {

// A message may quote bytes that came over the network: no control character gets through, so
// that nobody can forge a line or move the terminal's cursor.
void append_printable(std::string& line, std::string_view message) {
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    line += byte < 0x20 || byte == 0x7f ? '?' : c;
  }
}

class ConsoleLogger final : public Logger {
 public:
  explicit ConsoleLogger(LogLevel least) : least_(least) {}

  void log(LogLevel level, std::string_view message) override {
    if (level < least_) return;
    // The pid is asked for each time: after a fork it is another one.
    std::string line = "larder[" + std::to_string(::getpid()) + "] ";
    line.append(level_name(level)).append(": ");
    append_printable(line, message);
    line += '\n';
    // One write for the whole line, so that lines of several processes do not mix. If standard
    // error is closed or full there is nobody left to tell.
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
  }

 private:
  const LogLevel least_;
};

}  // namespace

std::shared_ptr<Logger> console_logger(LogLevel least) {
  return std::make_shared<ConsoleLogger>(least);
}

}  // namespace larder
