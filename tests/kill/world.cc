#include "tests/kill/world.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace larder::kill {
namespace {

[[noreturn]] void give_up(const std::string& what) {
  std::perror(what.c_str());
  std::_Exit(3);
}

void write_file(const std::string& path, const std::string& bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes.size())) != 0) give_up(path);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote =
        pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (wrote <= 0) give_up(path);
    done += static_cast<std::size_t>(wrote);
  }
  close(fd);
}

}  // namespace

World::~World() { forget(); }

void World::restore(const Image& image) {
  for (const auto& file : std::filesystem::directory_iterator(directory())) {
    if (!image.contains(file.path().filename())) std::filesystem::remove(file.path());
  }
  for (const auto& [name, bytes] : image) write_file(directory() + "/" + name, bytes);
  listed_ = false;
}

Image World::picture() {
  Image image;
  listed_ = false;
  update(image);
  return image;
}

bool World::update(Image& image) {
  bool changed = false;
  if (!listed_) {
    list();
    changed = std::erase_if(image, [&](const auto& file) { return !views_.contains(file.first); });
  }
  for (const auto& [name, view] : views_) {
    const auto [at, is_new] = image.try_emplace(name);
    std::string& bytes = at->second;
    if (!is_new && bytes.size() == view.size &&
        (view.size == 0 || std::memcmp(bytes.data(), view.bytes, view.size) == 0)) {
      continue;
    }
    bytes.assign(view.bytes, view.size);
    changed = true;
  }
  return changed;
}

void World::forget() {
  for (const auto& [name, view] : views_) {
    if (view.size != 0) munmap(const_cast<char*>(view.bytes), view.size);
  }
  views_.clear();
}

void World::list() {
  forget();
  for (const auto& file : std::filesystem::directory_iterator(directory())) {
    const int fd = open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about {};
    if (fd < 0 || fstat(fd, &about) != 0) give_up(file.path());
    const auto size = static_cast<std::size_t>(about.st_size);
    void* bytes = nullptr;
    if (size != 0) bytes = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) give_up(file.path());
    close(fd);
    views_.emplace(file.path().filename(), View{static_cast<const char*>(bytes), size});
  }
  listed_ = true;
}

}  // namespace larder::kill
