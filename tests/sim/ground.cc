#include "tests/sim/ground.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace larder::sim {
namespace {

constexpr std::uint64_t kHashSeed = 0x5eed;  // a seed shall do the same in every run

[[noreturn]] void give_up(const Status& why) {
  std::fprintf(stderr, "larder-sim: %s\n", why.to_string().c_str());
  std::exit(2);
}

std::shared_ptr<shm::Segment> opened(const shm::SegmentOptions& options) {
  auto segment = shm::Segment::open(options);
  if (!segment) give_up(segment.status());
  return std::move(*segment);
}

char* begin_of(shm::Segment& segment) { return reinterpret_cast<char*>(&segment.superblock()); }

}  // namespace

Ground::Ground() {
  for (unsigned i = 0; i < kHostsMost; ++i) {
    shm::SegmentOptions options;
    options.directory = dir_.path();
    options.name = "host-" + std::to_string(i);
    options.bytes = shm::kSegmentMinBytes;
    opened(options)->superblock().hash_seed = kHashSeed;
    std::shared_ptr<shm::Segment> segment = opened(options);  // which has read it
    auto table = std::make_unique<shm::Table>(segment, shm::TableOptions());
    if (Status joined = table->join(); !joined.ok()) give_up(joined);
    std::string picture(begin_of(*segment), options.bytes);
    places_.push_back({std::move(segment), std::move(table), std::move(picture)});
  }
}

shm::Table& Ground::fresh_table(unsigned index) {
  Place& place = places_[index];
  std::memcpy(begin_of(*place.segment), place.picture.data(), place.picture.size());
  return *place.table;
}

}  // namespace larder::sim
