#include "services/edge/tls_testing.h"

#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {

TestCertificate::TestCertificate(const std::string& names)
    : key_(EVP_EC_gen("P-256")), certificate_(X509_new()) {
  X509_set_version(certificate_, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate_), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate_), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate_), 3600);
  X509_set_pubkey(certificate_, key_);
  X509_NAME* subject = X509_get_subject_name(certificate_);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
  X509_set_issuer_name(certificate_, subject);
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, certificate_, certificate_, nullptr, nullptr, 0);
  for (const auto& [id, value] : {std::pair{NID_basic_constraints, std::string("critical,CA:TRUE")},
                                  std::pair{NID_subject_alt_name, names}}) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
    X509_add_ext(certificate_, extension, -1);
    X509_EXTENSION_free(extension);
  }
  X509_sign(certificate_, key_, EVP_sha256());
}

TestCertificate::~TestCertificate() {
  X509_free(certificate_);
  EVP_PKEY_free(key_);
}

void TestCertificate::Write(const std::string& certificate_file, const std::string& key_file) const {
  const auto write = [](const std::string& path, const auto& pem) {
    if (path.empty()) return;
    std::FILE* out = std::fopen(path.c_str(), "w");
    pem(out);
    std::fclose(out);
  };
  write(certificate_file, [this](std::FILE* out) { PEM_write_X509(out, certificate_); });
  write(key_file, [this](std::FILE* out) {
    PEM_write_PrivateKey(out, key_, nullptr, nullptr, 0, nullptr, nullptr);
  });
}

std::string CallOverTls(int port, const std::string& ca_file, std::string_view request,
                        std::string_view until, std::string_view protocols) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  SSL_CTX_load_verify_locations(context.get(), ca_file.c_str(), nullptr);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (!protocols.empty()) {
    SSL_CTX_set_alpn_protos(context.get(), reinterpret_cast<const unsigned char*>(protocols.data()),
                            static_cast<unsigned>(protocols.size()));
  }
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(BIO_new_ssl_connect(context.get()), BIO_free_all);
  BIO_set_conn_hostname(bio.get(), absl::StrCat("127.0.0.1:", port).c_str());
  if (BIO_do_handshake(bio.get()) != 1) return "";
  BIO_write(bio.get(), request.data(), static_cast<int>(request.size()));
  std::string answer;
  char bytes[4096];
  while (!absl::StrContains(answer, Absl(until))) {
    const int n = BIO_read(bio.get(), bytes, sizeof bytes);
    if (n <= 0) break;
    answer.append(bytes, n);
  }
  return answer;
}

}  // namespace tollhouse::edge
