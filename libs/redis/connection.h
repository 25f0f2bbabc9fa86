// One pipelined connection to one server. Internal to libs/redis; IO thread only.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/redis/net.h"
#include "libs/redis/options.h"
#include "libs/redis/reply_reader.h"
#include "libs/redis/wire.h"

namespace tollhouse::redis {

using Commands = std::vector<std::vector<std::string>>;

// The TLS context that `options` describe; INVALID_ARGUMENT (REDIS_TLS) names the file at fault.
absl::StatusOr<std::unique_ptr<asio::ssl::context>> MakeTlsContext(const Options& options);

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // What the connection tells its owner. Each function may close the connection.
  class Handler {
   public:
    virtual ~Handler() = default;
    // The answer to `call`, sent as `command`; the handler takes call.done.
    virtual void OnReply(Call& call, std::string_view command, Reply reply) = 0;
    // Replies were handed over, or a write ended: more may be sent.
    virtual void OnProgress() = 0;
    // Once, after every call in flight was answered.
    virtual void OnClosed(const absl::Status& why) = 0;
  };

  // Which of the two passwords is sent.
  enum class Server { kRedis, kSentinel };

  // Connects, does TLS and AUTH within options.connect_timeout. `options` and `endpoints` outlive it.
  static Task<absl::StatusOr<std::shared_ptr<Connection>>> Open(asio::io_context& io,
                                                                const Options& options,
                                                                const Endpoints& endpoints,
                                                                Address address, Server server);
  ~Connection();

  // From now on `handler` hears of this connection, until it is closed.
  void SetHandler(Handler* handler) { handler_ = handler; }

  // Writes the batches with one write. At most one Send before the next OnProgress: can_send().
  void Send(std::vector<BatchPtr>& batches);
  bool can_send() const { return open() && !writing_; }
  // Answered batches, to be used again.
  std::vector<BatchPtr>& spent() { return spent_; }

  // The client's own commands: the replies, errors among them as such. UNAVAILABLE where the
  // connection ended or `timeout` came first.
  Task<absl::StatusOr<std::vector<Reply>>> Ask(Commands commands, absl::Duration timeout);

  // Ends the connection; calls in flight end as REDIS_BROKEN with `why`. Idempotent.
  void Close(absl::Status why);
  bool open() const { return !closed_; }
  const absl::Status& why_closed() const { return why_; }

  // Ends calls in flight whose deadline is at `now` or before; the earliest deadline of the others.
  int64_t Expire(int64_t now);
  size_t in_flight() const { return in_flight_; }
  // Replies so far.
  uint64_t replies() const { return replies_; }
  // Those since the last time.
  uint64_t TakeReplyCount() { return replies_ - std::exchange(counted_replies_, replies_); }
  const Address& address() const { return address_; }

 private:
  using TlsStream = asio::ssl::stream<Socket&>;

  Connection(asio::io_context& io, const Options& options, Address address);

  Task<absl::Status> Connect(const Endpoints& endpoints, Server server);
  Task<absl::Status> Authenticate(const Endpoints& endpoints, const std::string& password_file);
  void Read();
  void OnRead(error_code error, size_t size);
  void HandleReplies();
  void Write();
  void OnWritten(error_code error);
  void Recycle(BatchPtr batch);

  asio::io_context& io_;
  const Options& options_;
  const Address address_;
  Socket socket_;
  std::unique_ptr<asio::ssl::context> tls_context_;
  std::optional<TlsStream> tls_;
  Handler* handler_ = nullptr;

  std::vector<char> buffer_;
  ReplyReader reader_;
  std::deque<BatchPtr> sent_;
  std::vector<BatchPtr> outbox_;  // the client's own, while a write is under way
  std::vector<asio::const_buffer> gathered_;
  std::vector<BatchPtr> spent_;
  size_t in_flight_ = 0;
  uint64_t replies_ = 0;
  uint64_t counted_replies_ = 0;
  bool writing_ = false;
  bool handling_ = false;
  bool closed_ = false;
  absl::Status why_;
};

}  // namespace tollhouse::redis
