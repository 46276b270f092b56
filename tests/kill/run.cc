#include "tests/kill/run.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "tests/kill/afterlife.h"
#include "tests/kill/stepper.h"
#include "tests/kill/world.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::kill {
namespace {

using shm::Segment;
using shm::Table;

constexpr std::size_t kMostReported = 5;
constexpr std::chrono::seconds kBuildTime{60};

// A process' own handle on the segment of a folder.
class Attached {
 public:
  void open(const shm::SegmentOptions& options, bool join) {
    auto segment = Segment::open(options);
    if (!segment) {
      std::fprintf(stderr, "%s\n", segment.status().message().c_str());
      std::_Exit(3);
    }
    table_ = std::make_unique<Table>(std::move(*segment), shm::TableOptions{});
    if (join && !table_->join().ok()) std::_Exit(3);
  }
  Table& operator*() { return *table_; }
  void close() { table_.reset(); }

 private:
  std::unique_ptr<Table> table_;
};

[[noreturn]] void give_up_decoding(std::uintptr_t address) {
  std::fprintf(stderr, "something before %lx stored, and was not known to\n", address);
  std::abort();
}

class Run {
 public:
  Run(const Operation& operation, const RunOptions& options)
      : op_(operation), options_(options), random_(options.seed), segment_(operation.segment) {
    segment_.directory = world_.directory();
    segment_.name = "test";
  }

  Report go() {
    build();
    if (op_.died_in) die_before();
    before_picture_ = world_.picture();
    readers_.emplace(before_picture_);
    if (op_.cleans) {
      before_ = after_ = afterlife_.contents(before_picture_);
      keys_ = afterlife_.keys(before_picture_);
    }
    if (!op_.on_files) {
      const Image after_picture = picture_after();
      before_ = afterlife_.contents(before_picture_);
      after_ = afterlife_.contents(after_picture);
      std::set<std::string> keys;
      for (const Image* image : {&std::as_const(before_picture_), &after_picture}) {
        for (std::string& key : afterlife_.keys(*image)) keys.insert(std::move(key));
      }
      keys_.assign(keys.begin(), keys.end());
    }
    step_through();
    kill_really();
    return std::move(report_);
  }

 private:
  struct Point {
    std::uintptr_t address;
    std::uint64_t turn;  // of this address
  };

  void build() {
    if (!op_.build) return;
    builder_.emplace([this](test::Steps& steps) {
      // The same keys fall together in every run.
      if (auto created = Segment::open(segment_); created) {
        (*created)->superblock().hash_seed = options_.seed;
      }
      Attached own;
      own.open(segment_, true);
      op_.build(*own);
      if (op_.builder_lives) {
        steps.reached();
        return steps.wait_for_death();
      }
      own.close();
      return 0;
    });
    const bool built =
        op_.builder_lives ? builder_->await_step(kBuildTime) : builder_->wait(kBuildTime) == 0;
    if (!built) {
      std::fprintf(stderr, "the segment of %s, %s could not be built\n", op_.name.c_str(),
                   op_.variant.c_str());
      std::_Exit(3);
    }
  }

  std::unique_ptr<Stepper> stepper(const Work& prepare, const Work& run, bool join) {
    return std::make_unique<Stepper>(
        [&, join] {
          own_.open(segment_, join);
          if (prepare) prepare(*own_);
        },
        [&] { run(*own_); });
  }
  std::unique_ptr<Stepper> stepper() {
    if (!op_.on_files) return stepper(op_.prepare, op_.run, !op_.joins);
    return std::make_unique<Stepper>([] {}, [this] { op_.on_files(segment_); });
  }

  // The process that the operation will find dead: in the midst of its changes.
  void die_before() {
    const Image start = world_.picture();
    const auto changes = [&](std::uint64_t most) {
      world_.restore(start);
      auto child = stepper({}, op_.died_in, true);
      Image image = world_.picture();
      std::uint64_t seen = 0;
      while (seen < most && child->step()) seen += world_.update(image);
      child->kill();
      return seen;
    };
    const std::uint64_t all = changes(UINT64_MAX);
    if (op_.died_at < 1)
      changes(static_cast<std::uint64_t>(static_cast<double>(all) * op_.died_at));
  }

  Image picture_after() {
    test::Forked child([this](test::Steps&) {
      own_.open(segment_, !op_.joins);
      if (op_.prepare) op_.prepare(*own_);
      op_.run(*own_);
      return 0;
    });
    if (child.wait(kBuildTime) != 0) std::_Exit(3);
    return world_.picture();
  }

  void step_through() {
    world_.restore(before_picture_);
    auto child = stepper();
    Image image = world_.picture();
    std::unordered_map<std::uintptr_t, std::uint64_t> turns;
    judge(image, *child, false);
    bool judged = true;
    for (;;) {
      const std::uintptr_t address = child->at();
      const std::uint64_t turn = ++turns[address];
      const bool names_may_change = child->at_system_call();
      const bool may_store = child->may_store();
      const bool goes_on = child->step();
      if (names_may_change) world_.names_changed();
      choose({address, turn});
      // Comparing costs as much as the step: now and then only, where nothing should have changed.
      const bool may_change = may_store || random_.one_in(64) || !goes_on;
      const bool changed = may_change && world_.update(image);
      if (changed && !may_store) give_up_decoding(address);
      if (changed) {
        report_.stores.insert(address);
        judged = random_.one_in(turn > options_.judge_turns ? 64 * options_.judge_every
                                                            : options_.judge_every);
      }
      judged |= !goes_on;
      if (judged && (changed || !goes_on)) judge(image, *child, !goes_on);
      ++(judged ? report_.points : report_.skipped);
      if (!goes_on || is_enough()) break;
    }
    for (const auto& [address, count] : turns) report_.instructions.insert(address);
    report_.distinct = turns.size();
  }

  // Of all points the same number, each as likely as the other.
  void choose(Point point) {
    ++seen_;
    if (real_.size() < options_.real_kills) return real_.push_back(point);
    if (const auto i = random_.below(seen_); i < real_.size()) real_[i] = point;
  }

  bool is_enough() const { return options_.stop_when_violated && report_.violated != 0; }

  Judgement judgement(bool completed) const {
    return {
        keys_,      before_,    after_, completed, op_.builder_lives ? 1u : 0u, op_.builder_holds,
        &*readers_, op_.follows};
  }

  std::vector<std::string> judge_files(const Image& image, pid_t dead) {
    const Judgement j{.keys = keys_, .before = before_, .after = after_};
    return afterlife_.judge_files(image, dead, segment_, j, op_.cleans);
  }

  void judge(const Image& image, const Stepper& child, bool completed) {
    ++report_.judged;
    note(op_.on_files ? judge_files(image, child.pid())
                      : afterlife_.judge(image, child.pid(), judgement(completed)),
         child.at());
  }

  // The same with the kernel's release of what the process held, in the folder itself.
  void kill_really() {
    for (const Point& point : real_) {
      if (is_enough()) return;
      world_.restore(before_picture_);
      auto child = stepper();
      const std::uintptr_t address = point.address;
      if (!child->run_to(address, point.turn)) {  // it went another way this time
        ++report_.real_missed;
        continue;
      }
      child->kill();
      child.reset();
      ++report_.real_kills;
      if (op_.on_files) {
        note(judge_files(world_.picture(), 0), address);
        continue;
      }
      auto segment = Segment::attach(Segment::path_of(segment_.directory, segment_.name),
                                     shm::Access::kReadWrite);
      if (!segment) {
        note({"nobody can attach: " + segment.status().message()}, address);
        continue;
      }
      note(kill::judge(**segment, judgement(false)), address);
    }
  }

  void note(const std::vector<std::string>& faults, std::uintptr_t address) {
    if (faults.empty()) return;
    ++report_.violated;
    if (report_.violations.size() >= kMostReported) return;
    char at[64];
    std::snprintf(at, sizeof at,
                  "point %llu, before %llx: ", static_cast<unsigned long long>(report_.points),
                  static_cast<unsigned long long>(address));
    report_.violations.push_back(at + faults.front());
  }

  const Operation& op_;
  const RunOptions options_;
  test::Random random_;
  shm::SegmentOptions segment_;
  World world_;
  Attached own_;  // of the child
  std::optional<test::Forked> builder_;
  Afterlife afterlife_;
  Image before_picture_;
  std::optional<EarlierReaders> readers_;
  std::vector<std::string> keys_;
  Contents before_;
  Contents after_;
  std::vector<Point> real_;
  std::uint64_t seen_ = 0;  // points to choose them from
  Report report_;
};

}  // namespace

Report kill_everywhere(const Operation& operation, const RunOptions& options) {
  return Run(operation, options).go();
}

}  // namespace larder::kill
