// The HTTP/1.1 server of the edge: connections, limits, keep-alive, draining. Knows no dialect.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/edge/http_message.h"
#include "services/edge/http_parser.h"
#include "services/edge/net.h"
#include "services/edge/server_tls.h"

namespace tollhouse::edge {

struct HttpLimits {
  size_t header_bytes = 64 << 10;
  uint64_t body_bytes = uint64_t{32} << 20;
  absl::Duration header_time = absl::Seconds(10);  // from the first byte to the empty line
  absl::Duration body_time = absl::Seconds(120);   // from the head to the last byte of the body
  absl::Duration body_idle_time = absl::Seconds(30);  // between two bytes of it
  absl::Duration idle_time = absl::Seconds(75);       // between two requests
  absl::Duration write_time = absl::Seconds(60);      // for the caller to take one write
  int64_t connections = 20'000;                       // more are closed at once
  int64_t connections_per_address = 5'000;            // likewise, of one caller's address
};

// What went wrong before a request was complete.
enum class RequestError {
  kMalformed,            // 400
  kTimeout,              // 408
  kBodyTooLarge,         // 413
  kUnsupportedExpect,    // 417
  kHeadersTooLarge,      // 431
  kUnsupportedEncoding,  // 501
  kUnsupportedVersion,   // 505
};

// One request and the way to answer it. Exactly one of Answer, BeginStream must be called. All on
// the IO thread of its connection. Writing to a caller who left fails and changes nothing else.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const RequestHead& head() const = 0;
  virtual IoLoop& loop() = 0;
  virtual int loop_index() const = 0;
  // The caller's address, as numbers: "192.0.2.1", "2001:db8::1".
  virtual const std::string& peer() const = 0;

  // Reads the whole body (telling a waiting caller to continue). Room for `padding` bytes is left
  // behind it. False: the caller left or broke a rule; a broken rule has been answered.
  virtual Task<bool> ReadBody(std::string* body, size_t padding) = 0;

  // A whole answer. False: the caller is gone.
  virtual Task<bool> Answer(int status, const HeaderList& headers, std::string_view body) = 0;

  // An answer of unknown length.
  virtual Task<bool> BeginStream(int status, const HeaderList& headers) = 0;
  // Without waiting: what the caller does not take at once is kept and goes out with Flush, which
  // must be called before anything else is written. False: Flush is needed.
  virtual bool WriteNow(std::string_view data) = 0;
  virtual Task<bool> Flush() = 0;
  Task<bool> Write(std::string_view data);
  virtual Task<bool> EndStream() = 0;
  // Ends the connection instead, so that the caller sees that the answer is not whole.
  virtual void Abort() = 0;

  virtual bool caller_gone() const = 0;
};

class RequestHandler {
 public:
  virtual ~RequestHandler() = default;
  virtual Task<> Handle(Exchange& exchange) = 0;
  // The answer to a request that could not be read; `head` has what could be, if anything.
  struct Malformed {
    int status;
    HeaderList headers;
    std::string body;
  };
  virtual Malformed RenderMalformed(const RequestHead& head, RequestError error) = 0;
};

class HttpServer {
 public:
  struct Shared;

  // Listens on "host:port" (port 0: any free one) and serves on `loops`, one connection after the
  // other in turn; over TLS unless `tls` is null. Handler and `tls` must outlive the server.
  // UNAVAILABLE if it cannot listen.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Listen(
      const std::string& address, const HttpLimits& limits,
      const std::vector<std::unique_ptr<IoLoop>>& loops, RequestHandler* handler,
      ServerTls* tls = nullptr);
  ~HttpServer();

  // "127.0.0.1:8080", with the port that was bound.
  const std::string& address() const { return address_; }
  void Start();

  // Accepts no more, ends idle connections now and the others after their answer; waits for that at
  // most `timeout`. True if all have ended. Idempotent. The loops must run.
  bool Drain(absl::Duration timeout);

  int64_t connections() const;

 private:

  explicit HttpServer(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::shared_ptr<Shared> shared_;
  std::string address_;
};

}  // namespace tollhouse::edge
