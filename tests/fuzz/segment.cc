// A live segment whose bytes change under those that use it. The input says what is done to it, and
// in between which bytes are overwritten.
//
// Besides that nothing crashes, hangs or reads beyond the mapping (on both sides of it nothing may
// be read):
//   - a hit carries a value of its own key, whole, unless bytes of that very entry were hit, or the
//     index or a map was; with checksums verified, unless the header with the checksum was hit
//   - a flipped byte of a value is found by the deep check
//   - the parts of the accounting add up
//   - once every stripe was repaired, the checker finds nothing and all that is read is whole
#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "shm/check.h"
#include "shm/entry.h"
#include "shm/inspect.h"
#include "shm/segment.h"
#include "shm/table.h"
#include "tests/fuzz/fuzz.h"
#include "tests/shm/fixture.h"
#include "tests/support/process.h"

namespace {

using namespace larder::shm;  // NOLINT(google-build-using-namespace)
using larder::fuzz::Bytes;
using larder::fuzz::require;
namespace test = larder::test;

constexpr std::size_t kKeys = 48;
constexpr std::size_t kMostSteps = 96;
constexpr std::size_t kMostViews = 6;
constexpr std::uint64_t kHashSeed = 0x5eed;  // an input shall do the same in every run
constexpr std::size_t kGuardBytes = 1u << 20;

std::string key_of(std::uint64_t i) {
  i %= kKeys;
  return "key-" + std::to_string(i) + std::string(i % 4 * 9, 'k');
}

// ---- the segment that every input begins with ---------------------------------------------------

// One file and one mapping for all inputs, and a picture of it to begin with.
class Ground {
 public:
  Ground() : dir_(std::getenv("LARDER_FUZZ_DIR") ? std::getenv("LARDER_FUZZ_DIR") : "/dev/shm") {
    options_.directory = dir_.path();
    options_.name = "fuzz";
    options_.bytes = kSegmentMinBytes;
    opened(Segment::open(options_))->superblock().hash_seed = kHashSeed;
    map_between_guards();
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
      files_.insert(entry.path());
    }
    fill();
    picture_.assign(begin(), options_.bytes);
  }

  void restore(std::uint32_t policy) {
    std::memcpy(begin(), picture_.data(), picture_.size());
    segment_->superblock().policy = policy;
  }
  const std::shared_ptr<Segment>& segment() { return segment_; }
  const SegmentOptions& options() const { return options_; }
  char* begin() { return reinterpret_cast<char*>(&segment_->superblock()); }

  // One that no input names.
  std::string strange_key_of(std::uint32_t stripe) {
    for (std::uint64_t i = 0;; ++i) {
      std::string key = "strange-" + std::to_string(i);
      if (stripe_of(segment_->geometry(), segment_->hash(key)) == stripe) return key;
    }
  }

  // A newcomer to a damaged instance number has made a lock file of that name; one to a damaged
  // layout number a segment of its own.
  void sweep_folder() {
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
      if (!files_.contains(entry.path())) std::filesystem::remove(entry.path());
    }
  }

 private:
  static std::shared_ptr<Segment> opened(larder::Result<std::shared_ptr<Segment>> segment) {
    require(segment.ok(), "a segment can be made");
    return std::move(*segment);
  }

  // What is read beyond either end shall be seen. The kernel maps where it likes, as a rule below
  // what was mapped before: a mapping that has neighbours is kept until the next one has none.
  void map_between_guards() {
    std::vector<std::shared_ptr<Segment>> crowded;
    char* last = nullptr;
    for (int attempt = 0; attempt < 100; ++attempt) {
      segment_ = opened(Segment::open(options_));
      char* end = begin() + options_.bytes;
      const bool above = end == last || guarded(end);
      last = begin() - kGuardBytes;
      if (guarded(last) && above) return;
      crowded.push_back(segment_);
    }
    require(false, "there is a place between two guards");
  }
  static bool guarded(char* at) {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    return mmap(at, kGuardBytes, PROT_NONE, kFlags, -1, 0) == at;
  }

  void fill() {
    Table table(segment_, TableOptions{});
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      const std::string key = key_of(i);
      (void)test::put(table, key, test::make_value(key, i, 30 + i * i));
    }
  }

  const test::TempDir dir_;
  SegmentOptions options_;
  std::shared_ptr<Segment> segment_;
  std::set<std::filesystem::path> files_;
  std::string picture_;
};

// ---- one input ----------------------------------------------------------------------------------

struct Span {
  std::uint64_t from;
  std::uint64_t to;
  bool meets(Span other) const { return from < other.to && other.from < to; }
};

class Story {
 public:
  Story(Ground& ground, Bytes input)
      : ground_(ground), input_(input), segment_(*ground.segment()), g_(segment_.geometry()) {
    const std::uint8_t mode = input_.byte();
    verify_ = mode & 1;
    ground_.restore(mode & 2 ? kPolicyLru : kPolicyLfu);
    options_ = {.lock_timeout = std::chrono::milliseconds(1), .verify_checksums = verify_};
    table_.emplace(ground_.segment(), options_);
    (void)table_->join();
  }

  void tell() {
    for (std::size_t i = 0; i < kMostSteps && !input_.empty(); ++i) step();
    look_at_everything(segment_);
    while (!views_.empty()) let_go();
    repair_everything();
  }

 private:
  struct Held {
    std::string key;
    Pinned pinned;
    std::string then;
    std::size_t damages;  // before it was pinned
  };

  void step() {
    const std::uint8_t what = input_.byte() % 32;
    switch (what) {
      case 0:
      case 1:
        return get(*table_, key());
      case 2:
        return get_many();
      case 3:
        (void)table_->contains(key());
        return;
      case 4:
        return pin();
      case 5:
        return let_go();
      case 6:
      case 7:
        return put(*table_);
      case 8:
        (void)test::erase(*table_, key());
        return;
      case 9:
        return fill();
      case 10:
        return apply(Change::Kind::kSet);
      case 11:
        return apply(Change::Kind::kDrop);
      case 12:
        (void)table_->raise_epoch();
        return;
      case 13:
        return table_->raise_floor(segment_.superblock().hot.epoch.load(), input_.number(2));
      case 14:
        (void)check(segment_, {.deep = false, .quiescent = false});
        return;
      case 15:
        (void)check(segment_, {.deep = true, .quiescent = true});
        return;
      case 16:
        return repair(static_cast<std::uint32_t>(input_.byte() % g_.stripe_count));
      case 17:
        (void)table_->reap();
        return;
      case 18:
        term_ = table_->begin_term() ? segment_.superblock().sync.term.load() : 0;
        return;
      case 19:
        return look_at_everything(segment_);
      case 20:
        return observe_anew();
      case 21:
        return join_anew();
      case 22:
        return damage_slot();
      case 23:
        return damage_header();
      case 24:
        return damage_value();
      default:
        return damage_part(what - 25);
    }
  }

  std::string key() { return key_of(input_.byte()); }
  std::string new_value(const std::string& of) {
    const std::uint64_t bytes = input_.number(2) % 20'000;
    return test::make_value(of, 1000 + ++number_, bytes);
  }

  // ---- using it ----

  void read_as(const std::string& key, std::string_view value) {
    const bool checked = verify_ || repaired_;
    const auto& excused = checked ? forged_ : tainted_;
    if (excused[index_of(key)] || test::number_of(key, value)) return;
    for (std::size_t i = 0; i < kKeys; ++i) {
      require(!test::number_of(key_of(i), value), "never another key's value");
    }
    require(unsure_ && !checked, "a hit is a whole value of its key");
  }

  void get(Table& table, const std::string& key) {
    if (table.get(key, value_)) read_as(key, value_);
  }

  void get_many() {
    std::array<std::string, 4> keys;
    std::array<std::string_view, 4> asked;
    std::array<std::string, 4> values;
    for (std::size_t i = 0; i < keys.size(); ++i) asked[i] = keys[i] = key();
    const std::uint32_t hits =
        table_->get_batch(asked, [&values](std::size_t i) -> std::string& { return values[i]; });
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (hits >> i & 1) read_as(keys[i], values[i]);
    }
  }

  void pin() {
    if (views_.size() == kMostViews) let_go();
    Held held{key(), {}, {}, hits_.size()};
    auto pinned = table_->pin(held.key);
    if (!pinned || pinned->word == nullptr) return;
    held.pinned = *pinned;
    held.then = pinned->value;
    read_as(held.key, held.then);
    views_.push_back(std::move(held));
  }

  void let_go() {
    if (views_.empty()) return;
    const Held& held = views_.front();
    const bool undamaged = hits_.empty();
    require(!undamaged || held.pinned.value == held.then, "what a view shows stays");
    unpin(held.pinned);
    views_.pop_front();
  }

  void put(Table& table) {
    const std::string name = key();
    const std::string value = new_value(name);
    if (test::put(table, name, value) != Stored::kStored) return;
    tainted_[index_of(name)] = forged_[index_of(name)] = false;
  }

  void fill() {
    const std::string name = key();
    const std::uint64_t seq = input_.byte();
    const Sample sample = table_->sample(name);
    (void)table_->fill({name, new_value(name)}, sample, {seq, seq});
  }

  void apply(Change::Kind kind) {
    const std::string name = key();
    const std::uint64_t seq = input_.byte();
    const std::string value = kind == Change::Kind::kSet ? new_value(name) : "";
    (void)table_->apply({kind, {name, value}, {seq, seq}}, term_);
  }

  // What shmctl shows and checks.
  void look_at_everything(Segment& segment) {
    const Totals sum = totals(segment);
    const std::uint64_t parts =
        sum.live_bytes + sum.pinned_bytes + sum.free_bytes + sum.index_bytes + sum.metadata_bytes;
    require(parts == g_.segment_bytes, "the parts of a segment add up");
    (void)processes(segment);
    (void)leader(segment);
    (void)segment.binding();
    (void)check(segment, {.deep = false, .quiescent = false});
    for_each_entry(segment, [](const EntryInfo&) { return true; });
    (void)find_entry(segment, key(), value_);
    (void)table_->processes().leader_pid();
    (void)table_->processes().alive_count();
  }

  void observe_anew() {
    auto observer = Segment::attach(segment_.path(), Access::kReadOnly);
    if (observer) look_at_everything(**observer);
  }

  void join_anew() {
    auto newcomer = Segment::open(ground_.options());
    if (newcomer && (*newcomer)->path() == segment_.path()) {
      Table table(*newcomer, options_);
      (void)table.join();
      get(table, key());
      put(table);
    }
    ground_.sweep_folder();
  }

  // Taken over from an owner that is not there. False: somebody seems to hold it still.
  bool repair_now(std::uint32_t stripe) {
    segment_.stripe(stripe).lock.store(make_owner(g_.place_count - 1, 7));
    return table_->drop(ground_.strange_key_of(stripe)) == Stored::kStored;
  }
  void repair(std::uint32_t stripe) { (void)repair_now(stripe); }

  void repair_everything() {
    // The table of processes may be damaged too; without a place nobody repairs.
    const std::size_t places = g_.stripes_offset - g_.places_offset;
    std::memset(ground_.begin() + g_.places_offset, 0, places);
    table_.reset();
    table_.emplace(ground_.segment(), options_);
    // Damaged into a closed one: opened again by who needs it, see Segment::reopen().
    segment_.superblock().hot.epoch.fetch_and(~kClosedEpoch);
    bool all = true;
    for (std::uint32_t s = 0; s < g_.stripe_count; ++s) all = repair_now(s) && all;
    require(all, "a stripe of the dead is taken over");
    repaired_ = true;
    for (std::size_t i = 0; i < kKeys; ++i) get(*table_, key_of(i));
    const CheckReport report = check(segment_, {.deep = true, .quiescent = true});
    for (const std::string& each : report.violations) {
      require(each.starts_with("superblock"), each);
    }
  }

  // ---- damage ----

  static std::size_t index_of(const std::string& key) {
    return static_cast<std::size_t>(std::strtoul(key.c_str() + 4, nullptr, 10));
  }

  std::uint64_t offset_of(const void* at) {
    return static_cast<std::uint64_t>(static_cast<const char*>(at) - ground_.begin());
  }

  void hit(std::uint64_t offset, const void* bytes, std::size_t size) {
    offset = std::min<std::uint64_t>(offset, g_.segment_bytes - size);
    std::memcpy(ground_.begin() + offset, bytes, size);
    hits_.push_back({offset, offset + size});
    const Span index{g_.buckets_offset, g_.sketches_offset};
    const Span maps{g_.maps_offset, g_.arenas_offset};
    unsure_ = unsure_ || index.meets(hits_.back()) || maps.meets(hits_.back());
    for (std::uint32_t s = 0; s < g_.stripe_count; ++s) {
      const std::uint64_t word = offset_of(&segment_.stripe(s).index);
      unsure_ = unsure_ || Span{word, word + 4}.meets(hits_.back());
    }
    for (std::size_t i = 0; i < kKeys; ++i) {
      for_each_place(key_of(i), [&](Atomic<std::uint32_t>&, Span span) {
        const Span header{span.from, span.from + sizeof(EntryHeader)};
        for (const Span each : hits_) {
          tainted_[i] = tainted_[i] || each.meets(span);
          forged_[i] = forged_[i] || each.meets(header);
        }
      });
    }
  }

  // visit(slot, span of the entry) for every slot that leads to the key.
  template <class Visit>
  void for_each_place(const std::string& key, Visit visit) {
    const std::uint64_t hash = segment_.hash(key);
    const std::uint32_t stripe = stripe_of(g_, hash);
    for (std::uint32_t b = 0; b < g_.buckets_per_stripe; ++b) {
      for (auto& slot : segment_.bucket(stripe, b).slots) {
        if (!slot_matches(slot.load(), hash)) continue;
        const auto entry = read_entry(segment_, stripe, slot.load());
        if (!entry || !entry->key_is(key)) continue;
        const std::uint64_t from = offset_of(entry->start);
        visit(slot, Span{from, from + entry->run.granules * kGranule});
      }
    }
  }
  struct Place {
    std::uint64_t slot;
    Span entry;
  };
  std::optional<Place> place_of(const std::string& key) {
    std::optional<Place> found;
    for_each_place(key, [&](Atomic<std::uint32_t>& slot, Span span) {
      if (!found) found = {offset_of(&slot), span};
    });
    return found;
  }

  void damage_slot() {
    const auto at = place_of(key());
    const auto word = static_cast<std::uint32_t>(input_.number(4));
    if (at) hit(at->slot, &word, sizeof word);
  }

  void damage_header() {
    const auto at = place_of(key());
    const std::uint64_t word = input_.byte() % 4;
    const std::uint64_t bytes = input_.number(8);
    if (at) hit(at->entry.from + word * sizeof bytes, &bytes, sizeof bytes);
  }

  void damage_value() {
    const std::string name = key();
    const auto at = place_of(name);
    const std::uint64_t where = input_.number(2);
    const auto flip = static_cast<char>(input_.byte() | 1);
    const auto info = find_entry(segment_, name, value_);
    if (!at || !info || tainted_[index_of(name)]) return;
    const std::uint64_t offset =
        at->entry.from + sizeof(EntryHeader) + name.size() + where % info->value_bytes;
    const auto byte = static_cast<char>(ground_.begin()[offset] ^ flip);
    hit(offset, &byte, 1);
    require(!check(segment_, {.deep = true, .quiescent = false}).clean(),
            "a flipped byte of a value is found by the deep check");
  }

  void damage_part(unsigned how) {
    const std::uint64_t borders[] = {0,
                                     g_.places_offset,
                                     g_.stripes_offset,
                                     g_.guards_offset,
                                     g_.buckets_offset,
                                     g_.sketches_offset,
                                     g_.maps_offset,
                                     g_.arenas_offset,
                                     g_.segment_bytes};
    const std::size_t part = input_.byte() % 8;
    const std::uint64_t size = borders[part + 1] - borders[part];
    const std::uint64_t at = borders[part] + input_.number(3) % size;
    switch (how % 4) {
      case 0: {
        const auto byte = static_cast<char>(ground_.begin()[at] ^ input_.byte());
        return hit(at, &byte, 1);
      }
      case 1: {
        const std::uint64_t word = input_.number(8);
        return hit(at & ~7ull, &word, sizeof word);
      }
      case 2: {
        const auto word = static_cast<std::uint32_t>(input_.number(4));
        return hit(at & ~3ull, &word, sizeof word);
      }
      default: {
        // What stands elsewhere in the segment.
        const std::uint64_t from = input_.number(3) % (g_.segment_bytes - 8) & ~3ull;
        std::uint64_t word = 0;
        std::memcpy(&word, ground_.begin() + from, sizeof word);
        return hit(at & ~3ull, &word, sizeof word);
      }
    }
  }

  Ground& ground_;
  Bytes input_;
  Segment& segment_;
  const Geometry& g_;
  TableOptions options_;
  bool verify_ = false;
  std::optional<Table> table_;
  std::deque<Held> views_;
  std::string value_;
  std::uint64_t number_ = 0;
  std::uint64_t term_ = 0;

  std::vector<Span> hits_;
  std::array<bool, kKeys> tainted_{};  // bytes of this key's entry were hit
  std::array<bool, kKeys> forged_{};   // its header, where the checksum is
  bool unsure_ = false;                // where entries are was hit
  bool repaired_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Ground ground;
  Story(ground, Bytes(data, size)).tell();
  return 0;
}
