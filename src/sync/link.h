// One asynchronous connection to Redis on a caller's libevent loop: connected, authenticated, its
// database selected, every answer within its time. Subscription is made of two of them.
//
// A link fails once: whatever goes wrong (refused, closed, no answer in time, a command that
// hiredis does not take) ends in one call of `on_failed`; after it the link is closed and may be
// opened again. Callbacks of what was asked are dropped, not called.
//
// Who frees a hiredis context: `close`, at any time but inside the connect and disconnect
// callbacks; after those hiredis does it (inside a reply's callback it waits for its end by
// itself). Either way every pending callback is called once more, without a reply, and ignored
// here, because the context is no longer the current one.
//
// Threads: the loop's only. It has SIGPIPE blocked or ignored: hiredis writes with write(2).
// Fork: a child may call `abandon` and nothing else.  Errors: `on_failed`.
// Exceptions of callbacks do not pass through C: they fail the link.
#pragma once

#include <event2/event.h>
#include <hiredis/async.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "larder/status.h"

namespace larder::sync {

// Where and as whom. `ip` is numeric: hiredis resolves names blocking, and twice.
struct LinkTarget {
  std::string ip;
  int port = 0;
  std::string unix_socket;  // used when not empty
  std::string username;
  std::string password;
  int database = 0;
};

// For what a C library calls, which no exception may pass: runs `f` and, when it throws, `failed`
// with the reason. Memory may be short, so `failed` does first what needs none: what it throws is
// dropped.
template <class F, class Failed>
void catch_all(F&& f, Failed&& failed) noexcept {
  try {
    try {
      f();
    } catch (const std::exception& e) {
      failed(e.what());
    } catch (...) {
      failed("an unknown exception");
    }
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

struct EventDeleter {
  void operator()(event* e) const noexcept { event_free(e); }
};
using EventPtr = std::unique_ptr<event, EventDeleter>;

class Link {
 public:
  using Clock = std::chrono::steady_clock;
  using Answer = std::function<void(const redisReply&)>;

  struct Callbacks {
    std::function<void()> on_ready;                    // connected, authenticated, selected
    std::function<void(const Status&)> on_failed;      // closed already; once for each `open`
    std::function<void(std::string_view)> on_message;  // of the subscribed channel
  };

  // `name` is for messages: "subscription".
  Link(event_base* base, std::string name, std::chrono::milliseconds timeout, Callbacks callbacks);
  ~Link();  // not from inside a callback
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Only while closed.
  void open(const LinkTarget& target);
  void close();  // forgets a failure that was not reported yet
  // Gives the socket up without telling the loop or Redis; the memory leaks.
  void abandon() noexcept;

  bool is_open() const noexcept { return context_ != nullptr; }
  // When Redis was last heard of.
  Clock::time_point last_heard() const noexcept { return last_heard_; }

  // `answer` gets Redis' reply, also when it is an error reply; it is valid during the call.
  void ask(const std::vector<std::string>& argv, Answer answer);
  // Subscribes, or confirms the subscription once more: the confirmation comes after every message
  // that was published before Redis read this.
  void subscribe(const std::string& channel, Answer confirmed);

 private:
  struct Waiting {
    Clock::time_point deadline;
    Answer answer;
  };

  static void handle_connect(const redisAsyncContext* context, int status) noexcept;
  static void handle_disconnect(const redisAsyncContext* context, int status) noexcept;
  static void handle_reply(redisAsyncContext* context, void* reply, void*) noexcept;
  static void handle_push(redisAsyncContext* context, void* reply, void*) noexcept;
  static void handle_deadline(evutil_socket_t, short, void* self) noexcept;
  static void handle_report(evutil_socket_t, short, void* self) noexcept;

  template <class F>
  void guarded(F&& f) noexcept;

  void begin(const LinkTarget& target);
  void greet(const LinkTarget& target);
  void refused(const redisReply& reply);
  void forget_waiting();
  void send(const std::vector<std::string>& argv, redisCallbackFn* callback, Answer answer);
  void answered(const redisReply& reply);
  void pushed(const redisReply& reply);
  void heard();
  void arm_deadline();
  void check_deadline();
  std::size_t bytes_arrived() const noexcept;

  bool is_current(const redisAsyncContext* context) const noexcept { return context == context_; }
  void broke(const redisAsyncContext* context, const Status& why);
  void fail(const Status& why);
  void fail_later(Status why);  // where `on_failed` must not be called

  event_base* base_;
  const std::string name_;
  const std::chrono::milliseconds timeout_;
  const Callbacks callbacks_;

  redisAsyncContext* context_ = nullptr;
  Status failure_;               // to be reported in the loop's next turn
  std::deque<Waiting> waiting_;  // in the order of the answers
  Clock::time_point last_heard_{};
  std::size_t bytes_seen_ = 0;  // of an unfinished reply, at the last look

  EventPtr deadline_;
  EventPtr report_;
};

// As status_of_error(), with the words of who asked.
Status status_of_error_reply(std::string_view what, std::string_view error);

}  // namespace larder::sync
