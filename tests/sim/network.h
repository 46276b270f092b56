// Connections between hosts and servers. Within one direction of one connection everything arrives
// in order; between any two, not.
#pragma once

#include <deque>
#include <functional>
#include <utility>

#include "tests/sim/clock.h"
#include "tests/sim/random.h"
#include "tests/sim/redis.h"
#include "tests/sim/schedule.h"

namespace larder::sim {

// How long a message takes.
struct Delays {
  Time shortest = 50;
  Time longest = 500;
  unsigned slow_percent = 2;  // of the messages take up to `slowest`
  Time slowest = 20 * kMs;
};

class Connection : public Subscriber {
 public:
  using Step = std::function<void()>;

  // `stops`: how many reasons there are for which the client does not run now.
  Connection(Schedule& schedule, Random*& random, const Delays& delays, Server& server,
             const int& stops)
      : schedule_(schedule),
        random_(random),
        delays_(delays),
        server_(server),
        to_server_{*this, nullptr},
        to_client_{*this, &stops} {}

  // Asks the server something: `ask(server)` when the question arrives there, `done(answer)` when
  // the answer is here.
  template <class Ask, class Done>
  void ask(Ask ask, Done done) {
    if (cut_) return;
    to_server_.send([this, ask = std::move(ask), done = std::move(done)] {
      if (!server_.up) return;
      to_client_.send([done, answer = ask(server_)] { done(answer); });
    });
  }
  // `confirmed` comes behind everything that was published before.
  void subscribe(Step confirmed);
  void published(const Payload& payload) override;
  std::function<void(const Payload&)> heard;  // the client's
  Step cut_off;                               // the client learns that the connection is gone

  bool is_open() const { return open_; }
  Server& server() const { return server_; }

  // The client lets go of it: what it sent before may still arrive.
  void close();
  // Both ends learn of it. What is under way may be lost, or may still arrive.
  void cut(bool loses_questions, bool loses_answers);
  // From now on nothing arrives, and nobody is told.
  void go_silent() { silent_ = true; }
  bool is_silent() const { return silent_; }
  // Nothing arrives before `until`.
  void stall(Time until);
  // The client runs again.
  void resume() { to_client_.pump(); }

 private:
  struct Pipe {
    Connection& connection;
    const int* stops;  // of who receives; null: it always runs
    struct Item {
      Time due;
      Step step;
    };
    std::deque<Item> items{};

    void send(Step step);
    void pump();
  };

  Time delay();

  Schedule& schedule_;
  Random*& random_;
  const Delays& delays_;
  Server& server_;
  Pipe to_server_;
  Pipe to_client_;
  bool open_ = true;
  bool cut_ = false;
  bool subscribed_ = false;
  bool silent_ = false;
  Time stalled_until_ = 0;
};

}  // namespace larder::sim
