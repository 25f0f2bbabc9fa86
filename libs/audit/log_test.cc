// The log on both databases, and what becomes of it in the hands of somebody who can write to them.
#include "libs/audit/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/sql/postgres.h"
#include "libs/sql/sqlite.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"

namespace tollhouse::audit {
namespace {

using common::v1::AuditEvent;
using common::v1::AuditHead;
using common::v1::AuditPage;
using common::v1::AuditQuery;
using common::v1::AuditReport;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

AuditEvent Event(const std::string& actor, const std::string& resource,
                 const std::string& account) {
  AuditEvent event;
  event.set_actor(actor);
  event.set_role("admin");
  event.set_method("SetBudget");
  event.set_resource(resource);
  event.set_account(account);
  event.set_result("OK");
  event.set_request("{\"limit_nanousd\":\"5\"}");
  return event;
}

class LogTest : public ::testing::TestWithParam<sql::Dialect> {
 protected:
  LogTest() {
    const sql::Migration migrations[] = {{1, LogSchema(GetParam())}};
    if (GetParam() == sql::Dialect::kPostgres) {
      postgres_ = std::make_unique<testing::PostgresDatabase>();
      const sql::PostgresOptions options{.uri = postgres_->uri()};
      EXPECT_TRUE(sql::MigratePostgres(options, migrations).ok());
      database_ = sql::OpenPostgres(options, migrations).value();
    } else {
      database_ = sql::OpenSqlite(dir_.File("a.db"), migrations).value();
    }
    log_ = NewWriter();
  }

  std::unique_ptr<Log> NewWriter() {
    return std::make_unique<Log>(database_.get(), "vault", &clock_);
  }

  void Append(Log& log, const std::string& actor, const std::string& resource = "acme/a#month",
              const std::string& account = "acme/a") {
    AuditEvent event = Event(actor, resource, account);
    const absl::Status status = log.Append(&event);
    ASSERT_TRUE(status.ok()) << status;
    clock_.Advance(absl::Seconds(1));
  }

  std::vector<std::string> Actors(const AuditQuery& query, const std::string& subtree = "") {
    const auto page = log_->List(query, subtree);
    EXPECT_TRUE(page.ok()) << page.status();
    std::vector<std::string> actors;
    for (const AuditEvent& event : page->events()) actors.push_back(event.actor());
    return actors;
  }

  AuditReport Verify(const AuditReport& expected = {}) {
    const auto report = log_->Verify(expected.heads());
    EXPECT_TRUE(report.ok()) << report.status();
    return report.value_or(AuditReport());
  }
  std::vector<std::string> Problems(const AuditReport& expected = {}) {
    const AuditReport report = Verify(expected);
    return {report.problems().begin(), report.problems().end()};
  }

  // As somebody who owns the database can.
  void Tamper(const std::vector<std::string>& statements) {
    const bool sqlite = GetParam() == sql::Dialect::kSqlite;
    const absl::Status status = database_->Write([&](sql::Connection& c) -> absl::Status {
      TH_RETURN_IF_ERROR(c.ExecuteScript(sqlite
                                             ? "DROP TRIGGER IF EXISTS audit_event_is_not_updated;"
                                               "DROP TRIGGER IF EXISTS audit_event_is_not_deleted;"
                                             : "ALTER TABLE audit_event DISABLE TRIGGER ALL;"));
      for (const std::string& statement : statements) {
        TH_RETURN_IF_ERROR(c.Execute(statement).status());
      }
      return absl::OkStatus();
    });
    ASSERT_TRUE(status.ok()) << status;
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
  std::unique_ptr<testing::PostgresDatabase> postgres_;
  std::unique_ptr<sql::Database> database_;
  std::unique_ptr<Log> log_;
};

TEST_P(LogTest, KeepsWhoDidWhatAndGivesItBackNewestFirst) {
  AuditEvent event = Event("sarah", "acme/a#month", "acme/a");
  event.set_peer("ipv4:10.0.0.7:51234");
  event.set_before("{\"limit_nanousd\":\"4\"}");
  event.set_after("{\"limit_nanousd\":\"5\"}");
  ASSERT_TRUE(log_->Append(&event).ok());
  clock_.Advance(absl::Seconds(1));
  Append(*log_, "paul");
  const auto page = log_->List(AuditQuery(), "");
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->events_size(), 2);
  EXPECT_EQ(page->events(1).SerializeAsString(), event.SerializeAsString());
  EXPECT_EQ(page->events(0).sequence(), 2);
  EXPECT_EQ(page->next_page_token(), "");
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(LogTest, FindsByTimeActorAndResource) {
  const int64_t start = absl::ToUnixSeconds(clock_.Wall());
  Append(*log_, "a", "acme/a", "acme/a");
  Append(*log_, "b", "acme/a#month", "acme/a");
  Append(*log_, "c", "acme/a/sarah", "acme/a/sarah");
  Append(*log_, "d", "acme/ab", "acme/ab");
  Append(*log_, "e", "provider/openai", "");
  AuditQuery query;
  query.set_resource("acme/a");
  EXPECT_THAT(Actors(query), ElementsAre("c", "b", "a"));
  query.Clear();
  query.set_actor("d");
  EXPECT_THAT(Actors(query), ElementsAre("d"));
  query.Clear();
  query.mutable_since()->set_seconds(start + 1);
  query.mutable_until()->set_seconds(start + 3);
  EXPECT_THAT(Actors(query), ElementsAre("c", "b"));
  EXPECT_THAT(Actors(AuditQuery(), "acme/a"), ElementsAre("c", "b", "a"));
  EXPECT_THAT(Actors(AuditQuery(), "acme/a/sarah"), ElementsAre("c"));
  EXPECT_THAT(Actors(AuditQuery(), "other"), IsEmpty());
}

TEST_P(LogTest, PagesJoinWithoutAGap) {
  for (int i = 0; i < 7; ++i) Append(*log_, absl::StrCat("n", i));
  AuditQuery query;
  query.set_page_size(3);
  std::vector<std::string> actors;
  int pages = 0;
  do {
    const auto page = log_->List(query, "");
    ASSERT_TRUE(page.ok()) << page.status();
    for (const AuditEvent& event : page->events()) actors.push_back(event.actor());
    query.set_page_token(page->next_page_token());
    ++pages;
  } while (!query.page_token().empty() && pages < 9);
  EXPECT_THAT(actors, ElementsAre("n6", "n5", "n4", "n3", "n2", "n1", "n0"));
  query.set_page_token("nonsense");
  EXPECT_EQ(ReasonOf(log_->List(query, "").status()), "BAD_ARGUMENT");
}

TEST_P(LogTest, EveryProcessAndEveryMonthHasAChainOfItsOwn) {
  const std::unique_ptr<Log> other = NewWriter();
  Append(*log_, "a");
  Append(*other, "b");
  Append(*log_, "c");
  clock_.Advance(absl::Hours(24 * 31));
  Append(*log_, "d");
  const AuditReport report = Verify();
  EXPECT_THAT(report.problems(), IsEmpty());
  EXPECT_EQ(report.events(), 4);
  ASSERT_EQ(report.heads_size(), 3);
  EXPECT_EQ(report.heads(0).sequence(), 2);
  EXPECT_EQ(report.heads(1).sequence(), 1);
  EXPECT_EQ(report.heads(2).partition(), "2026-12");
  EXPECT_EQ(report.heads(2).writer(), report.heads(0).writer());
  EXPECT_NE(report.heads(1).writer(), report.heads(0).writer());
}

TEST_P(LogTest, ManyAtOnceFromTwoProcessesKeepTheirChains) {
  const std::unique_ptr<Log> other = NewWriter();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 20; ++j) {
        AuditEvent event = Event("x", "acme", "acme");
        absl::Status status;
        do {
          status = (i % 2 == 0 ? *log_ : *other).Append(&event);
        } while (ReasonOf(status) == "SQL_RETRY");
        EXPECT_TRUE(status.ok()) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const AuditReport report = Verify();
  EXPECT_THAT(report.problems(), IsEmpty());
  EXPECT_EQ(report.events(), 80);
  EXPECT_EQ(report.heads_size(), 2);
}

TEST_P(LogTest, WhatIsRolledBackLeavesNothing) {
  Append(*log_, "a");
  const absl::Status status = database_->Write([&](sql::Connection& c) -> absl::Status {
    AuditEvent event = Event("b", "acme", "acme");
    TH_RETURN_IF_ERROR(log_->Append(c, &event));
    return absl::AbortedError("no");
  });
  EXPECT_TRUE(absl::IsAborted(status));
  Append(*log_, "c");
  EXPECT_THAT(Actors(AuditQuery()), ElementsAre("c", "a"));
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(LogTest, TextsAreMadePrintableAndCut) {
  AuditEvent event = Event(std::string("a\0b\n\xff", 5), std::string(2000, 'r'), "acme");
  event.set_request(std::string(100'000, 'q'));
  event.set_message("caf\xc3\xa9 \xe2\x82\xac");
  ASSERT_TRUE(log_->Append(&event).ok());
  const auto page = log_->List(AuditQuery(), "");
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(page->events(0).actor(), "a?b??");
  EXPECT_THAT(page->events(0).resource(), HasSubstr("... (2000 bytes)"));
  EXPECT_LT(page->events(0).request().size(), 17'000u);
  EXPECT_EQ(page->events(0).message(), "caf\xc3\xa9 \xe2\x82\xac");
  EXPECT_THAT(Problems(), IsEmpty());
}

TEST_P(LogTest, RowsAreNotChangedOrRemovedByAccident) {
  Append(*log_, "a");
  for (const std::string statement :
       {"UPDATE audit_event SET actor = 'b'", "DELETE FROM audit_event"}) {
    EXPECT_FALSE(
        database_->Write([&](sql::Connection& c) { return c.Execute(statement).status(); }).ok());
  }
}

class TamperedLogTest : public LogTest {
 protected:
  TamperedLogTest() {
    for (int i = 1; i <= 4; ++i)
      Append(*log_, absl::StrCat("n", i), absl::StrCat("provider/p", i), "");
    EXPECT_THAT(Problems(), IsEmpty());
  }
};

TEST_P(TamperedLogTest, AChangedRowIsNamed) {
  for (const std::string column :
       {"actor", "role", "subtree", "peer", "method", "resource", "account", "result", "message",
        "request", "state_before", "state_after"}) {
    SCOPED_TRACE(column);
    Tamper({absl::StrCat("UPDATE audit_event SET ", column, " = ", column,
                         " || 'x' WHERE sequence = 2")});
    EXPECT_THAT(Problems(),
                ElementsAre(HasSubstr("vault: event 2 of chain 1 (2026-11-21T12:00:01")));
    Tamper({absl::StrCat("UPDATE audit_event SET ", column, " = substr(", column, ", 1, length(",
                         column, ") - 1) WHERE sequence = 2")});
    EXPECT_THAT(Problems(), IsEmpty());
  }
  Tamper({"UPDATE audit_event SET at = at + 1 WHERE sequence = 3"});
  EXPECT_THAT(Problems(), ElementsAre(HasSubstr("event 3 of chain 1")));
}

TEST_P(TamperedLogTest, ARemovedRowIsNamed) {
  Tamper({"DELETE FROM audit_event WHERE sequence = 2"});
  EXPECT_THAT(Problems(), ElementsAre("vault: event 2 of chain 1 was removed"));
}

TEST_P(TamperedLogTest, TwoRowsThatWereSwappedAreNamed) {
  Tamper({"UPDATE audit_event SET sequence = -1 WHERE sequence = 2",
          "UPDATE audit_event SET sequence = 2 WHERE sequence = 3",
          "UPDATE audit_event SET sequence = 3 WHERE sequence = -1"});
  EXPECT_THAT(Problems(), ElementsAre(StartsWith("vault: event 2 of chain 1"),
                                      StartsWith("vault: event 3 of chain 1"),
                                      StartsWith("vault: event 4 of chain 1")));
}

TEST_P(TamperedLogTest, ACutTailIsFoundByTheHead) {
  Tamper({"DELETE FROM audit_event WHERE sequence >= 3"});
  EXPECT_THAT(Problems(), ElementsAre("vault: event 3 of chain 1 was removed",
                                      "vault: event 4 of chain 1 was removed"));
}

TEST_P(TamperedLogTest, ATailCutWithItsHeadIsFoundByWhatWasKeptElsewhere) {
  const AuditReport kept = Verify();
  Tamper({"DELETE FROM audit_event WHERE sequence = 4",
          "UPDATE audit_chain SET sequence = 3, hash = (SELECT hash FROM audit_event WHERE "
          "sequence = 3)"});
  EXPECT_THAT(Problems(), IsEmpty());
  EXPECT_THAT(Problems(kept),
              ElementsAre(StartsWith("vault: chain 1 was cut or written anew: it had an event 4")));
  Append(*log_, "n5");  // the same number, another event
  EXPECT_THAT(Problems(kept), ElementsAre(StartsWith("vault: chain 1 was cut or written anew")));
}

TEST_P(TamperedLogTest, HeadsThatWereKeptHoldWhileTheChainGrows) {
  const AuditReport kept = Verify();
  Append(*log_, "n5");
  EXPECT_THAT(Problems(kept), IsEmpty());
  AuditReport of_others = kept;
  of_others.mutable_heads(0)->set_service("router");
  of_others.mutable_heads(0)->set_hash("00");
  EXPECT_THAT(Problems(of_others), IsEmpty());
}

TEST_P(TamperedLogTest, AnAddedEventIsNamed) {
  const std::string copy =
      "INSERT INTO audit_event SELECT $1, $2, at, actor, role, subtree, peer, method, resource, "
      "account, "
      "result, message, request, state_before, state_after, hash FROM audit_event WHERE chain = 1 "
      "AND "
      "sequence = 1";
  const auto insert = [&](const std::string& chain, const std::string& sequence) {
    std::string sql = copy;
    sql.replace(sql.find("$1"), 2, chain);
    sql.replace(sql.find("$2"), 2, sequence);
    return sql;
  };
  Tamper({insert("77", "1")});
  EXPECT_THAT(Problems(), ElementsAre(HasSubstr("event 1 of chain 77 (")));
  Tamper({"DELETE FROM audit_event WHERE chain = 77", insert("1", "5")});
  EXPECT_THAT(Problems(), ElementsAre(HasSubstr("was added: the chain ends at 4")));
}

TEST_P(TamperedLogTest, AChainThatWasRemovedWholeIsNamed) {
  const std::unique_ptr<Log> other = NewWriter();
  Append(*other, "b");
  Tamper({"DELETE FROM audit_event WHERE chain = 1", "DELETE FROM audit_chain WHERE chain = 1"});
  EXPECT_THAT(Problems(), ElementsAre("vault: chain 1 was removed"));
  Tamper({"DELETE FROM audit_event WHERE chain = 2", "DELETE FROM audit_chain WHERE chain = 2"});
  EXPECT_THAT(Problems(), ElementsAre("vault: chain 1 was removed", "vault: chain 2 was removed"));
}

TEST_P(TamperedLogTest, AHeadThatWasChangedIsNamed) {
  Tamper({"UPDATE audit_chain SET writer = 'somebody'"});
  EXPECT_THAT(Problems(), ElementsAre("vault: the head of chain 1 was changed"));
}

constexpr auto kDialects = [](const auto& driver) {
  return driver.param == sql::Dialect::kSqlite ? "Sqlite" : "Postgres";
};
INSTANTIATE_TEST_SUITE_P(Drivers, LogTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres),
                         kDialects);
INSTANTIATE_TEST_SUITE_P(Drivers, TamperedLogTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres),
                         kDialects);

}  // namespace
}  // namespace tollhouse::audit
