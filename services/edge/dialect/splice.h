// The few bytes of a request that change on its way to the provider.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "services/edge/dialect/request.h"

namespace tollhouse::edge {

struct SpliceOptions {
  std::string upstream_model;                // "" or the name already there: left alone
                                             // (Gemini's bodies say models/NAME)
  bool inject_include_usage = false;         // OpenAI streams whose caller did not ask for usage
  std::optional<int64_t> max_output_tokens;  // replaces or inserts the declared maximum
  // Under which name a maximum is inserted where a caller of OpenAI's chat gave none.
  std::string max_output_field = "max_completion_tokens";
  bool strip_metadata = false;  // Anthropic: keep user_id alone
};

// True if SpliceForUpstream would change anything.
bool NeedsSplice(const RequestFacts& facts, const SpliceOptions& options);

// The body for the provider: `body` with exactly the changes that `options` ask for, every other
// byte as it was (prompt caches depend on them). `facts` must come from this very body.
std::string SpliceForUpstream(const RequestFacts& facts, std::string_view body,
                              const SpliceOptions& options);

}  // namespace tollhouse::edge
