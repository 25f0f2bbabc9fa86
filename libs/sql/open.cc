#include "libs/sql/open.h"

#include <string_view>
#include <utility>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/sql/sqlite.h"

namespace tollhouse::sql {
namespace {

constexpr std::string_view kSqlitePrefix = "sqlite:";

PostgresOptions PostgresOf(const DatabaseSettings& settings) {
  PostgresOptions options;
  options.uri = settings.database;
  options.password_file = settings.password_file;
  options.application_name = settings.application_name;
  options.connections = settings.connections;
  options.isolation = settings.isolation;
  options.on_connect = settings.on_connect;
  return options;
}

absl::Status BadDatabase() {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_CONFIG",
                   "a database is sqlite:PATH or postgresql://USER@HOST:PORT/NAME");
}

}  // namespace

absl::StatusOr<OpenedDatabase> OpenDatabase(const DatabaseSettings& settings, const Schema& schema) {
  OpenedDatabase opened;
  if (settings.database.starts_with(kSqlitePrefix)) {
    TH_ASSIGN_OR_RETURN(opened.database,
                        OpenSqlite(settings.database.substr(kSqlitePrefix.size()), schema.sqlite));
    return opened;
  }
  if (!IsPostgresUri(settings.database)) return BadDatabase();
  opened.postgres = PostgresOf(settings);
  TH_ASSIGN_OR_RETURN(opened.database, OpenPostgres(*opened.postgres, schema.postgres));
  return opened;
}

absl::Status MigrateDatabase(const DatabaseSettings& settings, const Schema& schema) {
  if (settings.database.starts_with(kSqlitePrefix)) {
    return OpenSqlite(settings.database.substr(kSqlitePrefix.size()), schema.sqlite).status();
  }
  if (!IsPostgresUri(settings.database)) return BadDatabase();
  return MigratePostgres(PostgresOf(settings), schema.postgres);
}

}  // namespace tollhouse::sql
