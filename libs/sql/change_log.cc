#include "libs/sql/change_log.h"

#include "libs/base/status_macros.h"

namespace tollhouse::sql {
namespace {

constexpr std::string_view kSqliteSchema = R"sql(
-- libs/sql/change_log.h
CREATE TABLE change_head (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  log_id TEXT NOT NULL,
  version INTEGER NOT NULL
) STRICT;
INSERT INTO change_head (id, log_id, version) VALUES (1, lower(hex(randomblob(16))), 1);
CREATE TABLE change (
  version INTEGER PRIMARY KEY,
  payload BLOB NOT NULL
) STRICT;
)sql";

constexpr std::string_view kPostgresSchema = R"sql(
-- libs/sql/change_log.h
CREATE TABLE change_head (
  id bigint PRIMARY KEY CHECK (id = 1),
  log_id text NOT NULL,
  version bigint NOT NULL
);
INSERT INTO change_head (id, log_id, version) VALUES (1, gen_random_uuid()::text, 1);
CREATE TABLE change (
  version bigint PRIMARY KEY,
  payload bytea NOT NULL
);
-- The processes that serve watches, and what their watchers have acknowledged (libs/sql/change_feed.h).
CREATE TABLE change_replica (
  name text PRIMARY KEY,
  acked bigint NOT NULL,
  behind text NOT NULL,     -- watchers that have acknowledged less than the newest, one a line
  seen_at bigint NOT NULL   -- microseconds since 1970, of this server's clock
);
)sql";

// The timeline of the WAL that is written now: the control file's lags behind a promotion.
#define TH_SQL_HISTORY                                             \
  "((SELECT system_identifier FROM pg_control_system())::text || '/' || " \
  "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))"

}  // namespace

const std::string_view kServerHistory = TH_SQL_HISTORY;

std::string_view ChangeLogSchema(Dialect dialect) {
  return dialect == Dialect::kSqlite ? kSqliteSchema : kPostgresSchema;
}

absl::StatusOr<int64_t> AppendChange(Connection& connection, std::string_view payload) {
  int64_t version = 0;
  {
    TH_ASSIGN_OR_RETURN(Rows rows,
                        connection.Query("UPDATE change_head SET version = version + 1 WHERE id = 1 "
                                         "RETURNING version"));
    if (rows.Next()) version = rows.Int(0);
    while (rows.Next()) {
    }
    TH_RETURN_IF_ERROR(rows.status());
  }
  TH_RETURN_IF_ERROR(connection
                         .Execute("INSERT INTO change (version, payload) VALUES (?1, ?2)", version,
                                  Blob{payload})
                         .status());
  if (connection.dialect() == Dialect::kPostgres) {
    TH_ASSIGN_OR_RETURN(Rows rows, connection.Query("SELECT pg_notify('tollhouse_changes', '')"));
    TH_RETURN_IF_ERROR(rows.status());
  }
  return version;
}

absl::StatusOr<ChangeLogHead> ReadChangeLogHead(Connection& connection) {
  TH_ASSIGN_OR_RETURN(
      Rows rows, connection.Query(connection.dialect() == Dialect::kSqlite
                                      ? "SELECT log_id, version FROM change_head"
                                      : "SELECT log_id || '@' || " TH_SQL_HISTORY
                                        ", version FROM change_head"));
  ChangeLogHead head;
  if (rows.Next()) head = {rows.Text(0), rows.Int(1)};
  TH_RETURN_IF_ERROR(rows.status());
  return head;
}

absl::StatusOr<std::vector<Change>> ReadChanges(Connection& connection, int64_t after,
                                                int64_t limit) {
  TH_ASSIGN_OR_RETURN(Rows rows,
                      connection.Query("SELECT version, payload FROM change WHERE version > ?1 "
                                       "ORDER BY version LIMIT ?2",
                                       after, limit));
  std::vector<Change> changes;
  while (rows.Next()) changes.push_back({rows.Int(0), rows.Text(1)});
  TH_RETURN_IF_ERROR(rows.status());
  return changes;
}

}  // namespace tollhouse::sql
