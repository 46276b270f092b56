// Creating, finding, refusing and removing segments.
#include "shm/segment.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::Forked;
using test::Home;
using test::Steps;

constexpr uid_t kNobody = 65534;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Result<std::shared_ptr<Segment>> attach(const Home& home) {
  return Segment::attach(home.path(), Access::kReadWrite);
}

// Changes the closed segment's file.
void edit(const Home& home, std::size_t offset, const void* bytes, std::size_t size) {
  const int fd = ::open(home.path().c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(pwrite(fd, bytes, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size));
  ::close(fd);
}
template <class T>
void edit(const Home& home, std::size_t offset, T value) {
  edit(home, offset, &value, sizeof value);
}

void check_refused(const Result<std::shared_ptr<Segment>>& attached, Code code,
                   const std::string& reason) {
  REQUIRE_FALSE(attached.ok());
  CHECK(code_name(attached.code()) == code_name(code));
  CHECK_MESSAGE(contains(attached.status().message(), reason), attached.status().message());
}

std::set<std::string> files_of(const Home& home) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(home.dir.path())) {
    files.insert(entry.path().filename().string());
  }
  return files;
}

std::set<std::string> temporaries_of(const Home& home) {
  std::set<std::string> files = files_of(home);
  std::erase_if(files, [](const std::string& file) { return !file.ends_with(".tmp"); });
  return files;
}

}  // namespace

TEST_CASE("the first to open a segment creates it, the next attaches to the same") {
  Home home;
  auto first = Segment::open(home.options);
  auto second = Segment::open(home.options);
  REQUIRE(first.ok());
  REQUIRE(second.ok());
  CHECK((*first)->created());
  CHECK_FALSE((*second)->created());
  CHECK((*first)->superblock().instance == (*second)->superblock().instance);
  (*first)->superblock().hot.epoch.store(42);
  CHECK((*second)->superblock().hot.epoch.load() == 42);
  CHECK(test::faults(**first).empty());
  CHECK(temporaries_of(home).empty());
}

TEST_CASE("two names are two segments, and both are listed") {
  Home home;
  auto first = home.segment();
  home.options.name = "other";
  auto second = home.segment();
  CHECK(first->superblock().instance != second->superblock().instance);
  CHECK(Segment::list(home.options.directory) == std::vector<std::string>{"other", "test"});
  CHECK(Segment::list(home.options.directory + "/nowhere").empty());
}

namespace {

// Every part is where it can be, and none overlaps the next.
void check_parts(const Geometry& g) {
  const std::uint64_t stripes = g.stripe_count;
  CHECK(g.place_count >= 2);
  CHECK(g.place_count <= kMaxPlaces);
  CHECK((stripes & (stripes - 1)) == 0);
  CHECK(g.buckets_per_stripe >= 2);
  CHECK((g.guards_per_stripe & (g.guards_per_stripe - 1)) == 0);
  CHECK((g.load_count & (g.load_count - 1)) == 0);
  CHECK((g.note_count & (g.note_count - 1)) == 0);
  CHECK(g.arena_granules >= 2);
  CHECK(g.arena_granules % 2 == 0);
  CHECK(g.arena_granules <= kArenaMaxGranules);
  struct Part {
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  const Part parts[] = {
      {0, sizeof(Superblock)},
      {g.places_offset, g.place_count * sizeof(shm::Place)},
      {g.loads_offset, g.load_count * sizeof(std::uint64_t)},
      {g.journal_offset, g.note_count * sizeof(Note)},
      {g.stripes_offset, stripes * sizeof(Stripe)},
      {g.guards_offset, stripes * g.guards_per_stripe * sizeof(Guard)},
      {g.buckets_offset, stripes * g.buckets_per_stripe * sizeof(Bucket)},
      {g.sketches_offset, stripes * g.sketch_per_stripe * 8},
      {g.maps_offset, stripes * g.map_words_per_stripe() * 8},
      {g.arenas_offset, stripes * g.arena_bytes()},
      {g.segment_bytes, 0},
  };
  for (std::size_t i = 0; i + 1 < std::size(parts); ++i) {
    CAPTURE(i);
    REQUIRE(parts[i].offset + parts[i].bytes <= parts[i + 1].offset);
    if (i > 0) REQUIRE(parts[i].offset % kCacheLine == 0);
  }
}

}  // namespace

TEST_CASE("the geometry of every size fits its file, and sizes out of bounds are refused") {
  for (std::uint64_t bytes = kSegmentMinBytes; bytes <= kSegmentMaxBytes; bytes *= 2) {
    for (const std::uint64_t odd : {0ull, 1ull, 4097ull}) {
      if (bytes + odd > kSegmentMaxBytes) continue;
      const auto planned = plan_geometry(bytes + odd);
      REQUIRE(planned.ok());
      const Geometry& g = *planned;
      check_parts(g);
      // Most of a segment holds values, all the more so when it is large.
      const std::uint64_t arenas = g.stripe_count * g.arena_bytes();
      CHECK(arenas * 100 >= bytes * (bytes >= 4u << 20 ? 88 : 75));
      CHECK(g.arena_granules / entry_granules(24, 100) >= 256);    // enough to choose victims among
      if (bytes >= 256u << 20) CHECK(g.arena_bytes() > 8u << 20);  // a value of 8 MiB fits
    }
  }
  CHECK(plan_geometry(kSegmentMinBytes - 1).code() == Code::kInvalidArgument);
  CHECK(plan_geometry(kSegmentMaxBytes + 1).code() == Code::kInvalidArgument);
  Home home(kSegmentMinBytes - 1);
  CHECK(Segment::open(home.options).code() == Code::kInvalidArgument);
  CHECK(files_of(home).empty());
}

TEST_CASE("a segment for a number of entries has slots for all of them, or says that it cannot") {
  for (std::uint64_t bytes = kSegmentMinBytes; bytes <= 64ull << 30; bytes *= 4) {
    for (const std::uint64_t most : {1ull, 2ull, 100ull, 255ull, 1000ull, 77'777ull, 10'000'000ull,
                                     1ull << 40, 1ull << 63, ~0ull}) {
      CAPTURE(bytes);
      CAPTURE(most);
      const auto planned = plan_geometry(bytes, most);
      if (!planned.ok()) {
        CHECK(planned.code() == Code::kInvalidArgument);
        CHECK(contains(planned.status().message(), std::to_string(most)));
        continue;
      }
      check_parts(*planned);
      CHECK(planned->max_entries == most);
      const std::uint64_t slots =
          std::uint64_t{planned->stripe_count} * planned->buckets_per_stripe * kSlotsPerBucket;
      // As many as were asked for, or as the index's share of the segment holds.
      const bool enough = slots >= most || slots / kSlotsPerBucket * sizeof(Bucket) >= bytes / 5;
      CHECK(enough);
      CHECK((planned->stripe_count == 1 || most / planned->stripe_count >= 256 ||
             bytes / planned->stripe_count <= 32u << 20));
      CHECK(planned->stripe_count * planned->arena_bytes() >= bytes / 2);
    }
  }
}

TEST_CASE("a segment's file has the size, mode and owner that were asked for, whatever the umask") {
  Home home;
  home.options.mode = 0660;
  const mode_t before = umask(0077);
  auto segment = home.segment();
  umask(before);
  struct stat file {};
  REQUIRE(stat(home.path().c_str(), &file) == 0);
  CHECK((file.st_mode & 0777) == 0660);
  CHECK(file.st_size == static_cast<off_t>(home.options.bytes));
  CHECK(static_cast<std::uint64_t>(file.st_blocks) * 512 >= home.options.bytes);  // not sparse
  CHECK(file.st_uid == geteuid());
}

TEST_CASE("a segment that was removed is gone with its files") {
  Home home;
  home.segment().reset();
  CHECK(Segment::remove(home.options.directory, "test", false).ok());
  CHECK(files_of(home).empty());
  CHECK(Segment::remove(home.options.directory, "test", false).code() == Code::kNotFound);
  CHECK(files_of(home).empty());
}

TEST_CASE("a segment in use is removed only by force, and those who have it go on") {
  Home home;
  Forked user([&](Steps& steps) {
    auto table = home.table();
    CHILD_REQUIRE(test::put(*table, "k", "v") == Stored::kStored);
    steps.reached();
    steps.wait();
    CHILD_REQUIRE(test::read(*table, "k") == "v");
    CHILD_REQUIRE(test::put(*table, "k", "w") == Stored::kStored);
    return 0;
  });
  REQUIRE(user.await_step());
  const Status refused = Segment::remove(home.options.directory, "test", false);
  CHECK(refused.code() == Code::kBusy);
  CHECK_MESSAGE(contains(refused.message(), std::to_string(user.pid())), refused.message());
  CHECK(Segment::remove(home.options.directory, "test", true).ok());
  // Newcomers make a new one, and the old one's users do not disturb it.
  auto fresh = home.table();
  CHECK_FALSE(test::read(*fresh, "k").has_value());
  user.go_on();
  CHECK(user.wait() == 0);
  CHECK_FALSE(test::read(*fresh, "k").has_value());
}

TEST_CASE("a segment of another layout may be in use, so it is removed only by force") {
  Home home;
  auto table = home.table();
  table->segment().superblock().layout_signature ^= 1;
  CHECK(Segment::remove(home.options.directory, "test", false).code() == Code::kMismatch);
  CHECK(Segment::remove(home.options.directory, "test", true).ok());
}

TEST_CASE("a segment that this very process uses counts as in use") {
  Home home;
  auto table = home.table();
  CHECK(Segment::remove(home.options.directory, "test", false).code() == Code::kBusy);
  table.reset();
  CHECK(Segment::remove(home.options.directory, "test", false).ok());
}

TEST_CASE(
    "lock files of segments that are gone are removed by the next creator, those in use stay") {
  Home home;
  auto old = home.table();
  const std::string old_lock = home.path() + "." + [&] {
    char hex[17];
    std::snprintf(hex, sizeof hex, "%016llx",
                  static_cast<unsigned long long>(old->segment().superblock().instance));
    return std::string(hex);
  }() + ".lock";
  std::ofstream(home.path() + ".0123456789abcdef.lock") << "";
  std::ofstream(home.path() + ".keep.lock") << "";
  REQUIRE(std::filesystem::exists(old_lock));
  std::filesystem::remove(home.path());  // an operator, with rm
  auto fresh = home.table();
  CHECK(std::filesystem::exists(old_lock));
  CHECK_FALSE(std::filesystem::exists(home.path() + ".0123456789abcdef.lock"));
  CHECK(std::filesystem::exists(home.path() + ".keep.lock"));
  CHECK(old->segment().superblock().instance != fresh->segment().superblock().instance);
}

// ---- refusals (files that are none of ours: refusal_test.cc) ----------------------------------

TEST_CASE("every field of a damaged geometry is noticed") {
  Home home;
  const Geometry good = home.segment()->geometry();
  const std::size_t at = offsetof(Superblock, geometry);
  const auto try_field = [&](const char* name, std::size_t offset, auto right) {
    using Field = decltype(right);
    for (const Field wrong :
         {Field{0}, Field{1}, static_cast<Field>(right - 1), static_cast<Field>(right + 1),
          static_cast<Field>(right * 2), static_cast<Field>(right / 2),
          static_cast<Field>(~Field{0}), static_cast<Field>(Field{1} << (sizeof(Field) * 8 - 1))}) {
      if (wrong == right) continue;
      CAPTURE(name);
      CAPTURE(wrong);
      edit(home, at + offset, wrong);
      const auto attached = attach(home);
      REQUIRE_FALSE(attached.ok());
      CHECK(attached.code() == Code::kCorrupt);
      edit(home, at + offset, right);
    }
  };
#define TRY(field) try_field(#field, offsetof(Geometry, field), good.field)
  TRY(segment_bytes);
  TRY(max_entries);
  TRY(place_count);
  TRY(stripe_count);
  TRY(buckets_per_stripe);
  TRY(index_halvings);
  TRY(guards_per_stripe);
  TRY(sketch_per_stripe);
  TRY(arena_granules);
  TRY(load_count);
  TRY(note_count);
  TRY(places_offset);
  TRY(loads_offset);
  TRY(journal_offset);
  TRY(stripes_offset);
  TRY(guards_offset);
  TRY(buckets_offset);
  TRY(sketches_offset);
  TRY(maps_offset);
  TRY(arenas_offset);
#undef TRY
  CHECK(attach(home).ok());
}

TEST_CASE("a geometry whose arenas overflow 64 bits is refused") {
  // Sparse, and with 2^31 arenas of 2^33 bytes: their product is 0, so each part seems to fit.
  Home home;
  home.segment().reset();
  Geometry g{};
  g.segment_bytes = 4ull << 40;
  g.place_count = 512;
  g.stripe_count = 1u << 31;
  g.buckets_per_stripe = 2;
  g.guards_per_stripe = 16;
  g.sketch_per_stripe = 8;
  g.arena_granules = 1u << 30;
  g.load_count = 64;
  g.note_count = 64;
  g.places_offset = (sizeof(Superblock) + kCacheLine - 1) / kCacheLine * kCacheLine;
  g.loads_offset = g.places_offset + g.place_count * sizeof(shm::Place);
  g.journal_offset = g.loads_offset + g.load_count * sizeof(std::uint64_t);
  g.stripes_offset = g.journal_offset + g.note_count * sizeof(Note);
  g.guards_offset = g.stripes_offset + std::uint64_t{g.stripe_count} * sizeof(Stripe);
  g.buckets_offset = g.guards_offset + std::uint64_t{g.stripe_count} * 16 * sizeof(Guard);
  g.sketches_offset = g.buckets_offset + std::uint64_t{g.stripe_count} * 2 * sizeof(Bucket);
  g.maps_offset = g.sketches_offset + std::uint64_t{g.stripe_count} * 8 * 8;
  g.arenas_offset = g.maps_offset + g.stripe_count * g.map_words_per_stripe() * 8;
  edit(home, offsetof(Superblock, geometry), g);
  if (truncate(home.path().c_str(), static_cast<off_t>(g.segment_bytes)) != 0) {
    MESSAGE("skipped: no sparse file of 4 TiB here");
    return;
  }
  check_refused(attach(home), Code::kCorrupt, "damaged superblock");
}

TEST_CASE("a segment made by root for a user belongs to that user, lock file and all") {
  if (geteuid() != 0) {
    MESSAGE("skipped: needs root");
    return;
  }
  Home home;
  home.options.owner = kNobody;
  auto table = home.table();
  REQUIRE(chmod(home.dir.path().c_str(), 0777) == 0);
  Forked nobody([&](Steps&) {
    CHILD_REQUIRE(setegid(kNobody) == 0 && seteuid(kNobody) == 0);
    // Inherited from root, and opened by itself.
    CHILD_REQUIRE(test::put(*table, "k", "v") == Stored::kStored);
    CHILD_REQUIRE(attach(home).ok());
    return 0;
  });
  CHECK(nobody.wait() == 0);
  CHECK(test::read(*table, "k") == "v");
}

TEST_CASE("a segment without permission is an error that says so") {
  if (geteuid() != 0) {
    MESSAGE("skipped: needs root to become somebody else");
    return;
  }
  Home home;
  home.segment().reset();
  REQUIRE(chmod(home.dir.path().c_str(), 0755) == 0);
  Forked nobody([&](Steps&) {
    CHILD_REQUIRE(setegid(kNobody) == 0 && seteuid(kNobody) == 0);
    const auto refused = attach(home);
    CHILD_REQUIRE(refused.code() == Code::kPermissionDenied);
    CHILD_REQUIRE(contains(refused.status().message(), home.path()));
    // And a folder in which nothing may be made.
    SegmentOptions other = home.options;
    other.name = "new";
    CHILD_REQUIRE(Segment::open(other).code() == Code::kPermissionDenied);
    CHILD_REQUIRE(Segment::remove(other.directory, "test", false).code() ==
                  Code::kPermissionDenied);
    return 0;
  });
  CHECK(nobody.wait() == 0);
  CHECK(attach(home).ok());
}

TEST_CASE("a segment made for other options is refused with both values") {
  Home home;
  home.options.binding = "redis=10.0.0.1:6379\nchannel=a\n";
  home.segment().reset();
  home.options.binding = "redis=10.0.0.1:6379\nchannel=b\n";
  check_refused(Segment::open(home.options), Code::kMismatch, "channel=a, not channel=b");
  home.options.binding = "redis=10.0.0.1:6379\n";
  check_refused(Segment::open(home.options), Code::kMismatch, "channel=a");
  home.options.binding = "redis=10.0.0.1:6379\nchannel=a\n";
  CHECK(Segment::open(home.options).ok());
  home.options.name = "long";
  home.options.binding = std::string(kBindingBytes, 'b');
  check_refused(Segment::open(home.options), Code::kInvalidArgument, "exceed");
}

TEST_CASE("a damaged segment can be removed") {
  Home home;
  home.segment().reset();
  SUBCASE("cut short") { REQUIRE(truncate(home.path().c_str(), 100) == 0); }
  SUBCASE("without its lock file") {
    for (const std::string& file : files_of(home)) {
      if (file.ends_with(".lock")) std::filesystem::remove(home.dir.path() + "/" + file);
    }
  }
  CHECK(Segment::remove(home.options.directory, "test", false).ok());
  CHECK(Segment::open(home.options).ok());
}

TEST_CASE("too little room is an error that tells how much, and leaves nothing") {
  Home home(8ull << 20);
  if (geteuid() != 0 || mount("tmpfs", home.dir.path().c_str(), "tmpfs", 0, "size=5M") != 0) {
    MESSAGE("skipped: cannot mount a small tmpfs here");
    return;
  }
  const auto refused = Segment::open(home.options);
  home.options.bytes = kSegmentMinBytes;
  const bool smaller_fits = Segment::open(home.options).ok();
  const bool leftover = !temporaries_of(home).empty();
  CHECK(umount2(home.dir.path().c_str(), MNT_DETACH) == 0);
  check_refused(refused, Code::kNoSpace, "needs 8.00 MiB");
  CHECK_MESSAGE(contains(refused.status().message(), "5.00 MiB free"), refused.status().message());
  CHECK(smaller_fits);
  CHECK_FALSE(leftover);
}

TEST_CASE("a directory that does not exist is an error that names it") {
  Home home;
  home.options.directory += "/nowhere";
  const auto refused = Segment::open(home.options);
  CHECK(refused.code() == Code::kNotFound);
  CHECK_MESSAGE(contains(refused.status().message(), "/nowhere"), refused.status().message());
}

// ---- creators ---------------------------------------------------------------------------------

TEST_CASE("a temporary file that a dead creator left is no obstacle") {
  Home home;
  std::ofstream(home.path() + ".0123456789abcdef.tmp") << "half a segment";
  std::ofstream(home.path() + ".create") << "";
  auto segment = home.segment();
  CHECK(segment->created());
  CHECK(test::faults(*segment).empty());
  CHECK(temporaries_of(home).empty());
}

TEST_CASE("eight threads that open one segment at once get one segment") {
  Home home;
  std::vector<std::shared_ptr<Segment>> opened(8);
  std::vector<std::thread> threads;
  for (auto& mine : opened) {
    threads.emplace_back([&] {
      auto result = Segment::open(home.options);
      if (result) mine = *result;
    });
  }
  for (std::thread& thread : threads) thread.join();
  int creators = 0;
  for (const auto& segment : opened) {
    REQUIRE(segment != nullptr);
    creators += segment->created();
    CHECK(segment->superblock().instance == opened[0]->superblock().instance);
  }
  CHECK(creators == 1);
}

TEST_CASE("names that other files of a segment have cannot be segments") {
  Home home;
  for (const char* name : {"", "a/b", "../a", "a.lock", "a.create", "a.tmp"}) {
    home.options.name = name;
    CAPTURE(name);
    CHECK(Segment::open(home.options).code() == Code::kInvalidArgument);
  }
  CHECK(files_of(home).empty());
}

TEST_CASE("an observer works on a copied file, and cannot change it") {
  Home home;
  {
    auto table = home.table();
    CHECK(test::put(*table, "k", "v") == Stored::kStored);
  }
  const std::string copy = home.dir.path() + "/larder.copy";
  std::filesystem::copy_file(home.path(), copy);
  auto observed = Segment::attach(copy, Access::kReadOnly);
  REQUIRE(observed.ok());
  std::string value;
  const auto found = find_entry(**observed, "k", value);
  REQUIRE(found.has_value());
  CHECK(value == "v");
  CHECK(found->live);
  CHECK(test::faults(**observed).empty());
  CHECK(totals(**observed).entries == 1);
  CHECK((*observed)->lock_file() == nullptr);
}

}  // namespace larder::shm
