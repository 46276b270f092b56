// `larder-bench steady`: whether a full segment stays as fast as it was. Processes set values of
// mixed sizes, overwrite, let expire and remove for as long as asked; the throughput is counted in
// stretches of time, and the accounting is checked at the end.
#pragma once

namespace CLI {
class App;
}

namespace larder::bench {

// Adds the subcommand. When it was asked for, parsing also runs it and sets `exit_status`.
void declare_steady(CLI::App& parent, int& exit_status);

}  // namespace larder::bench
