// SQL databases behind transactions that return absl::Status. A store is written once against these
// classes where its SQL is the same in SQLite (sqlite.h) and PostgreSQL (postgres.h), and asks for the
// dialect where it is not. No exception and no driver text passes this header but in the message of an
// error, which for_caller.h keeps from clients.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/money.h"
#include "libs/base/status_macros.h"

namespace tollhouse::sql {

// Errors, by reason:
//   SQL_CONSTRAINT_UNIQUE  ALREADY_EXISTS       a key is there already
//   SQL_CONSTRAINT         FAILED_PRECONDITION  any other constraint, or a trigger's refusal
//   SQL_FULL               RESOURCE_EXHAUSTED   disk full or failing
//   SQL_BUSY               UNAVAILABLE          locks or connections were not had in time
//   SQL_TIMEOUT            UNAVAILABLE          a statement took too long
//   SQL_RETRY              UNAVAILABLE          lost against other transactions again and again
//   SQL_UNAVAILABLE        UNAVAILABLE          no connection, or lost before COMMIT was sent
//   SQL_READ_ONLY          UNAVAILABLE          the server takes no writes: a standby, or set so
//   SQL_COMMIT_UNKNOWN     UNAVAILABLE          lost during COMMIT: done or not; ask by key
//   SQL_FAILED             INTERNAL             anything else
// After any of them but SQL_COMMIT_UNKNOWN nothing was changed.

enum class Dialect { kSqlite, kPostgres };

// A bytea or BLOB parameter; std::string and std::string_view are text, in which PostgreSQL stores
// U+FFFD for NUL.
struct Blob {
  std::string_view bytes;
};

// 16 raw bytes: a column of type uuid in PostgreSQL, BLOB in SQLite. Reads back as 16 bytes.
struct RawUuid {
  std::string_view bytes;
};

// An array parameter, for `= ANY (?1)` and unnest(?1). PostgreSQL only. What it was made of may go.
class Array {
 public:
  static Array Ints(std::span<const int64_t> values);
  static Array Uuids(std::span<const std::string_view> raw);
  static Array Texts(std::span<const std::string_view> values);

  std::string_view text() const { return text_; }

 private:
  std::string text_ = "{";
};

// One parameter; refers to what it was made from.
class Param {
 public:
  enum class Kind { kNull, kInt, kText, kBlob, kUuid };

  template <typename T>
  Param(const T& value) {  // NOLINT: what may be a parameter converts to one
    if constexpr (std::is_same_v<T, NanoUsd>) {
      Set(value.nanos());
    } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
      Set(static_cast<int64_t>(value));
    } else if constexpr (std::is_same_v<T, Blob>) {
      Set(Kind::kBlob, value.bytes);
    } else if constexpr (std::is_same_v<T, RawUuid>) {
      Set(Kind::kUuid, value.bytes);
    } else if constexpr (std::is_same_v<T, Array>) {
      Set(Kind::kText, value.text());
    } else if constexpr (std::is_same_v<T, std::nullopt_t> || std::is_same_v<T, std::nullptr_t>) {
      // NULL
    } else if constexpr (requires { value.has_value(); }) {
      if (value.has_value()) *this = Param(*value);
    } else {
      Set(Kind::kText, std::string_view(value));
    }
  }

  Kind kind() const { return kind_; }
  int64_t number() const { return number_; }
  std::string_view bytes() const { return bytes_; }

 private:
  void Set(int64_t number) {
    kind_ = Kind::kInt;
    number_ = number;
  }
  void Set(Kind kind, std::string_view bytes) {
    kind_ = kind;
    bytes_ = bytes;
  }

  Kind kind_ = Kind::kNull;
  int64_t number_ = 0;
  std::string_view bytes_;
};

// The rows of one query, valid until the next use of its statement. Columns count from 0; NULL reads
// as 0 or "", a boolean as 0 or 1.
class Rows {
 public:
  // What a driver implements.
  class Cursor {
   public:
    virtual ~Cursor() = default;
    virtual bool Next() = 0;
    virtual absl::Status status() const = 0;
    virtual int64_t Int(int column) = 0;
    virtual bool IsNull(int column) = 0;
    virtual std::string_view View(int column) = 0;
  };

  explicit Rows(std::unique_ptr<Cursor> cursor) : cursor_(std::move(cursor)) {}

  // Moves to the next row; false at the end or on an error (see status()).
  bool Next() { return cursor_->Next(); }
  absl::Status status() const { return cursor_->status(); }

  int64_t Int(int column) const { return cursor_->Int(column); }
  NanoUsd Money(int column) const { return NanoUsd(Int(column)); }
  bool Bool(int column) const { return Int(column) != 0; }
  bool IsNull(int column) const { return cursor_->IsNull(column); }
  std::string Text(int column) const { return std::string(View(column)); }
  // Valid until Next().
  std::string_view View(int column) const { return cursor_->View(column); }

 private:
  std::unique_ptr<Cursor> cursor_;
};

// Rows on their way into a table: COPY in PostgreSQL, one INSERT each in SQLite. One value per column
// in their order, then EndRow(). Nothing may be run on the connection meanwhile in between but by
// other BulkInserts.
class BulkInsert {
 public:
  virtual ~BulkInsert() = default;

  virtual void Int(int64_t value) = 0;
  virtual void Text(std::string_view value) = 0;
  virtual void Bytes(std::string_view value) = 0;
  virtual void Uuid(std::string_view raw) = 0;
  virtual void Null() = 0;
  virtual void EndRow() = 0;
  // All rows are in the table, or none and the transaction has failed. Call once, last.
  virtual absl::Status Finish() = 0;
};

// One connection within a transaction. Used by one thread at a time.
class Connection {
 public:
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  virtual Dialect dialect() const = 0;

  // Parameters are ?1, ?2, ... in every dialect.

  // Runs one statement without result rows; the number of rows it changed.
  template <typename... Args>
  absl::StatusOr<int64_t> Execute(std::string_view sql, const Args&... args) {
    const std::array<Param, sizeof...(Args)> params{Param(args)...};
    return DoExecute(sql, params);
  }

  // Prepares (cached by text) and runs a query.
  template <typename... Args>
  absl::StatusOr<Rows> Query(std::string_view sql, const Args&... args) {
    const std::array<Param, sizeof...(Args)> params{Param(args)...};
    return DoQuery(sql, params);
  }

  // As Query, for results that may be larger than memory: read from the server piece by piece.
  template <typename... Args>
  absl::StatusOr<Rows> Scan(std::string_view sql, const Args&... args) {
    const std::array<Param, sizeof...(Args)> params{Param(args)...};
    return DoScan(sql, params);
  }

  // Several statements without parameters (migrations).
  virtual absl::Status ExecuteScript(const std::string& sql) = 0;

  virtual std::unique_ptr<BulkInsert> Insert(std::string_view table,
                                             std::initializer_list<std::string_view> columns) = 0;

 protected:
  Connection() = default;

 private:
  virtual absl::StatusOr<int64_t> DoExecute(std::string_view sql, std::span<const Param> params) = 0;
  virtual absl::StatusOr<Rows> DoQuery(std::string_view sql, std::span<const Param> params) = 0;
  virtual absl::StatusOr<Rows> DoScan(std::string_view sql, std::span<const Param> params) {
    return DoQuery(sql, params);
  }
};

// One step of a schema. Applied in one transaction each; versions grow.
struct Migration {
  int version;
  std::string_view sql;
};

// Thread-safe.
class Database {
 public:
  virtual ~Database() = default;
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  virtual Dialect dialect() const = 0;

  using Body = std::function<absl::Status(Connection&)>;
  // BEGIN, body, COMMIT; rolled back if the body or the commit fails. Not nestable. The body may run
  // several times (PostgreSQL: after a serialization failure or deadlock), and begins anew each time:
  // what it has put into variables of its caller it must not keep.
  virtual absl::Status Write(const Body& body) = 0;
  // The body sees one consistent snapshot; it must not write. It runs once.
  virtual absl::Status Read(const Body& body) = 0;

 protected:
  Database() = default;
};

}  // namespace tollhouse::sql
