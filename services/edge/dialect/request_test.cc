#include "services/edge/dialect/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libs/base/error.h"
#include "libs/testing/seed.h"
#include "services/edge/dialect/bound.h"
#include "services/edge/dialect/media.h"
#include "services/edge/dialect/splice.h"
#include "simdjson.h"

namespace tollhouse::edge {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr Endpoint kChat = Endpoint::kChatCompletions;
constexpr Endpoint kMessages = Endpoint::kMessages;

RequestFacts Scanned(Endpoint endpoint, const std::string& body, const ScanLimits& limits = {}) {
  auto facts = ScanRequest(endpoint, body, limits);
  EXPECT_TRUE(facts.ok()) << facts.status() << "\n" << body.substr(0, 400);
  return facts.ok() ? *std::move(facts) : RequestFacts{};
}

// A chat body with these members beside model and messages.
std::string Chat(const std::string& members) {
  return absl::StrCat(R"({"model":"gpt-4o","messages":[{"role":"user","content":"hi"}])",
                      members.empty() ? "" : ",", members, "}");
}

std::string Message(const std::string& members) {
  return absl::StrCat(R"({"model":"claude-sonnet-4-5","max_tokens":100,"messages":[])",
                      members.empty() ? "" : ",", members, "}");
}

// --- refused bodies
// --------------------------------------------------------------------------------
struct BadCase {
  std::string name;
  Endpoint endpoint;
  std::string body;
  std::string reason;
  std::string param;
};

std::vector<BadCase> BadCases() {
  std::vector<BadCase> cases = {
      {"Empty", kChat, "", "EMPTY_BODY", ""},
      {"WhiteSpace", kChat, " \r\n\t", "EMPTY_BODY", ""},
      {"NotJson", kChat, "hello", "NOT_JSON", ""},
      {"Html", kChat, "<html></html>", "NOT_JSON", ""},
      {"CutShort", kChat, R"({"model":"gpt-4o","messages":[)", "NOT_JSON", ""},
      {"CutInString", kChat, R"({"model":"gpt)", "NOT_JSON", ""},
      {"TrailingComma", kChat, Chat(R"("n":1,)"), "NOT_JSON", ""},
      {"MissingComma", kChat, Chat(R"("tools":[{} {}])"), "NOT_JSON", ""},
      {"BehindTheEnd", kChat, Chat("") + "x", "NOT_JSON", ""},
      {"TwoObjects", kChat, Chat("") + Chat(""), "NOT_JSON", ""},
      {"BadNumberDeepInside", kChat, Chat(R"("x":[[{"a":01}]])"), "NOT_JSON", ""},
      {"BadLiteralDeepInside", kChat, Chat(R"("x":[[{"a":nul}]])"), "NOT_JSON", ""},
      {"BadEscapeInValue", kChat, Chat(R"("x":"\q")"), "NOT_JSON", ""},
      {"BadEscapeInKey", kChat, Chat(R"("\u12":"a")"), "NOT_JSON", ""},
      {"ControlCharacterInString", kChat, Chat("\"x\":\"a\nb\""), "NOT_JSON", ""},
      {"InvalidUtf8", kChat, Chat("\"x\":\"\xff\""), "NOT_JSON", ""},
      {"OverlongUtf8", kChat, Chat("\"x\":\"\xc0\xaf\""), "NOT_JSON", ""},
      {"StringAsKeyOfAnother", kChat, Chat(R"("a":"b":{"c":1})"), "NOT_JSON", ""},
      {"ModelAsKeyOfAnother", kChat, R"({"model":"a":"b","messages":[]})", "NOT_JSON", ""},
      {"Array", kChat, "[1]", "NOT_AN_OBJECT", ""},
      {"String", kChat, "\"a\"", "NOT_AN_OBJECT", ""},
      {"NoModel", kChat, R"({"messages":[]})", "MISSING_FIELD", "model"},
      {"NoMessages", kChat, R"({"model":"a"})", "MISSING_FIELD", "messages"},
      {"NoMaxTokensAnthropic", kMessages, R"({"model":"a","messages":[]})", "MISSING_FIELD",
       "max_tokens"},
      {"NullMaxTokensAnthropic", kMessages, R"({"model":"a","messages":[],"max_tokens":null})",
       "MISSING_FIELD", "max_tokens"},
      {"ModelNumber", kChat, R"({"model":4,"messages":[]})", "WRONG_TYPE", "model"},
      {"ModelNull", kChat, R"({"model":null,"messages":[]})", "WRONG_TYPE", "model"},
      {"ModelObject", kChat, R"({"model":{},"messages":[]})", "WRONG_TYPE", "model"},
      {"ModelEmpty", kChat, R"({"model":"","messages":[]})", "OUT_OF_RANGE", "model"},
      {"ModelTooLong", kChat,
       absl::StrCat(R"({"model":")", std::string(257, 'm'), R"(","messages":[]})"), "OUT_OF_RANGE",
       "model"},
      {"ModelWithLineEnd", kChat, R"({"model":"a\nb","messages":[]})", "OUT_OF_RANGE", "model"},
      {"MessagesString", kChat, R"({"model":"a","messages":"hi"})", "WRONG_TYPE", "messages"},
      {"MessagesOfStrings", kChat, R"({"model":"a","messages":["hi"]})", "WRONG_TYPE", "messages"},
      {"StreamString", kChat, Chat(R"("stream":"true")"), "WRONG_TYPE", "stream"},
      {"StreamNumber", kChat, Chat(R"("stream":1)"), "WRONG_TYPE", "stream"},
      {"StreamOptionsArray", kChat, Chat(R"("stream_options":[])"), "WRONG_TYPE", "stream_options"},
      {"IncludeUsageNumber", kChat, Chat(R"("stream_options":{"include_usage":1})"), "WRONG_TYPE",
       "stream_options.include_usage"},
      {"IncludeUsageTwice", kChat,
       Chat(R"("stream_options":{"include_usage":true,"include_usage":false})"), "DUPLICATE_FIELD",
       "stream_options.include_usage"},
      {"MaxTokensString", kChat, Chat(R"("max_tokens":"5")"), "WRONG_TYPE", "max_tokens"},
      {"MaxTokensNegative", kChat, Chat(R"("max_tokens":-5)"), "OUT_OF_RANGE", "max_tokens"},
      {"MaxTokensZero", kChat, Chat(R"("max_tokens":0)"), "OUT_OF_RANGE", "max_tokens"},
      {"MaxTokensFraction", kChat, Chat(R"("max_tokens":1.5)"), "WRONG_TYPE", "max_tokens"},
      {"MaxTokensExponent", kChat, Chat(R"("max_tokens":1e3)"), "WRONG_TYPE", "max_tokens"},
      {"MaxTokensHuge", kChat, Chat(R"("max_tokens":10000001)"), "OUT_OF_RANGE", "max_tokens"},
      {"MaxTokensBeyond64Bits", kChat, Chat(R"("max_tokens":99999999999999999999999)"),
       "OUT_OF_RANGE", "max_tokens"},
      {"MaxCompletionTokensNegative", kChat, Chat(R"("max_completion_tokens":-1)"), "OUT_OF_RANGE",
       "max_completion_tokens"},
      {"NZero", kChat, Chat(R"("n":0)"), "OUT_OF_RANGE", "n"},
      {"NTooMany", kChat, Chat(R"("n":129)"), "OUT_OF_RANGE", "n"},
      {"NBool", kChat, Chat(R"("n":true)"), "WRONG_TYPE", "n"},
      {"MetadataArray", kChat, Chat(R"("metadata":[])"), "WRONG_TYPE", "metadata"},
      {"MetadataNested", kChat, Chat(R"("metadata":{"a":{}})"), "BAD_METADATA", "metadata.a"},
      {"MetadataTwice", kChat, Chat(R"("metadata":{"a":"1","a":"2"})"), "DUPLICATE_FIELD",
       "metadata.a"},
      {"MetadataLongValue", kChat,
       Chat(absl::StrCat(R"("metadata":{"a":")", std::string(1025, 'v'), R"("})")), "BAD_METADATA",
       "metadata.a"},
      {"ToolsObject", kChat, Chat(R"("tools":{})"), "WRONG_TYPE", "tools"},
      {"ServiceTierNumber", kChat, Chat(R"("service_tier":1)"), "WRONG_TYPE", "service_tier"},
      {"ToolTypeTwice", kMessages,
       Message(R"("tools":[{"type":"custom","type":"web_search_20250305"}])"), "DUPLICATE_FIELD",
       "tools"},
      {"ThinkingBudgetZero", kMessages, Message(R"("thinking":{"budget_tokens":0})"),
       "OUT_OF_RANGE", "thinking.budget_tokens"},
      {"UserIdTwice", kMessages, Message(R"("metadata":{"user_id":"a","user_id":"b"})"),
       "DUPLICATE_FIELD", "metadata.user_id"},
  };
  for (const std::string field : {"model", "max_tokens", "max_completion_tokens", "stream",
                                  "stream_options", "n", "metadata", "messages"}) {
    const std::string value = field == "model"                                   ? "\"a\""
                              : field == "stream"                                ? "true"
                              : field == "stream_options" || field == "metadata" ? "{}"
                              : field == "messages"                              ? "[]"
                                                                                 : "7";
    const std::string both = absl::StrCat("\"", field, "\":", value, ",\"", field, "\":", value);
    cases.push_back(
        {"Twice_" + field, kChat, absl::StrCat("{", both, "}"), "DUPLICATE_FIELD", field});
    std::string escaped =
        absl::StrCat("\"\\u00", absl::Hex(field[0]), field.substr(1), "\":", value);
    cases.push_back({"TwiceOnceEscaped_" + field, kChat,
                     absl::StrCat("{\"", field, "\":", value, ",", escaped, "}"), "DUPLICATE_FIELD",
                     field});
    std::string upper = field;
    upper[0] = static_cast<char>(upper[0] - 'a' + 'A');
    cases.push_back({"OtherCase_" + field, kChat,
                     absl::StrCat("{\"", field, "\":", value, ",\"", upper, "\":", value, "}"),
                     "DUPLICATE_FIELD", field});
  }
  return cases;
}

TEST(ScanRequestTest, BadBodiesAreRefusedWithReasonAndParam) {
  for (const BadCase& bad : BadCases()) {
    const auto facts = ScanRequest(bad.endpoint, bad.body);
    ASSERT_FALSE(facts.ok()) << bad.name;
    EXPECT_EQ(ReasonOf(facts.status()), bad.reason) << bad.name << ": " << facts.status();
    EXPECT_EQ(facts.status().code(), absl::StatusCode::kInvalidArgument) << bad.name;
    ErrorMetadata metadata = MetadataOf(facts.status());
    EXPECT_EQ(metadata["param"], bad.param) << bad.name;
  }
}

TEST(ScanRequestTest, TooLargeAndTooDeepAreRefused) {
  ScanLimits limits;
  limits.body_bytes_max = 100;
  EXPECT_EQ(ReasonOf(ScanRequest(kChat, std::string(101, ' '), limits).status()), "BODY_TOO_LARGE");
  const auto nested = [](int levels) {
    return Chat(absl::StrCat("\"x\":", std::string(levels, '['), std::string(levels, ']')));
  };
  EXPECT_TRUE(ScanRequest(kChat, nested(127)).ok());
  EXPECT_EQ(ReasonOf(ScanRequest(kChat, nested(128)).status()), "TOO_DEEP");
  EXPECT_EQ(ReasonOf(ScanRequest(kChat, nested(200'000)).status()), "TOO_DEEP");
  const auto nested_objects = [](int levels) {
    std::string text = "\"x\":";
    for (int i = 0; i < levels; ++i) text += "{\"a\":";
    return Chat(text + "1" + std::string(levels, '}'));
  };
  EXPECT_TRUE(ScanRequest(kChat, nested_objects(127)).ok());
  EXPECT_EQ(ReasonOf(ScanRequest(kChat, nested_objects(128)).status()), "TOO_DEEP");
  std::string objects = "\"x\":";
  for (int i = 0; i < 5000; ++i) objects += "{\"a\":";
  EXPECT_EQ(ReasonOf(ScanRequest(kChat, Chat(objects + "1" + std::string(5000, '}'))).status()),
            "TOO_DEEP");
}

// --- facts
// -----------------------------------------------------------------------------------------
TEST(ScanRequestTest, ReadsWhatTheEdgeNeedsFromChat) {
  const std::string body = R"( { "mod\u0065l" : "openai\/gpt-4o" , "stream":true,
    "stream_options": {"include_usage": true}, "max_tokens": 10, "max_completion_tokens":20, "n": 3,
    "service_tier":"fast", "metadata":{"use_case":"code-review","n":7,"user_id":"u"},
    "messages":[{"role":"user","content":"Gr\u00fc\u00dfe"}], "unknown":{"deep":[1,2.5e3,null,true]} } )";
  const RequestFacts facts = Scanned(kChat, body);
  EXPECT_EQ(facts.model, "openai/gpt-4o");
  EXPECT_TRUE(facts.stream);
  EXPECT_TRUE(facts.include_usage);
  EXPECT_EQ(facts.max_output_tokens, 20);
  EXPECT_EQ(facts.choices, 3);
  EXPECT_EQ(facts.service_tier, "priority");
  EXPECT_THAT(facts.metadata, UnorderedElementsAre(Pair("use_case", "code-review"), Pair("n", "7"),
                                                   Pair("user_id", "u")));
  EXPECT_EQ(facts.text_bytes, static_cast<int64_t>(body.size()));
  EXPECT_THAT(facts.unbounded_features, IsEmpty());
  EXPECT_FALSE(facts.cache_write_5m);
}

TEST(ScanRequestTest, ReadsWhatTheEdgeNeedsFromMessages) {
  const RequestFacts facts = Scanned(kMessages, R"({"model":"claude-opus-4-8","max_tokens":4096,
    "system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
    "messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[
      {"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]}],
    "thinking":{"type":"enabled","budget_tokens":2048},"speed":"fast","inference_geo":"us",
    "metadata":{"user_id":"u-1","team":"pay"},
    "context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},
    "tools":[{"name":"f","input_schema":{}},{"type":"bash_20250124","name":"bash"},
             {"type":"web_search_20250305","name":"web_search","max_uses":4}]})");
  EXPECT_EQ(facts.max_output_tokens, 4096);
  EXPECT_EQ(facts.thinking_budget, 2048);
  EXPECT_TRUE(facts.cache_write_5m);
  EXPECT_TRUE(facts.cache_write_1h);
  EXPECT_EQ(facts.speed, "fast");
  EXPECT_EQ(facts.inference_geo, "us");
  EXPECT_EQ(facts.user_id, "u-1");
  EXPECT_THAT(facts.metadata, ElementsAre(Pair("team", "pay")));
  EXPECT_EQ(facts.client_tool_prompts, 1);
  EXPECT_EQ(facts.server_tool_uses, 4);
  EXPECT_EQ(facts.web_search_calls, 4);
  EXPECT_THAT(facts.unbounded_features, IsEmpty());
}

TEST(ScanRequestTest, CacheControlOnTheTopLevelCounts) {
  EXPECT_TRUE(
      Scanned(kMessages, Message(R"("cache_control":{"type":"ephemeral"})")).cache_write_5m);
  EXPECT_TRUE(Scanned(kMessages, Message(R"("cache_control":{"ttl":"2d"})")).cache_write_1h);
  EXPECT_FALSE(Scanned(kMessages, Message(R"("cache_control":null)")).cache_write_5m);
}

TEST(ScanRequestTest, FeaturesWithoutABoundAreNamed) {
  const auto chat = [](const std::string& members) {
    return Scanned(kChat, Chat(members)).unbounded_features;
  };
  const auto message = [](const std::string& members) {
    return Scanned(kMessages, Message(members)).unbounded_features;
  };
  EXPECT_THAT(chat(R"("web_search_options":{})"), ElementsAre("web_search_options"));
  EXPECT_THAT(chat(R"("search_parameters":{"mode":"auto"})"), ElementsAre("search_parameters"));
  EXPECT_THAT(chat(R"("plugins":[{"id":"web"}])"), ElementsAre("plugins"));
  EXPECT_THAT(chat(R"("models":["a","b"])"), ElementsAre("models"));
  EXPECT_THAT(chat(R"("background":true)"), ElementsAre("background"));
  EXPECT_THAT(chat(R"("service_tier":"warp")"), ElementsAre("service_tier=warp"));
  EXPECT_THAT(chat(R"("modalities":["text","image"])"), ElementsAre("modalities=image"));
  EXPECT_THAT(chat(R"("tools":[{"type":"function"},{"type":"browser_search"}])"),
              ElementsAre("tools.browser_search"));
  EXPECT_THAT(chat(R"("background":false,"plugins":[],"web_search_options":null,"tools":[]
                      ,"service_tier":"auto","modalities":["text","audio"])"),
              IsEmpty());
  EXPECT_THAT(message(R"("mcp_servers":[{"url":"x"}])"), ElementsAre("mcp_servers"));
  EXPECT_THAT(message(R"("container":"c")"), ElementsAre("container"));
  EXPECT_THAT(message(R"("fallbacks":[{"model":"x"}])"), ElementsAre("fallbacks"));
  EXPECT_THAT(message(R"("context_management":{"edits":[{"type":"compact_20260112"}]})"),
              ElementsAre("context_management"));
  EXPECT_THAT(message(R"("tools":[{"type":"web_search_20250305","name":"w"}])"),
              ElementsAre("tools.web_search_20250305 without max_uses"));
  EXPECT_THAT(
      message(R"("tools":[{"type":"code_execution_20250825"},{"type":"advisor_20260301"}])"),
      ElementsAre("tools.code_execution_20250825", "tools.advisor_20260301"));
  EXPECT_THAT(message(R"("tools":[{"type":"mcp_toolset"}])"), ElementsAre("tools.mcp_toolset"));
  EXPECT_THAT(message(R"("speed":"ludicrous")"), ElementsAre("speed=ludicrous"));
  EXPECT_THAT(message(R"("mcp_servers":[],"container":null,"speed":"standard","fallbacks":[])"),
              IsEmpty());
}

// --- media
// -----------------------------------------------------------------------------------------
std::string Png(uint32_t width, uint32_t height) {
  std::string bytes("\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", 16);
  for (const uint32_t side : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(side >> shift);
  }
  return bytes + std::string(64, '\x55');
}

std::string Base64(const std::string& bytes) { return absl::Base64Escape(bytes); }

TEST(MediaTest, SizesAreReadFromTheHeaders) {
  const auto expect = [](const std::string& bytes, int64_t width, int64_t height) {
    const PixelSize size = ImageSizeOfBase64(Base64(bytes));
    EXPECT_EQ(size.width, width);
    EXPECT_EQ(size.height, height);
  };
  expect(Png(640, 480), 640, 480);
  expect(std::string("GIF89a\x80\x02\xe0\x01", 10), 640, 480);
  std::string jpeg("\xff\xd8\xff\xe1\x00\x10", 6);
  jpeg += std::string(14, 'e');
  jpeg += std::string("\xff\xc2\x00\x11\x08\x01\xe0\x02\x80\x03", 10);
  expect(jpeg, 640, 480);
  std::string large_exif("\xff\xd8\xff\xe1\xff\xff", 6);  // the frame stands behind 64 KiB of EXIF
  large_exif += std::string(0xfffd, 'e') + jpeg.substr(20);
  expect(large_exif, 640, 480);
  expect(std::string("RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x7f\x02\x00\xdf\x01\x00", 30), 640, 480);
  expect(std::string("RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x80\x02\xe0\x01", 30), 640,
         480);
  // 14 bits of width - 1, 14 bits of height - 1.
  const uint32_t bits = 639 | 479 << 14;
  std::string lossless("RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f", 21);
  for (int shift = 0; shift < 32; shift += 8) lossless += static_cast<char>(bits >> shift);
  expect(lossless, 640, 480);
  expect("not an image at all", 0, 0);
  expect(Png(640, 480).substr(0, 20), 0, 0);
  expect(Png(0, 480), 0, 0);
  expect("", 0, 0);
}

TEST(MediaTest, HeadersCutAnywhereAreNoError) {
  const std::string whole = Base64(Png(10, 10));
  for (size_t i = 0; i <= whole.size(); ++i) ImageSizeOfBase64(whole.substr(0, i));
}

TEST(ScanRequestTest, DataOfInlineMediaIsNoText) {
  const std::string image = Base64(Png(1000, 500) + std::string(30'000, 'p'));
  const std::string chat = absl::StrCat(
      R"({"model":"gpt-4o","messages":[{"role":"user","content":[{"image_url":{"url":"data:image/png;base64,)",
      image,
      R"(","detail":"low"},"type":"image_url"},{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]})");
  RequestFacts facts = Scanned(kChat, chat);
  EXPECT_EQ(facts.text_bytes, static_cast<int64_t>(chat.size() - image.size()));
  ASSERT_EQ(facts.media.size(), 2u);
  EXPECT_EQ(facts.media[0].width, 1000);
  EXPECT_EQ(facts.media[0].detail, MediaItem::Detail::kLow);
  EXPECT_EQ(facts.media[1].width, 0);

  const std::string message = absl::StrCat(
      R"({"model":"c","max_tokens":5,"messages":[{"role":"user","content":[{"type":"tool_result","content":[)"
      R"({"type":"image","source":{"data":")",
      image, R"(","type":"base64","media_type":"image/png"}}]}]}]})");
  facts = Scanned(kMessages, message);
  EXPECT_EQ(facts.text_bytes, static_cast<int64_t>(message.size() - image.size()));
  ASSERT_EQ(facts.media.size(), 1u);
  EXPECT_EQ(facts.media[0].height, 500);
  EXPECT_THAT(facts.window_bounded_features, IsEmpty());
}

TEST(ScanRequestTest, EscapedSlashesInBase64DoNotHideTheSize) {
  const std::string escaped = absl::StrReplaceAll(Base64(Png(1000, 500)), {{"/", "\\/"}});
  const RequestFacts facts = Scanned(
      kMessages,
      absl::StrCat(
          R"({"model":"c","max_tokens":5,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":")",
          escaped, R"("}}]}]})"));
  ASSERT_EQ(facts.media.size(), 1u);
  EXPECT_EQ(facts.media[0].width, 1000);
}

// What only looks like media, or could be read as text by a server, stays text.
TEST(ScanRequestTest, TextThatLooksLikeMediaIsText) {
  const std::string image = Base64(Png(10, 10) + std::string(30'000, 'p'));
  for (
      const std::string& part :
      {absl::StrCat(R"({"type":"text","text":"data:image/png;base64,)", image, R"("})"),
       absl::StrCat(
           R"({"type":"tool_use","input":{"type":"image_url","image_url":{"url":"data:image/png;base64,)",
           image, R"("}}})"),
       absl::StrCat(
           R"({"type":"image_url","type":"text","image_url":{"url":"data:image/png;base64,)", image,
           R"("}})"),
       absl::StrCat(R"({"type":"image_url","image_url":{"url":"x","url":"data:image/png;base64,)",
                    image, R"("}})"),
       absl::StrCat(R"({"type":"image_url","image_url":{"url":"data:text/plain;base64,)", image,
                    R"("}})")}) {
    const std::string body =
        absl::StrCat(R"({"model":"m","messages":[{"role":"user","content":[)", part, "]}]}");
    EXPECT_EQ(Scanned(kChat, body).text_bytes, static_cast<int64_t>(body.size()))
        << part.substr(0, 80);
  }
  for (const std::string& part :
       {absl::StrCat(R"({"type":"document","source":{"type":"text","data":")", image, R"("}})"),
        absl::StrCat(R"({"type":"image","source":{"type":"base64","type":"text","data":")", image,
                     R"("}})"),
        absl::StrCat(R"({"type":"image","source":{"type":"url","data":")", image, R"("}})")}) {
    const std::string body = absl::StrCat(
        R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":[)", part, "]}]}");
    EXPECT_EQ(Scanned(kMessages, body).text_bytes, static_cast<int64_t>(body.size()))
        << part.substr(0, 80);
  }
}

TEST(ScanRequestTest, WhatOnlyTheWindowBoundsIsNamed) {
  const auto chat = [](const std::string& part) {
    return Scanned(kChat, absl::StrCat(R"({"model":"m","messages":[{"role":"user","content":[)",
                                       part, "]}]}"))
        .window_bounded_features.size();
  };
  const auto message = [](const std::string& part) {
    return Scanned(
               kMessages,
               absl::StrCat(R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":[)",
                            part, "]}]}"))
        .window_bounded_features.size();
  };
  EXPECT_EQ(chat(R"({"type":"file","file":{"file_id":"f"}})"), 1u);
  EXPECT_EQ(chat(R"({"type":"video_url","video_url":{"url":"x"}})"), 1u);
  EXPECT_EQ(chat(R"({"type":"image_url","image_url":{"url":"data:application/pdf;base64,AAAA"}})"),
            1u);
  EXPECT_EQ(
      chat(R"({"type":"text","text":"x"},{"type":"input_audio","input_audio":{"data":"AAAA"}})"),
      0u);
  EXPECT_EQ(message(R"({"type":"document","source":{"type":"base64","data":"AAAA"}})"), 1u);
  EXPECT_EQ(message(R"({"type":"document","source":{"type":"url","url":"x"}})"), 1u);
  EXPECT_EQ(message(R"({"type":"document","source":{"type":"text","data":"x"}})"), 0u);
  EXPECT_EQ(message(R"({"type":"web_search_tool_result","content":[]})"), 1u);
  EXPECT_EQ(message(R"({"type":"image","source":{"type":"file","file_id":"x"}})"), 0u);
}

// --- bounds
// ----------------------------------------------------------------------------------------
TEST(BoundTest, TextIsBoundedByItsBytesAndTheWindow) {
  RequestFacts facts;
  facts.text_bytes = 10'000;
  facts.max_output_tokens = 500;
  facts.choices = 3;
  auto bound = BoundTokens(facts, {"gpt-4o", 128'000, 16'384});
  ASSERT_TRUE(bound.ok());
  EXPECT_EQ(bound->input_tokens, 11'024);
  EXPECT_EQ(bound->output_tokens, 1'500);
  bound = BoundTokens(facts, {"gpt-4o", 8'000, 100});
  EXPECT_EQ(bound->input_tokens, 8'000);
  EXPECT_EQ(bound->output_tokens, 300);
}

TEST(BoundTest, WithoutADeclaredMaximumTheModelsCounts) {
  RequestFacts facts;
  EXPECT_EQ(BoundTokens(facts, {"m", 1000, 777})->output_tokens, 777);
  const auto open = BoundTokens(facts, {"m", 1000, 0});
  EXPECT_EQ(ReasonOf(open.status()), "UNBOUNDED_REQUEST");
  EXPECT_EQ(BoundTokens(facts, {"m", 1000, 0}, true)->output_tokens, 1000);
}

TEST(BoundTest, ServerToolsRunAWindowEach) {
  RequestFacts facts;
  facts.endpoint = kMessages;
  facts.max_output_tokens = 100;
  facts.server_tool_uses = facts.web_search_calls = 4;
  const auto bound = BoundTokens(facts, {"claude", 200'000, 64'000});
  ASSERT_TRUE(bound.ok());
  EXPECT_EQ(bound->input_tokens, 1'000'000);
  EXPECT_EQ(bound->web_search_calls, 4);
  EXPECT_EQ(ReasonOf(BoundTokens(facts, {"claude", 0, 64'000}).status()), "UNBOUNDED_REQUEST");
}

TEST(BoundTest, UnboundedFeaturesAreRefusedUnlessAllowed) {
  RequestFacts facts;
  facts.max_output_tokens = 100;
  facts.unbounded_features = {"mcp_servers", "plugins"};
  const auto refused = BoundTokens(facts, {"m", 5000, 0});
  ASSERT_EQ(ReasonOf(refused.status()), "UNBOUNDED_REQUEST");
  EXPECT_EQ(MetadataOf(refused.status())["features"], "mcp_servers, plugins");
  EXPECT_EQ(BoundTokens(facts, {"m", 5000, 0}, true)->input_tokens, 5000);
}

TEST(BoundTest, BetasLiftTheLimits) {
  RequestFacts facts;
  facts.endpoint = kMessages;
  facts.text_bytes = 5'000'000;
  facts.max_output_tokens = 200'000;
  ModelLimits limits{"claude-sonnet-4-5", 200'000, 64'000};
  ApplyBetas("a-1", &limits);
  EXPECT_EQ(BoundTokens(facts, limits)->input_tokens, 200'000);
  ApplyBetas("a-1, context-1m-2025-08-07,output-128k-2025-02-19", &limits);
  EXPECT_EQ(BoundTokens(facts, limits)->input_tokens, 1'000'000);
  EXPECT_EQ(BoundTokens(facts, limits)->output_tokens, 128'000);
}

TEST(BoundTest, CountTokensIsFree) {
  RequestFacts facts = Scanned(Endpoint::kCountTokens, R"({"model":"m","messages":[]})");
  const auto bound = BoundTokens(facts, {"m", 0, 0});
  ASSERT_TRUE(bound.ok());
  EXPECT_EQ(bound->input_tokens + bound->output_tokens, 0);
}

// What may be billed by the facts that were measured: at most a token per byte of decoded text, at
// most 494 hidden tokens, each image by its family's rule, never more than the window.
TEST(BoundTest, StrictBoundCoversEverythingThatTheFactsAllow) {
  std::mt19937_64 random(testing::TestSeed());
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  static const char* const kTexts[] = {
      "a",     "\\n",  "\\u0041", "\\u00e9", "\xc3\xa9", "\\ud83d\\ude00", "\xf0\x9f\x98\x80",
      "word ", "\\\"", "\\/"};
  static const int kTextBytes[] = {1, 1, 1, 2, 2, 4, 4, 5, 1, 1};
  for (int round = 0; round < 2000; ++round) {
    const bool anthropic = pick(0, 1) == 1;
    int64_t text = 0;
    int64_t images = 0;
    std::string parts;
    for (int64_t part = pick(1, 4); part > 0; --part) {
      if (!parts.empty()) parts += ',';
      if (pick(0, 2) > 0) {
        parts += R"({"type":"text","text":")";
        for (int64_t i = pick(0, 200); i > 0; --i) {
          const int64_t which = pick(0, 9);
          parts += kTexts[which];
          text += kTextBytes[which];
        }
        parts += "\"}";
      } else {
        const int64_t width = pick(1, 4000), height = pick(1, 4000);
        const std::string data = Base64(Png(width, height));
        const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
        if (anthropic) {
          parts +=
              absl::StrCat(R"({"type":"image","source":{"type":"base64","data":")", data, "\"}}");
          images += std::min<int64_t>(up(width, 28) * up(height, 28), 4784);
        } else {
          parts += absl::StrCat(R"({"type":"image_url","image_url":{"url":"data:image/png;base64,)",
                                data, "\"}}");
          // gpt-4o's tiles, by the documented scaling with floors.
          double w = width, h = height;
          if (std::max(w, h) > 2048) {
            const double scale = 2048 / std::max(w, h);
            w *= scale, h *= scale;
          }
          if (std::min(w, h) > 768) {
            const double scale = 768 / std::min(w, h);
            w *= scale, h *= scale;
          }
          const int64_t tiles = up(static_cast<int64_t>(w), 512) * up(static_cast<int64_t>(h), 512);
          const int64_t patches =
              std::min<int64_t>(up(width, 32) * up(height, 32), 1536) * 162 / 100;
          images += std::max(85 + 170 * tiles, patches);
        }
      }
    }
    const int64_t declared = pick(1, 200'000), model_max = pick(1, 100'000),
                  n = anthropic ? 1 : pick(1, 5);
    const std::string body = absl::StrCat(
        R"({"model":"gpt-4o","max_tokens":)", declared, anthropic ? "" : absl::StrCat(",\"n\":", n),
        R"(,"messages":[{"role":"user","content":[)", parts, "]}]}");
    const RequestFacts facts = Scanned(anthropic ? kMessages : kChat, body);
    const int64_t window = pick(0, 3) == 0 ? 0 : pick(100, 50'000);
    const auto bound = BoundTokens(facts, {"gpt-4o", window, model_max});
    ASSERT_TRUE(bound.ok()) << bound.status();
    int64_t billed = text + images + 494;
    if (window > 0) billed = std::min(billed, window);
    ASSERT_GE(bound->input_tokens, billed) << body;
    ASSERT_GE(bound->output_tokens, n * std::min(declared, model_max)) << body;
    const TokenBound tight = TightTokens(facts, {"gpt-4o", window, model_max});
    ASSERT_LE(tight.input_tokens, bound->input_tokens);
    ASSERT_LE(tight.output_tokens, bound->output_tokens);
  }
}

TEST(BoundTest, TilesAreCountedAfterScaling) {
  const auto tiles = [](int64_t width, int64_t height) {
    MediaItem item;
    item.width = width;
    item.height = height;
    return (MediaTokensBound(kChat, "gpt-4o-mini", item) - 2833) / 5667;
  };
  EXPECT_EQ(tiles(512, 512), 1);
  EXPECT_EQ(tiles(1024, 1024), 4);   // 768 x 768
  EXPECT_EQ(tiles(4096, 8192), 6);   // 768 x 1536
  EXPECT_EQ(tiles(20'000, 100), 4);  // 2048 x 11
  MediaItem low;
  low.detail = MediaItem::Detail::kLow;
  EXPECT_EQ(MediaTokensBound(kChat, "gpt-4o-mini", low), 2833);
}

TEST(BoundTest, PerImageMaximaHoldWhereTheSizeIsUnknown) {
  MediaItem unknown, large;
  large.width = large.height = 1 << 20;
  for (const char* model : {"gpt-4o", "gpt-4o-mini", "gpt-5.6", "openai/o3", "grok-4", "qwen-vl"}) {
    EXPECT_GE(MediaTokensBound(kChat, model, unknown), MediaTokensBound(kChat, model, large))
        << model;
  }
  EXPECT_GE(MediaTokensBound(kMessages, "claude", unknown), 4784);
  EXPECT_EQ(MediaTokensBound(kChat, "gpt-4o-mini", unknown), 2833 + 8 * 5667);
}

// --- splices
// ---------------------------------------------------------------------------------------
std::string Spliced(Endpoint endpoint, const std::string& body, const SpliceOptions& options) {
  const RequestFacts facts = Scanned(endpoint, body);
  const std::string out = SpliceForUpstream(facts, body, options);
  EXPECT_EQ(NeedsSplice(facts, options), out != body) << body << "\n" << out;
  return out;
}

TEST(SpliceTest, NothingToDoIsByteIdentical) {
  const std::string body = "  {\"model\" : \"m\",\t\"messages\":[ ] , \"x\":\"\\u00e9\"}\n";
  EXPECT_EQ(Spliced(kChat, body, {}), body);
  EXPECT_EQ(Spliced(kChat, body,
                    {.upstream_model = "m", .inject_include_usage = true, .strip_metadata = true}),
            body);
}

TEST(SpliceTest, TheModelNameAloneChanges) {
  EXPECT_EQ(Spliced(kChat, R"({"messages":[{"content":"model"}], "model" : "a\/b" , "z":1 })",
                    {.upstream_model = "b\"q"}),
            R"({"messages":[{"content":"model"}], "model" : "b\"q" , "z":1 })");
}

TEST(SpliceTest, IncludeUsageIsInjectedWhateverIsThere) {
  const SpliceOptions inject{.inject_include_usage = true};
  const auto with = [](const std::string& members) {
    return absl::StrCat(R"({"stream":true,"model":"m","messages":[])", members, "}");
  };
  EXPECT_EQ(Spliced(kChat, with(""), inject),
            R"({"stream_options":{"include_usage":true},"stream":true,"model":"m","messages":[]})");
  EXPECT_EQ(Spliced(kChat, with(R"(,"stream_options":null)"), inject),
            with(R"(,"stream_options":{"include_usage":true})"));
  EXPECT_EQ(Spliced(kChat, with(R"(,"stream_options": { })"), inject),
            with(R"(,"stream_options": {"include_usage":true })"));
  EXPECT_EQ(Spliced(kChat, with(R"(,"stream_options":{"include_obfuscation":false})"), inject),
            with(R"(,"stream_options":{"include_usage":true,"include_obfuscation":false})"));
  EXPECT_EQ(Spliced(kChat, with(R"(,"stream_options":{"include_usage": false ,"x":1})"), inject),
            with(R"(,"stream_options":{"include_usage": true ,"x":1})"));
  EXPECT_EQ(Spliced(kChat, with(R"(,"stream_options":{"include_usage":true})"), inject),
            with(R"(,"stream_options":{"include_usage":true})"));
  const std::string plain = R"({"model":"m","messages":[]})";
  EXPECT_EQ(Spliced(kChat, plain, inject), plain);
}

TEST(SpliceTest, TheMaximumOutputIsReplacedOrInserted) {
  const SpliceOptions clamp{.max_output_tokens = 2048};
  EXPECT_EQ(Spliced(kChat, R"({"model":"m","messages":[],"max_tokens":9999})", clamp),
            R"({"model":"m","messages":[],"max_tokens":2048})");
  EXPECT_EQ(
      Spliced(kChat, R"({"max_tokens":1,"max_completion_tokens" : 2,"model":"m","messages":[]})",
              clamp),
      R"({"max_tokens":2048,"max_completion_tokens" : 2048,"model":"m","messages":[]})");
  EXPECT_EQ(Spliced(kChat, R"({"model":"m","messages":[]})", clamp),
            R"({"max_completion_tokens":2048,"model":"m","messages":[]})");
  EXPECT_EQ(Spliced(kChat, R"({"model":"m","messages":[],"max_tokens":null})",
                    {.max_output_tokens = 2048, .max_output_field = "max_tokens"}),
            R"({"model":"m","messages":[],"max_tokens":2048})");
  EXPECT_EQ(
      Spliced(kChat, R"({"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":null})",
              clamp),
      R"({"model":"m","messages":[],"max_tokens":2048,"max_completion_tokens":null})");
  EXPECT_EQ(Spliced(kMessages, R"({"model":"m","messages":[],"max_tokens":9999})", clamp),
            R"({"model":"m","messages":[],"max_tokens":2048})");
}

TEST(SpliceTest, ForeignMetadataIsRemovedForAnthropic) {
  const SpliceOptions strip{.strip_metadata = true};
  EXPECT_EQ(
      Spliced(
          kMessages,
          R"({"model":"m","max_tokens":1,"metadata":{"a":"1", "user_id" : "u\"x","b":"}"} ,"messages":[]})",
          strip),
      R"({"model":"m","max_tokens":1,"metadata":{"user_id":"u\"x"} ,"messages":[]})");
  EXPECT_EQ(Spliced(kMessages,
                    R"({"model":"m","max_tokens":1,"metadata":{"a":"1" },"messages":[]})", strip),
            R"({"model":"m","max_tokens":1,"metadata":{},"messages":[]})");
  const std::string own =
      R"({"model":"m","max_tokens":1,"metadata":{ "user_id":"u" },"messages":[]})";
  EXPECT_EQ(Spliced(kMessages, own, strip), own);
}

TEST(SpliceTest, AllAtOnceAndInAnyOrderOfMembers) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 500; ++round) {
    std::vector<std::string> members = {R"("model":"old")",
                                        R"("stream":true)",
                                        R"("messages":[{"content":"x"}])",
                                        R"("max_tokens":77)",
                                        R"("stream_options":{"z":[1]})",
                                        R"("q":{"model":"q"})"};
    std::shuffle(members.begin(), members.end(), random);
    std::string body = "{", expected = "{";
    for (size_t i = 0; i < members.size(); ++i) {
      const std::string space(random() % 3, ' ');
      absl::StrAppend(&body, i > 0 ? "," : "", space, members[i]);
      absl::StrAppend(
          &expected, i > 0 ? "," : "", space,
          absl::StrReplaceAll(members[i], {{R"("model":"old")", R"("model":"new/name")"},
                                           {"77", "1024"},
                                           {R"({"z")", R"({"include_usage":true,"z")"}}));
    }
    EXPECT_EQ(Spliced(kChat, body + "}",
                      {.upstream_model = "new/name",
                       .inject_include_usage = true,
                       .max_output_tokens = 1024}),
              expected + "}");
  }
}

// --- against another parser
// ------------------------------------------------------------------------ Whatever bytes come: no
// crash, nothing accepted that simdjson's strict parser refuses, and the model is the one it reads.
TEST(ScanRequestTest, AgreesWithAFullParserOnMutatedBodies) {
  std::mt19937_64 random(testing::TestSeed());
  const std::string seeds[] = {
      R"({"model":"gpt-4o","stream":true,"n":2,"messages":[{"role":"user","content":[{"type":"text","text":"h\u00e9"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}],"metadata":{"a":"b"},"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]})",
      R"({"model":"claude","max_tokens":12,"system":"s","messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"base64","data":"AAAA"}}]}}]}],"thinking":{"budget_tokens":9},"cache_control":{"ttl":"1h"}})"};
  static const char kBytes[] = "{}[]\",:\\ 0-1.eutfn\x80\xff\n";
  simdjson::dom::parser parser;
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string body = seeds[random() % 2];
    const bool anthropic = body.find("claude") != std::string::npos;
    for (int edits = random() % 3; edits >= 0; --edits) {
      const size_t at = random() % body.size();
      switch (random() % 4) {
        case 0:
          body[at] = kBytes[random() % (sizeof kBytes - 1)];
          break;
        case 1:
          body.erase(at, 1 + random() % 4);
          break;
        case 2:
          body.insert(at, 1, kBytes[random() % (sizeof kBytes - 1)]);
          break;
        default:
          body.insert(at, body.substr(random() % body.size(), random() % 40));
          break;
      }
      if (body.empty()) body = "{";
    }
    const auto facts = ScanRequest(anthropic ? kMessages : kChat, body);
    if (!facts.ok()) continue;
    ++accepted;
    simdjson::dom::element root;
    const auto error = parser.parse(body).get(root);
    // The strict parser also refuses what is legal JSON beyond its own range: lone surrogates and
    // numbers that no double holds.
    if (error == simdjson::STRING_ERROR || error == simdjson::NUMBER_ERROR) continue;
    ASSERT_EQ(error, simdjson::SUCCESS) << body;
    std::string_view model;
    ASSERT_EQ(root["model"].get(model), simdjson::SUCCESS) << body;
    ASSERT_EQ(facts->model, model) << body;
    ASSERT_LE(facts->text_bytes, static_cast<int64_t>(body.size()));
    const std::string out = SpliceForUpstream(*facts, body,
                                              {.upstream_model = "n",
                                               .inject_include_usage = true,
                                               .max_output_tokens = 1,
                                               .strip_metadata = true});
    ASSERT_EQ(parser.parse(out).error(), simdjson::SUCCESS) << body << "\n" << out;
  }
  EXPECT_GT(accepted, 1000);
}

TEST(ScanRequestTest, ReadsInPlaceWhereTheCallerHasRoomBehindTheBody) {
  std::string body = Chat("");
  const size_t size = body.size();
  body.append(kJsonPadding, 'x');  // whatever stands there is not read as JSON
  const auto facts = ScanRequest(kChat, std::string_view(body).substr(0, size), {}, body.size());
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(facts->model, "gpt-4o");
}

TEST(ScanRequestTest, LargeBodiesPass) {
  const std::string body = Chat(absl::StrCat("\"x\":\"", std::string(20 << 20, 'y'), "\""));
  EXPECT_EQ(Scanned(kChat, body).text_bytes, static_cast<int64_t>(body.size()));
}

}  // namespace
}  // namespace tollhouse::edge
