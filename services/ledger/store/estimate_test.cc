// Estimates of what a suspended hold has cost: spent at once, the rest in suspense, corrected by the
// truth; on both databases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/testing/fake_clock.h"
#include "services/ledger/escrow_testing.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using ::testing::IsEmpty;

class EstimateTest : public ::testing::TestWithParam<sql::Dialect> {
 protected:
  EstimateTest() {
    auto opened = home_.Open(&clock_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    org_ = std::make_unique<TestOrg>(store_.get(), &clock_);
    EXPECT_TRUE(org_->OpenEpoch(*store_, "memory-1").ok());
    EXPECT_TRUE(org_->RegisterEdge(*store_, "edge-1").ok());
    EXPECT_TRUE(org_->Lease(*store_, 600).ok());
    entry_ = org_->Entry(v1::ENTRY_KIND_SUSPEND, 30);
    entry_.set_edge_id("edge-1");
    entry_.set_request_id("r1");
    entry_.set_usage_source(common::v1::USAGE_SOURCE_ESTIMATED);
    entry_.add_usage()->mutable_usage()->set_output_tokens(30);
  }

  v1::PostOutcome Post() { return TestOrg::Post(*store_, entry_); }
  v1::PostOutcome PostTruth(v1::EntryKind kind, int64_t cost) {
    v1::Entry truth = entry_;
    truth.set_kind(kind);
    truth.set_cost_nanousd(cost);
    truth.set_usage_source(common::v1::USAGE_SOURCE_FINAL);
    return TestOrg::Post(*store_, truth);
  }
  // Spent and in suspense, with the rest where it belongs.
  void ExpectSpent(int64_t spent, int64_t suspense) {
    const v1::Budget now = org_->Now(*store_);
    EXPECT_EQ(now.spent_nanousd(), spent);
    EXPECT_EQ(now.suspense_nanousd(), suspense);
    EXPECT_THAT(TestOrg::Problems(*store_), IsEmpty());
  }
  std::string States() {
    std::string states;
    const auto explained = store_->ExplainRequest("r1");
    EXPECT_TRUE(explained.ok()) << explained.status();
    for (const v1::JournalEntry& attempt : explained->attempts()) {
      absl::StrAppend(&states, attempt.reversing() ? "-" : "", attempt.state(), " ");
    }
    return states;
  }

  const StoreHome home_{GetParam()};
  testing::FakeClock clock_;
  std::unique_ptr<SqlStore> store_;
  std::unique_ptr<TestOrg> org_;
  v1::Entry entry_;
};

TEST_P(EstimateTest, IsSpentOnceAndTheRestStaysInSuspense) {
  EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
  ExpectSpent(30, 70);
  EXPECT_EQ(org_->Now(*store_).leased_nanousd(), 500);
  EXPECT_EQ(Post(), v1::POST_OUTCOME_DUPLICATE);
  v1::Entry without = entry_;
  without.clear_usage();
  without.set_cost_nanousd(0);
  EXPECT_EQ(TestOrg::Post(*store_, without), v1::POST_OUTCOME_DUPLICATE);
  ExpectSpent(30, 70);
  EXPECT_EQ(States(), "estimated suspense ");
}

TEST_P(EstimateTest, TheTruthReversesItAndEndsTheSuspense) {
  for (const int64_t cost : {90, 30, 10, 120, 0}) {
    entry_.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
    entry_.set_request_id("r1");
    const int64_t before = org_->Now(*store_).spent_nanousd();
    EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
    EXPECT_EQ(PostTruth(cost == 0 ? v1::ENTRY_KIND_VOID : v1::ENTRY_KIND_SETTLE, cost),
              v1::POST_OUTCOME_POSTED);
    EXPECT_EQ(PostTruth(cost == 0 ? v1::ENTRY_KIND_VOID : v1::ENTRY_KIND_SETTLE, cost),
              v1::POST_OUTCOME_DUPLICATE);
    EXPECT_EQ(Post(), v1::POST_OUTCOME_DUPLICATE);
    ExpectSpent(before + cost, 0);
  }
  EXPECT_TRUE(absl::StrContains(States(), "estimated -settled settled ")) << States();
}

TEST_P(EstimateTest, AnOperatorOrAnInvoiceMayEndIt) {
  EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
  const auto resolved = store_->ResolveSuspense(nullptr, entry_.hold_id(), 50, "by the invoice");
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  ExpectSpent(50, 0);

  entry_.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
  EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
  const auto adjusted = store_->AdjustEntry(nullptr, entry_.hold_id(), 95, "invoice", "a");
  ASSERT_TRUE(adjusted.ok()) << adjusted.status();
  ExpectSpent(145, 0);
}

TEST_P(EstimateTest, StandsWhenNobodyEverSaysMore) {
  EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
  clock_.Advance(absl::Hours(25));
  const auto resolved = store_->ResolveOldSuspense(clock_.Wall());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(*resolved, 1);
  ExpectSpent(30, 0);
  // And the truth after that.
  EXPECT_EQ(PostTruth(v1::ENTRY_KIND_SETTLE, 80), v1::POST_OUTCOME_POSTED);
  ExpectSpent(80, 0);
}

TEST_P(EstimateTest, AboveTheHoldIsPostedInFull) {
  entry_.set_cost_nanousd(130);
  EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
  ExpectSpent(130, 0);
  EXPECT_EQ(PostTruth(v1::ENTRY_KIND_SETTLE, 140), v1::POST_OUTCOME_POSTED);
  ExpectSpent(140, 0);
}

TEST_P(EstimateTest, ItsRestOutlivesItsEpoch) {
  const int64_t epoch = org_->epoch;
  EXPECT_EQ(Post(), v1::POST_OUTCOME_POSTED);
  ASSERT_TRUE(org_->OpenEpoch(*store_, "memory-2").ok());
  ExpectSpent(30, 570);  // with the lost lease
  v1::AnnounceHoldsRequest announce;
  announce.set_org_id(org_->id);
  announce.set_epoch(epoch);
  announce.set_edge_id("edge-1");
  *announce.add_unsettled() = entry_;
  ASSERT_TRUE(store_->AnnounceHolds(announce).ok());
  ExpectSpent(30, 70);
  EXPECT_EQ(PostTruth(v1::ENTRY_KIND_SETTLE, 95), v1::POST_OUTCOME_POSTED);
  ExpectSpent(95, 0);
}

TEST_P(EstimateTest, MayComeAfterItsEpochOrItsTimeIsOver) {
  const v1::Entry late = entry_;
  v1::Entry expired = entry_;
  expired.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
  v1::PostExpiredRequest expiry;
  expiry.set_org_id(org_->id);
  expiry.set_epoch(org_->epoch);
  auto& hold = *expiry.add_holds();
  hold.set_hold_id(expired.hold_id());
  *hold.mutable_account_ids() = expired.account_ids();
  *hold.mutable_covers() = expired.budgets();
  ASSERT_TRUE(store_->PostExpired(expiry).ok());
  EXPECT_EQ(TestOrg::Post(*store_, expired), v1::POST_OUTCOME_POSTED);
  ExpectSpent(30, 70);

  ASSERT_TRUE(org_->OpenEpoch(*store_, "memory-2").ok());
  EXPECT_EQ(TestOrg::Post(*store_, late), v1::POST_OUTCOME_POSTED);
  ExpectSpent(60, 540);
  entry_ = late;
  EXPECT_EQ(PostTruth(v1::ENTRY_KIND_SETTLE, 100), v1::POST_OUTCOME_POSTED);
  ExpectSpent(130, 470);
}

INSTANTIATE_TEST_SUITE_P(Databases, EstimateTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres), DialectName);

}  // namespace
}  // namespace tollhouse::ledger
