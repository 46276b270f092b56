#include "shm/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <boost/interprocess/exceptions.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <sstream>
#include <utility>

#include "shm/os_error.h"
#include "shm/policy.h"

namespace larder::shm {
namespace {

namespace bip = boost::interprocess;

constexpr std::string_view kFilePrefix = "larder.";
constexpr std::uint64_t kCreateWaitMs = 5000;

// Byte order and pointer width: an image of another machine is not ours.
constexpr std::uint32_t kArchitecture =
    (std::endian::native == std::endian::little ? 1u : 2u) << 16 | sizeof(void*) * 8;

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

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

Directory open_directory(const std::string& path) { return {opendir(path.c_str()), closedir}; }

std::string hex(std::uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

std::string mib(std::uint64_t bytes) {
  std::ostringstream out;
  out.precision(bytes < (10ull << 20) ? 2 : 0);
  out << std::fixed << static_cast<double>(bytes) / (1 << 20) << " MiB";
  return out.str();
}

std::uint64_t random_word() {
  std::uint64_t word = 0;
  // Before the pool is ready the kernel blocks here, once per boot.
  while (getrandom(&word, sizeof word, 0) != sizeof word) {
  }
  return word;
}

// Of nothing where there is no such file. That none can be opened just now is an error: everything
// would seem to be of another boot.
Result<std::uint64_t> boot_hash() {
  constexpr const char* kPath = "/proc/sys/kernel/random/boot_id";
  const Fd fd(::open(kPath, O_RDONLY | O_CLOEXEC));
  if (!fd.ok() && (errno == EMFILE || errno == ENFILE))
    return os_error(errno, "cannot open " + std::string(kPath));
  char id[64];
  const ssize_t size = fd.ok() ? read(fd.get(), id, sizeof id) : 0;
  const char* end = std::find(id, id + std::max<ssize_t>(size, 0), '\n');
  return XXH3_64bits(id, static_cast<std::size_t>(end - id));
}

std::int64_t unix_ms() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

// A name that nobody else has: what another user left under it could not be removed.
std::string temporary_path_of(const std::string& segment_path) {
  return segment_path + "." + hex(random_word()) + ".tmp";
}

std::string lock_path_of(const std::string& segment_path, std::uint64_t instance) {
  return segment_path + "." + hex(instance) + ".lock";
}

// The offsets follow from the counts.
Geometry place_parts(Geometry g) {
  const auto after = [&g](std::uint64_t offset, std::uint64_t each, std::uint64_t bytes) {
    return round_up(offset + g.stripe_count * each * bytes, kCacheLine);
  };
  g.places_offset = round_up(sizeof(Superblock), kCacheLine);
  g.loads_offset = g.places_offset + std::uint64_t{g.place_count} * sizeof(Place);
  g.stripes_offset = round_up(g.loads_offset + std::uint64_t{g.load_count} * 8, kCacheLine);
  g.guards_offset = after(g.stripes_offset, 1, sizeof(Stripe));
  g.buckets_offset = after(g.guards_offset, g.guards_per_stripe, sizeof(Guard));
  g.sketches_offset = after(g.buckets_offset, g.buckets_per_stripe, sizeof(Bucket));
  g.maps_offset = after(g.sketches_offset, g.sketch_per_stripe, 8);
  g.arenas_offset = after(g.maps_offset, g.map_words_per_stripe(), 8);
  return g;
}

// Few and large: a value of 8 MiB fits from 64 MiB on, large and small values even out, and a
// stripe holds enough entries to choose victims among. But at least some, so that writers seldom
// meet.
std::uint32_t stripes_for(std::uint64_t bytes, std::uint64_t max_entries) {
  constexpr std::uint64_t kMiB = 1 << 20;
  constexpr std::uint64_t kLeastEntries = 256;
  std::uint64_t stripes = std::max(
      {std::min<std::uint64_t>(bytes / (2 * kMiB), 4), bytes / (16 * kMiB), std::uint64_t{1}});
  if (max_entries != 0) {
    stripes = std::min(stripes, std::max<std::uint64_t>(max_entries / kLeastEntries, 1));
    stripes = std::max(stripes, std::bit_ceil(bytes / (32 * kMiB) + 1));  // what slots can address
  }
  return static_cast<std::uint32_t>(std::bit_floor(stripes));
}

constexpr std::uint32_t kLeastBuckets = 8;  // in use, of a stripe

// Enough for entries of 150 bytes and more; with a bound on entries, for that many.
std::uint32_t buckets_for(std::uint64_t bytes, std::uint64_t max_entries, std::uint32_t stripes) {
  constexpr std::uint64_t kIndexShare = 29;     // of the segment
  constexpr std::uint64_t kMostIndexShare = 5;  // of it, however many entries are asked for
  constexpr std::uint64_t kSlotsInUse = 85;     // percent
  std::uint64_t buckets = bytes / kIndexShare / stripes / sizeof(Bucket);
  if (max_entries != 0) {
    const std::uint64_t most = std::min(max_entries, bytes);  // an entry has more than one byte
    buckets = std::min(most / stripes * 100 / kSlotsInUse / kSlotsPerBucket + 1,
                       bytes / kMostIndexShare / stripes / sizeof(Bucket));
  }
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(buckets, kLeastBuckets));
}

}  // namespace

Result<Geometry> plan_geometry(std::uint64_t bytes, std::uint64_t max_entries) {
  if (bytes < kSegmentMinBytes || bytes > kSegmentMaxBytes) {
    return {Code::kInvalidArgument, "a segment of " + std::to_string(bytes) +
                                        " bytes is out of bounds; 512 KiB to 16 TiB are possible"};
  }
  Geometry g{};
  g.segment_bytes = bytes;
  g.max_entries = max_entries;
  g.place_count = bytes < (4u << 20)
                      ? 16
                      : static_cast<std::uint32_t>(std::clamp<std::uint64_t>(bytes >> 17, 64, 512));
  // A thousandth of the segment; two loads at a time meet by chance at one word in so many.
  g.load_count =
      static_cast<std::uint32_t>(std::bit_floor(std::clamp<std::uint64_t>(bytes >> 13, 64, 8192)));
  g.stripe_count = stripes_for(bytes, max_entries);
  g.buckets_per_stripe = buckets_for(bytes, max_entries, g.stripe_count);
  while (g.buckets_per_stripe >> (g.index_halvings + 1) >= kLeastBuckets) ++g.index_halvings;
  const std::uint32_t step = 1u << g.index_halvings;
  g.buckets_per_stripe = (g.buckets_per_stripe + step - 1) & ~(step - 1);
  g.guards_per_stripe = std::max(16u, std::bit_floor(g.buckets_per_stripe / 8));
  g.sketch_per_stripe = policy_sketch_words(g.buckets_per_stripe);
  const std::uint64_t before = place_parts(g).maps_offset;
  if (before + 64 * kCacheLine * std::uint64_t{g.stripe_count} >= bytes) {
    return {Code::kInvalidArgument, "a segment of " + std::to_string(bytes) +
                                        " bytes has no room for " + std::to_string(max_entries) +
                                        " entries; make segment_bytes larger"};
  }
  // Of what is left a granule takes its 8 bytes, one bit of the map and its part of a summary.
  const std::uint64_t room = (bytes - before) / g.stripe_count;
  const std::uint64_t fixed = kBlockGranules / 8 + 8 + 2 * kCacheLine;  // a last, cut block's map
  constexpr std::uint64_t kPerBlock = kBlockBytes + kBlockGranules / 8 + 8;
  const std::uint64_t granules = (room - std::min(room, fixed)) * kBlockGranules / kPerBlock;
  g.arena_granules =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(granules, kArenaMaxGranules) & ~1ull);
  return place_parts(g);
}

// ---- names ------------------------------------------------------------------------------------

std::string Segment::path_of(std::string_view directory, std::string_view name) {
  std::string path(directory);
  return path.append("/").append(kFilePrefix).append(name);
}

namespace {

constexpr std::string_view kLayoutEnding = ".layout";

// Who owns a segment can put anything into it, so not just anybody may. Root could anyway.
bool is_trusted(uid_t user, const std::vector<uid_t>& owners) {
  return user == geteuid() || user == 0 ||
         std::find(owners.begin(), owners.end(), user) != owners.end();
}

// Without the ending of a layout, if it has one.
std::string_view without_layout(std::string_view name) {
  const std::size_t digits = name.find_last_not_of("0123456789") + 1;
  const std::string_view stem = name.substr(0, digits);
  const bool has_one = digits < name.size() && stem.ends_with(kLayoutEnding);
  return has_one ? stem.substr(0, stem.size() - kLayoutEnding.size()) : name;
}

}  // namespace

std::string Segment::layout_path_of(std::string_view directory, std::string_view name) {
  return path_of(directory, name).append(kLayoutEnding).append(std::to_string(kLayoutVersion));
}

std::string Segment::current_path_of(std::string_view directory, std::string_view name,
                                     const std::vector<uid_t>& owners) {
  std::string own = layout_path_of(directory, name);
  struct stat file {};
  const bool is_used = lstat(own.c_str(), &file) == 0 && is_trusted(file.st_uid, owners);
  return is_used ? own : path_of(directory, name);
}

std::vector<std::string> Segment::list(const std::string& directory) {
  std::vector<std::string> names;
  const Directory dir = open_directory(directory);
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir.get())) {
    const std::string_view file = entry->d_name;
    if (!file.starts_with(kFilePrefix)) continue;
    if (file.ends_with(".lock") || file.ends_with(".create") || file.ends_with(".tmp")) continue;
    names.emplace_back(file.substr(kFilePrefix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// ---- opening ----------------------------------------------------------------------------------

namespace {

Status not_regular(const std::string& path) {
  return {Code::kMismatch, path + " is not a regular file; move it away, or use another name"};
}

// Is this file one that we may trust with our memory? Its bytes are not looked at yet.
Status check_file(const std::string& path, const struct stat& file, Access access,
                  const std::vector<uid_t>& owners) {
  if (!S_ISREG(file.st_mode)) return not_regular(path);
  if (access == Access::kReadOnly) return {};  // an observer trusts nothing it reads anyway
  if (!is_trusted(file.st_uid, owners)) {
    return {Code::kMismatch, path + " belongs to user " + std::to_string(file.st_uid) +
                                 ", not to user " + std::to_string(geteuid()) +
                                 "; run as its owner, or name that user in allowed_owners if it "
                                 "is to be trusted"};
  }
  if (file.st_mode & S_IWOTH) {
    return {Code::kMismatch, path +
                                 " may be written by everybody; chmod o-w it if that is a "
                                 "mistake, or remove it"};
  }
  return {};
}

constexpr const char* kRemoveIt = "; remove it, or use another name";

bool has_other_layout(const Superblock& block) {
  return block.layout_version != kLayoutVersion || block.layout_signature != layout_signature();
}

Status check_superblock(const std::string& path, const Superblock& block, std::uint64_t size) {
  const auto refuse = [&](Code code, const std::string& why) {
    return Status(code, path + " " + why);
  };
  // Of the other byte order everything else reads as nonsense.
  if (block.magic == __builtin_bswap64(kMagic) ||
      (block.magic == kMagic && block.architecture != kArchitecture)) {
    return refuse(Code::kMismatch, std::string("was made on another architecture (byte order or "
                                               "word size)") +
                                       kRemoveIt);
  }
  if (block.magic != kMagic) {
    return refuse(Code::kCorrupt, std::string("is not a larder segment") + kRemoveIt);
  }
  if (has_other_layout(block)) {
    return refuse(Code::kMismatch, "has layout " + std::to_string(block.layout_version) + "/" +
                                       hex(block.layout_signature) + ", this program has " +
                                       std::to_string(kLayoutVersion) + "/" +
                                       hex(layout_signature()) +
                                       "; use another name, or remove it once nobody uses it");
  }
  if (block.geometry.segment_bytes != size) {
    return refuse(Code::kCorrupt, "has " + std::to_string(size) + " bytes, its superblock says " +
                                      std::to_string(block.geometry.segment_bytes) +
                                      "; it was truncated or extended: remove it");
  }
  // The geometry follows from the size (whoever changes plan_geometry() raises kLayoutVersion), so
  // nothing of what our bounds are made of is taken on trust.
  const auto planned = plan_geometry(size, block.geometry.max_entries);
  if (!planned || !(*planned == block.geometry)) {
    return refuse(Code::kCorrupt, "has a damaged superblock; remove it");
  }
  return {};
}

// The first line in which two bindings differ: {ours, theirs}.
Status compare_bindings(const std::string& path, std::string_view ours, std::string_view theirs) {
  if (ours == theirs) return {};
  while (!ours.empty() || !theirs.empty()) {
    const auto cut = [](std::string_view& text) {
      const std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), line.size() + 1));
      return line;
    };
    const std::string_view mine = cut(ours);
    const std::string_view other = cut(theirs);
    if (mine == other) continue;
    return {Code::kMismatch, path + " was made with " + std::string(other) + ", not " +
                                 std::string(mine) +
                                 "; use the same options in every process, or another name"};
  }
  return {};
}

}  // namespace

Segment::Segment(std::string path, bip::mapped_region region, Access access,
                 const Geometry& geometry)
    : path_(std::move(path)),
      region_(std::move(region)),
      access_(access),
      base_(static_cast<char*>(region_.get_address())),
      superblock_(reinterpret_cast<Superblock*>(base_)),
      geometry_(geometry),
      hash_seed_(superblock_->hash_seed),
      places_(reinterpret_cast<Place*>(base_ + geometry_.places_offset)),
      loads_(reinterpret_cast<Atomic<std::uint64_t>*>(base_ + geometry_.loads_offset)),
      stripes_(reinterpret_cast<Stripe*>(base_ + geometry_.stripes_offset)),
      buckets_(reinterpret_cast<Bucket*>(base_ + geometry_.buckets_offset)),
      guards_(reinterpret_cast<Guard*>(base_ + geometry_.guards_offset)),
      sketches_(reinterpret_cast<Atomic<std::uint64_t>*>(base_ + geometry_.sketches_offset)),
      maps_(reinterpret_cast<Atomic<std::uint64_t>*>(base_ + geometry_.maps_offset)),
      arenas_(base_ + geometry_.arenas_offset) {
  // A core dump of a worker should not carry the whole cache. Advice only.
  (void)madvise(base_, region_.get_size(), MADV_DONTDUMP);
  // Where the kernel was told to allow it (/sys/kernel/mm/transparent_hugepage/shmem_enabled), a
  // read then misses the TLB seldom. Elsewhere this does nothing.
  (void)madvise(base_, region_.get_size(), MADV_HUGEPAGE);
}

// Gone together with its segment, or alone? A segment without a lock file cannot tell who is alive.
static Status lock_file_error(const std::string& path, const struct stat& segment, Status error) {
  struct stat now {};
  const bool removed = stat(path.c_str(), &now) != 0 || now.st_ino != segment.st_ino;
  if (error.code() != Code::kNotFound || removed) return error;
  return {Code::kCorrupt, error.message() + "; remove " + path + " once nobody uses it"};
}

namespace {

// What Boost maps: the file that is open already. By its path it could be another by now.
class OpenFile {
 public:
  explicit OpenFile(const Fd& fd) : fd_(fd.get()) {}
  bip::mapping_handle_t get_mapping_handle() const { return {fd_, false}; }

 private:
  int fd_;
};

struct Header {
  alignas(Superblock) char bytes[sizeof(Superblock)];
  struct stat file {};

  const Superblock& block() const { return *reinterpret_cast<const Superblock*>(bytes); }
  std::uint64_t size() const { return static_cast<std::uint64_t>(file.st_size); }
};

// Through a descriptor first: reading a truncated file is an error, touching its mapping is SIGBUS.
Result<Fd> read_header(const std::string& path, Access access, const std::vector<uid_t>& owners,
                       Header& header) {
  const int mode = access == Access::kReadWrite ? O_RDWR : O_RDONLY;
  Fd fd(::open(path.c_str(), mode | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd.ok() && (errno == ELOOP || errno == EISDIR || errno == ENXIO)) {
    return not_regular(path);  // a link, a directory, a socket
  }
  if (!fd.ok()) return os_error(errno, "cannot open " + path);
  if (fstat(fd.get(), &header.file) != 0) return os_error(errno, "cannot stat " + path);
  if (Status s = check_file(path, header.file, access, owners); !s.ok()) return s;
  if (header.size() == 0) {
    return {Code::kCorrupt, path + " is empty: no larder segment, or a truncated one" + kRemoveIt};
  }
  if (header.size() < sizeof header.bytes ||
      pread(fd.get(), header.bytes, sizeof header.bytes, 0) != sizeof header.bytes) {
    return {Code::kCorrupt, path + " is no larder segment: too short, with " +
                                std::to_string(header.size()) + " bytes" + kRemoveIt};
  }
  return fd;
}

// Memory that cannot be mapped is a limit; all else is what the system says.
Status map_error(const std::string& path, const bip::interprocess_exception& error) {
  const int native = error.get_native_error();
  return os_error(native != 0 ? native : ENOMEM, "cannot map " + path);
}

}  // namespace

Result<std::shared_ptr<Segment>> Segment::attach(const std::string& path, Access access,
                                                 const std::vector<uid_t>& owners) {
  const bool writable = access == Access::kReadWrite;
  Header header;
  const auto fd = read_header(path, access, owners, header);
  if (!fd) return fd.status();
  if (Status s = check_superblock(path, header.block(), header.size()); !s.ok()) return s;
  if (writable) {
    const auto boot = boot_hash();
    if (!boot) return boot.status();
    if (header.block().boot_hash != *boot) {
      return {Code::kMismatch, path +
                                   " was made before the last boot, or on another machine; "
                                   "remove it (a tmpfs forgets at boot, this directory did not)"};
    }
  }
  try {
    const bip::mode_t mode = writable ? bip::read_write : bip::read_only;
    bip::mapped_region region(OpenFile(*fd), mode, 0, header.size());
    const Superblock& block = header.block();
    std::shared_ptr<Segment> segment(new Segment(path, std::move(region), access, block.geometry));
    segment->device_ = header.file.st_dev;
    segment->inode_ = header.file.st_ino;
    if (writable) {
      auto lock_file = LockFile::open(lock_path_of(path, block.instance), block.instance);
      if (!lock_file) return lock_file_error(path, header.file, lock_file.status());
      segment->lock_file_ = std::move(*lock_file);
    }
    return segment;
  } catch (const bip::interprocess_exception& error) {
    return map_error(path, error);
  }
}

namespace {

// Who may use a file is decided by the options, not by the umask.
Status give_as_asked(int fd, const std::string& path, const SegmentOptions& options) {
  const bool other_owner = options.owner != kNoOwner && options.owner != geteuid();
  if (other_owner || options.group != kNoGroup) {
    const uid_t owner = other_owner ? options.owner : kNoOwner;
    if (fchown(fd, owner, options.group) != 0) {
      std::string what = "cannot give " + path + " to";
      if (other_owner) what += " user " + std::to_string(owner);
      if (options.group != kNoGroup) what += " group " + std::to_string(options.group);
      Status s = os_error(errno, what);
      return {s.code(),
              s.message() + "; root gives to whom it likes, another user only to its own groups"};
    }
  }
  if (fchmod(fd, options.mode) != 0) return os_error(errno, "cannot set the mode of " + path);
  return {};
}

// A file that did not exist, its maker's own until it is given.
Result<Fd> make_own_file(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.ok()) return os_error(errno, "cannot create " + path);
  return fd;
}

Result<Fd> make_file(const std::string& path, const SegmentOptions& options) {
  auto fd = make_own_file(path);
  if (!fd) return fd;
  if (Status s = give_as_asked((*fd).get(), path, options); !s.ok()) {
    ::unlink(path.c_str());
    return s;
  }
  return fd;
}

// Held by who creates or removes segments of one name. A flock on a descriptor of its own, so that
// threads exclude each other too.
class CreationLock {
 public:
  // `options`: who may use the lock's file, if it has to be made.
  static Result<std::unique_ptr<CreationLock>> take(const std::string& segment_path,
                                                    const SegmentOptions& options,
                                                    std::uint64_t wait_ms = kCreateWaitMs) {
    const std::string path = segment_path + ".create";
    for (std::uint64_t waited_ms = 0;; waited_ms += 10) {
      auto fd = open_or_create(path, options);
      if (!fd) return fd.status();
      std::unique_ptr<CreationLock> lock(new CreationLock(std::move(*fd)));
      const bool locked = flock(lock->fd_.get(), LOCK_EX | LOCK_NB) == 0;
      if (!locked && errno != EWOULDBLOCK && errno != EINTR) {
        return os_error(errno, "cannot lock " + path);
      }
      // Who removes a segment removes this file too: then what we locked excludes nobody.
      if (locked && is_at(path, lock->fd_.get())) return lock;
      if (waited_ms >= wait_ms) {
        return {Code::kBusy,
                "another process has been creating " + segment_path + " for 5 s; is it stopped?"};
      }
      if (locked) continue;
      const timespec pause{0, 10'000'000};
      nanosleep(&pause, nullptr);
    }
  }
  ~CreationLock() { flock(fd_.get(), LOCK_UN); }

 private:
  explicit CreationLock(Fd fd) : fd_(std::move(fd)) {}

  // Without O_CREAT first: in a sticky directory that is refused for another user's file.
  static Result<Fd> open_or_create(const std::string& path, const SegmentOptions& options) {
    constexpr int kAttempts = 3;  // somebody may remove or make it
    Status last;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
      if (fd.ok()) {
        mend(fd.get(), path, options);
        return fd;
      }
      if (errno != ENOENT) return os_error(errno, "cannot open " + path);
      auto made = create(path, options);
      if (made || (made.code() != Code::kAlreadyExists && made.code() != Code::kNotFound)) {
        return made;
      }
      last = made.status();
    }
    return last;
  }
  // Named when it is given, so that nobody who may use it ever finds it closed.
  static Result<Fd> create(const std::string& path, const SegmentOptions& options) {
    const std::string temporary = temporary_path_of(path);
    auto fd = make_file(temporary, options);
    if (!fd) return fd;
    if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) {
      return fd;
    }
    const int error = errno;
    ::unlink(temporary.c_str());
    return os_error(error, "cannot create " + path);
  }
  // One that another program or version left for fewer users, as far as we may. A name of another
  // file (a hard link) is none of ours to give away.
  static void mend(int fd, const std::string& path, const SegmentOptions& options) {
    struct stat file {};
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || file.st_nlink != 1) return;
    const bool is_as_asked = (file.st_mode & 07777) == options.mode &&
                             (options.owner == kNoOwner || file.st_uid == options.owner) &&
                             (options.group == kNoGroup || file.st_gid == options.group);
    const bool may_mend = geteuid() == 0 || geteuid() == file.st_uid;
    if (!is_as_asked && may_mend) (void)give_as_asked(fd, path, options);
  }
  static bool is_at(const std::string& path, int fd) {
    struct stat named {};
    struct stat opened {};
    return lstat(path.c_str(), &named) == 0 && fstat(fd, &opened) == 0 &&
           named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
  }

  Fd fd_;
};

constexpr std::size_t kHexDigits = 16;

// The files PATH.<16 digits>ENDING.
std::vector<std::string> files_beside(const std::string& path, std::string_view ending) {
  std::vector<std::string> found;
  const std::size_t slash = path.rfind('/');
  const Directory dir = open_directory(path.substr(0, slash + 1));
  if (dir == nullptr) return found;
  const std::string stem = path.substr(slash + 1) + ".";
  while (const dirent* entry = readdir(dir.get())) {
    const std::string_view file = entry->d_name;
    if (file.size() == stem.size() + kHexDigits + ending.size() && file.starts_with(stem) &&
        file.ends_with(ending)) {
      found.push_back(path.substr(0, slash + 1) + entry->d_name);
    }
  }
  return found;
}

// Of those who died while they made a segment or its creation lock.
void remove_temporaries(const std::string& segment_path) {
  for (const char* of : {"", ".create"}) {
    for (const std::string& path : files_beside(segment_path + of, ".tmp")) ::unlink(path.c_str());
  }
}

// Lock files of segments that are gone and that nobody holds.
void remove_orphaned_lock_files(const std::string& segment_path) {
  for (const std::string& path : files_beside(segment_path, ".lock")) {
    const std::string digits = path.substr(segment_path.size() + 1, kHexDigits);
    auto lock_file = LockFile::open(path, std::strtoull(digits.c_str(), nullptr, 16));
    if (!lock_file) continue;
    bool held = (*lock_file)->is_shared();
    for (off_t byte = 0; byte < static_cast<off_t>(kMaxPlaces) + 1 && !held; ++byte) {
      held = (*lock_file)->held_by_other(byte);
    }
    if (!held) ::unlink(path.c_str());
  }
}

// Everything of a new segment but its magic.
void initialise(Superblock& block, const SegmentOptions& options, const Geometry& geometry,
                std::uint64_t boot) {
  block.layout_version = kLayoutVersion;
  block.architecture = kArchitecture;
  block.layout_signature = layout_signature();
  block.instance = random_word();
  block.hash_seed = random_word();
  block.boot_hash = boot;
  block.created_unix_ms = unix_ms();
  block.creator_pid = static_cast<std::uint32_t>(getpid());
  block.policy = options.policy;
  block.geometry = geometry;
  std::memcpy(block.binding, options.binding.data(), options.binding.size());
  block.hot.epoch.store(1, std::memory_order_relaxed);
}

// Where the file system of `directory` is mounted.
std::string mount_point_of(std::string directory) {
  struct stat here {};
  if (stat(directory.c_str(), &here) != 0) return directory;
  while (directory.size() > 1) {
    const std::size_t slash = directory.rfind('/');
    const std::string above = slash == 0 ? "/" : directory.substr(0, slash);
    struct stat parent {};
    if (stat(above.c_str(), &parent) != 0 || parent.st_dev != here.st_dev) break;
    directory = above;
  }
  return directory;
}

// What is missing and how to get it, with the numbers to type.
Status no_room(const SegmentOptions& options, const std::string& path) {
  const std::string what = "no room for " + path + ": it needs " + mib(options.bytes) + ", ";
  struct statvfs fs {};
  if (statvfs(options.directory.c_str(), &fs) != 0) {
    return {Code::kNoSpace, what + "more than " + options.directory + " has free"};
  }
  const std::uint64_t whole = std::uint64_t{fs.f_blocks} * fs.f_frsize;
  const std::uint64_t free = std::uint64_t{fs.f_bavail} * fs.f_frsize;
  if (free >= options.bytes) {
    return {Code::kNoSpace, what + options.directory + " has " + mib(free) +
                                " free, but memory or a limit on it (a container's) does not "
                                "allow that; make segment_bytes smaller or the limit larger"};
  }
  constexpr std::uint64_t kMiB = 1 << 20;
  const std::string size = std::to_string((whole - free + options.bytes) / kMiB + 1);
  return {Code::kNoSpace,
          what + options.directory + " has " + mib(free) + " free of " + mib(whole) +
              "; make segment_bytes smaller, or that larger: mount -o remount,size=" + size + "m " +
              mount_point_of(options.directory) + "; for Docker, which gives 64 MB: " +
              "--shm-size=" + size + "m; for Kubernetes: an emptyDir with medium: Memory and " +
              "sizeLimit: " + size + "Mi, mounted at " + mount_point_of(options.directory)};
}

Status reserve(int fd, const SegmentOptions& options, const std::string& path) {
  // Now, as an error; a sparse file on a full tmpfs would be SIGBUS at some later touch.
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(fd, 0, static_cast<off_t>(options.bytes));
  if (error == 0) return {};
  if (error == ENOSPC || error == EFBIG || error == ENOMEM) return no_room(options, path);
  return os_error(error, "cannot reserve " + path);
}

// Everything, and gives it away. What it leaves when it fails is for the caller to remove.
Status fill_new_file(const Fd& fd, const std::string& temporary, const std::string& path,
                     const SegmentOptions& options, const Geometry& geometry) {
  const auto boot = boot_hash();
  if (!boot) return boot.status();
  if (Status s = reserve(fd.get(), options, path); !s.ok()) return s;
  try {
    bip::mapped_region region(OpenFile(fd), bip::read_write, 0, options.bytes);
    auto& block = *static_cast<Superblock*>(region.get_address());
    initialise(block, options, geometry, *boot);
    const auto lock_fd = make_file(lock_path_of(path, block.instance), options);
    if (!lock_fd) return lock_fd.status();
    std::atomic_thread_fence(std::memory_order_release);
    block.magic = kMagic;
  } catch (const bip::interprocess_exception& error) {
    return map_error(temporary, error);
  }
  // Only now: who owns it could write into it, or put something else in its place.
  return give_as_asked(fd.get(), temporary, options);
}

// A segment that is whole but for its name, which nobody knows.
struct Unnamed {
  std::string temporary;
  Fd fd;
};

// For `path`, beside the plain name.
Result<Unnamed> make_unnamed(const std::string& plain, const std::string& path,
                             const SegmentOptions& options, const Geometry& geometry) {
  remove_temporaries(plain);
  std::string temporary = temporary_path_of(plain);
  auto fd = make_own_file(temporary);
  if (!fd) return fd.status();
  if (Status s = fill_new_file(*fd, temporary, path, options, geometry); !s.ok()) {
    ::unlink(temporary.c_str());
    return s;
  }
  return Unnamed{std::move(temporary), std::move(*fd)};
}

Status give_name(const Unnamed& made, const std::string& path) {
  if (rename(made.temporary.c_str(), path.c_str()) == 0) return {};
  const int error = errno;
  ::unlink(made.temporary.c_str());
  return os_error(error, "cannot rename " + made.temporary);
}

std::vector<uid_t> trusted_by(const SegmentOptions& options) {
  std::vector<uid_t> owners = options.allowed_owners;
  if (options.owner != kNoOwner) owners.push_back(options.owner);
  return owners;
}

}  // namespace

namespace {

// A segment that programs of another version made, and may be using.
bool is_of_other_layout(const std::string& path, const std::vector<uid_t>& owners) {
  Header header;
  return read_header(path, Access::kReadWrite, owners, header).ok() &&
         header.block().magic == kMagic && header.block().architecture == kArchitecture &&
         header.block().layout_version != kLayoutVersion;
}

}  // namespace

Result<std::shared_ptr<Segment>> Segment::create(const SegmentOptions& options) {
  const std::string plain = path_of(options.directory, options.name);
  auto geometry = plan_geometry(options.bytes, options.max_entries);
  if (!geometry) return geometry.status();
  if (options.binding.size() >= kBindingBytes) {
    return {Code::kInvalidArgument, "addresses, channel and prefix together exceed " +
                                        std::to_string(kBindingBytes - 1) + " bytes"};
  }
  // Of the plain name, whichever is made: so that no two are, one of each.
  auto lock = CreationLock::take(plain, options);
  if (!lock) return lock.status();
  const std::vector<uid_t> owners = trusted_by(options);
  std::string path = current_path_of(options.directory, options.name, owners);
  if (path == plain && is_of_other_layout(plain, owners)) {
    path = layout_path_of(options.directory, options.name);
  }
  if (struct stat file{}; lstat(path.c_str(), &file) == 0) {
    Status s = check_file(path, file, Access::kReadWrite, owners);
    return s.ok() ? Status(Code::kAlreadyExists, path + " exists") : s;
  }
  remove_orphaned_lock_files(path);

  const auto made = make_unnamed(plain, path, options, *geometry);
  if (!made) return made.status();
  if (Status s = give_name(*made, path); !s.ok()) return s;
  auto segment = attach(path, Access::kReadWrite, owners);
  if (segment) (*segment)->created_ = true;
  return segment;
}

// The files beside a segment have the segment's name and one of these endings.
static bool is_usable_name(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && !name.ends_with(".lock") &&
         !name.ends_with(".create") && !name.ends_with(".tmp") && without_layout(name) == name;
}

Result<std::shared_ptr<Segment>> Segment::open(const SegmentOptions& options) {
  if (!is_usable_name(options.name)) {
    return {Code::kInvalidArgument,
            "a segment cannot be named \"" + options.name +
                "\": no slash, and not .lock, .create, .tmp or .layout1 at the end"};
  }
  // Again: somebody may create it between our look and our turn, or remove it, or both.
  constexpr int kAttempts = 8;
  const std::vector<uid_t> owners = trusted_by(options);
  Status last;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::string path = current_path_of(options.directory, options.name, owners);
    auto segment = attach(path, Access::kReadWrite, owners);
    if (segment) {
      if (Status s = compare_bindings(path, options.binding, (*segment)->binding()); !s.ok())
        return s;
      return segment;
    }
    last = segment.status();
    if (segment.code() == Code::kBusy) continue;  // replaced under our hands
    const bool other_layout = segment.code() == Code::kMismatch && is_of_other_layout(path, owners);
    if (segment.code() != Code::kNotFound && !other_layout) return segment;
    auto created = create(options);
    if (created || (created.code() != Code::kAlreadyExists && created.code() != Code::kNotFound)) {
      return created;
    }
    last = created.status();
  }
  return last;
}

// Who may use a segment may use the creation lock that its remover leaves.
static SegmentOptions given_like(const std::string& path, const std::string& otherwise) {
  SegmentOptions options;
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0 && lstat(otherwise.c_str(), &file) != 0) return options;
  if (geteuid() == 0) options.owner = file.st_uid;
  const bool has_group = (file.st_mode & 0060) == 0060;
  if (geteuid() == 0 || has_group) options.group = file.st_gid;
  if (has_group) options.mode = 0660;
  return options;
}

Status Segment::remove(std::string_view directory, std::string_view name, bool force) {
  const std::string path = path_of(directory, name);
  const std::string plain = path_of(directory, without_layout(name));
  auto lock = CreationLock::take(plain, given_like(path, plain + ".create"));
  if (!lock) return lock.status();
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) {
    Status s = os_error(errno, "cannot remove " + path);
    ::unlink((plain + ".create").c_str());
    return s;
  }
  // A damaged segment must be removable: then nobody can be asked who uses it.
  auto segment = attach(path, Access::kReadWrite, {file.st_uid});
  if (segment) {
    LockFile& locks = *(*segment)->lock_file();
    for (off_t byte = 1; byte < static_cast<off_t>((*segment)->geometry().place_count); ++byte) {
      if (!force && locks.held_by_other(byte)) {
        const auto pid = (*segment)->place(static_cast<std::uint32_t>(byte)).pid.load();
        return {Code::kBusy, path + " is in use by process " + std::to_string(pid) +
                                 "; stop it, or force the removal"};
      }
    }
    if (!force && locks.is_shared()) return {Code::kBusy, path + " is in use by this process"};
  } else if (!force && segment.code() != Code::kCorrupt) {
    // Another layout, say: its processes may be at work, and we cannot ask.
    return {segment.code(), segment.status().message() +
                                "; whether it is in use cannot be told, force the removal if not"};
  }
  if (::unlink(path.c_str()) != 0) return os_error(errno, "cannot remove " + path);
  // After the segment: one without a lock file would be refused as damaged.
  if (segment) ::unlink(lock_path_of(path, (*segment)->superblock().instance).c_str());
  remove_temporaries(plain);
  ::unlink((plain + ".create").c_str());
  return {};
}

// ---- replacing --------------------------------------------------------------------------------

namespace {

// Whatever was held is absent: who closed it did not come to the end.
void open_empty(Segment& segment) {
  Atomic<std::uint64_t>& epoch = segment.superblock().hot.epoch;
  std::uint64_t now = epoch.load(std::memory_order_acquire);
  while (is_closed(now) && !epoch.compare_exchange_weak(now, (now + 1) & ~kClosedEpoch)) {
  }
}

// Of the same users, for the same use.
SegmentOptions options_like(Segment& segment, const struct stat& file, std::uint64_t bytes) {
  SegmentOptions options;
  const std::size_t slash = segment.path().rfind('/');
  options.directory = slash == 0 ? "/" : segment.path().substr(0, slash);
  options.bytes = bytes;
  options.max_entries = segment.geometry().max_entries;
  options.policy = segment.superblock().policy;
  options.owner = file.st_uid;
  options.group = file.st_gid;
  options.mode = file.st_mode & 07777;
  options.binding = segment.binding();
  return options;
}

}  // namespace

Status Segment::replace(const std::string& path, std::uint64_t bytes, const Succession& steps) {
  const std::string plain(without_layout(path));
  auto lock = CreationLock::take(plain, given_like(path, plain + ".create"));
  if (!lock) return lock.status();
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) {
    Status s = os_error(errno, "cannot resize " + path);
    ::unlink((plain + ".create").c_str());
    return s;
  }
  auto old = attach(path, Access::kReadWrite, {file.st_uid});
  if (!old) return old.status();
  open_empty(**old);  // who closed it died
  const SegmentOptions options = options_like(**old, file, bytes);
  const auto geometry = plan_geometry(options.bytes, options.max_entries);
  if (!geometry) return geometry.status();
  remove_orphaned_lock_files(path);

  const auto made = make_unnamed(plain, path, options, *geometry);
  if (!made) return made.status();
  Status failed;
  try {
    bip::mapped_region region(OpenFile(made->fd), bip::read_write, 0, bytes);
    Segment next(path, std::move(region), Access::kReadWrite, *geometry);
    steps.before(**old, next);
    next.superblock().hot.epoch.fetch_or(kClosedEpoch);
    failed = give_name(*made, path);
    if (failed.ok()) {
      steps.after(**old, next);
      ::unlink(lock_path_of(path, (*old)->superblock().instance).c_str());
      return {};
    }
    ::unlink(lock_path_of(path, next.superblock().instance).c_str());
  } catch (const bip::interprocess_exception& error) {
    failed = map_error(made->temporary, error);
    ::unlink(made->temporary.c_str());
  }
  open_empty(**old);
  return failed;
}

Status Segment::reopen(const SegmentOptions& options) {
  const std::string plain = path_of(options.directory, options.name);
  auto lock = CreationLock::take(plain, options, 0);
  if (!lock) return lock.status();
  const std::vector<uid_t> owners = trusted_by(options);
  const std::string path = current_path_of(options.directory, options.name, owners);
  auto segment = attach(path, Access::kReadWrite, owners);
  if (!segment) return segment.status();
  if (!is_closed((*segment)->superblock().hot.epoch.load(std::memory_order_acquire))) return {};
  remove_temporaries(plain);
  remove_orphaned_lock_files(path);
  open_empty(**segment);
  return {};
}

bool Segment::is_at_path() const noexcept {
  struct stat named {};
  return stat(path_.c_str(), &named) == 0 && named.st_ino == inode_ && named.st_dev == device_;
}

std::string Segment::binding() const {
  return {superblock_->binding, strnlen(superblock_->binding, kBindingBytes)};
}

}  // namespace larder::shm
