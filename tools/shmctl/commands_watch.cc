// watch: what happens to a segment, as it happens.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "shm/journal.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/notes.h"

namespace larder::tools {
namespace {

constexpr timespec kPause{0, 20'000'000};

class Watch {
 public:
  explicit Watch(const Arguments& arguments) : a_(arguments) {}

  // Until there is enough, or nobody reads any more.
  void follow(shm::Segment& segment, bool from_its_begin) {
    const shm::Journal journal(segment);
    const auto [first, end] = journal.range();
    std::uint64_t next = from_its_begin ? first : end - std::min(end - first, last());
    while (!is_done()) {
      next = print_from(journal, next);
      if (std::fflush(stdout) != 0 || !segment.is_at_path()) return;
      if (!is_done()) nanosleep(&kPause, nullptr);
    }
  }
  bool is_done() const { return (a_.limit != 0 && shown_ >= a_.limit) || std::ferror(stdout) != 0; }

 private:
  std::uint64_t last() const { return static_cast<std::uint64_t>(a_.last); }

  std::uint64_t print_from(const shm::Journal& journal, std::uint64_t next) {
    const auto [first, end] = journal.range();
    if (next < first) {
      missed(first - next);
      next = first;
    }
    for (; next < end && !is_done(); ++next) {
      const auto note = journal.read(next);
      // Being written, or by who was killed meanwhile; or overwritten already.
      if (note && note->text.starts_with(a_.prefix)) print(*note);
    }
    return next;
  }

  void print(const shm::Journal::Entry& note) {
    const std::string line = a_.json ? one_line(json_of_note(note)) : note_line(note);
    std::printf("%s\n", line.c_str());
    ++shown_;
  }

  void missed(std::uint64_t notes) const {
    std::fprintf(stderr, "shmctl: %s went by too fast to be shown\n",
                 format_count(notes, "note").c_str());
  }

  const Arguments& a_;
  std::int64_t shown_ = 0;
};

}  // namespace

int watch(const Arguments& arguments) {
  Watch watch(arguments);
  bool from_its_begin = false;
  while (!watch.is_done()) {
    const auto segment = attach(arguments);
    if (segment == nullptr) return kCannotAttach;
    watch.follow(*segment, from_its_begin);
    from_its_begin = true;  // another has taken its place
  }
  return kFine;
}

}  // namespace larder::tools
