#include "services/edge/upstream.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/policy/base_url.h"
#include "services/edge/io_buffer.h"
#include "services/edge/tls_stream.h"

namespace tollhouse::edge {
namespace {

using Resolver = asio::ip::basic_resolver<Tcp, Executor>;

absl::Status Unavailable(std::string_view reason, std::string_view message) {
  return MakeError(absl::StatusCode::kUnavailable, reason, message);
}

bool InPrefix(const asio::ip::address_v4& address, uint32_t network, int bits) {
  return (address.to_uint() >> (32 - bits)) == (network >> (32 - bits));
}

bool IsPublicV4(const asio::ip::address_v4& address) {
  struct Network {
    uint32_t address;
    int bits;
  };
  // IANA special-purpose registry (RFC 6890 and updates).
  static constexpr Network kSpecial[] = {
      {0x00000000, 8},  {0x0A000000, 8},  {0x64400000, 10}, {0x7F000000, 8},  {0xA9FE0000, 16},
      {0xAC100000, 12}, {0xC0000000, 24}, {0xC0000200, 24}, {0xC0586300, 24}, {0xC0A80000, 16},
      {0xC6120000, 15}, {0xC6336400, 24}, {0xCB007100, 24}, {0xE0000000, 4},  {0xF0000000, 4}};
  return std::none_of(std::begin(kSpecial), std::end(kSpecial), [&](const Network& network) {
    return InPrefix(address, network.address, network.bits);
  });
}

bool IsLiteral(const std::string& host, asio::ip::address* address) {
  error_code error;
  *address = asio::ip::make_address(host, error);
  return !error;
}

bool NoProxyFor(const std::string& no_proxy, const Origin& origin) {
  const std::string host = absl::AsciiStrToLower(origin.host);
  for (absl::string_view item : absl::StrSplit(no_proxy, ',')) {
    item = absl::StripAsciiWhitespace(item);
    if (item.empty()) continue;
    if (item == "*") return true;
    std::string name = absl::AsciiStrToLower(item);
    const size_t colon = name.rfind(':');
    if (colon != std::string::npos && std::count(name.begin(), name.end(), ':') == 1) {
      if (name.substr(colon + 1) != absl::StrCat(origin.port)) continue;
      name.resize(colon);
    }
    if (name.starts_with("*.")) name.erase(0, 1);
    if (host == name || host == absl::StripPrefix(name, ".")) return true;
    const std::string suffix = name.starts_with('.') ? name : "." + name;
    asio::ip::address literal;
    if (!IsLiteral(host, &literal) && host.ends_with(suffix)) return true;
  }
  return false;
}

}  // namespace

std::string Origin::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return absl::StrCat(tls ? "https://" : "http://", v6 ? "[" : "", host, v6 ? "]" : "", ":", port);
}

std::string Origin::HostHeader() const {
  const bool v6 = host.find(':') != std::string::npos;
  std::string text = v6 ? absl::StrCat("[", host, "]") : host;
  if (port != (tls ? 443 : 80)) absl::StrAppend(&text, ":", port);
  return text;
}

bool IsPublicAddress(const asio::ip::address& address) {
  if (address.is_v4()) return IsPublicV4(address.to_v4());
  const asio::ip::address_v6 v6 = address.to_v6();
  const auto bytes = v6.to_bytes();
  const auto embedded = [&](int at) {
    return asio::ip::address_v4((uint32_t{bytes[at]} << 24) | (uint32_t{bytes[at + 1]} << 16) |
                                (uint32_t{bytes[at + 2]} << 8) | bytes[at + 3]);
  };
  if (v6.is_v4_mapped()) return IsPublicV4(embedded(12));
  static constexpr uint8_t kNat64[12] = {0x00, 0x64, 0xff, 0x9b};
  if (std::equal(std::begin(kNat64), std::end(kNat64), bytes.begin())) {
    return IsPublicV4(embedded(12));
  }
  if (bytes[0] == 0x20 && bytes[1] == 0x02) return IsPublicV4(embedded(2));  // 6to4
  // Of the rest only 2000::/3 is global unicast, but for Teredo, ORCHID and documentation.
  if ((bytes[0] & 0xe0) != 0x20) return false;
  if (bytes[0] == 0x20 && bytes[1] == 0x01 && bytes[2] < 0x02) return false;  // 2001::/23
  if (bytes[0] == 0x20 && bytes[1] == 0x01 && bytes[2] == 0x0d && bytes[3] == 0xb8) return false;
  return true;
}

void ApplyProxyEnvironment(UpstreamOptions* options) {
  const auto get = [](const char* upper, const char* lower) -> std::string {
    const char* value = std::getenv(upper);
    if (value == nullptr || *value == '\0') value = std::getenv(lower);
    return value == nullptr ? "" : value;
  };
  options->https_proxy = get("HTTPS_PROXY", "https_proxy");
  options->no_proxy = get("NO_PROXY", "no_proxy");
}

// --- one connection ------------------------------------------------------------------------------

struct UpstreamConnection::Transport {
  Transport(IoLoop& loop, const Origin& o, Socket s)
      : origin(o), socket(std::move(s)), deadline(loop.deadlines(), [this] { Cancel(); }) {}

  Socket& Lowest() { return tls ? tls->next_layer() : *socket; }
  void Cancel() {
    error_code ignored;
    Lowest().cancel(ignored);
  }

  const Origin origin;
  std::optional<Socket> socket;  // until it moves into `tls`
  std::optional<TlsStream> tls;
  Deadline deadline;
};

UpstreamConnection::UpstreamConnection(std::unique_ptr<Transport> transport)
    : transport_(std::move(transport)) {}
UpstreamConnection::~UpstreamConnection() = default;

const Origin& UpstreamConnection::origin() const { return transport_->origin; }

Task<UpstreamConnection::Io> UpstreamConnection::Write(std::string_view head, std::string_view body,
                                                       absl::Duration timeout) {
  Transport& t = *transport_;
  Io io;
  // A body of 32 MiB may take longer than one of 2 KiB: the deadline is per piece.
  constexpr size_t kPiece = 256 << 10;
  std::string_view rest = body;
  bool first = true;
  do {
    const std::string_view piece = rest.substr(0, kPiece);
    rest.remove_prefix(piece.size());
    const std::array buffers{asio::buffer(first ? head : std::string_view()), asio::buffer(piece)};
    first = false;
    t.deadline.Arm(timeout);
    error_code error;
    size_t n = 0;
    if (t.tls) {
      std::tie(error, n) = co_await asio::async_write(*t.tls, buffers, kAwait);
    } else {
      std::tie(error, n) = co_await asio::async_write(*t.socket, buffers, kAwait);
    }
    io.bytes += n;
    io.error = error;
    io.timed_out = t.deadline.expired();
    t.deadline.Disarm();
  } while (!io.error && !rest.empty());
  co_return io;
}

Task<UpstreamConnection::Io> UpstreamConnection::ReadSome(char* data, size_t size,
                                                          absl::Duration timeout) {
  Transport& t = *transport_;
  Io io;
  t.deadline.Arm(timeout);
  if (t.tls) {
    std::tie(io.error, io.bytes) =
        co_await t.tls->async_read_some(asio::buffer(data, size), kAwait);
  } else {
    std::tie(io.error, io.bytes) =
        co_await t.socket->async_read_some(asio::buffer(data, size), kAwait);
  }
  io.timed_out = t.deadline.expired();
  t.deadline.Disarm();
  // A provider that ends a TLS connection without close_notify ends it all the same; whether the
  // answer was whole is told by its own framing.
  if (io.error == asio::error::eof || io.error == asio::ssl::error::stream_truncated) {
    io.error = {};
    io.bytes = 0;
  }
  co_return io;
}

namespace {

// Reads a plain socket while a stream comes along, past Asio: one system call per piece.
class Pump final : public Readiness::Watch {
 public:
  using Take = absl::FunctionRef<bool(std::string_view)>;
  using Idle = absl::FunctionRef<absl::Duration()>;

  Pump(IoLoop& loop, Socket& socket, Take take, Idle idle)
      : loop_(loop),
        socket_(socket),
        take_(take),
        idle_(idle),
        done_(loop.context(), std::chrono::steady_clock::time_point::max()),
        deadline_(loop.deadlines(), [this] { TimeOut(); }) {}
  ~Pump() {
    if (fd_ < 0) return;  // else: destroyed while it waits
    loop_.readiness().Remove(fd_);
    close(fd_);
  }

  Task<UpstreamConnection::Io> Run() {
    const Tcp::endpoint local = socket_.local_endpoint(io_.error);
    if (!io_.error) fd_ = socket_.release(io_.error);
    if (io_.error) co_return io_;
    deadline_.Arm(idle_());
    if (loop_.readiness().Add(fd_, this)) {
      waiting_ = true;
      co_await done_.async_wait(kAwait);
      loop_.readiness().Remove(fd_);
    } else {
      io_.error = asio::error::no_memory;
    }
    deadline_.Disarm();
    error_code failed;
    socket_.assign(local.protocol(), fd_, failed);
    if (!failed) fd_ = -1;
    if (failure_) std::rethrow_exception(failure_);
    if (failed) io_.error = failed;
    co_return io_;
  }

  void OnReadable(bool closed) override {
    while (waiting_) {
      const ssize_t n = recv(fd_, loop_.readiness().buffer(), Readiness::kBufferBytes, MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (n < 0) io_.error = error_code(errno, boost::system::system_category());
      io_.bytes = n > 0 ? static_cast<size_t>(n) : 0;
      if (n <= 0 || !Give(io_.bytes)) {
        End();
        return;
      }
      // A short read has taken all there was; what comes later is told again.
      if (!closed && static_cast<size_t>(n) < Readiness::kBufferBytes) return;
    }
  }

 private:
  bool Give(size_t bytes) {
    try {
      if (!take_({loop_.readiness().buffer(), bytes})) return false;
      deadline_.Arm(idle_());
      return true;
    } catch (...) {
      failure_ = std::current_exception();
      return false;
    }
  }
  void TimeOut() {
    if (!waiting_) return;
    io_.timed_out = true;
    io_.bytes = 0;
    End();
  }
  void End() {
    waiting_ = false;
    done_.cancel();
  }

  IoLoop& loop_;
  Socket& socket_;
  const Take take_;
  const Idle idle_;
  Timer done_;
  Deadline deadline_;
  UpstreamConnection::Io io_;
  std::exception_ptr failure_;
  int fd_ = -1;
  bool waiting_ = false;
};

}  // namespace

Task<UpstreamConnection::Io> UpstreamConnection::ReadStream(
    IoLoop& loop, absl::FunctionRef<bool(std::string_view)> take,
    absl::FunctionRef<absl::Duration()> idle) {
  if (!transport_->tls) {
    Pump pump(loop, *transport_->socket, take, idle);
    co_return co_await pump.Run();
  }
  IoBuffer buffer;
  for (;;) {
    const absl::Duration wait = idle();
    const Io io = co_await ReadSome(buffer.data(), buffer.size(), wait);
    if (io.error || io.timed_out || io.bytes == 0 || !take(buffer.view(io.bytes))) co_return io;
  }
}

bool UpstreamConnection::Stale() {
  char byte;
  const ssize_t n = recv(transport_->Lowest().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0) return errno != EAGAIN && errno != EWOULDBLOCK;
  // TLS sessions may leave a ticket unread; any data between exchanges is reason enough to drop.
  return true;
}

// --- the pool ------------------------------------------------------------------------------------

struct UpstreamPool::TlsContexts {
  absl::StatusOr<asio::ssl::context*> For(const std::string& ca_file) {
    std::unique_ptr<asio::ssl::context>& context = by_ca_file[ca_file];
    if (context != nullptr) return context.get();
    auto made = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
    SSL_CTX_set_min_proto_version(made->native_handle(), TLS1_2_VERSION);
    static constexpr unsigned char kAlpn[] = "\x08http/1.1";
    SSL_CTX_set_alpn_protos(made->native_handle(), kAlpn, sizeof kAlpn - 1);
    error_code error;
    made->set_verify_mode(asio::ssl::verify_peer, error);
    if (!error) {
      if (ca_file.empty()) {
        made->set_default_verify_paths(error);
      } else {
        made->load_verify_file(ca_file, error);
      }
    }
    if (error) {
      by_ca_file.erase(ca_file);
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_CA_FILE",
                       absl::StrCat("cannot read certificates of ",
                                    ca_file.empty() ? "the system" : ca_file, ": ", error.message()));
    }
    context = std::move(made);
    return context.get();
  }

  std::map<std::string, std::unique_ptr<asio::ssl::context>> by_ca_file;
};

UpstreamPool::UpstreamPool(IoLoop& loop, const UpstreamOptions& options)
    : loop_(loop), options_(options), tls_(std::make_unique<TlsContexts>()) {
  loop_.deadlines().OnTick([this] { DropIdle(); });
}

UpstreamPool::~UpstreamPool() = default;

int64_t UpstreamPool::idle() const {
  int64_t count = 0;
  for (const auto& [origin, connections] : idle_) count += static_cast<int64_t>(connections.size());
  return count;
}

void UpstreamPool::DropIdle() {
  const int64_t oldest =
      loop_.deadlines().NowNanos() - absl::ToInt64Nanoseconds(options_.idle_connection_time);
  for (auto it = idle_.begin(); it != idle_.end();) {
    auto& connections = it->second;
    // Released at the back, so the longest idle ones are in front.
    const auto keep = std::find_if(connections.begin(), connections.end(), [&](const auto& c) {
      return c->idle_since_ > oldest;
    });
    connections.erase(connections.begin(), keep);
    it = connections.empty() ? idle_.erase(it) : std::next(it);
  }
}

void UpstreamPool::Release(std::unique_ptr<UpstreamConnection> connection) {
  auto& connections = idle_[connection->origin()];
  if (connections.size() >= options_.idle_connections_per_origin) return;
  connection->idle_since_ = loop_.deadlines().NowNanos();
  connections.push_back(std::move(connection));
}

Task<absl::StatusOr<std::unique_ptr<UpstreamConnection>>> UpstreamPool::Acquire(
    const Origin& origin) {
  const auto it = idle_.find(origin);
  while (it != idle_.end() && !it->second.empty()) {
    std::unique_ptr<UpstreamConnection> connection = std::move(it->second.back());
    it->second.pop_back();
    if (connection->Stale()) continue;
    connection->reused_ = true;
    co_return connection;
  }
  co_return co_await Connect(origin);
}

Task<absl::StatusOr<std::unique_ptr<UpstreamConnection>>> UpstreamPool::Connect(Origin origin) {
  asio::ssl::context* tls_context = nullptr;
  if (origin.tls) {
    auto context = tls_->For(origin.ca_file);
    if (!context.ok()) co_return context.status();
    tls_context = *context;
  }
  std::string connect_host = origin.host;
  uint16_t connect_port = origin.port;
  std::string proxy_authorization;
  const bool proxied =
      origin.tls && !options_.https_proxy.empty() && !NoProxyFor(options_.no_proxy, origin);
  asio::ip::address literal;
  if (proxied) {
    if (IsLiteral(origin.host, &literal) && !origin.allow_private && !IsPublicAddress(literal)) {
      co_return MakeError(absl::StatusCode::kPermissionDenied, "PRIVATE_ADDRESS",
                          "the provider's address is private; its allow_private permits that");
    }
    std::string text = options_.https_proxy;
    if (text.find("://") == std::string::npos) text = "http://" + text;
    const size_t at = text.rfind('@');
    const size_t scheme = text.find("://") + 3;
    if (at != std::string::npos && at > scheme) {
      proxy_authorization = absl::Base64Escape(text.substr(scheme, at - scheme));
      text.erase(scheme, at + 1 - scheme);
    }
    const auto proxy = policy::ParseBaseUrl(text);
    if (!proxy.ok() || proxy->scheme != "http") {
      co_return Unavailable("PROXY_FAILED", "HTTPS_PROXY is not http://host:port");
    }
    connect_host = proxy->host;
    connect_port = static_cast<uint16_t>(proxy->port);
    if (connect_host.starts_with('[')) connect_host = connect_host.substr(1, connect_host.size() - 2);
  }

  // Everything up to the finished TLS handshake has one deadline.
  const int64_t end =
      loop_.deadlines().NowNanos() + absl::ToInt64Nanoseconds(options_.connect_time);
  const auto left = [&] {
    return absl::Nanoseconds(std::max<int64_t>(0, end - loop_.deadlines().NowNanos()));
  };
  const auto timeout = [&] {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "CONNECT_TIMEOUT",
                     absl::StrCat("no connection to ", origin.ToString(), " within ",
                                  absl::FormatDuration(options_.connect_time)));
  };

  Resolver resolver(loop_.context());
  Deadline resolve_deadline(loop_.deadlines(), [&] { resolver.cancel(); });
  resolve_deadline.Arm(left());
  auto [resolve_error, found] =
      co_await resolver.async_resolve(connect_host, absl::StrCat(connect_port), kAwait);
  if (resolve_deadline.expired()) co_return timeout();
  resolve_deadline.Disarm();
  if (resolve_error) {
    co_return Unavailable("DNS_FAILED", absl::StrCat("cannot resolve ", connect_host, ": ",
                                                     resolve_error.message()));
  }

  auto transport = std::make_unique<UpstreamConnection::Transport>(loop_, origin,
                                                                   Socket(loop_.context()));
  std::vector<Tcp::endpoint> endpoints;
  for (const auto& entry : found) {
    if (proxied || origin.allow_private || IsPublicAddress(entry.endpoint().address())) {
      endpoints.push_back(entry.endpoint());
    }
  }
  error_code error = asio::error::host_not_found;
  bool timed_out = false;
  for (size_t i = 0; i < endpoints.size(); ++i) {
    error_code ignored;
    transport->socket->close(ignored);
    // An address that swallows packets leaves time for the others.
    transport->deadline.Arm(left() / static_cast<int64_t>(endpoints.size() - i));
    std::tie(error) = co_await transport->socket->async_connect(endpoints[i], kAwait);
    timed_out = transport->deadline.expired();
    transport->deadline.Disarm();
    if (!error) break;
  }
  if (timed_out) co_return timeout();
  if (endpoints.empty()) {
    co_return MakeError(absl::StatusCode::kPermissionDenied, "PRIVATE_ADDRESS",
                        absl::StrCat(origin.host, " resolves to a private address; the provider's "
                                                  "allow_private permits that"));
  }
  if (error) {
    co_return Unavailable("CONNECT_FAILED", absl::StrCat("cannot connect to ", origin.ToString(),
                                                         ": ", error.message()));
  }
  error_code ignored;
  transport->socket->set_option(Tcp::no_delay(true), ignored);
  transport->socket->set_option(asio::socket_base::keep_alive(true), ignored);

  if (proxied) {
    const std::string target = absl::StrCat(
        origin.host.find(':') == std::string::npos ? origin.host : "[" + origin.host + "]", ":",
        origin.port);
    std::string request = absl::StrCat("CONNECT ", target, " HTTP/1.1\r\nHost: ", target, "\r\n");
    if (!proxy_authorization.empty()) {
      absl::StrAppend(&request, "Proxy-Authorization: Basic ", proxy_authorization, "\r\n");
    }
    request += "\r\n";
    transport->deadline.Arm(left());
    const auto [write_error, written] =
        co_await asio::async_write(*transport->socket, asio::buffer(request), kAwait);
    std::string answer;
    size_t head_end = std::string::npos;
    error_code read_error = write_error;
    // One byte at a time would be safest against reading past the head, but nothing follows it: the
    // server speaks only after the TLS hello.
    while (!read_error && head_end == std::string::npos && answer.size() < 16384) {
      char buffer[1024];
      size_t n = 0;
      std::tie(read_error, n) =
          co_await transport->socket->async_read_some(asio::buffer(buffer), kAwait);
      answer.append(buffer, n);
      head_end = FindHeadEnd(answer, 0);
    }
    if (transport->deadline.expired()) co_return timeout();
    transport->deadline.Disarm();
    ResponseParser parser;
    if (read_error || head_end == std::string::npos || head_end == kBadLineEnding ||
        parser.ParseHead(std::string_view(answer).substr(0, head_end)) != ParseError::kNone) {
      co_return Unavailable("PROXY_FAILED", "the proxy did not answer CONNECT");
    }
    if (parser.head().status / 100 != 2 || answer.size() != head_end) {
      co_return Unavailable("PROXY_FAILED", absl::StrCat("the proxy refused CONNECT with status ",
                                                         parser.head().status));
    }
  }

  if (origin.tls) {
    transport->tls.emplace(std::move(*transport->socket), *tls_context);
    transport->socket.reset();
    SSL* ssl = transport->tls->native_handle();
    X509_VERIFY_PARAM* param = SSL_get0_param(ssl);
    bool prepared;
    if (IsLiteral(origin.host, &literal)) {
      prepared = X509_VERIFY_PARAM_set1_ip_asc(param, origin.host.c_str()) == 1;
    } else {
      X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
      prepared = X509_VERIFY_PARAM_set1_host(param, origin.host.c_str(), origin.host.size()) == 1 &&
                 SSL_set_tlsext_host_name(ssl, origin.host.c_str()) == 1;
    }
    if (!prepared) co_return Unavailable("TLS_FAILED", "cannot prepare the TLS handshake");
    transport->deadline.Arm(left());
    const auto [tls_error] =
        co_await transport->tls->async_handshake(asio::ssl::stream_base::client, kAwait);
    if (transport->deadline.expired()) co_return timeout();
    transport->deadline.Disarm();
    if (tls_error) {
      const long verified = SSL_get_verify_result(ssl);
      co_return Unavailable(
          "TLS_FAILED",
          absl::StrCat("TLS with ", origin.ToString(), " failed: ",
                       verified != X509_V_OK ? X509_verify_cert_error_string(verified)
                                             : tls_error.message()));
    }
  }
  co_return std::make_unique<UpstreamConnection>(std::move(transport));
}

}  // namespace tollhouse::edge
