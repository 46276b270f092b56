// Views: what is pinned stays, whatever becomes of its key, and its room comes back afterwards.
#include <doctest/doctest.h>
#include <signal.h>

#include <functional>

#include "shm/clock.h"
#include "shm/table.h"
#include "tests/shm/fixture.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using test::Forked;
using test::Home;
using test::put;
using test::Random;
using test::read;
using test::Steps;

// Room that was pinned is looked for at every so many writes of a stripe.
constexpr int kWritesUntilReleased = 64;

Pinned pinned(Table& table, std::string_view key) {
  auto pin = table.pin(key);
  REQUIRE_MESSAGE(pin.ok(), pin.status().message());
  REQUIRE(pin->word != nullptr);
  return *pin;
}

// Many values of many sizes: nothing stays where it is but what is pinned.
void turn_over(Table& table, std::uint64_t seed, int writes = 3000) {
  Random random(seed);
  for (int i = 0; i < writes; ++i) {
    const std::string key = "other-" + std::to_string(random.below(2000));
    const std::size_t bytes = random.one_in(40) ? random.below(60'000) : random.below(1200);
    REQUIRE(put(table, key, test::make_value(key, seed, bytes)) == Stored::kStored);
  }
}

std::uint64_t pinned_bytes(Table& table) { return totals(table.segment()).pinned_bytes; }

// A few writes, after which nothing that nobody pins may be held back.
void expect_all_released(Table& table) {
  for (int i = 0; i < kWritesUntilReleased; ++i) {
    REQUIRE(put(table, "another", std::to_string(i)) == Stored::kStored);
  }
  CHECK(pinned_bytes(table) == 0);
  CHECK(totals(table.segment()).pins == 0);
  CHECK(test::faults(table.segment()) == "");
}

// As if the owner of the stripe's lock had died: a word of a place that nobody has.
void orphan(Stripe& stripe) { stripe.lock.store(make_owner(40, 7)); }

}  // namespace

TEST_CASE("a pinned value stays bit for bit, whatever becomes of its key") {
  struct Fate {
    const char* name;
    std::function<void(Table&)> befall;
  };
  const Fate fates[] = {
      {"overwritten", [](Table& t) { CHECK(put(t, "k", "news") == Stored::kStored); }},
      {"overwritten by a value of its size",
       [](Table& t) { CHECK(put(t, "k", test::make_value("k", 2, 20'000)) == Stored::kStored); }},
      {"removed", [](Table& t) { CHECK(test::erase(t, "k") == Stored::kStored); }},
      {"evicted",
       [](Table& t) {
         for (std::uint64_t seed = 50; t.contains("k"); ++seed) {
           REQUIRE(seed < 80);
           turn_over(t, seed, 500);
         }
       }},
      {"wiped",
       [](Table& t) {
         t.segment().stripe(0).bypass.fetch_add(1);
         CHECK(t.drop("another") == Stored::kStored);
       }},
      {"flushed",
       [](Table& t) {
         t.raise_epoch();
         CHECK(put(t, "another", "v") == Stored::kStored);
       }},
      {"below the floor",
       [](Table& t) {
         t.raise_floor(t.sample("k").epoch, 100);
         CHECK(t.drop("another") == Stored::kStored);
       }},
      {"repaired, removed, and repaired again",
       [](Table& t) {
         orphan(t.segment().stripe(0));
         CHECK(t.drop("another") == Stored::kStored);
         CHECK(t.contains("k"));
         CHECK(test::erase(t, "k") == Stored::kStored);
         orphan(t.segment().stripe(0));
         CHECK(t.drop("another") == Stored::kStored);
       }},
      {"in the way of a value that needs half the arena",
       [](Table& t) {
         const std::size_t half = test::most_value_bytes(t.segment(), "k") / 2;
         const std::string large = test::make_value("large", 1, half * 8 / 10);
         CHECK(put(t, "large", large) == Stored::kStored);
         CHECK(read(t, "large") == large);
         CHECK(test::erase(t, "k") == Stored::kStored);
         CHECK(put(t, "large too", large) == Stored::kStored);
       }},
  };
  for (const Fate& fate : fates) {
    CAPTURE(std::string(fate.name));
    Home home(kSegmentMinBytes);  // one stripe
    auto table = home.table();
    turn_over(*table, 1);
    const std::string value = test::make_value("k", 1, 20'000);
    REQUIRE(put(*table, "k", value) == Stored::kStored);
    const Pinned view = pinned(*table, "k");
    REQUIRE((view.value == value));
    CHECK(pinned_bytes(*table) == 0);  // still reachable
    fate.befall(*table);
    REQUIRE((view.value == value));
    for (std::uint64_t seed = 2; seed < 8; ++seed) {
      turn_over(*table, seed, 500);
      REQUIRE((view.value == value));
      REQUIRE(test::faults(table->segment()) == "");
    }
    CHECK_FALSE(read(*table, "k") == value);
    CHECK(pinned_bytes(*table) == entry_granules(1, value.size()) * kGranule);
    CHECK(totals(table->segment()).pins == 1);
    unpin(view);
    if (std::string(fate.name) == "below the floor") table->raise_epoch();
    expect_all_released(*table);
  }
}

TEST_CASE("a miss pins nothing, and a key that expired is a miss") {
  Home home;
  auto table = home.table();
  REQUIRE(put(*table, "past", "v", now_ms() - 1000) == Stored::kStored);
  for (const char* key : {"none", "past"}) {
    const auto miss = table->pin(key);
    REQUIRE(miss.ok());
    CHECK(miss->word == nullptr);
    unpin(*miss);
  }
  CHECK(totals(table->segment()).pins == 0);
  REQUIRE(put(*table, "empty", "") == Stored::kStored);
  const Pinned view = pinned(*table, "empty");
  CHECK(view.value.empty());
  CHECK(totals(table->segment()).pins == 1);
  unpin(view);
  CHECK(totals(table->segment()).pins == 0);
}

TEST_CASE("a process pins 32 values at a time, the next is told what to do") {
  Home home;
  auto table = home.table();
  std::vector<Pinned> views;
  for (std::size_t i = 0; i < kPins; ++i) {
    const std::string key = "k" + std::to_string(i);
    REQUIRE(put(*table, key, key) == Stored::kStored);
    views.push_back(pinned(*table, key));
  }
  const auto refused = table->pin("k1");
  CHECK(refused.code() == Code::kBusy);
  CHECK(refused.status().message().find("32 views") != std::string::npos);
  CHECK(table->pin("none").code() == Code::kBusy);  // it cannot know
  // Another table of this process is another place.
  auto other = home.table();
  const Pinned beside = pinned(*other, "k1");
  CHECK(beside.value == "k1");
  unpin(views[7]);
  const Pinned again = pinned(*table, "k3");
  CHECK(again.value == "k3");
  CHECK(table->pin("k1").code() == Code::kBusy);
  for (std::size_t i = 0; i < kPins; ++i) {
    CHECK(views[i].value == "k" + std::to_string(i));
    if (i != 7) unpin(views[i]);
  }
  unpin(again);
  unpin(beside);
  CHECK(totals(table->segment()).pins == 0);
}

TEST_CASE("one value may be pinned many times, and is let go with the last") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  const std::string value = test::make_value("k", 1, 5000);
  REQUIRE(put(*table, "k", value) == Stored::kStored);
  std::vector<Pinned> views;
  for (int i = 0; i < 5; ++i) views.push_back(pinned(*table, "k"));
  REQUIRE(test::erase(*table, "k") == Stored::kStored);
  for (std::uint64_t i = 0; i < views.size(); ++i) {
    turn_over(*table, 10 + i, 600);
    CHECK((views.back().value == value));
    CHECK(pinned_bytes(*table) == entry_granules(1, value.size()) * kGranule);
    unpin(views[i]);
  }
  expect_all_released(*table);
}

TEST_CASE(
    "what is pinned may fill the arena: sets are refused, readers read, and room comes back") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  const std::size_t third = test::most_value_bytes(table->segment(), "key-0") / 3;
  std::vector<Pinned> views;
  std::vector<std::string> values;
  for (int i = 0; i < 3; ++i) {
    const std::string key = "key-" + std::to_string(i);
    values.push_back(test::make_value(key, 1, third - 200));
    REQUIRE(put(*table, key, values.back()) == Stored::kStored);
    views.push_back(pinned(*table, key));
  }
  // Nothing of that size has room beside what is pinned. The old copy is gone either way.
  CHECK(put(*table, "key-0", test::make_value("key-0", 2, third)) == Stored::kTooLarge);
  CHECK_FALSE(read(*table, "key-0").has_value());
  CHECK(put(*table, "large", std::string(third, 'l')) == Stored::kTooLarge);
  for (std::size_t i = 0; i < views.size(); ++i) CHECK((views[i].value == values[i]));
  CHECK(test::faults(table->segment()) == "");
  for (const Pinned& view : views) unpin(view);
  CHECK(put(*table, "large", std::string(third, 'l')) == Stored::kStored);
  CHECK(read(*table, "large") == std::string(third, 'l'));
  expect_all_released(*table);
}

TEST_CASE("a set that has no room between what is pinned costs nobody else anything") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const std::size_t most = test::most_value_bytes(segment, "large");
  const auto keys = test::keys_of_stripe(segment, 0, 4000);
  std::vector<Pinned> views;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    REQUIRE(put(*table, keys[i], test::make_value(keys[i], i, 300)) == Stored::kStored);
    if (i % 500 == 250) views.push_back(pinned(*table, keys[i]));
  }
  const std::uint64_t evictions = test::counted(*table, Counter::kEvictions);
  const std::string_view large = keys[0];  // of the same stripe
  CHECK(put(*table, large, std::string(most / 2, 'l')) == Stored::kTooLarge);
  CHECK(test::counted(*table, Counter::kEvictions) == evictions);
  // Between two of them there is room.
  CHECK(put(*table, large, std::string(most / 16, 'l')) == Stored::kStored);
  CHECK(test::faults(segment) == "");
  for (const Pinned& view : views) unpin(view);
  CHECK(put(*table, large, std::string(most / 2, 'l')) == Stored::kStored);
  expect_all_released(*table);
}

TEST_CASE("what nobody pins any more is used before anybody has to go") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 1002);
  const std::size_t most = test::most_value_bytes(segment, keys[0]);
  REQUIRE(put(*table, keys[0], std::string(most / 4 * 3, 'l')) == Stored::kStored);
  const Pinned view = pinned(*table, keys[0]);
  REQUIRE(put(*table, keys[0], "small") == Stored::kStored);
  for (std::size_t i = 2; i < keys.size(); ++i) {
    REQUIRE(put(*table, keys[i], "others") == Stored::kStored);
  }
  unpin(view);
  CHECK(put(*table, keys[1], std::string(most / 4 * 3, 'm')) == Stored::kStored);
  CHECK(test::counted(*table, Counter::kEvictions) == 0);
  CHECK(test::faults(segment) == "");
}

TEST_CASE("more room than is listed comes back too when nobody pins it any more") {
  constexpr int kWritesUntilRebuilt = 4096;
  Home home;
  auto one = home.table();
  auto two = home.table();  // a process pins so many values only, and these are one process's twice
  Segment& segment = one->segment();
  const auto keys = test::keys_of_stripe(segment, 0, kQuarantine + 9);
  std::vector<Pinned> views;
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    REQUIRE(put(*one, keys[i], std::string(8000, 'v')) == Stored::kStored);
    views.push_back(pinned(i < kQuarantine / 2 ? *one : *two, keys[i]));
    REQUIRE(test::erase(*one, keys[i]) == Stored::kStored);
  }
  for (const Pinned& view : views) unpin(view);
  for (int i = 0; i < kWritesUntilRebuilt; ++i) {
    REQUIRE(put(*one, keys.back(), "small") == Stored::kStored);
  }
  CHECK(pinned_bytes(*one) == 0);
  CHECK(test::faults(segment) == "");
}

TEST_CASE("what is stored while the stripe is found empty is found, also when the index grows") {
  Home home;
  auto table = home.table();
  Segment& segment = table->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 1100);
  const std::size_t most = test::most_value_bytes(segment, keys[0]);
  for (const std::string& key : keys) REQUIRE(put(*table, key, "small") == Stored::kStored);
  for (const std::string& key : keys) REQUIRE(test::erase(*table, key) == Stored::kStored);
  // The last that has to go for it was viewed, and nobody knows yet that it is not any more.
  for (std::size_t i = 0; i < 8; ++i) {
    REQUIRE(put(*table, keys[i], std::string(most / 8 - 100, 'v')) == Stored::kStored);
  }
  const Pinned view = pinned(*table, keys[3]);
  REQUIRE(test::erase(*table, keys[3]) == Stored::kStored);
  unpin(view);
  const std::string& key = keys[1050];
  REQUIRE(put(*table, key, std::string(most - 100, 'l')) == Stored::kStored);
  CHECK(read(*table, key) == std::string(most - 100, 'l'));
  CHECK(test::faults(segment) == "");
}

TEST_CASE("rebuilding an empty stripe for what was not listed loses nothing") {
  constexpr int kWritesUntilRebuilt = 4096;
  Home home;
  auto one = home.table();
  auto two = home.table();
  Segment& segment = one->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 1000);
  for (const std::string& key : keys) REQUIRE(put(*one, key, "small") == Stored::kStored);
  std::vector<Pinned> views;
  for (std::size_t i = 0; i <= kQuarantine; ++i) {
    views.push_back(pinned(i % 2 ? *one : *two, keys[i]));
  }
  for (const std::string& key : keys) REQUIRE(test::erase(*one, key) == Stored::kStored);
  for (const Pinned& view : views) unpin(view);
  for (int i = 0; i < kWritesUntilRebuilt; ++i) {
    const std::string& key = keys[static_cast<std::size_t>(i) % keys.size()];
    REQUIRE(put(*one, key, "v") == Stored::kStored);
    REQUIRE(read(*one, key) == "v");
    REQUIRE(test::erase(*one, key) == Stored::kStored);
  }
  CHECK(test::faults(segment) == "");
}

TEST_CASE("a large value that is viewed stops nobody from making room beside it") {
  constexpr std::size_t kMiddle = 2000;
  Home home(8u << 20);
  auto table = home.table();
  Segment& segment = table->segment();
  const auto keys = test::keys_of_stripe(segment, 0, 11'000);
  const auto evictions = [&] { return test::counted(*table, Counter::kEvictions); };
  std::optional<Pinned> view;
  for (std::size_t i = 0; i < keys.size() - 1 && evictions() == 0; ++i) {
    const std::size_t bytes = i == kMiddle ? 16'000 : 300;
    REQUIRE(put(*table, keys[i], std::string(bytes, 'v')) == Stored::kStored);
    if (i == kMiddle) view = pinned(*table, keys[i]);
  }
  REQUIRE(evictions() > 0);
  // Holes around it, enough together.
  for (std::size_t i = kMiddle - 310; i < kMiddle + 310; i += 2) {
    if (i != kMiddle) test::erase(*table, keys[i]);
  }
  const std::uint64_t before = evictions();
  CHECK(put(*table, keys.back(), std::string(64 << 10, 'l')) == Stored::kStored);
  CHECK(evictions() - before < 20);
  unpin(*view);
  CHECK(test::faults(segment) == "");
}

// ---- processes --------------------------------------------------------------------------------

TEST_CASE("the pins of a killed process are given up by whoever reaps it") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  for (int i = 0; i < 5; ++i) {
    const std::string key = "held-" + std::to_string(i);
    REQUIRE(put(*table, key, test::make_value(key, 1, 4000)) == Stored::kStored);
  }
  Forked holder([&](Steps& steps) {
    auto its = home.table();
    for (int i = 0; i < 5; ++i)
      CHILD_REQUIRE(its->pin("held-" + std::to_string(i))->word != nullptr);
    steps.reached();
    return steps.wait_for_death();
  });
  REQUIRE(holder.await_step());
  CHECK(totals(table->segment()).pins == 5);
  for (int i = 0; i < 5; ++i) {
    REQUIRE(put(*table, "held-" + std::to_string(i), "news") == Stored::kStored);
  }
  turn_over(*table, 4);
  const std::uint64_t held = 5 * entry_granules(6, 4000) * kGranule;
  CHECK(pinned_bytes(*table) == held);
  holder.kill_now();
  turn_over(*table, 5);
  CHECK(pinned_bytes(*table) == held);  // nobody knows yet that it is dead
  CHECK(table->reap() == 1);
  expect_all_released(*table);
}

TEST_CASE("a newcomer in the place of a process that was killed pins nothing") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  REQUIRE(put(*table, "k", test::make_value("k", 1, 4000)) == Stored::kStored);
  for (int round = 0; round < 3; ++round) {
    Forked holder([&](Steps& steps) {
      auto its = home.table();
      CHILD_REQUIRE(totals(its->segment()).pins == 0);
      CHILD_REQUIRE(its->pin("k")->word != nullptr);
      CHILD_REQUIRE(totals(its->segment()).pins == 1);
      steps.reached();
      return steps.wait_for_death();
    });
    REQUIRE(holder.await_step());
    holder.kill_now();
    CHECK(table->reap() == 1);
    CHECK(totals(table->segment()).pins == 0);
  }
}

TEST_CASE("a process that leaves gives its pins back") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  auto other = home.table();
  REQUIRE(put(*table, "k", test::make_value("k", 1, 4000)) == Stored::kStored);
  (void)pinned(*other, "k");
  REQUIRE(test::erase(*table, "k") == Stored::kStored);
  CHECK(pinned_bytes(*table) > 0);
  other.reset();
  expect_all_released(*table);
}

TEST_CASE("a forked child does not unpin what its parent holds") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  const std::string value = test::make_value("k", 1, 4000);
  REQUIRE(put(*table, "k", value) == Stored::kStored);
  const Pinned view = pinned(*table, "k");
  Forked child([&](Steps&) {
    unpin(view);
    CHILD_REQUIRE(totals(table->segment()).pins == 1);
    CHILD_REQUIRE(table->pin("k")->word != nullptr);  // its own
    CHILD_REQUIRE(totals(table->segment()).pins == 2);
    table->processes().leave();
    return 0;
  });
  CHECK(child.wait() == 0);
  CHECK(totals(table->segment()).pins == 1);
  REQUIRE(test::erase(*table, "k") == Stored::kStored);
  turn_over(*table, 3);
  CHECK((view.value == value));
  unpin(view);
  expect_all_released(*table);
}

TEST_CASE("who was taken for dead does not unpin what a newcomer in its place holds") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  auto newcomer = home.table();
  REQUIRE(put(*newcomer, "k", "one") == Stored::kStored);
  REQUIRE(put(*newcomer, "l", "two") == Stored::kStored);
  const Pinned old = pinned(*table, "k");
  // As a reaper of another PID namespace would, after its grace; then the newcomer pins in the
  // same place, and so in the same word.
  const std::uint32_t robbed = owner_place(*table->processes().self());
  const Pinned its = pinned(*newcomer, "l");
  Place& place = table->segment().place(robbed);
  const std::uint64_t word = its.word->load();
  place.state.store(make_state(state_incarnation(place.state.load()) + 1, PlaceState::kAlive));
  place.pins[0].store(word);
  REQUIRE(&place.pins[0] == old.word);
  unpin(old);
  CHECK(place.pins[0].load() == word);
  place.pins[0].store(0);
  unpin(its);
}

TEST_CASE(
    "more values than a stripe can list may be pinned and overwritten, each stays, all return") {
  Home home(1 << 20);
  auto table = home.table();
  REQUIRE(table->segment().geometry().stripe_count == 1);
  constexpr int kProcesses = 3;
  constexpr int kEach = 25;
  static_assert(kProcesses * kEach > 2 * kQuarantine);
  const auto key_of = [](int process, int i) {
    return "pinned-" + std::to_string(process) + "-" + std::to_string(i);
  };
  for (int p = 0; p < kProcesses; ++p) {
    for (int i = 0; i < kEach; ++i) {
      const std::string key = key_of(p, i);
      REQUIRE(put(*table, key, test::make_value(key, 7, 2000 + 100u * i)) == Stored::kStored);
    }
  }
  std::vector<Forked> holders;
  for (int p = 0; p < kProcesses; ++p) {
    holders.emplace_back([&, p](Steps& steps) {
      auto its = home.table();
      std::vector<Pinned> views;
      for (int i = 0; i < kEach; ++i) {
        const auto view = its->pin(key_of(p, i));
        CHILD_REQUIRE(view.ok() && view->word != nullptr);
        views.push_back(*view);
      }
      steps.reached();
      for (int look = 0; look < 3; ++look) {
        steps.wait();
        for (int i = 0; i < kEach; ++i) {
          CHILD_REQUIRE(test::number_of(key_of(p, i), views[i].value) == 7);
        }
        steps.reached();
      }
      steps.wait();
      for (const Pinned& view : views) unpin(view);
      its.reset();
      return 0;
    });
  }
  for (Forked& each : holders) REQUIRE(each.await_step());
  const auto look = [&] {
    for (Forked& each : holders) each.go_on();
    for (Forked& each : holders) REQUIRE(each.await_step());
  };
  for (int p = 0; p < kProcesses; ++p) {
    for (int i = 0; i < kEach; ++i) {
      if (i % 2 == 0) {
        REQUIRE(put(*table, key_of(p, i), "news") == Stored::kStored);
      } else {
        REQUIRE(test::erase(*table, key_of(p, i)) == Stored::kStored);
      }
    }
  }
  look();
  turn_over(*table, 1, 6000);  // past the turn at which the map is made anew
  look();
  CHECK(test::faults(table->segment()) == "");
  table->raise_epoch();
  turn_over(*table, 2, 2000);
  orphan(table->segment().stripe(0));
  turn_over(*table, 3, 2000);
  look();
  CHECK(test::faults(table->segment()) == "");
  for (Forked& each : holders) each.go_on();
  for (Forked& each : holders) CHECK(each.wait() == 0);
  turn_over(*table, 4, 5000);
  expect_all_released(*table);
  const std::size_t most = test::most_value_bytes(table->segment(), "all");
  CHECK(put(*table, "all", test::make_value("all", 1, most)) == Stored::kStored);
  CHECK(test::faults(table->segment()) == "");
}

}  // namespace larder::shm
