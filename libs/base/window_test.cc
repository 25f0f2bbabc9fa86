#include "libs/base/window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tollhouse {
namespace {

absl::TimeZone Zone(const std::string& name) { return ParseTimeZone(name).value(); }

absl::Time Utc(int y, int mo, int d, int h = 0, int mi = 0, int s = 0) {
  return absl::FromCivil(absl::CivilSecond(y, mo, d, h, mi, s), absl::UTCTimeZone());
}

Period At(const std::string& window, const std::string& zone, absl::Time at,
          absl::CivilDay anchor = absl::CivilDay(2026, 1, 1)) {
  return PeriodAt(ParseWindow(window, anchor).value(), Zone(zone), at);
}

TEST(ParseWindow, TakesWhatFormatWindowGives) {
  for (const char* text : {"day", "week", "month", "quarter", "year", "total", "1d", "7d", "3660d"}) {
    const auto window = ParseWindow(text, absl::CivilDay(2026, 11, 3));
    ASSERT_TRUE(window.ok()) << text;
    EXPECT_EQ(FormatWindow(*window), text);
  }
}

TEST(ParseWindow, NamesTheAcceptedForms) {
  for (const char* text : {"", "d", "0d", "-1d", "3661d", "07d", "7", "7 d", "fortnight", "Month",
                           "99999999999999999999d", "+7d"}) {
    const auto window = ParseWindow(text);
    ASSERT_FALSE(window.ok()) << text;
    EXPECT_EQ(window.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(window.status().message()).find("quarter"), std::string::npos);
  }
}

TEST(ParseTimeZone, RefusesWhatTheDatabaseLacks) {
  for (const char* name : {"", "Mars/Olympus", "localtime", "/etc/localtime", "../UTC"}) {
    EXPECT_FALSE(ParseTimeZone(name).ok()) << name;
  }
  EXPECT_TRUE(ParseTimeZone("UTC").ok());
  EXPECT_TRUE(ParseTimeZone("America/Argentina/Ushuaia").ok());
}

TEST(PeriodAt, KeysReadAsDocumented) {
  const absl::Time at = Utc(2026, 11, 21, 12);
  EXPECT_EQ(At("day", "Europe/Berlin", at).key, "2026-11-21@Europe/Berlin");
  EXPECT_EQ(At("week", "Europe/Berlin", at).key, "2026-W47@Europe/Berlin");
  EXPECT_EQ(At("month", "Europe/Berlin", at).key, "2026-11@Europe/Berlin");
  EXPECT_EQ(At("quarter", "UTC", at).key, "2026-Q4@UTC");
  EXPECT_EQ(At("year", "UTC", at).key, "2026@UTC");
  EXPECT_EQ(At("7d", "UTC", at, absl::CivilDay(2026, 11, 3)).key, "2026-11-17+7d@UTC");
  EXPECT_EQ(At("total", "UTC", at).key, "total");
  EXPECT_EQ(At("total", "UTC", at).end, absl::InfiniteFuture());
}

TEST(PeriodAt, MonthBoundariesAreLocalMidnights) {
  const Period november = At("month", "Europe/Berlin", Utc(2026, 10, 31, 23));
  EXPECT_EQ(november.key, "2026-11@Europe/Berlin");
  EXPECT_EQ(november.start, Utc(2026, 10, 31, 23));
  EXPECT_EQ(november.end, Utc(2026, 11, 30, 23));
  EXPECT_EQ(At("month", "Europe/Berlin", Utc(2026, 10, 31, 23) - absl::Nanoseconds(1)).key,
            "2026-10@Europe/Berlin");
}

TEST(PeriodAt, IsoWeeksBelongToTheYearOfTheirThursday) {
  EXPECT_EQ(At("week", "UTC", Utc(2027, 1, 1)).key, "2026-W53@UTC");
  EXPECT_EQ(At("week", "UTC", Utc(2027, 1, 4)).key, "2027-W01@UTC");
  EXPECT_EQ(At("week", "UTC", Utc(2024, 12, 30)).key, "2025-W01@UTC");
  EXPECT_EQ(At("week", "UTC", Utc(2026, 11, 22, 23, 59, 59)).end, Utc(2026, 11, 23));
}

TEST(PeriodAt, DaysCountFromTheAnchorInBothDirections) {
  const absl::CivilDay anchor(2026, 11, 3);
  EXPECT_EQ(At("7d", "UTC", Utc(2026, 11, 3), anchor).key, "2026-11-03+7d@UTC");
  EXPECT_EQ(At("7d", "UTC", Utc(2026, 11, 2, 23), anchor).key, "2026-10-27+7d@UTC");
  EXPECT_EQ(At("7d", "UTC", Utc(2026, 10, 20), anchor).key, "2026-10-20+7d@UTC");
}

TEST(PeriodAt, DstDaysHave23And25Hours) {
  const Period spring = At("day", "Europe/Berlin", Utc(2026, 3, 29, 12));
  EXPECT_EQ(spring.end - spring.start, absl::Hours(23));
  const Period autumn = At("day", "Europe/Berlin", Utc(2026, 10, 25, 12));
  EXPECT_EQ(autumn.end - autumn.start, absl::Hours(25));
  EXPECT_EQ(At("day", "Europe/Berlin", Utc(2026, 10, 25, 22, 59)).key, autumn.key);
}

TEST(PeriodAt, SkippedMidnightStartsAtTheChange) {
  // America/Sao_Paulo: 2018-11-04 00:00 -03 became 01:00 -02 at 03:00 UTC.
  const Period day = At("day", "America/Sao_Paulo", Utc(2018, 11, 4, 3));
  EXPECT_EQ(day.key, "2018-11-04@America/Sao_Paulo");
  EXPECT_EQ(day.start, Utc(2018, 11, 4, 3));
  EXPECT_EQ(day.end - day.start, absl::Hours(23));
  EXPECT_EQ(At("day", "America/Sao_Paulo", Utc(2018, 11, 4, 2, 59, 59)).key,
            "2018-11-03@America/Sao_Paulo");
  // Cairo: 2023-04-28 00:00 +02 became 01:00 +03 at 22:00 UTC the day before.
  EXPECT_EQ(At("day", "Africa/Cairo", Utc(2023, 4, 27, 22)).key, "2023-04-28@Africa/Cairo");
  EXPECT_EQ(At("day", "Africa/Cairo", Utc(2023, 4, 27, 22)).start, Utc(2023, 4, 27, 22));
}

TEST(PeriodAt, GapAroundMidnightStartsTheNewDay) {
  // Toronto: 1919-03-30 23:30 EST became 1919-03-31 00:30 EDT at 04:30 UTC.
  EXPECT_EQ(At("day", "America/Toronto", Utc(1919, 3, 31, 12)).start, Utc(1919, 3, 31, 4, 30));
}

TEST(PeriodAt, RepeatedMidnightStartsAtItsFirst) {
  // Havana: 2011-11-13 01:00 CDT became 00:00 CST at 05:00 UTC; midnight happens at 04:00 and 05:00.
  const Period day = At("day", "America/Havana", Utc(2011, 11, 13, 12));
  EXPECT_EQ(day.start, Utc(2011, 11, 13, 4));
  EXPECT_EQ(day.end - day.start, absl::Hours(25));
}

TEST(PeriodAt, ClockThatFallsBackIntoYesterdayStaysInToday) {
  // St. John's: 2010-11-07 00:01 NDT became 2010-11-06 23:01 NST at 02:31 UTC.
  const absl::Time change = Utc(2010, 11, 7, 2, 31);
  const Period day = At("day", "America/St_Johns", change - absl::Seconds(30));
  EXPECT_EQ(day.key, "2010-11-07@America/St_Johns");
  EXPECT_EQ(At("day", "America/St_Johns", change + absl::Minutes(10)).key, day.key);
}

TEST(PeriodAt, DayThatNeverWasIsNobodysPeriod) {
  // Apia went from 2011-12-29 24:00 to 2011-12-31 00:00 at 10:00 UTC.
  EXPECT_EQ(At("day", "Pacific/Apia", Utc(2011, 12, 30, 9, 59)).key, "2011-12-29@Pacific/Apia");
  EXPECT_EQ(At("day", "Pacific/Apia", Utc(2011, 12, 30, 10)).key, "2011-12-31@Pacific/Apia");
}

TEST(PeriodAt, PeriodsTileTimeAndKeysSort) {
  for (const char* zone : {"UTC", "Europe/Berlin", "America/Sao_Paulo", "America/St_Johns",
                           "America/Havana", "Pacific/Apia", "Africa/Cairo", "Asia/Kathmandu"}) {
    for (const char* window : {"day", "week", "month", "quarter", "year", "10d"}) {
      Period period = At(window, zone, Utc(2009, 12, 20));
      for (absl::Time at = Utc(2009, 12, 20); at < Utc(2012, 2, 1); at = period.end) {
        const Period next = At(window, zone, at);
        ASSERT_LE(next.start, at) << zone << " " << window << " " << next.key;
        ASSERT_LT(at, next.end);
        if (at != Utc(2009, 12, 20)) {
          ASSERT_EQ(next.start, period.end) << zone << " " << window << " " << next.key;
          ASSERT_LT(period.key, next.key);
        }
        ASSERT_EQ(At(window, zone, next.end - absl::Nanoseconds(1)).key, next.key);
        period = next;
      }
    }
  }
}

}  // namespace
}  // namespace tollhouse
