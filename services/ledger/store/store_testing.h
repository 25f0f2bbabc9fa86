// Where a test's stores live: in a SQLite file or a PostgreSQL database of their own.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "libs/base/clock.h"
#include "libs/sql/change_log.h"
#include "libs/sql/open.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {

class StoreHome {
 public:
  explicit StoreHome(sql::Dialect dialect) {
    if (dialect == sql::Dialect::kPostgres) {
      postgres_ = std::make_unique<testing::PostgresDatabase>(testing::PostgresServer::Shared(), "ledger",
                                                              Prepare);
    }
    Reopen();
  }

  // Opens the database anew. Stores on it must be gone.
  void Reopen() {
    database_.reset();
    absl::StatusOr<sql::OpenedDatabase> opened = sql::OpenDatabase(settings(), StoreSchema());
    if (opened.ok()) {
      database_ = std::move(opened->database);
    } else {
      ADD_FAILURE() << opened.status();
    }
  }

  // Several stores may be open at once.
  absl::StatusOr<std::unique_ptr<SqlStore>> Open(const Clock* clock) const {
    return SqlStore::Open(database_.get(), clock);
  }

  sql::DatabaseSettings settings() const {
    return {.database = postgres_ == nullptr ? "sqlite:" + dir_.File("ledger.db") : postgres_->uri(),
            .isolation = sql::Isolation::kReadCommitted};
  }
  sql::Database& database() const { return *database_; }
  std::string file() const { return dir_.File("ledger.db"); }
  const testing::PostgresDatabase& postgres() const { return *postgres_; }

  // What watchers were told after a version of the change log.
  std::vector<v1::WatchResponse> Changes(int64_t after) const {
    std::vector<v1::WatchResponse> out;
    const absl::Status status = database_->Read([&](sql::Connection& c) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const std::vector<sql::Change> changes, sql::ReadChanges(c, after, 1000));
      for (const sql::Change& change : changes) out.emplace_back().ParseFromString(change.payload);
      return absl::OkStatus();
    });
    if (!status.ok()) ADD_FAILURE() << status;
    return out;
  }

 private:
  // Tables, and the journal's partitions of the fake clock's weeks.
  static void Prepare(const std::string& uri) {
    const sql::DatabaseSettings settings{.database = uri, .isolation = sql::Isolation::kReadCommitted};
    const absl::Status migrated = sql::MigrateDatabase(settings, StoreSchema());
    if (!migrated.ok()) ADD_FAILURE() << migrated;
    const testing::FakeClock clock;
    auto opened = sql::OpenDatabase(settings, StoreSchema());
    if (!opened.ok() || !SqlStore::Open(opened->database.get(), &clock).ok()) {
      ADD_FAILURE() << opened.status();
    }
  }

  testing::TempDir dir_;
  std::unique_ptr<testing::PostgresDatabase> postgres_;
  std::unique_ptr<sql::Database> database_;
};

inline std::string DialectName(const ::testing::TestParamInfo<sql::Dialect>& param) {
  return param.param == sql::Dialect::kSqlite ? "Sqlite" : "Postgres";
}

}  // namespace tollhouse::ledger
