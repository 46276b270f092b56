// Follows one channel: subscribes, notices when it no longer hears, and subscribes again.
//
// Two connections that live and die together: one in subscribe mode, one for commands. Both go to
// the same address. Losing either is losing the subscription, because what was read on the one
// tells nothing about the other any more.
//
// Silence is tested: a connection that heard nothing for `quiet` asks (PING; in subscribe mode the
// same SUBSCRIBE again, because hiredis 0.14 never passes on the answer to a PING there) and is
// lost when nothing comes within `timeout`. So a loss is noticed after `quiet + timeout` at most.
//
// Threads: the loop's only, callbacks included; it has SIGPIPE blocked or ignored.
// Blocking: never, except for looking up a host's name at each attempt to connect: `timeout` at
//   most. (hiredis would look it up too, without a bound; it is given numbers only.)
// Fork: a child calls `abandon` before anything else happens to its copy.
// Errors: `on_lost`, with the reason; after it the next attempt is already planned.
#pragma once

#include <event2/event.h>
#include <hiredis/hiredis.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"
#include "shm/layout.h"
#include "src/sync/endpoint.h"
#include "src/sync/log.h"

namespace larder::sync {

struct SubscriptionOptions {
  Endpoint endpoint;
  std::string username;
  std::string password;
  int database = 0;
  std::string channel;  // its log is the one that is read and probed
  // For connecting and for each answer.
  std::chrono::milliseconds timeout{1000};
  // Silence after which Redis is asked whether it is still there.
  std::chrono::milliseconds quiet{2000};
  // The wait before the next attempt: the first, doubled by each failure up to the last, and of
  // that a random half to whole, so that a thousand hosts do not come back at the same instant.
  std::chrono::milliseconds backoff_first{50};
  std::chrono::milliseconds backoff_last{1000};
};

// Called from the loop, never from inside a call to Subscription. May call it back, but must not
// destroy it.
class SubscriptionListener {
 public:
  virtual ~SubscriptionListener() = default;
  // The server confirmed the channel: every later message will be heard.
  virtual void on_subscribed() = 0;
  // In order; exact bytes, valid during the call. The first may come before on_subscribed.
  virtual void on_message(std::string_view payload) = 0;
  // An attempt failed or the subscription broke; once for each. Requests under way are dropped.
  virtual void on_lost(const Status& reason) = 0;
};

class Subscription {
 public:
  // Connects in the loop's next turn. `base` and `listener` outlive it.
  Subscription(event_base* base, SubscriptionOptions options, SubscriptionListener& listener);
  ~Subscription();  // closes at once, calls nobody
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

  bool subscribed() const noexcept;

  // Reads the log from `from` on, kPageRows at most. `done` is called after every message that was
  // published before the reading has been given to the listener: a second confirmation of the
  // subscription, asked for after the answer was there, proves it. Not called if the subscription
  // is lost before; a log that cannot be read (another type, ACL) is a lost subscription. False:
  // not subscribed, nothing was asked.
  [[nodiscard]] bool read_log(ChangeId from, std::function<void(const LogPage&)> done);

  // Asks where the log ends. As `read_log`, but `done` is called at once; all of the answer is set
  // but `ahead`.
  [[nodiscard]] bool probe(std::function<void(const ProbeAnswer&)> done);

  // Gives this subscription up for a new one. The listener hears that it is lost.
  void restart(const Status& why);

  // Sends the commands in one go; `take` gets the reply to each by its number, error replies too,
  // valid during the call. Not called any more once the subscription is lost. False: not
  // subscribed, nothing was sent.
  using Each = std::function<void(std::size_t number, const redisReply& reply)>;
  [[nodiscard]] bool ask_each(const std::vector<std::vector<std::string_view>>& commands,
                              const Each& take);

  // In a forked child: gives up this copy without touching the loop, which may share its epoll set
  // with the parent, or the connections, which are the parent's. Leaks the memory.
  void abandon() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder::sync
