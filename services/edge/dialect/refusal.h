// Answers that the edge gives itself, in each dialect's own shape.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tollhouse/common/v1/common.pb.h"

namespace tollhouse::edge {

// A budget or limit that stands in the way; see enforcer.v1.Violation.
struct ViolatedLimit {
  std::string budget;  // "acme/payments#month", or the limit's account path
  std::string reason;  // "budget_exhausted", "requests_per_minute", ...: lower snake case
  int64_t limit_nanousd = 0;
  int64_t spent_nanousd = 0;
  int64_t held_nanousd = 0;
  int64_t suspense_nanousd = 0;
  int64_t needed_nanousd = 0;
  std::optional<absl::Time> resets_at;  // nothing: a budget without end, or a rate limit
  int64_t limit = 0;                    // of a rate or concurrency limit
};

struct Refusal {
  enum class Kind {
    kBudgetExhausted,   // 402 (or 429, see budget_status): final
    kBudgetHeld,        // 429 budget_held: other requests hold the room
    kBudgetBlocked,     // 503: suspense or lost leases hold it
    kRequestRate,       // 429
    kTokenRate,         // 429
    kConcurrency,       // 429
    kBadRequest,        // 400
    kUnauthenticated,   // 401; Gemini 400
    kForbidden,         // 403: model or feature not allowed
    kModelNotFound,     // 404
    kNotFound,          // 404: path
    kMethodNotAllowed,  // 405
    kTooLarge,          // 413
    kRequestTimeout,    // 408: the caller was too slow
    kHeadersTooLarge,   // 431
    kUpstream,          // 502: the provider's answer is unusable
    kUnavailable,       // 503: infrastructure
    kUpstreamTimeout,   // 504
    kInternal,          // 500
  };

  Kind kind = Kind::kInternal;
  std::string message;  // for people; "" lets Render write one from the kind and the violations
  std::string code;     // machine-readable; "" takes the dialect's usual one
  std::string param;    // the request field to blame
  std::optional<absl::Duration> retry_after;
  std::vector<ViolatedLimit> violations;
  std::string request_id;   // echoed where the dialect has a place for it
  int budget_status = 402;  // of kBudgetExhausted: 402 or 429. Gemini's 402 is 403
};

struct RenderedAnswer {
  int status = 500;
  std::vector<std::pair<std::string, std::string>> headers;  // lower-case names, content-type first
  std::string body;
};

// The whole answer: status, headers (x-should-retry, retry-after, x-tollhouse-denied-by), JSON
// body. Values from the caller or from providers are escaped; invalid UTF-8 in them is replaced.
RenderedAnswer Render(common::v1::Dialect dialect, const Refusal& refusal);

// The dialect's SSE error event, for a stream that must end after its head was sent.
std::string MidStreamError(common::v1::Dialect dialect, const Refusal& refusal);

// A refusal for a failed ScanRequest or BoundTokens, by code and reason.
Refusal RefusalOf(const absl::Status& status);

// Text as a JSON string literal with its quotes; invalid UTF-8 becomes U+FFFD.
void AppendJsonString(std::string_view text, std::string* out);

}  // namespace tollhouse::edge
