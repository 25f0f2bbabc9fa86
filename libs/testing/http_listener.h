// An HTTP server for tests of clients: answers what it is told and remembers what it was sent.
#pragma once

#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tollhouse::testing {

// Listens on a free port of 127.0.0.1 and serves one connection, with one request, at a time.
class HttpListener {
 public:
  struct Received {
    std::string head;  // request line and headers, as sent
    std::string body;
  };

  HttpListener();
  ~HttpListener();
  HttpListener(const HttpListener&) = delete;
  HttpListener& operator=(const HttpListener&) = delete;

  int port() const { return port_; }
  // "http://127.0.0.1:PORT" + path
  std::string Url(const std::string& path) const;

  // The raw answer to the next request not yet answered for; 200 without body where none is queued.
  // "": the connection is closed without an answer.
  void QueueAnswer(std::string raw);
  void QueueStatus(int status);

  // What has been received so far, in order.
  std::vector<Received> received() const;
  // Waits until `count` requests have been received; false after the timeout.
  bool WaitForRequests(size_t count, absl::Duration timeout);

 private:
  void Run();
  void Serve(int connection);

  int listener_ = -1;
  int port_ = 0;
  mutable absl::Mutex mutex_;
  std::deque<std::string> answers_ ABSL_GUARDED_BY(mutex_);
  std::vector<Received> received_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tollhouse::testing
