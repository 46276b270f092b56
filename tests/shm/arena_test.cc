// The map of an arena against a naive model of it, and against garbage.
#include "shm/arena.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

using test::Home;
using test::Random;

// What an arena must say, the slow way.
class Model {
 public:
  explicit Model(std::uint32_t granules) : taken_(granules, false) {}

  std::uint32_t granules() const { return static_cast<std::uint32_t>(taken_.size()); }
  bool taken(std::uint32_t granule) const { return taken_[granule]; }
  const std::map<std::uint32_t, std::uint32_t>& runs() const { return runs_; }

  void take(Run run) {
    REQUIRE(is_free(run));
    std::fill_n(taken_.begin() + run.start, run.granules, true);
    runs_[run.start] = run.granules;
  }
  void give_back(Run run) {
    std::fill_n(taken_.begin() + run.start, run.granules, false);
    runs_.erase(run.start);
  }
  bool is_free(Run run) const {
    if (std::uint64_t{run.start} + run.granules > taken_.size()) return false;
    const auto from = taken_.begin() + run.start;
    return std::find(from, from + run.granules, true) == from + run.granules;
  }
  bool is_taken(Run run) const {
    const auto found = runs_.find(run.start);
    return found != runs_.end() && found->second == run.granules;
  }
  std::uint64_t count_free() const {
    return static_cast<std::uint64_t>(std::count(taken_.begin(), taken_.end(), false));
  }
  std::uint32_t longest() const {
    std::uint32_t longest = 0;
    std::uint32_t length = 0;
    for (const bool taken : taken_) {
      length = taken ? 0 : length + 1;
      longest = std::max(longest, length);
    }
    return longest;
  }
  // Free granules from here on, within one block.
  std::uint32_t length_within_block(std::uint32_t from) const {
    const std::uint32_t end = std::min(granules(), (from / kBlockGranules + 1) * kBlockGranules);
    std::uint32_t at = from;
    while (at < end && !taken_[at]) ++at;
    return at - from;
  }
  bool begins_within_block(std::uint32_t at) const {
    return !taken_[at] && (at % kBlockGranules == 0 || taken_[at - 1]);
  }

 private:
  std::vector<bool> taken_;
  std::map<std::uint32_t, std::uint32_t> runs_;
};

// Lengths that entries have: short, sometimes longer than a word of the map, than a block.
std::uint32_t some_length(Random& random) {
  switch (random.below(8)) {
    case 0:
      return static_cast<std::uint32_t>(2 + random.below(3));
    case 1:
      return static_cast<std::uint32_t>(60 + random.below(140));
    case 2:
      return static_cast<std::uint32_t>(random.one_in(6)
                                            ? kBlockGranules - 70 + random.below(3 * kBlockGranules)
                                            : 2 + random.below(3000));
    default:
      return static_cast<std::uint32_t>(5 + random.below(60));
  }
}

void check_best_fit(Arena& arena, const Model& model, std::uint32_t wanted) {
  CAPTURE(wanted);
  const auto found = arena.best_fit(wanted);
  if (!found) {
    REQUIRE(model.longest() < wanted);
    return;
  }
  CAPTURE(*found);
  REQUIRE(model.is_free({*found, wanted}));
  REQUIRE(model.begins_within_block(*found));
  const std::uint32_t length = model.length_within_block(*found);
  const std::uint32_t next = *found + length;
  const bool at_border = next % kBlockGranules == 0 && next < model.granules();
  REQUIRE((length >= wanted || at_border));
  if (at_border) return;  // chosen with what follows in the next block, be it nothing
  // No other stretch of this block would have done with less.
  const std::uint32_t begin = *found / kBlockGranules * kBlockGranules;
  const std::uint32_t end = std::min(begin + kBlockGranules, model.granules());
  for (std::uint32_t at = begin; at < end; ++at) {
    if (!model.begins_within_block(at)) continue;
    const std::uint32_t other = model.length_within_block(at);
    REQUIRE((other < wanted || other >= length));
  }
}

void check_questions(Arena& arena, const Model& model, Random& random) {
  const std::uint32_t all = model.granules();
  for (int i = 0; i < 20; ++i) {
    const auto start = static_cast<std::uint32_t>(random.below(all + 10));
    const Run run{start, some_length(random)};
    REQUIRE(arena.is_free(run) == model.is_free(run));
    REQUIRE(arena.is_taken(run) == model.is_taken(run));
  }
  if (!model.runs().empty()) {
    auto some = model.runs().lower_bound(static_cast<std::uint32_t>(random.below(all)));
    if (some == model.runs().end()) some = model.runs().begin();
    const Run run{some->first, some->second};
    REQUIRE(arena.is_taken(run));
    for (const Run& wrong : {Run{run.start, run.granules + 1}, Run{run.start, run.granules - 1},
                             Run{run.start + 1, run.granules - 1}, Run{run.start + 1, run.granules},
                             Run{run.start - 1, run.granules + 1}}) {
      REQUIRE_FALSE(arena.is_taken(wrong));
    }
    REQUIRE_FALSE(arena.is_free({run.start, 1}));
    REQUIRE_FALSE(arena.is_free({run.end() - 1, 1}));
  }
  const auto granule = static_cast<std::uint32_t>(random.below(all));
  const auto limit = static_cast<std::uint32_t>(1 + random.below(random.one_in(4) ? 20'000 : 100));
  if (!model.taken(granule)) {
    CAPTURE(granule);
    CAPTURE(limit);
    const Run around = arena.stretch_around(granule, limit);
    REQUIRE(around.start <= granule);
    REQUIRE(around.end() > granule);
    REQUIRE(model.is_free(around));
    const bool begins = around.start == 0 || model.taken(around.start - 1);
    const bool ends = around.end() == all || model.taken(around.end());
    REQUIRE((begins || granule - around.start >= limit));
    REQUIRE((ends || around.end() - granule >= limit));
  }
  const auto wanted = some_length(random);
  if (const auto next = arena.next_fit(granule, wanted)) {
    REQUIRE(model.is_free({*next, wanted}));
    REQUIRE(*next >= granule);
  } else if (wanted < 1000) {
    // What begins right there it does not overlook.
    REQUIRE_FALSE(model.is_free({granule, wanted}));
  }
  const auto begin = static_cast<std::uint32_t>(random.below(all));
  const auto end = static_cast<std::uint32_t>(begin + random.below(all - begin + 1));
  std::vector<std::uint32_t> visited;
  arena.for_each_run(begin, end, [&](std::uint32_t start) { visited.push_back(start); });
  std::vector<std::uint32_t> expected;
  for (const auto& [start, granules] : model.runs()) {
    if (start < begin ? start + granules > begin : start < end) expected.push_back(start);
  }
  REQUIRE(visited == expected);
  const std::uint32_t size = std::min(wanted, all);
  REQUIRE(arena.emptiest(size) <= all - size);
  REQUIRE(arena.count_free() == model.count_free());
}

// All words of stripe 0's map and summaries.
template <class Word>
void fill_map(Segment& segment, Word&& word) {
  for (std::uint64_t i = 0; i < segment.geometry().map_words_per_stripe(); ++i) {
    segment.map(0)[i].store(word(), std::memory_order_relaxed);
  }
}

}  // namespace

TEST_CASE(
    "an arena says of every granule what a naive model says, whatever is taken and given back") {
  for (const std::uint64_t bytes : {512ull << 10, 700'001ull, 1ull << 20, 4ull << 20}) {
    if (test::kSanitized && bytes > 1 << 20) continue;
    CAPTURE(bytes);
    Home home(bytes);
    auto segment = home.segment();
    REQUIRE(segment->geometry().arena_granules % kBlockGranules != 0);  // a last block cut short
    Arena arena(*segment, 0);
    arena.clear();
    Model model(arena.granules());
    CHECK(arena.count_free() == arena.granules());
    Random random(bytes);
    // Now mostly taking, now mostly giving back.
    for (int turn = 0; turn < 2500; ++turn) {
      const bool filling = turn / 500 % 2 == 0;
      if (model.runs().empty() || !random.one_in(filling ? 6 : 2)) {
        const std::uint32_t wanted = some_length(random);
        check_best_fit(arena, model, wanted);
        const auto found = arena.best_fit(wanted);
        if (!found) continue;
        arena.take({*found, wanted});
        model.take({*found, wanted});
      } else {
        auto some =
            model.runs().lower_bound(static_cast<std::uint32_t>(random.below(model.granules())));
        if (some == model.runs().end()) some = model.runs().begin();
        const Run run{some->first, some->second};
        arena.give_back(run);
        model.give_back(run);
      }
      if (turn % 5 == 0) check_questions(arena, model, random);
    }
    // Given back to the last granule, it is one stretch again.
    while (!model.runs().empty()) {
      const Run run{model.runs().begin()->first, model.runs().begin()->second};
      arena.give_back(run);
      model.give_back(run);
    }
    CHECK(arena.count_free() == arena.granules());
    CHECK(arena.best_fit(arena.granules()) == 0u);
    CHECK_FALSE(arena.best_fit(arena.granules() + 1).has_value());
  }
}

TEST_CASE(
    "an arena that is full to the last granule has no room, and one hole is found wherever it is") {
  Home home(kSegmentMinBytes);
  auto segment = home.segment();
  Arena arena(*segment, 0);
  arena.clear();
  constexpr std::uint32_t kRun = 14;
  const std::uint32_t count = arena.granules() / kRun;
  for (std::uint32_t i = 0; i < count; ++i) arena.take({i * kRun, kRun});
  const std::uint32_t rest = arena.granules() - count * kRun;
  if (rest >= 2) arena.take({count * kRun, rest});
  CHECK_FALSE(arena.best_fit(2).has_value());
  Random random(9);
  for (int i = 0; i < 300; ++i) {
    const auto hole = static_cast<std::uint32_t>(random.below(count)) * kRun;
    arena.give_back({hole, kRun});
    REQUIRE(arena.best_fit(kRun) == hole);
    REQUIRE_FALSE(arena.best_fit(kRun + 1).has_value());
    REQUIRE(arena.stretch_around(hole + kRun / 2, 100).start == hole);
    REQUIRE(arena.stretch_around(hole + kRun / 2, 100).granules == kRun);
    arena.take({hole, kRun});
  }
  // Of two holes, one in each of two neighbouring blocks that touch, the stretch is their sum.
  const std::uint32_t border = kBlockGranules / kRun * kRun;
  REQUIRE(border != kBlockGranules);
  arena.give_back({border, kRun});
  arena.give_back({border + kRun, kRun});
  CHECK(arena.best_fit(2 * kRun) == border);
}

TEST_CASE("the emptiest stretch is one where little has to move") {
  Home home(kSegmentMinBytes);
  auto segment = home.segment();
  Arena arena(*segment, 0);
  arena.clear();
  for (std::uint32_t at = 0; at + 16 <= arena.granules(); at += 16) arena.take({at, 16});
  // Half empty from 20,000 to 24,000, full elsewhere.
  for (std::uint32_t at = 20'000; at < 24'000; at += 32) arena.give_back({at, 16});
  for (const std::uint32_t wanted : {64u, 640u, 2000u}) {
    CAPTURE(wanted);
    const std::uint32_t begin = arena.emptiest(wanted);
    CHECK(begin + wanted <= arena.granules());
    std::uint32_t free = 0;
    for (std::uint32_t g = begin; g < begin + wanted; ++g) free += arena.is_free({g, 1});
    CHECK(free >= wanted / 3);
  }
}

TEST_CASE(
    "whatever a map and its summaries hold, every question ends and no answer leaves the arena") {
  Home home(kSegmentMinBytes);
  auto segment = home.segment();
  const Geometry& g = segment->geometry();
  Arena arena(*segment, 0);
  Random random(3);
  const std::uint32_t all = arena.granules();
  // What lies beside the map must not change.
  const auto beside = [&] {
    std::string bytes(test::at(*segment, g.buckets_offset), g.maps_offset - g.buckets_offset);
    bytes.append(test::at(*segment, g.arenas_offset), 4096);
    return bytes;
  };
  const std::string before = beside();
  const auto word = [&random] { return random.next() << 40 ^ random.next() << 20 ^ random.next(); };
  const auto sparse = [&] { return word() & word() & word(); };
  const auto dense = [&] { return word() | word() | word(); };
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    switch (round % 6) {
      case 0:
        fill_map(*segment, word);
        break;
      case 1:
        fill_map(*segment, sparse);
        break;
      case 2:
        fill_map(*segment, dense);
        break;
      case 3:
        fill_map(*segment, [] { return 0; });  // what is beyond the arena counts as free, too
        break;
      case 4:
        fill_map(*segment, [] { return UINT64_MAX; });
        break;
      default:
        // A sound map under summaries that lie.
        arena.clear();
        arena.take({100, 5000});
        for (std::uint32_t i = 0; i < g.blocks_per_stripe(); ++i) {
          segment->summaries(0)[i].store(random.one_in(3) ? word() : 0x7fff'7fff'7fff'7fff);
        }
    }
    for (int i = 0; i < 60; ++i) {
      const auto wanted = static_cast<std::uint32_t>(
          1 + random.below(random.one_in(3) ? std::uint64_t{all} + 10 : 200));
      const auto anywhere =
          static_cast<std::uint32_t>(random.one_in(5) ? word() : random.below(all));
      if (const auto found = arena.best_fit(wanted)) REQUIRE(*found + std::uint64_t{wanted} <= all);
      if (const auto found = arena.next_fit(anywhere, wanted)) {
        REQUIRE(*found + std::uint64_t{wanted} <= all);
      }
      const std::uint32_t size = std::min(wanted, all);
      REQUIRE(arena.emptiest(wanted) <= all - size);
      const Run around = arena.stretch_around(anywhere % all, wanted);
      REQUIRE(std::uint64_t{around.start} + around.granules <= all);
      REQUIRE(arena.count_free() <= std::uint64_t{g.blocks_per_stripe()} * kBlockGranules);
      const bool in_arena = std::uint64_t{anywhere} + wanted <= all;
      REQUIRE((in_arena || !arena.is_free({anywhere, wanted})));
      REQUIRE((in_arena || !arena.is_taken({anywhere, wanted})));
      const std::uint32_t begin = anywhere % all;
      arena.for_each_run(begin, begin + size > all ? all : begin + size,
                         [&](std::uint32_t start) { REQUIRE(start < all); });
      if (in_arena && wanted >= 2) {
        random.one_in(2) ? arena.take({anywhere, wanted}) : arena.give_back({anywhere, wanted});
      }
    }
  }
  CHECK(beside() == before);
  // And a clean start is a clean start.
  arena.clear();
  CHECK(arena.count_free() == all);
  CHECK(arena.best_fit(all) == 0u);
}

}  // namespace larder::shm
