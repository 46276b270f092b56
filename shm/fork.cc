#include "shm/fork.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

namespace larder::shm::detail {

namespace {

std::atomic<std::uint64_t> last_generation{0};  // a child inherits it

// When the library is loaded, before anything of it runs: a lazy initialisation could be under way
// in one thread while another forks, and its guard would hang the child.
[[gnu::constructor(101)]] void map_wiped_page() noexcept {
  if (wiped_page != nullptr) return;  // a second copy of the library, and symbols are shared
  const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* page = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  // Without this page a child would act under its parent's name: there is no safe way to go on.
  if (page == MAP_FAILED || madvise(page, bytes, MADV_WIPEONFORK) != 0) std::abort();
  wiped_page = static_cast<std::atomic<std::uint64_t>*>(page);
}

}  // namespace

std::uint64_t new_generation() noexcept {
  // First call in this process. Threads may race; the first one's number stays.
  std::uint64_t expected = 0;
  const std::uint64_t mine = last_generation.fetch_add(1, std::memory_order_relaxed) + 1;
  if (wiped_page->compare_exchange_strong(expected, mine, std::memory_order_acq_rel)) return mine;
  return expected;
}

}  // namespace larder::shm::detail
