#include "services/edge/headers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tollhouse::edge {
namespace {

RequestHead Head(std::vector<HeaderField> fields, std::string_view target = "/v1/models") {
  RequestHead head;
  head.method = "POST";
  head.target = target;
  head.headers.fields = std::move(fields);
  return head;
}

TEST(HeadersTest, KeyComesFromAnyOfTheThreePlaces) {
  EXPECT_EQ(KeyOf(Head({{"Authorization", "Bearer sk-toll-a-b"}})), "sk-toll-a-b");
  EXPECT_EQ(KeyOf(Head({{"X-Api-Key", "sk-toll-a-b"}})), "sk-toll-a-b");
  EXPECT_EQ(KeyOf(Head({{"x-goog-api-key", "sk-toll-a-b"}})), "sk-toll-a-b");
  EXPECT_EQ(KeyOf(Head({{"authorization", "Bearer other"}, {"x-api-key", "sk-toll-a-b"}})),
            "sk-toll-a-b");
  EXPECT_EQ(KeyOf(Head({{"authorization", "Bearer other"}})), "other");
  EXPECT_EQ(KeyOf(Head({{"authorization", "Basic sk-toll-a-b"}})), "");
  EXPECT_EQ(KeyOf(Head({})), "");
}

TEST(HeadersTest, DialectIsThatOfPathOrVersionHeader) {
  EXPECT_EQ(DialectOfHead(Head({}, "/v1/messages?beta=true")), common::v1::DIALECT_ANTHROPIC);
  EXPECT_EQ(DialectOfHead(Head({}, "/v1/models")), common::v1::DIALECT_OPENAI);
  EXPECT_EQ(DialectOfHead(Head({{"Anthropic-Version", "2023-06-01"}}, "/v1/models")),
            common::v1::DIALECT_ANTHROPIC);
  EXPECT_EQ(DialectOfHead(Head({}, "/v1beta/models/x:generateContent")),
            common::v1::DIALECT_GEMINI);
}

TEST(HeadersTest, EncodingsAreThoseOfCallerAndMeter) {
  EXPECT_EQ(AcceptEncoding(false, "gzip, deflate, br;q=0.5, snappy"), "gzip, deflate, br");
  EXPECT_EQ(AcceptEncoding(false, "gzip;q=0, br;q=0.000, zstd"), "zstd");
  EXPECT_EQ(AcceptEncoding(false, ""), "identity");
  EXPECT_EQ(AcceptEncoding(false, "*"), "identity");
  EXPECT_EQ(AcceptEncoding(true, "gzip"), "identity");
}

TEST(HeadersTest, QueryLosesKeys) {
  EXPECT_EQ(QueryOf("/v1/messages?beta=true"), "?beta=true");
  EXPECT_EQ(QueryOf("/x?key=secret&a=1&KEY=b"), "?a=1");
  EXPECT_EQ(QueryOf("/x"), "");
}

TEST(HeadersTest, AnswerLosesWhatIsForOneHopOrOneConnection) {
  ResponseHead head;
  head.headers.fields = {{"Content-Type", "application/json"}, {"Content-Length", "3"},
                         {"Set-Cookie", "a=b"},                {"Transfer-Encoding", "chunked"},
                         {"X-Hop", "1"},                       {"Connection", "x-hop"},
                         {"x-tollhouse-cost-nanousd", "0"},    {"Content-Encoding", "gzip"}};
  EXPECT_EQ(AnswerHeaders(head, false),
            (HeaderList{{"content-type", "application/json"}, {"content-encoding", "gzip"}}));
  EXPECT_EQ(AnswerHeaders(head, true), (HeaderList{{"content-type", "application/json"}}));
}

}  // namespace
}  // namespace tollhouse::edge
