// Whole requests on a wire without a network: what is answered, and above all what is billed.
#include "tools/simprovider/service.h"

#include <simdjson.h>
#include <zlib.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libs/base/strings.h"
#include "libs/testing/fake_clock.h"

namespace tollhouse::simprovider {
namespace {

using boost::asio::awaitable;

class FakeWire : public Wire {
 public:
  explicit FakeWire(testing::FakeClock* clock) : clock_(clock) {}

  awaitable<bool> Write(std::string_view bytes) override {
    if (writes_until_gone-- <= 0) co_return false;
    written.append(bytes);
    co_return true;
  }
  awaitable<bool> Pause(absl::Duration duration) override {
    paused += duration;
    if (--pauses_until_gone <= 0) {
      clock_->Advance(duration / 2);
      co_return false;
    }
    clock_->Advance(duration);
    co_return true;
  }
  bool Gone() override { return false; }

  int writes_until_gone = std::numeric_limits<int>::max();
  int pauses_until_gone = std::numeric_limits<int>::max();
  std::string written;
  absl::Duration paused;

 private:
  testing::FakeClock* const clock_;
};

struct Reply {
  int status = 0;
  std::string headers;
  std::string body;  // chunks joined
  bool complete = false;
};

Reply Parse(const std::string& written) {
  Reply reply;
  const size_t head = written.find("\r\n\r\n");
  if (head == std::string::npos) return reply;
  reply.headers = written.substr(0, head + 2);
  reply.status = std::stoi(written.substr(9, 3));
  std::string_view rest = std::string_view(written).substr(head + 4);
  if (reply.headers.find("transfer-encoding: chunked") == std::string::npos) {
    const size_t at = reply.headers.find("content-length: ");
    reply.body = rest;
    reply.complete = rest.size() == std::stoul(reply.headers.substr(at + 16));
    return reply;
  }
  while (!rest.empty()) {
    const size_t size = std::stoul(std::string(rest.substr(0, rest.find("\r\n"))), nullptr, 16);
    rest.remove_prefix(rest.find("\r\n") + 2);
    reply.complete = size == 0;
    reply.body.append(rest.substr(0, size));
    rest.remove_prefix(size + 2);
  }
  return reply;
}

std::string Gunzip(const std::string& bytes) {
  z_stream stream{};
  EXPECT_EQ(inflateInit2(&stream, 15 + 16), Z_OK);
  std::string out(1 << 20, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(inflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  inflateEnd(&stream);
  return out;
}

class ServiceTest : public ::testing::Test {
 protected:
  explicit ServiceTest(ServiceOptions options = {.prices = PriceTable::Default()})
      : service_(std::move(options), &clock_), wire_(&clock_) {}

  Reply Send(const HttpRequest& request) {
    boost::asio::io_context context;
    wire_.written.clear();
    boost::asio::co_spawn(
        context,
        [&]() -> awaitable<void> { keep_alive_ = co_await service_.Handle(request, wire_); },
        boost::asio::detached);
    context.run();
    return Parse(wire_.written);
  }

  Reply OpenAi(std::string_view directives, bool stream = false) {
    return Send(
        {.method = "POST",
         .path = "/v1/chat/completions",
         .authorization = "Bearer sk-real",
         .hold_id = "018f2a7c",
         .body = absl::StrCat(R"({"model":"gpt-4o-mini","stream":)", stream ? "true" : "false",
                              R"(,"messages":[{"role":"user","content":"[[sim input=100 )",
                              Absl(directives), R"(]]"}]})")});
  }

  // A field of the last record.
  simdjson::dom::element Last() {
    const Reply reply = Send({.method = "GET", .path = "/sim/meter/records"});
    const size_t start = reply.body.rfind('\n', reply.body.size() - 2);
    line_ = reply.body.substr(start == std::string::npos ? 0 : start + 1);
    return parser_.parse(line_);
  }
  int64_t LastOutput() { return Last()["usage"]["output_tokens"]; }
  std::string_view LastEnd() { return Last()["end"]; }

  testing::FakeClock clock_;
  Service service_;
  FakeWire wire_;
  bool keep_alive_ = false;
  simdjson::dom::parser parser_;
  std::string line_;
};

// 100 input tokens and n output tokens of gpt-4o-mini.
NanoUsd MiniCost(int64_t output) { return NanoUsd(100 * 150 + output * 600); }

TEST_F(ServiceTest, AnAnswerIsBilledAndRecorded) {
  const Reply reply = OpenAi("output=20 latency_ms=50");
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.complete);
  EXPECT_TRUE(keep_alive_);
  EXPECT_EQ(wire_.paused, absl::Milliseconds(50));
  EXPECT_EQ(service_.meter().total(), MiniCost(20));
  const simdjson::dom::element record = Last();
  EXPECT_EQ(std::string_view(record["hold_id"]), "018f2a7c");
  EXPECT_EQ(std::string_view(record["key_hash"]).size(), 12u);
  EXPECT_EQ(line_.find("sk-real"), std::string::npos);
  EXPECT_TRUE(bool(record["completed"]));
}

TEST_F(ServiceTest, AStreamIsBilledAndComplete) {
  const Reply reply = OpenAi("output=20 chunks=5 chunk_delay_ms=10", true);
  EXPECT_TRUE(reply.complete);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  EXPECT_EQ(wire_.paused, absl::Milliseconds(50));
  EXPECT_EQ(service_.meter().total(), MiniCost(20));
}

TEST_F(ServiceTest, ErrorsBeforeContentCostNothing) {
  for (const char* fault : {"429", "500", "529", "html", "error_midstream"}) {
    const Reply reply = OpenAi(absl::StrCat("fault=", fault));
    EXPECT_GE(reply.status, 400) << fault;
    EXPECT_FALSE(bool(Last()["billed"])) << fault;
    EXPECT_EQ(std::string_view(Last()["fault"]), fault);
  }
  EXPECT_EQ(service_.meter().total(), NanoUsd(0));
}

TEST_F(ServiceTest, A429SaysWhenToComeBack) {
  EXPECT_NE(OpenAi("fault=429 retry_after=2").headers.find("retry-after: 2\r\n"),
            std::string::npos);
  EXPECT_NE(OpenAi("fault=429").headers.find("retry-after: 1\r\n"), std::string::npos);
  EXPECT_EQ(OpenAi("fault=500").headers.find("retry-after"), std::string::npos);
}

TEST_F(ServiceTest, BillOverridesWhatIsBilled) {
  OpenAi("fault=500 bill=yes output=10");
  EXPECT_EQ(service_.meter().total(), MiniCost(10));
  OpenAi("bill=no output=10");
  EXPECT_EQ(service_.meter().total(), MiniCost(10));
}

TEST_F(ServiceTest, WorkWhoseResultIsLostIsBilledInFull) {
  OpenAi("fault=cut_before_head output=10");
  EXPECT_EQ(wire_.written.find("HTTP"), std::string::npos);
  EXPECT_FALSE(keep_alive_);
  EXPECT_EQ(service_.meter().total(), MiniCost(10));
  OpenAi("fault=hang output=10 hang_ms=5");
  EXPECT_EQ(LastEnd(), "hang");
  EXPECT_EQ(service_.meter().total(), NanoUsd(2 * MiniCost(10).nanos()));
}

TEST_F(ServiceTest, ACutAnswerIsIncompleteAndBilled) {
  const Reply reply = OpenAi("fault=cut output=10");
  EXPECT_EQ(reply.status, 200);
  EXPECT_FALSE(reply.complete);
  EXPECT_FALSE(keep_alive_);
  EXPECT_EQ(LastEnd(), "cut");
  EXPECT_EQ(LastOutput(), 10);
}

TEST_F(ServiceTest, ACutStreamIsBilledForWhatWasGenerated) {
  const Reply reply = OpenAi("fault=cut cut_after=3 output=20 chunks=10", true);
  EXPECT_FALSE(reply.complete);
  EXPECT_FALSE(keep_alive_);
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos);
  EXPECT_EQ(LastOutput(), 6);
  EXPECT_EQ(LastEnd(), "cut");
  EXPECT_EQ(service_.meter().total(), MiniCost(6));
}

TEST_F(ServiceTest, AnErrorMidstreamEndsAProperStream) {
  const Reply reply = OpenAi("fault=error_midstream cut_after=2 output=20 chunks=10", true);
  EXPECT_TRUE(reply.complete);
  EXPECT_NE(reply.body.find("server_error"), std::string::npos);
  EXPECT_EQ(LastOutput(), 4);
}

TEST_F(ServiceTest, AStreamCanHangInTheMiddle) {
  const Reply reply = OpenAi("fault=hang cut_after=2 output=20 chunks=10 hang_ms=7", true);
  EXPECT_FALSE(reply.complete);
  EXPECT_EQ(wire_.paused, absl::Milliseconds(7));
  EXPECT_EQ(LastOutput(), 4);
}

TEST_F(ServiceTest, AClientThatLeavesAStreamPaysWhatWasGenerated) {
  wire_.writes_until_gone = 4;  // head and chunks 1, 2, 3
  OpenAi("output=20 chunks=10", true);
  EXPECT_FALSE(keep_alive_);
  wire_.writes_until_gone = std::numeric_limits<int>::max();
  EXPECT_EQ(LastEnd(), "client_gone");
  EXPECT_EQ(LastOutput(), 8);  // the fourth chunk was generated and met the closed connection
}

TEST_F(ServiceTest, AClientThatLeavesWhileWaitingStopsTheStream) {
  wire_.pauses_until_gone = 3;
  OpenAi("output=20 chunks=10 chunk_delay_ms=5", true);
  EXPECT_EQ(LastOutput(), 4);
}

TEST_F(ServiceTest, AClientThatLeavesPaysEverythingIfTheProviderGoesOn) {
  wire_.writes_until_gone = 2;
  OpenAi("output=20 chunks=10 on_disconnect=continue", true);
  wire_.writes_until_gone = std::numeric_limits<int>::max();
  EXPECT_EQ(LastEnd(), "client_gone");
  EXPECT_EQ(LastOutput(), 20);
}

TEST_F(ServiceTest, AClientThatLeavesBeforeTheAnswerPaysForTheTime) {
  wire_.pauses_until_gone = 1;  // goes at half the latency
  OpenAi("output=20 latency_ms=100");
  EXPECT_EQ(LastEnd(), "client_gone");
  EXPECT_EQ(LastOutput(), 10);
}

TEST_F(ServiceTest, MalformedAnswersDoNotParse) {
  const Reply json = OpenAi("fault=malformed");
  EXPECT_TRUE(json.complete);
  EXPECT_NE(parser_.parse(json.body).error(), simdjson::SUCCESS);
  const Reply stream = OpenAi("fault=malformed cut_after=0", true);
  EXPECT_TRUE(stream.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServiceTest, GzipDecodesToTheAnswer) {
  const Reply json = OpenAi("fault=gzip");
  EXPECT_NE(json.headers.find("content-encoding: gzip"), std::string::npos);
  const std::string body = Gunzip(json.body);
  EXPECT_EQ(parser_.parse(body).error(), simdjson::SUCCESS);
  EXPECT_TRUE(Gunzip(OpenAi("fault=gzip", true).body).ends_with("data: [DONE]\n\n"));
}

TEST_F(ServiceTest, GiganticIsAsLargeAsTold) {
  EXPECT_GT(OpenAi("fault=gigantic size_mb=2").body.size(), 2u << 20);
  EXPECT_GT(OpenAi("fault=gigantic size_mb=2", true).body.size(), 2u << 20);
}

TEST_F(ServiceTest, AMistakenDirectiveIsRefusedByName) {
  const Reply reply = OpenAi("outptu=3");
  EXPECT_EQ(reply.status, 400);
  EXPECT_NE(reply.body.find("outptu"), std::string::npos);
}

TEST_F(ServiceTest, CountTokensIsFreeAndAgreesWithTheBill) {
  const std::string messages = R"("messages":[{"role":"user","content":"hello there"}]})";
  HttpRequest request = {.method = "POST",
                         .path = "/v1/messages/count_tokens",
                         .anthropic_version = "2023-06-01",
                         .body = R"({"model":"claude-haiku-4-5",)" + messages};
  const Reply counted = Send(request);
  EXPECT_EQ(service_.meter().total(), NanoUsd(0));
  request.path = "/v1/messages";
  request.body = R"({"max_tokens":5,"model":"claude-haiku-4-5",)" + messages;
  Send(request);
  EXPECT_EQ(counted.body,
            absl::StrCat("{\"input_tokens\":", int64_t(Last()["usage"]["input_tokens"]), "}"));
}

TEST_F(ServiceTest, UnknownPathsAreAnsweredInTheCallersDialect) {
  EXPECT_EQ(Send({.method = "POST", .path = "/v1/nothing"}).status, 404);
  EXPECT_EQ(std::string_view(Last()["dialect"]), "openai");
  const Reply reply =
      Send({.method = "POST", .path = "/v1/nothing", .anthropic_version = "2023-06-01"});
  EXPECT_NE(reply.body.find("not_found_error"), std::string::npos);
}

TEST_F(ServiceTest, TheControlApiSetsFaultsAndResetsTheMeter) {
  EXPECT_EQ(Send({.method = "POST",
                  .path = "/sim/faults",
                  .body = R"({"rate":1,"faults":["503"],"seed":1})"})
                .status,
            200);
  EXPECT_EQ(OpenAi("").status, 503);
  EXPECT_EQ(Send({.method = "DELETE", .path = "/sim/faults"}).status, 200);
  EXPECT_EQ(OpenAi("").status, 200);
  EXPECT_EQ(Send({.method = "POST", .path = "/sim/faults", .body = "{}"}).status, 400);
  EXPECT_EQ(Send({.method = "DELETE", .path = "/sim/meter"}).status, 200);
  const Reply totals = Send({.method = "GET", .path = "/sim/meter"});
  EXPECT_TRUE(totals.body.starts_with("{\"requests\":0,")) << totals.body;
  EXPECT_EQ(Send({.method = "GET", .path = "/sim/meter/records", .query = "after=x"}).status, 400);
}

class GuardedServiceTest : public ServiceTest {
 protected:
  GuardedServiceTest()
      : ServiceTest({.models = {"gpt-4o"}, .api_key = "sk-real", .prices = PriceTable::Default()}) {
  }
};

TEST_F(GuardedServiceTest, AWrongKeyIs401AndNotEchoed) {
  const Reply reply = Send({.method = "POST",
                            .path = "/v1/chat/completions",
                            .authorization = "Bearer sk-toll-x",
                            .body = "{}"});
  EXPECT_EQ(reply.status, 401);
  EXPECT_EQ(reply.body.find("sk-toll"), std::string::npos);
}

TEST_F(GuardedServiceTest, AModelThatIsNotServedIs404) {
  const Reply reply = OpenAi("");
  EXPECT_EQ(reply.status, 404);
  EXPECT_NE(reply.body.find("model_not_found"), std::string::npos);
  EXPECT_EQ(service_.meter().total(), NanoUsd(0));
}

}  // namespace
}  // namespace tollhouse::simprovider
