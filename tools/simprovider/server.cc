#include "tools/simprovider/server.h"

#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"

namespace tollhouse::simprovider {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::ip::tcp;
using TlsStream = asio::ssl::stream<tcp::socket>;

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr size_t kMaxBody = 256u << 20;
// What a client may send ahead while an answer is on its way; beyond it, its end goes unnoticed
// until a write fails.
constexpr size_t kMaxSentAhead = 64u << 10;

std::chrono::nanoseconds ToChrono(absl::Duration duration) {
  return std::chrono::nanoseconds(absl::ToInt64Nanoseconds(duration));
}

// Stream is tcp::socket or TlsStream.
template <typename Stream>
class Connection : public Wire {
 public:
  Connection(Stream stream, Service& service) : stream_(std::move(stream)), service_(service) {}

  awaitable<void> Run() {
    boost::system::error_code ignored;
    stream_.lowest_layer().set_option(tcp::no_delay(true), ignored);
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      const auto [error] =
          co_await stream_.async_handshake(asio::ssl::stream_base::server, kNoThrow);
      if (error) co_return;
    }
    bool keep = true;
    while (keep) {
      http::request_parser<http::string_body> parser;
      parser.body_limit(kMaxBody);
      parser.header_limit(64u << 10);
      const auto [head_error, head_bytes] =
          co_await http::async_read_header(stream_, buffer_, parser, kNoThrow);
      if (!head_error && !parser.is_done() && parser.get()[http::field::expect] == "100-continue" &&
          !co_await Write("HTTP/1.1 100 Continue\r\n\r\n")) {
        co_return;
      }
      boost::system::error_code error = head_error;
      if (!error && !parser.is_done()) {
        const auto [body_error, body_bytes] =
            co_await http::async_read(stream_, buffer_, parser, kNoThrow);
        error = body_error;
      }
      if (error) {
        if (error.category() == http::make_error_code(http::error::end_of_stream).category() &&
            error != http::error::end_of_stream && error != http::error::partial_message) {
          const std::string_view status =
              error == http::error::body_limit ? "413 Content Too Large" : "400 Bad Request";
          const std::string response = absl::StrCat(
              "HTTP/1.1 ", Absl(status), "\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
          co_await Write(response);
        }
        break;
      }
      const bool keep_alive = parser.keep_alive();
      const HttpRequest request = ToRequest(parser.release());
      keep = co_await service_.Handle(request, *this) && keep_alive;
    }
    stream_.lowest_layer().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.lowest_layer().close(ignored);
  }

  awaitable<bool> Write(std::string_view bytes) override {
    const auto [error, written] =
        co_await asio::async_write(stream_, asio::buffer(bytes.data(), bytes.size()), kNoThrow);
    if (error) gone_ = true;
    co_return !error;
  }

  awaitable<bool> Pause(absl::Duration duration) override {
    using asio::experimental::awaitable_operators::operator||;
    asio::steady_timer timer(co_await asio::this_coro::executor, ToChrono(duration));
    while (!gone_) {
      if (buffer_.size() >= kMaxSentAhead) {
        co_await timer.async_wait(kNoThrow);
        break;
      }
      const auto result = co_await (timer.async_wait(kNoThrow) ||
                                    stream_.async_read_some(buffer_.prepare(4096), kNoThrow));
      if (result.index() == 0) break;
      const auto& [error, bytes] = std::get<1>(result);
      buffer_.commit(bytes);
      if (error) gone_ = true;
    }
    co_return !gone_;
  }

  bool Gone() override {
    if (gone_) return true;
    char byte;
    const ssize_t got =
        recv(stream_.lowest_layer().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    gone_ = got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
    return gone_;
  }

 private:
  static HttpRequest ToRequest(http::request<http::string_body> message) {
    HttpRequest request;
    request.method = std::string(message.method_string());
    const std::string_view target(message.target().data(), message.target().size());
    const size_t question = target.find('?');
    request.path = target.substr(0, question);
    if (question != std::string_view::npos) request.query = target.substr(question + 1);
    request.authorization = std::string(message[http::field::authorization]);
    request.x_api_key = std::string(message["x-api-key"]);
    request.x_goog_api_key = std::string(message["x-goog-api-key"]);
    request.anthropic_version = std::string(message["anthropic-version"]);
    request.hold_id = std::string(message["x-tollhouse-hold-id"]);
    request.body = std::move(message.body());
    return request;
  }

  Stream stream_;
  Service& service_;
  boost::beast::flat_buffer buffer_;
  bool gone_ = false;
};

template <typename Stream>
awaitable<void> RunConnection(Stream stream, Service& service) {
  Connection<Stream> connection(std::move(stream), service);
  co_await connection.Run();
}

void LogFailure(std::exception_ptr failure) {
  if (failure == nullptr) return;
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tollhouse-simprovider: a connection failed: %s\n", error.what());
  }
}

awaitable<void> Accept(tcp::acceptor& acceptor, asio::ssl::context* tls, Service& service) {
  const auto executor = co_await asio::this_coro::executor;
  while (acceptor.is_open()) {
    auto [error, socket] = co_await acceptor.async_accept(kNoThrow);
    if (error == asio::error::operation_aborted) co_return;
    if (error) {
      // Out of descriptors, most likely: let some connections end first.
      asio::steady_timer timer(executor, std::chrono::milliseconds(10));
      co_await timer.async_wait(kNoThrow);
    } else if (tls != nullptr) {
      asio::co_spawn(executor, RunConnection(TlsStream(std::move(socket), *tls), service),
                     LogFailure);
    } else {
      asio::co_spawn(executor, RunConnection(std::move(socket), service), LogFailure);
    }
  }
}

absl::StatusOr<tcp::endpoint> ParseListen(std::string_view listen) {
  const size_t colon = listen.rfind(':');
  boost::system::error_code error;
  uint32_t port = 0;
  if (colon == std::string_view::npos || !absl::SimpleAtoi(Absl(listen.substr(colon + 1)), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError("--listen: use ADDRESS:PORT, like 127.0.0.1:0");
  }
  std::string host(listen.substr(0, colon));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (error) return absl::InvalidArgumentError("--listen: the address is not an IP address");
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

absl::Status WriteWhole(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << text;
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Serve(const ServerOptions& options, Service& service) try {
  const absl::StatusOr<tcp::endpoint> wanted = ParseListen(options.listen);
  if (!wanted.ok()) return wanted.status();
  asio::io_context context(1);
  std::optional<asio::ssl::context> tls;
  if (!options.tls_cert_file.empty()) {
    tls.emplace(asio::ssl::context::tls_server);
    tls->use_certificate_chain_file(options.tls_cert_file);
    tls->use_private_key_file(options.tls_key_file, asio::ssl::context::pem);
  }
  tcp::acceptor acceptor(context);
  acceptor.open(wanted->protocol());
  acceptor.set_option(tcp::acceptor::reuse_address(true));
  acceptor.bind(*wanted);
  acceptor.listen(4096);
  asio::co_spawn(context, Accept(acceptor, tls ? &*tls : nullptr, service), LogFailure);

  asio::signal_set signals(context, SIGTERM, SIGINT);
  signals.async_wait([&](const boost::system::error_code&, int) {
    acceptor.close();
    service.meter().EndAll();
    context.stop();
  });

  const tcp::endpoint bound = acceptor.local_endpoint();
  const std::string host = bound.address().is_v6()
                               ? absl::StrCat("[", bound.address().to_string(), "]")
                               : bound.address().to_string();
  const std::string address = absl::StrCat(host, ":", bound.port());
  const std::string ready = absl::StrCat("{\"listen\":\"", address, "\",\"url\":\"",
                                         tls ? "https" : "http", "://", address, "\"}\n");
  if (!options.endpoint_file.empty()) {
    const absl::Status written = WriteWhole(options.endpoint_file, ready);
    if (!written.ok()) return written;
  }
  std::fputs(ready.c_str(), stdout);
  std::fflush(stdout);
  context.run();
  return absl::OkStatus();
} catch (const boost::system::system_error& error) {
  return absl::UnavailableError(
      absl::StrCat("cannot serve on ", options.listen, ": ", error.code().message()));
}

}  // namespace tollhouse::simprovider
