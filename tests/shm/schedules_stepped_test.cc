// Schedules, see schedules_test.cc, in which processes are held between two instructions: under
// ptrace, as in tests/kill, so that what is held is the library as it is.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <new>
#include <type_traits>
#include <vector>

#include "shm/lock.h"
#include "shm/table.h"
#include "tests/kill/stepper.h"
#include "tests/shm/fixture.h"
#include "tests/shm/holder.h"
#include "tests/support/forked.h"

namespace larder::shm {
namespace {

using kill::Stepper;
using test::counted;
using test::Forked;
using test::Home;
using test::put;
using test::read;
using test::Steps;

constexpr std::uint32_t kStripe = 0;
constexpr std::chrono::milliseconds kTry{0};
constexpr std::size_t kValueBytes = 300;

ChangeId id(std::uint64_t seq) { return {seq, seq + 1'000'000}; }

// What a child tells its parent.
template <class T>
class Shared {
 public:
  static_assert(std::is_trivially_destructible_v<T>);
  Shared() {
    void* memory =
        mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    value_ = new (memory) T{};
  }
  ~Shared() { munmap(value_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return value_; }
  T& operator*() const { return *value_; }

 private:
  T* value_;
};

template <class Condition>
[[nodiscard]] bool step_until(Stepper& process, Condition reached) {
  while (!reached()) {
    if (!process.step()) return false;
  }
  return true;
}

// False: it was over before that.
[[nodiscard]] bool step(Stepper& process, std::uint64_t instructions) {
  for (std::uint64_t i = 0; i < instructions; ++i) {
    if (!process.step()) return false;
  }
  return true;
}

// To the moment when it has asked the kernel whether a process exists, for the `turn`-th time.
[[nodiscard]] bool run_until_asked_for_life(Stepper& process, std::uint64_t turn) {
  return process.run_to(reinterpret_cast<std::uintptr_t>(&::kill), turn) && process.step_out();
}

// Dead and gone, within the lock of the stripe: its name there.
std::uint32_t leave_dead_owner(const Home& home, Segment& segment) {
  auto owner = test::stopped_holder(home, kStripe);
  const std::uint32_t word = segment.stripe(kStripe).lock.load();
  owner.kill_now();
  return word;
}

}  // namespace

// ---- 3: bypass and wipe lose the guards -------------------------------------------------------

TEST_CASE("schedule 3b: a bypass that is raised during a wipe is not lifted by it") {
  Home home;
  auto table = home.table();
  const auto keys = test::keys_of_stripe(table->segment(), kStripe, 2);
  const std::string& k = keys[0];
  Stripe& stripe = table->segment().stripe(kStripe);
  SyncWords& words = table->segment().superblock().sync;
  const std::uint64_t term = *table->begin_term();
  test::follow(table->segment(), id(120));
  // Event 120 did not get the lock. P wipes, and is held when it has raised the guard.
  stripe.bypass.fetch_add(1);
  const std::uint64_t count = table->sample(k).guard_count;
  Stepper wiper([&] { (void)table->processes().self(); },
                [&] {
                  (void)table->drop(keys[1]);
                  table->processes().leave();
                });
  REQUIRE(step_until(wiper, [&] { return table->sample(k).guard_count > count; }));
  REQUIRE(stripe.bypass.load() == 1);
  // Q asks Redis for k and hears the value of 120. Then comes event 121, which changes k.
  const Sample sample = table->sample(k);
  words.head_seq.store(121);
  REQUIRE(table->apply({Change::Kind::kDrop, {k, {}}, id(121)}, term) == Applied::kDeferred);
  test::follow(table->segment(), id(121));
  wiper.finish();
  CHECK(table->fill({k, "old"}, sample, id(120)) == Stored::kRefused);
  CHECK_FALSE(read(*table, k).has_value());
  CHECK(stripe.bypass.load() == 0);
  CHECK(table->fill({k, "new"}, table->sample(k), id(121)) == Stored::kStored);
}

// ---- 4: the lock is stolen from the living ----------------------------------------------------

TEST_CASE("schedule 4a: who found an owner dead does not rob the newcomer in its place") {
  Home home;
  auto table = home.table();
  Stripe& stripe = table->segment().stripe(kStripe);
  const std::uint32_t dead = leave_dead_owner(home, table->segment());
  struct Outcome {
    std::uint32_t self;
    Acquired acquired;
  };
  Shared<Outcome> outcome;
  // W finds the dead one's byte free, its process gone, and is descheduled.
  Stepper late(
      [&] { outcome->self = *table->processes().self(); },
      [&] { outcome->acquired = acquire(stripe, outcome->self, table->processes(), kTry); });
  REQUIRE(run_until_asked_for_life(late, 1));
  // R reaps it; N takes its place and the lock.
  REQUIRE(table->reap() == 1);
  REQUIRE(stripe.lock.load() == 0);
  auto newcomer = test::stopped_holder(home, kStripe);
  const std::uint32_t its = stripe.lock.load();
  REQUIRE(owner_place(its) == owner_place(dead));
  late.finish();
  CHECK(outcome->acquired == Acquired::kTimeout);
  CHECK((stripe.lock.load() & ~kWaiters) == its);
  newcomer.signal(SIGCONT);
  CHECK(newcomer.await_step());  // the lock was its own to release
}

TEST_CASE("schedule 4b: two who find an owner dead do not both repair") {
  Home home;
  auto table = home.table();
  Stripe& stripe = table->segment().stripe(kStripe);
  const std::uint32_t own = *table->processes().self();
  const std::uint32_t dead = leave_dead_owner(home, table->segment());
  Shared<unsigned> reaped;
  // R reaps. It has found the dead one twice: as one to be reaped, and as the lock's owner.
  Stepper reaper([&] { (void)table->processes().self(); }, [&] { *reaped = table->reap(); });
  REQUIRE(run_until_asked_for_life(reaper, 2));
  REQUIRE(stripe.lock.load() == dead);
  // W takes over, and repairs.
  REQUIRE(acquire(stripe, own, table->processes(), kTry) == Acquired::kFromDead);
  reaper.finish();
  CHECK((stripe.lock.load() & ~kWaiters) == own);
  CHECK(counted(*table, Counter::kTakeovers) == 0);  // R's would be the only one counted
  CHECK(release(stripe, own));
  CHECK(*reaped == 1);
}

// ---- 6: a value is torn through its run's use for another -------------------------------------
//
// The draft's pages with generations are gone. What is used again is a run, and a version in each
// bucket tells its readers: it rises after the slot was cleared, and they load it before the slot.

namespace {

// A reader and a writer of one key, each held wherever the test wants. The writer removes the key
// and stores another value of the same size: in the same granules, under the same slot's word.
class Race {
 public:
  Race() : table_(home_.table()), key_(test::keys_of_stripe(table_->segment(), kStripe, 1)[0]) {
    REQUIRE(put(*table_, key_, make_value(0)) == Stored::kStored);
    const auto place = place_of(table_->segment(), table_->segment().hash(key_));
    for (const std::uint32_t index : {place.home, place.other}) {
      Bucket& in = table_->segment().bucket(kStripe, index);
      for (auto& slot : in.slots) {
        if (slot.load() != 0) bucket_ = &in, slot_ = &slot;
      }
    }
    REQUIRE(slot_ != nullptr);
    word_ = slot_->load();
    entry_ = table_->segment().arena(kStripe) + std::uint64_t{slot_granule(word_)} * kGranule;
  }

  // Another turn: both stand before their first instruction.
  void begin() {
    old_ = make_value(++number_);
    new_ = make_value(++number_);
    REQUIRE(put(*table_, key_, old_) == Stored::kStored);
    // Where the value before was.
    REQUIRE(test::erase(*table_, key_) == Stored::kStored);
    REQUIRE(put(*table_, key_, old_) == Stored::kStored);
    word_ = slot_->load();
    entry_ = table_->segment().arena(kStripe) + std::uint64_t{slot_granule(word_)} * kGranule;
    version_ = bucket_->version.load();
    *seen_ = {};
    reader_.emplace([this] { copy_.resize(kValueBytes); },
                    [this] {
                      seen_->hit = table_->get(key_, copy_);
                      seen_->bytes = std::min(copy_.size(), sizeof seen_->value);
                      std::memcpy(seen_->value, copy_.data(), seen_->bytes);
                    });
    writer_.emplace([this] { (void)table_->processes().self(); },
                    [this] {
                      (void)test::erase(*table_, key_);
                      (void)put(*table_, key_, new_);
                      table_->processes().leave();
                    });
  }
  // False: the reader was through before that.
  bool hold_reader(std::uint64_t instructions) { return step(*reader_, instructions); }
  // The slot cleared and the version not yet raised, or, if that is the order, the reverse.
  void hold_writer_within_removal() {
    hold_writer(within_removal_,
                [this] { return slot_->load() == 0 || bucket_->version.load() != version_; });
  }
  void hold_writer_within_value() {
    hold_writer(within_value_, [this] {
      const std::string_view value(entry_ + sizeof(EntryHeader) + key_.size(), kValueBytes);
      return value != old_ && value != new_;
    });
  }

  // What the reader made of it: old, new or nothing.
  void judge_reader() {
    reader_->finish();
    if (!seen_->hit) return;
    const std::string_view value(seen_->value, seen_->bytes);
    CHECK((value == old_ || value == new_));
  }
  void judge_writer() {
    writer_->finish();
    CHECK(slot_->load() == word_);  // the very same
    CHECK((read(*table_, key_) == new_));
  }

 private:
  struct Seen {
    bool hit;
    std::size_t bytes;
    char value[kValueBytes];
  };
  std::string make_value(std::uint64_t number) const {
    return test::make_value(key_, number, kValueBytes);
  }
  // `at`: the instruction where that was so before, so that it need not be looked for at each.
  template <class Condition>
  void hold_writer(std::uintptr_t& at, Condition reached) {
    if (at != 0) REQUIRE(writer_->run_to(at, 1));
    REQUIRE(step_until(*writer_, reached));
    at = writer_->at();
  }

  Home home_;
  std::unique_ptr<Table> table_;
  const std::string key_;
  Bucket* bucket_ = nullptr;
  Atomic<std::uint32_t>* slot_ = nullptr;
  std::uint32_t word_ = 0;
  std::uint32_t version_ = 0;
  const char* entry_ = nullptr;
  std::uint64_t number_ = 0;
  std::string old_;
  std::string new_;
  std::string copy_;  // the reader's
  Shared<Seen> seen_;
  std::optional<Stepper> reader_;
  std::optional<Stepper> writer_;
  std::uintptr_t within_removal_ = 0;
  std::uintptr_t within_value_ = 0;
};

constexpr std::uint64_t kLeastInstructions = 100;  // of a get

}  // namespace

TEST_CASE("schedule 6: a reader held anywhere does not return what was written over its entry") {
  Race race;
  std::uint64_t held = 0;
  for (;; ++held) {
    CAPTURE(held);
    race.begin();
    if (!race.hold_reader(held)) break;
    race.judge_writer();
    race.judge_reader();
  }
  CHECK(held > kLeastInstructions);
}

TEST_CASE("schedule 6a: nor one that looked between the clearing of a slot and its version") {
  Race race;
  std::uint64_t held = 0;
  for (;; ++held) {
    CAPTURE(held);
    race.begin();
    race.hold_writer_within_removal();
    if (!race.hold_reader(held)) break;
    race.hold_writer_within_value();
    race.judge_reader();
    race.judge_writer();
  }
  CHECK(held > kLeastInstructions / 2);  // it finds nothing, soon
}

TEST_CASE("schedule 6b: nor one that knew the slot before the version rose") {
  Race race;
  std::uint64_t held = 0;
  for (;; ++held) {
    CAPTURE(held);
    race.begin();
    if (!race.hold_reader(held)) break;
    race.hold_writer_within_value();
    race.judge_reader();
    race.judge_writer();
  }
  CHECK(held > kLeastInstructions);
}

// ---- 14: pins ---------------------------------------------------------------------------------

namespace {

// The stores of a held process to some words stay in its processor's buffer for as long as the
// processor may keep them there (x86): until an instruction that waits for them. Nobody else sees
// them before.
class StoreBuffer {
 public:
  explicit StoreBuffer(Stepper& process) : process_(process) {}
  template <class Word>
  void watch(Atomic<Word>& word) {
    words_.push_back({reinterpret_cast<char*>(&word), sizeof word, {}, {}});
    std::memcpy(words_.back().before, &word, sizeof word);
  }
  bool holds_any() const { return holds_any_; }

  // One instruction further. False: the process is at its end, what it stored still its own.
  bool step() {
    const bool waits = at_barrier();
    if (waits) drain();
    const bool goes_on = process_.step();
    for (Held& word : words_) {
      if (std::memcmp(word.at, word.before, word.bytes) == 0) continue;
      if (waits) {
        std::memcpy(word.before, word.at, word.bytes);
        continue;
      }
      std::memcpy(word.stored, word.at, word.bytes);
      std::memcpy(word.at, word.before, word.bytes);
      word.is_held = true;
      holds_any_ = true;
    }
    return goes_on;
  }
  // Everybody sees them now.
  void drain() {
    for (Held& word : words_) {
      if (word.is_held) std::memcpy(word.at, word.stored, word.bytes);
      std::memcpy(word.before, word.at, word.bytes);
      word.is_held = false;
    }
    holds_any_ = false;
  }

 private:
  struct Held {
    char* at;
    std::size_t bytes;
    char before[8];
    char stored[8];
    bool is_held = false;
  };

  // lock, xchg with memory, mfence, or a system call.
  bool at_barrier() const {
    const auto* code = reinterpret_cast<const unsigned char*>(process_.at());
    while (*code == 0x66 || *code == 0xf2 || *code == 0xf3) ++code;
    if (*code == 0xf0) return true;
    if ((*code & 0xf0) == 0x40) ++code;  // rex
    if (*code == 0x86 || *code == 0x87) return (code[1] & 0xc0) != 0xc0;
    return code[0] == 0x0f && ((code[1] == 0xae && code[2] == 0xf0) || code[1] == 0x05);
  }

  Stepper& process_;
  std::vector<Held> words_;
  bool holds_any_ = false;
};

// What a child pinned, and what it saw there at that moment.
struct View {
  bool found;
  Pinned pinned;
  std::uint64_t number;
  char copy[kValueBytes];
};

constexpr std::string_view kViewed = "a key that is viewed";

std::string viewed_value(std::uint64_t number) {
  return test::make_value(kViewed, number, kValueBytes);
}

}  // namespace

TEST_CASE("schedule 14a: a pin that waits in the store buffer protects before it is believed") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  std::uint64_t held = 0;
  bool is_over = false;
  for (std::uint64_t number = 2; !is_over; number += 2, ++held) {
    CAPTURE(held);
    REQUIRE(put(*table, kViewed, viewed_value(number)) == Stored::kStored);
    Shared<View> view;
    Shared<std::uint32_t> place;
    Stepper reader([&] { *place = owner_place(*table->processes().self()); },
                   [&] {
                     const auto pinned = table->pin(kViewed);
                     view->found = pinned.ok() && pinned->word != nullptr;
                     if (!view->found) return;
                     view->pinned = *pinned;
                     std::memcpy(view->copy, pinned->value.data(), kValueBytes);
                   });
    StoreBuffer buffer(reader);
    buffer.watch(table->segment().place(*place).pins[0]);
    // The last store to the pin may be in the buffer for `held` more instructions.
    bool goes_on = true;
    while (goes_on && !buffer.holds_any()) goes_on = buffer.step();
    REQUIRE(goes_on);
    for (std::uint64_t i = 0; i < held && goes_on && buffer.holds_any(); ++i) {
      goes_on = buffer.step();
    }
    is_over = !goes_on || !buffer.holds_any();
    // The value goes, and another comes in its granules, unless somebody sees the pin.
    CHECK(test::erase(*table, kViewed) == Stored::kStored);
    REQUIRE(put(*table, kViewed, viewed_value(number + 1)) == Stored::kStored);
    buffer.drain();
    reader.finish();
    // And whatever it pinned is gone once more.
    if (view->found) {
      CHECK(test::erase(*table, kViewed) == Stored::kStored);
      CHECK(put(*table, kViewed, viewed_value(number + 2)) == Stored::kStored);
      CHECK((view->pinned.value == std::string_view(view->copy, kValueBytes)));
      CHECK(test::number_of(kViewed, view->pinned.value).has_value());
    }
    reader.kill();
    CHECK(table->reap() == 1);
  }
  CHECK(held > 0);
}

TEST_CASE("schedule 14a, the writer: nor does it look for pins before others see what it freed") {
  Home home(kSegmentMinBytes);
  auto table = home.table();
  std::uint64_t held = 0;
  bool is_over = false;
  for (std::uint64_t number = 2; !is_over; number += 2, ++held) {
    CAPTURE(held);
    REQUIRE(put(*table, kViewed, viewed_value(number)) == Stored::kStored);
    const auto place = place_of(table->segment(), table->segment().hash(kViewed));
    Stepper writer([&] { (void)table->processes().self(); },
                   [&] {
                     (void)test::erase(*table, kViewed);
                     table->processes().leave();
                   });
    StoreBuffer buffer(writer);
    for (const std::uint32_t index : {place.home, place.other}) {
      Bucket& bucket = table->segment().bucket(kStripe, index);
      buffer.watch(bucket.version);
      for (auto& slot : bucket.slots) buffer.watch(slot);
    }
    // The first store, to the slot, may be in the buffer for `held` more instructions.
    bool goes_on = true;
    while (goes_on && !buffer.holds_any()) goes_on = buffer.step();
    REQUIRE(goes_on);
    for (std::uint64_t i = 0; i < held && goes_on && buffer.holds_any(); ++i) {
      goes_on = buffer.step();
    }
    is_over = !goes_on || !buffer.holds_any();
    const auto view = table->pin(kViewed);
    REQUIRE(view.ok());
    const std::string copy(view->value);
    buffer.drain();
    writer.finish();
    // What the view names is not for the next value of this size.
    CHECK(put(*table, kViewed, viewed_value(number + 1)) == Stored::kStored);
    CHECK((view->value == copy));
    unpin(*view);
  }
  CHECK(held > 0);
}

}  // namespace larder::shm
