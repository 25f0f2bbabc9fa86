// Budgets as people and programs see them: the ledger's rows with the enforcer's holds.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/tollctl/api.h"
#include "tools/tollctl/table.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

// (limit + raises) x hard % - spent - held - suspense, at least 0.
int64_t Available(const ledger::v1::Budget& budget);

// Fills held_nanousd of each budget's current period from the enforcer, and available_nanousd.
absl::Status AddHolds(Api& api, google::protobuf::RepeatedPtrField<ledger::v1::Budget>* budgets);

// ListBudgets with holds.
absl::StatusOr<std::vector<ledger::v1::Budget>> ListBudgets(
    Api& api, const ledger::v1::ListBudgetsRequest& request);

// {"budgets": [...]}
Value BudgetsDocument(const std::vector<ledger::v1::Budget>& budgets);

std::vector<Column> BudgetColumns(absl::Time now);    // of a list
std::vector<Column> BudgetDetails(absl::Time now);    // of one

}  // namespace tollhouse::tollctl
