// How many tokens a request can be billed for: strict (hard caps) and tight (estimates).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libs/policy/price.h"
#include "services/edge/dialect/request.h"

namespace tollhouse::edge {

using policy::TokenBound;

// The model's limits from the price book; 0: not stated there.
struct ModelLimits {
  std::string_view model;  // the provider's name for it; picks the image rules
  int64_t max_input_tokens = 0;
  int64_t max_output_tokens = 0;
};

// Raises limits that an `anthropic-beta` header lifts beyond what the price book states: context-1m
// (a window of 1,000,000) and output-128k (128,000 output tokens). Call it for each such header.
void ApplyBetas(std::string_view anthropic_beta, ModelLimits* limits);

// Hidden system and tool prompts that providers add: at most 494 tokens were measured over 1,074
// plain calls, so 1,024 covers them; vendor-defined client tools bring another 1,024 each.
inline constexpr int64_t kHiddenPromptTokens = 1024;

// input = text bytes + hidden prompts + media, at most the context window, which is the universal
// cap of one inference; bounded server tools run 1 + max_uses inferences of up to a window each, and
// every prompt of completions and text of embeddings has a window of its own.
// output = n x min(declared, model maximum); embeddings have none.
// FailedPrecondition, reason UNBOUNDED_REQUEST, metadata `features`: features that no bound covers,
// or a limit the price book does not state where it is the only bound. With `allow_unbounded` (a
// policy's decision) those count as one context window and the answer is a best effort.
absl::StatusOr<TokenBound> BoundTokens(const RequestFacts& facts, const ModelLimits& limits,
                                       bool allow_unbounded = false);

// The bound with the provider's own count of the input instead of bytes: + 1 % + 50, what counters
// have been seen to be off. Only where nothing but the text decides (CanCount); never above `strict`.
TokenBound CountedBound(const RequestFacts& facts, const TokenBound& strict, int64_t counted);
bool CanCount(const RequestFacts& facts);

// What a model and key have been seen to use. Integers: tokens per 1,024 bytes of text.
struct TightRatios {
  // Recorded bodies above 4 KiB: median 92, p95 317, maximum 379.
  int64_t input_tokens_per_kib = 512;
  int64_t input_tokens_extra = 1024;
  int64_t output_tokens = 0;  // expected per choice; 0: the declared or model maximum
};

// An estimate for budgets with `--bound tight` and for token-per-minute limits, never above the
// strict bound where that exists.
TokenBound TightTokens(const RequestFacts& facts, const ModelLimits& limits,
                       const TightRatios& ratios = {});

}  // namespace tollhouse::edge
