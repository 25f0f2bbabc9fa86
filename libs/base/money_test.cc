#include "libs/base/money.h"

#include <gtest/gtest.h>

namespace tollhouse {
namespace {

TEST(ParseUsdTest, AcceptsUpToNineDecimals) {
  EXPECT_EQ(*ParseUsd("800"), NanoUsd::Dollars(800));
  EXPECT_EQ(ParseUsd("0.000000001")->nanos(), 1);
  EXPECT_EQ(ParseUsd("12.5")->nanos(), 12'500'000'000);
  EXPECT_EQ(ParseUsd("-3.01")->nanos(), -3'010'000'000);
}

TEST(ParseUsdTest, RefusesWhatIsNotADecimalAmount) {
  for (const char* text : {"", "-", ".", "1e3", "$5", "1,000", "1.2.3", "0.0000000001", " 1", "0x10",
                           "9223372037", "99999999999999999999999999"}) {
    EXPECT_FALSE(ParseUsd(text).ok()) << text;
  }
}

TEST(FormatUsdTest, RoundTripsThroughParse) {
  for (int64_t nanos : {int64_t{0}, int64_t{1}, int64_t{10'000'000}, int64_t{-5}, int64_t{123'456'789'012},
                        int64_t{9'223'372'036'854'775'807}}) {
    EXPECT_EQ(ParseUsd(FormatUsd(NanoUsd(nanos)))->nanos(), nanos);
  }
  EXPECT_EQ(FormatUsd(NanoUsd::Dollars(12)), "12.00");
}

TEST(NanoUsdDeathTest, OverflowAborts) {
  EXPECT_DEATH(NanoUsd(std::numeric_limits<int64_t>::max()) + NanoUsd(1), "");
}

}  // namespace
}  // namespace tollhouse
