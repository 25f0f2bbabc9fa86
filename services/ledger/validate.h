// What callers may ask for, checked before the store sees it, and the words of the API.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/ledger/store/store.h"

namespace tollhouse::ledger {

// Fills in the defaults of SetBudgetRequest. INVALID_ARGUMENT: BAD_NAME, BAD_AMOUNT, BAD_WINDOW,
// BAD_TIME_ZONE, BAD_ARGUMENT.
absl::StatusOr<BudgetSpec> ParseBudget(const v1::SetBudgetRequest& request);

// 0 <= amount <= kMaxCap, else INVALID_ARGUMENT (BAD_AMOUNT).
absl::Status CheckAmount(int64_t nanos, std::string_view what);

// Each limit 0 or more and not absurd: INVALID_ARGUMENT (BAD_AMOUNT).
absl::Status CheckLimits(const v1::SetLimitsRequest& request);

// At most 32 rules of different tags, each with something to say. INVALID_ARGUMENT (BAD_ARGUMENT).
absl::Status CheckTagRules(const v1::SetTagRulesRequest& request);

// An http or https URL with a host. INVALID_ARGUMENT (BAD_ARGUMENT).
absl::Status CheckWebhookUrl(std::string_view url);

// "enforce", "observe"; "strict", "tight"; "closed", "open"; "org", "team", "user", "key". "" for
// unspecified.
std::string_view NameOf(common::v1::BudgetMode mode);
std::string_view NameOf(common::v1::BoundPolicy bound);
std::string_view NameOf(common::v1::OutagePolicy policy);
std::string_view NameOf(common::v1::AccountKind kind);

}  // namespace tollhouse::ledger
