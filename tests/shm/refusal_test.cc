// Files that are refused: each by a name of its own, with what to do, and left as they are.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <thread>

#include "shm/segment.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::Forked;
using test::Home;
using test::Steps;

constexpr uid_t kNobody = 65534;
constexpr uid_t kSomebody = 65533;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

template <class T>
void edit(const std::string& path, std::size_t offset, T value) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(pwrite(fd, &value, sizeof value, static_cast<off_t>(offset)) == sizeof value);
  ::close(fd);
}

void resize_to(const std::string& path, std::uint64_t bytes) {
  REQUIRE(truncate(path.c_str(), static_cast<off_t>(bytes)) == 0);
}

void replace_by(const std::string& path, const std::string& text) {
  std::filesystem::remove(path);
  std::ofstream(path) << text;
  std::filesystem::permissions(path, std::filesystem::perms(0600));
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::filesystem::file_size(path), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

// How a sound, closed segment becomes one that is refused, and what is said of it.
struct Refusal {
  const char* what;
  std::function<void(const std::string& path)> spoil;
  Code code;
  std::vector<std::string> says;  // what is wrong, what to do
  bool observers_too = true;      // refused to those who only look, as well
};

std::vector<Refusal> refusals() {
  const std::uint64_t bytes = Home().options.bytes;
  return {
      {"empty", [](auto& path) { resize_to(path, 0); }, Code::kCorrupt, {"is empty", "remove it"}},
      {"one byte",
       [](auto& path) { resize_to(path, 1); },
       Code::kCorrupt,
       {"too short, with 1 bytes", "remove it"}},
      {"cut within the superblock",
       [](auto& path) { resize_to(path, sizeof(Superblock) - 1); },
       Code::kCorrupt,
       {"too short", "remove it"}},
      {"cut behind the superblock",
       [](auto& path) { resize_to(path, sizeof(Superblock)); },
       Code::kCorrupt,
       {"truncated or extended", "remove it"}},
      {"cut by a byte",
       [=](auto& path) { resize_to(path, bytes - 1); },
       Code::kCorrupt,
       {"truncated or extended", "remove it"}},
      {"longer by a byte",
       [=](auto& path) { resize_to(path, bytes + 1); },
       Code::kCorrupt,
       {"truncated or extended", "remove it"}},
      {"cut and grown again, so that it is zeros",
       [=](auto& path) {
         resize_to(path, 0);
         resize_to(path, bytes);
       },
       Code::kCorrupt,
       {"is not a larder segment", "remove it"}},
      {"a creator that never finished",
       [](auto& path) { edit(path, offsetof(Superblock, magic), std::uint64_t{0}); },
       Code::kCorrupt,
       {"is not a larder segment", "remove it"}},
      {"something else",
       [=](auto& path) { replace_by(path, std::string(bytes, 'x')); },
       Code::kCorrupt,
       {"is not a larder segment", "remove it, or use another name"}},
      {"the other byte order",
       [](auto& path) { edit(path, offsetof(Superblock, magic), __builtin_bswap64(kMagic)); },
       Code::kMismatch,
       {"another architecture", "remove it, or use another name"}},
      {"another word size",
       [](auto& path) { edit(path, offsetof(Superblock, architecture), 1u << 16 | 32); },
       Code::kMismatch,
       {"another architecture", "remove it, or use another name"}},
      {"another layout by the same version",
       [](auto& path) { edit(path, offsetof(Superblock, layout_signature), std::uint64_t{0x12}); },
       Code::kMismatch,
       {"has layout " + std::to_string(kLayoutVersion) + "/0000000000000012",
        "use another name, or remove it"}},
      {"another size in its superblock",
       [](auto& path) {
         edit(path, offsetof(Superblock, geometry.segment_bytes), std::uint64_t{1} << 40);
       },
       Code::kCorrupt,
       {"truncated or extended", "remove it"}},
      {"a damaged geometry",
       [](auto& path) { edit(path, offsetof(Superblock, geometry.arenas_offset), 0ull); },
       Code::kCorrupt,
       {"damaged superblock", "remove it"}},
      {"another boot",
       [](auto& path) { edit(path, offsetof(Superblock, boot_hash), std::uint64_t{1}); },
       Code::kMismatch,
       {"before the last boot", "remove it"},
       false},
      {"a lock file that is gone",
       [](auto& path) {
         for (const auto& each :
              std::filesystem::directory_iterator(std::filesystem::path(path).parent_path())) {
           if (each.path().extension() == ".lock") std::filesystem::remove(each.path());
         }
       },
       Code::kCorrupt,
       {"lock file", "remove " /* the path */},
       false},
      {"written by everybody",
       [](auto& path) { REQUIRE(chmod(path.c_str(), 0606) == 0); },
       Code::kMismatch,
       {"may be written by everybody", "chmod o-w"},
       false},
      {"a link to a segment",
       [](auto& path) {
         std::filesystem::rename(path, path + "-real");
         std::filesystem::create_symlink(path + "-real", path);
       },
       Code::kMismatch,
       {"is not a regular file", "use another name"}},
      {"a link to nowhere",
       [](auto& path) {
         std::filesystem::remove(path);
         std::filesystem::create_symlink("gone", path);
       },
       Code::kMismatch,
       {"is not a regular file", "use another name"}},
      {"a directory",
       [](auto& path) {
         std::filesystem::remove(path);
         std::filesystem::create_directory(path);
       },
       Code::kMismatch,
       {"is not a regular file", "use another name"}},
      {"a fifo",
       [](auto& path) {
         std::filesystem::remove(path);
         REQUIRE(mkfifo(path.c_str(), 0600) == 0);
       },
       Code::kMismatch,
       {"is not a regular file", "use another name"}},
      {"a socket",
       [](auto& path) {
         std::filesystem::remove(path);
         sockaddr_un address{};
         address.sun_family = AF_UNIX;
         REQUIRE(path.size() < sizeof address.sun_path);
         path.copy(address.sun_path, path.size());
         const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
         REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
         ::close(fd);
       },
       Code::kMismatch,
       {"is not a regular file", "use another name"}},
  };
}

void check_refused(const Result<std::shared_ptr<Segment>>& attached, const Refusal& refusal,
                   const std::string& path) {
  REQUIRE_FALSE(attached.ok());
  CHECK(code_name(attached.code()) == code_name(refusal.code));
  const std::string& message = attached.status().message();
  CHECK_MESSAGE(contains(message, path), message);
  for (const std::string& part : refusal.says) CHECK_MESSAGE(contains(message, part), message);
}

}  // namespace

TEST_CASE("what is no segment of ours is refused by name, with a cure, and left as it is") {
  for (const Refusal& refusal : refusals()) {
    CAPTURE(refusal.what);
    Home home;
    home.segment().reset();
    refusal.spoil(home.path());
    const bool is_file = std::filesystem::is_regular_file(home.path());
    const std::string before = is_file ? bytes_of(home.path()) : "";
    check_refused(Segment::attach(home.path(), Access::kReadWrite), refusal, home.path());
    check_refused(Segment::open(home.options), refusal, home.path());
    const auto observed = Segment::attach(home.path(), Access::kReadOnly);
    if (refusal.observers_too) check_refused(observed, refusal, home.path());
    CHECK(observed.ok() != refusal.observers_too);
    if (is_file) CHECK(bytes_of(home.path()) == before);
    // The cure that all of them have.
    std::filesystem::remove_all(home.path());
    const auto fresh = Segment::open(home.options);
    REQUIRE_MESSAGE(fresh.ok(), fresh.status().message());
    CHECK((*fresh)->created());
  }
}

namespace {

// Exchanges two files again and again.
std::jthread exchanger(const std::string& one, const std::string& other) {
  return std::jthread([=](const std::stop_token& stop) {
    while (!stop.stop_requested())
      renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE);
  });
}

}  // namespace

TEST_CASE("a segment that is replaced while it is attached is one of the two, whole") {
  Home home(1 << 20);
  home.segment().reset();
  Home larger(2 << 20);
  larger.segment().reset();
  std::filesystem::rename(larger.path(), home.path() + "-other");
  const auto replacer = exchanger(home.path(), home.path() + "-other");
  for (int i = 0; i < 20'000; ++i) {
    const auto attached = Segment::attach(home.path(), Access::kReadOnly);
    if (!attached.ok()) FAIL(attached.status().message());
    // The bounds that we go by are those of the file that is mapped, to its last byte.
    const Segment& segment = **attached;
    if (!(segment.superblock().geometry == segment.geometry())) FAIL("mapped another file");
    std::string value;
    (void)find_entry(**attached, "k", value);
  }
}

TEST_CASE("a fifo that is put in a segment's place while it is attached stops nobody") {
  Home home(1 << 20);
  home.segment().reset();
  const std::string fifo = home.path() + "-other";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  // Forked before the thread starts: a lock of the sanitizer's allocator that the thread holds at
  // the fork would stay locked in the child.
  Forked attacher([&](Steps& steps) {
    steps.reached();
    steps.wait();
    for (int i = 0; i < 20'000; ++i) {
      const auto attached = Segment::attach(home.path(), Access::kReadOnly);
      CHILD_REQUIRE(attached.ok() || attached.code() == Code::kMismatch);
    }
    return 0;
  });
  REQUIRE(attacher.await_step());
  const auto replacer = exchanger(home.path(), fifo);
  attacher.go_on();
  CHECK(attacher.wait() == 0);
}

// ---- whose it is ------------------------------------------------------------------------------

namespace {

bool cannot_become_others() {
  if (geteuid() == 0) return false;
  MESSAGE("skipped: needs root to become somebody else");
  return true;
}

// The closed segment of `home`, given to somebody, who alone may read and write it.
void give_to(const Home& home, uid_t user) {
  REQUIRE(chmod(home.dir.path().c_str(), 0777) == 0);
  for (const auto& each : std::filesystem::directory_iterator(home.dir.path())) {
    REQUIRE(chown(each.path().c_str(), user, kNobody) == 0);
    REQUIRE(chmod(each.path().c_str(), 0660) == 0);
  }
}

int as_user(uid_t user, const std::function<void()>& work) {
  Forked child([&](Steps&) {
    CHILD_REQUIRE(setegid(kNobody) == 0 && seteuid(user) == 0);
    work();
    return 0;
  });
  return child.wait().value_or(-1);
}

}  // namespace

TEST_CASE("another user's segment is refused, to root too, unless that user is allowed") {
  if (cannot_become_others()) return;
  Home home;
  home.segment().reset();
  give_to(home, kSomebody);
  for (const uid_t user : {uid_t{0}, kNobody}) {
    CAPTURE(user);
    CHECK(as_user(user, [&] {
            const std::string says = "belongs to user 65533, not to user " + std::to_string(user);
            for (const auto& refused :
                 {Segment::attach(home.path(), Access::kReadWrite), Segment::open(home.options)}) {
              CHILD_REQUIRE(refused.code() == Code::kMismatch);
              CHILD_REQUIRE(contains(refused.status().message(), says));
              CHILD_REQUIRE(contains(refused.status().message(), "allowed_owners"));
            }
            CHILD_REQUIRE(Segment::attach(home.path(), Access::kReadWrite, {1, kSomebody}).ok());
            CHILD_REQUIRE(Segment::attach(home.path(), Access::kReadOnly).ok());
            SegmentOptions options = home.options;
            options.allowed_owners = {kSomebody};
            CHILD_REQUIRE(Segment::open(options).ok());
            options = home.options;
            options.owner = kSomebody;
            CHILD_REQUIRE(Segment::open(options).ok());
          }) == 0);
  }
  CHECK(as_user(kSomebody, [&] { CHILD_REQUIRE(Segment::open(home.options).ok()); }) == 0);
}

TEST_CASE("root's segment is accepted by everybody whom its mode lets in") {
  if (cannot_become_others()) return;
  Home home;
  home.segment().reset();
  give_to(home, 0);
  CHECK(as_user(kNobody, [&] { CHILD_REQUIRE(Segment::open(home.options).ok()); }) == 0);
}

TEST_CASE("whom a segment is made for cannot have its maker write elsewhere") {
  if (cannot_become_others()) return;
  Home home(1 << 20);
  home.options.owner = kSomebody;
  REQUIRE(chown(home.dir.path().c_str(), 0, 0) == 0);
  REQUIRE(chmod(home.dir.path().c_str(), 0777) == 0);
  const Home safe;
  const std::string precious = safe.dir.path() + "/precious";
  std::ofstream(precious) << std::string(1 << 20, 'p');
  const std::string before = bytes_of(precious);
  // Puts a link in the place of every temporary file.
  Forked owner([&](Steps& steps) -> int {
    CHILD_REQUIRE(setegid(kSomebody) == 0 && seteuid(kSomebody) == 0);
    steps.reached();
    for (;;) {
      std::error_code gone;
      for (const auto& file : std::filesystem::directory_iterator(home.dir.path(), gone)) {
        if (file.path().extension() != ".tmp" || file.is_symlink(gone)) continue;
        ::unlink(file.path().c_str());
        (void)!symlink(precious.c_str(), file.path().c_str());
      }
    }
  });
  REQUIRE(owner.await_step());
  for (int i = 0; i < 300; ++i) {
    (void)Segment::open(home.options);
    (void)Segment::remove(home.options.directory, "test", true);
    ::unlink(home.path().c_str());
  }
  owner.kill_now();
  const bool unchanged = bytes_of(precious) == before;
  CHECK(unchanged);
  struct stat file {};
  REQUIRE(stat(precious.c_str(), &file) == 0);
  CHECK(file.st_uid == 0);
}

}  // namespace larder::shm
