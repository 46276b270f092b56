// What is killed: operations on a segment, each with what stands before it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "shm/segment.h"
#include "shm/table.h"

namespace larder::kill {

using Work = std::function<void(shm::Table&)>;

struct Operation {
  std::string name;             // "overwrite"
  std::string variant;          // "100 bytes, full, lfu"
  shm::SegmentOptions segment;  // directory and name are set by who runs it
  Work build;                   // fills the segment
  // The builder goes on living while the operation runs, with what it pinned.
  bool builder_lives = false;
  // It also holds the lock of the stripe, and lets go of it only after the operation.
  bool builder_holds = false;
  // Not empty: a process was killed in the midst of this, and the operation finds what it left.
  Work died_in;
  double died_at = 0.5;  // after this part of its changes
  Work prepare;          // by the process of the operation, before it is watched
  Work run;
  // The process of the operation has no place before it.
  bool joins = false;
  // The id of the change that a follower is told of; 0: none.
  std::uint64_t follows = 0;
  // For creation and removal: there is no table. The folder is all.
  std::function<void(const shm::SegmentOptions&)> on_files;
  // After whoever needed the segment: what takes away the rest.
  std::function<void(const shm::SegmentOptions&)> cleans;
};

std::vector<Operation> operations();

}  // namespace larder::kill
