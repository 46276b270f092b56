// repair and reap: what any process of the segment would do when it came by, on demand.
//
// Both take a place among the segment's processes and may themselves be killed at any moment. A
// stripe that a living process holds is left alone after a bounded wait: only that process, or its
// death, can let go of it.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "shm/check.h"
#include "shm/inspect.h"
#include "shm/process.h"
#include "shm/table.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

using shm::Segment;

constexpr std::chrono::milliseconds kStripeWait{200};

// ---- repair -----------------------------------------------------------------------------------

std::set<std::uint32_t> stripes_to_mend(Segment& segment, const Liveness& liveness, bool all) {
  std::set<std::uint32_t> stripes;
  for (std::uint32_t i = 0; i < segment.geometry().stripe_count; ++i) {
    const shm::Stripe& stripe = segment.stripe(i);
    const std::uint32_t word = stripe.lock.load();
    const bool dead = word != 0 && holder_of(segment, word, liveness).life.alive != Alive::kYes;
    if (all || dead || stripe.bypass.load() != 0) stripes.insert(i);
  }
  shm::CheckOptions options;
  options.deep = true;
  for (const std::uint32_t stripe : shm::check(segment, options).broken_stripes) {
    stripes.insert(stripe);
  }
  return stripes;
}

struct Mended {
  std::uint32_t stripe;
  std::int64_t dropped = 0;  // entries
  std::string held_by;       // empty: mended
  bool unsure = false;       // whether who holds it is alive
};

std::string describe(const Holder& holder) {
  if (holder.pid == 0) return "nobody that can be named; try again";
  const std::string pid = std::to_string(holder.pid);
  std::string text = "process " + pid + " (place " + std::to_string(holder.place) + "), which is " +
                     holder.life.state;
  if (holder.life.state == "stopped") {
    return text + ": let it go on (kill -CONT " + pid + ") or end it (kill -KILL " + pid + ")";
  }
  return text + ": try again, or end it (kill -KILL " + pid + ")";
}

Mended mend(shm::Table& table, std::uint32_t index, const Liveness& liveness) {
  Segment& segment = table.segment();
  const shm::Stripe& stripe = segment.stripe(index);
  const std::int64_t before = stripe.entries.load();
  const std::uint32_t word = stripe.lock.load();
  if (table.repair(index)) return {index, before - std::int64_t{stripe.entries.load()}, {}};
  const std::uint32_t now = stripe.lock.load();
  const Holder holder = holder_of(segment, now != 0 ? now : word, liveness);
  return {index, 0, describe(holder), holder.life.alive == Alive::kUnknown};
}

// Of a process in another PID namespace only a byte that stays free tells that it is dead.
void wait_for_grace() { std::this_thread::sleep_for(std::chrono::milliseconds(shm::kGraceMs)); }

std::vector<Mended> mend_all(shm::Table& table, const Liveness& liveness, bool all) {
  std::vector<Mended> done;
  bool unsure = false;
  for (const std::uint32_t stripe : stripes_to_mend(table.segment(), liveness, all)) {
    done.push_back(mend(table, stripe, liveness));
    unsure = unsure || done.back().unsure;
  }
  if (unsure) wait_for_grace();
  for (Mended& each : done) {
    if (each.unsure) each = mend(table, each.stripe, liveness);
  }
  return done;
}

int exit_of(const std::vector<Mended>& all) {
  for (const Mended& each : all) {
    if (!each.held_by.empty()) return kDegraded;
  }
  return kFine;
}

void print(const std::vector<Mended>& all) {
  for (const Mended& each : all) {
    if (!each.held_by.empty()) {
      std::printf("stripe %u: not repaired, held by %s\n", each.stripe, each.held_by.c_str());
    } else if (each.dropped > 0) {
      std::printf("stripe %u: repaired, %s dropped\n", each.stripe,
                  format_count(static_cast<std::uint64_t>(each.dropped), "entry").c_str());
    } else {
      std::printf("stripe %u: repaired\n", each.stripe);
    }
  }
  if (all.empty()) std::printf("nothing to repair\n");
}

Json json_of(const Mended& each) {
  Json json{{"stripe", each.stripe}, {"repaired", each.held_by.empty()}};
  if (each.held_by.empty()) {
    json["dropped"] = each.dropped;
  } else {
    json["held_by"] = each.held_by;
  }
  return json;
}

// ---- both -------------------------------------------------------------------------------------

// A table that has its place; null after saying why not.
std::unique_ptr<shm::Table> join(const Arguments& arguments,
                                 const std::shared_ptr<Segment>& segment) {
  auto table = std::make_unique<shm::Table>(segment, shm::TableOptions{kStripeWait});
  const Status joined = table->join();
  if (joined.ok()) return table;
  (void)fail(arguments, kCannotAttach, joined.message());
  return nullptr;
}

}  // namespace

int repair(const Arguments& arguments) {
  int exit = kFine;
  const auto segment = attach_to_change(arguments, exit);
  if (segment == nullptr) return exit;
  // It outlives the table: closing its descriptor would take the lock of our place away.
  const Liveness liveness(*segment);
  const auto table = join(arguments, segment);
  if (table == nullptr) return kCannotAttach;
  const std::vector<Mended> all = mend_all(*table, liveness, arguments.all);
  exit = exit_of(all);
  if (arguments.json) {
    Json json = json_head(*segment, exit);
    json["stripes"] = Json::array();
    for (const Mended& each : all) json["stripes"].push_back(json_of(each));
    print_json(json);
  } else {
    print(all);
  }
  return exit;
}

// ---- reap -------------------------------------------------------------------------------------

namespace {

struct Left {
  std::uint32_t place;
  std::uint32_t pid;
  std::string why;  // it was not reaped; empty: it was
};

// Those that are not plainly alive.
std::vector<Left> not_alive(Segment& segment, const Liveness& liveness) {
  std::vector<Left> all;
  for (const shm::ProcessInfo& process : shm::processes(segment)) {
    const Life life = liveness.of_place(process.place);
    if (life.alive != Alive::kYes) all.push_back({process.place, process.pid, life.state});
  }
  return all;
}

}  // namespace

int reap(const Arguments& arguments) {
  int exit = kFine;
  const auto segment = attach_to_change(arguments, exit);
  if (segment == nullptr) return exit;
  const Liveness liveness(*segment);
  const std::vector<Left> before = not_alive(*segment, liveness);
  const auto table = join(arguments, segment);
  if (table == nullptr) return kCannotAttach;
  const std::size_t reaped = table->reap();
  if (reaped < before.size()) {
    wait_for_grace();
    (void)table->reap();
  }
  std::vector<Left> all;
  std::set<std::uint32_t> still;
  for (const Left& left : not_alive(*segment, liveness)) still.insert(left.place);
  for (Left left : before) {
    if (still.count(left.place) == 0) left.why.clear();
    if (!left.why.empty()) exit = kDegraded;
    all.push_back(std::move(left));
  }
  if (arguments.json) {
    Json json = json_head(*segment, exit);
    json["processes"] = Json::array();
    for (const Left& left : all) {
      json["processes"].push_back(
          {{"place", left.place}, {"pid", left.pid}, {"reaped", left.why.empty()}});
    }
    print_json(json);
  } else {
    for (const Left& left : all) {
      std::printf("place %u, process %u: %s\n", left.place, left.pid,
                  left.why.empty() ? "reaped" : ("left alone, " + left.why).c_str());
    }
    if (all.empty()) std::printf("nothing to reap\n");
  }
  return exit;
}

}  // namespace larder::tools
