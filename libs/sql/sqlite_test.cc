#include "libs/sql/sqlite.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "libs/base/error.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::sql {
namespace {

constexpr Migration kFirst[] = {
    {1, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE, n INTEGER CHECK (n >= 0)) STRICT;"}};
constexpr Migration kSecond[] = {kFirst[0], {2, "ALTER TABLE t ADD COLUMN extra TEXT;"}};

int64_t Count(Database& db) {
  int64_t count = -1;
  EXPECT_TRUE(db.Read([&](Connection& c) -> absl::Status {
                  TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT count(*) FROM t"));
                  if (rows.Next()) count = rows.Int(0);
                  return rows.status();
                }).ok());
  return count;
}

absl::Status Insert(Database& db, std::string_view value, int64_t n) {
  return db.Write([&](Connection& c) {
    return c.Execute("INSERT INTO t (v, n) VALUES (?1, ?2)", value, n).status();
  });
}

TEST(SqliteTest, WhatIsCommittedSurvivesReopening) {
  const testing::TempDir dir;
  {
    auto db = Database::Open(dir.File("a.db"), kFirst);
    ASSERT_TRUE(db.ok()) << db.status();
    EXPECT_TRUE(Insert(**db, "a", 1).ok());
  }
  auto db = Database::Open(dir.File("a.db"), kSecond);
  ASSERT_TRUE(db.ok()) << db.status();
  EXPECT_EQ(Count(**db), 1);
}

TEST(SqliteTest, AnErrorRollsEverythingBack) {
  const testing::TempDir dir;
  auto db = Database::Open(dir.File("a.db"), kFirst);
  const absl::Status status = (*db)->Write([](Connection& c) -> absl::Status {
    TH_RETURN_IF_ERROR(c.Execute("INSERT INTO t (v, n) VALUES ('x', 1)").status());
    return absl::CancelledError("no");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Count(**db), 0);
}

TEST(SqliteTest, ErrorsAreClassified) {
  const testing::TempDir dir;
  auto db = Database::Open(dir.File("a.db"), kFirst);
  ASSERT_TRUE(Insert(**db, "a", 1).ok());
  EXPECT_EQ(ReasonOf(Insert(**db, "a", 1)), "SQL_CONSTRAINT_UNIQUE");
  EXPECT_EQ(ReasonOf(Insert(**db, "b", -1)), "SQL_CONSTRAINT");
  EXPECT_EQ(ReasonOf((*db)->Write([](Connection& c) { return c.Execute("nonsense").status(); })),
            "SQL_FAILED");
}

TEST(SqliteTest, ANewerSchemaIsRefused) {
  const testing::TempDir dir;
  ASSERT_TRUE(Database::Open(dir.File("a.db"), kSecond).ok());
  EXPECT_EQ(ReasonOf(Database::Open(dir.File("a.db"), kFirst).status()), "SCHEMA_NEWER");
}

TEST(SqliteTest, ReadersDoNotBlockTheWriter) {
  const testing::TempDir dir;
  auto db = Database::Open(dir.File("a.db"), kFirst);
  ASSERT_TRUE(Insert(**db, "a", 1).ok());
  EXPECT_TRUE((*db)->Read([&](Connection& c) -> absl::Status {
                    TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT v FROM t"));
                    EXPECT_TRUE(rows.Next());
                    EXPECT_EQ(rows.Text(0), "a");
                    EXPECT_TRUE(Insert(**db, "b", 1).ok());
                    EXPECT_FALSE(rows.Next());  // still the snapshot from before
                    return rows.status();
                  }).ok());
  EXPECT_EQ(Count(**db), 2);
}

TEST(SqliteTest, WritersOfManyThreadsAreSerialized) {
  const testing::TempDir dir;
  auto db = Database::Open(dir.File("a.db"), kFirst);
  ASSERT_TRUE(Insert(**db, "counter", 0).ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 25; ++k) {
        EXPECT_TRUE((*db)->Write([](Connection& c) -> absl::Status {
                          TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT n FROM t"));
                          EXPECT_TRUE(rows.Next());
                          return c.Execute("UPDATE t SET n = ?1", rows.Int(0) + 1).status();
                        }).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE((*db)->Read([](Connection& c) -> absl::Status {
                    TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT n FROM t"));
                    EXPECT_TRUE(rows.Next());
                    EXPECT_EQ(rows.Int(0), 200);
                    return rows.status();
                  }).ok());
}

TEST(SqliteTest, AStringViewWithoutDataIsEmptyNotNull) {
  testing::TempDir dir;
  const Migration schema[] = {{1, "CREATE TABLE t (text TEXT NOT NULL, blob BLOB NOT NULL) STRICT;"}};
  const auto database = Database::Open(dir.File("db"), schema);
  ASSERT_TRUE(database.ok());
  const absl::Status status = (*database)->Write([](Connection& c) {
    return c.Execute("INSERT INTO t VALUES (?1, ?2)", std::string_view(), Blob{}).status();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SqliteTest, NullsAndBlobsRoundTrip) {
  const testing::TempDir dir;
  constexpr Migration kBlobs[] = {{1, "CREATE TABLE b (x BLOB, y INTEGER) STRICT;"}};
  auto db = Database::Open(dir.File("a.db"), kBlobs);
  const std::string bytes("\0\1\2", 3);
  ASSERT_TRUE((*db)->Write([&](Connection& c) {
                    return c.Execute("INSERT INTO b VALUES (?1, ?2)", Blob{bytes},
                                     std::optional<int64_t>()).status();
                  }).ok());
  EXPECT_TRUE((*db)->Read([&](Connection& c) -> absl::Status {
                    TH_ASSIGN_OR_RETURN(Rows rows, c.Query("SELECT x, y FROM b"));
                    EXPECT_TRUE(rows.Next());
                    EXPECT_EQ(rows.Text(0), bytes);
                    EXPECT_TRUE(rows.IsNull(1));
                    return rows.status();
                  }).ok());
}

}  // namespace
}  // namespace tollhouse::sql
