// Certificates and a TLS caller for tests.
#pragma once

#include <openssl/types.h>

#include <string>
#include <string_view>

namespace tollhouse::edge {

// A fresh key with a certificate that it signed itself, valid for an hour. `names` as OpenSSL takes
// subject alternative names: "DNS:localhost,IP:127.0.0.1".
class TestCertificate {
 public:
  explicit TestCertificate(const std::string& names);
  ~TestCertificate();
  TestCertificate(const TestCertificate&) = delete;
  TestCertificate& operator=(const TestCertificate&) = delete;

  X509* certificate() const { return certificate_; }
  EVP_PKEY* key() const { return key_; }
  // PEM; either file may be "".
  void Write(const std::string& certificate_file, const std::string& key_file) const;

 private:
  EVP_PKEY* key_;
  X509* certificate_;
};

// Sends a request to 127.0.0.1:port and reads until the other side ends or `until` has been seen. "" if
// the handshake fails: the certificate must verify against `ca_file`; `protocols` in ALPN's format.
std::string CallOverTls(int port, const std::string& ca_file, std::string_view request,
                        std::string_view until, std::string_view protocols = "");

}  // namespace tollhouse::edge
