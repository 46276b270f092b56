#include "shm/check.h"

#include <string_view>

#include "shm/checksum.h"
#include "shm/entry.h"
#include "shm/process.h"
#include "shm/writer.h"

namespace larder::shm {
namespace {

constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
constexpr std::memory_order kAcquire = std::memory_order_acquire;
constexpr std::size_t kMostReported = 100;
constexpr int kAttempts = 16;

class Checker {
 public:
  Checker(Segment& segment, const CheckOptions& options)
      : segment_(segment), g_(segment.geometry()), options_(options) {}

  CheckReport run() {
    check_superblock();
    for (std::uint32_t s = 0; s < g_.stripe_count; ++s) check_stripe(s);
    if (unreported_ > 0) {
      report_.violations.push_back("and " + std::to_string(unreported_) + " more");
    }
    return std::move(report_);
  }

 private:
  void violation(const std::string& what) {
    if (report_.violations.size() < kMostReported) {
      report_.violations.push_back(what);
    } else {
      ++unreported_;
    }
  }

  void check_superblock() {
    const Superblock& block = segment_.superblock();
    if (block.magic != kMagic) violation("superblock: magic is gone");
    if (!(block.geometry == g_)) violation("superblock: geometry changed after attach");
    if (block.layout_signature != layout_signature()) violation("superblock: layout changed");
  }

  void check_stripe(std::uint32_t s) {
    const std::string name = "stripe " + std::to_string(s);
    Stripe& stripe = segment_.stripe(s);
    const std::uint32_t lock_before = stripe.lock.load(kAcquire);
    check_lock(name, stripe, lock_before);
    check_pages(name, s, lock_before);

    std::uint64_t entries = 0;
    std::uint64_t live_bytes = 0;
    for (std::uint32_t b = 0; b < g_.buckets_per_stripe; ++b) {
      for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
        const std::uint64_t bytes = check_slot(name, s, b, i);
        if (bytes == 0) continue;
        ++entries;
        live_bytes += bytes;
      }
    }
    report_.entries += entries;
    report_.live_bytes += live_bytes;
    if (!options_.quiescent) return;
    const auto compare = [&](const char* what, std::uint64_t counted, std::uint64_t recorded) {
      if (counted == recorded) return;
      violation(name + ": " + what + " " + std::to_string(recorded) + ", counted " +
                std::to_string(counted));
    };
    compare("entries", entries, stripe.entries.load(kRelaxed));
    compare("live bytes", live_bytes, stripe.live_bytes.load(kRelaxed));
  }

  void check_lock(const std::string& name, const Stripe& stripe, std::uint32_t word) {
    if (stripe.bypass.load(kAcquire) != 0) {
      report_.degradations.push_back(name + ": bypassed, readers miss until the next writer");
    }
    if (word == 0) return;
    const std::uint32_t place = owner_place(word);
    if (place == 0 || place >= g_.place_count) {
      report_.degradations.push_back(name + ": lock names place " + std::to_string(place) +
                                     ", which does not exist; the next writer takes it over");
      return;
    }
    const std::uint64_t state = segment_.place(place).state.load(kAcquire);
    const bool alive =
        state_alive(state) && make_owner(place, state_incarnation(state)) == (word & ~kWaiters);
    if (options_.quiescent) violation(name + ": locked by place " + std::to_string(place));
    if (!alive && stripe.lock.load(kAcquire) == word) {
      report_.degradations.push_back(name + ": locked by a process that is gone");
    }
  }

  void check_pages(const std::string& name, std::uint32_t s, std::uint32_t lock_word) {
    for (std::uint32_t p = 0; p < g_.pages_per_stripe; ++p) {
      const PageDescriptor& page = segment_.page(std::uint64_t{s} * g_.pages_per_stripe + p);
      const std::string page_name = name + " page " + std::to_string(p);
      const std::uint32_t owner = page.owner.load(kAcquire);
      if (owner != 0 && owner != s + 1) {
        violation(page_name + ": owned by stripe " + std::to_string(owner - 1));
      }
      if (page.used.load(kRelaxed) > g_.page_bytes) violation(page_name + ": used beyond its end");
      // Only the lock's holder makes a generation odd, and it makes it even before it leaves.
      const std::uint32_t generation = page.generation.load(kAcquire);
      if ((generation & 1) && lock_word == 0 && segment_.stripe(s).lock.load(kAcquire) == 0 &&
          page.generation.load(kAcquire) == generation) {
        violation(page_name + ": left in the middle of recycling");
      }
    }
  }

  // Bytes of a sound entry, else 0.
  std::uint64_t check_slot(const std::string& name, std::uint32_t s, std::uint32_t b,
                           std::size_t i) {
    Bucket& bucket = segment_.bucket(s, b);
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::uint64_t word = bucket.slots[i].load(kAcquire);
      if (word == 0) return 0;
      const auto page = page_of_slot(segment_, word);
      const std::uint32_t generation = page ? segment_.page(*page).generation.load(kAcquire) : 0;
      if (generation & 1) continue;
      std::uint64_t bytes = 0;
      const std::string wrong = fault_of(s, b, i, word, bytes);
      std::atomic_thread_fence(std::memory_order_acquire);
      const bool stood_still =
          bucket.slots[i].load(kAcquire) == word &&
          (!page || segment_.page(*page).generation.load(kAcquire) == generation);
      if (!stood_still) continue;
      if (wrong.empty()) return bytes;
      std::string where = name;
      where.append(" bucket ").append(std::to_string(b)).append(" slot ").append(std::to_string(i));
      violation(where.append(": ").append(wrong));
      return 0;
    }
    return 0;  // would not stand still: in use, and so not ours to judge
  }

  std::string fault_of(std::uint32_t s, std::uint32_t b, std::size_t i, std::uint64_t word,
                       std::uint64_t& bytes) {
    const auto entry = read_entry(segment_, word);
    if (!entry) return "points outside the pages, or to an entry that exceeds its page";
    if (entry->page / g_.pages_per_stripe != s) return "points into another stripe's page";
    const PageDescriptor& page = segment_.page(entry->page);
    if (page.owner.load(kAcquire) != s + 1)
      return "points into a page that the stripe does not own";
    if (entry->in_page + entry->bytes > page.used.load(kAcquire))
      return "points beyond what is used";
    const std::string key(copy(entry->key(), entry->header.key_bytes));
    const std::uint64_t hash = segment_.hash(key);
    const KeyPlace home = place_of(g_, hash);
    if (home.stripe != s || (home.bucket | 1) != (b | 1) || !slot_matches(word, hash)) {
      return "holds a key that belongs elsewhere";
    }
    if (is_duplicate(s, b, i, key, hash)) return "holds a key that another slot holds too";
    if (options_.deep) {
      const std::string value(copy(entry->value(), entry->header.value_bytes));
      if (entry->header.checksum != entry_checksum(entry->header, key, value)) {
        return "checksum differs: the entry's bytes were changed";
      }
    }
    bytes = entry->bytes;
    return {};
  }

  static std::string copy(const char* from, std::size_t bytes) {
    std::string to(bytes, '\0');
    copy_from_shared(to.data(), from, bytes);
    return to;
  }

  // Among the slots before this one, so that a pair of duplicates is reported once.
  bool is_duplicate(std::uint32_t s, std::uint32_t b, std::size_t i, const std::string& key,
                    std::uint64_t hash) {
    for (std::uint32_t other = b & ~1u; other <= b; ++other) {
      Bucket& bucket = segment_.bucket(s, other);
      for (std::size_t j = 0; j < kSlotsPerBucket && (other < b || j < i); ++j) {
        const std::uint64_t word = bucket.slots[j].load(kAcquire);
        if (!slot_matches(word, hash)) continue;
        const auto entry = read_entry(segment_, word);
        if (entry && entry->key_is(key) && bucket.slots[j].load(kAcquire) == word) return true;
      }
    }
    return false;
  }

  Segment& segment_;
  const Geometry& g_;
  const CheckOptions options_;
  CheckReport report_;
  std::uint64_t unreported_ = 0;
};

}  // namespace

CheckReport check(Segment& segment, const CheckOptions& options) {
  return Checker(segment, options).run();
}

}  // namespace larder::shm
