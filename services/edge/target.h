// What a request's path asks for.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "services/edge/dialect/endpoint.h"
#include "services/edge/http_message.h"

namespace tollhouse::edge {

struct Target {
  enum class Known {
    kUnknown,     // no provider has such a path
    kNotOffered,  // providers have it, and nobody here knows what it costs
    kServed,
  };

  Known known = Known::kUnknown;
  bool allowed = false;  // the method on it
  bool usage = false;    // /tollhouse/v1/usage: Tollhouse's own, in no dialect
  Endpoint endpoint = Endpoint::kChatCompletions;
  std::string_view name = "other";  // for metrics and logs: bounded
  std::string version;              // Gemini: "v1beta"
  std::string model;                // Gemini: from the path, decoded; kModels: the one asked for
  std::string object_id;            // kStoredResponse, kConversations: "" for the collection
  std::string rest;                 // what follows the id: "/input_items"
};

// Reads path and method. An upgrade to another protocol (WebSocket) is kNotOffered on every path.
Target TargetOf(const RequestHead& head);

// Every name that Target::name can have.
inline constexpr std::array<std::string_view, 17> kTargetNames = {
    "chat_completions", "completions",          "responses",        "stored_response",
    "conversations",    "input_tokens",         "embeddings",       "moderations",
    "messages",         "count_tokens",         "generate_content", "stream_generate_content",
    "embed_content",    "batch_embed_contents", "models",           "usage",
    "other"};

}  // namespace tollhouse::edge
