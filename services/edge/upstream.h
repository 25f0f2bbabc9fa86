// Connections to providers: pooled per IO thread, plain or TLS, direct or through a proxy.
//
// Which addresses may be connected to is decided after the name was resolved, at the moment of
// connecting: a name that points into a private network does not reach it. Through a proxy the proxy
// resolves; there only literal addresses can be checked.
#pragma once

#include <array>
#include <boost/asio/buffer.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/edge/http_message.h"
#include "services/edge/http_parser.h"
#include "services/edge/net.h"

namespace tollhouse::edge {

// A provider's base URL taken apart. Comparable: connections are pooled by it.
struct Origin {
  bool tls = true;
  std::string host;  // without brackets
  uint16_t port = 443;
  bool allow_private = false;
  std::string ca_file;  // PEM bundle instead of the system's

  auto operator<=>(const Origin&) const = default;
  // "https://host:port", always with the port.
  std::string ToString() const;
  // As a Host header: without the scheme's usual port.
  std::string HostHeader() const;
};

// Whether an address is in no network of one's own: not loopback, private (RFC 1918, 4193, 6598),
// link-local, multicast, documentation, reserved or unspecified, nor such an IPv4 address inside IPv6.
bool IsPublicAddress(const asio::ip::address& address);

struct UpstreamOptions {
  absl::Duration connect_time = absl::Seconds(10);  // name, TCP, proxy and TLS together
  absl::Duration write_time = absl::Seconds(60);    // for one body; per write of a large one
  absl::Duration idle_connection_time = absl::Seconds(30);
  size_t idle_connections_per_origin = 256;  // per IO thread
  // "http://[user:password@]host:port" for https origins; "" for none.
  std::string https_proxy;
  // NO_PROXY: host names, .suffixes, addresses, "*".
  std::string no_proxy;
};

// Fills https_proxy and no_proxy from HTTPS_PROXY, NO_PROXY (or their lower-case names).
void ApplyProxyEnvironment(UpstreamOptions* options);

class UpstreamPool;

// One connection, on its IO thread. Reading fails with an error or gives 0 bytes at the end.
class UpstreamConnection {
 public:
  struct Transport;

  explicit UpstreamConnection(std::unique_ptr<Transport> transport);
  ~UpstreamConnection();
  UpstreamConnection(const UpstreamConnection&) = delete;
  UpstreamConnection& operator=(const UpstreamConnection&) = delete;

  struct Io {
    error_code error;
    size_t bytes = 0;
    bool timed_out = false;
  };
  // Writes head and body. `bytes` says how much was handed to the kernel or to TLS at least.
  Task<Io> Write(std::string_view head, std::string_view body, absl::Duration timeout);
  Task<Io> ReadSome(char* data, size_t size, absl::Duration timeout);
  // A stream: calls `take` with the bytes as they come, until it returns false (then `bytes` is not
  // 0), the provider ends it (0) or nothing came for `idle`, which is asked again after each piece.
  // The bytes belong to `take` while it runs.
  Task<Io> ReadStream(IoLoop& loop, absl::FunctionRef<bool(std::string_view)> take,
                      absl::FunctionRef<absl::Duration()> idle);

  // Whether the provider has closed or spoken while nothing was asked of it.
  bool Stale();

  const Origin& origin() const;
  bool reused() const { return reused_; }

 private:
  friend class UpstreamPool;
  std::unique_ptr<Transport> transport_;
  int64_t idle_since_ = 0;
  bool reused_ = false;
};

// Of one IO thread.
class UpstreamPool {
 public:
  UpstreamPool(IoLoop& loop, const UpstreamOptions& options);
  ~UpstreamPool();

  // A live connection, pooled or new. Nothing has been sent on it. UNAVAILABLE: CONNECT_FAILED,
  // TLS_FAILED, PROXY_FAILED, DNS_FAILED; PERMISSION_DENIED: PRIVATE_ADDRESS;
  // DEADLINE_EXCEEDED: CONNECT_TIMEOUT; INVALID_ARGUMENT: BAD_CA_FILE.
  Task<absl::StatusOr<std::unique_ptr<UpstreamConnection>>> Acquire(const Origin& origin);
  // Takes back one that has just served a whole exchange.
  void Release(std::unique_ptr<UpstreamConnection> connection);

  int64_t idle() const;

 private:
  struct TlsContexts;

  Task<absl::StatusOr<std::unique_ptr<UpstreamConnection>>> Connect(Origin origin);
  void DropIdle();

  IoLoop& loop_;
  const UpstreamOptions options_;
  std::unique_ptr<TlsContexts> tls_;
  std::map<Origin, std::vector<std::unique_ptr<UpstreamConnection>>> idle_;
};

}  // namespace tollhouse::edge
