#include "shm/os_error.h"

#include <cerrno>
#include <cstring>

namespace larder::shm {
namespace {

Code code_of(int error) {
  switch (error) {
    case ENOENT:
      return Code::kNotFound;
    case EEXIST:
      return Code::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return Code::kNoSpace;
    case ELOOP:
      return Code::kMismatch;
    default:
      return Code::kInternal;
  }
}

const char* cure_of(int error) {
  switch (error) {
    case EMFILE:
      return "; close some, or raise this process's limit (ulimit -n)";
    case ENFILE:
      return "; the whole system has too many (sysctl fs.file-max)";
    case ENOMEM:
      return "; raise the limit on this process's memory (ulimit -v), or make segment_bytes "
             "smaller";
    default:
      return "";
  }
}

}  // namespace

Status os_error(int error, const std::string& what) {
  return {code_of(error), what + ": " + std::strerror(error) + cure_of(error)};
}

}  // namespace larder::shm
