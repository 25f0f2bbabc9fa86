// A Redis that answers what a test tells it to.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tollhouse::redis {

// Listens on a free port of 127.0.0.1. What the client asks before it uses a Redis is answered as a
// healthy primary does, everything else by the test.
class FakeRedis {
 public:
  using Command = std::vector<std::string>;
  // The raw bytes to answer with, in pieces that are sent one by one; kClose ends the connection.
  // Called on a thread of the connection.
  using Answer = std::function<std::vector<std::string>(const Command& command)>;
  static constexpr char kClose[] = "(close)";

  explicit FakeRedis(Answer answer);
  ~FakeRedis();
  FakeRedis(const FakeRedis&) = delete;
  FakeRedis& operator=(const FakeRedis&) = delete;

  std::string uri() const { return "redis://127.0.0.1:" + std::to_string(port_); }
  // Replaces what INFO answers from now on, "" for the healthy one.
  void SetInfo(std::string raw);
  // Replaces what EVAL of the write probe answers.
  void SetWriteProbe(std::string raw);
  // Connections so far.
  int connections() const;

  // "$3\r\nabc\r\n"
  static std::string Bulk(const std::string& text);

 private:
  void Accept();
  void Serve(int connection);
  std::vector<std::string> AnswerTo(const Command& command);

  const Answer answer_;
  int listener_ = -1;
  int port_ = 0;
  mutable absl::Mutex mutex_;
  std::string info_ ABSL_GUARDED_BY(mutex_);
  std::string write_probe_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> open_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  int connections_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread acceptor_;
};

}  // namespace tollhouse::redis
