#include "services/ledger/core/budget_row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "libs/testing/seed.h"

namespace tollhouse::ledger {
namespace {

BudgetRow RowOf(int64_t target) {
  BudgetRow row;
  row.SetTarget(NanoUsd(target));
  return row;
}

TEST(BudgetRowTest, LeaseIsAllOfNeedOrNothing) {
  BudgetRow row = RowOf(100);
  EXPECT_EQ(row.Lease(NanoUsd(101), NanoUsd(500)), NanoUsd(0));
  EXPECT_EQ(row.Lease(NanoUsd(10), NanoUsd(60)), NanoUsd(60));
  EXPECT_EQ(row.Lease(NanoUsd(10), NanoUsd(60)), NanoUsd(40));
  EXPECT_EQ(row.Lease(NanoUsd(0), NanoUsd(60)), NanoUsd(0));
  EXPECT_TRUE(row.Conserved());
}

TEST(BudgetRowTest, ExcessComesFromAvailThenOverrunAndCreditsRepayIt) {
  BudgetRow row = RowOf(100);
  row.Lease(NanoUsd(0), NanoUsd(90));
  row.SettleLeased(NanoUsd(20), NanoUsd(50));
  EXPECT_EQ(row.avail, NanoUsd(0));
  EXPECT_EQ(row.overrun, NanoUsd(20));
  EXPECT_EQ(row.spent, NanoUsd(50));
  row.ReturnLease(NanoUsd(30));
  EXPECT_EQ(row.overrun, NanoUsd(0));
  EXPECT_EQ(row.avail, NanoUsd(10));
  EXPECT_TRUE(row.Conserved());
}

TEST(BudgetRowTest, CapFollowsALoweredTargetAsMoneyReturns) {
  BudgetRow row = RowOf(100);
  row.Lease(NanoUsd(0), NanoUsd(70));
  row.SetTarget(NanoUsd(40));
  EXPECT_EQ(row.cap, NanoUsd(70));
  EXPECT_EQ(row.avail, NanoUsd(0));
  row.ReturnLease(NanoUsd(50));
  EXPECT_EQ(row.cap, NanoUsd(40));
  EXPECT_EQ(row.avail, NanoUsd(20));
  row.SetTarget(NanoUsd(0));
  EXPECT_EQ(row.cap, NanoUsd(20));
  row.SetTarget(NanoUsd(500));
  EXPECT_EQ(row.avail, NanoUsd(480));
}

TEST(BudgetRowTest, RaisedTargetRepaysOverrunFirst) {
  BudgetRow row = RowOf(100);
  row.Charge(NanoUsd(130));
  EXPECT_EQ(row.overrun, NanoUsd(30));
  row.SetTarget(NanoUsd(120));
  EXPECT_EQ(row.overrun, NanoUsd(10));
  EXPECT_EQ(row.avail, NanoUsd(0));
  row.SetTarget(NanoUsd(200));
  EXPECT_EQ(row.overrun, NanoUsd(0));
  EXPECT_EQ(row.avail, NanoUsd(70));
  EXPECT_TRUE(row.Conserved());
}

TEST(BudgetRowTest, WhatIsEscrowedIsNeitherMoreNorLessThanItMustBe) {
  std::mt19937_64 random(testing::TestSeed());
  for (int history = 0; history < 200; ++history) {
    BudgetRow row;
    for (int step = 0; step < 200; ++step) {
      const auto pick = [&](NanoUsd most) {
        return NanoUsd(std::uniform_int_distribution<int64_t>(0, most.nanos())(random));
      };
      switch (pick(NanoUsd(9)).nanos()) {
        case 0:
          row.SetTarget(pick(NanoUsd(1000)));
          break;
        case 1:
          row.Lease(pick(NanoUsd(100)), pick(NanoUsd(400)));
          break;
        case 2:
          row.ReturnLease(pick(row.leased));
          break;
        case 3:
          row.Suspend(pick(row.leased));
          break;
        case 4:
          row.Release(pick(row.suspense));
          break;
        case 5: {
          const NanoUsd used = pick(row.leased);
          row.SettleLeased(used, used + pick(NanoUsd(3)));
          break;
        }
        case 6: {
          const NanoUsd used = pick(row.suspense);
          row.SettleSuspense(used, used + pick(NanoUsd(3)));
          break;
        }
        case 7:
          row.Charge(pick(NanoUsd(50)));
          break;
        case 8:
          row.Refund(pick(row.spent));
          break;
        default:
          row.SuspendFromAvailable(pick(NanoUsd(50)));
          break;
      }
      ASSERT_TRUE(row.Conserved());
      const NanoUsd used = row.leased + row.suspense + row.spent;
      ASSERT_EQ(row.cap + row.overrun, std::max(row.target, used));
      ASSERT_EQ(row.avail, std::max(NanoUsd(0), row.target - used));
      ASSERT_GE(row.cap, row.target);
    }
  }
}

TEST(BudgetRowTest, TakingMoreThanThereIsIsABug) {
  BudgetRow row = RowOf(100);
  row.Lease(NanoUsd(0), NanoUsd(10));
  EXPECT_DEATH(row.Suspend(NanoUsd(11)), "");
  EXPECT_DEATH(row.ReturnLease(NanoUsd(-1)), "");
  EXPECT_DEATH(row.Release(NanoUsd(1)), "");
  EXPECT_DEATH(row.Refund(NanoUsd(1)), "");
}

TEST(TargetCapTest, IsExactAndBounded) {
  EXPECT_EQ(TargetCap(NanoUsd(999), NanoUsd(0), 110), NanoUsd(1098));
  EXPECT_EQ(TargetCap(NanoUsd(1), NanoUsd(0), 99), NanoUsd(0));
  EXPECT_EQ(TargetCap(NanoUsd(100), NanoUsd(50), 80), NanoUsd(120));
  EXPECT_EQ(TargetCap(kMaxCap, kMaxCap, 1000), kMaxCap);
}

TEST(ThresholdReachedTest, ComparesWithoutRounding) {
  EXPECT_FALSE(ThresholdReached(NanoUsd(799), NanoUsd(1000), 80));
  EXPECT_TRUE(ThresholdReached(NanoUsd(800), NanoUsd(1000), 80));
  EXPECT_FALSE(ThresholdReached(NanoUsd(0), NanoUsd(0), 80));
  EXPECT_TRUE(ThresholdReached(NanoUsd(1), NanoUsd(0), 80));
  EXPECT_TRUE(ThresholdReached(kMaxCap, kMaxCap, 100));
  EXPECT_FALSE(ThresholdReached(kMaxCap, kMaxCap, 101));
}

}  // namespace
}  // namespace tollhouse::ledger
