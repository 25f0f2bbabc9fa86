#include "services/budget-enforcer/core/core.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/budget-enforcer/core/core_testing.h"

namespace tollhouse::enforcer {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr int64_t kOrg = 1, kTeam = 2;

class CoreTest : public ::testing::Test {
 protected:
  CoreTest() { EXPECT_EQ(state_.Step(InitEpoch{1}), Outcome::kDone); }

  // Leases `org` and `team` nanos in period "total".
  void Lease(int64_t org, int64_t team) {
    ASSERT_TRUE(Grant(state_, state_.last_grant_id() + 1, {{kOrg, "total", org}, {kTeam, "total", team}}).applied);
  }
  TestReserve Hold(uint64_t number, int64_t amount) {
    return TestReserve(TestHoldId(number), {{kOrg, "total", amount}, {kTeam, "total", amount}});
  }
  Outcome Admit(uint64_t number, int64_t amount) {
    return state_.Step(*Hold(number, amount)).outcome;
  }

  OrgState state_;
};

TEST_F(CoreTest, ReserveTakesFromEveryBudget) {
  Lease(100, 50);
  TestReserve reserve = Hold(1, 30);
  ReserveEffect effect = state_.Step(*reserve);
  EXPECT_EQ(effect.outcome, Outcome::kDone);
  EXPECT_THAT(effect.remaining, ElementsAre(70, 20));
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 30));
  EXPECT_THAT(FreeAndHeld(state_, kTeam), Pair(20, 30));
}

TEST_F(CoreTest, ReserveNamesEveryBudgetThatIsShortAndChangesNothing) {
  Lease(10, 20);
  TestReserve reserve = Hold(1, 30);
  ReserveEffect effect = state_.Step(*reserve);
  EXPECT_EQ(effect.outcome, Outcome::kRefused);
  ASSERT_THAT(effect.shortages, SizeIs(2));
  EXPECT_EQ(effect.shortages[0].free_nanos, 10);
  EXPECT_EQ(effect.shortages[1].free_nanos, 20);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(10, 0));
  EXPECT_EQ(state_.hold_count(), 0u);
}

TEST_F(CoreTest, OneShortBudgetRefusesAll) {
  Lease(100, 20);
  EXPECT_EQ(Admit(1, 30), Outcome::kRefused);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(100, 0));
  EXPECT_EQ(Admit(1, 20), Outcome::kDone) << "denials are not remembered";
}

TEST_F(CoreTest, ReserveAgainIsTheSameHold) {
  Lease(100, 100);
  EXPECT_EQ(Admit(1, 30), Outcome::kDone);
  TestReserve again = Hold(1, 30);
  ReserveEffect effect = state_.Step(*again);
  EXPECT_EQ(effect.outcome, Outcome::kDone);
  EXPECT_TRUE(effect.replayed);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 30));
}

TEST_F(CoreTest, AnotherFingerprintUnderTheSameIdIsAConflict) {
  Lease(100, 100);
  EXPECT_EQ(Admit(1, 30), Outcome::kDone);
  TestReserve other = Hold(1, 30);
  other.event.fingerprint[0] = 8;
  EXPECT_EQ(state_.Step(*other).outcome, Outcome::kConflict);
  state_.Step(Void{1, kNoonMs, TestHoldId(1)});
  EXPECT_EQ(state_.Step(*other).outcome, Outcome::kConflict);
  EXPECT_EQ(Admit(1, 30), Outcome::kFinished);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(100, 0));
}

TEST_F(CoreTest, TheSameBudgetTwiceInOneHoldIsRefused) {
  Lease(100, 100);
  TestReserve twice(TestHoldId(1), {{kOrg, "total", 60}, {kOrg, "total", 60}});
  EXPECT_EQ(state_.Step(*twice).outcome, Outcome::kBad);
}

TEST_F(CoreTest, AmountsOutOfBoundsAreRefused) {
  EXPECT_EQ(Admit(1, -1), Outcome::kBad);
  EXPECT_EQ(Admit(1, kMaxHoldNanos + 1), Outcome::kBad);
}

TEST_F(CoreTest, SettleCreditsTheRestAndKeepsTheActualOnRecord) {
  Lease(100, 100);
  Admit(1, 30);
  HoldEffect effect = state_.Step(Settle{1, kNoonMs + 250, TestHoldId(1), 12});
  EXPECT_TRUE(effect.applied);
  EXPECT_EQ(effect.credited_nanos, 18);
  EXPECT_EQ(effect.open_ms, 250);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(88, 12));
  EXPECT_EQ(state_.Hold(TestHoldId(1))->state, HoldState::kSettled);
}

TEST_F(CoreTest, SettleTwiceCreditsOnce) {
  Lease(100, 100);
  Admit(1, 30);
  state_.Step(Settle{1, kNoonMs, TestHoldId(1), 12});
  HoldEffect again = state_.Step(Settle{1, kNoonMs, TestHoldId(1), 12});
  EXPECT_EQ(again.outcome, Outcome::kDone);
  EXPECT_FALSE(again.applied);
  EXPECT_EQ(state_.Step(Settle{1, kNoonMs, TestHoldId(1), 13}).outcome, Outcome::kConflict);
  EXPECT_EQ(state_.Step(Void{1, kNoonMs, TestHoldId(1)}).outcome, Outcome::kConflict);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(88, 12));
}

TEST_F(CoreTest, SettleAboveTheHoldDebitsNobodyElse) {
  Lease(100, 100);
  Admit(1, 30);
  HoldEffect effect = state_.Step(Settle{1, kNoonMs, TestHoldId(1), 45});
  EXPECT_EQ(effect.credited_nanos, 0);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 30));
  state_.Step(Acknowledge{1, kNoonMs, TestHoldId(1), 45});
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 0));
}

TEST_F(CoreTest, BudgetsWithDifferentAmountsAreCreditedEachForItself) {
  Lease(100, 100);
  TestReserve reserve(TestHoldId(1), {{kOrg, "total", 40}, {kTeam, "total", 10}});
  state_.Step(*reserve);
  state_.Step(Settle{1, kNoonMs, TestHoldId(1), 25});
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(75, 25));
  EXPECT_THAT(FreeAndHeld(state_, kTeam), Pair(90, 10));
  state_.Step(Acknowledge{1, kNoonMs, TestHoldId(1), 25});
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(75, 0));
  EXPECT_THAT(FreeAndHeld(state_, kTeam), Pair(90, 0));
}

TEST_F(CoreTest, AcknowledgeWithoutSettleGivesTheCreditThatNeverCame) {
  Lease(100, 100);
  Admit(1, 30);
  HoldEffect effect = state_.Step(Acknowledge{1, kNoonMs, TestHoldId(1), 12});
  EXPECT_EQ(effect.credited_nanos, 18);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(88, 0));
  EXPECT_FALSE(state_.Step(Settle{1, kNoonMs, TestHoldId(1), 12}).applied);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(88, 0));
  EXPECT_EQ(Admit(1, 30), Outcome::kFinished);
}

TEST_F(CoreTest, VoidReturnsEverything) {
  Lease(100, 100);
  Admit(1, 30);
  EXPECT_EQ(state_.Step(Void{1, kNoonMs, TestHoldId(1)}).credited_nanos, 30);
  EXPECT_FALSE(state_.Step(Void{1, kNoonMs, TestHoldId(1)}).applied);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(100, 0));
  EXPECT_EQ(state_.Step(Settle{1, kNoonMs, TestHoldId(1), 5}).outcome, Outcome::kConflict);
}

TEST_F(CoreTest, VoidThatOvertakesItsReserveRefusesIt) {
  Lease(100, 100);
  EXPECT_EQ(state_.Step(Void{1, kNoonMs, TestHoldId(1)}).outcome, Outcome::kDone);
  EXPECT_EQ(Admit(1, 30), Outcome::kFinished);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(100, 0));
}

TEST_F(CoreTest, AHoldPastItsDeadlineExpiresUncredited) {
  Lease(100, 100);
  Admit(1, 30);
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 59'999}).expired, 0);
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 60'000}).expired, 1);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 30));
  ASSERT_THAT(state_.ExpiredHolds(10), SizeIs(1));
  const HoldRecord expired = state_.ExpiredHolds(10)[0];
  EXPECT_EQ(expired.edge_id, "edge");
  EXPECT_EQ(expired.boot_id, "boot");
  EXPECT_THAT(expired.account_ids, ElementsAre(1, 2));
  ASSERT_THAT(expired.budgets, SizeIs(2));
  EXPECT_EQ(expired.budgets[0].covers_nanos, 30);
  // From here on the ledger owns it: no credit of any kind.
  EXPECT_FALSE(state_.Step(Settle{1, kNoonMs, TestHoldId(1), 5}).applied);
  EXPECT_FALSE(state_.Step(Void{1, kNoonMs, TestHoldId(1)}).applied);
  EXPECT_FALSE(state_.Step(Acknowledge{1, kNoonMs, TestHoldId(1), 5}).applied);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 30));
  EXPECT_TRUE(state_.Step(ExpiredPosted{1, TestHoldId(1)}).applied);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 0));
  EXPECT_THAT(state_.ExpiredHolds(10), IsEmpty());
}

TEST_F(CoreTest, ASettledHoldThatNobodyAcknowledgesExpiresCoveringTheActual) {
  Lease(100, 100);
  Admit(1, 30);
  state_.Step(Settle{1, kNoonMs + 1000, TestHoldId(1), 12});
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 600'999}).expired, 0);
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 601'000}).expired, 1);
  EXPECT_EQ(state_.ExpiredHolds(10)[0].budgets[0].covers_nanos, 12);
}

TEST_F(CoreTest, RefreshMovesTheDeadline) {
  Lease(100, 100);
  Admit(1, 30);
  EXPECT_TRUE(state_.Step(Refresh{1, kNoonMs + 50'000, TestHoldId(1)}).applied);
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 60'000}).expired, 0);
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 110'000}).expired, 1);
}

TEST_F(CoreTest, TickExpiresInSlices) {
  Lease(100, 100);
  for (uint64_t i = 0; i < 10; ++i) Admit(i, 1);
  TickEffect effect = state_.Step(Tick{1, kNoonMs + 70'000, 4});
  EXPECT_EQ(effect.expired, 4);
  EXPECT_TRUE(effect.more);
  EXPECT_EQ(state_.Step(Tick{1, kNoonMs + 70'000, 100}).expired, 6);
}

TEST_F(CoreTest, TimeNeverRunsBackwards) {
  Lease(100, 100);
  state_.Step(Tick{1, kNoonMs + 1'000'000});
  EXPECT_EQ(Admit(1, 30), Outcome::kStale) << "made before noon, the state has seen later";
}

// R9: whatever the network delays, a hold that ended is never made again.
TEST_F(CoreTest, NoReserveEverReturnsAFinishedHold) {
  Lease(100, 100);
  Admit(1, 30);
  state_.Step(Void{1, kNoonMs, TestHoldId(1)});
  for (int64_t later = 0; later < 400'000; later += 500) {
    TestReserve late = Hold(1, 30);
    late.event.now_ms = kNoonMs + later;
    state_.Step(Tick{1, late.event.now_ms});
    const Outcome outcome = state_.Step(*late).outcome;
    ASSERT_TRUE(outcome == Outcome::kFinished ||
                (later > 300'000 && outcome == Outcome::kStale)) << later;
  }
}

TEST_F(CoreTest, EndsAreForgottenInTime) {
  Lease(1000, 1000);
  for (uint64_t i = 0; i < 100; ++i) {
    Admit(i, 1);
    state_.Step(Void{1, kNoonMs, TestHoldId(i)});
  }
  EXPECT_EQ(state_.finished_count(), 100u);
  state_.Step(Tick{1, kNoonMs + 302'000});
  EXPECT_EQ(state_.finished_count(), 0u);
}

TEST_F(CoreTest, ALongHoldIsRememberedWhileItIsOpen) {
  Lease(100, 100);
  TestReserve reserve = Hold(1, 30);
  reserve.event.time_to_live_ms = 10'000'000;
  state_.Step(*reserve);
  state_.Step(Tick{1, kNoonMs + 9'000'000});
  EXPECT_TRUE(state_.Step(*reserve).replayed);
}

TEST_F(CoreTest, IdsFromTheFutureAreRefused) {
  Lease(100, 100);
  TestReserve future(TestHoldId(1, kNoonMs + 300'001), {{kOrg, "total", 1}});
  EXPECT_EQ(state_.Step(*future).outcome, Outcome::kStale);
}

// --- lease ---------------------------------------------------------------------------------------
TEST_F(CoreTest, AGrantIsAddedOnce) {
  EXPECT_TRUE(Grant(state_, 1, {{kOrg, "total", 50}}).applied);
  GrantEffect again = Grant(state_, 1, {{kOrg, "total", 50}});
  EXPECT_EQ(again.outcome, Outcome::kDone);
  EXPECT_FALSE(again.applied);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(50, 0));
}

TEST_F(CoreTest, GrantsAreAddedInTheirOrder) {
  EXPECT_EQ(Grant(state_, 2, {{kOrg, "total", 50}}).outcome, Outcome::kOutOfOrder);
  EXPECT_TRUE(Grant(state_, 1, {{kOrg, "total", 5}}).applied);
  EXPECT_TRUE(Grant(state_, 2, {{kOrg, "total", 50}}).applied);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(55, 0));
}

TEST_F(CoreTest, AGrantThatNumbersCannotHoldIsRefusedAsAWhole) {
  EXPECT_EQ(Grant(state_, 1, {{kOrg, "total", 50}, {kTeam, "total", kMaxLeaseNanos + 1}}).outcome,
            Outcome::kBad);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(0, 0));
}

TEST_F(CoreTest, LeaseLeavesThroughAnOutbox) {
  Lease(100, 40);
  std::vector<BudgetAmount> keep = {{kOrg, "total", 30}, {kTeam, "total", 60}};
  TakeOutEffect effect = state_.Step(TakeOut{1, keep});
  EXPECT_EQ(effect.return_id, 1);
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(30, 0));
  EXPECT_THAT(FreeAndHeld(state_, kTeam), Pair(40, 0));
  ASSERT_THAT(state_.Returns(), SizeIs(1));
  ASSERT_THAT(state_.Returns()[0].amounts, SizeIs(1));
  EXPECT_EQ(state_.Returns()[0].amounts[0].free_nanos, 70);
  EXPECT_EQ(state_.Step(TakeOut{1, keep}).return_id, 0) << "nothing is above what may stay";
  EXPECT_EQ(state_.Step(ReturnPosted{1, 1}), Outcome::kDone);
  EXPECT_THAT(state_.Returns(), IsEmpty());
}

TEST_F(CoreTest, PeriodsAreSeparate) {
  ASSERT_TRUE(Grant(state_, 1, {{kOrg, "2026-11@UTC", 50}, {kOrg, "2026-12@UTC", 10}}).applied);
  TestReserve reserve(TestHoldId(1), {{kOrg, "2026-12@UTC", 20}});
  EXPECT_EQ(state_.Step(*reserve).outcome, Outcome::kRefused);
}

// --- epochs --------------------------------------------------------------------------------------
TEST_F(CoreTest, EveryEventOfAnotherEpochIsRefused) {
  Lease(100, 100);
  Admit(1, 30);
  for (int64_t other : {0, 2}) {
    TestReserve reserve = Hold(2, 1);
    reserve.event.epoch = other;
    const Uuid id = TestHoldId(1);
    std::vector<BudgetAmount> none = {{kOrg, "total", 0}};
    EXPECT_EQ(state_.Step(*reserve).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(Settle{other, kNoonMs, id, 1}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(Void{other, kNoonMs, id}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(Acknowledge{other, kNoonMs, id, 1}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(Refresh{other, kNoonMs, id}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(Expire{other, id}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(ExpiredPosted{other, id}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(Tick{other, kNoonMs + 1'000'000}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(Grant(state_, 2, {{kOrg, "total", 5}}, other).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(TakeOut{other, none}).outcome, Outcome::kEpochClosed);
    EXPECT_EQ(state_.Step(ReturnPosted{other, 1}), Outcome::kEpochClosed);
  }
  EXPECT_THAT(FreeAndHeld(state_, kOrg), Pair(70, 30));
  EXPECT_EQ(state_.Hold(TestHoldId(1))->state, HoldState::kOpen);
}

TEST_F(CoreTest, AnAbsentEpochKeyEqualsNone) {
  OrgState empty;
  EXPECT_EQ(empty.Step(Tick{0, kNoonMs}).outcome, Outcome::kEpochClosed);
  EXPECT_EQ(Grant(empty, 1, {{kOrg, "total", 5}}, 0).outcome, Outcome::kEpochClosed);
}

TEST_F(CoreTest, InitOnlyRaisesTheKeyAndWipes) {
  Lease(100, 100);
  Admit(1, 30);
  EXPECT_EQ(state_.Step(InitEpoch{1}), Outcome::kDone);
  EXPECT_EQ(state_.hold_count(), 1u) << "the same epoch again changes nothing";
  EXPECT_EQ(state_.Step(InitEpoch{3}), Outcome::kDone);
  EXPECT_EQ(state_.hold_count(), 0u);
  EXPECT_THAT(state_.Leases(), IsEmpty());
  EXPECT_EQ(state_.last_grant_id(), 0);
  EXPECT_EQ(state_.Step(InitEpoch{2}), Outcome::kEpochClosed);
  EXPECT_EQ(state_.epoch(), 3);
}

// --- limits --------------------------------------------------------------------------------------
TEST_F(CoreTest, RequestsPerMinuteAreABurstThenARate) {
  auto admit = [&](uint64_t number, int64_t at) {
    TestReserve reserve(TestHoldId(number), {}, {{5, 2, 0, 0}});
    reserve.event.now_ms = kNoonMs + at;
    return state_.Step(*reserve);
  };
  EXPECT_EQ(admit(1, 0).outcome, Outcome::kDone);
  EXPECT_EQ(admit(2, 0).outcome, Outcome::kDone);
  ReserveEffect third = admit(3, 0);
  EXPECT_EQ(third.outcome, Outcome::kRefused);
  ASSERT_THAT(third.limits, SizeIs(1));
  EXPECT_EQ(third.limits[0].account_id, 5);
  EXPECT_EQ(third.limits[0].kind, LimitKind::kRequests);
  EXPECT_EQ(third.limits[0].retry_after_ms, 30'000);
  EXPECT_EQ(admit(3, 29'999).outcome, Outcome::kRefused);
  EXPECT_EQ(admit(3, 30'000).outcome, Outcome::kDone);
}

TEST_F(CoreTest, ARefusalTakesNothingFromALimit) {
  Lease(10, 10);
  TestReserve too_much(TestHoldId(1), {{kOrg, "total", 11}}, {{5, 1, 100, 1}});
  too_much.event.tokens = 60;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(state_.Step(*too_much).outcome, Outcome::kRefused);
  too_much.budgets[0].amount_nanos = 10;
  EXPECT_EQ(state_.Step(*too_much).outcome, Outcome::kDone);
}

TEST_F(CoreTest, LimitsAndBudgetsAreNamedTogether) {
  Lease(10, 10);
  TestReserve first(TestHoldId(1), {}, {{5, 1, 100, 1}});
  first.event.tokens = 60;
  state_.Step(*first);
  TestReserve second(TestHoldId(2), {{kOrg, "total", 11}}, {{5, 1, 100, 1}});
  second.event.tokens = 60;
  ReserveEffect effect = state_.Step(*second);
  EXPECT_THAT(effect.shortages, SizeIs(1));
  EXPECT_THAT(effect.limits, SizeIs(3));
}

TEST_F(CoreTest, TokensAreReservedThenCorrected) {
  auto reserve = [&](uint64_t number, int64_t tokens) {
    TestReserve event(TestHoldId(number), {}, {{5, 0, 1000, 0}});
    event.event.tokens = tokens;
    return state_.Step(*event).outcome;
  };
  EXPECT_EQ(reserve(1, 800), Outcome::kDone);
  EXPECT_EQ(reserve(2, 300), Outcome::kRefused);
  state_.Step(Settle{1, kNoonMs, TestHoldId(1), 0, 100});
  EXPECT_EQ(reserve(2, 300), Outcome::kDone);
  state_.Step(Settle{1, kNoonMs, TestHoldId(2), 0, 2000});  // far more than estimated
  EXPECT_EQ(reserve(3, 1), Outcome::kRefused);
  EXPECT_EQ(reserve(4, 1001), Outcome::kRefused);
}

TEST_F(CoreTest, AVoidGivesTheTokensBack) {
  TestReserve event(TestHoldId(1), {}, {{5, 0, 1000, 0}});
  event.event.tokens = 1000;
  EXPECT_EQ(state_.Step(*event).outcome, Outcome::kDone);
  state_.Step(Void{1, kNoonMs, TestHoldId(1)});
  event.event.hold_id = TestHoldId(2);
  EXPECT_EQ(state_.Step(*event).outcome, Outcome::kDone);
}

TEST_F(CoreTest, SlotsAreFreedByEveryEndOfAHold) {
  uint64_t number = 0;
  auto admit = [&] {
    TestReserve event(TestHoldId(++number), {}, {{5, 0, 0, 1}});
    return state_.Step(*event).outcome;
  };
  EXPECT_EQ(admit(), Outcome::kDone);
  EXPECT_EQ(admit(), Outcome::kRefused);
  state_.Step(Settle{1, kNoonMs, TestHoldId(1), 3, 0});
  EXPECT_EQ(admit(), Outcome::kDone);  // 3
  state_.Step(Void{1, kNoonMs, TestHoldId(3)});
  EXPECT_EQ(admit(), Outcome::kDone);  // 4
  state_.Step(Acknowledge{1, kNoonMs, TestHoldId(4), 0});
  EXPECT_EQ(admit(), Outcome::kDone);  // 5
  state_.Step(Tick{1, kNoonMs + 60'000});
  EXPECT_EQ(admit(), Outcome::kDone);
}

TEST_F(CoreTest, LaterAttemptsAreCountedButNotRefused) {
  TestReserve first(TestHoldId(1), {}, {{5, 1, 0, 1}});
  EXPECT_EQ(state_.Step(*first).outcome, Outcome::kDone);
  TestReserve second(TestHoldId(2), {}, {{5, 1, 0, 1}});
  second.event.first_attempt = false;
  EXPECT_EQ(state_.Step(*second).outcome, Outcome::kDone);
  state_.Step(Void{1, kNoonMs, TestHoldId(1)});
  TestReserve third(TestHoldId(3), {}, {{5, 0, 0, 1}});
  EXPECT_EQ(state_.Step(*third).outcome, Outcome::kRefused) << "the second attempt has a slot";
}

TEST_F(CoreTest, ObservedBudgetsAreNamedAndNeverShort) {
  TestReserve reserve(TestHoldId(1), {{9, "total", 0, true}});
  EXPECT_EQ(state_.Step(*reserve).outcome, Outcome::kDone);
  EXPECT_TRUE(state_.Hold(TestHoldId(1))->budgets[0].observe);
  EXPECT_TRUE(state_.Step(Settle{1, kNoonMs, TestHoldId(1), 50}).applied);
  EXPECT_EQ(state_.hold_count(), 0u) << "nothing is escrowed, nothing waits for the ledger";
}

TEST_F(CoreTest, AnOldStateIsAValue) {
  Lease(100, 100);
  OrgState before = state_;
  Admit(1, 30);
  EXPECT_THAT(FreeAndHeld(before, kOrg), Pair(100, 0));
  EXPECT_EQ(before.hold_count(), 0u);
}

}  // namespace
}  // namespace tollhouse::enforcer
