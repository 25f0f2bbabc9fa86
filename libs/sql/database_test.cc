// What both drivers have to do.
#include "libs/sql/database.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/sql/postgres.h"
#include "libs/sql/sqlite.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::sql {
namespace {

constexpr Migration kFirst[] = {
    {1, "CREATE TABLE t (v TEXT UNIQUE, n BIGINT CHECK (n >= 0), extra TEXT NOT NULL DEFAULT '');"}};
constexpr Migration kSecond[] = {kFirst[0], {2, "ALTER TABLE t ADD COLUMN more TEXT;"}};

class DatabaseTest : public ::testing::TestWithParam<Dialect> {
 protected:
  DatabaseTest() {
    if (GetParam() == Dialect::kPostgres) postgres_ = std::make_unique<testing::PostgresDatabase>();
  }

  absl::StatusOr<std::unique_ptr<Database>> Open(std::span<const Migration> migrations) {
    if (postgres_ == nullptr) return OpenSqlite(dir_.File("a.db"), migrations);
    const PostgresOptions options{.uri = postgres_->uri()};
    TH_RETURN_IF_ERROR(MigratePostgres(options, migrations));
    return OpenPostgres(options, migrations);
  }

  void OpenWith(std::span<const Migration> migrations) {
    auto opened = Open(migrations);
    ASSERT_TRUE(opened.ok()) << opened.status();
    db_ = *std::move(opened);
  }

  absl::Status Insert(std::string_view value, int64_t n) {
    return db_->Write([&](Connection& c) {
      return c.Execute("INSERT INTO t (v, n) VALUES (?1, ?2)", value, n).status();
    });
  }

  // The first column of the first row.
  template <typename... Args>
  int64_t Number(const std::string& sql, const Args&... args) {
    int64_t out = -1;
    const absl::Status status = db_->Read([&](Connection& c) -> absl::Status {
      TH_ASSIGN_OR_RETURN(Rows rows, c.Query(sql, args...));
      if (rows.Next()) out = rows.Int(0);
      return rows.status();
    });
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  testing::TempDir dir_;
  std::unique_ptr<testing::PostgresDatabase> postgres_;
  std::unique_ptr<Database> db_;
};

TEST_P(DatabaseTest, WhatIsCommittedSurvivesReopening) {
  OpenWith(kFirst);
  EXPECT_TRUE(Insert("a", 1).ok());
  db_.reset();
  OpenWith(kSecond);
  EXPECT_EQ(Number("SELECT count(*) FROM t WHERE more IS NULL"), 1);
}

TEST_P(DatabaseTest, AnErrorRollsEverythingBack) {
  OpenWith(kFirst);
  const absl::Status status = db_->Write([](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Execute("INSERT INTO t (v, n) VALUES ('x', 1)").status());
    return absl::CancelledError("no");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Number("SELECT count(*) FROM t"), 0);
}

TEST_P(DatabaseTest, ErrorsAreClassified) {
  OpenWith(kFirst);
  ASSERT_TRUE(Insert("a", 1).ok());
  EXPECT_EQ(ReasonOf(Insert("a", 1)), "SQL_CONSTRAINT_UNIQUE");
  EXPECT_EQ(ReasonOf(Insert("b", -1)), "SQL_CONSTRAINT");
  EXPECT_EQ(ReasonOf(db_->Write([](Connection& c) { return c.Execute("nonsense").status(); })),
            "SQL_FAILED");
  EXPECT_TRUE(Insert("b", 1).ok());
}

TEST_P(DatabaseTest, ANewerSchemaIsRefused) {
  OpenWith(kSecond);
  EXPECT_EQ(ReasonOf(Open(kFirst).status()), "SCHEMA_NEW");
}

TEST_P(DatabaseTest, ReadersSeeOneSnapshotAndDoNotBlockTheWriter) {
  OpenWith(kFirst);
  ASSERT_TRUE(Insert("a", 1).ok());
  const absl::Status status = db_->Read([&](Connection& c) -> absl::Status {
    for (int round = 0; round < 2; ++round) {
      TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT count(*) FROM t"));
      EXPECT_TRUE(rows.Next());
      EXPECT_EQ(rows.Int(0), 1);
      if (round == 0) {
        EXPECT_TRUE(Insert("b", 1).ok());
      }
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Number("SELECT count(*) FROM t"), 2);
}

TEST_P(DatabaseTest, ReadAndWriteOfManyThreadsAreAsIfOneAfterTheOther) {
  OpenWith(kFirst);
  ASSERT_TRUE(Insert("counter", 0).ok());
  std::vector<std::thread> threads;
  std::atomic<int> done = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 10; ++k) {
        absl::Status status;
        do {  // what loses again and again is told so
          status = db_->Write([](Connection& c) -> absl::Status {
            TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT n FROM t WHERE v = 'counter'"));
            EXPECT_TRUE(rows.Next());
            return c.Execute("UPDATE t SET n = ?1 WHERE v = 'counter'", rows.Int(0) + 1).status();
          });
        } while (ReasonOf(status) == "SQL_RETRY");
        EXPECT_TRUE(status.ok()) << status;
        ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, 40);
  EXPECT_EQ(Number("SELECT n FROM t WHERE v = 'counter'"), 40);
}

TEST_P(DatabaseTest, AStringViewWithoutDataIsEmptyNotNull) {
  const Migration schema[] = {{1, GetParam() == Dialect::kSqlite
                                      ? "CREATE TABLE u (text TEXT NOT NULL, bytes BLOB NOT NULL);"
                                      : "CREATE TABLE u (text TEXT NOT NULL, bytes bytea NOT NULL);"}};
  OpenWith(schema);
  const absl::Status status = db_->Write([](Connection& c) {
    return c.Execute("INSERT INTO u VALUES (?1, ?2)", std::string_view(), Blob{}).status();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(DatabaseTest, ValuesComeBackAsTheyWentIn) {
  const bool sqlite = GetParam() == Dialect::kSqlite;
  const std::string schema_text =
      absl::StrCat("CREATE TABLE u (n BIGINT, text TEXT, bytes ", sqlite ? "BLOB" : "bytea", ", id ",
                   sqlite ? "BLOB" : "uuid", ");");
  const Migration schema[] = {{1, schema_text}};
  OpenWith(schema);
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  const std::string id = bytes.substr(100, 16);
  const std::string text = "tab\t line\n return\r back\\slash 'quote' \"double\" ?1 \xc3\xa4 \\N \\.";
  const int64_t least = std::numeric_limits<int64_t>::min();
  ASSERT_TRUE(db_->Write([&](Connection& c) -> absl::Status {
                  TH_RETURN_IF_ERROR(c.Execute("INSERT INTO u VALUES (?1, ?2, ?3, ?4)", least, text,
                                               Blob{bytes}, RawUuid{id})
                                         .status());
                  const auto insert = c.Insert("u", {"n", "text", "bytes", "id"});
                  insert->Int(least);
                  insert->Text(text);
                  insert->Bytes(bytes);
                  insert->Uuid(id);
                  insert->EndRow();
                  for (int i = 0; i < 4; ++i) insert->Null();
                  insert->EndRow();
                  insert->Int(1);
                  insert->Text("");
                  insert->Bytes("");
                  insert->Uuid(id);
                  insert->EndRow();
                  return insert->Finish();
                }).ok());
  const absl::Status status = db_->Read([&](Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT n, text, bytes, id, n = ?1 FROM u WHERE id = ?2 "
                                           "ORDER BY n",
                                           least, RawUuid{id}));
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(rows.Next());
      EXPECT_EQ(rows.Int(0), least);
      EXPECT_EQ(rows.Text(1), text);
      EXPECT_EQ(rows.Text(2), bytes);
      EXPECT_EQ(rows.Text(3), id);
      EXPECT_TRUE(rows.Bool(4));
    }
    EXPECT_TRUE(rows.Next());
    EXPECT_EQ(rows.Text(1), "");
    EXPECT_FALSE(rows.IsNull(1));
    EXPECT_EQ(rows.Text(2), "");
    EXPECT_FALSE(rows.Bool(4));
    EXPECT_FALSE(rows.Next());
    return rows.status();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Number("SELECT count(*) FROM u WHERE n IS NULL AND text IS NULL AND bytes IS NULL AND "
                   "id IS NULL"),
            1);
}

TEST_P(DatabaseTest, ABulkInsertThatBreaksAConstraintFailsAsAWhole) {
  OpenWith(kFirst);
  const auto insert = [&](std::string_view last) {
    return db_->Write([&](Connection& c) {
      const auto rows = c.Insert("t", {"v", "n"});
      for (const std::string_view value : {std::string_view("a"), std::string_view("b"), last}) {
        rows->Text(value);
        rows->Int(1);
        rows->EndRow();
      }
      return rows->Finish();
    });
  };
  EXPECT_EQ(ReasonOf(insert("a")), "SQL_CONSTRAINT_UNIQUE");
  EXPECT_EQ(Number("SELECT count(*) FROM t"), 0);
  EXPECT_TRUE(insert("c").ok());
  EXPECT_EQ(Number("SELECT count(*) FROM t"), 3);
}

TEST_P(DatabaseTest, AScanReadsEverythingInOrder) {
  OpenWith(kFirst);
  ASSERT_TRUE(db_->Write([](Connection& c) {
                  const auto rows = c.Insert("t", {"v", "n"});
                  for (int i = 0; i < 5000; ++i) {
                    rows->Text(absl::StrCat("v", i));
                    rows->Int(i);
                    rows->EndRow();
                  }
                  return rows->Finish();
                }).ok());
  const absl::Status status = db_->Read([](Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(Rows rows, c.Scan("SELECT n FROM t WHERE n >= ?1 ORDER BY n", 10));
    for (int i = 10; i < 5000; ++i) {
      EXPECT_TRUE(rows.Next());
      EXPECT_EQ(rows.Int(0), i);
    }
    EXPECT_FALSE(rows.Next());
    return rows.status();
  });
  EXPECT_TRUE(status.ok()) << status;
}

INSTANTIATE_TEST_SUITE_P(Drivers, DatabaseTest,
                         ::testing::Values(Dialect::kSqlite, Dialect::kPostgres), [](const auto& driver) {
                           return driver.param == Dialect::kSqlite ? "Sqlite" : "Postgres";
                         });

}  // namespace
}  // namespace tollhouse::sql
