// A file that this process has open, and its mapping.
//
// A mapping is made of the descriptor: by its path the file could be another by now. Boost's
// exceptions end here.
#pragma once

#include <unistd.h>

#include <boost/interprocess/mapped_region.hpp>
#include <cstdint>
#include <string>
#include <utility>

#include "larder/status.h"

namespace larder::shm {

// Closes on every way out.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

// Its first `bytes`. `path`: for the message. kNoSpace: no memory, or a limit on it.
Result<boost::interprocess::mapped_region> map_file(const Fd& fd, boost::interprocess::mode_t mode,
                                                    std::uint64_t bytes, const std::string& path);

}  // namespace larder::shm
