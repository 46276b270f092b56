#include "tools/bench/trace.h"

#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

namespace larder::bench {
namespace {

constexpr std::size_t kIdBytes = 4;
constexpr std::uint64_t kMaxBytes = kTraceMaxRequests * kIdBytes;
constexpr std::size_t kChunkBytes = 1 << 20;

Status corrupt(const std::string& path, const std::string& what) {
  return {Code::kCorrupt, path + ": " + what};
}

Status too_large(const std::string& path) {
  return {Code::kTooLarge,
          path + ": more than " + std::to_string(kTraceMaxRequests) + " requests; cut it in parts"};
}

Status cannot_read(const std::string& path, int error) {
  return {error == ENOENT ? Code::kNotFound : Code::kPermissionDenied,
          path + ": cannot be read: " + std::strerror(error)};
}

// The file in chunks; `take` may refuse.
template <class Take>
Status read_chunks(const std::string& path, Take take) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"),
                                                             &std::fclose);
  if (file == nullptr) return cannot_read(path, errno);
  std::string chunk(kChunkBytes, '\0');
  while (const std::size_t got = std::fread(chunk.data(), 1, chunk.size(), file.get())) {
    if (Status status = take(std::string_view(chunk.data(), got)); !status.ok()) return status;
  }
  return std::ferror(file.get()) != 0 ? cannot_read(path, errno) : Status();
}

// Appends what a stream of zstd frames holds.
class Unzip {
 public:
  Unzip(const std::string& path, std::string& to)
      : path_(path), to_(to), stream_(ZSTD_createDStream(), &ZSTD_freeDStream) {}

  Status take(std::string_view chunk) {
    ZSTD_inBuffer in{chunk.data(), chunk.size(), 0};
    // A full output buffer may mean that more is waiting inside, but at the end of a frame.
    for (bool more = false; more || in.pos < in.size;) {
      const std::size_t before = to_.size();
      to_.resize(before + kChunkBytes);
      ZSTD_outBuffer out{to_.data() + before, kChunkBytes, 0};
      left_ = ZSTD_decompressStream(stream_.get(), &out, &in);
      to_.resize(before + out.pos);
      if (ZSTD_isError(left_) != 0) {
        return corrupt(path_, std::string("is not a zstd file: ") + ZSTD_getErrorName(left_));
      }
      if (to_.size() > kMaxBytes) return too_large(path_);
      more = out.pos == out.size && left_ != 0;
    }
    return {};
  }

  Status finish() const {
    if (left_ == 0) return {};
    return corrupt(path_, "ends within a zstd frame: it is cut short");
  }

 private:
  const std::string& path_;
  std::string& to_;
  std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream_;
  std::size_t left_ = 1;  // zstd's hint; 0 exactly at the end of a frame
};

Status read_bytes(const std::string& path, std::string& bytes) {
  if (path.ends_with(".zst")) {
    Unzip unzip(path, bytes);
    const auto take = [&](std::string_view chunk) { return unzip.take(chunk); };
    if (Status status = read_chunks(path, take); !status.ok()) return status;
    return unzip.finish();
  }
  return read_chunks(path, [&](std::string_view chunk) -> Status {
    if (bytes.size() + chunk.size() > kMaxBytes) return too_large(path);
    bytes.append(chunk);
    return {};
  });
}

std::uint32_t id_at(const std::string& bytes, std::size_t at) {
  std::uint32_t id = 0;
  for (std::size_t i = kIdBytes; i-- > 0;) {
    id = id << 8 | static_cast<unsigned char>(bytes[at + i]);
  }
  return id;
}

}  // namespace

std::string trace_name(std::string_view path) {
  path.remove_prefix(std::min(path.rfind('/') + 1, path.size()));  // npos + 1 is 0
  for (const std::string_view ending : {".zst", ".u32"}) {
    if (path.ends_with(ending)) path.remove_suffix(ending.size());
  }
  return std::string(path);
}

Result<Trace> read_trace(const std::string& path) {
  std::string bytes;
  if (Status status = read_bytes(path, bytes); !status.ok()) return status;
  if (bytes.empty()) return corrupt(path, "holds no requests");
  if (bytes.size() % kIdBytes != 0) {
    return corrupt(path, "holds " + std::to_string(bytes.size()) +
                             " bytes, which is not a whole number of 32-bit ids: it is cut short, "
                             "or not a trace");
  }
  Trace trace;
  trace.name = trace_name(path);
  trace.requests.reserve(bytes.size() / kIdBytes);
  std::unordered_map<std::uint32_t, std::uint32_t> numbers;
  for (std::size_t at = 0; at < bytes.size(); at += kIdBytes) {
    const std::uint32_t id = id_at(bytes, at);
    const auto [found, is_new] =
        numbers.try_emplace(id, static_cast<std::uint32_t>(trace.ids.size()));
    if (is_new) trace.ids.push_back(id);
    trace.requests.push_back(found->second);
  }
  return trace;
}

Result<std::string> find_trace(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name + ".u32";
  for (const std::string& each : {path + ".zst", path}) {
    if (::access(each.c_str(), F_OK) == 0) return each;
  }
  return Status(Code::kNotFound, "no trace " + name + " in " + folder + ": neither " + name +
                                     ".u32.zst nor " + name + ".u32 is there");
}

}  // namespace larder::bench
