// `larder-bench memory`: how much of its room a cache fills with keys and values, after its content
// was replaced several times; larder, and memcached beside it with the same limit.
//
// One process writes, then reads back every key that it ever wrote and adds up what it finds, so
// the payload is counted, not computed.
#pragma once

namespace CLI {
class App;
}

namespace larder::bench {

// Adds the subcommand. When it was asked for, parsing also runs it and sets `exit_status`.
void declare_memory(CLI::App& parent, int& exit_status);

}  // namespace larder::bench
