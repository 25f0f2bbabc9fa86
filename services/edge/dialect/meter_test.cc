#include "services/edge/dialect/meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libs/testing/seed.h"
#include "services/edge/dialect/allocations_testing.h"
#include "services/edge/dialect/answers_testing.h"
#include "services/edge/dialect/decode.h"

namespace tollhouse::edge {
namespace {

using common::v1::USAGE_SOURCE_FINAL;
using common::v1::USAGE_SOURCE_PARTIAL;
using common::v1::USAGE_SOURCE_UNSPECIFIED;

constexpr Endpoint kChat = Endpoint::kChatCompletions;
constexpr Endpoint kMessages = Endpoint::kMessages;

struct Outcome {
  MeterResult result;
  std::string downstream;
};

// Feeds the pieces that `sizes` cut the body into (the last size repeats).
template <typename NextSize>
Outcome Replay(Endpoint endpoint, bool sse, const MeterOptions& options, std::string_view body,
               NextSize next) {
  auto meter = NewResponseMeter(endpoint, sse, options);
  Outcome outcome;
  while (!body.empty()) {
    const size_t size = std::min<size_t>(next(), body.size());
    // Its own allocation, so that sanitizers see reads beyond the piece.
    const std::vector<char> piece(body.begin(), body.begin() + size);
    meter->Feed({piece.data(), piece.size()}, &outcome.downstream);
    body.remove_prefix(size);
  }
  outcome.result = meter->Finish(&outcome.downstream);
  return outcome;
}

std::string Lines(const MeterResult& result) {
  std::string text;
  for (const auto& line : result.usage) absl::StrAppend(&text, line.ShortDebugString(), "\n");
  return text;
}

std::string Summary(const MeterResult& r) {
  return absl::StrCat(Lines(r), "source ", static_cast<int>(r.source), " present ", r.usage_present,
                      " complete ", r.complete, " error ", r.provider_error, " ", r.error_type, "/",
                      r.error_code, " model ", r.response_model, " bytes ", r.visible_output_bytes,
                      " deltas ", r.deltas, " counted ", r.counted_tokens, " ambiguous ",
                      r.ambiguous, " unmetered ", r.unmetered);
}

// The result of the whole body, after checking that one byte at a time and 100 random splits come
// to the same, for the caller's bytes too.
Outcome ReplayEveryWay(Endpoint endpoint, bool sse, const MeterOptions& options,
                       const std::string& body, std::mt19937_64& random) {
  Outcome whole = Replay(endpoint, sse, options, body, [&] { return body.size(); });
  const auto check = [&](const Outcome& other, std::string_view how) {
    EXPECT_EQ(Summary(other.result), Summary(whole.result)) << how;
    EXPECT_TRUE(other.downstream == whole.downstream) << how << "\n"
                                                      << other.downstream.substr(0, 2000);
  };
  check(Replay(endpoint, sse, options, body, [] { return size_t{1}; }), "byte by byte");
  const int rounds = body.size() > 100'000 ? 10 : 100;
  for (int round = 0; round < rounds; ++round) {
    const size_t longest = 1 + random() % (body.size() < 40 ? 20 : body.size() / 2);
    check(Replay(endpoint, sse, options, body, [&] { return 1 + random() % longest; }),
          absl::StrCat("random split ", round));
  }
  return whole;
}

class MeterTest : public ::testing::Test {
 protected:
  Outcome Run(Endpoint endpoint, const std::string& body, MeterOptions options = {}) {
    const bool sse = body.empty() || (body[0] != '{' && body[0] != '[');
    return ReplayEveryWay(endpoint, sse, options, body, random_);
  }

  std::mt19937_64 random_{testing::TestSeed()};
};

// --- material
// --------------------------------------------------------------------------------------
std::string Event(const std::string& data) { return absl::StrCat("data: ", data, "\n\n"); }

std::string Delta(const std::string& content, const std::string& tail = "") {
  return absl::StrCat(
      R"({"id":"c1","object":"chat.completion.chunk","model":"gpt-test","service_tier":"default","choices":[{"index":0,"delta":{"content":")",
      content, R"("},"finish_reason":null}])", tail, "}");
}
const char kStop[] =
    R"({"id":"c1","model":"gpt-test","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})";
const char kUsage[] =
    R"({"id":"c1","model":"gpt-test","service_tier":"priority","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":10},"completion_tokens_details":{"reasoning_tokens":5}}})";
const char kDone[] = "[DONE]";

std::string ChatStream() {
  return Event(Delta("Hel")) + Event(Delta("lo")) + Event(kStop) + Event(kUsage) + Event(kDone);
}

std::string Ant(const std::string& type, const std::string& members) {
  return absl::StrCat("event: ", type, "\ndata: {\"type\":\"", type, "\"",
                      members.empty() ? "" : ",", members, "}\n\n");
}
std::string AntStart(const std::string& usage) {
  return Ant("message_start",
             absl::StrCat(R"("message":{"id":"m","model":"claude-test","content":[],"usage":)",
                          usage, "}"));
}
std::string AntText(const std::string& text) {
  return Ant("content_block_delta",
             absl::StrCat(R"("index":0,"delta":{"type":"text_delta","text":")", text, "\"}"));
}
std::string AntDelta(const std::string& usage) {
  return Ant("message_delta",
             absl::StrCat(R"("delta":{"stop_reason":"end_turn"},"usage":)", usage));
}
std::string AntStop() { return Ant("message_stop", ""); }

// --- OpenAI chat
// -----------------------------------------------------------------------------------
TEST_F(MeterTest, ChatStreamIsMeteredAndPassedUntouched) {
  const Outcome outcome = Run(kChat, ChatStream());
  EXPECT_EQ(outcome.downstream, ChatStream());
  const MeterResult& r = outcome.result;
  EXPECT_TRUE(r.complete);
  EXPECT_EQ(r.source, USAGE_SOURCE_FINAL);
  EXPECT_EQ(r.response_model, "gpt-test");
  EXPECT_EQ(r.visible_output_bytes, 5);
  EXPECT_EQ(r.deltas, 2);
  ASSERT_EQ(r.usage.size(), 1);
  EXPECT_EQ(r.usage[0].ShortDebugString(),
            "model: \"gpt-test\" usage { input_tokens_uncached: 30 cache_read_tokens: 60 "
            "cache_write_5m_tokens: 10 "
            "output_tokens: 20 reasoning_tokens: 5 } service_tier: \"priority\"");
}

TEST_F(MeterTest, InjectedUsageIsKeptFromTheCaller) {
  const std::string body =
      Event(Delta("a", ",\"usage\":null")) + ": keep-alive\n\n" +
      Event(absl::StrReplaceAll(Delta("b"), {{"{\"id\"", "{\"usage\" : null , \"id\""}})) +
      Event(kStop) + Event(kUsage) + Event(kDone);
  const Outcome outcome = Run(kChat, body, {.drop_usage_chunk = true});
  EXPECT_EQ(outcome.downstream,
            Event(Delta("a")) + ": keep-alive\n\n" +
                Event(absl::StrReplaceAll(Delta("b"), {{"{\"id\"", "{ \"id\""}})) + Event(kStop) +
                Event(kDone));
  EXPECT_EQ(outcome.result.source, USAGE_SOURCE_FINAL);
}

TEST_F(MeterTest, InjectedUsageIsDroppedUnderEveryLineEnd) {
  for (const std::string end : {"\r\n", "\r", "\n"}) {
    const auto framed = [&](const std::string& text) {
      return absl::StrReplaceAll(text, {{"\n", end}});
    };
    const std::string body = framed(Event(Delta("a")) + Event(kUsage) + Event(kDone));
    const Outcome outcome = Run(kChat, body, {.drop_usage_chunk = true});
    EXPECT_EQ(outcome.downstream, framed(Event(Delta("a")) + Event(kDone)));
    EXPECT_TRUE(outcome.result.usage_present);
  }
}

// What carries more than the injected usage reaches the caller as it is.
TEST_F(MeterTest, OnlyThePureUsageChunkIsDropped) {
  for (const std::string& chunk :
       {Delta("x", R"(,"usage":{"prompt_tokens":1,"completion_tokens":1})"),
        std::string(R"({"choices":[],"model":"","prompt_filter_results":[]})"),
        std::string(R"({"choices":[],"usage":{"prompt_tokens":1},"error":{"code":1}})"),
        std::string(R"({"choices":[{"delta":{"content":"\"usage\":null,{\"usage\":{}}"}}]})"),
        std::string(R"({"nested":{"usage":null},"choices":[]})"), std::string("not json")}) {
    EXPECT_EQ(Run(kChat, Event(chunk), {.drop_usage_chunk = true}).downstream, Event(chunk));
  }
}

TEST_F(MeterTest, LastUsageWinsAndIsNeverAdded) {
  std::string body;
  for (int i = 1; i <= 5; ++i) {
    body += Event(
        Delta("x", absl::StrCat(R"(,"usage":{"prompt_tokens":50,"completion_tokens":)", i, "}")));
  }
  Outcome outcome = Run(kChat, body);
  EXPECT_EQ(outcome.result.usage[0].usage().output_tokens(), 5);
  EXPECT_EQ(outcome.result.source, USAGE_SOURCE_PARTIAL);
  EXPECT_FALSE(outcome.result.complete);
  outcome = Run(kChat, body + Event(kStop) + Event(kDone));
  EXPECT_EQ(outcome.result.source, USAGE_SOURCE_FINAL);
  EXPECT_EQ(outcome.result.usage[0].usage().output_tokens(), 5);
}

struct VendorCase {
  std::string name;
  std::string usage;
  int64_t uncached, cached, output, reasoning;
};

TEST_F(MeterTest, VendorsOfTheChatDialectAreRead) {
  const VendorCase cases[] = {
      {"xAI leaves reasoning out of completion_tokens",
       R"({"prompt_tokens":12,"completion_tokens":1,"total_tokens":241,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":228}})",
       10, 2, 229, 228},
      {"Gemini's thoughts are in total_tokens alone",
       R"({"prompt_tokens":35,"completion_tokens":12,"total_tokens":109})", 35, 0, 74, 62},
      {"Mistral",
       R"({"prompt_tokens":152,"completion_tokens":12,"total_tokens":164,"num_cached_tokens":151})",
       1, 151, 12, 0},
      {"Moonshot",
       R"({"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"cached_tokens":40})", 60,
       40, 5, 0},
      {"DeepSeek",
       R"({"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"prompt_tokens_details":{"cached_tokens":64},"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36})",
       36, 64, 5, 0},
      {"OpenRouter reports more reasoning than output",
       R"({"prompt_tokens":43,"completion_tokens":10,"total_tokens":53,"cost":0.1,"completion_tokens_details":{"reasoning_tokens":11}})",
       43, 0, 10, 11},
      {"Counts as floats", R"({"prompt_tokens":43.0,"completion_tokens":9.5,"total_tokens":53})",
       43, 0, 10, 0},
      {"Null details",
       R"({"prompt_tokens":4,"completion_tokens":2,"total_tokens":null,"prompt_tokens_details":null})",
       4, 0, 2, 0},
      {"More cached than prompt", R"({"prompt_tokens":4,"completion_tokens":2,"cached_tokens":9})",
       0, 4, 2, 0},
  };
  for (const VendorCase& vendor : cases) {
    const std::string chunk = absl::StrCat(
        R"({"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":)",
        vendor.usage, "}");
    for (const std::string& body : {Event(chunk) + Event(kDone), chunk}) {
      const MeterResult r = Run(kChat, body).result;
      ASSERT_EQ(r.usage.size(), 1) << vendor.name;
      EXPECT_EQ(r.usage[0].usage().input_tokens_uncached(), vendor.uncached) << vendor.name;
      EXPECT_EQ(r.usage[0].usage().cache_read_tokens(), vendor.cached) << vendor.name;
      EXPECT_EQ(r.usage[0].usage().output_tokens(), vendor.output) << vendor.name;
      EXPECT_EQ(r.usage[0].usage().reasoning_tokens(), vendor.reasoning) << vendor.name;
      EXPECT_EQ(r.source, USAGE_SOURCE_FINAL) << vendor.name;
    }
  }
}

TEST_F(MeterTest, GroqsSecondUsageIsNotAddedButReadWhereItIsTheOnlyOne) {
  const std::string usage =
      R"("usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10})";
  for (const std::string& tail : {absl::StrCat("\"x_groq\":{", usage, "},", usage),
                                  absl::StrCat("\"x_groq\":{", usage, "}")}) {
    const MeterResult r =
        Run(kChat, Event(absl::StrCat(R"({"choices":[{"finish_reason":"stop"}],)", tail, "}")) +
                       Event(kDone))
            .result;
    ASSERT_EQ(r.usage.size(), 1);
    EXPECT_EQ(r.usage[0].usage().input_tokens_uncached(), 7);
    EXPECT_EQ(r.usage[0].usage().output_tokens(), 3);
  }
}

TEST_F(MeterTest, AudioAndImageTokensAreClassesOfTheirOwn) {
  const MeterResult r =
      Run(kChat,
          R"({"model":"m","choices":[{"message":{"content":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"audio_tokens":60,"cached_tokens":50,"image_tokens":10},"completion_tokens_details":{"audio_tokens":30}}})")
          .result;
  const common::v1::Usage& u = r.usage[0].usage();
  EXPECT_EQ(u.audio_input_tokens(), 50);
  EXPECT_EQ(u.audio_cache_read_tokens(), 10);
  EXPECT_EQ(u.cache_read_tokens(), 40);
  EXPECT_EQ(u.input_tokens_uncached() + u.image_input_tokens(), 0);
  EXPECT_EQ(u.output_tokens(), 20);
  EXPECT_EQ(u.audio_output_tokens(), 30);
}

TEST_F(MeterTest, DecoysInTextAreNotUsage) {
  const std::string decoy =
      R"({\"usage\":{\"prompt_tokens\":999999,\"completion_tokens\":888888}} data: [DONE]\n\ndata: {\"usage\":{}})";
  const std::string body =
      Event(Delta(decoy)) + Event(Delta(R"(\\\"usage\\\":)")) +
      Event(
          R"({"choices":[{"delta":{"usage":{"prompt_tokens":5}}}],"meta":{"usage":{"completion_tokens":5}}})") +
      Event(kStop) + Event(kUsage) + Event(kDone);
  const Outcome outcome = Run(kChat, body, {.drop_usage_chunk = true});
  EXPECT_EQ(outcome.result.usage[0].usage().output_tokens(), 20);
  EXPECT_EQ(outcome.downstream, absl::StrReplaceAll(body, {{Event(kUsage), ""}}));
  const Outcome without = Run(kChat, Event(Delta(decoy)));
  EXPECT_FALSE(without.result.usage_present);
  EXPECT_FALSE(without.result.complete);
}

TEST_F(MeterTest, EscapedKeysAreTheSameKeys) {
  const MeterResult r =
      Run(kChat,
          Event(R"({"choices":[],"us\u0061ge":{"prompt\u005ftokens":3,"completion_tokens":4}})") +
              Event(kDone))
          .result;
  ASSERT_TRUE(r.usage_present);
  EXPECT_EQ(r.usage[0].usage().input_tokens_uncached(), 3);
}

TEST_F(MeterTest, ErrorsWithinAStreamAreSeen) {
  MeterResult r =
      Run(kChat, Event(Delta("x")) +
                     Event(R"({"error":{"message":"no","type":"server_error","code":500}})"))
          .result;
  EXPECT_TRUE(r.provider_error);
  EXPECT_FALSE(r.complete);
  EXPECT_FALSE(r.usage_present);
  EXPECT_EQ(r.error_type, "server_error");
  EXPECT_EQ(r.error_code, "500");
  r = Run(kChat, Event(Delta("x")) + Event(R"({"error":null,"choices":[]})") + Event(kDone)).result;
  EXPECT_FALSE(r.provider_error);
  EXPECT_TRUE(r.complete);
}

TEST_F(MeterTest, StreamsWithoutDoneAreCompleteWhenEveryChoiceFinished) {
  const auto finish = [](int i) {
    return Event(
        absl::StrCat(R"({"choices":[{"index":)", i, R"(,"delta":{},"finish_reason":"stop"}]})"));
  };
  EXPECT_TRUE(Run(kChat, finish(0)).result.complete);
  EXPECT_FALSE(Run(kChat, finish(0) + finish(0), {.choices = 2}).result.complete);
  EXPECT_TRUE(Run(kChat, finish(1) + finish(0), {.choices = 2}).result.complete);
}

TEST_F(MeterTest, AnEndWithoutBlankLineIsAnEnd) {
  const std::string body = absl::StrCat(Event(kUsage), "data: [DONE]");
  const Outcome outcome = Run(kChat, body);
  EXPECT_EQ(outcome.downstream, body);
  EXPECT_TRUE(outcome.result.complete);
  EXPECT_EQ(Run(kChat, absl::StrCat("data:", kUsage)).result.usage[0].usage().output_tokens(), 20);
}

TEST_F(MeterTest, FramingOddities) {
  const std::string split = absl::StrReplaceAll(kUsage, {{",\"usage\"", "\ndata: ,\"usage\""}});
  const std::string body =
      absl::StrCat("\xef\xbb\xbf", ": hello\n\nretry: 3000\n\nid: 7\nfoo: bar\ndata:", Delta("x"),
                   "\n\ndata\n\n\n\nevent: x\ndata: ", split, "\n\n", Event(kDone));
  const Outcome outcome = Run(kChat, body);
  EXPECT_EQ(outcome.downstream, body);
  ASSERT_TRUE(outcome.result.usage_present);
  EXPECT_EQ(outcome.result.usage[0].usage().output_tokens(), 20);
  EXPECT_EQ(outcome.result.deltas, 1);
  const MeterResult bom = Run(kChat, "\xef\xbb\xbf" + Event(kUsage)).result;
  EXPECT_TRUE(bom.usage_present);
}

TEST_F(MeterTest, VisibleOutputCountsDecodedBytes) {
  const MeterResult r =
      Run(kChat,
          Event(Delta(R"(a\n\u0041\u00e9\ud83d\ude00)")) +
              Event(R"({"choices":[{"delta":{"reasoning":"abc","reasoning_content":"abc"}}]})") +
              Event(
                  R"({"choices":[{"delta":{"tool_calls":[{"index":0,"id":"call_123","function":{"name":"get","arguments":"{\"a\":1}"}}]}}]})") +
              Event(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})"))
          .result;
  EXPECT_EQ(r.visible_output_bytes, (1 + 1 + 1 + 2 + 4) + 3 + (3 + 7));
  EXPECT_EQ(r.deltas, 3);
  EXPECT_EQ(EstimateOutputTokens({.visible_output_bytes = 21, .deltas = 3}), 6);
  EXPECT_EQ(EstimateOutputTokens({.visible_output_bytes = 21, .deltas = 30}), 30);
  EXPECT_EQ(EstimateOutputTokens({.reported_output_tokens = 77}), 77);
  EXPECT_EQ(EstimateOutputTokens({}), 1);
}

// --- Anthropic
// -------------------------------------------------------------------------------------
TEST_F(MeterTest, MessagesCountsAreCumulativeAndNullsSayNothing) {
  const std::string body =
      AntStart(
          R"({"input_tokens":43,"cache_read_input_tokens":7,"cache_creation_input_tokens":null,"output_tokens":2,"service_tier":"standard"})") +
      Ant("ping", "") + AntText("hi") +
      Ant("message_delta", R"("delta":{"stop_reason":null},"usage":{"output_tokens":40})") +
      AntDelta(
          R"({"input_tokens":61,"cache_read_input_tokens":null,"output_tokens":55,"output_tokens_details":{"thinking_tokens":9}})") +
      AntStop();
  const Outcome outcome = Run(kMessages, body);
  EXPECT_EQ(outcome.downstream, body);
  EXPECT_TRUE(outcome.result.complete);
  EXPECT_EQ(outcome.result.source, USAGE_SOURCE_FINAL);
  EXPECT_EQ(outcome.result.usage[0].ShortDebugString(),
            "model: \"claude-test\" usage { input_tokens_uncached: 61 cache_read_tokens: 7 "
            "output_tokens: 55 "
            "reasoning_tokens: 9 } service_tier: \"standard\"");
}

TEST_F(MeterTest, ASecondStartAddsNothing) {
  const std::string start = AntStart(R"({"input_tokens":17,"output_tokens":1})");
  const MeterResult r =
      Run(kMessages, start + start + AntDelta(R"({"output_tokens":227})") + AntStop()).result;
  EXPECT_EQ(r.usage[0].usage().input_tokens_uncached(), 17);
  EXPECT_EQ(r.usage[0].usage().output_tokens(), 227);
}

TEST_F(MeterTest, CacheWritesThatGrowGoToTheLifetimeOfTheRequest) {
  const std::string body =
      AntStart(
          R"({"input_tokens":1,"cache_creation_input_tokens":3068,"cache_creation":{"ephemeral_5m_input_tokens":3000,"ephemeral_1h_input_tokens":68},"output_tokens":1})") +
      AntDelta(R"({"cache_creation_input_tokens":3337,"output_tokens":5})") + AntStop();
  MeterResult r = Run(kMessages, body, {.cache_write_1h = false}).result;
  EXPECT_EQ(r.usage[0].usage().cache_write_5m_tokens(), 3269);
  EXPECT_EQ(r.usage[0].usage().cache_write_1h_tokens(), 68);
  r = Run(kMessages, body, {.cache_write_1h = true}).result;
  EXPECT_EQ(r.usage[0].usage().cache_write_5m_tokens(), 3000);
  EXPECT_EQ(r.usage[0].usage().cache_write_1h_tokens(), 337);
}

TEST_F(MeterTest, EveryPassIsBilledAtItsOwnModel) {
  const std::string body =
      AntStart(R"({"input_tokens":10,"output_tokens":1})") +
      AntDelta(
          R"({"input_tokens":30,"output_tokens":12,"output_tokens_details":{"thinking_tokens":6},"server_tool_use":{"web_search_requests":2},"iterations":[
        {"type":"compaction","input_tokens":100,"cache_read_input_tokens":55096,"output_tokens":83},
        {"type":"message","input_tokens":10,"output_tokens":4},
        {"type":"advisor_message","model":"claude-other","input_tokens":2543,"output_tokens":18},
        {"type":"message","input_tokens":20,"output_tokens":8,"cache_creation_input_tokens":5,"cache_creation":{"ephemeral_1h_input_tokens":5}}]})") +
      AntStop();
  const MeterResult r = Run(kMessages, absl::StrReplaceAll(body, {{"\n        ", ""}})).result;
  EXPECT_EQ(Lines(r),
            "model: \"claude-test\" usage { input_tokens_uncached: 100 cache_read_tokens: 55096 "
            "output_tokens: 83 web_search_calls: 2 }\n"
            "model: \"claude-test\" usage { input_tokens_uncached: 10 output_tokens: 4 "
            "reasoning_tokens: 4 }\n"
            "model: \"claude-other\" usage { input_tokens_uncached: 2543 output_tokens: 18 }\n"
            "model: \"claude-test\" usage { input_tokens_uncached: 20 cache_write_1h_tokens: 5 "
            "output_tokens: 8 reasoning_tokens: 2 }\n");
  EXPECT_FALSE(r.ambiguous);
}

TEST_F(MeterTest, TotalsBeyondThePassesAreBilledToo) {
  const MeterResult r =
      Run(kMessages,
          R"({"type":"message","model":"c","content":[],"usage":{"input_tokens":50,"output_tokens":9,"iterations":[{"type":"message","input_tokens":20,"output_tokens":9}]}})")
          .result;
  EXPECT_EQ(Lines(r),
            "model: \"c\" usage { input_tokens_uncached: 20 output_tokens: 9 }\n"
            "model: \"c\" usage { input_tokens_uncached: 30 }\n");
}

TEST_F(MeterTest, AFallbackIsBilledAsServedAndFlagged) {
  const MeterResult r =
      Run(kMessages,
          R"({"type":"message","model":"asked","content":[],"usage":{"input_tokens":50,"output_tokens":9,"iterations":[{"type":"message","model":"asked","input_tokens":20,"output_tokens":0},{"type":"fallback_message","model":"served","input_tokens":50,"output_tokens":9}]}})")
          .result;
  EXPECT_EQ(Lines(r), "model: \"served\" usage { input_tokens_uncached: 50 output_tokens: 9 }\n");
  EXPECT_TRUE(r.ambiguous);
}

TEST_F(MeterTest, ServerToolLoopsBeyondTheWindowAreSplitIntoInferences) {
  const std::string body =
      R"({"type":"message","model":"c","content":[],"usage":{"input_tokens":404500,"cache_read_input_tokens":1000,"output_tokens":943,"server_tool_use":{"web_search_requests":10}}})";
  const MeterResult r = Run(kMessages, body, {.inference_input_max = 200'000}).result;
  ASSERT_EQ(r.usage.size(), 3);
  int64_t input = 0, output = 0, searches = 0;
  for (const auto& line : r.usage) {
    const int64_t own = line.usage().input_tokens_uncached() + line.usage().cache_read_tokens();
    EXPECT_LE(own, 200'000);
    input += own;
    output += line.usage().output_tokens();
    searches += line.usage().web_search_calls();
    EXPECT_EQ(line.model(), "c");
  }
  EXPECT_EQ(input, 405'500);
  EXPECT_EQ(output, 943);
  EXPECT_EQ(searches, 10);
  EXPECT_EQ(Run(kMessages, body).result.usage.size(), 1);
  // One inference beyond the window means that the window is larger than we know.
  EXPECT_EQ(Run(kMessages, absl::StrReplaceAll(body, {{"\"web_search_requests\":10", ""}}),
                {.inference_input_max = 200'000})
                .result.usage.size(),
            1);
}

TEST_F(MeterTest, BrokenMessagesLeaveAFloor) {
  const std::string start = AntStart(R"({"input_tokens":1234,"output_tokens":2})");
  MeterResult r =
      Run(kMessages, start + AntText("abc") +
                         Ant("error", R"("error":{"type":"overloaded_error","message":"x"})"))
          .result;
  EXPECT_TRUE(r.provider_error);
  EXPECT_EQ(r.error_type, "overloaded_error");
  EXPECT_EQ(r.source, USAGE_SOURCE_PARTIAL);
  EXPECT_FALSE(r.complete);
  EXPECT_EQ(r.usage[0].usage().input_tokens_uncached(), 1234);
  EXPECT_EQ(r.visible_output_bytes, 3);
  r = Run(kMessages, start + AntText("abc")).result;
  EXPECT_EQ(r.source, USAGE_SOURCE_PARTIAL);
  EXPECT_FALSE(r.provider_error);
  r = Run(kMessages, start + AntDelta(R"({"output_tokens":5})")).result;
  EXPECT_EQ(r.source, USAGE_SOURCE_FINAL);
  EXPECT_FALSE(r.complete);
}

TEST_F(MeterTest, ModifiersOfTheAnswerReachTheUsage) {
  const MeterResult r =
      Run(kMessages,
          R"({"type":"message","model":"c","content":[],"usage":{"input_tokens":1,"output_tokens":1,"speed":"fast","inference_geo":"us","service_tier":"priority"}})")
          .result;
  EXPECT_EQ(Lines(r),
            "model: \"c\" usage { input_tokens_uncached: 1 output_tokens: 1 } service_tier: "
            "\"priority\" modifiers: \"speed:fast\" modifiers: \"geo:us\"\n");
}

TEST_F(MeterTest, CountTokensIsFreeAndCounted) {
  const MeterResult r = Run(Endpoint::kCountTokens, R"({"input_tokens":2095})").result;
  EXPECT_EQ(r.counted_tokens, 2095);
  EXPECT_TRUE(r.usage.empty());
  EXPECT_TRUE(r.complete);
}

// --- bodies that are not what they should be
// -------------------------------------------------------
TEST_F(MeterTest, ErrorBodiesAndRubbishAreNoUsage) {
  MeterResult r =
      Run(kChat,
          R"({"error":{"message":"x","type":"invalid_request_error","param":null,"code":"invalid_api_key"}})")
          .result;
  EXPECT_TRUE(r.provider_error);
  EXPECT_EQ(r.error_code, "invalid_api_key");
  EXPECT_FALSE(r.complete);
  r = Run(kMessages, R"({"type":"error","error":{"type":"not_found_error","message":"x"}})").result;
  EXPECT_TRUE(r.provider_error);
  EXPECT_EQ(r.error_type, "not_found_error");
  for (const std::string& body :
       {std::string("<html><body>502 Bad Gateway</body></html>"), std::string("{\"choices\":["),
        std::string("null"), std::string("[[[["), std::string("{}")}) {
    const bool sse = random_() % 2 == 0;
    const Outcome outcome = ReplayEveryWay(kChat, sse, {}, body, random_);
    EXPECT_EQ(outcome.downstream, body);
    EXPECT_FALSE(outcome.result.usage_present) << body;
    EXPECT_FALSE(outcome.result.complete) << body;
    EXPECT_EQ(outcome.result.source, USAGE_SOURCE_UNSPECIFIED);
  }
  const Outcome empty = Replay(kChat, true, {}, "", [] { return size_t{1}; });
  EXPECT_FALSE(empty.result.complete);
}

TEST_F(MeterTest, TheFirstByteDecidesOverTheContentType) {
  const std::string json =
      R"({"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}})";
  EXPECT_TRUE(ReplayEveryWay(kChat, true, {}, json, random_).result.usage_present);
  EXPECT_TRUE(ReplayEveryWay(kChat, false, {}, ChatStream(), random_).result.usage_present);
}

TEST_F(MeterTest, GiganticAnswersPassUnmetered) {
  const std::string body = absl::StrCat(R"({"choices":[],"x":")", std::string(100'000, 'x'),
                                        R"(","usage":{"prompt_tokens":1}})");
  MeterOptions options;
  options.json_bytes_max = 50'000;
  const Outcome outcome = Replay(kChat, false, options, body, [] { return size_t{1000}; });
  EXPECT_EQ(outcome.downstream, body);
  EXPECT_TRUE(outcome.result.unmetered);
  EXPECT_FALSE(outcome.result.usage_present);
}

TEST_F(MeterTest, AGiganticEventPassesAndTheNextIsMetered) {
  const std::string huge = Event(Delta(std::string(3 << 20, 'y')));
  MeterOptions options;
  options.drop_usage_chunk = true;
  for (const size_t limit : {size_t{2} << 20, size_t{16} << 20}) {
    options.event_bytes_max = limit;
    for (const std::string end : {"\n", "\r\n", "\r"}) {
      const auto framed = [&](const std::string& text) {
        return absl::StrReplaceAll(text, {{"\n", end}});
      };
      const std::string body = framed(huge + Event(kStop) + Event(kUsage) + Event(kDone));
      const Outcome outcome =
          Replay(kChat, true, options, body, [&] { return 1 + random_() % 100'000; });
      EXPECT_TRUE(outcome.downstream == framed(huge + Event(kStop) + Event(kDone)));
      EXPECT_TRUE(outcome.result.usage_present);
      EXPECT_EQ(outcome.result.unmetered, limit == size_t{2} << 20);
      EXPECT_EQ(outcome.result.deltas, limit == size_t{2} << 20 ? 0 : 1);
    }
  }
}

// The line end that follows the forgotten part of a line is no blank line.
TEST_F(MeterTest, WhatRemainsOfAGiganticEventIsNotReadAlone) {
  MeterOptions options;
  options.event_bytes_max = size_t{1} << 20;
  auto meter = NewResponseMeter(kChat, true, options);
  const std::string line = absl::StrCat("data: ", Delta(std::string(2 << 20, 'y')));
  std::string out;
  meter->Feed(line, &out);
  const std::string rest = absl::StrCat("\ndata: ", kUsage, "\n\n");
  meter->Feed(rest, &out);
  const MeterResult result = meter->Finish(&out);
  EXPECT_FALSE(result.usage_present);
  EXPECT_TRUE(result.unmetered);
  EXPECT_TRUE(out == line + rest);
}

TEST_F(MeterTest, CutsAnywhereAreNoCrashAndLoseNoByte) {
  for (const std::string& body :
       {ChatStream(), AntStart(R"({"input_tokens":5,"output_tokens":1})") + AntText("abc") +
                          AntDelta(R"({"output_tokens":9})") + AntStop()}) {
    for (size_t length = 0; length <= body.size(); ++length) {
      const Endpoint endpoint = body[0] == 'e' ? kMessages : kChat;
      const Outcome outcome =
          Replay(endpoint, true, {}, body.substr(0, length), [] { return size_t{7}; });
      ASSERT_EQ(outcome.downstream, body.substr(0, length));
    }
  }
}

TEST_F(MeterTest, MutatedBodiesAreNoCrash) {
  const std::string seeds[] = {
      ChatStream(),
      AntStart(R"({"input_tokens":5,"output_tokens":1})") +
          AntDelta(R"({"output_tokens":9,"iterations":[{"type":"message","output_tokens":1}]})") +
          AntStop(),
      std::string(kUsage)};
  static const char kBytes[] = "{}[]\",:\\ 0-1.eutfn\x80\xff\n\r";
  for (int round = 0; round < 20'000; ++round) {
    std::string body = seeds[random_() % 3];
    for (int edits = random_() % 4; edits >= 0 && !body.empty(); --edits) {
      const size_t at = random_() % body.size();
      switch (random_() % 3) {
        case 0:
          body[at] = kBytes[random_() % (sizeof kBytes - 1)];
          break;
        case 1:
          body.erase(at, 1 + random_() % 9);
          break;
        default:
          body.insert(at, 1, kBytes[random_() % (sizeof kBytes - 1)]);
          break;
      }
    }
    const Outcome outcome = Replay(random_() % 2 ? kMessages : kChat, random_() % 2, {}, body,
                                   [&] { return 1 + random_() % 60; });
    ASSERT_EQ(outcome.downstream, body);
  }
}

TEST_F(MeterTest, NoPrefixOfADocumentIsComplete) {
  const std::string bodies[] = {
      R"({"choices":[{"message":{"content":"hi"},"finish_reason":null}],"model":"m","usage":{"prompt_tokens":1,"completion_tokens":2}})",
      R"({"type":"message","model":"m","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":1,"output_tokens":2,"iterations":[{"type":"message"}]}})"};
  for (const Endpoint endpoint : {kChat, kMessages}) {
    const std::string& body = bodies[endpoint == kChat ? 0 : 1];
    for (size_t length = 1; length <= body.size(); ++length) {
      const std::string prefix = body.substr(0, length);
      const MeterResult r = Replay(endpoint, false, {}, prefix, [&] { return length; }).result;
      ASSERT_EQ(r.complete, length == body.size()) << prefix;
      ASSERT_EQ(r.source == USAGE_SOURCE_FINAL, length == body.size()) << prefix;
    }
  }
}

// --- content encodings
// -----------------------------------------------------------------------------
TEST_F(MeterTest, CompressedBodiesPassUntouchedAndAreMetered) {
  const std::string text = ChatStream();
  const std::pair<std::string, std::string> bodies[] = {
      {"gzip", Gzip(text)},
      {"GZIP ", Gzip(text, 15 + 16, true)},
      {"x-gzip", Gzip(ChatStream().substr(0, 100)) + Gzip(text.substr(100))},
      {"deflate", Gzip(text, 15)},
      {"deflate", Gzip(text, -15)},
      {"br", Brotli(text)},
      {"zstd", Zstd(text)}};
  for (const auto& [encoding, body] : bodies) {
    const Outcome outcome =
        ReplayEveryWay(kChat, true, {.content_encoding = encoding}, body, random_);
    EXPECT_EQ(outcome.downstream, body) << encoding;
    ASSERT_TRUE(outcome.result.usage_present) << encoding;
    EXPECT_EQ(outcome.result.usage[0].usage().output_tokens(), 20) << encoding;
    EXPECT_TRUE(outcome.result.complete) << encoding;
  }
}

TEST_F(MeterTest, DroppingFromACompressedStreamDecodesIt) {
  const MeterOptions options{.content_encoding = "gzip", .drop_usage_chunk = true};
  EXPECT_TRUE(NewResponseMeter(kChat, true, options)->decodes_downstream());
  const Outcome outcome = ReplayEveryWay(kChat, true, options, Gzip(ChatStream()), random_);
  EXPECT_EQ(outcome.downstream, absl::StrReplaceAll(ChatStream(), {{Event(kUsage), ""}}));
}

TEST_F(MeterTest, FlushedPiecesAreMeteredAtOnce) {
  for (const bool gzip : {true, false}) {
    const std::string first = Event(Delta("Hel"));
    auto meter = NewResponseMeter(kChat, true, {.content_encoding = gzip ? "gzip" : "zstd"});
    std::string out;
    meter->Feed(gzip ? Gzip(first, 15 + 16, true) : Zstd(first), &out);
    EXPECT_EQ(meter->progress().visible_output_bytes, 3);
  }
}

TEST_F(MeterTest, WhatCannotBeDecodedPasses) {
  const std::string gzip = Gzip(ChatStream());
  std::string corrupt = gzip;
  corrupt[corrupt.size() / 2] ^= 0x55;
  for (const auto& [encoding, body] :
       std::vector<std::pair<std::string, std::string>>{{"gzip", "not gzip"},
                                                        {"br", "\xff\xff\xff\xff"},
                                                        {"zstd", "not zstd"},
                                                        {"compress", ChatStream()},
                                                        {"gzip, br", gzip}}) {
    const Outcome outcome =
        ReplayEveryWay(kChat, true, {.content_encoding = encoding}, body, random_);
    EXPECT_EQ(outcome.downstream, body) << encoding;
    EXPECT_TRUE(outcome.result.unmetered) << encoding;
    EXPECT_FALSE(outcome.result.complete) << encoding;
  }
  const Outcome outcome =
      ReplayEveryWay(kChat, true, {.content_encoding = "gzip"}, corrupt, random_);
  EXPECT_EQ(outcome.downstream, corrupt);
}

// --- passing on
// ------------------------------------------------------------------------------------
TEST_F(MeterTest, WholeEventsLeaveAtOnceAndHalfOnesWait) {
  auto meter = NewResponseMeter(kChat, true);
  std::string out;
  const std::string first = Event(Delta("a")), second = Event(Delta("b"));
  meter->Feed(first + second.substr(0, 20), &out);
  EXPECT_EQ(out, first);
  EXPECT_TRUE(meter->at_event_boundary());
  meter->Feed(second.substr(20, second.size() - 21), &out);
  EXPECT_EQ(out, first);
  meter->Feed("\n", &out);
  EXPECT_EQ(out, first + second);
  meter->Feed(": keep-alive\n", &out);
  EXPECT_EQ(out, first + second + ": keep-alive\n");
}

TEST_F(MeterTest, AllocatesNothingPerEventInTheSteadyState) {
  for (const bool anthropic : {false, true}) {
    for (const bool drop : {false, true}) {
      if (anthropic && drop) continue;
      MeterOptions options;
      options.drop_usage_chunk = drop;
      auto meter = NewResponseMeter(anthropic ? kMessages : kChat, true, options);
      const std::string event =
          anthropic ? AntText("word") : Event(Delta("word", ",\"usage\":null"));
      std::string out;
      out.reserve(1 << 20);
      const auto feed_split = [&] {
        meter->Feed(std::string_view(event).substr(0, 30), &out);
        meter->Feed(std::string_view(event).substr(30), &out);
        meter->Feed(event, &out);
      };
      for (int i = 0; i < 10; ++i) feed_split();
      const int64_t before = AllocationsSoFar();
      for (int i = 0; i < 1000; ++i) feed_split();
      EXPECT_EQ(AllocationsSoFar() - before, 0);
      EXPECT_EQ(meter->progress().deltas, 2020);
    }
  }
}

// The same body in every encoding: passed as it is and metered alike.
void CheckEncodings(Endpoint endpoint, bool sse, const std::string& body, const Outcome& plain,
                    std::mt19937_64& random) {
  const std::pair<const char*, std::string> encoded[] = {{"gzip", Gzip(body)},
                                                         {"deflate", Gzip(body, 15)},
                                                         {"br", Brotli(body)},
                                                         {"zstd", Zstd(body)}};
  for (const auto& [name, bytes] : encoded) {
    MeterOptions options;
    options.content_encoding = name;
    for (const size_t longest : {bytes.size(), size_t{1}, bytes.size() / 3 + 1}) {
      const Outcome outcome =
          Replay(endpoint, sse, options, bytes, [&] { return 1 + random() % longest; });
      EXPECT_EQ(Lines(outcome.result), Lines(plain.result)) << name;
      EXPECT_EQ(outcome.result.complete, plain.result.complete) << name;
      EXPECT_TRUE(outcome.downstream == bytes) << name;
    }
  }
}

void CheckAnswersOf(const std::string& folder, std::mt19937_64& random) {
  for (const RecordedAnswer& answer : ReadAnswers(folder)) {
    SCOPED_TRACE(answer.id);
    MeterOptions options;
    options.content_encoding = answer.content_encoding;
    const Outcome outcome =
        ReplayEveryWay(answer.endpoint, answer.sse, options, answer.body, random);
    EXPECT_TRUE(outcome.downstream == answer.body);
    if (answer.content_encoding.empty()) {
      CheckEncodings(answer.endpoint, answer.sse, answer.body, outcome, random);
    }
    ExpectMetered(answer, outcome.result);
  }
}

TEST_F(MeterTest, ArrayElementsLeaveWholeAndAnErrorEndsTheArray) {
  const std::string first = R"({"candidates":[{"content":{"parts":[{"text":"a]}\"b"}]}}]})";
  for (const bool second : {false, true}) {
    auto meter = NewResponseMeter(Endpoint::kStreamGenerateContent, false);
    std::string out;
    EXPECT_EQ(meter->ErrorEnd("data: {\"error\":1}\n\n"), "[{\"error\":1}]\n");
    meter->Feed(" [", &out);
    EXPECT_EQ(out, " ");
    if (second) meter->Feed(first + "\n,", &out);
    meter->Feed(R"({"half)", &out);
    EXPECT_EQ(out, second ? " [" + first : " ");
    EXPECT_TRUE(meter->at_event_boundary());
    EXPECT_EQ(meter->ErrorEnd("data: {\"error\":1}\n\n"),
              second ? ",\n{\"error\":1}]\n" : "[{\"error\":1}]\n");
    std::string rest;
    meter->Finish(&rest);
    EXPECT_EQ(rest, second ? "\n,{\"half" : "[{\"half");
  }
}

TEST_F(MeterTest, AGiganticElementPassesAndTheNextIsMetered) {
  const std::string last =
      R"({"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":5}})";
  const std::string body =
      absl::StrCat("[{\"text\":\"", std::string(3 << 20, 'x'), "\"},", last, "]");
  const Outcome outcome = Replay(Endpoint::kStreamGenerateContent, false,
                                 {.event_bytes_max = 2 << 20}, body, [] { return 50'000; });
  EXPECT_TRUE(outcome.downstream == body);
  EXPECT_TRUE(outcome.result.unmetered);
  ASSERT_EQ(outcome.result.usage.size(), 1);
  EXPECT_EQ(outcome.result.usage[0].usage().input_tokens_uncached(), 5);
}

TEST_F(MeterTest, UnknownFieldsOfUsageChangeNothing) {
  const std::pair<Endpoint, std::string> answers[] = {
      {kChat, R"({"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,)"
              R"("total_tokens":10)"},
      {Endpoint::kResponses, R"({"status":"completed","output":[],"usage":{"input_tokens":7,)"
                             R"("output_tokens":3,"total_tokens":10)"},
      {kMessages, R"({"type":"message","stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3)"},
      {Endpoint::kGenerateContent, R"({"candidates":[{"finishReason":"STOP"}],"usageMetadata":{)"
                                   R"("promptTokenCount":7,"candidatesTokenCount":3,"totalTokenCount":10)"}};
  for (const auto& [endpoint, body] : answers) {
    const Outcome plain = Run(endpoint, body + "}}");
    const Outcome more = Run(
        endpoint, body + R"(,"future_tokens":5,"future_details":{"input_tokens":9,"prompt_tokens":9,)"
                         R"("output_tokens":9,"candidatesTokenCount":9},"list":[{"cached_tokens":1}]}})");
    ASSERT_EQ(plain.result.usage.size(), 1);
    EXPECT_EQ(plain.result.usage[0].usage().input_tokens_uncached(), 7);
    EXPECT_EQ(Lines(more.result), Lines(plain.result));
    EXPECT_EQ(more.result.source, USAGE_SOURCE_FINAL);
  }
}

TEST_F(MeterTest, ResponsesAreRememberedByTheirId) {
  EXPECT_EQ(Run(Endpoint::kResponses, R"({"id":"resp_9","status":"completed","output":[]})")
                .result.object_id,
            "resp_9");
}

TEST_F(MeterTest, AnswersInFilesCostWhatTheirSidecarsSay) {
  for (const std::string& folder : AnswerFolders()) CheckAnswersOf(folder, random_);
}

}  // namespace
}  // namespace tollhouse::edge
