// Readers against writers, as threads over one mapping, so that ThreadSanitizer can watch.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "shm/table.h"
#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

using test::Home;
using test::Random;

constexpr std::uint64_t kKeys = 600;
std::string key_of(std::uint64_t i) { return "thread-key-" + std::to_string(i); }

}  // namespace

TEST_CASE("readers never see half a value while writers overwrite, remove and evict") {
  Home home;
  auto table = home.table(std::chrono::seconds(10));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> went_back{0};
  std::atomic<std::uint64_t> hits{0};

  // Each key has one writer, so its numbers only grow; values are large, so the arenas turn over.
  const auto write = [&](std::uint64_t self) {
    Random random(self);
    for (std::uint64_t number = 1; number <= 4000; ++number) {
      const std::string key = key_of(random.below(kKeys / 2) * 2 + self);
      if (random.one_in(16)) {
        test::erase(*table, key);
      } else {
        test::put(*table, key, test::make_value(key, number, 24 + random.below(14'000)));
      }
    }
  };
  const auto look = [&](std::uint64_t self) {
    Random random(100 + self);
    std::vector<std::uint64_t> newest(kKeys, 0);
    std::string value;
    do {
      const std::uint64_t i = random.below(kKeys);
      const std::string key = key_of(i);
      if (random.one_in(4)) {
        const std::string_view batch[] = {key};
        if (table->get_batch(batch, [&](std::size_t) -> std::string& { return value; }) == 0) {
          continue;
        }
      } else if (!table->get(key, value)) {
        continue;
      }
      hits.fetch_add(1, std::memory_order_relaxed);
      const auto number = test::number_of(key, value);
      if (!number) {
        wrong.fetch_add(1, std::memory_order_relaxed);
      } else {
        if (*number < newest[i]) went_back.fetch_add(1, std::memory_order_relaxed);
        newest[i] = *number;
      }
    } while (!stop.load(std::memory_order_relaxed));
  };
  // Observers walk over it meanwhile.
  const auto observe = [&] {
    do {
      if (!test::faults(table->segment(), false).empty()) wrong.fetch_add(1);
      for_each_entry(table->segment(), [](const EntryInfo&) { return true; });
      (void)totals(table->segment());
    } while (!stop.load(std::memory_order_relaxed));
  };

  std::vector<std::thread> writers;
  std::vector<std::thread> readers;
  for (std::uint64_t i = 0; i < 2; ++i) readers.emplace_back(look, i);
  readers.emplace_back(observe);
  for (std::uint64_t i = 0; i < 2; ++i) writers.emplace_back(write, i);
  for (std::thread& writer : writers) writer.join();
  stop.store(true);
  for (std::thread& reader : readers) reader.join();

  CHECK(wrong.load() == 0);
  CHECK(went_back.load() == 0);
  CHECK(hits.load() > 0);
  CHECK(test::counted(*table, Counter::kEvictions) >
        100);  // bytes were used again under the readers
  CHECK(test::counted(*table, Counter::kTakeovers) == 0);
  CHECK(test::counted(*table, Counter::kLocksLost) == 0);
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE(
    "what a thread has pinned never changes under it while writers overwrite, remove and evict") {
  Home home(kSegmentMinBytes);
  auto table = home.table(std::chrono::seconds(10));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> pinned{0};
  const auto write = [&](std::uint64_t self) {
    Random random(self);
    for (std::uint64_t number = 1; number <= 4000; ++number) {
      const std::string key = key_of(random.below(60) * 2 + self);
      if (random.one_in(16)) {
        test::erase(*table, key);
      } else {
        test::put(*table, key, test::make_value(key, number, 24 + random.below(6000)));
      }
      if (number % 1500 == 0) table->raise_epoch();
    }
  };
  const auto look = [&](std::uint64_t self) {
    Random random(100 + self);
    std::vector<std::pair<std::string, Pinned>> views;
    do {
      std::string key = key_of(random.below(120));
      const auto view = table->pin(key);
      if (!view) {
        wrong.fetch_add(1);
      } else if (view->word != nullptr) {
        pinned.fetch_add(1, std::memory_order_relaxed);
        views.emplace_back(std::move(key), *view);
      }
      if (views.size() < 8) continue;
      for (const auto& [name, held] : views) {
        if (!test::number_of(name, held.value)) wrong.fetch_add(1);
        unpin(held);
      }
      views.clear();
    } while (!stop.load(std::memory_order_relaxed));
    for (const auto& [name, held] : views) unpin(held);
  };
  std::vector<std::thread> writers;
  std::vector<std::thread> readers;
  for (std::uint64_t i = 0; i < 2; ++i) readers.emplace_back(look, i);
  for (std::uint64_t i = 0; i < 2; ++i) writers.emplace_back(write, i);
  for (std::thread& writer : writers) writer.join();
  stop.store(true);
  for (std::thread& reader : readers) reader.join();
  CHECK(wrong.load() == 0);
  CHECK(pinned.load() > 100);
  CHECK(totals(table->segment()).pins == 0);
  for (int i = 0; i < 64; ++i) CHECK(test::put(*table, "k", "v") == Stored::kStored);
  CHECK(totals(table->segment()).pinned_bytes == 0);
  CHECK(test::faults(table->segment()).empty());
}

TEST_CASE("a key that is held is found while the index grows and others are stored") {
  constexpr std::uint64_t kHeld = 300;
  constexpr std::uint64_t kOthers = 8000;
  for (std::uint64_t round = 0; round < 30; ++round) {
    Home home;
    auto table = home.table(std::chrono::seconds(10));
    for (std::uint64_t i = 0; i < kHeld; ++i) test::put(*table, key_of(i), "held");
    const std::uint32_t before = table->segment().stripe(0).index.load();
    std::atomic<bool> stop{false};
    std::thread writer([&] {
      for (std::uint64_t i = 0; i < kOthers; ++i) test::put(*table, "o" + std::to_string(i), "x");
      stop.store(true);
    });
    Random random(round);
    std::string value;
    std::uint64_t misses = 0;
    while (!stop.load(std::memory_order_relaxed)) {
      misses += table->get(key_of(random.below(kHeld)), value) ? 0 : 1;
    }
    writer.join();
    REQUIRE(test::counted(*table, Counter::kEvictions) == 0);
    CHECK(misses == 0);
    CHECK(table->segment().stripe(0).index.load() >= 8 * before);
  }
}

TEST_CASE("threads and tables of one process exclude each other in a stripe") {
  Home home;
  const auto keys = [&] {
    auto segment = home.segment();
    return test::keys_of_stripe(*segment, 0, 4);
  }();
  std::vector<std::thread> threads;
  std::atomic<std::uint64_t> refused{0};
  auto shared = home.table(std::chrono::seconds(10));
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      // Two share a table, two have their own.
      const auto own = t < 2 ? nullptr : home.table(std::chrono::seconds(10));
      Table& table = own ? *own : *shared;
      for (std::uint64_t i = 0; i < 2000; ++i) {
        const std::string& key = keys[i % keys.size()];
        if (test::put(table, key, test::make_value(key, i, 3000)) != Stored::kStored) ++refused;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(refused.load() == 0);
  CHECK(test::counted(*shared, Counter::kTakeovers) == 0);
  CHECK(test::counted(*shared, Counter::kLocksLost) == 0);
  CHECK(test::faults(shared->segment()).empty());
}

TEST_CASE("threads that take a first place at once take one") {
  for (int round = 0; round < 20; ++round) {
    Home home;
    Table table(home.segment(), TableOptions{});
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] { (void)table.join(); });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(processes(table.segment()).size() == 1);
  }
}

}  // namespace larder::shm
