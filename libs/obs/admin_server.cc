#include "libs/obs/admin_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libs/obs/metrics.h"

namespace tollhouse::obs {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;

constexpr auto kDeadline = std::chrono::seconds(5);

http::response<http::string_body> Answer(const http::request<http::empty_body>& request,
                                         const std::function<std::string()>& ready) {
  http::response<http::string_body> response(http::status::ok, 11);
  response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
  if (request.target() == "/healthz") {
    response.body() = "ok\n";
  } else if (request.target() == "/readyz") {
    const std::string reason = ready();
    if (!reason.empty()) response.result(http::status::service_unavailable);
    response.body() = reason.empty() ? "ready\n" : "not ready: " + reason + "\n";
  } else if (request.target() == "/metrics") {
    response.body() = RenderMetrics();
  } else {
    response.result(http::status::not_found);
    response.body() = "there are /healthz, /readyz and /metrics\n";
  }
  response.keep_alive(false);
  response.prepare_payload();
  return response;
}

// One connection: a request, its answer, closed. Keeps itself alive.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, const std::function<std::string()>& ready)
      : stream_(std::move(socket)), ready_(ready) {}

  void Run() {
    stream_.expires_after(kDeadline);
    http::async_read(stream_, buffer_, request_,
                     [self = shared_from_this()](beast::error_code error, size_t) {
                       if (!error) self->Write();
                     });
  }

 private:
  void Write() {
    response_ = Answer(request_, ready_);
    http::async_write(stream_, response_, [self = shared_from_this()](beast::error_code, size_t) {
      beast::error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    });
  }

  beast::tcp_stream stream_;
  const std::function<std::string()>& ready_;
  beast::flat_buffer buffer_{16384};
  http::request<http::empty_body> request_;
  http::response<http::string_body> response_;
};

}  // namespace

struct AdminServer::Impl {
  explicit Impl(std::function<std::string()> r) : ready(std::move(r)) {}

  void Accept() {
    acceptor.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error) std::make_shared<Session>(std::move(socket), ready)->Run();
      Accept();
    });
  }

  std::function<std::string()> ready;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  std::thread thread;
};

AdminServer::AdminServer() = default;

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& listen,
                                                                std::function<std::string()> ready) {
  const size_t colon = listen.rfind(':');
  beast::error_code error;
  unsigned port = 0;
  const auto address = asio::ip::make_address(listen.substr(0, colon), error);
  if (error || colon == std::string::npos || sscanf(listen.c_str() + colon + 1, "%u", &port) != 1 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("not an address to listen on: ", listen));
  }
  std::unique_ptr<AdminServer> server(new AdminServer);
  server->impl_ = std::make_unique<Impl>(std::move(ready));
  tcp::acceptor& acceptor = server->impl_->acceptor;
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(port));
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", listen, ": ", error.message()));
  }
  server->address_ = absl::StrCat(listen.substr(0, colon), ":", acceptor.local_endpoint().port());
  server->impl_->Accept();
  server->impl_->thread = std::thread([impl = server->impl_.get()] { impl->io.run(); });
  return server;
}

AdminServer::~AdminServer() {
  if (impl_ == nullptr || !impl_->thread.joinable()) return;
  impl_->io.stop();
  impl_->thread.join();
}

}  // namespace tollhouse::obs
