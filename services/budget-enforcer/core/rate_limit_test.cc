#include "services/budget-enforcer/core/rate_limit.h"

#include "gtest/gtest.h"

namespace tollhouse::enforcer {
namespace {

TEST(RateBucketTest, ANewBucketAllowsABurstOfTheWholeLimit) {
  RateBucket bucket;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(WaitFor(bucket, 10, 1, 1000), 0) << i;
    Take(bucket, 10, 1, 1000);
  }
  EXPECT_EQ(WaitFor(bucket, 10, 1, 1000), 6000);
}

TEST(RateBucketTest, TheWaitItNamesIsExact) {
  RateBucket bucket;
  Take(bucket, 7, 7, 0);
  const int64_t wait = WaitFor(bucket, 7, 1, 0);
  EXPECT_GT(WaitFor(bucket, 7, 1, wait - 1), 0);
  EXPECT_EQ(WaitFor(bucket, 7, 1, wait), 0);
}

TEST(RateBucketTest, NeverGainsMoreThanTheLimit) {
  RateBucket bucket;
  Take(bucket, 5, 1, 0);
  EXPECT_EQ(LevelAt(bucket, 5, int64_t{1} << 50), 5 * 60'000);
  Take(bucket, 5, -1000, 1);
  EXPECT_EQ(LevelAt(bucket, 5, 1), 5 * 60'000);
}

TEST(RateBucketTest, ADebtIsWaitedFor) {
  RateBucket bucket;
  Take(bucket, 100, 300, 0);
  EXPECT_EQ(WaitFor(bucket, 100, 1, 0), 120'600);
}

TEST(RateBucketTest, ARequestLargerThanTheBucketNeverFits) {
  EXPECT_EQ(WaitFor(RateBucket{}, 100, 101, 0), -1);
}

TEST(RateBucketTest, ALoweredLimitCutsTheBurst) {
  RateBucket bucket;
  Take(bucket, 1000, 1, 0);
  EXPECT_EQ(WaitFor(bucket, 2, 2, 0), 0);
  Take(bucket, 2, 2, 0);
  EXPECT_EQ(WaitFor(bucket, 2, 1, 0), 30'000);
}

TEST(RateBucketTest, LargestLimitsDoNotOverflow) {
  RateBucket bucket;
  for (int i = 0; i < 100; ++i) Take(bucket, kMaxRate, kMaxRate, 0);
  EXPECT_GT(WaitFor(bucket, kMaxRate, kMaxRate, 0), 0);
  EXPECT_EQ(WaitFor(bucket, kMaxRate, kMaxRate, int64_t{1} << 52), 0);
}

}  // namespace
}  // namespace tollhouse::enforcer
