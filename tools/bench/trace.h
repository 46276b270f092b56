// Traces: which keys an application once asked for, in order.
//
// A file is an array of little-endian 32-bit ids, one a request, nothing else; with a name that
// ends in `.zst` it is compressed with zstd. Ids have no meaning beyond being equal or not.
//
// Threads: none. Errors: what is wrong with which file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"

namespace larder::bench {

struct Trace {
  std::string name;  // the file's, without folder and ending
  // Ids numbered 0, 1, 2, ... in the order of their first request.
  std::vector<std::uint32_t> requests;
  // The id in the file that each number stands for.
  std::vector<std::uint32_t> ids;
};

// So that 32 bits hold a request's position and a bit more.
inline constexpr std::uint64_t kTraceMaxRequests = std::uint64_t{1} << 30;

// kNotFound: no such file; kCorrupt: cut short, or not a trace; kTooLarge.
Result<Trace> read_trace(const std::string& path);

// "dir/arc-OLTP.u32.zst" is of the trace "arc-OLTP".
std::string trace_name(std::string_view path);

// The file of a trace in a folder: NAME.u32.zst, else NAME.u32.
Result<std::string> find_trace(const std::string& folder, const std::string& name);

}  // namespace larder::bench
