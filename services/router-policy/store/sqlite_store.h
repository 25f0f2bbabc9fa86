// The store in a SQLite file: the embedded form.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/router-policy/store/store.h"

namespace tollhouse::router {

// Creates the file where there is none. FailedPrecondition (SCHEMA_NEW) if a newer program wrote it.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path);

}  // namespace tollhouse::router
