// An entry as people and programs read it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "shm/inspect.h"
#include "tools/shmctl/text.h"

namespace larder::tools {

// Why a `get` of the library would miss; empty when it would not.
std::string why_not_served(shm::Segment& segment, const shm::EntryInfo& entry);
// What is left; nothing: for ever. 0: expired.
std::optional<std::uint64_t> life_left_ms(const shm::EntryInfo& entry);
// Any bytes: as text when they are text, and always as base64.
void add_bytes(Json& json, const std::string& name, std::string_view bytes);
Json json_of_entry(const shm::EntryInfo& entry, const std::string& why_not);
const char* source_name(shm::EntrySource source) noexcept;  // "event"

}  // namespace larder::tools
