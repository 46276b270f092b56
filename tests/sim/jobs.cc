#include "tests/sim/jobs.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "tests/sim/base.h"
#include "tests/sim/ground.h"

namespace larder::sim {
namespace {

// What one job leaves, in memory that it shares with who waits for it.
struct Shared {
  Summary summary;
  std::uint64_t seed = 0;  // the one under way
};

void work(Shared& shared, std::uint64_t first, std::uint64_t end, unsigned stride,
          const RunOptions& options) {
  Ground ground;
  for (std::uint64_t seed = first; seed < end; seed += stride) {
    shared.seed = seed;
    shared.summary.add(seed, options.library == Library::kBase
                                 ? run_base(seed, options)
                                 : run(ground, shared.summary.coverage, seed,
                                       steps_of(seed, options.steps), options));
  }
}

Shared* shared_memory(unsigned jobs) {
  void* const at = mmap(nullptr, jobs * sizeof(Shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    std::perror("larder-sim: mmap");
    std::exit(2);
  }
  for (unsigned i = 0; i < jobs; ++i) new (static_cast<Shared*>(at) + i) Shared;
  return static_cast<Shared*>(at);
}

}  // namespace

Summary run_all(std::uint64_t first, std::uint64_t runs, unsigned jobs, const RunOptions& options) {
  Shared* const shared = shared_memory(jobs);
  std::vector<pid_t> children;
  for (unsigned i = 0; i < jobs; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      work(shared[i], first + i, first + runs, jobs, options);
      _exit(0);
    }
    children.push_back(child);
  }
  Summary sum;
  bool whole = true;
  for (unsigned i = 0; i < jobs; ++i) {
    int status = 0;
    if (waitpid(children[i], &status, 0) != children[i] || status != 0) {
      whole = false;
      std::fprintf(stderr, "larder-sim: a job ended with status %#x in seed %" PRIu64 "\n",
                   static_cast<unsigned>(status), shared[i].seed);
    }
    sum.add(shared[i].summary);
  }
  munmap(shared, jobs * sizeof(Shared));
  if (!whole) std::exit(2);
  return sum;
}

}  // namespace larder::sim
