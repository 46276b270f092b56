// The notes of what happened last.
#include "shm/journal.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string>

#include "tests/shm/fixture.h"

namespace larder::shm {
namespace {

struct Host {
  test::Home home;
  std::shared_ptr<Segment> segment = home.segment();
  Journal journal{*segment};
  std::uint64_t size() const { return segment->geometry().note_count; }

  void note(const std::string& key, std::uint64_t seq = 1) {
    journal.note(Happening::kSet, EventOutcome::kApplied, {seq, 7}, key, 100);
  }
};

TEST_CASE("a note is read as it was made") {
  Host host;
  CHECK(host.journal.range().begin == 0);
  CHECK(host.journal.range().end == 0);
  CHECK_FALSE(host.journal.read(0).has_value());
  host.journal.note(Happening::kDelete, EventOutcome::kOld, {5, 6}, "key", 9);
  CHECK(host.journal.range().end == 1);
  const auto noted = host.journal.read(0);
  REQUIRE(noted.has_value());
  CHECK(noted->number == 0);
  CHECK(noted->happening == Happening::kDelete);
  CHECK(noted->outcome == EventOutcome::kOld);
  CHECK(noted->id == ChangeId{5, 6});
  CHECK(noted->text == "key");
  CHECK(noted->text_bytes == 3);
  CHECK(noted->value_bytes == 9);
  CHECK(noted->hash == host.segment->hash("key"));
  CHECK(noted->unix_ms > 1'700'000'000'000);
}

TEST_CASE("of a long text the beginning is kept, and how long it was") {
  Host host;
  for (const std::size_t bytes : {0u, 1u, 79u, 80u, 81u, 65'535u, 70'000u}) {
    CAPTURE(bytes);
    const std::string key(bytes, 'x');
    host.note(key);
    const auto noted = host.journal.read(host.journal.range().end - 1);
    REQUIRE(noted.has_value());
    CHECK(noted->text == key.substr(0, kNoteText));
    CHECK(noted->text_bytes == std::min<std::size_t>(bytes, 65'535));
  }
}

TEST_CASE("the newest notes take the place of the oldest") {
  Host host;
  const std::uint64_t made = 2 * host.size() + 3;
  for (std::uint64_t i = 0; i < made; ++i) host.note("k" + std::to_string(i), i);
  CHECK(host.journal.range().end == made);
  CHECK(host.journal.range().begin == made - host.size());
  for (std::uint64_t i = 0; i < made + 2; ++i) {
    const auto noted = host.journal.read(i);
    REQUIRE(noted.has_value() == (i >= host.journal.range().begin && i < made));
    if (noted) CHECK(noted->text == "k" + std::to_string(i));
  }
}

TEST_CASE("what a killed leader left half written is no note, and the next leader goes on") {
  Host host;
  host.note("whole");
  host.segment->superblock().sync.noted.fetch_add(1);  // killed after it took the number
  CHECK(host.journal.range().end == 2);
  CHECK_FALSE(host.journal.read(1).has_value());
  host.note("next");
  CHECK(host.journal.read(2)->text == "next");
  CHECK(host.journal.read(0)->text == "whole");
  host.segment->note(0).number.store(0);  // killed while it wrote
  CHECK_FALSE(host.journal.read(0).has_value());
}

TEST_CASE("any bytes in the journal are read without harm") {
  Host host;
  std::mt19937_64 random(1);
  for (int turn = 0; turn < 1000; ++turn) {
    for (std::uint32_t i = 0; i < host.size(); ++i) {
      Note& note = host.segment->note(i);
      note.what.store(random());
      note.number.store(i + 1);
    }
    host.segment->superblock().sync.noted.store(turn % 2 == 0 ? random() : host.size());
    for (std::uint64_t i = 0; i < host.size(); ++i) {
      const auto noted = host.journal.read(i);
      REQUIRE(noted.has_value());
      CHECK(noted->text.size() <= kNoteText);
      CHECK_FALSE(happening_name(noted->happening).empty());
      CHECK_FALSE(outcome_name(noted->outcome).empty());
    }
    host.note("goes on");
  }
}

}  // namespace
}  // namespace larder::shm
