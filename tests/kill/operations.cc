#include <algorithm>
#include <memory>
#include <span>
#include <string_view>

#include "shm/clock.h"
#include "shm/policy.h"
#include "shm/resize.h"
#include "src/sync/follower.h"
#include "src/sync/table_host.h"
#include "tests/kill/operation.h"
#include "tests/shm/fixture.h"

namespace larder::kill {
namespace {

using shm::Change;
using shm::ChangeId;
using shm::Table;

constexpr int kKeys = 1500;
constexpr std::size_t kSizes[] = {0, 100, 700, 3000, 30'000};
constexpr int kHeld = 703;  // of the keys, one that is held in every stripe that is not empty
constexpr char kNew[] = "a new key";

std::string key_of(int i) { return "work-" + std::to_string(i); }

// What an operation writes is made before it is watched: it would be most of what is stepped.
struct Text {
  std::string key;
  std::string value;
};
Text text(const std::string& key, std::uint64_t number, std::size_t bytes) {
  return {key, test::make_value(key, number, bytes)};
}

void put(Table& table, const Text& text, std::uint64_t expires_ms = shm::kNeverExpires) {
  (void)test::put(table, text.key, text.value, expires_ms);
}
void put_some(Table& table, int from, int to, std::size_t least, std::size_t spread) {
  for (int i = from; i < to; ++i) {
    put(table, text(key_of(i % kKeys), static_cast<std::uint64_t>(i),
                    least + static_cast<std::size_t>(i) * 37 % spread));
  }
}

// ---- what stands before ------------------------------------------------------------------------

struct Before {
  const char* name;
  Work build;
  bool builder_lives = false;
};

void few(Table& table) { put_some(table, kHeld - 10, kHeld + 10, 100, 700); }

// More than fits, several times over: what the policy remembers is full too.
void full(Table& table) {
  put_some(table, 0, 3000, 100, 700);
  put_some(table, kHeld, kHeld + 1, 100, 700);
}

// Full, and then half of it in holes: what is large finds room by compaction only.
void holes(Table& table) {
  full(table);
  for (int i = 0; i < kKeys; i += 2) (void)table.drop(key_of(i));
}

// The same with a tenth of the entries: what looks at each of them is stepped through more often.
void full_of_large(Table& table) {
  put_some(table, 0, 300, 2000, 5000);
  put_some(table, kHeld, kHeld + 1, 100, 700);
}

void holes_among_large(Table& table) {
  full_of_large(table);
  for (int i = 0; i < 300; i += 2) (void)table.drop(key_of(i));
}

// So many small ones that both buckets of a key are full now and then: entries make way.
void crowded(Table& table) {
  for (int i = 0; i < 2900; ++i) put(table, text("small-" + std::to_string(i), 1, 0));
  put_some(table, kHeld, kHeld + 1, 100, 700);
}

// The next key makes the index grow.
void growing(Table& table) {
  put_some(table, kHeld, kHeld + 1, 10, 20);
  const auto entries = [&] { return table.segment().stripe(0).entries.load(); };
  const auto buckets = [&] { return table.segment().stripe(0).index.load(); };
  const std::uint32_t grown = 4 * table.segment().geometry().least_buckets();
  for (int i = 0; buckets() < grown; ++i) put(table, text("small-" + std::to_string(i), 1, 20));
  for (int i = 0; entries() < buckets() * shm::kSlotsPerBucket * 3 / 4; ++i) {
    put(table, text("more-" + std::to_string(i), 1, 20));
  }
}

// Held by a process that lives on: what is pinned must stay where it is.
void pinned(Table& table) {
  full(table);
  for (int i = 0; i < kKeys; i += 50) (void)table.pin(key_of(i));
  (void)table.pin(key_of(kHeld));
}

void epoch_raised(Table& table) {
  full(table);
  table.raise_epoch();
}

void floor_raised(Table& table) {
  full(table);
  table.raise_floor(table.sample("").epoch, 1000);
}

void bypassed(Table& table) {
  full(table);
  table.segment().stripe(0).bypass.store(3);
}

void expired(Table& table) {
  for (int i = 0; i < 3000; ++i) {
    put(table, text(key_of(i % kKeys), 1, 300), i % 2 == 0 ? shm::now_ms() - 1 : 0);
  }
  put(table, text(key_of(kHeld), 1, 300), shm::now_ms() - 1);
}

// As Redis numbers them: what late replies must not overwrite is remembered.
void numbered(Table& table) {
  for (int i = 0; i < kKeys; ++i) {
    const Text one = text(key_of(i), 1, 100 + static_cast<std::size_t>(i) % 300);
    const auto seq = static_cast<std::uint64_t>(i) + 1;
    (void)table.set({one.key, one.value}, table.sample(one.key), {seq, 7});
  }
}

const Before kBefore[] = {{"few", few},
                          {"full", full},
                          {"holes", holes},
                          {"crowded", crowded},
                          {"growing", growing},
                          {"pinned", pinned, true},
                          {"epoch raised", epoch_raised},
                          {"floor raised", floor_raised},
                          {"bypassed", bypassed},
                          {"expired", expired},
                          {"numbered", numbered}};

// Two owners of the stripe have died already: with the third it is wiped.
void two_deaths(Table& table) {
  full_of_large(table);
  table.segment().stripe(0).deaths.store(2);
}

void one_death(Table& table) {
  few(table);
  table.segment().stripe(0).deaths.store(1);
}

// So many small ones that both buckets of a key are full now and then, while others have room.
void nearly_crowded(Table& table) {
  const shm::Geometry& g = table.segment().geometry();
  const std::size_t most = g.buckets_per_stripe * shm::kSlotsPerBucket * 9 / 10;
  for (int i = 0; table.segment().stripe(0).entries.load() < most; ++i) {
    put(table, text("small-" + std::to_string(i), 1, 0));
  }
}

// Views that were held while their keys were written anew, and no longer are.
void set_aside(Table& table) {
  full(table);
  std::vector<shm::Pinned> views;
  for (int i = 0; i < kKeys && views.size() < 20; ++i) {
    const auto view = table.pin(key_of(i));
    if (view && view->word != nullptr) views.push_back(*view);
  }
  put_some(table, 0, kKeys, 100, 700);
  for (const shm::Pinned& view : views) unpin(view);
}

void lock_held(Table& table) {
  full(table);
  table.segment().stripe(0).lock.store(table.processes().self_or_none());
}

// ---- operations --------------------------------------------------------------------------------

class List {
 public:
  std::vector<Operation> take() { return std::move(all_); }

  // One for each policy.
  void add(Operation operation) {
    for (const std::uint32_t policy : {shm::kPolicyLfu, shm::kPolicyLru}) {
      Operation one = operation;
      one.segment.policy = policy;
      one.segment.bytes = shm::kSegmentMinBytes;  // one stripe
      if (!one.variant.empty()) one.variant += ", ";
      one.variant += policy == shm::kPolicyLfu ? "lfu" : "lru";
      all_.push_back(std::move(one));
    }
  }
  void add(std::string name, const Before& before, Work run) {
    add({.name = std::move(name),
         .variant = before.name,
         .segment = {},
         .build = before.build,
         .builder_lives = before.builder_lives,
         .builder_holds = false,
         .died_in = {},
         .prepare = {},
         .run = std::move(run),
         .joins = false,
         .follows = 0,
         .on_files = {},
         .cleans = {}});
  }
  // What add() made last: one for each policy.
  std::span<Operation> latest() { return std::span(all_).last(2); }

 private:
  std::vector<Operation> all_;
};

std::string bytes(std::size_t size) { return std::to_string(size) + " bytes, "; }

void add_changes(List& list, const Before& before) {
  for (const std::size_t size : kSizes) {
    for (const bool overwrite : {false, true}) {
      const Text what = text(overwrite ? key_of(kHeld) : kNew, 77'000 + size, size);
      list.add(overwrite ? "overwrite" : "set", before, [what](Table& t) { put(t, what); });
      for (Operation& one : list.latest()) one.variant = bytes(size) + one.variant;
    }
  }
  const std::string held = key_of(kHeld);
  list.add("drop", before, [held](Table& t) { (void)t.drop(held); });
  list.add("remove", before, [held](Table& t) { (void)t.remove(held, t.sample(held), {5000, 9}); });
  const Text reply = text(held, 88, 400);
  list.add("fill", before, [reply](Table& t) {
    (void)t.fill({reply.key, reply.value}, t.sample(reply.key), {1600, 11});
  });
  list.add("fill, refused", before, [reply](Table& t) {
    shm::Sample late = t.sample(reply.key);
    ++late.guard_count;
    (void)t.fill({reply.key, reply.value}, late, {1600, 11});
  });
  list.add("set under an id", before, [reply](Table& t) {
    (void)t.set({reply.key, reply.value}, t.sample(reply.key), {1600, 11});
  });
  const Text huge = text(kNew, 1, shm::kSegmentMinBytes);
  list.add("set, too large", before, [huge](Table& t) { put(t, huge); });
  const Text brief = text(held, 99, 400);
  list.add("set with an end", before,
           [brief](Table& t) { put(t, brief, shm::now_ms() + 3'600'000); });
}

void add_reads(List& list, const Before& before) {
  list.add("get", before, [](Table& t) {
    static std::string value;
    (void)t.get("work-703", value);
  });
  list.add("get, never seen", before, [](Table& t) {
    static std::string value;
    (void)t.get(kNew, value);
  });
  list.add("get of many", before, [](Table& t) {
    static std::string values[3];
    const std::string_view keys[] = {"work-703", "work-704", kNew};
    (void)t.get_batch(keys, [](std::size_t i) -> std::string& { return values[i]; });
  });
  list.add("pin", before, [](Table& t) { (void)t.pin("work-703"); });
  list.add("pin and unpin", before, [](Table& t) {
    const auto view = t.pin("work-703");
    if (view) unpin(*view);
  });
  list.add("contains", before, [](Table& t) { (void)t.contains("work-703"); });
}

void add_events(List& list, const Before& before) {
  const auto add = [&](const char* name, const Change& change, std::uint64_t term_back = 0) {
    list.add(std::string("apply, ") + name, before, [change, term_back](Table& t) {
      const std::uint64_t term = t.segment().superblock().sync.term.load();
      (void)t.apply(change, term - term_back);
    });
    for (Operation& one : list.latest()) {
      one.prepare = [](Table& t) {
        (void)t.processes().try_lead();
        (void)t.begin_term();
      };
    }
  };
  // Their bytes live as long as the program.
  static const Text pushed = text(key_of(kHeld), 55, 400);
  static const Text pushed_new = text(kNew, 55, 400);
  using Kind = Change::Kind;
  add("a value", {Kind::kSet, {pushed.key, pushed.value}, {1700, 3}});
  add("a value of a new key", {Kind::kSet, {pushed_new.key, pushed_new.value}, {1700, 3}});
  add("a removal", {Kind::kDrop, {pushed.key, {}}, {1700, 3}});
  add("an old one", {Kind::kSet, {pushed.key, pushed.value}, {1, 3}});
  add("a value without an id", {Kind::kSet, {pushed.key, pushed.value}, {}});
  add("a removal without an id", {Kind::kDrop, {pushed.key, {}}, {}});
  add("one of a former term", {Kind::kSet, {pushed.key, pushed.value}, {1700, 3}}, 1);
}

// ---- the whole way of an event -----------------------------------------------------------------

class Silent final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};

// A leader that follows its log up to kEnd, after which all is as it was: what it had to drop has
// been stored again.
constexpr ChangeId kEnd{5000, 1};
constexpr ChangeId kNext{5001, 2};
struct Following {
  Following(Table& table, std::uint64_t term)
      : host(table, term, std::chrono::seconds{1}, logger, [](std::string_view) {}),
        follower(host, {}, {}) {
    (void)follower.subscribed();
    (void)follower.log_page({{}, kEnd});
  }
  Silent logger;
  sync::TableHost host;
  sync::Follower follower;
};
std::unique_ptr<Following> following;

void follow(Table& table) {
  (void)table.processes().try_lead();
  const auto term = table.begin_term();
  following = std::make_unique<Following>(table, *term);
  few(table);
}

void add_following(List& list) {
  const auto add = [&](const char* name, sync::Event event) {
    event.id = kNext;
    event.prev = kEnd;
    event.sender = "another host";
    const auto format = WireFormat::kMsgpack;
    const std::string message = sync::event_head(event, format) + sync::event_tail(event, format);
    list.add(std::string("follow, ") + name, {"few", few},
             [message](Table&) { (void)following->follower.message(message); });
    for (Operation& one : list.latest()) {
      one.prepare = follow;
      one.follows = kNext.seq;
    }
  };
  sync::Event event;
  event.key = key_of(kHeld);
  event.action = sync::Action::kDelete;
  add("a removal", event);
  event.action = sync::Action::kSet;
  event.value = text(event.key, 55, 400).value;
  add("a value", event);
  event.key = kNew;
  add("a value of a new key", event);
  sync::Event many;
  many.action = sync::Action::kDeleteMany;
  for (int i = kHeld - 5; i < kHeld + 5; ++i) many.keys.push_back(key_of(i));
  add("a removal of many", many);
  sync::Event clear;
  clear.action = sync::Action::kClear;
  add("a clear", clear);

  const auto add_reading = [&](const char* name, const sync::LogPage& log, std::uint64_t end) {
    list.add(name, {"few", few}, [log](Table&) {
      (void)following->follower.lost();
      (void)following->follower.subscribed();
      (void)following->follower.log_page(log);
    });
    for (Operation& one : list.latest()) {
      one.prepare = follow;
      one.follows = end;
    }
  };
  sync::LogPage missed;
  missed.rows.push_back({kEnd, {}, sync::Action::kSet, {"any"}});
  missed.rows.push_back({kNext, kEnd, sync::Action::kSet, {key_of(kHeld)}});
  missed.end = kNext;
  add_reading("follow, what was missed", missed, kNext.seq);
  sync::LogPage lost;
  lost.end = kNext;
  add_reading("follow, a log that was lost", lost, kNext.seq);

  list.add("follow, a probe", {"few", few}, [](Table&) {
    sync::ProbeAnswer answer;
    answer.is_primary = true;
    answer.end = kEnd;
    answer.asked = shm::coarse_now();
    (void)following->follower.probe(answer);
  });
  for (Operation& one : list.latest()) one.prepare = follow;
}

void add_leadership(List& list, const Before& before) {
  list.add("take leadership", before, [](Table& t) {
    (void)t.processes().try_lead();
    (void)t.begin_term();
  });
  list.add("step down", before, [](Table& t) { t.processes().stop_leading(); });
  for (Operation& one : list.latest()) {
    one.prepare = [](Table& t) {
      (void)t.processes().try_lead();
      (void)t.begin_term();
    };
  }
  list.add("raise the epoch", before, [](Table& t) { t.raise_epoch(); });
  list.add("raise the floor", before, [](Table& t) { t.raise_floor(t.sample("").epoch, 4000); });
}

void add_processes(List& list, const Before& before) {
  list.add("register", before, [](Table& t) { (void)t.processes().self(); });
  for (Operation& one : list.latest()) one.joins = true;
  list.add("leave", before, [](Table& t) { t.processes().leave(); });
  list.add("reap", before, [](Table& t) { (void)t.reap(); });
}

constexpr std::chrono::milliseconds kLease{600'000};

void claim_load(Table& table) {
  shm::LoadLease lease;
  (void)table.claim_load(kNew, kLease, lease);
}
void load_held(Table& table) {
  few(table);
  claim_load(table);
}
void load_over(Table& table) {
  few(table);
  shm::LoadLease lease;
  (void)table.claim_load(kNew, std::chrono::milliseconds{0}, lease);
  // To the word's next unit of time, so that it is over.
  (void)table.wait_for_load(kNew, kLease);
}

void add_loads(List& list) {
  static const Text fetched = text(kNew, 22, 300);
  static shm::LoadLease lease;
  const Work claim = [](Table& t) { (void)t.claim_load(kNew, kLease, lease); };
  const Work load = [claim](Table& t) {
    claim(t);
    (void)t.fill({fetched.key, fetched.value}, t.sample(kNew), {1600, 11}, lease);
    shm::Loads::end(lease);
  };
  list.add("claim a load", {"few", few}, claim);
  list.add("claim a load that another holds", {"load held", load_held, true}, claim);
  list.add("wait for a load", {"load held", load_held, true},
           [](Table& t) { (void)t.wait_for_load(kNew, std::chrono::milliseconds{1}); });
  list.add("take over a load whose time is over", {"load over", load_over, true}, claim);
  list.add("load", {"few", few}, load);
  list.add("load", {"full", full}, load);
  list.add("leave with a load", {"few", few}, [](Table& t) { t.processes().leave(); });
  for (Operation& one : list.latest()) one.prepare = claim;
  const auto add_after_death = [&](const char* name, Work run) {
    list.add(name, {"loading", few}, std::move(run));
    for (Operation& one : list.latest()) {
      one.died_in = claim_load;
      one.died_at = 1;
    }
  };
  add_after_death("take over the load of the dead", claim);
  add_after_death("load after the dead", load);
  add_after_death("reap the dead", [](Table& t) { (void)t.reap(); });
}

// Each stripe is sealed on its own.
void add_seal(List& list) {
  list.add("take leadership", {"few, four stripes", few}, [](Table& t) {
    (void)t.processes().try_lead();
    (void)t.begin_term();
  });
  for (Operation& one : list.latest()) one.segment.bytes = 8u << 20;
}

// A process that another finds dead in the midst of something: who comes next mends the stripe.
struct Death {
  const char* name;
  Work build;
  Work died_in;
};

const Death kDeaths[] = {
    {"overwriting", full_of_large, [](Table& t) { put_some(t, kHeld, kHeld + 1, 700, 1); }},
    {"compacting", holes_among_large, [](Table& t) { put_some(t, 1, 2, 30'000, 1); }},
    {"growing", growing, [](Table& t) { put_some(t, 0, 1, 40, 1); }},
    {"sweeping", epoch_raised, [](Table& t) { put_some(t, 0, 1, 40, 1); }},
    {"wiping", bypassed, [](Table& t) { put_some(t, 0, 1, 40, 1); }},
    {"overwriting, for the third time", two_deaths,
     [](Table& t) { put_some(t, kHeld, kHeld + 1, 700, 1); }},
    {"making way", crowded, [](Table& t) { put_some(t, 0, 1, 40, 1); }},
};

void add_repairs(List& list) {
  const auto add = [&](const char* name, const Death& death, double died_at, Work run) {
    list.add(name, {death.name, death.build}, std::move(run));
    for (Operation& one : list.latest()) {
      one.variant = std::to_string(static_cast<int>(100 * died_at)) + " % of " + one.variant;
      one.died_in = death.died_in;
      one.died_at = died_at;
    }
  };
  for (const Death& death : kDeaths) {
    for (const double died_at : {0.1, 0.5, 0.9}) {
      add("repair", death, died_at, [](Table& t) { (void)t.drop(kNew); });
    }
    add("reap the dead", death, 0.5, [](Table& t) { (void)t.reap(); });
  }
  const Death pinning{"pinning", full_of_large, [](Table& t) {
                        for (int i = 250; i < 300; ++i) (void)t.pin(key_of(i));
                      }};
  add("reap the dead", pinning, 1, [](Table& t) { (void)t.reap(); });
  const Text what = text(kNew, 66, 300);
  list.add("set", {"after a death", one_death}, [what](Table& t) { put(t, what); });
}

// An entry moves to its other bucket, because both of a new key are full.
void add_shift(List& list) {
  static Text what;
  const auto is_full = [](const shm::Bucket& bucket) {
    return std::all_of(std::begin(bucket.slots), std::end(bucket.slots),
                       [](const auto& slot) { return slot.load() != 0; });
  };
  list.add("set, both buckets full", {"nearly crowded", nearly_crowded},
           [](Table& t) { put(t, what); });
  for (Operation& one : list.latest()) {
    one.prepare = [is_full](Table& t) {
      for (int i = 0;; ++i) {
        what = text("shifting-" + std::to_string(i), 1, 0);
        const shm::KeyPlace place = shm::place_of(t.segment(), t.segment().hash(what.key));
        if (is_full(t.segment().bucket(place.stripe, place.home)) &&
            is_full(t.segment().bucket(place.stripe, place.other))) {
          return;
        }
      }
    };
  }
}

// What was set aside for views comes free in some of these turns.
void add_release(List& list) {
  const Text what = text(kNew, 66, 300);
  list.add("set, again and again", {"set aside", set_aside}, [what](Table& t) {
    for (int i = 0; i < 64; ++i) put(t, what);
  });
}

// Who cannot have the lock in time leaves readers a miss instead of an old value.
void add_waits(List& list) {
  const auto add = [&](const char* name, Work run) {
    list.add(name, {"lock held", lock_held, true}, std::move(run));
    for (Operation& one : list.latest()) one.builder_holds = true;
  };
  const Text what = text(key_of(kHeld), 44, 300);
  add("set", [what](Table& t) { put(t, what); });
  add("drop", [what](Table& t) { (void)t.drop(what.key); });
  add("fill", [what](Table& t) {
    (void)t.fill({what.key, what.value}, t.sample(what.key), {1600, 11});
  });
  add("apply, a removal", [what](Table& t) {
    const std::uint64_t term = t.segment().superblock().sync.term.load();
    (void)t.apply({Change::Kind::kDrop, {what.key, {}}, {1700, 3}}, term);
  });
}

void add_files(List& list) {
  const auto add = [&](const char* name, const char* variant, Work build,
                       std::function<void(const shm::SegmentOptions&)> on_files) {
    list.add(name, {variant, std::move(build)}, {});
    for (Operation& one : list.latest()) one.on_files = on_files;
  };
  const auto open = [](const shm::SegmentOptions& options) { (void)shm::Segment::open(options); };
  add("create", "nothing", {}, open);
  add("attach", "few", few, open);
  add("remove", "few", few, [](const shm::SegmentOptions& options) {
    (void)shm::Segment::remove(options.directory, options.name, false);
  });
  const auto resize = [](const shm::SegmentOptions& options) {
    (void)shm::resize(shm::Segment::path_of(options.directory, options.name), 2 * options.bytes);
  };
  add("resize", "few", few, resize);
  for (Operation& one : list.latest()) one.cleans = resize;
}

}  // namespace

std::vector<Operation> operations() {
  List list;
  for (const Before& before : kBefore) {
    add_changes(list, before);
    add_reads(list, before);
    add_events(list, before);
    add_leadership(list, before);
    add_processes(list, before);
  }
  add_following(list);
  add_seal(list);
  add_loads(list);
  add_repairs(list);
  add_shift(list);
  add_release(list);
  add_waits(list);
  add_files(list);
  return list.take();
}

}  // namespace larder::kill
