// A caller and a provider with plain sockets, for tests.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tollhouse::edge {

// A TCP connection with deadlines, for callers and for the provider's side.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}
  static std::unique_ptr<Wire> Dial(int port);
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void Send(std::string_view bytes);
  // One HTTP message: head and whole body (chunks joined); "" if the connection ended first.
  struct Message {
    std::string head;  // with start line, without the empty line
    std::string body;
    bool whole = false;  // the body came to its end by its own framing
    int status = 0;      // of an answer
    std::string Header(std::string_view name) const;
  };
  Message Read();
  // Bytes until `text` has been seen or the connection ended.
  std::string ReadUntil(std::string_view text);
  // Whether the other side closes (now or within ten seconds).
  bool WaitClosed();
  void Close();
  int fd() const { return fd_; }
  // Closes so that the other side's writes fail at once.
  void Reset();

 private:
  bool More();

  int fd_;
  std::string buffer_;
};

// A scripted provider on a port of its own.
class TestProvider {
 public:
  // Called per request, on its connection's thread; the connection is closed after it returns false.
  using Script = std::function<bool(const Wire::Message& request, Wire& wire)>;

  explicit TestProvider(Script script);
  ~TestProvider();

  int port() const { return port_; }
  std::vector<Wire::Message> requests() const;
  int connections() const { return accepted_; }
  void SetScript(Script script);
  // Takes connections as they are instead, before anything is read from them.
  void SetConnected(std::function<void(int fd)> connected);

 private:
  void Serve();

  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> accepted_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  mutable absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  std::function<void(int fd)> connected_ ABSL_GUARDED_BY(mutex_);
  std::vector<Wire::Message> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> serving_ ABSL_GUARDED_BY(mutex_);
  std::vector<Wire*> open_ ABSL_GUARDED_BY(mutex_);
};

std::string HttpAnswer(int status, std::string_view body,
                       std::string_view content_type = "application/json");
// The head of an SSE answer with chunked framing, and one chunk of it; "" is the last.
std::string SseHead();
std::string Chunk(std::string_view data);

}  // namespace tollhouse::edge
