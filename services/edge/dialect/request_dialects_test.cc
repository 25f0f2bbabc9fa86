// Requests of responses, completions, embeddings and Gemini: what is read, bounded and spliced.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "services/edge/dialect/bound.h"
#include "services/edge/dialect/count_body.h"
#include "services/edge/dialect/request.h"
#include "services/edge/dialect/splice.h"
#include "services/edge/dialect/tight_ratios.h"

namespace tollhouse::edge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ModelLimits kLimits{"m", 100'000, 8'000};

RequestFacts Scan(Endpoint endpoint, const std::string& body) {
  auto facts = ScanRequest(endpoint, body);
  EXPECT_TRUE(facts.ok()) << facts.status() << " " << body;
  return facts.ok() ? *std::move(facts) : RequestFacts();
}

std::string ReasonFor(Endpoint endpoint, const std::string& body) {
  return ReasonOf(ScanRequest(endpoint, body).status());
}

TokenBound Bound(Endpoint endpoint, const std::string& body) {
  auto bound = BoundTokens(Scan(endpoint, body), kLimits);
  EXPECT_TRUE(bound.ok()) << bound.status() << " " << body;
  return bound.ok() ? *std::move(bound) : TokenBound();
}

std::string Unbounded(Endpoint endpoint, const std::string& body) {
  const auto bound = BoundTokens(Scan(endpoint, body), kLimits);
  EXPECT_EQ(ReasonOf(bound.status()), "UNBOUNDED_REQUEST") << body;
  return MetadataOf(bound.status())["features"];
}

// --- responses ---------------------------------------------------------------------------------
constexpr Endpoint kResponses = Endpoint::kResponses;

TEST(ResponsesRequestTest, TextIsBoundedByItsBytesAndTheDeclaredMaximum) {
  const std::string body =
      R"({"model":"gpt-5","input":"hello","max_output_tokens":300,"stream":true,"metadata":{"a":"b"}})";
  const RequestFacts facts = Scan(kResponses, body);
  EXPECT_TRUE(facts.stream);
  EXPECT_EQ(facts.metadata.at("a"), "b");
  const TokenBound bound = Bound(kResponses, body);
  EXPECT_EQ(bound.input_tokens, static_cast<int64_t>(body.size()) + kHiddenPromptTokens);
  EXPECT_EQ(bound.output_tokens, 300);
  EXPECT_EQ(Bound(kResponses, R"({"model":"m","input":"x"})").output_tokens, 8'000);
}

TEST(ResponsesRequestTest, StoredThingsAreNamedAndBoundedByTheWindow) {
  const std::string body =
      R"({"model":"m","previous_response_id":"resp_1","conversation":{"id":"conv_1"},)"
      R"("input":[{"type":"item_reference","id":"msg_1"},)"
      R"({"role":"user","content":[{"type":"input_image","file_id":"file_1"}]}],)"
      R"("tools":[{"type":"file_search","vector_store_ids":["vs_1"]}],"max_tool_calls":2})";
  std::vector<std::string> ids;
  for (const ObjectRef& ref : Scan(kResponses, body).object_refs) ids.push_back(ref.id);
  EXPECT_THAT(ids, ElementsAre("resp_1", "conv_1", "msg_1", "file_1", "vs_1"));
  EXPECT_EQ(Bound(kResponses, body).input_tokens, 3 * 100'000);
  EXPECT_THAT(Scan(kResponses, R"({"model":"m","previous_response_id":null})").object_refs,
              IsEmpty());
}

TEST(ResponsesRequestTest, BuiltInToolsNeedAMaximumOfCalls) {
  const std::string tools =
      R"("tools":[{"type":"web_search"},{"type":"code_interpreter","container":{"type":"auto"}}])";
  EXPECT_THAT(Unbounded(kResponses, R"({"model":"m","input":"x",)" + tools + "}"),
              HasSubstr("max_tool_calls"));
  const TokenBound bound =
      Bound(kResponses, R"({"model":"m","input":"x","max_tool_calls":4,)" + tools + "}");
  EXPECT_EQ(bound.input_tokens, 5 * 100'000);
  EXPECT_EQ(bound.web_search_calls, 4);
  EXPECT_EQ(bound.code_sessions, 4);
  EXPECT_EQ(bound.file_search_calls, 0);
  // The caller's own tools are text.
  EXPECT_LT(Bound(kResponses, R"({"model":"m","input":"x","tools":[{"type":"function","name":"f"},)"
                              R"({"type":"custom","name":"g"},{"type":"local_shell"}]})")
                .input_tokens,
            5'000);
}

TEST(ResponsesRequestTest, WhatNothingBoundsIsNamed) {
  const std::map<std::string, std::string> cases = {
      {R"("prompt":{"id":"pmpt_1"})", "prompt"},
      {R"("reasoning":{"mode":"pro"})", "reasoning.mode=pro"},
      {R"("context_management":[{"compact_threshold":1}])", "context_management"},
      {R"("tools":[{"type":"mcp","server_url":"x"}])", "tools.mcp"},
      {R"("tools":[{"type":"image_generation"}],"max_tool_calls":1)", "tools.image_generation"},
      {R"("service_tier":"warp")", "service_tier=warp"},
  };
  for (const auto& [member, feature] : cases) {
    EXPECT_EQ(Unbounded(kResponses, R"({"model":"m","input":"x",)" + member + "}"), feature);
  }
  EXPECT_EQ(ReasonFor(kResponses, R"({"model":"m","input":"x","background":true})"),
            "FEATURE_REFUSED");
  EXPECT_TRUE(ScanRequest(kResponses, R"({"model":"m","background":false})").ok());
}

TEST(ResponsesRequestTest, DuplicatesAndOtherSpellingsAreRefused) {
  for (const std::string body :
       {R"({"model":"m","max_output_tokens":1,"max_output_tokens":999})",
        R"({"model":"m","Max_Output_Tokens":999})", R"({"model":"m","prompt":{},"prompt":{}})"}) {
    EXPECT_EQ(ReasonFor(kResponses, body), "DUPLICATE_FIELD") << body;
  }
  EXPECT_EQ(ReasonFor(kResponses, R"({"input":"x"})"), "MISSING_FIELD");
}

TEST(ResponsesRequestTest, InlineImagesAreMediaAndNotText) {
  const std::string png = "iVBORw0KGgoAAAANSUhEUgAAAMgAAABkCAIAAAB" + std::string(40'000, 'A');
  const std::string body = absl::StrCat(
      R"({"model":"gpt-5","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,)",
      png, R"("}]}]})");
  const RequestFacts facts = Scan(kResponses, body);
  ASSERT_EQ(facts.media.size(), 1u);
  EXPECT_EQ(facts.media[0].width, 200);
  EXPECT_LT(facts.text_bytes, 200);
  // A second image_url in the same part: which one counts, nobody knows.
  const RequestFacts twice =
      Scan(kResponses,
           absl::StrCat(
               R"({"model":"m","input":[{"type":"input_image","image_url":"data:image/png;base64,)",
               png, R"(","image_url":"x"}]})"));
  EXPECT_GT(twice.text_bytes, 40'000);
}

// --- completions and embeddings ----------------------------------------------------------------
TEST(CompletionsRequestTest, EveryPromptAndChoiceIsBounded) {
  const Endpoint kEndpoint = Endpoint::kCompletions;
  EXPECT_EQ(Bound(kEndpoint, R"({"model":"m","prompt":"a","max_tokens":10})").output_tokens, 10);
  EXPECT_EQ(Bound(kEndpoint, R"({"model":"m","prompt":["a","b","c"],"max_tokens":10,"n":2})")
                .output_tokens,
            60);
  EXPECT_EQ(
      Bound(kEndpoint, R"({"model":"m","prompt":[[1,2],[3]],"max_tokens":10,"n":2,"best_of":5})")
          .output_tokens,
      100);
  EXPECT_EQ(Bound(kEndpoint, R"({"model":"m","prompt":[1,2,3],"max_tokens":10})").output_tokens,
            10);
  EXPECT_EQ(
      Bound(kEndpoint, R"({"model":"m","prompt":"a","max_tokens":0,"echo":true})").output_tokens,
      0);
  EXPECT_EQ(Bound(kEndpoint, R"({"model":"m","prompt":"a"})").output_tokens, 8'000);
}

TEST(EmbeddingsRequestTest, EachInputHasAWindowOfItsOwnAndThereIsNoOutput) {
  const std::string body = R"({"model":"m","input":["one","two"]})";
  const TokenBound bound = Bound(Endpoint::kEmbeddings, body);
  EXPECT_EQ(bound.input_tokens, static_cast<int64_t>(body.size()) + 2 * 64);
  EXPECT_EQ(bound.output_tokens, 0);
  const std::string large =
      absl::StrCat(R"({"model":"m","input":[")", std::string(300'000, 'x'), R"(","two"]})");
  EXPECT_EQ(Bound(Endpoint::kEmbeddings, large).input_tokens, 2 * 100'000);
  EXPECT_EQ(Scan(Endpoint::kModerations, R"({"input":["a",{"type":"text"}]})").model, "");
}

// --- Gemini ------------------------------------------------------------------------------------
constexpr Endpoint kGemini = Endpoint::kGenerateContent;

TEST(GeminiRequestTest, BothSpellingsAreTheSameField) {
  const std::vector<std::string> bodies = {
      R"({"contents":[],"generationConfig":{"maxOutputTokens":50,"candidateCount":2}})",
      R"({"contents":[],"generation_config":{"max_output_tokens":50,"candidate_count":2}})"};
  for (const std::string& body : bodies) {
    const TokenBound bound = Bound(kGemini, body);
    EXPECT_EQ(bound.output_tokens, 100) << body;
    EXPECT_EQ(bound.service_tier, "standard");
  }
  for (const std::string body :
       {R"({"contents":[],"generationConfig":{},"generation_config":{"maxOutputTokens":9}})",
        R"({"contents":[],"generationConfig":{"maxOutputTokens":1,"max_output_tokens":999}})",
        R"({"contents":[],"cachedContent":"a","cached_content":"b"})"}) {
    EXPECT_EQ(ReasonFor(kGemini, body), "DUPLICATE_FIELD") << body;
  }
}

TEST(GeminiRequestTest, PartsOfUnknownSizeAreBoundedByTheWindow) {
  const auto part = [](const std::string& p) {
    return absl::StrCat(R"({"contents":[{"parts":[)", p, "]}]}");
  };
  EXPECT_LT(Bound(kGemini, part(R"({"text":"hi"})")).input_tokens, 2'000);
  const std::string window_bound[] = {
      R"({"fileData":{"fileUri":"https://x/y"}})", R"({"file_data":{"file_uri":"https://x/y"}})",
      R"({"inlineData":{"mimeType":"application/pdf","data":"AAAA"}})",
      R"({"inline_data":{"mime_type":"video/mp4","data":"AAAA"}})",
      R"({"functionResponse":{"name":"f","parts":[{"inlineData":{"mimeType":"application/pdf","data":"A"}}]}})"};
  for (const std::string& p : window_bound) {
    EXPECT_EQ(Bound(kGemini, part(p)).input_tokens, 100'000) << p;
  }
  EXPECT_EQ(Bound(kGemini, R"({"contents":[],"cachedContent":"cachedContents/1"})").input_tokens,
            100'000);
  EXPECT_EQ(
      Scan(kGemini, R"({"contents":[],"cachedContent":"cachedContents/1"})").object_refs[0].id,
      "cachedContents/1");
  const RequestFacts image =
      Scan(kGemini, part(R"({"inlineData":{"mimeType":"image/png","data":")" +
                         std::string(9'000, 'A') + R"("}})"));
  EXPECT_EQ(image.media.size(), 1u);
  EXPECT_LT(image.text_bytes, 200);
}

TEST(GeminiRequestTest, ServersToolsAreNamed) {
  for (const std::string tool : {"googleSearch", "google_search", "codeExecution", "urlContext",
                                 "googleMaps", "googleSearchRetrieval", "somethingNew"}) {
    EXPECT_EQ(Unbounded(kGemini, absl::StrCat(R"({"contents":[],"tools":[{")", tool, "\":{}}]}")),
              "tools." + tool);
  }
  EXPECT_LT(Bound(kGemini, R"({"contents":[],"tools":[{"functionDeclarations":[{"name":"f"}]}]})")
                .input_tokens,
            3'000);
}

TEST(GeminiRequestTest, TiersAndLabels) {
  EXPECT_EQ(Scan(kGemini, R"({"contents":[],"serviceTier":"SERVICE_TIER_FLEX"})").service_tier,
            "flex");
  EXPECT_EQ(Scan(kGemini, R"({"contents":[],"service_tier":"priority"})").service_tier, "priority");
  EXPECT_EQ(Scan(kGemini, R"({"contents":[],"labels":{"team":"a"}})").metadata.at("team"), "a");
  EXPECT_EQ(Scan(kGemini,
                 R"({"contents":[],"generationConfig":{"thinkingConfig":{"thinkingBudget":99}}})")
                .thinking_budget,
            99);
}

TEST(GeminiRequestTest, BatchesOfEmbeddingsCountAndNameOneModel) {
  const std::string body =
      R"({"requests":[{"model":"models/e","content":{"parts":[{"text":"a"}]}},)"
      R"({"model":"models/e","content":{"parts":[{"text":"b"}]}}]})";
  const RequestFacts facts = Scan(Endpoint::kBatchEmbedContents, body);
  EXPECT_EQ(facts.inputs, 2);
  EXPECT_EQ(facts.model, "models/e");
  EXPECT_EQ(Bound(Endpoint::kBatchEmbedContents, body).output_tokens, 0);
  EXPECT_EQ(ReasonFor(Endpoint::kBatchEmbedContents,
                      R"({"requests":[{"model":"models/e"},{"model":"models/dear"}]})"),
            "OUT_OF_RANGE");
  SpliceOptions options;
  options.upstream_model = "f";
  EXPECT_EQ(SpliceForUpstream(facts, body, options),
            R"({"requests":[{"model":"models/f","content":{"parts":[{"text":"a"}]}},)"
            R"({"model":"models/f","content":{"parts":[{"text":"b"}]}}]})");
}

// --- splices -----------------------------------------------------------------------------------
TEST(SpliceDialectsTest, MaximaGoWhereTheDialectHasThem) {
  struct Case {
    Endpoint endpoint;
    std::string before, after;
  };
  const Case cases[] = {
      {kResponses, R"({"model":"m"})", R"({"max_output_tokens":7,"model":"m"})"},
      {kResponses, R"({"model":"m","max_output_tokens":null})",
       R"({"model":"m","max_output_tokens":7})"},
      {kResponses, R"({"model":"m","max_output_tokens": 900 })",
       R"({"model":"m","max_output_tokens": 7 })"},
      {Endpoint::kCompletions, R"({"model":"m","prompt":"\"max_tokens\":9"})",
       R"({"max_tokens":7,"model":"m","prompt":"\"max_tokens\":9"})"},
      {kGemini, R"({"contents":[]})",
       R"({"generationConfig":{"maxOutputTokens":7},"contents":[]})"},
      {kGemini, R"({"contents":[],"generationConfig":{}})",
       R"({"contents":[],"generationConfig":{"maxOutputTokens":7}})"},
      {kGemini, R"({"contents":[],"generationConfig":null})",
       R"({"contents":[],"generationConfig":{"maxOutputTokens":7}})"},
      {kGemini, R"({"contents":[],"generation_config":{"top_k":1}})",
       R"({"contents":[],"generation_config":{"maxOutputTokens":7,"top_k":1}})"},
      {kGemini, R"({"contents":[],"generation_config":{"max_output_tokens":99}})",
       R"({"contents":[],"generation_config":{"max_output_tokens":7}})"},
  };
  for (const Case& c : cases) {
    SpliceOptions options;
    options.max_output_tokens = 7;
    EXPECT_EQ(SpliceForUpstream(Scan(c.endpoint, c.before), c.before, options), c.after);
    EXPECT_EQ(Scan(c.endpoint, c.after).max_output_tokens, 7);
  }
}

// --- counting and learning ---------------------------------------------------------------------
TEST(CountQuestionTest, TakesTheMembersThatTheCounterTakesByteForByte) {
  const std::string messages =
      R"({"stream":true, "max_tokens":9,"model":"x","system":"s  ","messages":[ {"role":"user"} ],"metadata":{}})";
  EXPECT_EQ(CountQuestionFor(Scan(Endpoint::kMessages, messages), messages, "claude")->body,
            R"({"model":"claude","system":"s  ","messages":[ {"role":"user"} ]})");
  const std::string response = R"({"model":"x","input":[1, 2],"stream":true,"store":false})";
  EXPECT_EQ(CountQuestionFor(Scan(kResponses, response), response, "gpt")->body,
            R"({"model":"gpt","input":[1, 2]})");
  const std::string gemini = R"({"contents":[]})";
  EXPECT_EQ(CountQuestionFor(Scan(kGemini, gemini), gemini, "g")->body,
            R"({"generateContentRequest":{"model":"models/g","contents":[]}})");
  const std::string chat = R"({"model":"x","messages":[]})";
  EXPECT_FALSE(CountQuestionFor(Scan(Endpoint::kChatCompletions, chat), chat, "x").has_value());
}

TEST(CountQuestionTest, ACountReplacesBytesWithAMargin) {
  const RequestFacts facts =
      Scan(kResponses, R"({"model":"m","input":")" + std::string(50'000, 'x') + "\"}");
  ASSERT_TRUE(CanCount(facts));
  const TokenBound strict = *BoundTokens(facts, kLimits);
  EXPECT_EQ(CountedBound(facts, strict, 10'000).input_tokens, 10'150);
  EXPECT_EQ(CountedBound(facts, strict, 10'000).output_tokens, strict.output_tokens);
  EXPECT_EQ(CountedBound(facts, strict, 90'000).input_tokens, strict.input_tokens);
  EXPECT_FALSE(CanCount(Scan(kResponses, R"({"model":"m","previous_response_id":"r"})")));
}

TEST(TightRatioBookTest, LearnsTheMaximumWhichFades) {
  TightRatioBook book;
  const TightRatios defaults;
  for (int i = 0; i < 7; ++i) book.Observe("key", "m", 102'400, 9'000, 100);
  EXPECT_EQ(book.RatiosOf("key", "m").input_tokens_per_kib, defaults.input_tokens_per_kib);
  book.Observe("key", "m", 102'400, 9'000, 400);
  EXPECT_EQ(book.RatiosOf("key", "m").input_tokens_per_kib, 114);  // 91 and a quarter
  EXPECT_EQ(book.RatiosOf("key", "m").output_tokens, 500);
  EXPECT_EQ(book.RatiosOf("other", "m").input_tokens_per_kib, defaults.input_tokens_per_kib);
  for (int i = 0; i < 300; ++i) book.Observe("key", "m", 102'400, 4'500, 10);
  EXPECT_EQ(book.RatiosOf("key", "m").input_tokens_per_kib, 59);  // 46 and a quarter, nearly
  EXPECT_EQ(book.RatiosOf("key", "m").output_tokens, 64);
}

}  // namespace
}  // namespace tollhouse::edge
