#include "tools/bench/server.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

namespace larder::bench {
namespace {

constexpr std::chrono::seconds kPatience{20};

bool is_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (::access(folder.append("/").append(name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

void execute(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<char*> words{const_cast<char*>(program.c_str())};
  for (const auto& each : arguments) words.push_back(const_cast<char*>(each.c_str()));
  words.push_back(nullptr);
  const int nowhere = ::open("/dev/null", O_RDWR);
  for (const int end : {0, 1, 2}) ::dup2(nowhere, end);
  ::execvp(program.c_str(), words.data());
  ::_exit(127);
}

bool takes_connections(const std::string& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket.data(), socket.size());
  const int connection = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connection < 0) return false;
  const bool taken =
      ::connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::close(connection);
  return taken;
}

}  // namespace

Server::Server(const std::string& program, const std::vector<std::string>& arguments,
               std::string socket)
    : socket_(std::move(socket)), child_([&] { execute(program, arguments); }) {}

Result<std::unique_ptr<Server>> Server::start(const std::string& program,
                                              const std::vector<std::string>& arguments,
                                              const std::string& socket) {
  if (!is_program(program)) return Status(Code::kNotFound, program + " is not installed");
  if (socket.size() >= sizeof sockaddr_un{}.sun_path) {
    return Status(Code::kInvalidArgument,
                  socket + " is too long for a socket; give a shorter --directory");
  }
  std::unique_ptr<Server> server(new Server(program, arguments, socket));
  if (!server->child_.ok()) return no_process();
  if (Status status = server->wait_until_ready(); !status.ok()) return status;
  return server;
}

Status Server::wait_until_ready() {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!takes_connections(socket_)) {
    if (interrupted()) return interruption();
    if (child_.ended()) return {Code::kUnavailable, "the server of " + socket_ + " has ended"};
    if (std::chrono::steady_clock::now() > end) {
      return {Code::kUnavailable, "the server of " + socket_ + " does not answer"};
    }
    wait_a_moment(0.005);
  }
  return {};
}

std::uint64_t Server::resident_bytes() const {
  std::ifstream file("/proc/" + std::to_string(child_.pid()) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmRSS:")) return std::strtoull(line.c_str() + 6, nullptr, 10) << 10;
  }
  return 0;
}

Result<std::unique_ptr<Server>> start_redis(const std::string& folder, const std::string& name,
                                            std::uint64_t room_bytes) {
  const std::string socket = folder + "/" + name;
  return Server::start("redis-server",
                       {"--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--save",
                        "", "--appendonly", "no", "--dir", folder, "--daemonize", "no",
                        "--maxmemory", std::to_string(room_bytes), "--maxmemory-policy",
                        room_bytes == 0 ? "noeviction" : "allkeys-lru"},
                       socket);
}

Result<std::unique_ptr<Server>> start_memcached(const std::string& folder, std::uint64_t room_bytes,
                                                std::uint64_t value_max_bytes) {
  const std::string socket = folder + "/memcached";
  constexpr std::uint64_t kMb = 1 << 20;
  // Its item is key, value and header; a chunk of a slab may be half of that at most.
  const std::uint64_t item_mb = std::max<std::uint64_t>(1, 2 * value_max_bytes / kMb + 1);
  const std::uint64_t room_mb = std::max(room_bytes / kMb, 8 * item_mb);
  std::vector<std::string> arguments{"-s", socket,
                                     "-a", "0700",
                                     "-m", std::to_string(room_mb),
                                     "-I", std::to_string(item_mb) + "m"};
  if (const passwd* user = getpwuid(geteuid()); user != nullptr) {
    arguments.insert(arguments.end(), {"-u", user->pw_name});  // as root it wants to be told
  }
  return Server::start("memcached", arguments, socket);
}

}  // namespace larder::bench
