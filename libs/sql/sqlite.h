// SQLite behind database.h.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "libs/sql/database.h"

namespace tollhouse::sql {

// A database file in WAL mode with synchronous=FULL: what a Write committed survives a crash of the
// machine. Writers are serialized (BEGIN IMMEDIATE), each reader sees a snapshot and blocks nobody.
// Creates the file (mode 0600) where there is none and brings its schema up to date.
// FAILED_PRECONDITION (SCHEMA_NEW) if it was written by a newer program, (SCHEMA_OLD) if its version is
// below the first of the migrations.
absl::StatusOr<std::unique_ptr<Database>> OpenSqlite(const std::string& path,
                                                     std::span<const Migration> migrations);

}  // namespace tollhouse::sql
