// locks: who holds which stripe, and which stripes readers have to miss in.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

using shm::Segment;

struct Row {
  std::uint32_t stripe;
  std::uint32_t word;
  Holder holder;  // of a stripe that is locked
  std::uint32_t deaths;
  std::uint32_t bypass;
  std::uint64_t term;

  bool locked() const { return (word & ~shm::kWaiters) != 0; }
  bool degraded() const { return bypass != 0 || (locked() && holder.life.alive == Alive::kNo); }
};

std::vector<Row> rows_of(Segment& segment, bool all) {
  const Liveness liveness(segment);
  std::vector<Row> rows;
  for (std::uint32_t i = 0; i < segment.geometry().stripe_count; ++i) {
    const shm::Stripe& stripe = segment.stripe(i);
    Row row{
        i, stripe.lock.load(), {}, stripe.deaths.load(), stripe.bypass.load(), stripe.term.load()};
    if (row.locked()) row.holder = holder_of(segment, row.word, liveness);
    if (all || row.word != 0 || row.deaths != 0 || row.bypass != 0) rows.push_back(row);
  }
  return rows;
}

Json json_of(const Row& row) {
  Json json{{"stripe", row.stripe}, {"locked", row.locked()}};
  if (row.locked()) {
    json["place"] = row.holder.place;
    json["pid"] = row.holder.pid == 0 ? Json(nullptr) : Json(row.holder.pid);
    json["alive"] = json_of_alive(row.holder.life.alive);
    json["state"] = row.holder.life.state;
  }
  json["waiters"] = (row.word & shm::kWaiters) != 0;
  json["deaths"] = row.deaths;
  json["bypass"] = row.bypass;
  json["term"] = row.term;
  return json;
}

void print(const std::vector<Row>& rows) {
  if (rows.empty()) {
    std::printf("no stripe is locked or bypassed\n");
    return;
  }
  using enum Table::Align;
  Table table({{"STRIPE", kRight},
               {"PLACE", kRight},
               {"PID", kRight},
               {"ALIVE", kLeft},
               {"WAITERS", kLeft},
               {"DEATHS", kRight},
               {"BYPASS", kRight},
               {"TERM", kRight},
               {"STATE", kLeft}});
  for (const Row& row : rows) {
    const bool locked = row.locked();
    const std::string pid = row.holder.pid == 0 ? "-" : std::to_string(row.holder.pid);
    table.add({std::to_string(row.stripe), locked ? std::to_string(row.holder.place) : "-",
               locked ? pid : "-", locked ? alive_name(row.holder.life.alive) : "",
               (row.word & shm::kWaiters) != 0 ? "yes" : "", std::to_string(row.deaths),
               std::to_string(row.bypass), std::to_string(row.term),
               locked ? row.holder.life.state : "free"});
  }
  table.print(stdout);
}

}  // namespace

int locks(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const std::vector<Row> rows = rows_of(*segment, arguments.all);
  int exit = kFine;
  for (const Row& row : rows) {
    if (row.degraded()) exit = kDegraded;
  }
  if (arguments.json) {
    Json json = json_head(*segment, exit);
    json["stripes"] = Json::array();
    for (const Row& row : rows) json["stripes"].push_back(json_of(row));
    print_json(json);
  } else {
    print(rows);
  }
  return exit;
}

}  // namespace larder::tools
