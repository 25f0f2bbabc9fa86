// A ledger whose PostgreSQL fails over: to a standby that has everything, and to one that has not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "libs/base/error.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/postgres_server.h"
#include "services/ledger/escrow_testing.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::PostgresServer;

constexpr int64_t kFirstEpochAfterFailover = int64_t{1} << 32;

// One ledger process.
struct Ledger {
  Ledger(const std::string& uri, const Clock* clock) {
    auto opened = sql::OpenDatabase(
        {.database = uri, .isolation = sql::Isolation::kReadCommitted}, StoreSchema());
    EXPECT_TRUE(opened.ok()) << opened.status();
    database = std::move(opened->database);
    auto made = SqlStore::Open(database.get(), clock);
    EXPECT_TRUE(made.ok()) << made.status();
    store = *std::move(made);
  }

  // After connections have broken: each attempt finds one of them dead.
  void WaitUntilItServes() const {
    absl::Status status;
    for (int attempt = 0; attempt < 100; ++attempt) {
      status = store->CheckServer();
      if (status.ok()) return;
    }
    FAIL() << status;
  }

  std::unique_ptr<sql::Database> database;
  std::unique_ptr<SqlStore> store;
};

class FailoverTest : public ::testing::Test {
 protected:
  void Start(PostgresServer::Standby standby) {
    server_ = std::make_unique<PostgresServer>(PostgresServer::Options{.standby = standby});
    name_ = server_->CreateDatabase();
    ASSERT_TRUE(sql::MigrateDatabase({.database = server_->Uri(name_)}, StoreSchema()).ok());
    ledger_ = std::make_unique<Ledger>(server_->Uri(name_), &clock_);
    org_ = std::make_unique<TestOrg>(&store(), &clock_);
    ASSERT_EQ(*org_->OpenEpoch(store(), "redis-1"), 1);
    ASSERT_TRUE(org_->RegisterEdge(store(), "edge-1").ok());
    ASSERT_EQ(*org_->Lease(store(), 600), 600);
  }
  SqlStore& store() { return *ledger_->store; }
  int64_t Generation() { return store().Snapshot()->replay_generation(); }

  testing::FakeClock clock_;
  std::unique_ptr<PostgresServer> server_;
  std::string name_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<TestOrg> org_;
};

TEST_F(FailoverTest, APromotedSynchronousStandbyClosesEpochsAndLosesNothing) {
  Start(PostgresServer::Standby::kSynchronous);
  const v1::Entry entry = org_->Entry(v1::ENTRY_KIND_SETTLE, 70);
  ASSERT_EQ(TestOrg::Post(store(), entry), v1::POST_OUTCOME_POSTED);
  server_->Crash();
  server_->Promote();
  ledger_->WaitUntilItServes();

  EXPECT_EQ(Generation(), 1);
  const v1::Budget after = org_->Now(store());
  EXPECT_EQ(after.spent_nanousd(), 70);
  EXPECT_EQ(after.leased_nanousd(), 0);
  EXPECT_EQ(after.suspense_nanousd(), 530);  // until the edge has reported
  EXPECT_EQ(ReasonOf(org_->Lease(store(), 10).status()), "EPOCH_CLOSED");
  EXPECT_EQ(TestOrg::Post(store(), entry), v1::POST_OUTCOME_DUPLICATE);

  // Every enforcer and edge is told of an epoch that is nobody's.
  const auto snapshot = store().Snapshot();
  ASSERT_EQ(snapshot->epochs_size(), 1);
  EXPECT_EQ(snapshot->epochs(0).epoch(), kFirstEpochAfterFailover);
  EXPECT_EQ(snapshot->epochs(0).incarnation().substr(0, 9), "failover/");
  org_->epoch = kFirstEpochAfterFailover;
  EXPECT_EQ(*org_->OpenEpoch(store(), "redis-1"), kFirstEpochAfterFailover + 1);
  v1::AnnounceHoldsRequest report;
  report.set_org_id(org_->id);
  report.set_epoch(kFirstEpochAfterFailover);
  report.set_edge_id("edge-1");
  ASSERT_TRUE(store().AnnounceHolds(report).ok());
  EXPECT_EQ(org_->Now(store()).suspense_nanousd(), 0);
  EXPECT_EQ(*org_->Lease(store(), 900), 900);
  EXPECT_THAT(TestOrg::Problems(store()), IsEmpty());
}

TEST_F(FailoverTest, WhatAnAsynchronousStandbyLostComesBackFromTheEdges) {
  Start(PostgresServer::Standby::kAsynchronous);
  const v1::Entry kept = org_->Entry(v1::ENTRY_KIND_SETTLE, 30);
  ASSERT_EQ(TestOrg::Post(store(), kept), v1::POST_OUTCOME_POSTED);
  server_->CrashStandby();
  const v1::Entry lost = org_->Entry(v1::ENTRY_KIND_SETTLE, 70);
  ASSERT_EQ(TestOrg::Post(store(), lost), v1::POST_OUTCOME_POSTED);
  // An epoch that nobody will know of, and what was settled and suspended under it.
  ASSERT_EQ(*org_->OpenEpoch(store(), "redis-2"), 2);
  ASSERT_EQ(*org_->Lease(store(), 200), 200);
  const v1::Entry lost_too = org_->Entry(v1::ENTRY_KIND_SETTLE, 50);
  const v1::Entry unknown = org_->Entry(v1::ENTRY_KIND_SUSPEND, 0);
  ASSERT_EQ(TestOrg::Post(store(), lost_too), v1::POST_OUTCOME_POSTED);
  ASSERT_EQ(TestOrg::Post(store(), unknown), v1::POST_OUTCOME_POSTED);
  server_->Crash();
  server_->StartStandby();
  server_->Promote();
  ledger_->WaitUntilItServes();
  EXPECT_EQ(Generation(), 1);
  EXPECT_EQ(org_->Now(store()).spent_nanousd(), 30);

  // What the edges do when the generation rises.
  EXPECT_EQ(TestOrg::Post(store(), kept), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(TestOrg::Post(store(), lost), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(TestOrg::Post(store(), lost_too), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(TestOrg::Post(store(), unknown), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(org_->Now(store()).spent_nanousd(), 150);
  // No number of an epoch that was lost is ever given out again.
  org_->epoch = kFirstEpochAfterFailover;
  EXPECT_GT(*org_->OpenEpoch(store(), "redis-2"), kFirstEpochAfterFailover);
  EXPECT_THAT(TestOrg::Problems(store()), IsEmpty());
}

TEST_F(FailoverTest, TheFirstWriteNoticesWithoutBeingTold) {
  Start(PostgresServer::Standby::kSynchronous);
  server_->Crash();
  server_->Promote();
  absl::StatusOr<int64_t> leased = org_->Lease(store(), 10);
  for (int attempt = 0; attempt < 100 && ReasonOf(leased.status()) != "EPOCH_CLOSED"; ++attempt) {
    ASSERT_FALSE(leased.ok()) << "granted under an epoch that the standby may have known less of";
    leased = org_->Lease(store(), 10);
  }
  EXPECT_EQ(ReasonOf(leased.status()), "EPOCH_CLOSED");
  EXPECT_EQ(Generation(), 1);
}

TEST_F(FailoverTest, OfSeveralLedgersOneFailsOver) {
  Start(PostgresServer::Standby::kSynchronous);
  const Ledger other(server_->Uri(name_), &clock_);
  server_->Crash();
  server_->Promote();
  ledger_->WaitUntilItServes();
  other.WaitUntilItServes();
  const Ledger later(server_->Uri(name_), &clock_);
  EXPECT_EQ(Generation(), 1);
}

TEST_F(FailoverTest, ARestartIsNoFailover) {
  Start(PostgresServer::Standby::kNone);
  server_->Crash();
  server_->Start();
  ledger_->WaitUntilItServes();
  EXPECT_EQ(Generation(), 0);
  EXPECT_EQ(*org_->Lease(store(), 10), 10);
}

}  // namespace
}  // namespace tollhouse::ledger
