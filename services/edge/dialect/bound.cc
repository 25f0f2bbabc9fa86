#include "services/edge/dialect/bound.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::edge {
namespace {

// Where even the window is unknown and a policy allows it anyway: the largest window sold.
constexpr int64_t kLargestWindow = 2'000'000;

int64_t Scaled(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::numeric_limits<int64_t>::max();
  return product;
}

// Vectors are made of the text alone; what some models put before it fits into this.
constexpr int64_t kEmbeddingPromptTokens = 64;

int64_t MediaTokens(const RequestFacts& facts, std::string_view model) {
  int64_t tokens = 0;
  for (const MediaItem& item : facts.media) tokens += MediaTokensBound(facts.endpoint, model, item);
  return tokens;
}

// Texts that are generated, returned or not.
int64_t Sequences(const RequestFacts& facts) {
  return Scaled(facts.inputs, std::max(facts.choices, facts.best_of));
}

TokenBound WithoutCounts(const RequestFacts& facts) {
  TokenBound bound;
  bound.cache_write_5m = facts.cache_write_5m;
  bound.cache_write_1h = facts.cache_write_1h;
  for (const MediaItem& item : facts.media) {
    bound.audio_input |= item.kind == MediaItem::Kind::kAudio;
  }
  bound.web_search_calls = facts.web_search_calls;
  bound.file_search_calls = facts.file_search_calls;
  bound.code_sessions = facts.code_sessions;
  bound.service_tier = facts.service_tier;
  if (!facts.speed.empty() && facts.speed != "standard") {
    bound.modifiers.push_back("speed:" + facts.speed);
  }
  if (facts.inference_geo == "us") bound.modifiers.push_back("geo:us");
  return bound;
}

}  // namespace

void ApplyBetas(std::string_view anthropic_beta, ModelLimits* limits) {
  const auto raise = [](int64_t* limit, int64_t to) {
    if (*limit > 0) *limit = std::max(*limit, to);
  };
  const auto names = [&](std::string_view beta) {
    return absl::StrContains(Absl(anthropic_beta), Absl(beta));
  };
  if (names("context-1m")) raise(&limits->max_input_tokens, 1'000'000);
  if (names("output-128k")) raise(&limits->max_output_tokens, 128'000);
}

absl::StatusOr<TokenBound> BoundTokens(const RequestFacts& facts, const ModelLimits& limits,
                                       bool allow_unbounded) {
  TokenBound bound = WithoutCounts(facts);
  if (IsFree(facts.endpoint)) return TokenBound{};

  std::vector<std::string> open = facts.unbounded_features;
  const int64_t window = limits.max_input_tokens;
  const int64_t assumed_window = window > 0 ? window : kLargestWindow;
  const bool needs_window = !facts.window_bounded_features.empty() || facts.server_tool_uses > 0;
  if (needs_window && window == 0) {
    open.insert(open.end(), facts.window_bounded_features.begin(),
                facts.window_bounded_features.end());
    if (facts.server_tool_uses > 0) open.push_back("server tools");
  }
  const int64_t inferences = Scaled(facts.inputs, 1 + facts.server_tool_uses);
  if (needs_window || !facts.unbounded_features.empty()) {
    bound.input_tokens = Scaled(assumed_window, inferences);
  } else {
    const int64_t hidden = IsEmbedding(facts.endpoint)
                               ? Scaled(kEmbeddingPromptTokens, facts.inputs)
                               : kHiddenPromptTokens * (1 + facts.client_tool_prompts);
    bound.input_tokens = facts.text_bytes + hidden + MediaTokens(facts, limits.model);
    if (window > 0) bound.input_tokens = std::min(bound.input_tokens, Scaled(window, inferences));
  }

  if (!IsEmbedding(facts.endpoint)) {
    int64_t output = facts.max_output_tokens.value_or(limits.max_output_tokens);
    if (limits.max_output_tokens > 0) output = std::min(output, limits.max_output_tokens);
    if (output == 0 && !facts.max_output_tokens.has_value()) {
      open.push_back("no maximum output: set max_tokens");
      output = assumed_window;
    }
    bound.output_tokens = Scaled(output, Sequences(facts)) + facts.predicted_bytes;
  }

  if (!open.empty() && !allow_unbounded) {
    const std::string features = absl::StrJoin(open, ", ");
    return MakeError(absl::StatusCode::kFailedPrecondition, "UNBOUNDED_REQUEST",
                     absl::StrCat("the cost of this request has no upper bound, which its budget "
                                  "requires, because of: ",
                                  features),
                     {{"features", features}});
  }
  return bound;
}

bool CanCount(const RequestFacts& facts) {
  switch (facts.endpoint) {
    case Endpoint::kMessages:
    case Endpoint::kResponses:
    case Endpoint::kGenerateContent:
    case Endpoint::kStreamGenerateContent:
      break;
    default:
      return false;
  }
  // Counters do not run tools, and what they say of stored things is not what is billed.
  return facts.unbounded_features.empty() && facts.window_bounded_features.empty() &&
         facts.server_tool_uses == 0 && facts.object_refs.empty();
}

TokenBound CountedBound(const RequestFacts& facts, const TokenBound& strict, int64_t counted) {
  TokenBound bound = strict;
  if (CanCount(facts) && counted >= 0) {
    bound.input_tokens = std::min(strict.input_tokens, counted + counted / 100 + 50);
  }
  return bound;
}

TokenBound TightTokens(const RequestFacts& facts, const ModelLimits& limits,
                       const TightRatios& ratios) {
  if (IsFree(facts.endpoint)) return TokenBound{};
  TokenBound bound = WithoutCounts(facts);
  bound.input_tokens = Scaled(facts.text_bytes, ratios.input_tokens_per_kib) / 1024 +
                       ratios.input_tokens_extra + MediaTokens(facts, limits.model);
  if (limits.max_input_tokens > 0) {
    bound.input_tokens = std::min(bound.input_tokens, limits.max_input_tokens);
  }
  int64_t output = facts.max_output_tokens.value_or(limits.max_output_tokens);
  if (limits.max_output_tokens > 0) output = std::min(output, limits.max_output_tokens);
  if (ratios.output_tokens > 0) {
    output = output > 0 ? std::min(output, ratios.output_tokens) : ratios.output_tokens;
  }
  if (output == 0) output = facts.max_output_tokens.has_value() ? 0 : 4096;
  bound.output_tokens = IsEmbedding(facts.endpoint) ? 0 : Scaled(output, Sequences(facts));
  if (auto strict = BoundTokens(facts, limits); strict.ok()) {
    bound.input_tokens = std::min(bound.input_tokens, strict->input_tokens);
    bound.output_tokens = std::min(bound.output_tokens, strict->output_tokens);
  }
  return bound;
}

}  // namespace tollhouse::edge
