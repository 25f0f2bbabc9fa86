#include "services/edge/http_server.h"

#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <array>
#include <cstring>
#include <exception>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"

namespace tollhouse::edge {
namespace {

// Enough for most heads; a body is read into its own place.
constexpr size_t kHeadBytes = 4 << 10;
constexpr size_t kReadBytes = 16 << 10;
// A body that is refused is still read up to this size, so that its sender sees the answer.
constexpr uint64_t kDiscardBytes = uint64_t{1} << 20;
// A buffer that a large write needed is given back.
constexpr size_t kOutBytesKept = 4 << 10;
constexpr absl::Duration kLingerTime = absl::Seconds(2);
constexpr uint64_t kLingerBytes = uint64_t{64} << 20;

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 529: return "Overloaded";
    default: return status < 300 ? "OK" : "Error";
  }
}

void AppendHex(size_t number, std::string* out) {
  char digits[16];
  size_t at = sizeof digits;
  do {
    digits[--at] = "0123456789abcdef"[number & 15];
    number >>= 4;
  } while (number > 0);
  out->append(digits + at, sizeof digits - at);
}

void AppendHead(int status, const HeaderList& headers, std::string* out) {
  absl::StrAppend(out, "HTTP/1.1 ", status, " ", Absl(ReasonPhrase(status)), "\r\n");
  for (const auto& [name, value] : headers) {
    absl::StrAppend(out, name, ": ", value, "\r\n");
  }
}

}  // namespace

Task<bool> Exchange::Write(std::string_view data) {
  if (WriteNow(data)) co_return !caller_gone();
  co_return co_await Flush();
}

// What draining needs to know of a connection.
class Drainable : public boost::intrusive::list_base_hook<
                      boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
 public:
  virtual ~Drainable() = default;
  // Ends the wait for a next request, if that is what it does.
  virtual void DrainIfIdle() = 0;
};

struct HttpServer::Shared : std::enable_shared_from_this<HttpServer::Shared> {
  struct PerLoop {
    IoLoop* loop = nullptr;
    int index = 0;
    // On the loop's thread only.
    boost::intrusive::list<Drainable, boost::intrusive::constant_time_size<false>> connections;
  };

  Shared(const HttpLimits& l, RequestHandler* h, ServerTls* t) : limits(l), handler(h), tls(t) {}

  void Accept();
  void Serve(PerLoop& per_loop, Socket socket, std::string peer);
  // Counts a connection, unless there are too many.
  bool Admit(const std::string& peer);
  void Release(const std::string& peer);

  const HttpLimits limits;
  RequestHandler* const handler;
  ServerTls* const tls;  // null: plain
  std::vector<std::unique_ptr<PerLoop>> loops;
  std::optional<asio::basic_socket_acceptor<Tcp, Executor>> acceptor;  // on loops[0]
  std::optional<Timer> accept_backoff;
  size_t next_loop = 0;
  std::atomic<bool> draining = false;

  absl::Mutex mutex;
  int64_t open ABSL_GUARDED_BY(mutex) = 0;
  absl::flat_hash_map<std::string, int64_t> open_by_peer ABSL_GUARDED_BY(mutex);
  bool accepting ABSL_GUARDED_BY(mutex) = true;
};

// Owned by its coroutine.
class Connection final : public Exchange, public Drainable {
 public:
  Connection(std::shared_ptr<HttpServer::Shared> shared, HttpServer::Shared::PerLoop& per_loop,
             Socket socket, std::string peer)
      : shared_(std::move(shared)),
        limits_(shared_->limits),
        per_loop_(per_loop),
        peer_(std::move(peer)),
        socket_(std::move(socket)),
        deadline_(per_loop.loop->deadlines(), [this] { CancelSocket(); }) {
    per_loop_.connections.push_back(*this);
  }
  ~Connection() override {
    error_code ignored;
    Lowest().close(ignored);
    shared_->Release(peer_);
  }

  Task<> Run() {
    if (shared_->tls != nullptr && !co_await Handshake()) co_return;
    while (!closing_) {
      parser_.emplace();
      if (!co_await ReadHead()) break;
      answered_ = body_read_ = false;
      co_await shared_->handler->Handle(*this);
      deadline_.Disarm();
      if (!answered_) co_return;  // aborted
      if (!closing_ && HasBody() && !body_read_) {
        std::string discarded;
        co_await ReadBody(&discarded, 0);
      }
      if (!parser_->head().keep_alive || shared_->draining.load()) closing_ = true;
      DropUsed();
      if (!next_.empty()) {
        MakeRoom(next_.size());
        std::memcpy(in_.data() + filled_, next_.data(), next_.size());
        filled_ += next_.size();
        next_.clear();
      }
    }
    if (linger_) co_await Linger();
  }

  void DrainIfIdle() override {
    if (idle_) CancelSocket();
  }

  // Exchange.
  const RequestHead& head() const override { return parser_->head(); }
  IoLoop& loop() override { return *per_loop_.loop; }
  int loop_index() const override { return per_loop_.index; }
  const std::string& peer() const override { return peer_; }
  bool caller_gone() const override { return gone_; }
  void Abort() override {
    answered_ = false;
    closing_ = true;
  }

  Task<bool> ReadBody(std::string* body, size_t padding) override {
    body_read_ = true;
    const RequestHead& request = parser_->head();
    std::string_view have = Received();
    if (request.expect_continue && HasBody() && have.empty()) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      if (!co_await WriteAll(kContinue)) co_return false;
    }
    const int64_t end = NowNanos() + absl::ToInt64Nanoseconds(limits_.body_time);
    if (request.chunked) co_return co_await ReadChunked(body, padding, end);

    const uint64_t length = request.content_length.value_or(0);
    have = have.substr(0, length);
    // Grown as the bytes arrive: a length is only a promise.
    body->reserve(std::min<uint64_t>(length, 1 << 20) + padding);
    body->assign(have);
    used_ += have.size();
    size_t filled = have.size();
    while (filled < length) {
      const size_t target = std::min<uint64_t>(length, std::max<size_t>(filled * 2, 1 << 20));
      if (body->capacity() < target + padding) body->reserve(target + padding);
      body->resize(target);
      while (filled < target) {
        ArmBody(end);
        const auto [error, n] =
            co_await ReadSome(asio::buffer(body->data() + filled, target - filled));
        if (error) co_return co_await ReadFailed();
        filled += n;
      }
    }
    deadline_.Disarm();
    co_return true;
  }

  Task<bool> Answer(int status, const HeaderList& headers, std::string_view body) override {
    answered_ = true;
    out_.clear();
    AppendHead(status, headers, &out_);
    absl::StrAppend(&out_, "content-length: ", body.size(), "\r\n");
    AppendConnection();
    out_ += "\r\n";
    const bool with_body = head().method != "HEAD";
    if (with_body && body.size() <= 4096) {
      out_ += body;
      co_return co_await WriteAll(out_);
    }
    co_return co_await WriteAll(out_, with_body ? body : std::string_view());
  }

  Task<bool> BeginStream(int status, const HeaderList& headers) override {
    answered_ = true;
    chunked_ = head().version >= 11;
    if (!chunked_) closing_ = true;  // the end of the connection is the end of the answer
    out_.clear();
    AppendHead(status, headers, &out_);
    if (chunked_) out_ += "transfer-encoding: chunked\r\n";
    AppendConnection();
    out_ += "\r\n";
    co_return co_await WriteAll(out_);
  }

  bool WriteNow(std::string_view data) override {
    if (data.empty() || gone_) return true;
    out_.clear();
    if (chunked_) {
      AppendHex(data.size(), &out_);
      out_.append("\r\n").append(data).append("\r\n");
    } else {
      out_.append(data);
    }
    if (tls_) return false;
    const ssize_t sent =
        send(socket_->native_handle(), out_.data(), out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == static_cast<ssize_t>(out_.size())) {
      if (out_.capacity() > kOutBytesKept) std::string().swap(out_);
      return true;
    }
    if (sent > 0) out_.erase(0, static_cast<size_t>(sent));
    return false;  // errors are met again by Flush
  }

  Task<bool> Flush() override {
    const bool written = co_await WriteAll(out_);
    if (out_.capacity() > kOutBytesKept) std::string().swap(out_);
    co_return written;
  }

  Task<bool> EndStream() override {
    if (!chunked_) co_return !gone_;
    static constexpr std::string_view kLast = "0\r\n\r\n";
    co_return co_await WriteAll(kLast);
  }

 private:
  int64_t NowNanos() const { return per_loop_.loop->deadlines().NowNanos(); }

  std::string_view Received() const {
    return std::string_view(in_).substr(used_, filled_ - used_);
  }
  void DropUsed() {
    std::memmove(in_.data(), in_.data() + used_, filled_ - used_);
    filled_ -= used_;
    used_ = 0;
  }
  void MakeRoom(size_t bytes) {
    if (in_.size() - filled_ < bytes) in_.resize(filled_ + std::max(bytes, filled_ < kHeadBytes ? kHeadBytes : kReadBytes));
  }

  Socket& Lowest() { return tls_ ? tls_->next_layer() : *socket_; }
  void CancelSocket() {
    error_code ignored;
    Lowest().cancel(ignored);
  }

  Task<std::pair<error_code, size_t>> ReadSome(asio::mutable_buffer buffer) {
    error_code error;
    size_t n = 0;
    if (tls_) {
      std::tie(error, n) = co_await tls_->async_read_some(buffer, kAwait);
    } else {
      std::tie(error, n) = co_await socket_->async_read_some(buffer, kAwait);
    }
    co_return std::pair(error, n);
  }

  // A caller that fails it gets nothing, also no answer.
  Task<bool> Handshake() {
    const std::shared_ptr<asio::ssl::context> context = shared_->tls->Context();
    tls_.emplace(*std::move(socket_), *context);
    socket_.reset();
    deadline_.Arm(limits_.header_time);
    const auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kAwait);
    deadline_.Disarm();
    co_return !error;
  }

  void AppendConnection() {
    if (HasBody() && !body_read_ && !CanDiscard()) linger_ = closing_ = true;
    if (!head().keep_alive || closing_ || shared_->draining.load()) {
      closing_ = true;
      out_ += "connection: close\r\n";
    } else if (head().version < 11) {
      out_ += "connection: keep-alive\r\n";
    }
  }

  void ArmBody(int64_t end) {
    deadline_.Arm(
        std::min(limits_.body_idle_time, absl::Nanoseconds(std::max<int64_t>(0, end - NowNanos()))));
  }

  // The next head into parser_. False: the connection is to be closed (an error was answered).
  Task<bool> ReadHead() {
    size_t looked = 0;
    bool started = false;
    for (;;) {
      // A line break that a client left behind its last body is not a request yet.
      while (!started && Received().starts_with("\r\n")) used_ += 2;
      const std::string_view have = Received();
      const size_t end = FindHeadEnd(have, looked);
      if (end == kBadLineEnding) {
        co_await Refuse(RequestError::kMalformed);
        co_return false;
      }
      if (end != std::string_view::npos) {
        if (end > limits_.header_bytes) {
          co_await Refuse(RequestError::kHeadersTooLarge);
          co_return false;
        }
        deadline_.Disarm();
        // The views of the head stay valid: in_ is not touched until the request is over.
        const ParseError error = parser_->ParseHead(have.substr(0, end), limits_.body_bytes);
        used_ += end;
        if (error != ParseError::kNone) {
          co_await Refuse(ErrorOf(error));
          co_return false;
        }
        co_return true;
      }
      if (have.size() >= limits_.header_bytes) {
        co_await Refuse(RequestError::kHeadersTooLarge);
        co_return false;
      }
      looked = have.size();
      if (!have.empty() && !started) {
        started = true;
        deadline_.Arm(limits_.header_time);
      } else if (!started) {
        if (shared_->draining.load()) co_return false;
        deadline_.Arm(limits_.idle_time);
      }
      DropUsed();
      MakeRoom(kHeadBytes / 2);
      idle_ = !started;
      const auto [error, n] =
          co_await ReadSome(asio::buffer(in_.data() + filled_, in_.size() - filled_));
      idle_ = false;
      filled_ += error ? 0 : n;
      if (error) {
        if (started && deadline_.expired()) {
          deadline_.Disarm();
          co_await Refuse(RequestError::kTimeout);
        }
        co_return false;
      }
    }
  }

  static RequestError ErrorOf(ParseError error) {
    switch (error) {
      case ParseError::kBodyTooLarge: return RequestError::kBodyTooLarge;
      case ParseError::kUnsupportedEncoding: return RequestError::kUnsupportedEncoding;
      case ParseError::kUnsupportedVersion: return RequestError::kUnsupportedVersion;
      case ParseError::kUnsupportedExpect: return RequestError::kUnsupportedExpect;
      case ParseError::kMalformed:
      case ParseError::kNone: break;
    }
    return RequestError::kMalformed;
  }

  // Answers a request that broke a rule; the connection ends with it.
  Task<> Refuse(RequestError error) {
    linger_ = closing_ = true;
    const RequestHandler::Malformed answer =
        shared_->handler->RenderMalformed(parser_->head(), error);
    co_await Answer(answer.status, answer.headers, answer.body);
  }

  Task<bool> ReadFailed() {
    const bool timeout = deadline_.expired();
    deadline_.Disarm();
    closing_ = true;
    if (timeout) {
      co_await Refuse(RequestError::kTimeout);
    } else {
      gone_ = true;
    }
    co_return false;
  }

  Task<bool> ReadChunked(std::string* body, size_t padding, int64_t end) {
    std::string chunk(Received());
    used_ = filled_;
    for (;;) {
      ParseError error = ParseError::kNone;
      const size_t n = parser_->PutBody(chunk, body, &error);
      chunk.erase(0, n);
      if (error != ParseError::kNone) {
        co_await Refuse(ErrorOf(error));
        co_return false;
      }
      if (parser_->body_done()) break;
      if (chunk.size() > kReadBytes) {  // a chunk's header or the trailers without an end
        co_await Refuse(RequestError::kMalformed);
        co_return false;
      }
      const size_t size = chunk.size();
      chunk.resize(size + kReadBytes);
      ArmBody(end);
      const auto [read_error, got] =
          co_await ReadSome(asio::buffer(chunk.data() + size, kReadBytes));
      chunk.resize(size + (read_error ? 0 : got));
      if (read_error) co_return co_await ReadFailed();
    }
    deadline_.Disarm();
    body->reserve(body->size() + padding);
    // The next request may have come along; the head's views must stay where they are.
    next_ = std::move(chunk);
    co_return true;
  }

  bool HasBody() const {
    const RequestHead& request = parser_->head();
    return request.chunked || request.content_length.value_or(0) > 0;
  }

  // Whether an unread body is short enough to be read away, so that the connection can go on.
  bool CanDiscard() const {
    const RequestHead& request = parser_->head();
    return !request.expect_continue && !request.chunked &&
           request.content_length.value_or(0) <= kDiscardBytes;
  }

  // Lets the caller read the last answer: closing with unread input would reset it away.
  Task<> Linger() {
    if (gone_) co_return;
    error_code error;
    Lowest().shutdown(Socket::shutdown_send, error);
    if (error) co_return;
    uint64_t discarded = 0;
    MakeRoom(kHeadBytes / 2);
    deadline_.Arm(kLingerTime);
    while (discarded < kLingerBytes && !deadline_.expired()) {
      const auto [read_error, n] = co_await ReadSome(asio::buffer(in_));
      if (read_error) break;
      discarded += n;
    }
  }

  Task<bool> WriteAll(std::string_view first, std::string_view second = {},
                      std::string_view third = {}) {
    if (gone_) co_return false;
    const std::array<asio::const_buffer, 3> buffers{
        asio::buffer(first), asio::buffer(second), asio::buffer(third)};
    deadline_.Arm(limits_.write_time);
    error_code error;
    if (tls_) {
      std::tie(error, std::ignore) = co_await asio::async_write(*tls_, buffers, kAwait);
    } else {
      std::tie(error, std::ignore) = co_await asio::async_write(*socket_, buffers, kAwait);
    }
    deadline_.Disarm();
    if (error) gone_ = closing_ = true;
    co_return !error;
  }

  const std::shared_ptr<HttpServer::Shared> shared_;
  const HttpLimits& limits_;
  HttpServer::Shared::PerLoop& per_loop_;
  const std::string peer_;
  std::optional<Socket> socket_;  // until it moves into tls_
  std::optional<TlsStream> tls_;
  Deadline deadline_;
  std::optional<RequestParser> parser_;
  // [0, used_) belongs to the current request, [used_, filled_) has been received behind it.
  std::string in_;
  size_t used_ = 0;
  size_t filled_ = 0;
  std::string next_;  // received behind a chunked body
  std::string out_;
  bool idle_ = false;
  bool closing_ = false;
  bool gone_ = false;
  bool answered_ = false;
  bool linger_ = false;  // unread input may be on its way
  bool body_read_ = false;
  bool chunked_ = false;
};

bool HttpServer::Shared::Admit(const std::string& peer) {
  absl::MutexLock lock(&mutex);
  if (open >= limits.connections) return false;
  int64_t& own = open_by_peer[peer];
  if (own >= limits.connections_per_address) return false;
  ++open;
  ++own;
  return true;
}

void HttpServer::Shared::Release(const std::string& peer) {
  absl::MutexLock lock(&mutex);
  --open;
  const auto it = open_by_peer.find(peer);
  if (--it->second == 0) open_by_peer.erase(it);
}

void HttpServer::Shared::Serve(PerLoop& per_loop, Socket socket, std::string peer) {
  error_code ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  auto connection = std::make_unique<Connection>(shared_from_this(), per_loop, std::move(socket),
                                                 std::move(peer));
  Connection& running = *connection;
  asio::co_spawn(per_loop.loop->context(), running.Run(),
                 [owned = std::move(connection)](std::exception_ptr failure) {
                   if (!failure) return;
                   try {
                     std::rethrow_exception(failure);
                   } catch (const std::exception& e) {
                     obs::Error("connection_failed", {{"what", e.what()}});
                   }
                 });
}

void HttpServer::Shared::Accept() {
  PerLoop& target = *loops[next_loop++ % loops.size()];
  acceptor->async_accept(
      target.loop->context(),
      [self = shared_from_this(), &target](error_code error, Socket socket) mutable {
        if (self->draining.load() || !self->acceptor) return;
        if (error) {
          // Out of descriptors, most likely: wait until some are back.
          self->accept_backoff->expires_after(std::chrono::milliseconds(50));
          self->accept_backoff->async_wait([self](error_code timer_error) {
            if (!timer_error && self->acceptor) self->Accept();
          });
          return;
        }
        const Tcp::endpoint remote = socket.remote_endpoint(error);
        std::string peer = error ? "" : remote.address().to_string();
        if (!error && self->Admit(peer)) {
          asio::post(target.loop->context(),
                     [self, &target, socket = std::move(socket), peer = std::move(peer)]() mutable {
                       self->Serve(target, std::move(socket), std::move(peer));
                     });
        }
        self->Accept();
      });
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Listen(
    const std::string& address, const HttpLimits& limits,
    const std::vector<std::unique_ptr<IoLoop>>& loops, RequestHandler* handler, ServerTls* tls) {
  const auto refused = [&](std::string_view why) {
    return MakeError(absl::StatusCode::kUnavailable, "CANNOT_LISTEN",
                     absl::StrCat("cannot listen on ", address, ": ", Absl(why)));
  };
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return refused("not HOST:PORT");
  }
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty()) host = "0.0.0.0";
  if (host == "localhost") host = "127.0.0.1";

  auto shared = std::make_shared<Shared>(limits, handler, tls);
  for (size_t i = 0; i < loops.size(); ++i) {
    auto per_loop = std::make_unique<Shared::PerLoop>();
    per_loop->loop = loops[i].get();
    per_loop->index = static_cast<int>(i);
    shared->loops.push_back(std::move(per_loop));
  }
  error_code error;
  const auto ip = asio::ip::make_address(host, error);
  if (error) return refused("not an IP address");
  const Tcp::endpoint endpoint(ip, static_cast<uint16_t>(port));
  shared->acceptor.emplace(loops[0]->context());
  shared->accept_backoff.emplace(loops[0]->context());
  shared->acceptor->open(endpoint.protocol(), error);
  if (!error) shared->acceptor->set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) shared->acceptor->bind(endpoint, error);
  if (!error) shared->acceptor->listen(4096, error);
  if (error) return refused(error.message());
  const Tcp::endpoint bound = shared->acceptor->local_endpoint(error);
  if (error) return refused(error.message());

  auto server = std::unique_ptr<HttpServer>(new HttpServer(std::move(shared)));
  const std::string text = bound.address().to_string();
  server->address_ = absl::StrCat(bound.address().is_v6() ? "[" + text + "]" : text, ":", bound.port());
  return server;
}

HttpServer::~HttpServer() = default;

void HttpServer::Start() {
  asio::post(shared_->loops[0]->loop->context(), [shared = shared_] {
    if (shared->acceptor) shared->Accept();
  });
}

bool HttpServer::Drain(absl::Duration timeout) {
  shared_->draining.store(true);
  asio::post(shared_->loops[0]->loop->context(), [shared = shared_] {
    shared->acceptor.reset();
    shared->accept_backoff.reset();
    absl::MutexLock lock(&shared->mutex);
    shared->accepting = false;
  });
  for (const auto& per_loop : shared_->loops) {
    asio::post(per_loop->loop->context(), [shared = shared_, loop = per_loop.get()] {
      for (Drainable& connection : loop->connections) connection.DrainIfIdle();
    });
  }
  absl::MutexLock lock(&shared_->mutex);
  return shared_->mutex.AwaitWithTimeout(
      absl::Condition(
          +[](Shared* shared) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared->mutex) {
            return shared->open == 0 && !shared->accepting;
          },
          shared_.get()),
      timeout);
}

int64_t HttpServer::connections() const {
  absl::MutexLock lock(&shared_->mutex);
  return shared_->open;
}

}  // namespace tollhouse::edge
