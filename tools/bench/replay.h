// `larder-bench replay`: the share of hits that a recorded trace has, by policy, beside what exact
// least-recently-used and the best possible policy would have had.
//
// Everything of larder's goes through the public Cache and a real segment, without Redis: get_local
// and, on a miss, set. There is no second implementation of its policies here.
#pragma once

namespace CLI {
class App;
}

namespace larder::bench {

// Adds the subcommand. When it was asked for, parsing also runs it and sets `exit_status`: 0 done,
// 1 failed (the message is on stderr), 130 interrupted. Wrong usage is a CLI::ParseError.
void declare_replay(CLI::App& parent, int& exit_status);

}  // namespace larder::bench
