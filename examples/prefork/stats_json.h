// What GET /stats answers.
#pragma once

#include <string>

#include "larder/cache.h"

namespace prefork {

// An object with every field of Stats under its own name, `worker` (who answered) and `node_id`.
// The counters are the segment's: every worker answers with the same ones.
std::string stats_json(const larder::Cache& cache);

}  // namespace prefork
