#include "services/edge/dialect/request.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "services/edge/dialect/request_scanner.h"

namespace tollhouse::edge {
namespace {

// A thread keeps a parser for bodies up to this size; larger ones are rare and their buffers big.
constexpr size_t kKeptCapacity = size_t{1} << 20;

std::unique_ptr<RequestScanner> ScannerFor(Endpoint endpoint, std::string_view body,
                                           const ScanLimits& limits) {
  switch (endpoint) {
    case Endpoint::kResponses:
    case Endpoint::kInputTokens:
    case Endpoint::kConversations:
      return NewResponsesScanner(endpoint, body, limits);
    case Endpoint::kCompletions:
    case Endpoint::kEmbeddings:
    case Endpoint::kModerations:
      return NewTextScanner(endpoint, body, limits);
    case Endpoint::kGenerateContent:
    case Endpoint::kStreamGenerateContent:
    case Endpoint::kGeminiCountTokens:
    case Endpoint::kEmbedContent:
    case Endpoint::kBatchEmbedContents:
      return NewGeminiScanner(endpoint, body, limits);
    default:
      return NewChatScanner(endpoint, body, limits);
  }
}

}  // namespace

absl::StatusOr<RequestFacts> ScanRequest(Endpoint endpoint, std::string_view body,
                                         const ScanLimits& limits, size_t capacity) {
  if (body.size() > limits.body_bytes_max) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, "BODY_TOO_LARGE",
        absl::StrCat("the request body is larger than ", limits.body_bytes_max, " bytes"));
  }
  if (std::all_of(body.begin(), body.begin() + std::min<size_t>(body.size(), 4096),
                  [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }) &&
      body.size() <= 4096) {
    return BadRequest("EMPTY_BODY", "the request body is empty; send a JSON object");
  }
  std::unique_ptr<char[]> copy;
  if (capacity < body.size() + kJsonPadding) {
    copy = std::make_unique<char[]>(body.size() + kJsonPadding);
    std::memcpy(copy.get(), body.data(), body.size());
    body = {copy.get(), body.size()};
    capacity = body.size() + kJsonPadding;
  }
  const std::unique_ptr<RequestScanner> scanner = ScannerFor(endpoint, body, limits);
  if (body.size() > kKeptCapacity) {
    json::Parser parser;
    return scanner->Run(parser, capacity);
  }
  thread_local json::Parser parser;
  return scanner->Run(parser, capacity);
}

std::string JsonKernel() { return simdjson::get_active_implementation()->name(); }

}  // namespace tollhouse::edge
