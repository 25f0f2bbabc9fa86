// The usage object of OpenAI's APIs and of the many servers that speak them. Internal to the meter.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "services/edge/dialect/json.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

// Counts as written: details are parts of the whole. Tokens that only total_tokens knows
// (total - prompt - completion) are hidden reasoning, billed as output.
struct OpenAiUsage {
  std::optional<int64_t> prompt;      // prompt_tokens, input_tokens
  std::optional<int64_t> completion;  // completion_tokens, output_tokens
  std::optional<int64_t> total;
  int64_t cached = 0;  // cached_tokens of the details, or a vendor's name for it
  int64_t cache_write = 0;
  int64_t audio_input = 0;
  int64_t image_input = 0;
  int64_t reasoning = 0;
  int64_t audio_output = 0;
  int64_t image_output = 0;
  int64_t web_searches = 0;

  bool stated() const { return prompt.has_value() || completion.has_value(); }
  int64_t hidden() const {
    if (!total.has_value()) return 0;
    return std::max<int64_t>(*total - prompt.value_or(0) - completion.value_or(0), 0);
  }
  int64_t output() const { return completion.value_or(0) + hidden(); }
};

// True if the object states counts; then, and only then, it replaces what was known.
bool ReadOpenAiUsage(json::Value& value, OpenAiUsage* usage);

// To disjoint classes. Where parts overlap in a way the provider does not tell, the dearer class
// wins.
void FillOpenAiUsage(const OpenAiUsage& from, common::v1::Usage* usage);

}  // namespace tollhouse::edge
