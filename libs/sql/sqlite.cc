#include "libs/sql/sqlite.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::sql {

Rows::~Rows() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

bool Rows::Next() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) status_ = connection_->Error(code);
  sqlite3_reset(statement_);
  return false;
}

std::string_view Rows::View(int column) const {
  const void* const data = sqlite3_column_blob(statement_, column);
  return {static_cast<const char*>(data), static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
}

Connection::~Connection() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::StatusOr<sqlite3_stmt*> Connection::Prepare(std::string_view sql) {
  sqlite3_stmt*& statement = statements_[std::string(sql)];
  if (statement == nullptr) {
    const int code = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()),
                                        SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) {
      statements_.erase(std::string(sql));
      return Error(code);
    }
  } else if (sqlite3_stmt_busy(statement)) {
    return absl::InternalError(absl::StrCat("nested use of a statement: ", Absl(sql)));
  }
  return statement;
}

absl::Status Connection::Error(int code) const {
  const std::string message = absl::StrCat("sqlite: ", sqlite3_errmsg(handle_));
  switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
      return MakeError(absl::StatusCode::kResourceExhausted, "SQL_FULL", message);
    case SQLITE_CONSTRAINT: {
      const int extended = sqlite3_extended_errcode(handle_);
      if (extended == SQLITE_CONSTRAINT_UNIQUE || extended == SQLITE_CONSTRAINT_PRIMARYKEY) {
        return MakeError(absl::StatusCode::kAlreadyExists, "SQL_CONSTRAINT_UNIQUE", message);
      }
      return MakeError(absl::StatusCode::kFailedPrecondition, "SQL_CONSTRAINT", message);
    }
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return MakeError(absl::StatusCode::kUnavailable, "SQL_BUSY", message);
    default:
      return MakeError(absl::StatusCode::kInternal, "SQL_FAILED", message);
  }
}

absl::Status Connection::ExecuteScript(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::StatusOr<std::unique_ptr<Connection>> Database::Connect(const std::string& path) {
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(
      path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Connection> connection(new Connection(handle));
  if (code != SQLITE_OK) {
    return MakeError(absl::StatusCode::kUnavailable, "SQL_OPEN",
                     absl::StrCat("cannot open ", path, ": ", sqlite3_errstr(code)));
  }
  TH_RETURN_IF_ERROR(connection->ExecuteScript(
      "PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
      "PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384;"));
  return connection;
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path,
                                                         std::span<const Migration> migrations) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    return MakeError(absl::StatusCode::kUnavailable, "SQL_OPEN", absl::StrCat("cannot open ", path));
  }
  close(fd);
  std::unique_ptr<Database> database(new Database);
  {
    absl::MutexLock lock(&database->write_mutex_);
    TH_ASSIGN_OR_RETURN(database->writer_, Connect(path));
  }
  TH_RETURN_IF_ERROR(database->Migrate(migrations));
  for (auto& reader : database->readers_) {
    TH_ASSIGN_OR_RETURN(reader, Connect(path));
    TH_RETURN_IF_ERROR(reader->ExecuteScript("PRAGMA query_only=ON;"));
  }
  return database;
}

Database::~Database() = default;

absl::Status Database::Migrate(std::span<const Migration> migrations) {
  return Write([&](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.ExecuteScript(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY) STRICT;"));
    int64_t current = 0;
    {
      TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT coalesce(max(version), 0) FROM schema_version"));
      if (rows.Next()) current = rows.Int(0);
      TH_RETURN_IF_ERROR(rows.status());
    }
    const int64_t newest = migrations.empty() ? 0 : migrations.back().version;
    if (current > newest) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "SCHEMA_NEWER",
                       absl::StrCat("the database has schema ", current, ", this program knows ",
                                    newest, ": start a newer version of it"));
    }
    for (const Migration& migration : migrations) {
      if (migration.version <= current) continue;
      TH_RETURN_IF_ERROR(c.ExecuteScript(std::string(migration.sql)));
      TH_RETURN_IF_ERROR(
          c.Execute("INSERT INTO schema_version VALUES (?1)", migration.version).status());
    }
    return absl::OkStatus();
  });
}

absl::Status Database::Write(const Body& body) {
  absl::MutexLock lock(&write_mutex_);
  TH_RETURN_IF_ERROR(writer_->Execute("BEGIN IMMEDIATE").status());
  absl::Status status = body(*writer_);
  if (status.ok()) status = writer_->Execute("COMMIT").status();
  // SQLite ends the transaction by itself on some errors.
  if (!status.ok() && sqlite3_get_autocommit(writer_->handle_) == 0) {
    writer_->Execute("ROLLBACK").IgnoreError();
  }
  return status;
}

absl::Status Database::Read(const Body& body) {
  size_t index = kReaders;
  {
    absl::MutexLock lock(&readers_mutex_);
    const auto find_free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(readers_mutex_) {
      for (index = 0; index < kReaders && reader_busy_[index];) ++index;
      return index < kReaders;
    };
    readers_mutex_.Await(absl::Condition(&find_free));
    reader_busy_[index] = true;
  }
  Connection& reader = *readers_[index];
  absl::Status status = reader.Execute("BEGIN").status();
  if (status.ok()) {
    status = body(reader);
    reader.Execute("COMMIT").IgnoreError();
  }
  absl::MutexLock lock(&readers_mutex_);
  reader_busy_[index] = false;
  return status;
}

}  // namespace tollhouse::sql
