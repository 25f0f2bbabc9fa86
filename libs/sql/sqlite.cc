#include "libs/sql/sqlite.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <array>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"

namespace tollhouse::sql {
namespace {

absl::Status ErrorOf(sqlite3* handle, int code) {
  const std::string message = absl::StrCat("sqlite: ", sqlite3_errmsg(handle));
  switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
      return MakeError(absl::StatusCode::kResourceExhausted, "SQL_FULL", message);
    case SQLITE_CONSTRAINT: {
      const int extended = sqlite3_extended_errcode(handle);
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

void BindText(sqlite3_stmt* statement, int index, std::string_view text) {
  const char* const data = text.data();  // without data it is empty, not NULL
  sqlite3_bind_text64(statement, index, data == nullptr ? "" : data, text.size(), SQLITE_TRANSIENT,
                      SQLITE_UTF8);
}

void BindBlob(sqlite3_stmt* statement, int index, std::string_view bytes) {
  const void* const data = bytes.data();
  sqlite3_bind_blob64(statement, index, data == nullptr ? "" : data, bytes.size(), SQLITE_TRANSIENT);
}

class SqliteCursor final : public Rows::Cursor {
 public:
  SqliteCursor(sqlite3* handle, sqlite3_stmt* statement) : handle_(handle), statement_(statement) {}
  ~SqliteCursor() override {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }

  bool Next() override {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) status_ = ErrorOf(handle_, code);
    sqlite3_reset(statement_);
    return false;
  }
  absl::Status status() const override { return status_; }
  int64_t Int(int column) override { return sqlite3_column_int64(statement_, column); }
  bool IsNull(int column) override {
    return sqlite3_column_type(statement_, column) == SQLITE_NULL;
  }
  std::string_view View(int column) override {
    const void* const data = sqlite3_column_blob(statement_, column);
    return {static_cast<const char*>(data),
            static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }

 private:
  sqlite3* const handle_;
  sqlite3_stmt* const statement_;
  absl::Status status_;
};

class SqliteInsert final : public BulkInsert {
 public:
  SqliteInsert(sqlite3* handle, absl::StatusOr<sqlite3_stmt*> statement)
      : handle_(handle), status_(statement.status()), statement_(statement.value_or(nullptr)) {}

  void Int(int64_t value) override {
    if (status_.ok()) sqlite3_bind_int64(statement_, ++column_, value);
  }
  void Text(std::string_view value) override {
    if (status_.ok()) BindText(statement_, ++column_, value);
  }
  void Bytes(std::string_view value) override {
    if (status_.ok()) BindBlob(statement_, ++column_, value);
  }
  void Uuid(std::string_view raw) override { Bytes(raw); }
  void Null() override {
    if (status_.ok()) sqlite3_bind_null(statement_, ++column_);
  }
  void EndRow() override {
    column_ = 0;
    if (!status_.ok()) return;
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_DONE) status_ = ErrorOf(handle_, code);
    sqlite3_reset(statement_);
  }
  absl::Status Finish() override {
    if (statement_ != nullptr) sqlite3_clear_bindings(statement_);
    return status_;
  }

 private:
  sqlite3* const handle_;
  absl::Status status_;
  sqlite3_stmt* const statement_;
  int column_ = 0;
};

class SqliteConnection final : public Connection {
 public:
  explicit SqliteConnection(sqlite3* handle) : handle_(handle) {}
  ~SqliteConnection() override {
    for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(handle_);
  }

  Dialect dialect() const override { return Dialect::kSqlite; }

  absl::Status ExecuteScript(const std::string& sql) override {
    const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? absl::OkStatus() : ErrorOf(handle_, code);
  }

  std::unique_ptr<BulkInsert> Insert(std::string_view table,
                                     std::initializer_list<std::string_view> columns) override {
    std::string sql = absl::StrCat("INSERT INTO ", Absl(table), " (");
    std::string values;
    for (const std::string_view column : columns) {
      absl::StrAppend(&sql, values.empty() ? "" : ", ", Absl(column));
      absl::StrAppend(&values, values.empty() ? "?" : ", ?");
    }
    absl::StrAppend(&sql, ") VALUES (", values, ")");
    return std::make_unique<SqliteInsert>(handle_, Prepare(sql));
  }

  bool in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }

 private:
  absl::StatusOr<int64_t> DoExecute(std::string_view sql, std::span<const Param> params) override {
    TH_ASSIGN_OR_RETURN(sqlite3_stmt* const statement, PrepareAndBind(sql, params));
    SqliteCursor cursor(handle_, statement);
    while (cursor.Next()) {
    }
    TH_RETURN_IF_ERROR(cursor.status());
    return sqlite3_changes64(handle_);
  }

  absl::StatusOr<Rows> DoQuery(std::string_view sql, std::span<const Param> params) override {
    TH_ASSIGN_OR_RETURN(sqlite3_stmt* const statement, PrepareAndBind(sql, params));
    return Rows(std::make_unique<SqliteCursor>(handle_, statement));
  }

  absl::StatusOr<sqlite3_stmt*> Prepare(std::string_view sql) {
    sqlite3_stmt*& statement = statements_[std::string(sql)];
    if (statement == nullptr) {
      const int code = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()),
                                          SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
      if (code != SQLITE_OK) {
        statements_.erase(std::string(sql));
        return ErrorOf(handle_, code);
      }
    } else if (sqlite3_stmt_busy(statement)) {
      return absl::InternalError(absl::StrCat("nested use of a statement: ", Absl(sql)));
    }
    return statement;
  }

  absl::StatusOr<sqlite3_stmt*> PrepareAndBind(std::string_view sql, std::span<const Param> params) {
    TH_ASSIGN_OR_RETURN(sqlite3_stmt* const statement, Prepare(sql));
    int index = 0;
    for (const Param& param : params) {
      ++index;
      switch (param.kind()) {
        case Param::Kind::kNull:
          sqlite3_bind_null(statement, index);
          break;
        case Param::Kind::kInt:
          sqlite3_bind_int64(statement, index, param.number());
          break;
        case Param::Kind::kText:
          BindText(statement, index, param.bytes());
          break;
        case Param::Kind::kBlob:
        case Param::Kind::kUuid:
          BindBlob(statement, index, param.bytes());
          break;
      }
    }
    return statement;
  }

  sqlite3* const handle_;
  std::unordered_map<std::string, sqlite3_stmt*> statements_;
};

absl::StatusOr<std::unique_ptr<SqliteConnection>> Connect(const std::string& path) {
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(
      path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  auto connection = std::make_unique<SqliteConnection>(handle);
  if (code != SQLITE_OK) {
    return MakeError(absl::StatusCode::kUnavailable, "SQL_OPEN",
                     absl::StrCat("cannot open ", path, ": ", sqlite3_errstr(code)));
  }
  TH_RETURN_IF_ERROR(connection->ExecuteScript(
      "PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
      "PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384;"));
  return connection;
}

class SqliteDatabase final : public Database {
 public:
  Dialect dialect() const override { return Dialect::kSqlite; }

  absl::Status Open(const std::string& path, std::span<const Migration> migrations) {
    {
      absl::MutexLock lock(&write_mutex_);
      TH_ASSIGN_OR_RETURN(writer_, Connect(path));
    }
    TH_RETURN_IF_ERROR(Migrate(migrations));
    for (auto& reader : readers_) {
      TH_ASSIGN_OR_RETURN(reader, Connect(path));
      TH_RETURN_IF_ERROR(reader->ExecuteScript("PRAGMA query_only=ON;"));
    }
    return absl::OkStatus();
  }

  absl::Status Write(const Body& body) override {
    absl::MutexLock lock(&write_mutex_);
    TH_RETURN_IF_ERROR(writer_->Execute("BEGIN IMMEDIATE").status());
    absl::Status status = body(*writer_);
    if (status.ok()) status = writer_->Execute("COMMIT").status();
    // SQLite ends the transaction by itself on some errors.
    if (!status.ok() && writer_->in_transaction()) writer_->Execute("ROLLBACK").IgnoreError();
    return status;
  }

  absl::Status Read(const Body& body) override {
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

 private:
  static constexpr size_t kReaders = 4;

  absl::Status Migrate(std::span<const Migration> migrations) {
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
        return MakeError(absl::StatusCode::kFailedPrecondition, "SCHEMA_NEW",
                         absl::StrCat("the database has schema ", current, ", this program knows ",
                                      newest, ": start a newer version of it"));
      }
      if (current > 0 && !migrations.empty() && current < migrations.front().version) {
        return MakeError(absl::StatusCode::kFailedPrecondition, "SCHEMA_OLD",
                         absl::StrCat("the database has schema ", current, ", which only versions before ",
                                      "the first release had: begin with a new file"));
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

  absl::Mutex write_mutex_;
  std::unique_ptr<SqliteConnection> writer_ ABSL_GUARDED_BY(write_mutex_);
  absl::Mutex readers_mutex_;
  std::array<std::unique_ptr<SqliteConnection>, kReaders> readers_;
  std::array<bool, kReaders> reader_busy_ ABSL_GUARDED_BY(readers_mutex_){};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Database>> OpenSqlite(const std::string& path,
                                                     std::span<const Migration> migrations) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    return MakeError(absl::StatusCode::kUnavailable, "SQL_OPEN", absl::StrCat("cannot open ", path));
  }
  close(fd);
  auto database = std::make_unique<SqliteDatabase>();
  TH_RETURN_IF_ERROR(database->Open(path, migrations));
  return database;
}

}  // namespace tollhouse::sql
