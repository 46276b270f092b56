#include "stats_json.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

namespace prefork {
namespace {

// 41 numbers, and a bool that is padded to the size of one.
static_assert(sizeof(larder::Stats) == 45 * sizeof(std::uint64_t),
              "larder::Stats changed: add its new fields to stats_json() and to this count");

using Json = nlohmann::ordered_json;

void add_reads_and_writes(Json& json, const larder::Stats& stats) {
  json["local_hits"] = stats.local_hits;
  json["local_misses"] = stats.local_misses;
  json["remote_hits"] = stats.remote_hits;
  json["remote_misses"] = stats.remote_misses;
  json["remote_errors"] = stats.remote_errors;
  json["stale_hits"] = stats.stale_hits;
  json["sets"] = stats.sets;
  json["removes"] = stats.removes;
  json["clears"] = stats.clears;
}

void add_values(Json& json, const larder::Stats& stats) {
  json["stored"] = stats.stored;
  json["stores_refused"] = stats.stores_refused;
  json["too_large"] = stats.too_large;
  json["evictions"] = stats.evictions;
  json["expirations"] = stats.expirations;
  json["lock_timeouts"] = stats.lock_timeouts;
  json["takeovers"] = stats.takeovers;
  json["corrupt"] = stats.corrupt;
  json["announced_large"] = stats.announced_large;
  json["announced_cold"] = stats.announced_cold;
  json["not_asked"] = stats.not_asked;
  json["wipes"] = stats.wipes;
}

void add_sync(Json& json, const larder::Stats& stats) {
  json["events_applied"] = stats.events_applied;
  json["events_old"] = stats.events_old;
  json["events_without_id"] = stats.events_without_id;
  json["events_malformed"] = stats.events_malformed;
  json["events_foreign"] = stats.events_foreign;
  json["epoch_raises"] = stats.epoch_raises;
  json["leader_changes"] = stats.leader_changes;
  json["stale_term_refused"] = stats.stale_term_refused;
  json["unpublished"] = stats.unpublished;
  json["stale_term_writes"] = stats.stale_term_writes;
  json["locks_lost"] = stats.locks_lost;
}

void add_space(Json& json, const larder::Stats& stats) {
  json["segment_bytes"] = stats.segment_bytes;
  json["arena_bytes"] = stats.arena_bytes;
  json["free_bytes"] = stats.free_bytes;
  json["live_bytes"] = stats.live_bytes;
  json["pinned_bytes"] = stats.pinned_bytes;
  json["payload_bytes"] = stats.payload_bytes;
  json["index_bytes"] = stats.index_bytes;
  json["metadata_bytes"] = stats.metadata_bytes;
  json["entries"] = stats.entries;
  json["views"] = stats.views;
  json["processes"] = stats.processes;
  json["epoch"] = stats.epoch;
  json["in_sync"] = stats.in_sync;
}

}  // namespace

std::string stats_json(const larder::Cache& cache) {
  const larder::Stats stats = cache.stats();
  Json json;
  json["worker"] = getpid();
  json["node_id"] = cache.node_id();
  add_reads_and_writes(json, stats);
  add_values(json, stats);
  add_sync(json, stats);
  add_space(json, stats);
  // The node id comes from the environment and may be no UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace prefork
