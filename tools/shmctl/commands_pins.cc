// pins: the views that processes hold, and what they keep from being used again.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "shm/inspect.h"
#include "tools/shmctl/answer.h"
#include "tools/shmctl/commands.h"
#include "tools/shmctl/health.h"
#include "tools/shmctl/text.h"

namespace larder::tools {
namespace {

using shm::Segment;

struct Row {
  shm::PinInfo pin;
  std::uint32_t pid;
  Life life;
};

std::vector<Row> rows_of(Segment& segment) {
  const Liveness liveness(segment);
  std::vector<Row> rows;
  for (shm::PinInfo& pin : shm::pins(segment)) {
    const std::uint32_t pid = segment.place(pin.place).pid.load();
    Life life = liveness.of_place(pin.place);
    rows.push_back({std::move(pin), pid, std::move(life)});
  }
  return rows;
}

Json json_of(const Row& row) {
  return {{"place", row.pin.place},
          {"pid", row.pid},
          {"alive", json_of_alive(row.life.alive)},
          {"state", row.life.state},
          {"stripe", row.pin.stripe},
          {"granule", row.pin.granule},
          {"key", json_text(row.pin.key)},
          {"value_bytes", row.pin.value_bytes},
          {"reachable", row.pin.reachable}};
}

void print(const std::vector<Row>& rows) {
  if (rows.empty()) {
    std::printf("no process holds a view\n");
    return;
  }
  using enum Table::Align;
  Table table({{"PLACE", kRight},
               {"PID", kRight},
               {"ALIVE", kLeft},
               {"STRIPE", kRight},
               {"GRANULE", kRight},
               {"VALUE", kRight},
               {"REACHABLE", kLeft},
               {"KEY", kLeft}});
  for (const Row& row : rows) {
    table.add({std::to_string(row.pin.place), std::to_string(row.pid), alive_name(row.life.alive),
               std::to_string(row.pin.stripe), std::to_string(row.pin.granule),
               format_bytes(row.pin.value_bytes), row.pin.reachable ? "yes" : "no",
               escape(row.pin.key)});
  }
  table.print(stdout);
}

}  // namespace

int pins(const Arguments& arguments) {
  const auto segment = attach(arguments);
  if (segment == nullptr) return kCannotAttach;
  const std::vector<Row> rows = rows_of(*segment);
  // Room that nobody uses and nobody gets before the dead are reaped.
  int exit = kFine;
  for (const Row& row : rows) {
    if (row.life.alive == Alive::kNo) exit = kDegraded;
  }
  if (arguments.json) {
    Json json = json_head(*segment, exit);
    json["pins"] = Json::array();
    for (const Row& row : rows) json["pins"].push_back(json_of(row));
    print_json(json);
  } else {
    print(rows);
    if (exit == kDegraded) {
      std::printf("degraded: views of the dead are kept; `shmctl reap --write` lets go of them\n");
    }
  }
  return exit;
}

}  // namespace larder::tools
