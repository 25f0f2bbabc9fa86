#include "services/edge/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/tls_testing.h"
#include "services/edge/wire_testing.h"

namespace tollhouse::edge {
namespace {

using ::testing::HasSubstr;

// Answers with what it understood: method, target and body.
class Echo final : public RequestHandler {
 public:
  Task<> Handle(Exchange& exchange) override {
    ++handled;
    const RequestHead& head = exchange.head();
    const std::string target(head.target);
    const HeaderList none;
    const HeaderList one{{"x-answer", "1"}};
    if (target == "/ignore-body") {
      co_await exchange.Answer(200, none, "ignored");
      co_return;
    }
    std::string body;
    if (!co_await exchange.ReadBody(&body, 64)) co_return;
    EXPECT_GE(body.capacity(), body.size() + 64);
    if (target == "/stream") {
      co_await exchange.BeginStream(200, one);
      co_await exchange.Write("one");
      co_await exchange.Write(body);
      co_await exchange.EndStream();
      co_return;
    }
    if (target == "/abort") {
      co_await exchange.BeginStream(200, none);
      co_await exchange.Write("part");
      exchange.Abort();
      co_return;
    }
    const std::string answer = absl::StrCat(std::string(head.method), " ", target, " ", body);
    co_await exchange.Answer(200, one, answer);
  }

  Malformed RenderMalformed(const RequestHead&, RequestError error) override {
    switch (error) {
      case RequestError::kTimeout: return {408, {}, "timeout"};
      case RequestError::kBodyTooLarge: return {413, {}, "large"};
      case RequestError::kHeadersTooLarge: return {431, {}, "headers"};
      case RequestError::kUnsupportedExpect: return {417, {}, "expect"};
      case RequestError::kUnsupportedEncoding: return {501, {}, "encoding"};
      case RequestError::kUnsupportedVersion: return {505, {}, "version"};
      case RequestError::kMalformed: break;
    }
    return {400, {}, "malformed"};
  }

  std::atomic<int> handled = 0;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void Start() {
    for (int i = 0; i < 2; ++i) loops_.push_back(std::make_unique<IoLoop>(Clock::System()));
    auto server = HttpServer::Listen("127.0.0.1:0", limits_, loops_, &echo_, tls_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    for (const auto& loop : loops_) loop->Start();
    server_->Start();
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Drain(absl::Seconds(5));
    for (const auto& loop : loops_) loop->Stop();
  }
  int port() const { return std::stoi(server_->address().substr(server_->address().rfind(':') + 1)); }
  std::unique_ptr<Wire> Dial() { return Wire::Dial(port()); }

  HttpLimits limits_;
  Echo echo_;
  std::vector<std::unique_ptr<IoLoop>> loops_;
  std::unique_ptr<ServerTls> tls_;
  std::unique_ptr<HttpServer> server_;
};

struct Case {
  const char* name;
  std::string request;
  int status;  // 0: the connection ends without an answer
  const char* body = nullptr;
};

class HttpAttackTest : public HttpServerTest, public ::testing::WithParamInterface<Case> {};

TEST_P(HttpAttackTest, IsAnsweredAndEndsTheConnection) {
  limits_.header_bytes = 2048;
  limits_.body_bytes = 1000;
  Start();
  const auto wire = Dial();
  wire->Send(GetParam().request);
  const Wire::Message answer = wire->Read();
  EXPECT_EQ(answer.status, GetParam().status) << answer.head << answer.body;
  if (GetParam().status >= 400) {
    EXPECT_EQ(answer.Header("connection"), "close");
    EXPECT_TRUE(wire->WaitClosed());
    EXPECT_EQ(echo_.handled, GetParam().body == nullptr ? 0 : 1);
  } else if (GetParam().body != nullptr) {
    EXPECT_EQ(answer.body, GetParam().body);
  }
}

std::string Post(std::string_view fields, std::string_view body = "") {
  return absl::StrCat("POST /x HTTP/1.1\r\nHost: e\r\n", std::string(fields), "\r\n",
                      std::string(body));
}

// For cases that fail after the handler has begun to read the body.
constexpr const char* kInBody = "";

INSTANTIATE_TEST_SUITE_P(
    Requests, HttpAttackTest,
    ::testing::Values(
        Case{"Plain", Post("Content-Length: 2\r\n", "ab"), 200, "POST /x ab"},
        Case{"NoBody", Post(""), 200, "POST /x "},
        Case{"Chunked", Post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
             200, "POST /x abcde"},
        Case{"Trailers",
             Post("Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n"), 200,
             "POST /x a"},
        Case{"EmptyLineBefore", "\r\n" + Post("Content-Length: 1\r\n", "a"), 200, "POST /x a"},
        Case{"Http10", "POST /x HTTP/1.0\r\nContent-Length: 1\r\n\r\na", 200, "POST /x a"},
        Case{"LengthAndChunked",
             Post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
        Case{"ChunkedAndLength",
             Post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"), 400},
        Case{"TwoLengths", Post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"), 400},
        Case{"TwoEqualLengths", Post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), 400},
        Case{"LengthList", Post("Content-Length: 1, 1\r\n", "a"), 400},
        Case{"NegativeLength", Post("Content-Length: -1\r\n", ""), 400},
        Case{"SignedLength", Post("Content-Length: +1\r\n", "a"), 400},
        Case{"HexLength", Post("Content-Length: 0x1\r\n", "a"), 400},
        Case{"HugeLength", Post("Content-Length: 99999999999999999999999\r\n", ""), 400},
        Case{"EmptyLength", Post("Content-Length:\r\n", ""), 400},
        Case{"LengthAboveLimit", Post("Content-Length: 1001\r\n", ""), 413},
        Case{"ChunksAboveLimit", Post("Transfer-Encoding: chunked\r\n", "3e9\r\n"), 413, kInBody},
        Case{"OtherEncoding", Post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501},
        Case{"UnknownEncoding", Post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501},
        Case{"IdentityEncoding", Post("Transfer-Encoding: identity\r\n", ""), 501},
        Case{"TwoEncodings",
             Post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
        Case{"ChunkedTwice", Post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), 501},
        Case{"ChunkedInHttp10",
             "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        Case{"FoldedHeader", Post("X-A: 1\r\n  2\r\n"), 400},
        Case{"FoldedEncoding", Post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), 400},
        Case{"BlankBeforeColon", Post("Content-Length : 1\r\n", "a"), 400},
        Case{"NameWithBlank", Post("X A: 1\r\n"), 400},
        Case{"NoColon", Post("nonsense\r\n"), 400},
        Case{"NulInValue", Post(std::string("X-A: a\0b\r\n", 10)), 400},
        Case{"BareCr", Post("X-A: a\rContent-Length: 1\r\n"), 400},
        Case{"BareLf", "POST /x HTTP/1.1\nHost: e\n\n", 400},
        Case{"BareLfInHeaders", Post("X-A: 1\nX-B: 2\r\n"), 400},
        Case{"NoHost", "GET /x HTTP/1.1\r\n\r\n", 400},
        Case{"TwoHosts", Post("Host: f\r\n"), 400},
        Case{"AbsoluteTarget", "GET http://other/ HTTP/1.1\r\nHost: e\r\n\r\n", 400},
        Case{"ConnectMethod", "CONNECT other:443 HTTP/1.1\r\nHost: e\r\n\r\n", 400},
        Case{"TargetWithBlank", "GET /a b HTTP/1.1\r\nHost: e\r\n\r\n", 505},
        Case{"Http2Preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
        Case{"Http09", "GET /x\r\n\r\n", 400},
        Case{"TlsHello", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 13), 400},
        Case{"HeadersTooLarge", Post("X-A: " + std::string(3000, 'a') + "\r\n"), 431},
        Case{"BadChunkSize", Post("Transfer-Encoding: chunked\r\n", "zz\r\nabc\r\n0\r\n\r\n"), 400,
             kInBody},
        Case{"NegativeChunk", Post("Transfer-Encoding: chunked\r\n", "-1\r\n\r\n0\r\n\r\n"), 400,
             kInBody},
        Case{"OverflowingChunk",
             Post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"), 400,
             kInBody},
        Case{"ChunkWithoutCrlf", Post("Transfer-Encoding: chunked\r\n", "3\r\nabcX0\r\n\r\n"), 400,
             kInBody},
        Case{"LengthInTrailer",
             Post("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 5\r\n\r\n"), 400, kInBody},
        Case{"UnknownExpect", Post("Expect: magic\r\nContent-Length: 1\r\n", "a"), 417}),
    [](const auto& test) { return test.param.name; });

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  const auto wire = Dial();
  wire->Send(Post("Content-Length: 1\r\n", "a") +
             Post("Transfer-Encoding: chunked\r\n", "1\r\nb\r\n0\r\n\r\n") +
             Post("Content-Length: 1\r\n", "c"));
  for (const char* body : {"POST /x a", "POST /x b", "POST /x c"}) {
    EXPECT_EQ(wire->Read().body, body);
  }
}

TEST_F(HttpServerTest, RequestsArriveInAnyPieces) {
  Start();
  const std::string request = Post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n");
  const auto wire = Dial();
  for (size_t cut = 1; cut < request.size(); cut += 3) {
    wire->Send(request.substr(0, cut));
    wire->Send(request.substr(cut));
    ASSERT_EQ(wire->Read().body, "POST /x abc") << cut;
  }
  for (const char c : request) wire->Send(std::string(1, c));
  EXPECT_EQ(wire->Read().body, "POST /x abc");
}

TEST_F(HttpServerTest, LargeBodyIsReadWhole) {
  Start();
  std::string body(5 << 20, 'x');
  for (size_t i = 0; i < body.size(); i += 4096) body[i] = static_cast<char>('a' + i / 4096 % 26);
  const auto wire = Dial();
  wire->Send(Post(absl::StrCat("Content-Length: ", body.size(), "\r\n"), body));
  EXPECT_EQ(wire->Read().body, "POST /x " + body);
}

TEST_F(HttpServerTest, WaitingCallerIsToldToContinue) {
  Start();
  const auto wire = Dial();
  wire->Send(Post("Expect: 100-continue\r\nContent-Length: 2\r\n"));
  EXPECT_EQ(wire->Read().status, 100);
  wire->Send("ab");
  EXPECT_EQ(wire->Read().body, "POST /x ab");
}

TEST_F(HttpServerTest, StreamsAreChunkedForHttp11AndEndWithTheConnectionForHttp10) {
  Start();
  auto wire = Dial();
  wire->Send("POST /stream HTTP/1.1\r\nHost: e\r\nContent-Length: 3\r\n\r\ntwo");
  Wire::Message answer = wire->Read();
  EXPECT_EQ(answer.body, "onetwo");
  EXPECT_TRUE(answer.whole);
  wire = Dial();
  wire->Send("POST /stream HTTP/1.0\r\nContent-Length: 3\r\n\r\ntwo");
  answer = wire->Read();
  EXPECT_EQ(answer.body, "onetwo");
  EXPECT_EQ(answer.Header("transfer-encoding"), "");
}

TEST_F(HttpServerTest, AbortedStreamIsSeenAsSuch) {
  Start();
  const auto wire = Dial();
  wire->Send("POST /abort HTTP/1.1\r\nHost: e\r\n\r\n");
  EXPECT_FALSE(wire->Read().whole);
}

TEST_F(HttpServerTest, UnreadBodyDoesNotBecomeTheNextRequest) {
  Start();
  const auto wire = Dial();
  wire->Send("POST /ignore-body HTTP/1.1\r\nHost: e\r\nContent-Length: 4\r\n\r\nGET " +
             Post("Content-Length: 1\r\n", "a"));
  EXPECT_EQ(wire->Read().body, "ignored");
  EXPECT_EQ(wire->Read().body, "POST /x a");
}

TEST_F(HttpServerTest, SlowHeadersTimeOut) {
  limits_.header_time = absl::Milliseconds(200);
  Start();
  const auto wire = Dial();
  wire->Send("POST /x HTTP/1.1\r\nHost:");
  EXPECT_EQ(wire->Read().status, 408);
  EXPECT_TRUE(wire->WaitClosed());
}

TEST_F(HttpServerTest, SlowBodyTimesOut) {
  limits_.body_idle_time = absl::Milliseconds(200);
  Start();
  const auto wire = Dial();
  wire->Send(Post("Content-Length: 10\r\n", "abc"));
  EXPECT_EQ(wire->Read().status, 408);
  EXPECT_TRUE(wire->WaitClosed());
}

TEST_F(HttpServerTest, IdleConnectionIsClosedWithoutAnAnswer) {
  limits_.idle_time = absl::Milliseconds(200);
  Start();
  const auto wire = Dial();
  EXPECT_EQ(wire->Read().status, 0);
}

TEST_F(HttpServerTest, ConnectionsAboveTheLimitAreClosed) {
  limits_.connections = 1;
  Start();
  const auto first = Dial();
  first->Send(Post(""));
  EXPECT_EQ(first->Read().status, 200);
  EXPECT_TRUE(Dial()->WaitClosed());
  first->Send(Post(""));
  EXPECT_EQ(first->Read().status, 200);
}

TEST_F(HttpServerTest, DrainEndsIdleConnectionsAndTakesNoMore) {
  Start();
  const auto wire = Dial();
  wire->Send(Post(""));
  EXPECT_EQ(wire->Read().status, 200);
  EXPECT_TRUE(server_->Drain(absl::Seconds(10)));
  EXPECT_TRUE(wire->WaitClosed());
  EXPECT_EQ(Dial(), nullptr);
}

TEST_F(HttpServerTest, PortInUseIsSaid) {
  Start();
  const auto second = HttpServer::Listen(server_->address(), limits_, loops_, &echo_);
  EXPECT_EQ(ReasonOf(second.status()), "CANNOT_LISTEN");
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address()));
}

TEST_F(HttpServerTest, OneAddressCannotTakeAllConnections) {
  limits_.connections_per_address = 2;
  Start();
  const auto first = Dial(), second = Dial();
  for (const auto* wire : {&first, &second}) {
    (*wire)->Send("GET /a HTTP/1.1\r\nhost: x\r\n\r\n");
    EXPECT_EQ((*wire)->Read().status, 200);
  }
  EXPECT_TRUE(Dial()->WaitClosed());
  second->Send("GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
  EXPECT_EQ(second->Read().status, 200);
  EXPECT_TRUE(second->WaitClosed());
  const auto third = Dial();
  third->Send("GET /c HTTP/1.1\r\nhost: x\r\n\r\n");
  EXPECT_EQ(third->Read().status, 200);
}

class TlsServerTest : public HttpServerTest {
 protected:
  TlsServerTest() {
    TestCertificate("IP:127.0.0.1").Write(certificate(), key());
    auto tls = ServerTls::Load(certificate(), key(), &clock_);
    EXPECT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
  }
  std::string certificate() const { return dir_.File("edge.pem"); }
  std::string key() const { return dir_.File("edge.key"); }
  std::string Call(const std::string& ca_file, std::string_view protocols = "") {
    return CallOverTls(port(), ca_file,
                       "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "hello",
                       protocols);
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
};

TEST_F(TlsServerTest, ServesHttp11OverTls) {
  Start();
  EXPECT_THAT(Call(certificate()), HasSubstr("POST /echo hello"));
  EXPECT_THAT(Call(certificate(), "\x02h2\x08http/1.1"), HasSubstr("POST /echo hello"));
  EXPECT_EQ(Call(certificate(), "\x02h2"), "");
}

TEST_F(TlsServerTest, PlainAndSilentCallersAreLeft) {
  limits_.header_time = absl::Milliseconds(200);
  Start();
  const auto plain = Dial();
  plain->Send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  EXPECT_TRUE(plain->WaitClosed());
  const auto silent = Dial();
  EXPECT_TRUE(silent->WaitClosed());
  EXPECT_EQ(echo_.handled, 0);
  EXPECT_THAT(Call(certificate()), HasSubstr("hello"));
}

TEST_F(TlsServerTest, NewFilesAreTakenUpAndBrokenOnesAreNot) {
  Start();
  const std::string before = dir_.File("before.pem");
  std::filesystem::copy_file(certificate(), before);
  const TestCertificate fresh("IP:127.0.0.1");
  fresh.Write(certificate(), "");  // the key does not belong to it yet
  clock_.Advance(absl::Seconds(2));
  EXPECT_THAT(Call(before), HasSubstr("hello"));
  fresh.Write("", key());
  clock_.Advance(absl::Seconds(2));
  EXPECT_THAT(Call(certificate()), HasSubstr("hello"));
  EXPECT_EQ(Call(before), "");
}

TEST_F(TlsServerTest, UnusableFilesAreNamed) {
  const auto missing = ServerTls::Load(dir_.File("none"), key(), &clock_);
  EXPECT_EQ(ReasonOf(missing.status()), "BAD_CERTIFICATE");
  TestCertificate("DNS:other").Write("", key());
  const auto wrong = ServerTls::Load(certificate(), key(), &clock_);
  EXPECT_EQ(ReasonOf(wrong.status()), "BAD_CERTIFICATE");
  EXPECT_THAT(std::string(wrong.status().message()), HasSubstr(key()));
}

}  // namespace
}  // namespace tollhouse::edge
