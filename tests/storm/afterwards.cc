#include "tests/storm/afterwards.h"

#include <chrono>
#include <filesystem>

#include "shm/check.h"
#include "shm/inspect.h"

namespace larder::storm {
namespace {

using shm::Stored;
using shm::Table;

// Longer than the grace that the dead of another PID namespace have.
constexpr std::chrono::milliseconds kPatience{6 * shm::kGraceMs};

class Afterwards {
 public:
  Afterwards(const Life& life, const char* name) : life_(life), name_(name) {}

  void look() {
    auto opened = shm::Segment::open(segment_options(life_.folder, name_));
    if (!opened) return leak("cannot be opened: " + opened.status().to_string());
    segment_ = std::move(*opened);
    {
      Table table(segment_, shm::TableOptions{});
      if (Status joined = table.join(); !joined.ok()) return leak(joined.to_string());
      bury_the_dead(table);
      take_every_stripe(table);
      look_at_segment("after the storm");
      const shm::Totals totals = shm::totals(*segment_);
      life_.shared->takeovers += totals[shm::Counter::kTakeovers];
      life_.shared->wipes += totals[shm::Counter::kWipes];
      use_it(table);
      look_at_segment("after its use");
      expect(table.processes().try_lead(), "nobody can lead");
      expect(table.begin_term().ok(), "no term can begin");
    }
    segment_.reset();
    const Status removed = shm::Segment::remove(life_.folder, name_, false);
    expect(removed.ok(), "it is in use: " + removed.to_string());
  }

 private:
  void leak(const std::string& what) {
    ++life_.shared->leaks;
    life_.shared->complain(std::string("afterwards, ") + name_ + ": " + what);
  }
  void expect(bool condition, const std::string& otherwise) {
    if (!condition) leak(otherwise);
  }
  void expect_none(std::uint64_t count, const char* of_what) {
    expect(count == 0, std::to_string(count) + " " + of_what);
  }

  void bury_the_dead(Table& table) {
    const auto alone = [&] {
      (void)table.reap();
      return shm::processes(*segment_).size() == 1;
    };
    (void)test::await(alone, kPatience);
    expect_none(shm::processes(*segment_).size() - 1, "places of the dead");
    const std::uint32_t self = shm::owner_place(*table.processes().self());
    for (std::uint32_t i = 1; i <= segment_->geometry().place_count; ++i) {
      if (i != self && segment_->lock_file()->held_by_other(i)) {
        leak("byte " + std::to_string(i) + " of the lock file is held");
      }
    }
  }

  void take_every_stripe(Table& table) {
    for (std::uint32_t s = 0; s < segment_->geometry().stripe_count; ++s) {
      const Stored stored = table.drop(test::keys_of_stripe(*segment_, s, 1)[0]);
      expect(stored == Stored::kStored, "stripe " + std::to_string(s) + " is not to be had");
    }
  }

  void look_at_segment(const char* when) {
    const std::string faults = test::faults(*segment_);
    expect(faults.empty(), std::string(when) + ": " + faults);
    const shm::Totals totals = shm::totals(*segment_);
    expect_none(totals.pins, "pins");
    expect_none(totals.loads, "loads");
    expect_none(totals.locked_stripes, "locked stripes");
    expect_none(totals.bypassed_stripes, "bypassed stripes");
    expect_none(totals[shm::Counter::kLocksLost], "locks lost");
    expect_none(totals[shm::Counter::kStaleTermWrites], "writes of a former leader");
  }

  // Everything that was stored in the storm and is still there is whole, and everything can be
  // stored and read.
  void use_it(Table& table) {
    std::string value;
    const bool is_alone = name_ == std::string_view(kAlone);
    (void)table.raise_epoch();  // a floor that is left over would hide what has no id
    for (unsigned i = 0; i < kKeys; ++i) {
      const std::string key = is_alone ? alone_key(i) : followed_key(i);
      const std::string wanted = make_value(key, {i + 1, life_.seat, 0});
      expect(table.set({key, wanted}) == Stored::kStored, key + " cannot be stored");
      expect(table.get(key, value) && value == wanted, key + " cannot be read");
    }
    // Nobody views anything any more, so an empty segment has all its room.
    (void)table.raise_epoch();
    take_every_stripe(table);
    const shm::Totals totals = shm::totals(*segment_);
    expect_none(totals.pinned_bytes, "bytes held back for views that are gone");
    expect_none(totals.live_bytes, "bytes in use by nobody");
  }

  const Life& life_;
  const char* name_;
  std::shared_ptr<shm::Segment> segment_;
};

}  // namespace

void look_around_afterwards(const Life& life) {
  for (const char* name : {kAlone, kFollowed}) Afterwards(life, name).look();
  for (const auto& left : std::filesystem::directory_iterator(life.folder)) {
    ++life.shared->leaks;
    life.shared->complain("afterwards: " + left.path().string() + " was left");
  }
}

}  // namespace larder::storm
