// One request as `tollctl explain` answers it.
#pragma once

#include "tollhouse/ledger/v1/ledger_admin.pb.h"
#include "tools/tollctl/value.h"

namespace tollhouse::tollctl {

// {"request_id", "account", "provider", "model", "usage": {...}, "usage_source", "price_version",
// "hold_nanousd", "cost_nanousd", "status", ...} of the last attempt (of an estimate, not of what
// remains in suspense beside it), where cost_nanousd is the sum of all, and "attempts" (the same fields
// each) if there were several. Token classes: input includes cached and written, output includes
// reasoning. `attempts` is not empty, oldest first.
//
// "sum" is the arithmetic of that attempt: per usage line and class {"model", "item", "quantity",
// "unit_price", "factor", "amount"}, in exact decimal USD, and as last row what rounding up to the
// nano-dollar adds. Empty where the entry names no price (estimates that resolve suspense).
Value ExplainDocument(const ledger::v1::ExplainRequestResponse& attempts);

}  // namespace tollhouse::tollctl
