#include "libs/rpc/security.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"
#include "libs/rpc/access.h"
#include "libs/rpc/status.h"

namespace tollhouse::rpc {
namespace {

using grpc::experimental::CertificateVerifier;
using grpc::experimental::ExternalCertificateVerifier;
using grpc::experimental::FileWatcherCertificateProvider;
using grpc::experimental::TlsChannelCredentialsOptions;
using grpc::experimental::TlsCustomVerificationCheckRequest;
using grpc::experimental::TlsServerCredentialsOptions;

// How often changed files are looked for.
constexpr unsigned kReloadSeconds = 1;

// This gRPC cannot be told a lowest version of TLS through its credentials, but which ciphers TLS 1.2
// may use: one that needs a pre-shared key, which nobody has, so that only TLS 1.3 remains.
void AllowOnlyTls13() { setenv("GRPC_SSL_CIPHER_SUITES", "PSK-AES256-GCM-SHA384", 1); }

std::string Text(grpc::string_ref ref) { return std::string(ref.data(), ref.size()); }

// The server must be the service that is meant: an address proves nothing.
class PeerVerifier final : public ExternalCertificateVerifier {
 public:
  explicit PeerVerifier(std::string identity) : identity_(std::move(identity)) {}

  bool Verify(TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* status) override {
    std::vector<std::string> names;
    for (const grpc::string_ref& uri : request->uri_names()) names.push_back(Text(uri));
    if (std::find(names.begin(), names.end(), identity_) == names.end()) {
      const std::string found = names.empty() ? "no service" : absl::StrJoin(names, ", ");
      obs::Warning("peer_refused", {{"expected", identity_}, {"found", found}});
      *status = grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                             absl::StrCat("the peer is ", found, ", not ", identity_));
    }
    return true;
  }
  void Cancel(TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::string identity_;
};

// Asks CheckAccess for every call.
class AccessProcessor final : public grpc::AuthMetadataProcessor {
 public:
  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata*,
                       OutputMetadata*) override {
    std::vector<std::string> identities;
    for (const grpc::string_ref& uri : context->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
      identities.push_back(Text(uri));
    }
    const auto path = metadata.find(":path");
    const std::string method = path == metadata.end() ? "" : Text(path->second);
    const absl::Status status = CheckAccess(method, identities);
    if (!status.ok()) {
      obs::Warning("call_refused", {{"method", method}, {"message", Std(status.message())}});
    }
    return ToGrpc(status);
  }
};

template <typename T, void (*kFree)(T*)>
struct Deleter {
  void operator()(T* value) const { kFree(value); }
};
using BioPtr = std::unique_ptr<BIO, Deleter<BIO, BIO_free_all>>;
using X509Ptr = std::unique_ptr<X509, Deleter<X509, X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY, EVP_PKEY_free>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, Deleter<GENERAL_NAMES, GENERAL_NAMES_free>>;

absl::Status BadCertificate(const std::string& file, const std::string& why) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "BAD_CERTIFICATE",
                   absl::StrCat(file.empty() ? "a file name is missing (tls-cert, tls-key, tls-ca)" : file, ": ", why));
}

BioPtr OpenPem(const std::string& path) { return BioPtr(BIO_new_file(path.c_str(), "r")); }

std::vector<std::string> UriNames(X509* certificate) {
  std::vector<std::string> uris;
  const NamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  if (names == nullptr) return uris;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_STRING* const uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)), ASN1_STRING_length(uri));
  }
  return uris;
}

// What would otherwise only show as handshakes that fail.
absl::Status CheckFiles(const std::string& identity, const TlsFiles& files) {
  const auto read_certificate = [](const std::string& path) -> X509Ptr {
    const BioPtr bio = OpenPem(path);
    return X509Ptr(bio == nullptr ? nullptr : PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  };
  const X509Ptr certificate = read_certificate(files.certificate);
  if (certificate == nullptr) return BadCertificate(files.certificate, "no certificate can be read");
  if (read_certificate(files.ca) == nullptr) return BadCertificate(files.ca, "no certificate can be read");
  const BioPtr key_bio = OpenPem(files.key);
  const KeyPtr key(key_bio == nullptr ? nullptr
                                      : PEM_read_bio_PrivateKey(key_bio.get(), nullptr, nullptr, nullptr));
  if (key == nullptr) return BadCertificate(files.key, "no private key can be read");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return BadCertificate(files.key, absl::StrCat("is not the key of ", files.certificate));
  }
  const std::vector<std::string> names = UriNames(certificate.get());
  if (std::find(names.begin(), names.end(), identity) == names.end()) {
    return BadCertificate(files.certificate,
                          absl::StrCat("is for ", names.empty() ? "no service" : absl::StrJoin(names, ", "),
                                       ", this program needs ", identity));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return BadCertificate(files.certificate, "has expired");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Security>> Security::FromFiles(std::string_view service,
                                                              const TlsFiles& files) {
  TH_RETURN_IF_ERROR(CheckFiles(IdentityOf(service), files));
  AllowOnlyTls13();
  std::unique_ptr<Security> security(new Security);
  security->provider_ = std::make_shared<FileWatcherCertificateProvider>(
      files.key, files.certificate, files.ca, kReloadSeconds);
  return security;
}

std::unique_ptr<Security> Security::Insecure() { return std::unique_ptr<Security>(new Security); }

std::shared_ptr<grpc::ServerCredentials> Security::ForServices() const {
  if (insecure()) return grpc::InsecureServerCredentials();
  TlsServerCredentialsOptions options(provider_);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  auto credentials = grpc::experimental::TlsServerCredentials(options);
  credentials->SetAuthMetadataProcessor(std::make_shared<AccessProcessor>());
  return credentials;
}

std::shared_ptr<grpc::ServerCredentials> Security::ForAdmin() const {
  if (insecure()) return grpc::InsecureServerCredentials();
  TlsServerCredentialsOptions options(provider_);
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> Security::Towards(std::string_view service) const {
  if (insecure()) return grpc::InsecureChannelCredentials();
  TlsChannelCredentialsOptions options;
  options.set_certificate_provider(provider_);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_certificate_verifier(ExternalCertificateVerifier::Create<PeerVerifier>(IdentityOf(service)));
  options.set_check_call_host(false);
  return grpc::experimental::TlsCredentials(options);
}

bool IsLoopback(std::string_view address) {
  for (absl::string_view one : absl::StrSplit(Absl(address), ',')) {
    if (absl::StartsWith(one, "unix:")) continue;
    for (const absl::string_view scheme : {"dns:///", "ipv4:", "ipv6:", "https://", "http://"}) {
      if (absl::ConsumePrefix(&one, scheme)) break;
    }
    if (!absl::StartsWith(one, "127.") && !absl::StartsWith(one, "[::1]:") &&
        !absl::StartsWith(one, "localhost:")) {
      return false;
    }
  }
  return true;
}

}  // namespace tollhouse::rpc
