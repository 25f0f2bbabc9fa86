// PostgreSQL behind database.h, over libpqxx.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/sql/database.h"

namespace tollhouse::sql {

// How writing transactions are kept apart. Reads always see one snapshot (REPEATABLE READ, READ ONLY).
enum class Isolation {
  kSerializable,   // as if one after the other; what cannot be is tried again
  kReadCommitted,  // the store locks rows itself, in one order everywhere; deadlocks are tried again
};

struct PostgresOptions {
  // libpq's URI: postgresql://user@host:port/name?sslmode=verify-full&sslrootcert=..., several hosts
  // with target_session_attrs=read-write. Without a password: INVALID_ARGUMENT (BAD_CONFIG) if it has one.
  std::string uri;
  std::string password_file;  // read at each connect, "": none; a final newline does not count
  std::string application_name = "tollhouse";
  Isolation isolation = Isolation::kSerializable;
  int connections = 8;  // at most; made as they are needed, kept for an hour at most
  // Run in a transaction of its own on each new connection, before anything else. Its error, which the
  // transaction that wanted to connect gets, makes the connection unusable.
  std::function<absl::Status(Connection&)> on_connect;
  // How long a transaction waits for one of them (SQL_BUSY).
  absl::Duration acquire_timeout = absl::Seconds(10);
  absl::Duration connect_timeout = absl::Seconds(5);
  // The server gives up a statement (SQL_TIMEOUT) or the wait for a lock (SQL_BUSY) after this. It
  // does not give up a COMMIT, so that it never reports what no standby has.
  absl::Duration statement_timeout = absl::Seconds(30);
  absl::Duration lock_timeout = absl::Seconds(10);
  // A server that has not answered this long after the statement's time-out has lost the connection.
  absl::Duration answer_grace = absl::Seconds(5);
};

// Whether a `database` setting names a PostgreSQL server: postgresql:// or postgres://.
bool IsPostgresUri(std::string_view database);

// Connects once and compares the schema: FAILED_PRECONDITION (SCHEMA_OLD: run the program's `migrate`;
// SCHEMA_NEW: start the newer program). A server that cannot be reached is SQL_UNAVAILABLE, one that
// takes no writes SQL_READ_ONLY. Warns once (event postgres_asynchronous) if a COMMIT does not wait for
// a standby: then a failover may lose what was committed. Later outages are ridden out: each
// transaction connects anew where it must.
absl::StatusOr<std::unique_ptr<Database>> OpenPostgres(PostgresOptions options,
                                                       std::span<const Migration> migrations);

// Brings the schema up to date, under an advisory lock: safe to repeat, and by two at once. SCHEMA_NEW
// as above. Not limited by statement_timeout.
absl::Status MigratePostgres(const PostgresOptions& options, std::span<const Migration> migrations);

// What libpq connects with: the URI's settings, defaults for what it leaves out, and the password, which
// is read now. Not for logs.
absl::StatusOr<std::string> PostgresConninfo(const PostgresOptions& options);

// The address without user, password and options, for logs: "host:port/name".
std::string PostgresAddress(std::string_view uri);

}  // namespace tollhouse::sql
