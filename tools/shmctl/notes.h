// A note of the journal as people and programs read it.
#pragma once

#include <string>

#include "shm/journal.h"
#include "tools/shmctl/text.h"

namespace larder::tools {

// "2026-11-23 12:03:44.512  set            applied   1234  user:1"
std::string note_line(const shm::Journal::Entry& note);
Json json_of_note(const shm::Journal::Entry& note);

}  // namespace larder::tools
