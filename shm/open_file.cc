#include "shm/open_file.h"

#include <boost/interprocess/exceptions.hpp>
#include <cerrno>

#include "shm/os_error.h"

namespace larder::shm {
namespace {

namespace bip = boost::interprocess;

// What Boost maps.
class Mappable {
 public:
  explicit Mappable(const Fd& fd) : fd_(fd.get()) {}
  bip::mapping_handle_t get_mapping_handle() const { return {fd_, false}; }

 private:
  int fd_;
};

}  // namespace

Result<bip::mapped_region> map_file(const Fd& fd, bip::mode_t mode, std::uint64_t bytes,
                                    const std::string& path) {
  try {
    return bip::mapped_region(Mappable(fd), mode, 0, bytes);
  } catch (const bip::interprocess_exception& error) {
    // Memory that cannot be mapped is a limit; all else is what the system says.
    const int native = error.get_native_error();
    return os_error(native != 0 ? native : ENOMEM, "cannot map " + path);
  }
}

}  // namespace larder::shm
