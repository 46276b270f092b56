#include "tools/bench/progress.h"

#include <unistd.h>

#include <cstdio>

namespace larder::bench {

Progress::Progress(bool always)
    : on_terminal_(isatty(STDERR_FILENO) == 1), shown_(always || on_terminal_) {}

Progress::~Progress() { clear(); }

void Progress::step(const std::string& what) {
  const auto now = std::chrono::steady_clock::now();
  if (done_ == 0) start_ = now;
  std::string left;
  if (done_ > 0 && steps_ >= done_) {
    const double passed = std::chrono::duration<double>(now - start_).count();
    const double rest = passed / static_cast<double>(done_) * static_cast<double>(steps_ - done_);
    left = ", about " + std::to_string(static_cast<long>(rest) + 1) + " s left";
  }
  ++done_;
  if (!shown_) return;
  clear();
  std::fprintf(stderr, "[%zu/%zu] %s%s%s", done_, steps_, what.c_str(), left.c_str(),
               on_terminal_ ? "" : "\n");
  line_open_ = on_terminal_;
}

void Progress::clear() {
  if (line_open_) std::fputs("\r\x1b[K", stderr);
  line_open_ = false;
}

}  // namespace larder::bench
