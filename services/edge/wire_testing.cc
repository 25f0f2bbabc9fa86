#include "services/edge/wire_testing.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

constexpr int kTimeoutMs = 10'000;

}  // namespace

std::unique_ptr<Wire> Wire::Dial(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    close(fd);
    return nullptr;
  }
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return std::make_unique<Wire>(fd);
}

Wire::~Wire() { Close(); }

void Wire::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void Wire::Reset() {
  const linger hard{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  Close();
}

void Wire::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(n);
  }
}

bool Wire::More() {
  pollfd waiting{fd_, POLLIN, 0};
  if (poll(&waiting, 1, kTimeoutMs) <= 0) return false;
  char bytes[16384];
  const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
  if (n <= 0) return false;
  buffer_.append(bytes, n);
  return true;
}

std::string Wire::Message::Header(std::string_view name) const {
  for (const absl::string_view line : absl::StrSplit(head, "\r\n")) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) continue;
    if (absl::EqualsIgnoreCase(line.substr(0, colon), Absl(name))) {
      return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "";
}

Wire::Message Wire::Read() {
  Message message;
  size_t end;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!More()) return message;
  }
  message.head = buffer_.substr(0, end);
  buffer_.erase(0, end + 4);
  if (message.head.starts_with("HTTP/1.1 ")) {
    (void)absl::SimpleAtoi(message.head.substr(9, 3), &message.status);
  }
  if (message.status == 100) return message;
  size_t length = 0;
  if (absl::EqualsIgnoreCase(message.Header("transfer-encoding"), "chunked")) {
    for (;;) {
      size_t line;
      while ((line = buffer_.find("\r\n")) == std::string::npos) {
        if (!More()) return message;
      }
      uint64_t size = 0;
      if (!absl::SimpleHexAtoi(buffer_.substr(0, line), &size)) return message;
      while (buffer_.size() < line + 2 + size + 2) {
        if (!More()) return message;
      }
      message.body += buffer_.substr(line + 2, size);
      buffer_.erase(0, line + 2 + size + 2);
      if (size == 0) break;
    }
  } else if (absl::SimpleAtoi(message.Header("content-length"), &length)) {
    while (buffer_.size() < length) {
      if (!More()) return message;
    }
    message.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
  } else if (message.status != 0) {
    while (More()) {
    }
    message.body = std::exchange(buffer_, {});
    return message;
  }
  message.whole = true;
  return message;
}

std::string Wire::ReadUntil(std::string_view text) {
  while (buffer_.find(text) == std::string::npos) {
    if (!More()) break;
  }
  return buffer_;
}

bool Wire::WaitClosed() {
  for (;;) {
    pollfd waiting{fd_, POLLIN, 0};
    if (poll(&waiting, 1, kTimeoutMs) <= 0) return false;
    char bytes[4096];
    const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
    if (n <= 0) return true;
  }
}

// --- the provider --------------------------------------------------------------------------------

TestProvider::TestProvider(Script script) : script_(std::move(script)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener_, 128) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Serve(); });
}

TestProvider::~TestProvider() {
  stopping_ = true;
  shutdown(listener_, SHUT_RDWR);
  thread_.join();
  close(listener_);
  std::vector<std::thread> serving;
  {
    absl::MutexLock lock(&mutex_);
    for (Wire* wire : open_) wire->Reset();
    serving.swap(serving_);
  }
  for (std::thread& thread : serving) thread.join();
}

void TestProvider::SetScript(Script script) {
  absl::MutexLock lock(&mutex_);
  script_ = std::move(script);
}

void TestProvider::SetConnected(std::function<void(int fd)> connected) {
  absl::MutexLock lock(&mutex_);
  connected_ = std::move(connected);
}

std::vector<Wire::Message> TestProvider::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

void TestProvider::Serve() {
  for (;;) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    if (stopping_) {
      close(fd);
      return;
    }
    ++accepted_;
    absl::MutexLock lock(&mutex_);
    serving_.emplace_back([this, fd] {
      Wire wire(fd);
      {
        absl::MutexLock open_lock(&mutex_);
        open_.push_back(&wire);
      }
      std::function<void(int fd)> connected;
      {
        absl::MutexLock connected_lock(&mutex_);
        connected = connected_;
      }
      if (connected) connected(fd);
      while (!connected) {
        const Wire::Message request = wire.Read();
        if (request.head.empty()) break;
        Script script;
        {
          absl::MutexLock script_lock(&mutex_);
          requests_.push_back(request);
          script = script_;
        }
        if (!script(request, wire)) break;
      }
      absl::MutexLock open_lock(&mutex_);
      open_.erase(std::find(open_.begin(), open_.end(), &wire));
    });
  }
}

std::string HttpAnswer(int status, std::string_view body, std::string_view content_type) {
  return absl::StrCat("HTTP/1.1 ", status, " X\r\ncontent-type: ", Absl(content_type),
                      "\r\nx-request-id: req_1\r\ncontent-length: ", body.size(), "\r\n\r\n",
                      Absl(body));
}

std::string SseHead() {
  return "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
         "transfer-encoding: chunked\r\n\r\n";
}

std::string Chunk(std::string_view data) {
  return absl::StrCat(absl::Hex(data.size()), "\r\n", Absl(data), "\r\n");
}

}  // namespace tollhouse::edge
