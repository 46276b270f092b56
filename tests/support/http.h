// A tiny blocking HTTP client for tests, on the loopback address.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace larder::test {

struct HttpReply {
  int status = 0;                              // 0: no reply; `error` says why
  std::string error;                           // "connect: Connection refused"
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  // The header's value, or nothing.
  std::string header(const std::string& lower_case_name) const;
};

// One connection to 127.0.0.1. Threads: none.
class HttpConnection {
 public:
  explicit HttpConnection(std::uint16_t port,
                          std::chrono::milliseconds timeout = std::chrono::seconds(10));
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // The two halves of a request, so that something can happen in between. `extra_headers` are
  // whole lines with their "\r\n".
  void send(std::string_view method, std::string_view path, std::string_view body = {},
            std::string_view extra_headers = {});
  HttpReply receive();
  // Sends bytes as they are.
  void send_raw(std::string_view bytes);
  // What came when the peer closed: everything until then.
  std::string receive_until_closed();

 private:
  bool fill();  // reads more into input_; false at the end or on an error
  bool read_line(std::string& line);

  int fd_ = -1;
  std::string error_;
  std::string input_;
};

// A request on a connection of its own, so that the kernel may choose any worker.
HttpReply http(std::uint16_t port, std::string_view method, std::string_view path,
               std::string_view body = {});

// A port of 127.0.0.1 on which nobody listens, below those that the kernel gives to clients, so
// that no connection of this test takes it meanwhile.
std::uint16_t free_port();

}  // namespace larder::test
