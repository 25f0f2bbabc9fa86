#include "services/edge/target.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tollhouse::edge {
namespace {

Target Of(std::string_view method, std::string_view path) {
  RequestHead head;
  head.method = method;
  head.target = path;
  return TargetOf(head);
}

TEST(TargetTest, ServedPathsAreKnownByNameAndMethod) {
  const std::pair<std::string_view, Endpoint> posts[] = {
      {"/v1/chat/completions", Endpoint::kChatCompletions},
      {"/v1/completions", Endpoint::kCompletions},
      {"/v1/responses?x=1", Endpoint::kResponses},
      {"/v1/responses/input_tokens", Endpoint::kInputTokens},
      {"/v1/embeddings", Endpoint::kEmbeddings},
      {"/v1/moderations", Endpoint::kModerations},
      {"/v1/messages?beta=true", Endpoint::kMessages},
      {"/v1/messages/count_tokens", Endpoint::kCountTokens},
      {"/v1beta/models/gemini-2.5-pro:generateContent", Endpoint::kGenerateContent},
      {"/v1/models/gemini-2.5-pro:generateContent", Endpoint::kGenerateContent},
      {"/v1beta/models/g:streamGenerateContent?alt=sse", Endpoint::kStreamGenerateContent},
      {"/v1beta/models/g:countTokens", Endpoint::kGeminiCountTokens},
      {"/v1alpha/models/g:embedContent", Endpoint::kEmbedContent},
      {"/v1beta/models/g:batchEmbedContents", Endpoint::kBatchEmbedContents},
  };
  for (const auto& [path, endpoint] : posts) {
    const Target target = Of("POST", path);
    EXPECT_EQ(target.known, Target::Known::kServed) << path;
    EXPECT_TRUE(target.allowed) << path;
    EXPECT_EQ(target.endpoint, endpoint) << path;
    EXPECT_FALSE(Of("GET", path).allowed) << path;
    EXPECT_NE(std::find(kTargetNames.begin(), kTargetNames.end(), target.name), kTargetNames.end());
  }
}

TEST(TargetTest, GeminiModelsComeFromThePathDecoded) {
  const Target target = Of("POST", "/v1beta/models/sim%2Fgemini-2.5:streamGenerateContent");
  EXPECT_EQ(target.model, "sim/gemini-2.5");
  EXPECT_EQ(target.version, "v1beta");
  EXPECT_EQ(Of("POST", "/v1/models/g:generateContent").version, "v1");
  // A name that would leave the path at the provider is none.
  for (const std::string_view model :
       {"a%2F..%2F..%2Ffiles", "a%3Fkey=1", "a%20b", "a%0d%0aX", ""}) {
    EXPECT_NE(
        Of("POST", absl::StrCat("/v1beta/models/", std::string(model), ":generateContent")).known,
        Target::Known::kServed)
        << model;
  }
}

TEST(TargetTest, ModelsAndStoredObjects) {
  EXPECT_EQ(Of("GET", "/v1/models").model, "");
  EXPECT_EQ(Of("GET", "/v1/models/openai/gpt-5").model, "openai/gpt-5");
  EXPECT_EQ(Of("GET", "/v1beta/models/gemini-2.5-pro").model, "gemini-2.5-pro");
  const Target stored = Of("GET", "/v1/responses/resp_1/input_items?limit=3");
  EXPECT_EQ(stored.endpoint, Endpoint::kStoredResponse);
  EXPECT_EQ(stored.object_id, "resp_1");
  EXPECT_EQ(stored.rest, "/input_items");
  EXPECT_TRUE(stored.allowed);
  EXPECT_TRUE(Of("DELETE", "/v1/responses/resp_1").allowed);
  EXPECT_FALSE(Of("DELETE", "/v1/responses/resp_1/input_items").allowed);
  EXPECT_EQ(Of("GET", "/v1/conversations/conv_1").object_id, "conv_1");
}

TEST(TargetTest, WhatNobodyPricedIsNotOffered) {
  for (const std::string_view path :
       {"/v1/images/generations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/files",
        "/v1/batches",
        "/v1/realtime",
        "/v1/realtime/sessions",
        "/v1/fine_tuning/jobs",
        "/v1/assistants",
        "/v1/threads/t/runs",
        "/v1/vector_stores",
        "/v1/videos",
        "/v1/uploads",
        "/v1/responses/compact",
        "/v1/responses/resp_1/cancel",
        "/v1/messages/batches",
        "/v1/complete",
        "/v1/chat/completions/x",
        "/v1beta/files",
        "/v1beta/cachedContents",
        "/v1beta/models/g:predict",
        "/v1beta/models/g:batchGenerateContent",
        "/upload/v1beta/files",
        "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"}) {
    EXPECT_EQ(Of("POST", path).known, Target::Known::kNotOffered) << path;
  }
  EXPECT_EQ(Of("POST", "/v2/anything").known, Target::Known::kUnknown);
  EXPECT_EQ(Of("GET", "/").known, Target::Known::kUnknown);
  RequestHead head;
  head.method = "GET";
  head.target = "/v1/responses";
  head.headers.fields = {{"Upgrade", "websocket"}};
  EXPECT_EQ(TargetOf(head).known, Target::Known::kNotOffered);
}

}  // namespace
}  // namespace tollhouse::edge
