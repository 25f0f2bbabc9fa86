#include "services/edge/server_tls.h"

#include <openssl/ssl.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/strings.h"
#include "libs/obs/log.h"

namespace tollhouse::edge {
namespace {

constexpr absl::Duration kLookInterval = absl::Seconds(1);

// HTTP/1.1 or nothing.
int SelectProtocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
                   unsigned int in_size, void*) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* selected = nullptr;
  if (SSL_select_next_proto(&selected, out_size, kHttp11, sizeof kHttp11 - 1, in, in_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = selected;
  return SSL_TLSEXT_ERR_OK;
}

absl::Status BadCertificate(const std::string& file, const error_code& error) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_CERTIFICATE",
                   absl::StrCat("cannot use ", file, ": ", error.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerTls>> ServerTls::Load(const std::string& certificate_file,
                                                           const std::string& key_file,
                                                           const Clock* clock) {
  std::unique_ptr<ServerTls> tls(new ServerTls(certificate_file, key_file, clock));
  absl::MutexLock lock(&tls->mutex_);
  tls->stamp_ = tls->Stamp();
  tls->looked_ = clock->Monotonic();
  TH_ASSIGN_OR_RETURN(tls->context_, tls->Make());
  return tls;
}

absl::StatusOr<std::shared_ptr<asio::ssl::context>> ServerTls::Make() const {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  error_code error;
  context->use_certificate_chain_file(certificate_file_, error);
  if (error) return BadCertificate(certificate_file_, error);
  // Also checks that the key belongs to the certificate.
  context->use_private_key_file(key_file_, asio::ssl::context::pem, error);
  if (error) return BadCertificate(key_file_, error);
  SSL_CTX* native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(native, SelectProtocol, nullptr);
  return context;
}

std::string ServerTls::Stamp() const {
  std::string stamp;
  for (const std::string& file : {certificate_file_, key_file_}) {
    struct stat info = {};
    const bool there = stat(file.c_str(), &info) == 0;
    absl::StrAppend(&stamp, there, "/", info.st_ino, "/", info.st_size, "/", info.st_mtim.tv_sec, ".",
                    info.st_mtim.tv_nsec, " ");
  }
  return stamp;
}

std::shared_ptr<asio::ssl::context> ServerTls::Context() {
  absl::MutexLock lock(&mutex_);
  const absl::Duration now = clock_->Monotonic();
  if (now - looked_ < kLookInterval) return context_;
  looked_ = now;
  std::string stamp = Stamp();
  if (stamp == stamp_) return context_;
  stamp_ = std::move(stamp);
  auto fresh = Make();
  if (fresh.ok()) {
    context_ = *std::move(fresh);
    obs::Info("certificate_reloaded", {{"file", certificate_file_}});
  } else {
    obs::Error("certificate_not_reloaded", {{"reason", Std(fresh.status().message())}});
  }
  return context_;
}

}  // namespace tollhouse::edge
