// mTLS between the services: who this process is, and how it recognizes its peers.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tollhouse::rpc {

// PEM files. They are read again when they change; connections made after that use what they hold.
struct TlsFiles {
  std::string certificate;  // with its chain, and URI name spiffe://tollhouse/SERVICE
  std::string key;
  std::string ca;  // who may have signed the certificates of peers
};

// TLS 1.3, both ends with certificates of the same authority. A peer is known by the URI name in its
// certificate, not by its address. Thread-safe.
class Security {
 public:
  // `service` is the name this process must be able to prove: "ledger". FAILED_PRECONDITION
  // (BAD_CERTIFICATE) if a file cannot be used, belongs to another service, or does not fit the key.
  static absl::StatusOr<std::unique_ptr<Security>> FromFiles(std::string_view service,
                                                             const TlsFiles& files);
  // Neither encrypted nor authenticated; for loopback addresses only, which the users of this check.
  static std::unique_ptr<Security> Insecure();

  bool insecure() const { return provider_ == nullptr; }

  // Of a port for other services: their certificate is required, and CheckAccess asked per call.
  std::shared_ptr<grpc::ServerCredentials> ForServices() const;
  // Of a port for tollctl: this end has a certificate, callers bring a token.
  std::shared_ptr<grpc::ServerCredentials> ForAdmin() const;
  // Of a channel that ends at `service` and nowhere else.
  std::shared_ptr<grpc::ChannelCredentials> Towards(std::string_view service) const;

 private:
  Security() = default;

  std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;
};

// "127.0.0.1:7", "[::1]:7", "localhost:7", "unix:..." or a list of such addresses.
bool IsLoopback(std::string_view address);

}  // namespace tollhouse::rpc
