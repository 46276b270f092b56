#include "tests/fault/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <list>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/support/http.h"

namespace larder::fault {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct Proxy::Order {
  enum class What : std::uint32_t { kWeather, kCut, kTruncate, kForget, kDoors, kRedirect, kHeal };
  What what{};
  Which which = Which::kAll;
  Weather weather{};
  bool reset = false;
  std::uint32_t bytes = 0;
  Doors doors = Doors::kOpen;
  char redis[sizeof(sockaddr_un::sun_path)] = {};
};

namespace {

constexpr std::size_t kReadBytes = 16u << 10;
// One that is not read any more is not read from either.
constexpr std::size_t kHeldBytesMost = 8u << 20;
constexpr std::string_view kSubscribe = "SUBSCRIBE";
constexpr milliseconds kSlice{20};  // of what a throttled connection may send at once

int listen_at(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      listen(fd, 128) == 0) {
    return fd;
  }
  close(fd);
  return -1;
}

int connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  // Of a unix socket it is done, refused, or its queue is full; the last is a refusal too.
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

// Bytes on their way from one side to the other.
struct Direction {
  struct Piece {
    Clock::time_point due;
    std::string bytes;
  };
  std::deque<Piece> pieces;
  std::size_t held_bytes = 0;
  bool ended = false;             // whoever it comes from has closed
  Clock::time_point next_send{};  // of a throttled one
};

struct Pair {
  int client = -1;
  int server = -1;  // -1: a connection that nobody answers
  Direction up{};
  Direction down{};
  std::string seen{};  // the end of what the client sent, to find `kSubscribe` across reads
  bool subscribes = false;
  bool forgotten = false;
  bool truncates = false;
  std::uint64_t left_bytes = 0;  // of one that is truncated
  bool dead = false;
  bool reset = false;
};

bool concerns(Which which, const Pair& pair) {
  return which == Which::kAll || (which == Which::kSubscriptions) == pair.subscribes;
}

}  // namespace

class Relay {
 public:
  Relay(std::uint16_t port, int listener, int orders, std::string redis)
      : port_(port), listener_(listener), orders_(orders), redis_(std::move(redis)) {}

  int run() {
    for (;;) {
      wait();
      if (!obey()) return 0;
      const auto now = Clock::now();
      for (Pair& pair : pairs_) {
        if (is_silent(pair)) continue;
        pump(pair, now);
      }
      bury();
      if (listener_ >= 0) accept_all();
    }
  }

 private:
  const Weather& weather_of(const Pair& pair) const {
    return pair.subscribes ? for_subscriptions_ : for_commands_;
  }
  bool is_silent(const Pair& pair) const {
    return pair.forgotten || pair.server < 0 || weather_of(pair).silent;
  }

  // ---- waiting ----

  void wait() {
    std::vector<pollfd> watched{{orders_, POLLIN, 0}, {listener_, POLLIN, 0}};
    const auto now = Clock::now();
    auto wake = now + std::chrono::hours(1);
    for (const Pair& pair : pairs_) {
      if (is_silent(pair)) continue;
      // poll tells unasked of one that has closed, again and again.
      const short client = events_of(pair.up, pair.down, now, wake);
      const short server = events_of(pair.down, pair.up, now, wake);
      watched.push_back({pair.up.ended ? -1 : pair.client, client, 0});
      watched.push_back({pair.down.ended ? -1 : pair.server, server, 0});
    }
    const auto left = std::chrono::ceil<milliseconds>(wake - now).count();
    poll(watched.data(), watched.size(), static_cast<int>(left));
  }

  // Of the side that `from` is read from and `to` is written to.
  static short events_of(const Direction& from, const Direction& to, Clock::time_point now,
                         Clock::time_point& wake) {
    int events = 0;
    if (from.held_bytes < kHeldBytesMost) events |= POLLIN;
    if (!to.pieces.empty()) {
      const auto due = std::max(to.pieces.front().due, to.next_send);
      if (due <= now) events |= POLLOUT;
      if (due > now) wake = std::min(wake, due);
    }
    return static_cast<short>(events);
  }

  // ---- relaying ----

  void pump(Pair& pair, Clock::time_point now) {
    read_from(pair, true, now);
    read_from(pair, false, now);
    write_to(pair, true, now);
    write_to(pair, false, now);
    // What one side said before it closed arrives; what the other says then is for nobody.
    for (const Direction* each : {&pair.up, &pair.down}) {
      if (each->ended && each->pieces.empty()) pair.dead = true;
    }
  }

  void read_from(Pair& pair, bool client, Clock::time_point now) {
    Direction& direction = client ? pair.up : pair.down;
    if (pair.dead || direction.ended || direction.held_bytes >= kHeldBytesMost) return;
    char bytes[kReadBytes];
    const ssize_t got = recv(client ? pair.client : pair.server, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
      direction.ended = true;
      return;
    }
    const std::string_view text(bytes, static_cast<std::size_t>(got));
    if (client) look_for_subscribe(pair, text);
    direction.pieces.push_back({due(direction, weather_of(pair), now), std::string(text)});
    direction.held_bytes += text.size();
  }

  Clock::time_point due(const Direction& direction, const Weather& weather, Clock::time_point now) {
    auto due = now + milliseconds(weather.delay_ms);
    if (weather.jitter_ms > 0) due += milliseconds(random_() % (weather.jitter_ms + 1));
    return direction.pieces.empty() ? due : std::max(due, direction.pieces.back().due);
  }

  void look_for_subscribe(Pair& pair, std::string_view text) {
    if (pair.subscribes) return;
    pair.seen.append(text);
    pair.subscribes = pair.seen.find(kSubscribe) != std::string::npos;
    if (pair.seen.size() > kSubscribe.size()) {
      pair.seen.erase(0, pair.seen.size() - kSubscribe.size());
    }
  }

  void write_to(Pair& pair, bool client, Clock::time_point now) {
    Direction& direction = client ? pair.down : pair.up;
    while (!pair.dead && !direction.pieces.empty()) {
      Direction::Piece& piece = direction.pieces.front();
      if (std::max(piece.due, direction.next_send) > now) return;
      std::size_t most = piece.bytes.size();
      const std::uint32_t speed = weather_of(pair).bytes_per_second;
      if (speed > 0) most = std::min<std::size_t>(most, slice_bytes(speed));
      const bool truncated = client && pair.truncates;
      if (truncated) most = std::min<std::uint64_t>(most, pair.left_bytes);
      const ssize_t done = most == 0 ? 0
                                     : send(client ? pair.client : pair.server, piece.bytes.data(),
                                            most, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (done < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (done < 0) {
        pair.dead = true;
        return;
      }
      const auto sent = static_cast<std::size_t>(done);
      if (truncated) {
        pair.left_bytes -= sent;
        pair.dead = pair.left_bytes == 0;
      }
      direction.held_bytes -= sent;
      piece.bytes.erase(0, sent);
      if (piece.bytes.empty()) direction.pieces.pop_front();
      if (speed > 0) direction.next_send = now + milliseconds(1 + sent * 1000 / speed);
    }
  }

  static std::size_t slice_bytes(std::uint32_t speed) {
    return std::max<std::size_t>(1, speed * static_cast<std::size_t>(kSlice.count()) / 1000);
  }

  void accept_all() {
    for (;;) {
      Pair pair;
      pair.client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (pair.client < 0) return;
      const int on = 1;
      setsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      if (doors_ == Doors::kOpen) {
        pair.server = connect_to(redis_);
        pair.dead = pair.server < 0;  // as a refused connection looks behind a relay
      }
      pairs_.push_back(std::move(pair));
    }
  }

  void bury() {
    for (auto pair = pairs_.begin(); pair != pairs_.end();) {
      if (!pair->dead) {
        ++pair;
        continue;
      }
      const linger at_once{1, 0};  // closed with RST
      if (pair->reset) setsockopt(pair->client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
      close(pair->client);
      if (pair->server >= 0) close(pair->server);
      pair = pairs_.erase(pair);
    }
  }

  // ---- orders ----

  using Order = Proxy::Order;

  // False: whoever gave them is gone.
  bool obey() {
    Order order;
    const ssize_t got = recv(orders_, &order, sizeof order, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (got != sizeof order) return false;
    std::uint32_t concerned = 0;
    for (Pair& pair : pairs_) {
      if (!concerns(order.which, pair)) continue;
      ++concerned;
      befall(order, pair);
    }
    bury();
    change(order);
    return send(orders_, &concerned, sizeof concerned, MSG_NOSIGNAL) == sizeof concerned;
  }

  static void befall(const Order& order, Pair& pair) {
    switch (order.what) {
      case Order::What::kCut:
        pair.dead = true;
        pair.reset = order.reset;
        return;
      case Order::What::kTruncate:
        pair.truncates = true;
        pair.left_bytes = order.bytes;
        pair.dead = order.bytes == 0;
        return;
      case Order::What::kForget:
        pair.forgotten = true;
        return;
      case Order::What::kWeather:
      case Order::What::kDoors:
      case Order::What::kRedirect:
      case Order::What::kHeal:
        return;
    }
  }

  void change(const Order& order) {
    if (order.what == Order::What::kRedirect) redis_ = order.redis;
    if (order.what == Order::What::kWeather || order.what == Order::What::kHeal) {
      if (order.which != Which::kCommands) for_subscriptions_ = order.weather;
      if (order.which != Which::kSubscriptions) for_commands_ = order.weather;
    }
    if (order.what != Order::What::kDoors && order.what != Order::What::kHeal) return;
    doors_ = order.doors;
    if (doors_ == Doors::kRefuse && listener_ >= 0) close(std::exchange(listener_, -1));
    if (doors_ != Doors::kRefuse && listener_ < 0) listener_ = listen_at(port_);
  }

  const std::uint16_t port_;
  int listener_;
  const int orders_;
  std::string redis_;
  Doors doors_ = Doors::kOpen;
  Weather for_subscriptions_;
  Weather for_commands_;
  std::list<Pair> pairs_;
  std::minstd_rand random_;
};

Proxy::Proxy(std::string redis) {
  int listener = -1;
  for (int attempt = 0; listener < 0 && attempt < 20; ++attempt) {
    port_ = test::free_port();
    listener = listen_at(port_);
  }
  int ends[2];
  if (listener < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    throw std::runtime_error("no port or socket for a proxy");
  }
  process_ = std::make_unique<test::Forked>([&](test::Steps&) {
    for (const int number : {SIGTERM, SIGINT}) signal(number, SIG_DFL);
    close(ends[0]);
    return Relay(port_, listener, ends[1], std::move(redis)).run();
  });
  close(listener);
  close(ends[1]);
  orders_ = ends[0];
}

Proxy::~Proxy() { close(orders_); }

std::uint32_t Proxy::obey(const Order& order) {
  std::uint32_t concerned = 0;
  if (send(orders_, &order, sizeof order, MSG_NOSIGNAL) != sizeof order ||
      recv(orders_, &concerned, sizeof concerned, 0) != sizeof concerned) {
    throw std::runtime_error("the proxy is gone");
  }
  return concerned;
}

void Proxy::weather(const Weather& weather, Which which) {
  obey({.what = Order::What::kWeather, .which = which, .weather = weather});
}
std::uint32_t Proxy::cut(Which which, bool reset) {
  return obey({.what = Order::What::kCut, .which = which, .reset = reset});
}
void Proxy::truncate(std::uint32_t bytes, Which which) {
  obey({.what = Order::What::kTruncate, .which = which, .bytes = bytes});
}
void Proxy::forget(Which which) { obey({.what = Order::What::kForget, .which = which}); }
void Proxy::doors(Doors doors) { obey({.what = Order::What::kDoors, .doors = doors}); }
void Proxy::redirect(const std::string& redis) {
  Order order{.what = Order::What::kRedirect};
  redis.copy(order.redis, sizeof order.redis - 1);
  obey(order);
}
void Proxy::heal() { obey({.what = Order::What::kHeal}); }

}  // namespace larder::fault
