// What a caller asked for, by path: the unit that request scanning, bounds and metering differ by.
#pragma once

#include <string_view>

#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

enum class Endpoint {
  kChatCompletions,  // POST /v1/chat/completions
  kMessages,         // POST /v1/messages
  kCountTokens,      // POST /v1/messages/count_tokens; free
  kModels,           // GET /v1/models; free, no body
};

// The dialect in which requests are read and answers and refusals are written. kModels exists in
// each dialect: its caller's dialect is known from the headers, this returns OpenAI's.
constexpr common::v1::Dialect DialectOf(Endpoint endpoint) {
  return endpoint == Endpoint::kMessages || endpoint == Endpoint::kCountTokens
             ? common::v1::DIALECT_ANTHROPIC
             : common::v1::DIALECT_OPENAI;
}

// True if providers never bill it: nothing is held, nothing settled.
constexpr bool IsFree(Endpoint endpoint) {
  return endpoint == Endpoint::kCountTokens || endpoint == Endpoint::kModels;
}

// The path below the provider's base URL as its SDK takes it: OpenAI base URLs end in /v1,
// Anthropic's do not.
constexpr std::string_view UpstreamPath(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::kChatCompletions:
      return "/chat/completions";
    case Endpoint::kMessages:
      return "/v1/messages";
    case Endpoint::kCountTokens:
      return "/v1/messages/count_tokens";
    case Endpoint::kModels:
      return "/models";
  }
  return "";
}

}  // namespace tollhouse::edge
