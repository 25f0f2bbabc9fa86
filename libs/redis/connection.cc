#include "libs/redis/connection.h"

#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/write.hpp>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/redis/command.h"
#include "libs/redis/errors.h"
#include "libs/redis/metrics.h"

namespace tollhouse::redis {
namespace {

constexpr size_t kReadBuffer = 64 << 10;
// The parser moves its rest after every kilobyte it has consumed: small portions keep that cheap.
constexpr size_t kFeed = 8 << 10;
// Memory that is kept for the next batch.
constexpr size_t kKeptBatches = 64;
constexpr size_t kKeptBytes = 1 << 20;

// A sequence of buffers that costs nothing to copy; the buffers live as long as the write.
struct BufferView {
  using value_type = asio::const_buffer;
  using const_iterator = const asio::const_buffer*;
  const_iterator first, last;
  const_iterator begin() const { return first; }
  const_iterator end() const { return last; }
};

absl::Status TlsError(std::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "REDIS_TLS", what);
}

// The content of a secret's file without the newline that editors leave.
absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) {
    return MakeError(absl::StatusCode::kUnauthenticated, "REDIS_DENIED",
                     absl::StrCat("the password file ", path, " cannot be read"));
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<asio::ssl::context>> MakeTlsContext(const Options& options) {
  auto context = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  context->set_verify_mode(asio::ssl::verify_peer);
  error_code error;
  if (options.tls_ca_file.empty()) {
    context->set_default_verify_paths(error);
  } else {
    context->load_verify_file(options.tls_ca_file, error);
  }
  if (error) {
    return TlsError(absl::StrCat("the authorities in ", options.tls_ca_file, " cannot be used: ",
                                 error.message()));
  }
  if (options.tls_certificate_file.empty() != options.tls_key_file.empty()) {
    return TlsError("a client certificate and its key are given together");
  }
  if (!options.tls_certificate_file.empty()) {
    context->use_certificate_chain_file(options.tls_certificate_file, error);
    if (error) {
      return TlsError(absl::StrCat("the certificate in ", options.tls_certificate_file,
                                   " cannot be used: ", error.message()));
    }
    context->use_private_key_file(options.tls_key_file, asio::ssl::context::pem, error);
    if (error) {
      return TlsError(absl::StrCat("the key in ", options.tls_key_file, " cannot be used: ",
                                   error.message()));
    }
  }
  return context;
}

Connection::Connection(asio::io_context& io, const Options& options, Address address)
    : io_(io),
      options_(options),
      address_(std::move(address)),
      socket_(io),
      buffer_(kReadBuffer),
      reader_(options.max_reply_bytes) {}

Connection::~Connection() = default;

Task<absl::StatusOr<std::shared_ptr<Connection>>> Connection::Open(asio::io_context& io,
                                                                   const Options& options,
                                                                   const Endpoints& endpoints,
                                                                   Address address, Server server) {
  std::shared_ptr<Connection> connection(new Connection(io, options, std::move(address)));
  Timer timeout(io);
  timeout.expires_after(absl::ToChronoNanoseconds(options.connect_timeout));
  timeout.async_wait([connection](error_code error) {
    if (!error) connection->Close(NotExecuted("no connection within the connect timeout"));
  });
  absl::Status status = co_await connection->Connect(endpoints, server);
  timeout.cancel();
  if (!connection->open()) status = connection->why_closed();
  if (!status.ok()) {
    connection->Close(status);
    std::string reason = ReasonOf(status);
    co_return MakeError(status.code(), reason.empty() ? "REDIS_UNAVAILABLE" : reason,
                        absl::StrCat(connection->address_.ToString(), ": ", status.message()),
                        MetadataOf(status));
  }
  co_return connection;
}

Task<absl::Status> Connection::Connect(const Endpoints& endpoints, Server server) {
  std::vector<Tcp::endpoint> candidates;
  error_code parse_error;
  const auto literal = asio::ip::make_address(address_.host, parse_error);
  if (!parse_error) {
    candidates.emplace_back(literal, address_.port);
  } else {
    asio::ip::basic_resolver<Tcp, Executor> resolver(io_);
    const std::string service = std::to_string(address_.port);
    auto [error, results] = co_await resolver.async_resolve(address_.host, service, kAwait);
    if (error) co_return NotExecuted(absl::StrCat("the host has no address: ", error.message()));
    for (const auto& result : results) candidates.push_back(result.endpoint());
  }
  error_code connect_error = asio::error::host_not_found;
  for (const Tcp::endpoint& candidate : candidates) {
    if (closed_) co_return why_;
    error_code ignored;
    socket_.close(ignored);
    auto [error] = co_await socket_.async_connect(candidate, kAwait);
    connect_error = error;
    if (!error) break;
  }
  if (closed_) co_return why_;
  if (connect_error) co_return NotExecuted(absl::StrCat("no connection: ", connect_error.message()));
  error_code ignored;
  socket_.set_option(Tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);

  if (endpoints.tls) {
    auto context = MakeTlsContext(options_);
    if (!context.ok()) co_return context.status();
    tls_context_ = *std::move(context);
    tls_.emplace(socket_, *tls_context_);
    const std::string& name =
        options_.tls_server_name.empty() ? address_.host : options_.tls_server_name;
    tls_->set_verify_callback(asio::ssl::host_name_verification(name));
    error_code not_literal;
    asio::ip::make_address(name, not_literal);
    if (not_literal) SSL_set_tlsext_host_name(tls_->native_handle(), name.c_str());
    auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::client, kAwait);
    if (closed_) co_return why_;
    if (error) {
      const long verified = SSL_get_verify_result(tls_->native_handle());
      co_return NotExecuted(absl::StrCat(
          "TLS failed: ", error.message(),
          verified == X509_V_OK ? ""
                                : absl::StrCat(" (", X509_verify_cert_error_string(verified), ")")));
    }
  }
  Read();
  const std::string& password_file = server == Server::kSentinel ? options_.sentinel_password_file
                                                                 : options_.password_file;
  if (!password_file.empty()) co_return co_await Authenticate(endpoints, password_file);
  co_return absl::OkStatus();
}

Task<absl::Status> Connection::Authenticate(const Endpoints& endpoints,
                                            const std::string& password_file) {
  absl::StatusOr<std::string> password = ReadSecret(password_file);
  if (!password.ok()) co_return password.status();
  Commands commands(1);
  commands[0].push_back("AUTH");
  if (!endpoints.user.empty()) commands[0].push_back(endpoints.user);
  commands[0].push_back(*std::move(password));
  absl::StatusOr<std::vector<Reply>> replies =
      co_await Ask(std::move(commands), options_.connect_timeout);
  if (!replies.ok()) co_return replies.status();
  const Reply& reply = replies->front();
  if (reply.type() != Value::Type::kError) co_return absl::OkStatus();
  if (ErrorCode(reply.text()) == "ERR") {
    co_return MakeError(absl::StatusCode::kUnauthenticated, "REDIS_DENIED",
                        absl::StrCat("the password was refused: ", Absl(reply.text())));
  }
  co_return FromRedisError(reply.text());
}

Task<absl::StatusOr<std::vector<Reply>>> Connection::Ask(Commands commands,
                                                         absl::Duration timeout) {
  struct State {
    explicit State(asio::io_context& io) : done(io) {}
    Event done;
    std::vector<Reply> replies;
    absl::Status status;
  };
  if (closed_) co_return why_;
  const auto self = shared_from_this();
  const auto state = std::make_shared<State>(io_);
  const size_t count = commands.size();
  auto batch = std::make_unique<Batch>();
  for (std::vector<std::string>& command : commands) {
    const std::vector<std::string_view> args(command.begin(), command.end());
    Call& call = batch->calls.emplace_back();
    call.begin = call.command = static_cast<uint32_t>(batch->bytes.size());
    AppendCommand(args, &batch->bytes);
    call.end = static_cast<uint32_t>(batch->bytes.size());
    call.deadline = kNever;
    call.raw = true;
    call.done = [state, count](absl::StatusOr<Reply> reply) {
      if (!reply.ok()) {
        state->status = reply.status();
      } else {
        state->replies.push_back(*std::move(reply));
      }
      if (!reply.ok() || state->replies.size() == count) state->done.Set();
    };
    if (command[0] == "AUTH") {
      batch->secret = true;
      OPENSSL_cleanse(command.back().data(), command.back().size());
    }
  }
  std::vector<BatchPtr> batches;
  batches.push_back(std::move(batch));
  Send(batches);
  const bool answered = co_await state->done.Wait(timeout);
  if (!answered) co_return TimedOut(absl::StrCat("no answer within ", absl::FormatDuration(timeout)));
  if (!state->status.ok()) co_return state->status;
  co_return std::move(state->replies);
}

void Connection::Send(std::vector<BatchPtr>& batches) {
  for (BatchPtr& batch : batches) {
    in_flight_ += batch->calls.size();
    outbox_.push_back(std::move(batch));
  }
  batches.clear();
  if (!writing_ && open()) Write();
  if (!open()) Close(why_);
}

void Connection::Write() {
  gathered_.clear();
  for (BatchPtr& batch : outbox_) {
    gathered_.emplace_back(batch->bytes.data(), batch->bytes.size());
    sent_.push_back(std::move(batch));
  }
  outbox_.clear();
  writing_ = true;
  auto written = [self = shared_from_this()](error_code error, size_t) { self->OnWritten(error); };
  const BufferView buffers{gathered_.data(), gathered_.data() + gathered_.size()};
  if (tls_) {
    asio::async_write(*tls_, buffers, std::move(written));
  } else {
    asio::async_write(socket_, buffers, std::move(written));
  }
}

void Connection::OnWritten(error_code error) {
  writing_ = false;
  if (closed_) {
    for (BatchPtr& batch : sent_) Recycle(std::move(batch));
    sent_.clear();
    return;
  }
  if (error) return Close(Broken(absl::StrCat("writing failed: ", error.message())));
  // Batches that were answered before the write was known to have ended.
  while (!sent_.empty() && sent_.front()->next == sent_.front()->calls.size()) {
    Recycle(std::move(sent_.front()));
    sent_.pop_front();
  }
  if (!outbox_.empty()) Write();
  if (handler_ != nullptr) handler_->OnProgress();
}

void Connection::Read() {
  auto read = [self = shared_from_this()](error_code error, size_t size) {
    self->OnRead(error, size);
  };
  if (tls_) {
    tls_->async_read_some(asio::buffer(buffer_), std::move(read));
  } else {
    socket_.async_read_some(asio::buffer(buffer_), std::move(read));
  }
}

void Connection::OnRead(error_code error, size_t size) {
  if (closed_) return;
  handling_ = true;
  for (size_t fed = 0; fed < size && !closed_; fed += kFeed) {
    reader_.Feed({buffer_.data() + fed, std::min(kFeed, size - fed)});
    HandleReplies();
  }
  handling_ = false;
  if (closed_) return;
  if (error) {
    return Close(Broken(error == asio::error::eof ? std::string("Redis closed the connection")
                                                  : absl::StrCat("reading failed: ", error.message())));
  }
  Read();
  if (handler_ != nullptr) handler_->OnProgress();
}

void Connection::HandleReplies() {
  while (!closed_) {
    absl::StatusOr<std::optional<Reply>> next = reader_.Next();
    if (!next.ok()) return Close(Broken(Std(next.status().message())));
    if (!next->has_value()) return;
    ++replies_;
    // A batch that is fully answered stays in front until its write has ended.
    size_t answered = 0;
    while (answered < sent_.size() && sent_[answered]->next == sent_[answered]->calls.size()) {
      ++answered;
    }
    if (answered == sent_.size()) return Close(Broken("Redis answered what nobody asked"));
    Batch& batch = *sent_[answered];
    Call& call = batch.calls[batch.next];
    if (call.skip > 0) {
      --call.skip;
      continue;
    }
    ++batch.next;
    --in_flight_;
    if (call.done) {
      if (call.raw || handler_ == nullptr) {
        std::exchange(call.done, nullptr)(**std::move(next));
      } else {
        handler_->OnReply(call, batch.Command(call), **std::move(next));
      }
    }
    while (!writing_ && !sent_.empty() && sent_.front()->next == sent_.front()->calls.size()) {
      Recycle(std::move(sent_.front()));
      sent_.pop_front();
    }
  }
}

void Connection::Recycle(BatchPtr batch) {
  if (batch->secret) OPENSSL_cleanse(batch->bytes.data(), batch->bytes.size());
  if (spent_.size() >= kKeptBatches || batch->bytes.capacity() > kKeptBytes) return;
  batch->bytes.clear();
  batch->calls.clear();
  batch->next = 0;
  batch->secret = batch->has_dead = false;
  spent_.push_back(std::move(batch));
}

void Connection::Close(absl::Status why) {
  const bool first = !closed_;
  if (first) {
    closed_ = true;
    why_ = std::move(why);
    error_code ignored;
    socket_.close(ignored);
  }
  const absl::Status broken =
      Broken(absl::StrCat("the connection to ", address_.ToString(), " ended: ", why_.message()));
  // A call may close, so calls are taken one by one. The bytes stay where a write may read them.
  for (size_t i = 0; i < sent_.size(); ++i) {
    Batch& batch = *sent_[i];
    while (batch.next < batch.calls.size()) {
      Call& call = batch.calls[batch.next++];
      --in_flight_;
      if (!call.done) continue;
      if (!call.raw) Metrics::Get().unknown.Increment();
      std::exchange(call.done, nullptr)(broken);
    }
  }
  std::vector<BatchPtr> unsent = std::move(outbox_);
  outbox_.clear();
  for (BatchPtr& batch : unsent) {
    for (Call& call : batch->calls) {
      --in_flight_;
      if (call.done) std::exchange(call.done, nullptr)(why_);
    }
  }
  if (!first) return;
  if (!writing_ && !handling_) sent_.clear();
  if (handler_ != nullptr) std::exchange(handler_, nullptr)->OnClosed(why_);
}

int64_t Connection::Expire(int64_t now) {
  int64_t earliest = kNever;
  for (size_t i = 0; i < sent_.size(); ++i) {
    Batch& batch = *sent_[i];
    for (size_t j = batch.next; j < batch.calls.size(); ++j) {
      Call& call = batch.calls[j];
      if (!call.done) continue;
      if (call.deadline > now) {
        earliest = std::min(earliest, call.deadline);
        continue;
      }
      Metrics::Get().unknown.Increment();
      std::exchange(call.done, nullptr)(
          TimedOut("no answer before the deadline; the call may have been executed, or may yet be"));
      if (closed_) return kNever;
    }
  }
  return earliest;
}

}  // namespace tollhouse::redis
