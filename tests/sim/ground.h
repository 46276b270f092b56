// The segments on which every run begins, as new: made once, and restored from a picture.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shm/segment.h"
#include "shm/table.h"
#include "tests/sim/checker.h"
#include "tests/support/process.h"

namespace larder::sim {

class Ground {
 public:
  // Ends the program when there is no room for them.
  Ground();

  // Host `index`'s table, empty.
  shm::Table& fresh_table(unsigned index);

 private:
  struct Place {
    std::shared_ptr<shm::Segment> segment;
    std::unique_ptr<shm::Table> table;
    std::string picture;
  };
  test::TempDir dir_;
  std::vector<Place> places_;
};

}  // namespace larder::sim
