#include "tests/support/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

namespace larder::test {
namespace {

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

std::string failure(const char* call) { return std::string(call) + ": " + std::strerror(errno); }

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

void parse_header(const std::string& line, HttpReply& reply) {
  const std::size_t colon = line.find(':');
  if (colon == std::string::npos) return;
  const std::size_t start = line.find_first_not_of(' ', colon + 1);
  reply.headers[lower_case(line.substr(0, colon))] =
      start == std::string::npos ? "" : line.substr(start);
}

// "HTTP/1.1 200 OK" -> 200; 0 for anything else.
int parse_status(const std::string& line) {
  int status = 0;
  if (line.starts_with("HTTP/1.") && line.size() >= 12) {
    std::from_chars(line.data() + 9, line.data() + 12, status);
  }
  return status;
}

}  // namespace

std::string HttpReply::header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? std::string() : found->second;
}

HttpConnection::HttpConnection(std::uint16_t port, std::chrono::milliseconds timeout) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{timeout.count() / 1000, timeout.count() % 1000 * 1000};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const sockaddr_in address = loopback(port);
  if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    error_ = failure("connect");
  }
}

HttpConnection::~HttpConnection() {
  if (fd_ >= 0) close(fd_);
}

void HttpConnection::send(std::string_view method, std::string_view path, std::string_view body,
                          std::string_view extra_headers) {
  std::string request;
  request.append(method).append(" ").append(path).append(" HTTP/1.1\r\nHost: test\r\n");
  request.append(extra_headers);
  request.append("Content-Length: ").append(std::to_string(body.size())).append("\r\n\r\n");
  request.append(body);
  send_raw(request);
}

void HttpConnection::send_raw(std::string_view bytes) {
  while (error_.empty() && !bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0) {
      error_ = failure("send");
    } else {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
}

HttpReply HttpConnection::receive() {
  HttpReply reply;
  std::string line;
  const bool got_status = read_line(line);
  const int status = got_status ? parse_status(line) : 0;
  while (read_line(line) && !line.empty()) parse_header(line, reply);

  std::size_t length = 0;
  const std::string text = reply.header("content-length");
  std::from_chars(text.data(), text.data() + text.size(), length);
  while (input_.size() < length && fill()) {
  }
  if (input_.size() < length || status == 0) {
    reply.error = error_.empty() ? "the server closed the connection" : error_;
    return reply;
  }
  reply.body = input_.substr(0, length);
  input_.erase(0, length);
  reply.status = status;
  return reply;
}

std::string HttpConnection::receive_until_closed() {
  while (fill()) {
  }
  return input_;
}

bool HttpConnection::fill() {
  if (!error_.empty()) return false;
  char bytes[16384];
  const ssize_t got = recv(fd_, bytes, sizeof(bytes), 0);
  if (got < 0) error_ = failure("recv");
  if (got <= 0) return false;
  input_.append(bytes, static_cast<std::size_t>(got));
  return true;
}

bool HttpConnection::read_line(std::string& line) {
  std::size_t end = input_.find("\r\n");
  while (end == std::string::npos) {
    if (!fill()) return false;
    end = input_.find("\r\n");
  }
  line = input_.substr(0, end);
  input_.erase(0, end + 2);
  return true;
}

HttpReply http(std::uint16_t port, std::string_view method, std::string_view path,
               std::string_view body) {
  HttpConnection connection(port);
  connection.send(method, path, body, "Connection: close\r\n");
  return connection.receive();
}

std::uint16_t free_port() {
  std::random_device random;
  std::uniform_int_distribution<int> ports(12'000, 32'000);
  for (int attempt = 0; attempt < 100; ++attempt) {
    const auto port = static_cast<std::uint16_t>(ports(random));
    const sockaddr_in address = loopback(port);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool free = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (free) return port;
  }
  std::fprintf(stderr, "test support: no free port in 100 attempts\n");
  std::abort();
}

}  // namespace larder::test
