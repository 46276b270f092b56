// A relay between a cache and its Redis that can keep an answer back: what a slow network does,
// but exactly when a test wants it.
//
// Threads: every method from any; one thread of its own does the relaying.
#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <mutex>
#include <string>
#include <thread>

namespace larder::test {

class Proxy {
 public:
  // Listens on the unix socket `path` and connects each client to the unix socket `target`.
  Proxy(std::string path, std::string target);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& path() const { return path_; }

  // From now on, the connection on which a client sends `text` gets no more answers: they are kept
  // until `release`. One connection at a time.
  void hold_answer_to(std::string text);
  // Waits until an answer is being kept: Redis has done what it was asked. False after 20 s.
  bool await_held();
  void release();

  // Breaks every connection, as a middlebox does.
  void drop_all();
  // While on, connections are accepted but nothing travels in either direction.
  void freeze(bool on);

 private:
  struct Pair {
    int client;
    int server;
    std::string to_client{};
    std::string to_server{};
    std::string seen{};  // the end of what the client sent, to find `text` across reads
    bool held = false;
    bool dead = false;
  };

  void run();
  void accept_client();
  void read_into(Pair& pair, bool from_client);
  void write_out(Pair& pair, bool to_client);
  void wake();

  const std::string path_;
  const std::string target_;
  int listener_ = -1;
  int wake_ = -1;
  std::atomic<bool> stopping_{false};

  std::mutex mutex_;  // guards what follows
  std::condition_variable held_changed_;
  std::list<Pair> pairs_;
  std::string hold_text_;
  bool frozen_ = false;

  std::thread thread_;  // last: it uses everything above
};

}  // namespace larder::test
