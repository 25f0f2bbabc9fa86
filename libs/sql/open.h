// A service's database, as its configuration names it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/sql/database.h"
#include "libs/sql/postgres.h"

namespace tollhouse::sql {

struct DatabaseSettings {
  std::string database;       // "sqlite:PATH", or a postgresql:// URI without password
  std::string password_file;  // of PostgreSQL, "": none
  std::string application_name = "tollhouse";
  int connections = 8;
  Isolation isolation = Isolation::kSerializable;
  std::function<absl::Status(Connection&)> on_connect;  // see PostgresOptions
};

// The migrations of a service, per dialect.
struct Schema {
  std::vector<Migration> sqlite;
  std::vector<Migration> postgres;
};

struct OpenedDatabase {
  std::unique_ptr<Database> database;
  std::optional<PostgresOptions> postgres;  // where that is what it is
};

// A SQLite file is created, and its schema brought up to date, where that is needed; a PostgreSQL
// database must have been migrated. Errors: BAD_CONFIG (INVALID_ARGUMENT), and those of OpenSqlite and
// OpenPostgres.
absl::StatusOr<OpenedDatabase> OpenDatabase(const DatabaseSettings& settings, const Schema& schema);

// Brings the schema up to date; safe to repeat, and by two at once.
absl::Status MigrateDatabase(const DatabaseSettings& settings, const Schema& schema);

}  // namespace tollhouse::sql
