// How larder reports that something did not happen.
//
// A Status is a code for programs and a sentence for people: what happened and what to do about it.
// A miss is not an error: it is a successful `get` without a value. An error is never a miss.
//
// Threads: values, no sharing.  Exceptions: none.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

// Part of the shared library's interface; everything else is hidden.
#define LARDER_API [[gnu::visibility("default")]]

namespace larder {

enum class Code {
  kOk = 0,
  kInvalidArgument,   // a key, value or option that can never work; the message names the bound
  kNotFound,          // no such segment, file or process
  kAlreadyExists,     // somebody made it first
  kPermissionDenied,  // the operating system or Redis' ACL refused
  kMismatch,          // a segment of another layout, owner, boot or configuration
  kCorrupt,           // bytes that no writer of ours could have left
  kNoSpace,           // no room in the file system, no free place in the process table
  kTooLarge,          // above the configured or the physical maximum
  kBusy,              // a bounded wait ran out; nothing was changed that could be read wrongly
  kUnavailable,       // Redis cannot be reached, or did not answer in time
  kRefused,           // asked to do something that larder will not do; the message names the cure
  kClosed,            // the cache was closed
  kInternal,          // a defect of larder
};

// The name of a code, as printed in logs and by the tools: "invalid_argument".
LARDER_API std::string_view code_name(Code code) noexcept;

class [[nodiscard]] LARDER_API Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status success() { return {}; }

  bool ok() const noexcept { return code_ == Code::kOk; }
  Code code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }

  // "invalid_argument: key is empty; a key has 1 to 65535 bytes"
  std::string to_string() const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A value, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) { assert(!status_.ok()); }  // NOLINT: likewise
  Result(Code code, std::string message) : status_(code, std::move(message)) {}

  bool ok() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return ok(); }
  const Status& status() const noexcept { return status_; }
  Code code() const noexcept { return status_.code(); }

  // Only after ok().
  T& value() & {
    assert(ok());
    return *value_;
  }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace larder
