// A folder with the files of one segment, and pictures of it.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "tests/support/process.h"

namespace larder::kill {

using Image = std::map<std::string, std::string>;  // bytes by file name

class World {
 public:
  World() = default;
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  const std::string& directory() const { return dir_.path(); }
  // Makes the files what they are in `image`. Those that are there already keep their inode.
  void restore(const Image& image);
  Image picture();
  // Brings `image`, a picture of before, up to date. False: nothing had changed. New, longer and
  // renamed files are noticed after `names_changed` only.
  bool update(Image& image);
  // A system call was made.
  void names_changed() { listed_ = false; }

 private:
  struct View {
    const char* bytes;
    std::size_t size;
  };
  void list();
  void forget();

  test::TempDir dir_;
  std::map<std::string, View> views_;
  bool listed_ = false;
};

}  // namespace larder::kill
