#include "libs/redis/fake_redis_testing.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace tollhouse::redis {
namespace {

constexpr char kHealthy[] =
    "# Server\r\nrun_id:1111\r\nrole:master\r\nmaster_replid:2222\r\n"
    "master_replid2:0000000000000000000000000000000000000000\r\nmaxmemory_policy:noeviction\r\n"
    "loading:0\r\naof_enabled:1\r\ncluster_enabled:0\r\n";

}  // namespace

FakeRedis::FakeRedis(Answer answer) : answer_(std::move(answer)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener_, 16) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

FakeRedis::~FakeRedis() {
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    for (const int connection : open_) shutdown(connection, SHUT_RDWR);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

std::string FakeRedis::Bulk(const std::string& text) {
  return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
}

void FakeRedis::SetInfo(std::string raw) {
  absl::MutexLock lock(&mutex_);
  info_ = std::move(raw);
}

void FakeRedis::SetWriteProbe(std::string raw) {
  absl::MutexLock lock(&mutex_);
  write_probe_ = std::move(raw);
}

int FakeRedis::connections() const {
  absl::MutexLock lock(&mutex_);
  return connections_;
}

void FakeRedis::Accept() {
  for (;;) {
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) return;
    absl::MutexLock lock(&mutex_);
    ++connections_;
    open_.push_back(connection);
    threads_.emplace_back([this, connection] { Serve(connection); });
  }
}

void FakeRedis::Serve(int connection) {
  redisReader* const reader = redisReaderCreate();
  char buffer[16384];
  bool open = true;
  while (open) {
    const ssize_t got = recv(connection, buffer, sizeof(buffer), 0);
    if (got <= 0) break;
    redisReaderFeed(reader, buffer, static_cast<size_t>(got));
    void* parsed = nullptr;
    while (open && redisReaderGetReply(reader, &parsed) == REDIS_OK && parsed != nullptr) {
      const auto* const request = static_cast<redisReply*>(parsed);
      Command command;
      for (size_t i = 0; i < request->elements; ++i) {
        command.emplace_back(request->element[i]->str, request->element[i]->len);
      }
      freeReplyObject(std::exchange(parsed, nullptr));
      for (const std::string& piece : AnswerTo(command)) {
        if (piece == kClose) {
          open = false;
          break;
        }
        for (size_t sent = 0; open && sent < piece.size();) {
          const ssize_t wrote =
              send(connection, piece.data() + sent, piece.size() - sent, MSG_NOSIGNAL);
          open = wrote > 0;
          if (open) sent += static_cast<size_t>(wrote);
        }
      }
    }
  }
  redisReaderFree(reader);
  absl::MutexLock lock(&mutex_);
  std::erase(open_, connection);
  close(connection);
}

std::vector<std::string> FakeRedis::AnswerTo(const Command& command) {
  {
    absl::MutexLock lock(&mutex_);
    if (command[0] == "INFO") return {info_.empty() ? Bulk(kHealthy) : info_};
    if (command[0] == "SCRIPT") return {Bulk("0123456789012345678901234567890123456789")};
    if (command[0] == "EVAL") return {write_probe_.empty() ? ":1\r\n" : write_probe_};
  }
  return answer_(command);
}

}  // namespace tollhouse::redis
