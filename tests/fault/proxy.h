// A TCP relay between larder and its Redis that breaks as networks do.
//
// It is a process of its own, forked by the constructor, so make it before the test has threads. It
// dies with its object or with the test. Each call returns when it is in effect.
// Threads: one at a time.  Errors: throws std::runtime_error, which fails the test.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "tests/support/forked.h"

namespace larder::fault {

// Connections of which kind; a subscription is one on which SUBSCRIBE was sent.
enum class Which : std::uint32_t { kAll, kSubscriptions, kCommands };

// What a connection goes through. The default: as if there were no proxy.
struct Weather {
  // Half-open: no byte passes, nothing is closed; what was sent arrives when this is over.
  bool silent = false;
  // Each byte comes this much later, and up to `jitter_ms` more, in order.
  std::uint32_t delay_ms = 0;
  std::uint32_t jitter_ms = 0;
  // In each direction; 0: as fast as it goes.
  std::uint32_t bytes_per_second = 0;
};

enum class Doors : std::uint32_t {
  kOpen,
  kRefuse,  // nobody listens
  kMute,    // new connections are accepted and never answered
};

class Proxy {
 public:
  // Relays to the unix socket `redis`, from a free port of 127.0.0.1.
  explicit Proxy(std::string redis);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // For those that there are and those that come, until the next call.
  void weather(const Weather& weather, Which which = Which::kAll);
  // Closes both sides of those that there are now; `reset`: with RST. How many there were.
  std::uint32_t cut(Which which = Which::kAll, bool reset = false);
  // Each that there is now gets `bytes` more of what Redis says, then it is closed.
  void truncate(std::uint32_t bytes, Which which = Which::kAll);
  // Those that there are now stay silent for ever, also when they have been closed by one side.
  void forget(Which which = Which::kAll);
  void doors(Doors doors);
  // Those to come go to another Redis, as a name does that is given to another server.
  void redirect(const std::string& redis);
  // Fair weather and open doors. Connections that were forgotten stay so.
  void heal();

 private:
  struct Order;
  std::uint32_t obey(const Order& order);
  friend class Relay;

  std::uint16_t port_;
  int orders_ = -1;
  std::unique_ptr<test::Forked> process_;
};

}  // namespace larder::fault
