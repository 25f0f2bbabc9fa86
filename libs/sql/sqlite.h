// SQLite behind transactions that return absl::Status. No exception and no driver text passes this
// header but in the message of an error, which libs/rpc does not send to clients.
#pragma once

#include <sqlite3.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"

namespace tollhouse::sql {

// Errors: RESOURCE_EXHAUSTED (SQL_FULL: disk full or I/O error; nothing was changed), ALREADY_EXISTS
// (SQL_CONSTRAINT_UNIQUE), FAILED_PRECONDITION (SQL_CONSTRAINT), UNAVAILABLE (SQL_BUSY), INTERNAL
// (SQL_FAILED).

// A blob parameter; std::string and std::string_view bind as text.
struct Blob {
  std::string_view bytes;
};

class Connection;

// The rows of one query, valid until the next use of its statement. Columns count from 0; NULL reads
// as 0 or "".
class Rows {
 public:
  Rows(Rows&& other) noexcept : connection_(other.connection_), statement_(std::exchange(other.statement_, nullptr)), status_(std::move(other.status_)) {}
  Rows& operator=(Rows&&) = delete;
  ~Rows();

  // Moves to the next row; false at the end or on an error (see status()).
  bool Next();
  absl::Status status() const { return status_; }

  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  NanoUsd Money(int column) const { return NanoUsd(Int(column)); }
  bool Bool(int column) const { return Int(column) != 0; }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  std::string Text(int column) const { return std::string(View(column)); }
  // Valid until Next().
  std::string_view View(int column) const;

 private:
  friend class Connection;
  Rows(Connection* connection, sqlite3_stmt* statement) : connection_(connection), statement_(statement) {}

  Connection* connection_;
  sqlite3_stmt* statement_;
  absl::Status status_;
};

// One connection within a transaction. Used by one thread at a time.
class Connection {
 public:
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Runs one statement without result rows; the number of rows it changed. Parameters are ?1, ?2, ...
  template <typename... Args>
  absl::StatusOr<int64_t> Execute(std::string_view sql, const Args&... args) {
    TH_ASSIGN_OR_RETURN(Rows rows, Query(sql, args...));
    while (rows.Next()) {
    }
    TH_RETURN_IF_ERROR(rows.status());
    return sqlite3_changes64(handle_);
  }

  // Prepares (cached by text) and binds a query.
  template <typename... Args>
  absl::StatusOr<Rows> Query(std::string_view sql, const Args&... args) {
    TH_ASSIGN_OR_RETURN(sqlite3_stmt* const statement, Prepare(sql));
    [[maybe_unused]] int index = 0;
    (Bind(statement, ++index, args), ...);
    return Rows(this, statement);
  }

  // Several statements without parameters (migrations).
  absl::Status ExecuteScript(const std::string& sql);

  int64_t last_insert_id() const { return sqlite3_last_insert_rowid(handle_); }

 private:
  friend class Database;
  friend class Rows;
  explicit Connection(sqlite3* handle) : handle_(handle) {}

  absl::StatusOr<sqlite3_stmt*> Prepare(std::string_view sql);
  absl::Status Error(int code) const;

  template <typename T>
  static void Bind(sqlite3_stmt* statement, int index, const T& value) {
    if constexpr (std::is_same_v<T, NanoUsd>) {
      sqlite3_bind_int64(statement, index, value.nanos());
    } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
      sqlite3_bind_int64(statement, index, static_cast<int64_t>(value));
    } else if constexpr (std::is_same_v<T, Blob>) {
      const void* const data = value.bytes.data();  // without data it is empty, not NULL
      sqlite3_bind_blob64(statement, index, data == nullptr ? "" : data, value.bytes.size(),
                          SQLITE_TRANSIENT);
    } else if constexpr (std::is_same_v<T, std::nullopt_t> || std::is_same_v<T, std::nullptr_t>) {
      sqlite3_bind_null(statement, index);
    } else if constexpr (requires { value.has_value(); }) {
      if (value.has_value()) {
        Bind(statement, index, *value);
      } else {
        sqlite3_bind_null(statement, index);
      }
    } else {
      const std::string_view text(value);  // without data it is empty, not NULL
      sqlite3_bind_text64(statement, index, text.data() == nullptr ? "" : text.data(), text.size(),
                          SQLITE_TRANSIENT, SQLITE_UTF8);
    }
  }

  sqlite3* const handle_;
  std::unordered_map<std::string, sqlite3_stmt*> statements_;
};

// One step of a schema. Applied in one transaction each; versions count from 1.
struct Migration {
  int version;
  std::string_view sql;
};

// A database file in WAL mode with synchronous=FULL: what a Write committed survives a crash of the
// machine. Thread-safe: writers are serialized, each reader sees a snapshot and blocks nobody.
class Database {
 public:
  // Creates the file (mode 0600) where there is none. FAILED_PRECONDITION (SCHEMA_NEWER) if it was
  // written by a newer program.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path,
                                                        std::span<const Migration> migrations);
  ~Database();

  using Body = std::function<absl::Status(Connection&)>;
  // BEGIN IMMEDIATE, body, COMMIT; rolled back if the body or the commit fails. Not nestable.
  absl::Status Write(const Body& body);
  // The body sees one consistent snapshot; it must not write.
  absl::Status Read(const Body& body);

 private:
  static constexpr size_t kReaders = 4;

  Database() = default;
  absl::Status Migrate(std::span<const Migration> migrations);
  static absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& path);

  absl::Mutex write_mutex_;
  std::unique_ptr<Connection> writer_ ABSL_GUARDED_BY(write_mutex_);
  absl::Mutex readers_mutex_;
  std::array<std::unique_ptr<Connection>, kReaders> readers_;
  std::array<bool, kReaders> reader_busy_ ABSL_GUARDED_BY(readers_mutex_){};
};

}  // namespace tollhouse::sql
