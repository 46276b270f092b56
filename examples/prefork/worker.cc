#include "worker.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "pool.h"
#include "stats_json.h"

namespace prefork {
namespace {

using larder::Cache;
using larder::Code;
using larder::Lookup;
using larder::Status;

constexpr int kIdleSeconds = 60;  // a connection that says nothing for this long is closed
// A key of 65,535 bytes, each written as %xx, and room for the other headers.
constexpr ev_ssize_t kHeadersMaxBytes = 256 << 10;
// Above the largest value: what is only a little too large gets a message.
constexpr std::uint64_t kBodySpareBytes = 1024;
constexpr ev_uint16_t kAllMethods = 0xffff;  // each route answers 405 to what it does not take
// A client that was just accepted gets this long to send its request before the worker leaves.
constexpr std::chrono::milliseconds kSettle{100};
constexpr std::int64_t kTtlMaxMs = 10ll * 365 * 24 * 3600 * 1000;

constexpr std::string_view kKeyPath = "/kv/";
constexpr const char* kText = "text/plain; charset=utf-8";
constexpr const char* kBytes = "application/octet-stream";
constexpr const char* kJson = "application/json";

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using BaseHandle = std::unique_ptr<event_base, Freer<event_base_free>>;
using HttpHandle = std::unique_ptr<evhttp, Freer<evhttp_free>>;
using EventHandle = std::unique_ptr<event, Freer<event_free>>;

Status system_error(const char* call) {
  return Status(errno == EPERM ? Code::kPermissionDenied : Code::kNoSpace,
                std::string(call) + ": " + std::strerror(errno));
}

// ---- requests ---------------------------------------------------------------------------------

class Server;

// One request from its arrival until its answer has left, or its client has.
//
// evhttp keeps a request until it is answered. If the client hangs up before that, evhttp takes
// the connection away from the request, which is then ours to free; if it hangs up later, evhttp
// frees both. `on_answer_sent` and `on_hang_up` tell which of these happened.
struct Exchange {
  Exchange(Server& its_server, evhttp_request* its_request)
      : server(its_server), request(its_request) {}

  Server& server;
  evhttp_request* const request;
  bool answered = false;

  // What a job of the pool works with. The loop leaves it alone meanwhile.
  std::string key;
  std::string value;
  std::chrono::milliseconds ttl{0};
  bool invalidate = false;
  Lookup lookup;
  Status status;
};

// Strict, unlike evhttp_uridecode: "%zz" is an error and not a key of three characters.
std::optional<std::string> percent_decode(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded.push_back(text[i]);
      continue;
    }
    if (text.size() - i < 3) return std::nullopt;
    const char* digits = text.data() + i + 1;
    unsigned char byte = 0;
    const auto parsed = std::from_chars(digits, digits + 2, byte, 16);
    if (parsed.ec != std::errc() || parsed.ptr != digits + 2) return std::nullopt;
    decoded.push_back(static_cast<char>(byte));
    i += 2;
  }
  return decoded;
}

// The part of the URI after '?'.
class Query {
 public:
  explicit Query(const evhttp_uri* uri) {
    TAILQ_INIT(&pairs_);
    const char* text = evhttp_uri_get_query(uri);
    well_formed_ = text == nullptr || evhttp_parse_query_str(text, &pairs_) == 0;
  }
  ~Query() { evhttp_clear_headers(&pairs_); }
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  bool well_formed() const { return well_formed_; }
  std::string_view get(const char* name, std::string_view otherwise) const {
    const char* value = evhttp_find_header(&pairs_, name);
    return value == nullptr ? otherwise : std::string_view(value);
  }

 private:
  evkeyvalq pairs_;
  bool well_formed_ = false;
};

std::optional<std::chrono::milliseconds> parse_ttl(std::string_view text) {
  std::int64_t ms = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), ms);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  if (!whole || ms < 0 || ms > kTtlMaxMs) return std::nullopt;
  return std::chrono::milliseconds(ms);
}

std::string read_body(evhttp_request* request) {
  evbuffer* input = evhttp_request_get_input_buffer(request);
  std::string body(evbuffer_get_length(input), '\0');
  if (evbuffer_remove(input, body.data(), body.size()) < 0) body.clear();
  return body;
}

int http_code(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
      return 200;
    case Code::kInvalidArgument:
      return 400;
    case Code::kNotFound:
      return 404;
    case Code::kRefused:
      return 409;
    case Code::kTooLarge:
      return 413;
    // Come back later: Redis is down or does not let us in, the segment is busy or full.
    case Code::kUnavailable:
    case Code::kPermissionDenied:
    case Code::kBusy:
    case Code::kNoSpace:
    case Code::kClosed:
      return 503;
    default:
      return 500;
  }
}

void add_header(evhttp_request* request, const char* name, const char* value) {
  evhttp_add_header(evhttp_request_get_output_headers(request), name, value);
}

// ---- the server -------------------------------------------------------------------------------

class Server {
 public:
  Server(Cache& cache, const WorkerOptions& options)
      : cache_(cache), options_(options), pid_text_(std::to_string(getpid())) {}
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Takes `listener` over, whatever it returns.
  Status open(int listener);
  // Until SIGTERM, and then until the running requests are answered.
  void serve() { event_base_dispatch(base_.get()); }

 private:
  using Method = evhttp_cmd_type;

  Status open_http(int listener);
  Status open_pool();
  Status open_signals();

  // Routes.
  void route(Exchange& exchange);
  void route_key(Exchange& exchange, Method method, std::string_view encoded_key);
  void get_value(Exchange& exchange);
  void put_value(Exchange& exchange);
  void delete_value(Exchange& exchange);
  void clear(Exchange& exchange);
  void show_stats(Exchange& exchange);
  void show_health(Exchange& exchange);

  // Runs `work` on the pool and then `done` on the loop, or answers 503.
  template <class Work, class Done>
  void in_pool(Exchange& exchange, Work work, Done done);

  // Answers.
  void answer(Exchange& exchange, int code, std::string_view body, const char* type = kText);
  void answer_lookup(Exchange& exchange, const Lookup& lookup);
  void answer_change(Exchange& exchange);
  void answer_error(Exchange& exchange, const Status& status);
  void answer_method(Exchange& exchange, const char* allowed);

  // The life of an exchange.
  static void on_request(evhttp_request* request, void* server);
  static void on_answer_sent(evhttp_request* request, void* exchange);
  static void on_hang_up(evhttp_connection* connection, void* exchange);
  void end(Exchange& exchange);

  // Leaving.
  void on_sigterm();
  void stop_accepting();
  void settle();
  void give_up();

  // libevent calls functions with a pointer; these make them calls of a member.
  template <void (Server::*Handler)()>
  static void call(evutil_socket_t, short, void* server) {
    (static_cast<Server*>(server)->*Handler)();
  }
  template <void (Server::*Handler)()>
  Status when_readable(int fd, EventHandle& event);
  template <void (Server::*Handler)()>
  void after(std::chrono::milliseconds delay);
  void run_completions() { pool_->run_completions(); }

  Cache& cache_;
  const WorkerOptions& options_;
  const std::string pid_text_;
  Lookup local_;  // the loop's own; keeps its memory from request to request

  BaseHandle base_;
  HttpHandle http_;
  evhttp_bound_socket* bound_ = nullptr;
  int signal_fd_ = -1;
  EventHandle signal_event_;
  EventHandle completion_event_;
  std::unordered_map<Exchange*, std::unique_ptr<Exchange>> running_;
  bool draining_ = false;  // SIGTERM came: answers close their connections
  bool settled_ = false;   // nothing new will come: leave when nothing runs
  std::unique_ptr<Pool> pool_;
};

Server::~Server() {
  pool_.reset();  // its threads use what follows
  http_.reset();  // calls on_hang_up for connections that are still open
  if (signal_fd_ >= 0) close(signal_fd_);
}

Status Server::open(int listener) {
  base_.reset(event_base_new());
  http_.reset(base_ ? evhttp_new(base_.get()) : nullptr);
  if (!http_) {
    close(listener);
    return Status(Code::kNoSpace, "libevent cannot make an event loop");
  }
  if (Status status = open_http(listener); !status.ok()) return status;
  if (Status status = open_pool(); !status.ok()) return status;
  return open_signals();
}

Status Server::open_http(int listener) {
  if (Status status = start_listening(listener, options_.listen); !status.ok()) {
    close(listener);
    return status;
  }
  evhttp_set_timeout(http_.get(), kIdleSeconds);
  evhttp_set_max_headers_size(http_.get(), kHeadersMaxBytes);
  evhttp_set_max_body_size(
      http_.get(), static_cast<ev_ssize_t>(cache_.options().value_max_bytes + kBodySpareBytes));
  // Reads the rest of a body that is too large before answering: a reset would overtake the 413.
  evhttp_set_flags(http_.get(), EVHTTP_SERVER_LINGERING_CLOSE);
  evhttp_set_allowed_methods(http_.get(), kAllMethods);
  evhttp_set_gencb(http_.get(), &Server::on_request, this);
  bound_ = evhttp_accept_socket_with_handle(http_.get(), listener);
  if (bound_ != nullptr) return {};
  close(listener);
  return Status(Code::kNoSpace, "libevent cannot accept on the listening socket");
}

Status Server::open_pool() {
  auto pool = Pool::create(options_.threads, options_.queue_max);
  if (!pool) return pool.status();
  pool_ = std::move(pool).value();
  return when_readable<&Server::run_completions>(pool_->completion_fd(), completion_event_);
}

Status Server::open_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  signal_fd_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signal_fd_ < 0) return system_error("signalfd");
  return when_readable<&Server::on_sigterm>(signal_fd_, signal_event_);
}

template <void (Server::*Handler)()>
Status Server::when_readable(int fd, EventHandle& event) {
  event.reset(event_new(base_.get(), fd, EV_READ | EV_PERSIST, &Server::call<Handler>, this));
  if (event && event_add(event.get(), nullptr) == 0) return {};
  return Status(Code::kNoSpace, "libevent cannot watch a file descriptor");
}

template <void (Server::*Handler)()>
void Server::after(std::chrono::milliseconds delay) {
  const timeval time{delay.count() / 1000, delay.count() % 1000 * 1000};
  event_base_once(base_.get(), -1, EV_TIMEOUT, &Server::call<Handler>, this, &time);
}

// ---- routes -----------------------------------------------------------------------------------

void Server::route(Exchange& exchange) {
  const evhttp_uri* uri = evhttp_request_get_evhttp_uri(exchange.request);
  const char* text = uri == nullptr ? nullptr : evhttp_uri_get_path(uri);
  const std::string_view path = text == nullptr ? "" : text;
  const Method method = evhttp_request_get_command(exchange.request);
  const bool reads = method == EVHTTP_REQ_GET || method == EVHTTP_REQ_HEAD;

  if (path.starts_with(kKeyPath)) return route_key(exchange, method, path.substr(kKeyPath.size()));
  if (path == "/clear") {
    return method == EVHTTP_REQ_POST ? clear(exchange) : answer_method(exchange, "POST");
  }
  if (path == "/stats") return reads ? show_stats(exchange) : answer_method(exchange, "GET, HEAD");
  if (path == "/healthz") {
    return reads ? show_health(exchange) : answer_method(exchange, "GET, HEAD");
  }
  answer(exchange, 404, "no such page; there are /kv/<key>, /clear, /stats and /healthz\n");
}

void Server::route_key(Exchange& exchange, Method method, std::string_view encoded_key) {
  auto key = percent_decode(encoded_key);
  if (!key) return answer(exchange, 400, "the key has a '%' without two hexadecimal digits\n");
  exchange.key = std::move(*key);
  switch (method) {
    case EVHTTP_REQ_GET:
    case EVHTTP_REQ_HEAD:
      return get_value(exchange);
    case EVHTTP_REQ_PUT:
      return put_value(exchange);
    case EVHTTP_REQ_DELETE:
      return delete_value(exchange);
    default:
      return answer_method(exchange, "GET, HEAD, PUT, DELETE");
  }
}

void Server::get_value(Exchange& exchange) {
  // On the loop: shared memory only. This is the path that matters.
  Status status = cache_.get_local(exchange.key, local_);
  if (!status.ok()) return answer_error(exchange, status);
  const bool has_redis = !cache_.options().redis.address.empty();
  if (local_.hit() || !has_redis) return answer_lookup(exchange, local_);

  in_pool(
      exchange, [this, &exchange] { exchange.status = cache_.get(exchange.key, exchange.lookup); },
      [this, &exchange] {
        if (!exchange.status.ok()) return answer_error(exchange, exchange.status);
        answer_lookup(exchange, exchange.lookup);
      });
}

void Server::put_value(Exchange& exchange) {
  const Query query(evhttp_request_get_evhttp_uri(exchange.request));
  if (!query.well_formed()) return answer(exchange, 400, "the query cannot be parsed\n");
  const std::string_view mode = query.get("mode", "push");
  if (mode != "push" && mode != "invalidate") {
    return answer(exchange, 400, "mode is push (the default) or invalidate\n");
  }
  const auto ttl = parse_ttl(query.get("ttl_ms", "0"));
  if (!ttl) return answer(exchange, 400, "ttl_ms is a number of milliseconds, at most ten years\n");

  exchange.invalidate = mode == "invalidate";
  exchange.ttl = *ttl;
  exchange.value = read_body(exchange.request);
  const std::uint64_t most = cache_.options().value_max_bytes;
  if (exchange.value.size() > most) {
    return answer(exchange, 413, "a value has at most " + std::to_string(most) + " bytes\n");
  }
  in_pool(
      exchange,
      [this, &exchange] {
        const auto set = exchange.invalidate ? &Cache::set_with_invalidate : &Cache::set;
        exchange.status = (cache_.*set)(exchange.key, exchange.value, exchange.ttl);
      },
      [this, &exchange] { answer_change(exchange); });
}

void Server::delete_value(Exchange& exchange) {
  in_pool(
      exchange, [this, &exchange] { exchange.status = cache_.remove(exchange.key); },
      [this, &exchange] { answer_change(exchange); });
}

void Server::clear(Exchange& exchange) {
  in_pool(
      exchange, [this, &exchange] { exchange.status = cache_.clear(); },
      [this, &exchange] { answer_change(exchange); });
}

void Server::show_stats(Exchange& exchange) { answer(exchange, 200, stats_json(cache_), kJson); }

void Server::show_health(Exchange& exchange) {
  if (cache_.in_sync()) return answer(exchange, 200, "ok, worker " + pid_text_ + "\n");
  answer(exchange, 503, "not in sync, worker " + pid_text_ + "\n");
}

template <class Work, class Done>
void Server::in_pool(Exchange& exchange, Work work, Done done) {
  if (pool_->submit(std::move(work), std::move(done))) return;
  add_header(exchange.request, "Retry-After", "1");
  answer(exchange, 503, "too many requests are waiting for Redis; come back later\n");
}

// ---- answers ----------------------------------------------------------------------------------

void Server::answer_lookup(Exchange& exchange, const Lookup& lookup) {
  if (!lookup.hit()) return answer(exchange, 404, "no such key\n");
  const bool local = lookup.source == larder::Source::kLocal;
  add_header(exchange.request, "X-Larder-Source", local ? "local" : "remote");
  if (lookup.stale) add_header(exchange.request, "X-Larder-Stale", "1");
  answer(exchange, 200, lookup.value, kBytes);
}

void Server::answer_change(Exchange& exchange) {
  if (!exchange.status.ok()) return answer_error(exchange, exchange.status);
  answer(exchange, 204, "");
}

void Server::answer_error(Exchange& exchange, const Status& status) {
  answer(exchange, http_code(status), status.to_string() + "\n");
}

void Server::answer_method(Exchange& exchange, const char* allowed) {
  add_header(exchange.request, "Allow", allowed);
  answer(exchange, 405, "this page takes " + std::string(allowed) + "\n");
}

void Server::answer(Exchange& exchange, int code, std::string_view body, const char* type) {
  evhttp_request* request = exchange.request;
  if (evhttp_request_get_connection(request) == nullptr) {  // the client hung up meanwhile
    evhttp_request_free(request);
    return end(exchange);
  }
  add_header(request, "X-Larder-Worker", pid_text_.c_str());
  if (!body.empty() || code == 200) add_header(request, "Content-Type", type);
  if (draining_) add_header(request, "Connection", "close");
  evbuffer* output = evhttp_request_get_output_buffer(request);
  if (evhttp_request_get_command(request) == EVHTTP_REQ_HEAD) {
    add_header(request, "Content-Length", std::to_string(body.size()).c_str());
  } else {
    evbuffer_add(output, body.data(), body.size());
  }
  exchange.answered = true;
  evhttp_send_reply(request, code, nullptr, nullptr);
}

// ---- the life of an exchange ------------------------------------------------------------------

void Server::on_request(evhttp_request* request, void* server) {
  Server& self = *static_cast<Server*>(server);
  auto owned = std::make_unique<Exchange>(self, request);
  Exchange& exchange = *owned;
  self.running_.emplace(&exchange, std::move(owned));
  evhttp_request_set_on_complete_cb(request, &Server::on_answer_sent, &exchange);
  evhttp_connection_set_closecb(evhttp_request_get_connection(request), &Server::on_hang_up,
                                &exchange);
  self.route(exchange);
}

void Server::on_answer_sent(evhttp_request* request, void* exchange) {
  // The connection lives on, the exchange does not.
  evhttp_connection_set_closecb(evhttp_request_get_connection(request), nullptr, nullptr);
  Exchange& done = *static_cast<Exchange*>(exchange);
  done.server.end(done);
}

void Server::on_hang_up(evhttp_connection*, void* exchange) {
  Exchange& left = *static_cast<Exchange*>(exchange);
  // Not answered yet: a job of the pool may be using it, and answer() will find no connection.
  if (left.answered) left.server.end(left);
}

void Server::end(Exchange& exchange) {
  running_.erase(&exchange);
  if (settled_ && running_.empty()) event_base_loopbreak(base_.get());
}

// ---- leaving ----------------------------------------------------------------------------------

void Server::on_sigterm() {
  signalfd_siginfo info;
  if (read(signal_fd_, &info, sizeof(info)) != sizeof(info) || draining_) return;
  draining_ = true;
  // Not at once: the loop first accepts the connections that wait in this worker's queue, which
  // would be reset when the listening socket closes.
  after<&Server::stop_accepting>(std::chrono::milliseconds(1));
  after<&Server::give_up>(options_.drain);
}

void Server::stop_accepting() {
  evhttp_del_accept_socket(http_.get(), bound_);
  bound_ = nullptr;
  after<&Server::settle>(kSettle);
}

void Server::settle() {
  settled_ = true;
  if (running_.empty()) event_base_loopbreak(base_.get());
}

void Server::give_up() {
  std::fprintf(stderr, "prefork: worker %s leaves %zu requests unanswered after %lld ms\n",
               pid_text_.c_str(), running_.size(), static_cast<long long>(options_.drain.count()));
  // Threads of the pool may be waiting for Redis; joining them would take as long as Redis does.
  // The segment does not mind: a process may leave it at any instruction.
  std::_Exit(0);
}

// ---- becoming a worker ------------------------------------------------------------------------

Status drop_privileges(const User& user) {
  if (geteuid() == user.uid && getegid() == user.gid) return {};
  // In this order: once the user is gone the groups cannot be changed any more.
  if (setgroups(1, &user.gid) != 0) return system_error("setgroups");
  if (setgid(user.gid) != 0) return system_error("setgid");
  if (setuid(user.uid) != 0) return system_error("setuid");
  if (user.uid != 0 && setuid(0) == 0) {
    return Status(Code::kInternal, "root could be regained after setuid");
  }
  return {};
}

// After drop_privileges, which makes the kernel forget it.
Status die_with_parent(pid_t parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) return system_error("prctl(PR_SET_PDEATHSIG)");
  if (getppid() != parent) return Status(Code::kClosed, "the parent is gone");
  return {};
}

Status prepare(Cache& cache, const WorkerOptions& options) {
  if (options.user) {
    if (Status status = drop_privileges(*options.user); !status.ok()) return status;
  }
  if (Status status = die_with_parent(options.parent); !status.ok()) return status;
  return cache.start();
}

}  // namespace

Status run_worker(Cache& cache, const WorkerOptions& options,
                  const std::function<void(std::uint16_t port)>& ready) {
  // Bound before privileges are dropped: the port may be below 1024.
  auto listener = bind_shared(options.listen);
  if (!listener) return listener.status();
  if (Status status = prepare(cache, options); !status.ok()) {
    close(*listener);
    return status;
  }
  Server server(cache, options);
  if (Status status = server.open(*listener); !status.ok()) return status;
  ready(bound_port(*listener));
  server.serve();
  return {};
}

}  // namespace prefork
