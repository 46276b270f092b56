// The table as one process uses it: what is put is found, what does not fit goes.
#include "shm/table.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <unordered_map>

#include "shm/clock.h"
#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

using test::erase;
using test::Home;
using test::put;
using test::Random;
using test::read;

// Reads look at a clock that may be some milliseconds behind.
constexpr std::uint64_t kLongAgoMs = 100;

std::size_t most_bytes(Table& table) { return test::most_value_bytes(table.segment(), "k"); }

}  // namespace

TEST_CASE("what was put is read, overwritten, removed") {
  Home home;
  auto table = home.table();
  CHECK_FALSE(read(*table, "k").has_value());
  CHECK(put(*table, "k", "one") == Stored::kStored);
  CHECK(read(*table, "k") == "one");
  CHECK(table->contains("k"));
  CHECK(put(*table, "k", "a longer two") == Stored::kStored);
  CHECK(read(*table, "k") == "a longer two");
  CHECK(erase(*table, "k") == Stored::kStored);
  CHECK_FALSE(read(*table, "k").has_value());
  CHECK_FALSE(table->contains("k"));
  CHECK(erase(*table, "k") == Stored::kStored);  // also when there is none
  CHECK(put(*table, "k", "three") == Stored::kStored);
  CHECK(table->drop("k") == Stored::kStored);
  CHECK_FALSE(read(*table, "k").has_value());
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("empty values, binary keys, and keys of one byte are like any other") {
  Home home;
  auto table = home.table();
  const std::string binary("\0\xff\n\0k", 5);
  const std::string other("\0\xff\n\0l", 5);
  CHECK(put(*table, binary, std::string("\0v\0", 3)) == Stored::kStored);
  CHECK(put(*table, other, "") == Stored::kStored);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string key(1, static_cast<char>(byte));
    CHECK(put(*table, key, std::to_string(byte)) == Stored::kStored);
  }
  CHECK(read(*table, binary) == std::string("\0v\0", 3));
  CHECK(read(*table, other) == "");
  CHECK(table->contains(other));
  for (int byte = 0; byte < 256; ++byte) {
    CHECK(read(*table, std::string(1, static_cast<char>(byte))) == std::to_string(byte));
  }
  CHECK_FALSE(read(*table, std::string_view(binary).substr(0, 4)).has_value());
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("a key of 65535 bytes is kept, one more is too large") {
  Home home;
  auto table = home.table();
  const std::string longest(65535, 'k');
  CHECK(put(*table, longest, "v") == Stored::kStored);
  CHECK(read(*table, longest) == "v");
  CHECK_FALSE(read(*table, longest.substr(1)).has_value());
  CHECK(put(*table, longest + "k", "v") == Stored::kTooLarge);
  CHECK_FALSE(read(*table, longest + "k").has_value());
  CHECK(read(*table, longest) == "v");
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE(
    "a value that fills a stripe is kept; one byte more is refused and the old copy is gone") {
  for (const std::uint64_t bytes :
       {kSegmentMinBytes, test::kTwoStripesBytes, std::uint64_t{5'000'003}}) {
    CAPTURE(bytes);
    Home home(bytes);
    auto table = home.table();
    const std::string largest = test::make_value("k", 1, most_bytes(*table));
    CHECK(put(*table, "k", largest) == Stored::kStored);
    CHECK(read(*table, "k") == largest);
    // Again, over itself: both do not fit at once.
    const std::string another = test::make_value("k", 2, most_bytes(*table));
    CHECK(put(*table, "k", another) == Stored::kStored);
    CHECK(read(*table, "k") == another);
    CHECK(put(*table, "k", std::string(most_bytes(*table) + 1, 'x')) == Stored::kTooLarge);
    CHECK_FALSE(read(*table, "k").has_value());
    CHECK(put(*table, "other", std::string(64 << 20, 'x')) == Stored::kTooLarge);
    CHECK(test::counted(*table, Counter::kTooLarge) == 2);
    CHECK(test::faults(table->segment()) == "");
    // And small ones find room again.
    CHECK(put(*table, "k", "v") == Stored::kStored);
    CHECK(read(*table, "k") == "v");
    CHECK(test::faults(table->segment()) == "");
  }
}

TEST_CASE("an entry is read until it expires, and not after") {
  Home home;
  auto table = home.table();
  CHECK(put(*table, "past", "v", now_ms() - kLongAgoMs) == Stored::kStored);
  CHECK(put(*table, "later", "v", now_ms() + 3'600'000) == Stored::kStored);
  CHECK(put(*table, "soon", "v", now_ms() + 20) == Stored::kStored);
  CHECK_FALSE(read(*table, "past").has_value());
  CHECK_FALSE(table->contains("past"));
  CHECK(read(*table, "later") == "v");
  CHECK(test::await([&] { return !read(*table, "soon").has_value(); }));
  CHECK(put(*table, "past", "w") == Stored::kStored);
  CHECK(read(*table, "past") == "w");
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("raising the epoch drops everything at once, and the table goes on") {
  Home home;
  auto table = home.table();
  for (int i = 0; i < 100; ++i) {
    REQUIRE(put(*table, "k" + std::to_string(i), "v") == Stored::kStored);
  }
  const Sample before = table->sample("k0");
  CHECK(table->raise_epoch() == before.epoch + 1);
  for (int i = 0; i < 100; ++i) CHECK_FALSE(read(*table, "k" + std::to_string(i)).has_value());
  // Asked of Redis before the epoch was raised: not to be trusted.
  CHECK(table->fill({"k0", "old"}, before, {7, 7}) == Stored::kRefused);
  CHECK(table->set({"k0", "old"}, before, {7, 7}) == Stored::kRefused);
  CHECK_FALSE(read(*table, "k0").has_value());
  CHECK(put(*table, "k0", "new") == Stored::kStored);
  CHECK(read(*table, "k0") == "new");
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("an empty table that nobody ever asked takes entries like any other") {
  for (const std::uint32_t policy : {kPolicyLfu, kPolicyLru}) {
    Home home(kSegmentMinBytes, policy);
    auto table = home.table();
    // Some policies look at the requests at some of the inserts: here there are neither requests
    // nor entries.
    for (int i = 0; i < 1100; ++i) {
      REQUIRE(put(*table, "k", "v") == Stored::kStored);
      table->raise_epoch();
    }
    CHECK_FALSE(table->contains("k"));
    CHECK(put(*table, "k", "v") == Stored::kStored);
    CHECK(test::faults(table->segment()).empty());
  }
}

TEST_CASE("raising the floor drops what is below it, in its epoch only") {
  Home home;
  auto table = home.table();
  const std::uint64_t epoch = table->sample("a").epoch;
  const auto fill = [&](const char* key, std::uint64_t seq) {
    return table->fill({key, "v"}, table->sample(key), {seq, 1});
  };
  CHECK(fill("a", 10) == Stored::kStored);
  CHECK(fill("b", 20) == Stored::kStored);
  table->raise_floor(epoch, 15);
  CHECK_FALSE(read(*table, "a").has_value());
  CHECK(read(*table, "b") == "v");
  // A late reply from below the floor is stored, perhaps, but never read.
  (void)fill("c", 14);
  CHECK_FALSE(read(*table, "c").has_value());
  // It never falls.
  table->raise_floor(epoch, 5);
  CHECK_FALSE(read(*table, "a").has_value());
  // One for another epoch says nothing here.
  table->raise_floor(epoch + 1, 100);
  CHECK(read(*table, "b") == "v");
  table->raise_floor(epoch - 1, 100);
  CHECK(read(*table, "b") == "v");
  // And in the next epoch this one says nothing.
  table->raise_epoch();
  CHECK(fill("a", 1) == Stored::kStored);
  CHECK(read(*table, "a") == "v");
  table->raise_floor(epoch + 1, 2);
  CHECK_FALSE(read(*table, "a").has_value());
}

TEST_CASE("more keys than two buckets hold: the pair evicts, and every hit is right") {
  Home home(kSegmentMinBytes, kPolicyLfu, 256);  // few buckets: such keys are soon found
  auto table = home.table();
  const auto keys = test::keys_of_bucket_pair(table->segment(), 40);
  for (const std::string& key : keys)
    REQUIRE(put(*table, key, "value of " + key) == Stored::kStored);
  std::size_t held = 0;
  for (const std::string& key : keys) {
    const auto value = read(*table, key);
    if (!value) continue;
    ++held;
    CHECK(*value == "value of " + key);
  }
  CHECK(held == 2 * kSlotsPerBucket);
  CHECK(read(*table, keys.back()).has_value());  // the newest is there
  CHECK(test::counted(*table, Counter::kEvictions) == keys.size() - held);
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("a segment that was turned over several times holds what fits and nothing wrong") {
  for (const std::uint32_t policy : {kPolicyLfu, kPolicyLru}) {
    CAPTURE(policy);
    Home home(test::kTwoStripesBytes, policy);
    auto table = home.table();
    constexpr std::uint64_t kKeys = 40'000;  // of 512 bytes: five times the segment
    const auto key_of = [](std::uint64_t i) { return "turn-" + std::to_string(i); };
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      REQUIRE(put(*table, key_of(i), test::make_value(key_of(i), i, 512)) == Stored::kStored);
      REQUIRE(read(*table, key_of(i)).has_value());  // the newest is always there
    }
    std::uint64_t held = 0;
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      const auto value = read(*table, key_of(i));
      if (!value) continue;
      ++held;
      CHECK(test::number_of(key_of(i), *value) == i);
    }
    // Most of the segment is in use: entries of 560 bytes.
    const std::uint64_t fit = totals(table->segment()).arena_bytes / 560;
    CHECK(held > fit * 95 / 100);
    CHECK(held <= fit);
    CHECK(test::counted(*table, Counter::kEvictions) == kKeys - held);
    CHECK(test::faults(table->segment()).empty());
    CHECK(totals(table->segment()).entries == held);
  }
}

TEST_CASE("values of every size up to a stripe can follow each other in any order") {
  Home home;
  auto table = home.table();
  Random random(5);
  for (int i = 0; i < 3000; ++i) {
    const std::string key = "size-" + std::to_string(random.below(200));
    const auto value = test::make_value(
        key, static_cast<std::uint64_t>(i),
        random.one_in(50) ? random.below(test::most_value_bytes(table->segment(), key))
                          : random.below(16'000));
    REQUIRE(put(*table, key, value) == Stored::kStored);
    REQUIRE(read(*table, key) == value);
  }
  CHECK(test::faults(table->segment()).empty());
}

// ---- against a model --------------------------------------------------------------------------

TEST_CASE("against a map: a hit is the last value put, and without pressure nothing is missed") {
  struct Load {
    std::uint64_t keys;
    std::uint64_t most_bytes;
    bool all_fit;
    std::uint64_t turns;
  };
  for (const Load& load : {Load{300, 400, true, 30'000}, Load{20'000, 300, false, 30'000},
                           Load{800, 16'000, false, 30'000}, Load{60, 200'000, false, 2000}}) {
    for (const std::uint32_t policy : {kPolicyLfu, kPolicyLru}) {
      for (std::uint64_t seed = 1; seed <= (test::kSanitized ? 1 : 3); ++seed) {
        CAPTURE(load.keys);
        CAPTURE(policy);
        CAPTURE(seed);
        Home home(test::kTwoStripesBytes, policy);
        auto table = home.table();
        Random random(seed);
        std::unordered_map<std::string, std::string> model;
        for (std::uint64_t i = 0; i < load.turns; ++i) {
          const std::string key = "model-" + std::to_string(random.below(load.keys));
          switch (random.below(8)) {
            case 0: {
              REQUIRE(erase(*table, key) == Stored::kStored);
              model.erase(key);
              break;
            }
            case 1:
            case 2: {
              const std::string value = test::make_value(key, i, random.below(load.most_bytes));
              const bool expired = random.one_in(10);
              REQUIRE(put(*table, key, value, expired ? now_ms() - kLongAgoMs : kNeverExpires) ==
                      Stored::kStored);
              if (expired) {
                model.erase(key);
              } else {
                model[key] = value;
              }
              break;
            }
            default: {
              const auto seen = read(*table, key);
              const auto known = model.find(key);
              if (known == model.end()) {
                REQUIRE_FALSE(seen.has_value());
              } else if (seen || load.all_fit) {
                REQUIRE(seen == known->second);
              }
            }
          }
          if (random.one_in(load.turns / 3)) {
            table->raise_epoch();
            model.clear();
          }
        }
        CHECK(test::faults(table->segment()).empty());
        std::size_t listed = 0;
        for_each_entry(table->segment(), [&](const EntryInfo& entry) {
          if (!entry.live) return true;
          ++listed;
          REQUIRE(model.count(entry.key) == 1);
          return true;
        });
        CHECK((!load.all_fit || listed == model.size()));
      }
    }
  }
}

// ---- observers --------------------------------------------------------------------------------

TEST_CASE("observers see what was put, by whom, and how it stands") {
  Home home;
  auto table = home.table();
  const std::uint64_t expires = now_ms() + 60'000;
  table->segment().superblock().sync.cursor_seq.store(8);
  CHECK(table->fill({"k", "value", expires}, table->sample("k"), {11, 99}) == Stored::kStored);
  std::string value;
  const auto entry = find_entry(table->segment(), "k", value);
  REQUIRE(entry.has_value());
  CHECK(value == "value");
  CHECK(entry->value_bytes == 5);
  CHECK(entry->expires_ms == expires);
  CHECK(entry->reach_seq == 11);
  CHECK(entry->base_seq == 8);
  CHECK(entry->live);
  CHECK_FALSE(find_entry(table->segment(), "none", value).has_value());
  const auto all = processes(table->segment());
  REQUIRE(all.size() == 1);
  CHECK(all[0].pid == static_cast<std::uint32_t>(getpid()));
  CHECK(all[0].held_stripes == 0);
  const Totals sum = totals(table->segment());
  CHECK(sum.entries == 1);
  CHECK(sum.payload_bytes == 1 + 5);
  CHECK(sum.live_bytes == entry_granules(1, 5) * kGranule);
  CHECK(sum.pinned_bytes == 0);
  CHECK(sum.pins == 0);
  CHECK(sum.processes == 1);
  CHECK(sum.live_bytes + sum.free_bytes == sum.arena_bytes);
  CHECK(sum.arena_bytes + sum.index_bytes + sum.metadata_bytes == home.options.bytes);
}

TEST_CASE("counters of a process that left are kept") {
  Home home;
  auto observer = home.segment();
  auto table = home.table();
  CHECK(put(*table, "k", "v") == Stored::kStored);
  CHECK(read(*table, "k").has_value());
  CHECK_FALSE(read(*table, "none").has_value());
  table.reset();
  const Totals sum = totals(*observer);
  CHECK(sum.processes == 0);
  CHECK(sum[Counter::kLocalHits] == 1);
  CHECK(sum[Counter::kLocalMisses] == 1);
  CHECK(sum[Counter::kStored] == 1);
}

// ---- policies ---------------------------------------------------------------------------------

namespace {

// As callers use a cache: what is not there is put there. Was it?
bool use(Table& table, const std::string& key, const std::string& value) {
  if (read(table, key)) return true;
  put(table, key, value);
  return false;
}

// The share of a hot set that survives a scan of keys used once.
double survivors_of_a_scan(std::uint32_t policy) {
  Home home(test::kTwoStripesBytes, policy);
  auto table = home.table();
  constexpr std::uint64_t kHot = 1000;  // an eighth of what fits
  const auto hot = [](std::uint64_t i) { return "hot-" + std::to_string(i); };
  const std::string value(400, 'v');
  // Made hot: used again and again while the segment is turned over.
  std::uint64_t cold = 0;
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 500; ++i) put(*table, "warm-" + std::to_string(cold++), value);
    for (std::uint64_t i = 0; i < kHot; ++i) use(*table, hot(i), value);
  }
  // The scan: twice the segment, and nobody asks for the hot keys meanwhile.
  for (int i = 0; i < 16'000; ++i) put(*table, "scan-" + std::to_string(i), value);
  std::uint64_t kept = 0;
  for (std::uint64_t i = 0; i < kHot; ++i) kept += table->contains(hot(i));
  CHECK(test::faults(table->segment()).empty());
  return static_cast<double>(kept) / kHot;
}

}  // namespace

TEST_CASE("lfu keeps a hot set through a scan better than lru does") {
  const double lfu = survivors_of_a_scan(kPolicyLfu);
  const double lru = survivors_of_a_scan(kPolicyLru);
  CAPTURE(lfu);
  CAPTURE(lru);
  CHECK(lfu > 0.6);
  CHECK(lfu > lru + 0.3);
}

TEST_CASE("both policies keep what is used over what is not") {
  for (const std::uint32_t policy : {kPolicyLfu, kPolicyLru}) {
    CAPTURE(policy);
    Home home(test::kTwoStripesBytes, policy);
    auto table = home.table();
    const std::string value(400, 'v');
    constexpr int kUsed = 500;
    const auto used = [](int i) { return "used-" + std::to_string(i); };
    int asked = 0;
    int missed = 0;
    for (int i = 0; i < 60'000; ++i) {
      put(*table, "once-" + std::to_string(i), value);
      if (i % 4 != 0) continue;
      const bool hit = use(*table, used(i / 4 % kUsed), value);
      if (i < 20'000) continue;  // until the segment has been full for a while
      ++asked;
      missed += !hit;
    }
    CHECK(asked == 10'000);
    CHECK(missed < asked / 50);
    CHECK(test::faults(table->segment()).empty());
  }
}

TEST_CASE("a policy takes any word for what it is, and any number names a policy") {
  for (const std::uint32_t number : {0u, 1u, 2u, 77u, UINT32_MAX}) {
    const Policy& policy = policy_of(number);
    for (unsigned use = 0; use < 65'536; use += 7) {
      for (const std::uint32_t tick : {0u, 1u, 0x3ffu, 0x400u, 77'777u, UINT32_MAX}) {
        const std::uint16_t hit = policy.on_hit(static_cast<std::uint16_t>(use), tick);
        REQUIRE(counted(hit, tick));  // the next hit at this tick stores nothing
        REQUIRE(policy.worth(hit, tick) >= policy.worth(static_cast<std::uint16_t>(use), tick));
      }
    }
  }
}

}  // namespace larder::shm
