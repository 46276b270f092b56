#include "src/sync/link.h"

#include <fcntl.h>
#include <hiredis/adapters/libevent.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "src/sync/connection.h"

namespace larder::sync {
namespace {

using std::chrono::milliseconds;

timeval to_timeval(Link::Clock::duration duration) {
  const auto us = std::max<std::int64_t>(
      0, std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
  return {static_cast<time_t>(us / 1'000'000), static_cast<suseconds_t>(us % 1'000'000)};
}

bool is_text(const redisReply* reply) {
  return reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS;
}

std::string error_of(const redisAsyncContext* context) {
  return context->c.err != 0 ? context->c.errstr : "the connection was closed";
}

}  // namespace

Status status_of_error_reply(std::string_view what, std::string_view error) {
  const Status why = status_of_error(error);
  return {why.code(), std::string(what) + ": " + why.message()};
}

Link::Link(event_base* base, std::string name, milliseconds timeout, Callbacks callbacks)
    : base_(base),
      name_(std::move(name)),
      timeout_(timeout),
      callbacks_(std::move(callbacks)),
      deadline_(evtimer_new(base, &Link::handle_deadline, this)),
      report_(evtimer_new(base, &Link::handle_report, this)) {}

Link::~Link() { close(); }

// ---- opening and closing ----------------------------------------------------------------------

void Link::open(const LinkTarget& target) {
  failure_ = {};
  last_heard_ = Clock::now();
  begin(target);
  if (context_ == nullptr) return;
  greet(target);
}

void Link::begin(const LinkTarget& target) {
  redisAsyncContext* context = target.unix_socket.empty()
                                   ? redisAsyncConnect(target.ip.c_str(), target.port)
                                   : redisAsyncConnectUnix(target.unix_socket.c_str());
  if (context == nullptr) {
    return fail_later({Code::kUnavailable, name_ + ": no memory to connect to Redis"});
  }
  if (context->err != 0) {
    Status why(Code::kUnavailable, name_ + ": cannot connect to Redis: " + error_of(context));
    redisAsyncFree(context);  // nothing is attached to it yet
    return fail_later(std::move(why));
  }
  ::fcntl(context->c.fd, F_SETFD, FD_CLOEXEC);
  context->data = this;
  context_ = context;
  redisLibeventAttach(context, base_);
  redisAsyncSetConnectCallback(context, &Link::handle_connect);
  redisAsyncSetDisconnectCallback(context, &Link::handle_disconnect);
}

// Everything is sent at once; hiredis keeps it until the connection stands. The PING tells a Redis
// that is ready from one that wants a password or is still loading.
void Link::greet(const LinkTarget& target) {
  const auto must_succeed = [this](const redisReply& reply) {
    if (reply.type == REDIS_REPLY_ERROR) refused(reply);
  };
  waiting_.push_back({Clock::now() + timeout_, {}});  // the connection itself
  arm_deadline();
  const auto must_let_us_in = [this](const redisReply& reply) {
    if (reply.type != REDIS_REPLY_ERROR) return;
    fail(status_of_auth_error(text_of(reply), name_ + ": cannot log in: Redis"));
  };
  if (!target.password.empty() && target.username.empty()) {
    ask({"AUTH", target.password}, must_let_us_in);
  } else if (!target.password.empty()) {
    ask({"AUTH", target.username, target.password}, must_let_us_in);
  }
  if (target.database != 0) ask({"SELECT", std::to_string(target.database)}, must_succeed);
  ask({"PING"}, [this](const redisReply& reply) {
    // An ACL without PING still tells that Redis lives and knows us.
    const bool alive = reply.type != REDIS_REPLY_ERROR || text_of(reply).starts_with("NOPERM");
    if (!alive) return refused(reply);
    callbacks_.on_ready();
  });
}

void Link::refused(const redisReply& reply) {
  fail(status_of_error_reply(name_ + ": cannot log in", text_of(reply)));
}

void Link::close() {
  failure_ = {};
  forget_waiting();
  // Forgotten before it is freed: freeing calls every pending callback, without a reply.
  redisAsyncContext* context = std::exchange(context_, nullptr);
  if (context == nullptr) return;
  // A child forked meanwhile holds the same connection, so closing it here would not end it there.
  ::shutdown(context->c.fd, SHUT_RDWR);
  redisAsyncFree(context);
}

void Link::forget_waiting() {
  waiting_.clear();
  bytes_seen_ = 0;
  event_del(deadline_.get());
}

// Only descriptors: another process's loop still watches the same sockets, and freeing a context
// would take them out of the epoll set that both share. Were they left open, Redis would not see
// the end of the other process's connections.
void Link::abandon() noexcept {
  if (context_ != nullptr) ::close(context_->c.fd);
  context_ = nullptr;
  (void)deadline_.release();
  (void)report_.release();
}

void Link::fail(const Status& why) {
  close();
  callbacks_.on_failed(why);
}

void Link::fail_later(Status why) {
  failure_ = std::move(why);
  event_active(report_.get(), EV_TIMEOUT, 0);
}

// hiredis frees the context when its callback returns.
void Link::broke(const redisAsyncContext* context, const Status& why) {
  if (!is_current(context)) return;  // closed by us
  context_ = nullptr;
  fail(why);
}

// ---- asking -----------------------------------------------------------------------------------

void Link::ask(const std::vector<std::string>& argv, Answer answer) {
  send(argv, &Link::handle_reply, std::move(answer));
}

void Link::subscribe(const std::string& channel, Answer confirmed) {
  send({"SUBSCRIBE", channel}, &Link::handle_push, std::move(confirmed));
}

void Link::send(const std::vector<std::string>& argv, redisCallbackFn* callback, Answer answer) {
  if (context_ == nullptr) return;
  std::vector<const char*> words;
  std::vector<std::size_t> sizes;
  for (const std::string& word : argv) {
    words.push_back(word.data());
    sizes.push_back(word.size());
  }
  if (redisAsyncCommandArgv(context_, callback, nullptr, static_cast<int>(argv.size()),
                            words.data(), sizes.data()) != REDIS_OK) {
    return fail_later({Code::kUnavailable, name_ + ": the connection does not take " + argv[0]});
  }
  waiting_.push_back({Clock::now() + timeout_, std::move(answer)});
  if (waiting_.size() == 1) arm_deadline();
}

void Link::answered(const redisReply& reply) {
  heard();
  if (waiting_.empty()) return fail({Code::kUnavailable, name_ + ": Redis answered unasked"});
  const Answer answer = std::move(waiting_.front().answer);  // may close, and clear the queue
  waiting_.pop_front();
  arm_deadline();
  if (answer) answer(reply);
}

// A message, a confirmation, or something that no Redis sends.
void Link::pushed(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_ERROR) {
    return fail(status_of_error_reply(name_ + ": cannot subscribe", text_of(reply)));
  }
  if (reply.elements < 3 || !is_text(reply.element[0])) {
    return fail({Code::kUnavailable, name_ + ": Redis sent something that is no message"});
  }
  const std::string_view kind = text_of(*reply.element[0]);
  if (kind == "subscribe") return answered(reply);
  heard();
  if (kind == "message" && is_text(reply.element[2])) {
    callbacks_.on_message(text_of(*reply.element[2]));
  }
}

void Link::heard() { last_heard_ = Clock::now(); }

// ---- deadlines --------------------------------------------------------------------------------

void Link::arm_deadline() {
  if (waiting_.empty()) {
    event_del(deadline_.get());
    return;
  }
  bytes_seen_ = bytes_arrived();
  const timeval wait = to_timeval(waiting_.front().deadline - Clock::now());
  event_add(deadline_.get(), &wait);
}

// Redis answers in order, so an answer may stand behind a large message that is still arriving: as
// long as bytes come, Redis lives.
void Link::check_deadline() {
  if (waiting_.empty()) return;
  if (bytes_arrived() != bytes_seen_) heard();
  Waiting& first = waiting_.front();
  first.deadline = std::max(first.deadline, last_heard_ + timeout_);
  if (first.deadline <= Clock::now()) {
    return fail({Code::kUnavailable, name_ + ": Redis did not answer within " +
                                         std::to_string(timeout_.count()) + " ms"});
  }
  arm_deadline();
}

std::size_t Link::bytes_arrived() const noexcept {
  return context_ == nullptr ? 0 : context_->c.reader->len;
}

// ---- called by hiredis and libevent -----------------------------------------------------------

template <class F>
void Link::guarded(F&& f) noexcept {
  catch_all(f, [this](const char* what) {
    fail_later({Code::kInternal, "exception"});  // short: allocates nothing
    failure_ = {Code::kInternal, name_ + ": a callback threw: " + what};
  });
}

void Link::handle_connect(const redisAsyncContext* context, int status) noexcept {
  Link* self = static_cast<Link*>(context->data);
  self->guarded([&] {
    if (status == REDIS_OK) {
      if (!self->is_current(context)) return;
      self->heard();
      self->waiting_.pop_front();
      return self->arm_deadline();
    }
    self->broke(context, {Code::kUnavailable,
                          self->name_ + ": cannot connect to Redis: " + error_of(context)});
  });
}

void Link::handle_disconnect(const redisAsyncContext* context, int) noexcept {
  Link* self = static_cast<Link*>(context->data);
  self->guarded([&] {
    // An error reply that nobody asked for, as to a SUBSCRIBE that the ACL forbids, ends here too.
    self->broke(context, status_of_error_reply(self->name_ + ": lost", error_of(context)));
  });
}

void Link::handle_reply(redisAsyncContext* context, void* reply, void*) noexcept {
  Link* self = static_cast<Link*>(context->data);
  if (reply == nullptr || !self->is_current(context)) return;
  self->guarded([&] { self->answered(*static_cast<const redisReply*>(reply)); });
}

void Link::handle_push(redisAsyncContext* context, void* reply, void*) noexcept {
  Link* self = static_cast<Link*>(context->data);
  if (reply == nullptr || !self->is_current(context)) return;
  self->guarded([&] { self->pushed(*static_cast<const redisReply*>(reply)); });
}

void Link::handle_deadline(evutil_socket_t, short, void* self) noexcept {
  Link* link = static_cast<Link*>(self);
  link->guarded([&] { link->check_deadline(); });
}

void Link::handle_report(evutil_socket_t, short, void* self) noexcept {
  Link* link = static_cast<Link*>(self);
  link->guarded([&] {
    if (!link->failure_.ok()) link->fail(std::exchange(link->failure_, {}));
  });
}

}  // namespace larder::sync
