// A full table under everything that happens to one, against a model that knows which value may be
// read: the last one, or none.
#include <doctest/doctest.h>

#include <array>
#include <filesystem>
#include <map>
#include <unordered_map>

#include "shm/clock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

using test::Home;
using test::put;
using test::Random;
using test::read;

constexpr std::uint64_t kClockSlackMs =
    30;  // reads look at a clock that may be off by some of these

// From 1 byte to `most`, the larger the seldomer.
std::size_t some_size(Random& random, std::size_t most) {
  std::size_t bound = 1;
  while (bound < most && !random.one_in(7)) bound *= 2;
  return 1 + random.below(std::min(bound, most));
}

// A table and what may be read from it.
class Churn {
 public:
  Churn(const Home& home, std::uint64_t keys, std::uint64_t seed)
      : table_(home.table()), keys_(keys), random_(seed) {
    most_ = test::most_value_bytes(table_->segment(), "churn-000000") / 2;
  }

  void turn() {
    const std::string key = any_key();
    switch (random_.below(16)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        return store(key);
      case 5:
        REQUIRE(table_->remove(key, table_->sample(key), id()) == Stored::kStored);
        model_.erase(key);
        return;
      case 6:
        if (random_.one_in(200)) return raise_epoch();
        if (random_.one_in(100)) return raise_floor();
        if (random_.one_in(100)) return bypass(key);
        [[fallthrough]];
      default:
        look(key);
    }
  }

  void check_all() {
    REQUIRE(test::faults(table_->segment()) == "");
    std::uint64_t listed = 0;
    for_each_entry(table_->segment(), [&](const EntryInfo& entry) {
      ++listed;
      if (entry.live) REQUIRE(model_.count(entry.key) == 1);
      return true;
    });
    REQUIRE(listed == totals(table_->segment()).entries);
    const Geometry& g = table_->segment().geometry();
    if (g.max_entries == 0) return;
    REQUIRE(listed <= g.max_entries);
    for (std::uint32_t s = 0; s < g.stripe_count; ++s) {
      REQUIRE(table_->segment().stripe(s).entries.load() <= g.max_entries / g.stripe_count);
    }
  }

  std::uint64_t hits() const { return hits_; }
  Table& table() { return *table_; }

 private:
  struct Known {
    std::uint64_t number;
    std::uint64_t reach;
    std::uint64_t expires_ms;
  };

  // Some are asked for more often than others.
  std::string any_key() {
    return "churn-" + std::to_string(random_.below(1 + random_.below(keys_)));
  }
  // Of a change that the leader has come to already.
  ChangeId id() {
    const ChangeId next{++seq_, seq_ * 77};
    test::follow(table_->segment(), next);
    return next;
  }

  void store(const std::string& key) {
    const std::string value = test::make_value(key, ++number_, some_size(random_, most_));
    const std::uint64_t expires =
        random_.one_in(8) ? now_ms() + random_.below(60) : std::uint64_t{kNeverExpires};
    const Sample sample = table_->sample(key);
    const Record record{key, value, expires};
    const Stored stored =
        random_.one_in(2) ? table_->set(record, sample, id()) : table_->fill(record, sample, id());
    REQUIRE(stored == Stored::kStored);
    model_[key] = {number_, seq_, expires};
  }

  void look(const std::string& key) {
    const std::uint64_t before = now_ms();
    const auto seen = read(*table_, key);
    const auto known = model_.find(key);
    if (!seen) return;
    ++hits_;
    CAPTURE(key);
    REQUIRE(known != model_.end());
    REQUIRE(test::number_of(key, *seen) == known->second.number);
    REQUIRE(known->second.reach >= floor_);
    REQUIRE((known->second.expires_ms == kNeverExpires ||
             before <= known->second.expires_ms + kClockSlackMs));
  }

  void raise_epoch() {
    table_->raise_epoch();
    model_.clear();
    floor_ = 0;
  }
  void raise_floor() {
    floor_ = seq_ - std::min<std::uint64_t>(seq_, random_.below(50));
    table_->raise_floor(table_->sample("").epoch, floor_);
    std::erase_if(model_, [&](const auto& each) { return each.second.reach < floor_; });
  }
  // Somebody could not get the lock: what the stripe holds must never be read again.
  void bypass(const std::string& key) {
    Segment& segment = table_->segment();
    const auto stripe_of = [&](const std::string& which) {
      return place_of(segment, segment.hash(which)).stripe;
    };
    const std::uint32_t stripe = stripe_of(key);
    segment.superblock().sync.head_seq.store(seq_);
    segment.stripe(stripe).bypass.fetch_add(1);
    std::erase_if(model_, [&](const auto& each) { return stripe_of(each.first) == stripe; });
    REQUIRE(table_->drop(key) == Stored::kStored);
  }

  std::unique_ptr<Table> table_;
  std::uint64_t keys_;
  std::size_t most_ = 0;
  Random random_;
  std::unordered_map<std::string, Known> model_;
  std::uint64_t number_ = 0;
  std::uint64_t seq_ = 0;
  std::uint64_t floor_ = 0;
  std::uint64_t hits_ = 0;
};

}  // namespace

TEST_CASE(
    "sets of every size, removals, expiries, epochs and floors: what is read is the last value, "
    "and the accounting is exact at any time") {
  struct Shape {
    std::uint64_t bytes;
    std::uint64_t max_entries;
    std::uint64_t keys;
    int turns;
  };
  std::uint64_t seed = 0;
  for (const Shape& shape : {Shape{512 << 10, 0, 400, 12'000}, Shape{512 << 10, 60, 400, 12'000},
                             Shape{1 << 20, 0, 5000, 20'000}, Shape{4 << 20, 0, 2000, 10'000},
                             Shape{4 << 20, 1000, 5000, 20'000}, Shape{4 << 20, 1, 50, 4000},
                             Shape{9 << 20, 0, 3000, 8000}}) {
    for (const std::uint32_t policy : {kPolicyLfu, kPolicyLru}) {
      CAPTURE(shape.bytes);
      CAPTURE(shape.max_entries);
      CAPTURE(policy);
      const Home home(shape.bytes, policy, shape.max_entries);
      Churn churn(home, shape.keys, ++seed);
      const int turns = test::kSanitized ? shape.turns / 4 : shape.turns;
      for (int i = 0; i < turns; ++i) {
        churn.turn();
        if (i % (turns / 40) == 0) churn.check_all();
      }
      churn.check_all();
      CHECK(churn.hits() > static_cast<std::uint64_t>(turns) / 100);
      CHECK(test::counted(churn.table(), Counter::kEvictions) > 0);
      CHECK(test::counted(churn.table(), Counter::kTooLarge) == 0);
      CHECK(test::counted(churn.table(), Counter::kTakeovers) == 0);
    }
  }
}

TEST_CASE("a value of any size finds room in an arena that is full of small ones, and they again") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  Random random(2);
  const std::size_t most = test::most_value_bytes(table->segment(), "large");
  std::uint64_t number = 0;
  for (int round = 0; round < 250; ++round) {
    CAPTURE(round);
    // Of many sizes, with holes between them that none but the smallest fit.
    for (int i = 0; i < 300; ++i) {
      const std::string key = "small-" + std::to_string(number++ % 3000);
      REQUIRE(put(*table, key, test::make_value(key, number, 30 + random.below(900))) ==
              Stored::kStored);
      if (random.one_in(3))
        (void)test::erase(*table, "small-" + std::to_string(random.below(3000)));
    }
    const std::size_t bytes = most * (1 + random.below(100)) / 100;
    const std::string large = test::make_value("large", number, bytes);
    REQUIRE(put(*table, "large", large) == Stored::kStored);
    REQUIRE(read(*table, "large") == large);
    REQUIRE(test::faults(table->segment()) == "");
    // What was moved is whole.
    if (round % 10 != 0) continue;
    for (int i = 0; i < 3000; ++i) {
      const std::string key = "small-" + std::to_string(i);
      if (const auto seen = read(*table, key)) REQUIRE(test::number_of(key, *seen).has_value());
    }
  }
}

TEST_CASE("a large value leaves most of the small ones where a sweep of its size alone has to go") {
  // Compaction moves entries into the holes that others left; it does not throw the arena away.
  Home home(kSegmentMinBytes);
  auto table = home.table();
  const auto key_of = [](int i) { return "small-" + std::to_string(i); };
  int count = 0;
  while (test::counted(*table, Counter::kEvictions) == 0) {
    const std::string key = key_of(count++);
    REQUIRE(put(*table, key, test::make_value(key, 1, 200)) == Stored::kStored);
  }
  // Every second one goes: half of the arena is free, in holes of one entry each.
  for (int i = 0; i < count; i += 2) REQUIRE(test::erase(*table, key_of(i)) == Stored::kStored);
  const std::uint64_t evicted = test::counted(*table, Counter::kEvictions);
  const std::uint64_t before = totals(table->segment()).entries;
  const std::size_t quarter = test::most_value_bytes(table->segment(), "large") / 4;
  const std::string large = test::make_value("large", 1, quarter);
  REQUIRE(put(*table, "large", large) == Stored::kStored);
  CHECK(read(*table, "large") == large);
  CHECK(test::counted(*table, Counter::kEvictions) - evicted < before / 10);
  CHECK(totals(table->segment()).entries > before * 9 / 10);
  for (int i = 0; i < count; ++i) {
    const auto seen = read(*table, key_of(i));
    if (seen) REQUIRE(test::number_of(key_of(i), *seen) == 1);
  }
  CHECK(test::faults(table->segment()) == "");
}

// ---- large ------------------------------------------------------------------------------------

TEST_CASE("values of 1 byte to 8 MiB and keys of 1 byte to 65535 come back bit for bit") {
  Home home(256ull << 20);
  if (std::filesystem::space(home.dir.path()).available < home.options.bytes * 5 / 4) {
    MESSAGE("skipped: needs 320 MiB of shared memory");
    return;
  }
  auto table = home.table();
  constexpr std::size_t kMost = 8u << 20;
  std::string bytes(kMost + 1, '\0');  // each value is a piece of it
  Random random(8);
  for (std::size_t i = 0; i + 6 <= bytes.size(); i += 6) {
    const std::uint64_t word = random.next();
    std::memcpy(bytes.data() + i, &word, 6);
  }
  std::map<std::string, std::string_view> held;
  const auto keep = [&](const std::string& key, std::size_t size) {
    const auto value = std::string_view(bytes).substr(random.below(kMost + 1 - size), size);
    CAPTURE(key.size());
    CAPTURE(size);
    REQUIRE(put(*table, key, value) == Stored::kStored);
    const auto seen = read(*table, key);
    REQUIRE(seen.has_value());
    REQUIRE((*seen == value));
    held[key] = value;
  };
  for (std::size_t size = 1; size <= kMost; size *= 2) {
    for (const std::size_t each : {size - 1, size, size + 1}) {
      if (each <= kMost) keep("v" + std::to_string(each), each);
    }
  }
  for (std::size_t size = 1; size <= 65'536; size *= 2) {
    for (const std::size_t each : {size - 1, size, size + 1}) {
      if (each == 0 || each > 65'535) continue;
      keep(std::string(each, 'k'), 1);
      keep(std::string(each, 'l'), each * 3);
    }
  }
  for (int i = 0; i < 200; ++i) {
    keep("any-" + std::to_string(random.below(60)), 1 + random.below(kMost));
  }
  std::size_t there = 0;
  for (const auto& [key, value] : held) {
    const auto seen = read(*table, key);
    if (!seen) continue;
    ++there;
    REQUIRE((*seen == value));
  }
  CHECK(there > held.size() / 8);
  CHECK(test::faults(table->segment()) == "");

  // Above what a stripe holds: refused, and what was held of the key is gone.
  const std::string huge(test::most_value_bytes(table->segment(), "any-1") + 1, 'h');
  keep("any-1", 100);
  CHECK(put(*table, "any-1", huge) == Stored::kTooLarge);
  CHECK_FALSE(read(*table, "any-1").has_value());
  CHECK(test::faults(table->segment()) == "");
}

// ---- a bound on entries -----------------------------------------------------------------------

TEST_CASE("no more entries than were asked for are kept, and hardly fewer") {
  for (const std::uint32_t policy : {kPolicyLfu, kPolicyLru}) {
    for (const std::uint64_t most : {1ull, 7ull, 512ull, 1000ull, 5000ull}) {
      CAPTURE(policy);
      CAPTURE(most);
      Home home(8 << 20, policy, most);
      auto table = home.table();
      const Geometry& g = table->segment().geometry();
      for (std::uint64_t i = 0; i < most * 4 + 1000; ++i) {
        const std::string key = "bound-" + std::to_string(i);
        REQUIRE(put(*table, key, "v") == Stored::kStored);
        REQUIRE(read(*table, key) == "v");
        const std::uint32_t stripe = place_of(table->segment(), table->segment().hash(key)).stripe;
        REQUIRE(table->segment().stripe(stripe).entries.load() <= most / g.stripe_count);
        // An overwrite is no newcomer.
        const std::uint64_t before = table->segment().stripe(stripe).entries.load();
        REQUIRE(put(*table, key, "w") == Stored::kStored);
        REQUIRE(table->segment().stripe(stripe).entries.load() == before);
      }
      const std::uint64_t held = totals(table->segment()).entries;
      CHECK(held <= most);
      CHECK(held >= most / g.stripe_count * g.stripe_count * 95 / 100);
      CHECK(test::faults(table->segment()) == "");
    }
  }
}

TEST_CASE("within a bound on entries, lfu keeps a hot set through a scan") {
  Home home(4 << 20, kPolicyLfu, 1024);
  auto table = home.table();
  constexpr int kHot = 200;
  const auto hot = [](int i) { return "hot-" + std::to_string(i); };
  int cold = 0;
  for (int round = 0; round < 60; ++round) {
    for (int i = 0; i < 300; ++i) put(*table, "warm-" + std::to_string(cold++), "v");
    for (int i = 0; i < kHot; ++i) {
      if (!read(*table, hot(i))) put(*table, hot(i), "h");
    }
  }
  for (int i = 0; i < 3000; ++i) put(*table, "scan-" + std::to_string(i), "v");
  int kept = 0;
  for (int i = 0; i < kHot; ++i) kept += table->contains(hot(i));
  CHECK(kept > kHot * 6 / 10);
  CHECK(test::faults(table->segment()) == "");
}

// ---- many at once -----------------------------------------------------------------------------

TEST_CASE("a batch answers like as many gets, and counts like them") {
  Home home;
  auto table = home.table();
  Random random(6);
  const auto key_of = [](std::uint64_t i) { return "many-" + std::to_string(i); };
  const std::uint64_t epoch = table->sample("k").epoch;
  std::uint64_t seq = 0;
  const auto keep = [&](std::uint64_t i, std::uint64_t expires = kNeverExpires) {
    const std::string key = key_of(i);
    const std::string value = test::make_value(key, i, random.one_in(9) ? 40'000 : 30 + i);
    ++seq;
    REQUIRE(table->fill({key, value, expires}, table->sample(key), {seq, seq}) == Stored::kStored);
  };
  for (std::uint64_t i = 0; i < 20; ++i) keep(i);  // of an earlier epoch
  table->raise_epoch();
  for (std::uint64_t i = 20; i < 40; ++i) keep(i);  // below the floor
  table->raise_floor(epoch + 1, seq + 1);
  for (std::uint64_t i = 40; i < 60; ++i) keep(i, now_ms() - 1000);  // expired
  for (std::uint64_t i = 60; i < 160; ++i) keep(i);
  const auto compare = [&](const std::vector<std::string>& keys) {
    std::vector<std::string> values(keys.size(), "what was there before");
    std::vector<bool> hit(keys.size());
    const Totals before = totals(table->segment());
    for (std::size_t from = 0; from < keys.size(); from += kBatch) {
      const std::vector<std::string_view> batch(
          keys.begin() + static_cast<std::ptrdiff_t>(from),
          keys.begin() + static_cast<std::ptrdiff_t>(std::min(from + kBatch, keys.size())));
      const std::uint32_t hits =
          table->get_batch(batch, [&](std::size_t i) -> std::string& { return values[from + i]; });
      for (std::size_t i = 0; i < batch.size(); ++i) hit[from + i] = hits >> i & 1;
    }
    const Totals after = totals(table->segment());
    std::uint64_t hits = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto alone = read(*table, keys[i]);
      REQUIRE(hit[i] == alone.has_value());
      if (alone) REQUIRE(values[i] == *alone);
      hits += hit[i];
    }
    REQUIRE(after[Counter::kLocalHits] - before[Counter::kLocalHits] == hits);
    REQUIRE(after[Counter::kLocalMisses] - before[Counter::kLocalMisses] == keys.size() - hits);
    return hits;
  };
  CHECK(compare({}) == 0);
  std::vector<std::string> all;
  for (std::uint64_t i = 0; i < 170; ++i) all.push_back(key_of(i));
  CHECK(compare(all) == 100);
  for (const std::size_t count : {1u, 2u, 31u, 32u, 33u, 64u, 65u, 300u}) {
    CAPTURE(count);
    for (int round = 0; round < 20; ++round) {
      std::vector<std::string> keys;
      for (std::size_t i = 0; i < count; ++i) keys.push_back(key_of(random.below(200)));
      compare(keys);
    }
  }
  // The same key again and again in one batch.
  CHECK(compare(std::vector<std::string>(100, key_of(100))) == 100);
  CHECK(compare(std::vector<std::string>(100, key_of(5))) == 0);
  CHECK(compare({"", "\0", std::string(70'000, 'k')}) == 0);
  // A stripe that is bypassed is a miss in a batch too.
  table->segment().stripe(0).bypass.fetch_add(1);
  const std::uint64_t some = compare(all);
  CHECK(some > 10);
  CHECK(some < 90);
  CHECK(test::faults(table->segment()) == "");
}

}  // namespace larder::shm
