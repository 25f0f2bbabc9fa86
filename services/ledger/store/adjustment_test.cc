// Refunds and other corrections: reversing entries, on both databases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "libs/base/error.h"
#include "libs/testing/fake_clock.h"
#include "services/ledger/escrow_testing.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using ::testing::IsEmpty;

class AdjustmentTest : public ::testing::TestWithParam<sql::Dialect> {
 protected:
  AdjustmentTest() {
    auto opened = home_.Open(&clock_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    org_ = std::make_unique<TestOrg>(store_.get(), &clock_);
    EXPECT_TRUE(org_->OpenEpoch(*store_, "memory-1").ok());
    EXPECT_TRUE(org_->Lease(*store_, 600).ok());
    entry_ = org_->Entry(v1::ENTRY_KIND_SETTLE, 70);
    EXPECT_EQ(TestOrg::Post(*store_, entry_), v1::POST_OUTCOME_POSTED);
  }

  absl::StatusOr<v1::AdjustEntryResponse> Adjust(int64_t cost, const std::string& request) {
    return store_->AdjustEntry(nullptr, entry_.hold_id(), cost, "refunded", request);
  }
  int64_t spent() { return org_->Now(*store_).spent_nanousd(); }

  const StoreHome home_{GetParam()};
  testing::FakeClock clock_;
  std::unique_ptr<SqlStore> store_;
  std::unique_ptr<TestOrg> org_;
  v1::Entry entry_;
};

TEST_P(AdjustmentTest, ARefundIsAReversingEntryAndACorrectedOne) {
  const auto adjusted = Adjust(20, "a");
  ASSERT_TRUE(adjusted.ok()) << adjusted.status();
  EXPECT_EQ(adjusted->previous_nanousd(), 70);
  EXPECT_EQ(adjusted->entry().entry().cost_nanousd(), 20);
  EXPECT_EQ(spent(), 20);
  v1::ListEntriesRequest all;
  const auto entries = store_->ListEntries(all);
  ASSERT_EQ(entries->entries_size(), 3);
  EXPECT_FALSE(entries->entries(0).reversing());
  EXPECT_TRUE(entries->entries(1).reversing());
  EXPECT_EQ(entries->entries(2).sequence(), adjusted->entry().sequence());
  EXPECT_THAT(TestOrg::Problems(*store_), IsEmpty());
}

TEST_P(AdjustmentTest, TheSameRequestAgainAdjustsOnce) {
  const auto first = Adjust(20, "a");
  const auto again = Adjust(20, "a");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->entry().sequence(), first->entry().sequence());
  EXPECT_EQ(again->previous_nanousd(), 70);
  EXPECT_EQ(ReasonOf(Adjust(30, "a").status()), "REQUEST_REUSED");
  EXPECT_EQ(ReasonOf(Adjust(20, "b").status()), "NOT_CHANGED");
  // Also when it was adjusted again meanwhile.
  ASSERT_TRUE(Adjust(90, "c").ok());
  EXPECT_EQ(Adjust(20, "a")->entry().sequence(), first->entry().sequence());
  EXPECT_EQ(spent(), 90);
  EXPECT_THAT(TestOrg::Problems(*store_), IsEmpty());
}

TEST_P(AdjustmentTest, WhatTheEdgePostsAgainIsADuplicateAfterwards) {
  ASSERT_TRUE(Adjust(0, "a").ok());
  EXPECT_EQ(TestOrg::Post(*store_, entry_), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(spent(), 0);
  ASSERT_TRUE(Adjust(10, "b").ok());
  EXPECT_EQ(TestOrg::Post(*store_, entry_), v1::POST_OUTCOME_DUPLICATE);
  EXPECT_EQ(spent(), 10);
  EXPECT_THAT(TestOrg::Problems(*store_), IsEmpty());
}

TEST_P(AdjustmentTest, MoreThanTheBudgetHasIsOverrun) {
  ASSERT_TRUE(Adjust(1100, "a").ok());
  const v1::Budget budget = org_->Now(*store_);
  EXPECT_EQ(budget.spent_nanousd(), 1100);
  EXPECT_GT(budget.overrun_nanousd(), 0);
  ASSERT_TRUE(Adjust(70, "b").ok());
  EXPECT_EQ(org_->Now(*store_).overrun_nanousd(), 0);
  EXPECT_THAT(TestOrg::Problems(*store_), IsEmpty());
}

TEST_P(AdjustmentTest, WhatHasNotEndedIsNotAdjusted) {
  const v1::Entry open = org_->Entry(v1::ENTRY_KIND_SUSPEND, 0);
  ASSERT_EQ(TestOrg::Post(*store_, open), v1::POST_OUTCOME_POSTED);
  EXPECT_EQ(ReasonOf(store_->AdjustEntry(nullptr, open.hold_id(), 1, "", "a").status()),
            "STILL_OPEN");
  EXPECT_EQ(
      ReasonOf(store_->AdjustEntry(nullptr, NewUuid(clock_.Wall()).raw(), 1, "", "a").status()),
      "HOLD_NOT_FOUND");
}

INSTANTIATE_TEST_SUITE_P(Databases, AdjustmentTest,
                         ::testing::Values(sql::Dialect::kSqlite, sql::Dialect::kPostgres), DialectName);

}  // namespace
}  // namespace tollhouse::ledger
