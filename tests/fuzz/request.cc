#include "services/edge/dialect/request.h"

#include <string>

#include "services/edge/dialect/bound.h"
#include "services/edge/dialect/count_body.h"
#include "services/edge/dialect/splice.h"
#include "tests/fuzz/targets.h"

namespace tollhouse::fuzz {
namespace {

using edge::Endpoint;

constexpr Endpoint kEndpoints[] = {
    Endpoint::kChatCompletions, Endpoint::kMessages,          Endpoint::kResponses,
    Endpoint::kCompletions,     Endpoint::kEmbeddings,        Endpoint::kModerations,
    Endpoint::kGenerateContent, Endpoint::kEmbedContent,      Endpoint::kBatchEmbedContents,
    Endpoint::kCountTokens,     Endpoint::kGeminiCountTokens, Endpoint::kConversations};

bool TakesMaximum(Endpoint endpoint) {
  return endpoint == Endpoint::kChatCompletions || endpoint == Endpoint::kMessages ||
         endpoint == Endpoint::kResponses || endpoint == Endpoint::kCompletions ||
         endpoint == Endpoint::kGenerateContent;
}

}  // namespace

void Request(std::string_view input) {
  Choices choices(&input);
  const Endpoint endpoint = kEndpoints[choices.Next() % std::size(kEndpoints)];
  const uint8_t flags = choices.Next();
  const std::string body(input);
  const auto facts = edge::ScanRequest(endpoint, body);
  if (!facts.ok()) return;
  Promise(facts->text_bytes >= 0 && facts->text_bytes <= static_cast<int64_t>(body.size()),
          "text is part of the body");
  const edge::ModelLimits limits{"model", 100'000, 8'000};
  const auto bound = edge::BoundTokens(*facts, limits);
  const auto allowed = edge::BoundTokens(*facts, limits, true);
  Promise(allowed.ok(), "with a policy's permission everything has a bound");
  if (bound.ok()) {
    Promise(bound->input_tokens >= 0 && bound->output_tokens >= 0, "bounds are not negative");
    const auto tight = edge::TightTokens(*facts, limits);
    Promise(
        tight.input_tokens <= bound->input_tokens && tight.output_tokens <= bound->output_tokens,
        "tight is never above strict");
  }
  edge::CountQuestionFor(*facts, body, "m");

  edge::SpliceOptions options;
  if ((flags & 1) != 0 && !facts->model.empty()) options.upstream_model = "up\"stream";
  options.inject_include_usage = (flags & 2) != 0 && (endpoint == Endpoint::kChatCompletions ||
                                                      endpoint == Endpoint::kCompletions);
  if ((flags & 4) != 0 && TakesMaximum(endpoint)) options.max_output_tokens = 77;
  if ((flags & 8) != 0) options.max_output_field = "max_tokens";
  options.strip_metadata = (flags & 16) != 0 && endpoint == Endpoint::kMessages;
  const std::string spliced = edge::SpliceForUpstream(*facts, body, options);
  if (!edge::NeedsSplice(*facts, options)) Promise(spliced == body, "untouched without need");
  const auto again = edge::ScanRequest(endpoint, spliced);
  Promise(again.ok(), "what was spliced can be read");
  if (!options.upstream_model.empty()) {
    Promise(again->model == options.upstream_model ||
                again->model == "models/" + options.upstream_model,
            "the model is the provider's");
  }
  if (options.inject_include_usage && facts->stream) {
    Promise(again->include_usage, "usage was asked for");
  }
  if (options.max_output_tokens) {
    Promise(again->max_output_tokens == options.max_output_tokens, "the maximum is the new one");
  }
  if (options.strip_metadata) Promise(again->metadata.empty(), "metadata was taken off");
}

}  // namespace tollhouse::fuzz
