#include "services/edge/upstream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/tls_testing.h"
#include "services/edge/wire_testing.h"

namespace tollhouse::edge {
namespace {

using ::testing::HasSubstr;

TEST(IsPublicAddressTest, KnowsTheSpecialNetworks) {
  for (const char* text :
       {"127.0.0.1", "127.255.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.0.1",
        "198.18.0.1", "203.0.113.9", "::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1",
        "2001::1", "fec0::1", "100::1"}) {
    EXPECT_FALSE(IsPublicAddress(asio::ip::make_address(text))) << text;
  }
  for (const char* text : {"8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111",
                           "::ffff:8.8.8.8", "64:ff9b::808:808", "198.20.0.1"}) {
    EXPECT_TRUE(IsPublicAddress(asio::ip::make_address(text))) << text;
  }
}

// A TLS server in memory of one certificate for `name`, one connection at a time.
class TlsServer {
 public:
  TlsServer(const std::string& name, const std::string& certificate_file) : certificate_(name) {
    certificate_.Write(certificate_file, "");
    tls_ = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(tls_, certificate_.certificate());
    SSL_CTX_use_PrivateKey(tls_, certificate_.key());
  }
  ~TlsServer() { SSL_CTX_free(tls_); }

  // Serves one exchange on a connected socket.
  void Serve(int fd) {
    SSL* ssl = SSL_new(tls_);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
      const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
      server_name = name == nullptr ? "" : name;
      char bytes[1024];
      const int n = SSL_read(ssl, bytes, sizeof bytes);
      if (n > 0) {
        received.assign(bytes, n);
        const std::string answer = HttpAnswer(200, "over tls");
        SSL_write(ssl, answer.data(), static_cast<int>(answer.size()));
      }
      SSL_shutdown(ssl);
    }
    SSL_free(ssl);
  }

  std::string received, server_name;

 private:
  const TestCertificate certificate_;
  SSL_CTX* tls_;
};

class UpstreamTest : public ::testing::Test {
 protected:
  void Start(UpstreamOptions options = {}) {
    pool_ = std::make_unique<UpstreamPool>(loop_, options);
    loop_.Start();
  }
  void TearDown() override {
    loop_.Stop();
    pool_.reset();
  }

  Task<absl::StatusOr<std::string>> Get(Origin origin) {
    auto connection = co_await pool_->Acquire(origin);
    if (!connection.ok()) co_return connection.status();
    const std::string head = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const auto written = co_await (*connection)->Write(head, {}, absl::Seconds(10));
    if (written.error) co_return absl::InternalError(written.error.message());
    std::string answer(4096, '\0');
    size_t filled = 0;
    while (!absl::StrContains(answer.substr(0, filled), "over ")) {
      const auto read = co_await (*connection)
                            ->ReadSome(answer.data() + filled, answer.size() - filled,
                                       absl::Seconds(10));
      if (read.error || read.bytes == 0) co_return absl::InternalError("cut");
      filled += read.bytes;
    }
    answer.resize(filled);
    co_return answer;
  }

  absl::StatusOr<std::string> Fetch(const Origin& origin) {
    return asio::co_spawn(loop_.context(), Get(origin), asio::use_future).get();
  }

  testing::TempDir dir_;
  IoLoop loop_{Clock::System()};
  std::unique_ptr<UpstreamPool> pool_;
};

TEST_F(UpstreamTest, TlsIsVerifiedAgainstTheGivenCertificatesAndTheName) {
  TlsServer tls("DNS:localhost", dir_.File("ca.pem"));
  TlsServer other("DNS:localhost", dir_.File("other.pem"));
  TestProvider provider([](const Wire::Message&, Wire&) { return false; });
  provider.SetConnected([&](int fd) { tls.Serve(fd); });
  Start();
  Origin origin{.tls = true,
                .host = "localhost",
                .port = static_cast<uint16_t>(provider.port()),
                .allow_private = true,
                .ca_file = dir_.File("ca.pem")};
  const auto answer = Fetch(origin);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(*answer, HasSubstr("over tls"));
  EXPECT_EQ(tls.server_name, "localhost");

  origin.ca_file = dir_.File("other.pem");
  EXPECT_EQ(ReasonOf(Fetch(origin).status()), "TLS_FAILED");
  origin.ca_file = "";  // the system's
  EXPECT_EQ(ReasonOf(Fetch(origin).status()), "TLS_FAILED");
  origin.ca_file = dir_.File("none.pem");
  EXPECT_EQ(ReasonOf(Fetch(origin).status()), "BAD_CA_FILE");
  origin.ca_file = dir_.File("ca.pem");
  origin.host = "127.0.0.1";  // not what the certificate says
  EXPECT_EQ(ReasonOf(Fetch(origin).status()), "TLS_FAILED");
}

TEST_F(UpstreamTest, PrivateAddressesAreCheckedAfterTheNameWasResolved) {
  TestProvider provider([](const Wire::Message&, Wire&) { return false; });
  Start();
  const Origin origin{.tls = false,
                      .host = "localhost",
                      .port = static_cast<uint16_t>(provider.port())};
  EXPECT_EQ(ReasonOf(Fetch(origin).status()), "PRIVATE_ADDRESS");
  EXPECT_EQ(provider.connections(), 0);
}

TEST_F(UpstreamTest, ProxyIsAskedToConnect) {
  TlsServer tls("DNS:api.example.com", dir_.File("ca.pem"));
  std::string connect;
  TestProvider proxy([](const Wire::Message&, Wire&) { return false; });
  proxy.SetScript([&](const Wire::Message& request, Wire& wire) {
    connect = request.head;
    wire.Send("HTTP/1.1 200 Connection established\r\n\r\n");
    tls.Serve(wire.fd());
    return false;
  });
  UpstreamOptions options;
  options.https_proxy = absl::StrCat("http://user:pass@127.0.0.1:", proxy.port());
  options.no_proxy = "localhost,.internal";
  Start(options);
  const Origin origin{.tls = true, .host = "api.example.com", .ca_file = dir_.File("ca.pem")};
  const auto answer = Fetch(origin);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_TRUE(connect.starts_with("CONNECT api.example.com:443 HTTP/1.1\r\n")) << connect;
  EXPECT_THAT(connect, HasSubstr("Basic dXNlcjpwYXNz"));
  EXPECT_EQ(tls.server_name, "api.example.com");

  Origin literal = origin;
  literal.host = "10.0.0.1";
  EXPECT_EQ(ReasonOf(Fetch(literal).status()), "PRIVATE_ADDRESS");
}

TEST_F(UpstreamTest, RefusingProxyIsNamed) {
  TestProvider proxy([](const Wire::Message&, Wire& wire) {
    wire.Send("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n");
    return false;
  });
  UpstreamOptions options;
  options.https_proxy = absl::StrCat("127.0.0.1:", proxy.port());
  Start(options);
  const auto answer = Fetch(Origin{.tls = true, .host = "api.example.com"});
  EXPECT_EQ(ReasonOf(answer.status()), "PROXY_FAILED");
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("407"));
}

TEST_F(UpstreamTest, HandshakeThatNeverEndsTimesOut) {
  TestProvider provider([](const Wire::Message&, Wire&) { return true; });
  UpstreamOptions options;
  options.connect_time = absl::Milliseconds(200);
  Start(options);
  const auto answer = Fetch(Origin{.tls = true,
                                   .host = "127.0.0.1",
                                   .port = static_cast<uint16_t>(provider.port()),
                                   .allow_private = true});
  EXPECT_EQ(ReasonOf(answer.status()), "CONNECT_TIMEOUT");
}

}  // namespace
}  // namespace tollhouse::edge
