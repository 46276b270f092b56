// The console logger and the names of codes and levels.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "larder/logger.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <string>

#include "larder/status.h"

namespace {

// What `work` writes to standard error; less than a pipe holds.
template <class Work>
std::string standard_error_of(Work work) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const int saved = ::dup(STDERR_FILENO);
  ::dup2(ends[1], STDERR_FILENO);
  ::close(ends[1]);
  work();
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  return text;
}

}  // namespace

TEST_CASE("the console logger writes one line a message, from its level on") {
  const auto logger = larder::console_logger(larder::LogLevel::kWarn);
  const auto text = standard_error_of([&] {
    logger->log(larder::LogLevel::kInfo, "not this");
    logger->log(larder::LogLevel::kWarn, "this");
    logger->log(larder::LogLevel::kError, "and this");
  });
  const std::string start = "larder[" + std::to_string(::getpid()) + "] ";
  CHECK(text == start + "warn: this\n" + start + "error: and this\n");
}

TEST_CASE("a message cannot forge a line") {
  const auto logger = larder::console_logger();
  const auto text = standard_error_of(
      [&] { logger->log(larder::LogLevel::kInfo, "key 'a\nlarder[1] error: \x1b[2J'"); });
  CHECK(text.ends_with("info: key 'a?larder[1] error: ?[2J'\n"));
}

TEST_CASE("codes and levels have the names that logs show") {
  CHECK(larder::code_name(larder::Code::kInvalidArgument) == "invalid_argument");
  CHECK(larder::code_name(larder::Code::kInternal) == "internal");
  CHECK(larder::code_name(larder::Code{99}) == "unknown");
  CHECK(larder::level_name(larder::LogLevel::kWarn) == "warn");
  CHECK(larder::Status().to_string() == "ok");
  CHECK(larder::Status(larder::Code::kBusy, "try again").to_string() == "busy: try again");
}
