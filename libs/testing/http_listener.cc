#include "libs/testing/http_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tollhouse::testing {

HttpListener::HttpListener() {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener_, 16) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Run(); });
}

HttpListener::~HttpListener() {
  shutdown(listener_, SHUT_RDWR);
  thread_.join();
  close(listener_);
}

std::string HttpListener::Url(const std::string& path) const {
  return absl::StrCat("http://127.0.0.1:", port_, path);
}

void HttpListener::QueueAnswer(std::string raw) {
  absl::MutexLock lock(&mutex_);
  answers_.push_back(std::move(raw));
}

void HttpListener::QueueStatus(int status) {
  QueueAnswer(absl::StrCat("HTTP/1.1 ", status, " Scripted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
}

std::vector<HttpListener::Received> HttpListener::received() const {
  absl::MutexLock lock(&mutex_);
  return received_;
}

bool HttpListener::WaitForRequests(size_t count, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return received_.size() >= count;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), timeout);
}

void HttpListener::Run() {
  for (;;) {
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) return;
    Serve(connection);
    close(connection);
  }
}

void HttpListener::Serve(int connection) {
  std::string bytes;
  size_t head_end = std::string::npos;
  size_t body_size = 0;
  while (head_end == std::string::npos || bytes.size() < head_end + body_size) {
    char buffer[4096];
    const ssize_t got = read(connection, buffer, sizeof(buffer));
    if (got <= 0) return;
    bytes.append(buffer, static_cast<size_t>(got));
    if (head_end != std::string::npos) continue;
    const size_t blank = bytes.find("\r\n\r\n");
    if (blank == std::string::npos) continue;
    head_end = blank + 4;
    std::string lower = bytes.substr(0, head_end);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    const size_t length = lower.find("content-length: ");
    if (length != std::string::npos) {
      const size_t start = length + 16;
      uint64_t parsed = 0;
      if (absl::SimpleAtoi(lower.substr(start, lower.find('\r', start) - start), &parsed)) {
        body_size = parsed;
      }
    }
  }
  std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  {
    absl::MutexLock lock(&mutex_);
    received_.push_back({bytes.substr(0, head_end), bytes.substr(head_end)});
    if (!answers_.empty()) {
      answer = std::move(answers_.front());
      answers_.pop_front();
    }
  }
  for (size_t sent = 0; sent < answer.size();) {
    const ssize_t wrote = send(connection, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
    if (wrote <= 0) return;
    sent += static_cast<size_t>(wrote);
  }
}

}  // namespace tollhouse::testing
