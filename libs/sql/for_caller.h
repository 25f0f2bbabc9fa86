// What the callers of a service get to see of its store's errors.
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace tollhouse::sql {

// The error of a handler of `service` ("ledger") as it may be sent: one of a driver (reason SQL_*)
// goes to the log and keeps its reason only where that helps (all that are UNAVAILABLE, and SQL_FULL,
// which becomes UNAVAILABLE), never its text; any other is INTERNAL (STORE_FAILED). What is no driver's error, and
// OK, pass as they are.
absl::Status ForCaller(const absl::Status& status, std::string_view service);

}  // namespace tollhouse::sql
