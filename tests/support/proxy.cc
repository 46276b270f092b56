#include "tests/support/proxy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <utility>
#include <vector>

namespace larder::test {
namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("socket path too long");
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

int unix_socket() { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

}  // namespace

Proxy::Proxy(std::string path, std::string target)
    : path_(std::move(path)), target_(std::move(target)) {
  const sockaddr_un address = address_of(path_);
  listener_ = unix_socket();
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  unlink(path_.c_str());
  if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_, 64) != 0) {
    throw std::runtime_error("cannot listen on " + path_);
  }
  thread_ = std::thread([this] { run(); });
}

Proxy::~Proxy() {
  stopping_ = true;
  wake();
  thread_.join();
  for (const Pair& pair : pairs_) {
    close(pair.client);
    close(pair.server);
  }
  close(listener_);
  close(wake_);
  unlink(path_.c_str());
}

void Proxy::hold_answer_to(std::string text) {
  const std::lock_guard lock(mutex_);
  hold_text_ = std::move(text);
}

bool Proxy::await_held() {
  std::unique_lock lock(mutex_);
  return held_changed_.wait_for(lock, std::chrono::seconds(20), [&] {
    for (const Pair& pair : pairs_) {
      if (pair.held && !pair.to_client.empty()) return true;
    }
    return false;
  });
}

void Proxy::release() {
  {
    const std::lock_guard lock(mutex_);
    hold_text_.clear();
    for (Pair& pair : pairs_) pair.held = false;
  }
  wake();
}

void Proxy::drop_all() {
  {
    const std::lock_guard lock(mutex_);
    for (Pair& pair : pairs_) pair.dead = true;
  }
  wake();
}

void Proxy::freeze(bool on) {
  {
    const std::lock_guard lock(mutex_);
    frozen_ = on;
  }
  wake();
}

void Proxy::wake() {
  const std::uint64_t one = 1;
  (void)!write(wake_, &one, sizeof one);
}

void Proxy::accept_client() {
  const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (client < 0) return;
  const sockaddr_un address = address_of(target_);
  const int server = unix_socket();
  if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    close(client);  // as a refused connection would look behind a relay
    close(server);
    return;
  }
  pairs_.push_back({client, server});
}

void Proxy::read_into(Pair& pair, bool from_client) {
  char bytes[16384];
  const ssize_t got = recv(from_client ? pair.client : pair.server, bytes, sizeof bytes, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    pair.dead = true;
    return;
  }
  const auto size = static_cast<std::size_t>(got);
  (from_client ? pair.to_server : pair.to_client).append(bytes, size);
  if (!from_client) {
    if (pair.held) held_changed_.notify_all();
    return;
  }
  if (hold_text_.empty()) return;
  pair.seen.append(bytes, size);
  if (pair.seen.find(hold_text_) != std::string::npos) {
    pair.held = true;
    pair.seen.clear();
    hold_text_.clear();
  } else if (pair.seen.size() > hold_text_.size()) {
    pair.seen.erase(0, pair.seen.size() - hold_text_.size());
  }
}

void Proxy::write_out(Pair& pair, bool to_client) {
  std::string& bytes = to_client ? pair.to_client : pair.to_server;
  if (bytes.empty() || (to_client && pair.held)) return;
  const int fd = to_client ? pair.client : pair.server;
  const ssize_t done = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (done > 0) {
    bytes.erase(0, static_cast<std::size_t>(done));
  } else if (errno != EAGAIN && errno != EINTR) {
    pair.dead = true;
  }
}

void Proxy::run() {
  while (!stopping_) {
    std::vector<pollfd> watched{{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
    {
      const std::lock_guard lock(mutex_);
      for (Pair& pair : pairs_) {
        const bool to_client = !pair.to_client.empty() && !pair.held;
        const short client = frozen_ ? 0 : static_cast<short>(POLLIN | (to_client ? POLLOUT : 0));
        const short server =
            frozen_ ? 0 : static_cast<short>(POLLIN | (pair.to_server.empty() ? 0 : POLLOUT));
        // A hang-up is reported unasked; nobody is to hear of one from a frozen relay.
        watched.push_back({frozen_ ? -1 : pair.client, client, 0});
        watched.push_back({frozen_ ? -1 : pair.server, server, 0});
      }
    }
    poll(watched.data(), watched.size(), -1);
    std::uint64_t ignored = 0;
    (void)!read(wake_, &ignored, sizeof ignored);

    const std::lock_guard lock(mutex_);
    std::size_t at = 2;
    for (auto pair = pairs_.begin(); pair != pairs_.end();) {
      if (at + 1 < watched.size() && !frozen_) {
        const short client = watched[at].revents;
        const short server = watched[at + 1].revents;
        if (client & (POLLIN | POLLHUP | POLLERR)) read_into(*pair, true);
        if (server & (POLLIN | POLLHUP | POLLERR)) read_into(*pair, false);
        write_out(*pair, true);
        write_out(*pair, false);
      }
      at += 2;
      if (!pair->dead) {
        ++pair;
        continue;
      }
      close(pair->client);
      close(pair->server);
      pair = pairs_.erase(pair);
    }
    if (watched[1].revents & POLLIN) accept_client();
  }
}

}  // namespace larder::test
