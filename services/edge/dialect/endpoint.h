// What a caller asked for, by path: the unit that request scanning, bounds and metering differ by.
#pragma once

#include <string_view>

#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

enum class Endpoint {
  kChatCompletions,        // POST /v1/chat/completions
  kCompletions,            // POST /v1/completions
  kResponses,              // POST /v1/responses
  kStoredResponse,         // GET, DELETE /v1/responses/ID, GET /v1/responses/ID/input_items; free
  kConversations,          // POST /v1/conversations, GET, DELETE /v1/conversations/ID; free
  kInputTokens,            // POST /v1/responses/input_tokens; free
  kEmbeddings,             // POST /v1/embeddings
  kModerations,            // POST /v1/moderations; free
  kMessages,               // POST /v1/messages
  kCountTokens,            // POST /v1/messages/count_tokens; free
  kGenerateContent,        // POST /v1beta/models/MODEL:generateContent
  kStreamGenerateContent,  // POST /v1beta/models/MODEL:streamGenerateContent
  kGeminiCountTokens,      // POST /v1beta/models/MODEL:countTokens; free
  kEmbedContent,           // POST /v1beta/models/MODEL:embedContent
  kBatchEmbedContents,     // POST /v1beta/models/MODEL:batchEmbedContents
  kModels,                 // GET /v1/models, /v1beta/models; free, no body
};

// The dialect in which requests are read and answers and refusals are written. kModels exists in
// each dialect: its caller's dialect is known from the request, this returns OpenAI's.
constexpr common::v1::Dialect DialectOf(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::kMessages:
    case Endpoint::kCountTokens:
      return common::v1::DIALECT_ANTHROPIC;
    case Endpoint::kGenerateContent:
    case Endpoint::kStreamGenerateContent:
    case Endpoint::kGeminiCountTokens:
    case Endpoint::kEmbedContent:
    case Endpoint::kBatchEmbedContents:
      return common::v1::DIALECT_GEMINI;
    default:
      return common::v1::DIALECT_OPENAI;
  }
}

// True if providers never bill it: nothing is held, nothing settled.
constexpr bool IsFree(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::kStoredResponse:
    case Endpoint::kConversations:
    case Endpoint::kInputTokens:
    case Endpoint::kModerations:
    case Endpoint::kCountTokens:
    case Endpoint::kGeminiCountTokens:
    case Endpoint::kModels:
      return true;
    default:
      return false;
  }
}

// Vectors come back, no text: input is all that is billed.
constexpr bool IsEmbedding(Endpoint endpoint) {
  return endpoint == Endpoint::kEmbeddings || endpoint == Endpoint::kEmbedContent ||
         endpoint == Endpoint::kBatchEmbedContents;
}

// The path below the provider's base URL as its SDK takes it: OpenAI base URLs end in /v1, the
// others' do not. For Gemini the method behind the model: ":generateContent".
constexpr std::string_view UpstreamPath(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::kChatCompletions:
      return "/chat/completions";
    case Endpoint::kCompletions:
      return "/completions";
    case Endpoint::kResponses:
    case Endpoint::kStoredResponse:
      return "/responses";
    case Endpoint::kConversations:
      return "/conversations";
    case Endpoint::kInputTokens:
      return "/responses/input_tokens";
    case Endpoint::kEmbeddings:
      return "/embeddings";
    case Endpoint::kModerations:
      return "/moderations";
    case Endpoint::kMessages:
      return "/v1/messages";
    case Endpoint::kCountTokens:
      return "/v1/messages/count_tokens";
    case Endpoint::kGenerateContent:
      return ":generateContent";
    case Endpoint::kStreamGenerateContent:
      return ":streamGenerateContent";
    case Endpoint::kGeminiCountTokens:
      return ":countTokens";
    case Endpoint::kEmbedContent:
      return ":embedContent";
    case Endpoint::kBatchEmbedContents:
      return ":batchEmbedContents";
    case Endpoint::kModels:
      return "/models";
  }
  return "";
}

}  // namespace tollhouse::edge
