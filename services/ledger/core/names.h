// Names of accounts and budgets: what is allowed and how ids read.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/account_path.h"

namespace tollhouse::ledger {

// [A-Za-z0-9._@-]{1,64}, not "." or "..". INVALID_ARGUMENT (BAD_NAME) says what is wrong.
absl::Status CheckName(std::string_view name);

// The names of "acme/payments/sarah", each checked. 1 to 4 of them.
absl::StatusOr<std::vector<std::string>> SplitPath(std::string_view path);

// "acme/payments" of "acme/payments/sarah"; "" of "acme".
std::string ParentOf(std::string_view path);

// Keys and values of tags and matches: 1 to 64 of [A-Za-z0-9._@-] and up to 256 printable bytes of
// UTF-8. INVALID_ARGUMENT (BAD_ARGUMENT).
absl::Status CheckTags(const std::map<std::string, std::string>& tags);

// A map as one line that can be compared and read: "model=gpt-5&use_case=batch", sorted, with the
// bytes % & = , [ ] and controls percent-encoded. DecodeTags takes what EncodeTags gives.
std::string EncodeTags(const std::map<std::string, std::string>& tags);
std::map<std::string, std::string> DecodeTags(std::string_view text);

// "acme/payments#month", "acme/payments#NAME", "acme#month[use_case=batch]"; a template reads
// "acme#month*user": one for each user.
std::string BudgetDisplayId(std::string_view path, std::string_view name, std::string_view window,
                            std::string_view encoded_match, std::string_view for_each);

}  // namespace tollhouse::ledger
