// Windows: a hold counts in the period of its admission; a roll-over loses and blocks nothing.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

constexpr int64_t kDollar = 1'000'000'000;

absl::Time At(const std::string& text) {
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, text, &time, &error)) << error;
  return time;
}

class WindowTest : public ::testing::Test {
 protected:
  // Both clocks move on to `at`.
  void GoTo(absl::Time at) { world_.clock().Advance(at - world_.clock().Wall()); }

  v1::Admitted Admit(const v1::Operation& op) {
    v1::OperationResult result = world_.session().Call(op);
    EXPECT_TRUE(result.has_admitted()) << result.ShortDebugString();
    return result.admitted();
  }

  EnforcerWorld world_;
};

TEST_F(WindowTest, AHoldAcrossMidnightCountsWhereItWasAdmitted) {
  world_.ledger().SetBudget(world_.Rule(1, "day"), kDollar);
  GoTo(At("2026-11-21T22:59:50Z"));  // ten seconds before midnight in Berlin
  v1::Operation before = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(before);
  EXPECT_EQ(admitted.budgets(0).period(), "2026-11-21@Europe/Berlin");
  EXPECT_EQ(world_.session().Call(world_.Reserve(1)).refused().reason(), v1::REASON_BUDGET_HELD);
  GoTo(At("2026-11-21T23:00:00Z"));
  v1::Admitted after = Admit(world_.Reserve(kDollar));
  EXPECT_EQ(after.budgets(0).period(), "2026-11-22@Europe/Berlin");
  EXPECT_TRUE(world_.session().Call(world_.Settle(before, 1, kDollar / 2)).has_done());
  world_.ledger().Post(world_.Entry(before, admitted, kDollar / 2));
  EXPECT_EQ(world_.ledger().row(10, "2026-11-21@Europe/Berlin").spent, kDollar / 2);
  EXPECT_EQ(world_.ledger().row(10, "2026-11-22@Europe/Berlin").spent, 0);
  EXPECT_EQ(world_.session().Call(world_.Reserve(1)).refused().reason(), v1::REASON_BUDGET_HELD)
      << "yesterday's credit is not today's";
}

TEST_F(WindowTest, LeaseOfAPastPeriodGoesBack) {
  world_.ledger().SetBudget(world_.Rule(1, "day"), 100 * kDollar);
  GoTo(At("2026-11-21T22:59:50Z"));
  v1::Operation before = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(before);
  GoTo(At("2026-11-21T23:00:01Z"));
  EXPECT_TRUE(world_.ledger().WaitForRow(10, "2026-11-21@Europe/Berlin", [](const FakeLedger::Row& r) {
    return r.leased == kDollar;  // the open hold's
  }));
  EXPECT_TRUE(world_.session().Call(world_.Void(before, 1)).has_done());
  world_.clock().Advance(absl::Seconds(2));
  EXPECT_TRUE(world_.ledger().WaitForRow(10, "2026-11-21@Europe/Berlin", [](const FakeLedger::Row& r) {
    return r.leased == 0 && r.avail == 100 * kDollar;
  }));
}

TEST_F(WindowTest, WhoWaitsAtMidnightIsAdmittedInTheNewPeriod) {
  world_.ledger().SetBudget(world_.Rule(1, "day"), kDollar);
  GoTo(At("2026-11-21T22:59:50Z"));
  Admit(world_.Reserve(kDollar));
  v1::Operation waiting = world_.Reserve(kDollar);
  waiting.mutable_reserve()->set_wait_ms(30'000);
  const uint64_t sequence = world_.session().Send({waiting});
  EXPECT_EQ(world_.session().Call(world_.Reserve(1)).refused().reason(), v1::REASON_BUDGET_HELD);
  GoTo(At("2026-11-21T23:00:00Z"));
  v1::OperationResult result = world_.session().Wait(sequence);
  ASSERT_TRUE(result.has_admitted()) << result.ShortDebugString();
  EXPECT_EQ(result.admitted().budgets(0).period(), "2026-11-22@Europe/Berlin");
}

struct DayCase {
  const char* name;
  const char* first_hour;  // the first full hour of the civil day, UTC
  const char* zone;
  int hours;
  const char* key;
};

class DayLengthTest : public ::testing::TestWithParam<DayCase> {};

TEST_P(DayLengthTest, EveryHourOfTheDayIsInItsPeriod) {
  const DayCase& day = GetParam();
  EnforcerWorld world;
  ledger::v1::BudgetRule rule = EnforcerWorld::Rule(1, "day");
  rule.set_time_zone(day.zone);
  world.ledger().SetBudget(rule, 100 * kDollar);
  world.clock().Advance(At(day.first_hour) - absl::Hours(1) - world.clock().Wall());
  for (int hour = -1; hour <= day.hours; ++hour) {
    v1::OperationResult result = world.session().Call(world.Reserve(kDollar));
    ASSERT_TRUE(result.has_admitted()) << result.ShortDebugString();
    const bool inside = hour >= 0 && hour < day.hours;
    EXPECT_EQ(result.admitted().budgets(0).period() == day.key, inside)
        << "hour " << hour << ": " << result.admitted().budgets(0).period();
    world.clock().Advance(absl::Hours(1));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, DayLengthTest,
    ::testing::Values(
        DayCase{"Ordinary", "2027-02-03T23:00:00Z", "Europe/Berlin", 24, "2027-02-04@Europe/Berlin"},
        DayCase{"ClocksGoForward", "2027-03-27T23:00:00Z", "Europe/Berlin", 23, "2027-03-28@Europe/Berlin"},
        DayCase{"ClocksGoBack", "2027-10-30T22:00:00Z", "Europe/Berlin", 25, "2027-10-31@Europe/Berlin"},
        // Cairo skips the hour of midnight: the day begins at 01:00.
        DayCase{"MidnightSkipped", "2027-04-29T22:00:00Z", "Africa/Cairo", 23, "2027-04-30@Africa/Cairo"},
        DayCase{"NewYork", "2026-11-22T05:00:00Z", "America/New_York", 24, "2026-11-22@America/New_York"}),
    [](const auto& test) { return test.param.name; });

TEST_F(WindowTest, WindowsOfOneAccountRollOverEachForItself) {
  ledger::v1::BudgetRule day = world_.Rule(1, "day"), month = world_.Rule(1, "month"),
                         total = world_.Rule(1, "total");
  day.set_budget_id(11);
  month.set_budget_id(12);
  total.set_budget_id(13);
  world_.ledger().SetBudget(day, 2 * kDollar);
  world_.ledger().SetBudget(month, 3 * kDollar);
  world_.ledger().SetBudget(total, 4 * kDollar);
  auto spend = [&] {
    v1::Operation reserve = world_.Reserve(kDollar);
    v1::OperationResult result = world_.session().Call(reserve);
    if (!result.has_admitted()) {
      return result.refused().violations_size() == 1 ? result.refused().violations(0).budget() : "?";
    }
    EXPECT_EQ(result.admitted().budgets_size(), 3);
    world_.session().Call(world_.Settle(reserve, 1, kDollar));
    world_.ledger().Post(world_.Entry(reserve, result.admitted(), kDollar));
    return std::string();
  };
  GoTo(At("2026-11-29T12:00:00Z"));
  EXPECT_EQ(spend(), "");
  EXPECT_EQ(spend(), "");
  EXPECT_EQ(spend(), "account-1#day");
  GoTo(At("2026-11-30T12:00:00Z"));
  EXPECT_EQ(spend(), "");
  EXPECT_EQ(spend(), "account-1#month");
  GoTo(At("2026-12-01T12:00:00Z"));
  EXPECT_EQ(spend(), "");
  EXPECT_EQ(spend(), "account-1#total");
  GoTo(At("2027-12-01T12:00:00Z"));
  EXPECT_EQ(spend(), "account-1#total");
}

}  // namespace
}  // namespace tollhouse::enforcer
