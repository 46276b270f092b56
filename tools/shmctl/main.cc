// shmctl: looks into the shared-memory segments of larder, and mends them.
//
// Start reading here, then commands_*.cc (what each command shows), answer.h (what they share),
// health.cc (who is alive).
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "tools/shmctl/commands.h"

namespace {

using larder::tools::Arguments;

constexpr const char* kFooter =
    "NAME is a segment of the directory; with a slash it is a path, also of a copied file.\n"
    "Every command but rm, repair, reap and resize only looks: it maps the file read-only and "
    "takes\n"
    "no lock, so it works while processes are stopped or dead, and on a copied file.\n"
    "A key or name that starts with '-' goes after '--'.\n"
    "\n"
    "Exit status: 0 fine; 1 degraded (stripes bypassed or locked by the dead, views of the dead),\n"
    "no such key or no hit, in use and so not removed or repaired, or no room to resize; 2 "
    "broken,\n"
    "invariants are violated; 3 cannot attach, the message says why; 4 wrong usage, or the output\n"
    "could not be written.";

constexpr const char* kResizeFooter =
    "Makes a segment beside the one in use, and puts it in its place: there must be room for "
    "both.\n"
    "Processes move over without a restart, each at its next call; for some milliseconds before\n"
    "that, reads miss and changes wait. The most used entries are copied. With Redis none are: it\n"
    "has them, and a change of another host might be missed meanwhile. A process of one thread\n"
    "gives the old memory back as it moves, another when it closes its cache.\n"
    "\n";

// A peer that truncates the file while we read it takes the memory away from under us.
void on_bus_error(int) {
  constexpr char kMessage[] = "shmctl: the file was truncated while it was read; try again\n";
  (void)!write(STDERR_FILENO, kMessage, sizeof kMessage - 1);
  _exit(larder::tools::kCannotAttach);
}

using Command = int (*)(const Arguments&);

class Program {
 public:
  Program() : app_("Looks into the shared-memory segments of larder.", "shmctl") {
    app_.footer(kFooter);
    app_.fallthrough();
    app_.require_subcommand(1);
    app_.add_option("--directory", arguments_.directory, "where the segments are")
        ->take_last()
        ->capture_default_str();
    declare();
  }

  int run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app_.exit(error) == 0 ? larder::tools::kFine : larder::tools::kUsage;
    }
    if (arguments_.directory.empty() || arguments_.target.empty()) {
      return larder::tools::fail(arguments_, larder::tools::kUsage, "an empty name; see --help");
    }
    const int exit = chosen_(arguments_);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit;
    std::fprintf(stderr, "shmctl: the output could not be written\n");
    return larder::tools::kUsage;
  }

 private:
  CLI::App& add(const char* name, const char* what, Command command) {
    CLI::App& sub = *app_.add_subcommand(name, what);
    sub.add_flag("--json", arguments_.json, "print JSON");
    sub.callback([this, command] { chosen_ = command; });
    return sub;
  }
  CLI::Option& add_target(CLI::App& sub) {
    return *sub.add_option("NAME|PATH", arguments_.target, "segment")->capture_default_str();
  }

  void declare() {
    namespace tools = larder::tools;
    add("list", "the segments of the directory", tools::list);
    add_target(add("info", "what it was made for, geometry, layout", tools::info));
    add_target(add("stat", "counters, hit ratio, where its bytes are", tools::stat));

    CLI::App& keys = add("keys", "the keys that would be served, in no order", tools::keys);
    add_target(keys);
    keys.add_option("--prefix", arguments_.prefix, "only keys that start so");
    keys.add_option("--limit", arguments_.limit, "at most so many; 0: all")
        ->check(CLI::Range(std::int64_t{0}, INT64_MAX))
        ->capture_default_str();
    keys.add_flag("--all", arguments_.all, "expired and flushed entries too, with their state");

    CLI::App& get = add("get", "the value of a key, as it is", tools::get);
    add_target(get).required();
    get.add_option("KEY", arguments_.key, "key, prefix included")->required();

    CLI::App& explain =
        add("explain", "what is known of a key, and what a read would do now", tools::explain);
    add_target(explain).required();
    explain.add_option("KEY", arguments_.key, "key, prefix included")->required();

    add_target(add("procs", "the attached processes", tools::procs));
    add_target(add("leader", "who applies the events of other hosts, and how far", tools::leader));

    CLI::App& watch = add("watch", "events as they are applied, until interrupted", tools::watch);
    add_target(watch);
    watch.add_option("--prefix", arguments_.prefix, "only keys that start so");
    watch.add_option("--limit", arguments_.limit, "ends after so many; 0: never")
        ->check(CLI::Range(std::int64_t{0}, INT64_MAX))
        ->capture_default_str();
    watch.add_option("--last", arguments_.last, "begins with so many that there were")
        ->check(CLI::Range(std::int64_t{0}, INT64_MAX))
        ->capture_default_str();

    CLI::App& check =
        add("check", "walks everything and compares it with the invariants", tools::check);
    add_target(check);
    check.add_flag("--deep", arguments_.deep, "compare every entry's checksum too");

    CLI::App& locks =
        add("locks", "stripes that are locked, bypassed, or lost holders", tools::locks);
    add_target(locks);
    locks.add_flag("--all", arguments_.all, "every stripe");

    add_target(add("pins", "the views that processes hold", tools::pins));

    CLI::App& repair = add(
        "repair", "mends stripes that are locked by the dead, bypassed or broken", tools::repair);
    add_target(repair).required();
    repair.add_flag("--all", arguments_.all, "every stripe, whether it needs it or not");
    repair.add_flag("--write", arguments_.write, "yes, change the segment");

    CLI::App& reap =
        add("reap", "frees what dead processes left: places, locks, views", tools::reap);
    add_target(reap).required();
    reap.add_flag("--write", arguments_.write, "yes, change the segment");

    CLI::App& resize = add("resize", "gives a segment that is in use another size", tools::resize);
    resize.footer(std::string(kResizeFooter) + kFooter);
    add_target(resize).required();
    resize.add_option("--size", arguments_.size, "the new size: bytes, or with KiB, MiB, GiB")
        ->required()
        ->transform(CLI::AsSizeValue(false));
    resize.add_flag("--write", arguments_.write, "yes, change the segment");

    CLI::App& rm = add("rm", "removes a segment that nobody uses", tools::rm);
    add_target(rm).required();
    rm.add_flag("--force", arguments_.force,
                "also while it is in use: those processes go on with what they have mapped");
  }

  CLI::App app_;
  Arguments arguments_;
  Command chosen_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  (void)signal(SIGBUS, on_bus_error);
  try {
    return Program().run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shmctl: %s\n", error.what());
    return larder::tools::kUsage;
  }
}
