#include "libs/base/uuid.h"

#include <gtest/gtest.h>

#include <set>

namespace tollhouse {
namespace {

TEST(UuidTest, RoundTripsAndCarriesItsTime) {
  const absl::Time at = absl::FromUnixMillis(1'790'000'000'123);
  const Uuid id = NewUuid(at);
  EXPECT_EQ(UuidTime(id), at);
  EXPECT_EQ(*ParseUuid(id.ToString()), id);
  EXPECT_EQ(*UuidFromRaw(id.raw()), id);
  EXPECT_EQ(id.ToString()[14], '7');
}

TEST(UuidTest, IdsOfOneMillisecondIncreaseAndDiffer) {
  const absl::Time at = absl::FromUnixMillis(1'790'000'001'000);
  Uuid last = NewUuid(at);
  for (int i = 0; i < 10'000; ++i) {
    const Uuid next = NewUuid(at);
    ASSERT_LT(last, next);
    last = next;
  }
}

TEST(UuidTest, RefusesOtherText) {
  EXPECT_FALSE(ParseUuid("").ok());
  EXPECT_FALSE(ParseUuid("018f2a7c_1111-7111-8111-111111111111").ok());
  EXPECT_FALSE(ParseUuid("018f2a7c-1111-7111-8111-11111111111g").ok());
  EXPECT_FALSE(UuidFromRaw("short").ok());
}

}  // namespace
}  // namespace tollhouse
