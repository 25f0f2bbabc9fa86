// Several enforcers on one hold store: nobody's death, nobody's stale view of the world makes a hold
// that no lease covers, loses lease for good, or answers with the wrong reason.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/cluster_testing.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kDollar = 1'000'000'000;

class EnforcersTest : public ::testing::Test {
 protected:
  v1::Admitted Admit(int i, const v1::Operation& op) {
    v1::OperationResult result = cluster_.Call(i, op);
    EXPECT_TRUE(result.has_admitted()) << result.ShortDebugString();
    return result.admitted();
  }

  v1::Refused Refuse(int i, const v1::Operation& op) {
    v1::OperationResult result = cluster_.Call(i, op);
    EXPECT_TRUE(result.has_refused()) << result.ShortDebugString();
    return result.refused();
  }

  // As an edge does, whose stream to the enforcer may be another one each time.
  void Spend(int settle_at, int acknowledge_at, const v1::Operation& reserve, const v1::Admitted& admitted,
             int64_t cost) {
    EXPECT_TRUE(cluster_.Call(settle_at, EnforcerWorld::Settle(reserve, admitted.epoch(), cost)).has_done());
    EXPECT_EQ(cluster_.ledger().Post(EnforcerWorld::Entry(reserve, admitted, cost)),
              ledger::v1::POST_OUTCOME_POSTED);
    EXPECT_TRUE(
        cluster_.Call(acknowledge_at, EnforcerWorld::Acknowledge(reserve, admitted.epoch(), cost)).has_done());
  }

  int64_t Free(int64_t budget_id, const std::string& period = "total") {
    const auto lease = cluster_.store().org(1).Lease(budget_id, period);
    return lease ? lease->free_nanos : 0;
  }
  int64_t Held(int64_t budget_id, const std::string& period = "total") {
    const auto lease = cluster_.store().org(1).Lease(budget_id, period);
    return lease ? lease->held_nanos : 0;
  }
  FakeLedger::Row Row(int64_t budget_id) { return cluster_.ledger().row(budget_id); }

  TestCluster cluster_{2, testing::TestSeed()};
};

// --- one store, two enforcers ---------------------------------------------------------------------
TEST_F(EnforcersTest, AHoldOfOneIsSettledAndAcknowledgedAtTheOther) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 10 * kDollar);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  const v1::Admitted admitted = Admit(0, reserve);
  EXPECT_EQ(admitted.epoch(), 1);
  Spend(1, 0, reserve, admitted, kDollar / 4);
  EXPECT_EQ(Row(10).spent, kDollar / 4);
  EXPECT_EQ(Held(10), 0);
  EXPECT_EQ(Admit(1, cluster_.Reserve(kDollar)).epoch(), 1) << "one store, one epoch";
}

TEST_F(EnforcersTest, TheSameReserveAtTheOtherIsTheSameHold) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 10 * kDollar);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  const v1::Admitted first = Admit(0, reserve);
  const v1::Admitted again = Admit(1, reserve);
  ASSERT_THAT(again.budgets(), SizeIs(1));
  EXPECT_EQ(again.budgets(0).SerializeAsString(), first.budgets(0).SerializeAsString());
  EXPECT_EQ(Held(10), kDollar);
}

TEST_F(EnforcersTest, AHoldWhoseReplyIsLostStaysForWhoeverAsksForItAgain) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 10 * kDollar);
  Admit(0, cluster_.Reserve(0));
  Admit(1, cluster_.Reserve(0));
  cluster_.Pass(absl::Seconds(1));
  const v1::Operation lease = cluster_.Reserve(kDollar);
  Spend(0, 0, lease, Admit(0, lease), kDollar);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  cluster_.store().replies_lost = true;
  // Its edge does not hear this answer: the stream broke.
  EXPECT_EQ(cluster_.Call(0, reserve).failed().reason(), "STORE_UNAVAILABLE");
  cluster_.store().replies_lost = false;
  Admit(1, reserve);
  cluster_.Pass(absl::Seconds(5));
  EXPECT_EQ(Held(10), kDollar) << "it may be in use";
}

TEST_F(EnforcersTest, WhoeverFailsIsToldWhetherThereMayBeAHold) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 10 * kDollar);
  Admit(0, cluster_.Reserve(0));
  cluster_.Pass(absl::Seconds(1));
  const v1::Operation lease = cluster_.Reserve(kDollar);
  const int64_t epoch = Admit(0, lease).epoch();
  Spend(0, 0, lease, Admit(0, lease), kDollar);
  cluster_.store().replies_lost = true;
  const v1::Operation lost = cluster_.Reserve(kDollar);
  EXPECT_EQ(cluster_.Call(0, lost).failed().maybe_held_epoch(), epoch);
  cluster_.store().replies_lost = false;
  EXPECT_EQ(Held(10), kDollar);
  // Its edge voids it: all of it is back, and the hold cannot be made again.
  v1::Operation end;
  end.mutable_void_()->set_hold_id(lost.reserve().hold_id());
  end.mutable_void_()->set_org_id(lost.reserve().account_ids(0));
  end.mutable_void_()->set_epoch(epoch);
  EXPECT_TRUE(cluster_.Call(1, end).has_done());
  EXPECT_EQ(Held(10), 0);
  const v1::OperationResult again = cluster_.Call(0, lost);
  EXPECT_EQ(again.failed().reason(), "HOLD_FINISHED");
  EXPECT_EQ(again.failed().maybe_held_epoch(), epoch);
  // What was not even sent needs no void.
  cluster_.store().down = true;
  const v1::OperationResult down = cluster_.Call(0, cluster_.Reserve(kDollar));
  EXPECT_EQ(down.failed().reason(), "STORE_UNAVAILABLE");
  EXPECT_EQ(down.failed().maybe_held_epoch(), 0);
}

TEST_F(EnforcersTest, MoneyThatTheOtherReleasesIsSeen) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), kDollar);
  const v1::Operation first = cluster_.Reserve(kDollar);
  const v1::Admitted admitted = Admit(0, first);
  v1::Operation second = cluster_.Reserve(kDollar / 2);
  second.mutable_reserve()->set_wait_ms(10'000);
  const uint64_t waiting = cluster_.Send(1, second);
  cluster_.Settle();
  EXPECT_EQ(cluster_.Result(waiting), nullptr);
  Spend(0, 0, first, admitted, kDollar / 4);
  cluster_.CutLedger(-1, true);  // the store alone tells
  cluster_.Pass(absl::Milliseconds(100));
  ASSERT_NE(cluster_.Result(waiting), nullptr) << "seen within two polls of the store";
  EXPECT_TRUE(cluster_.Result(waiting)->has_admitted());
}

TEST_F(EnforcersTest, WaitingCostsTheLedgerLittle) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  for (int i = 0; i < 200; ++i) {
    v1::Operation waits = cluster_.Reserve(kDollar / 2);
    waits.mutable_reserve()->set_wait_ms(30'000);
    cluster_.Send(i % 2, waits);
  }
  cluster_.Settle();
  const int before = cluster_.ledger().grants_made();
  cluster_.Pass(absl::Seconds(2));
  EXPECT_LE(cluster_.ledger().grants_made() - before, 2 * 9) << "four calls a second and enforcer";
}

TEST_F(EnforcersTest, AGrantOfADeadEnforcerIsUsedByTheOther) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 4 * kDollar);
  Admit(1, cluster_.Reserve(0));  // both know the epoch
  cluster_.Send(0, cluster_.Reserve(kDollar));
  while (cluster_.ledger().grants_made() == 0 && cluster_.Step()) {
  }
  ASSERT_EQ(Row(10).leased, 4 * kDollar);
  cluster_.Kill(0);
  ASSERT_EQ(Free(10), 0) << "granted and never added";
  v1::Operation reserve = cluster_.Reserve(kDollar);
  reserve.mutable_reserve()->set_wait_ms(10'000);
  const uint64_t number = cluster_.Send(1, reserve);
  cluster_.Pass(absl::Seconds(1));
  ASSERT_NE(cluster_.Result(number), nullptr);
  EXPECT_TRUE(cluster_.Result(number)->has_admitted()) << cluster_.Result(number)->ShortDebugString();
  cluster_.Pass(absl::Seconds(1));
  EXPECT_EQ(Free(10) + Held(10), Row(10).leased);
  EXPECT_THAT(cluster_.ledger().listed_grants(), IsEmpty());
}

TEST_F(EnforcersTest, AGapInTheGrantsIsFilledBeforeAnybodyIsRefused) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 40 * kDollar);
  cluster_.SetBudget(EnforcerWorld::Rule(4), 40 * kDollar);
  Admit(0, cluster_.Reserve(0));
  Admit(1, cluster_.Reserve(0));
  const int before = cluster_.ledger().grants_made();
  // The first is granted, and its enforcer dies; the other's next grant cannot be added without it.
  cluster_.Send(0, cluster_.Reserve(kDollar, {1, 2}));
  while (cluster_.ledger().grants_made() == before && cluster_.Step()) {
  }
  cluster_.Kill(0);
  EXPECT_TRUE(cluster_.Call(1, cluster_.Reserve(kDollar, {1, 2, 3, 4})).has_admitted());
  EXPECT_EQ(Free(10) + Held(10), Row(10).leased);
}

TEST_F(EnforcersTest, OutboxesOfADeadEnforcerAreEmptied) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 100 * kDollar);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  Admit(0, reserve);
  const int64_t free = Free(10);
  ASSERT_GT(free, 0);
  // As if another one had died after the first half of an expiry and of a return.
  OrgState& state = cluster_.store().org(1);
  state.Step(Expire{1, *UuidFromRaw(reserve.reserve().hold_id())});
  const BudgetAmount keep{10, "total", 0};
  state.Step(TakeOut{1, absl::MakeConstSpan(&keep, 1)});
  cluster_.Pass(absl::Minutes(3));
  EXPECT_EQ(cluster_.ledger().expired_holds(), 1);
  EXPECT_EQ(Row(10).suspense, kDollar);
  EXPECT_EQ(Row(10).leased, 0);
  EXPECT_THAT(state.Returns(), IsEmpty());
  EXPECT_EQ(state.expired_count(), 0u);
}

TEST_F(EnforcersTest, LeaseThatTheOtherUsesIsNotIdle) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 100 * kDollar);
  Admit(0, cluster_.Reserve(0));
  for (int i = 0; i < 60; ++i) {
    const v1::Operation reserve = cluster_.Reserve(kDollar / 100);
    Spend(1, 1, reserve, Admit(1, reserve), kDollar / 100);
    cluster_.Pass(absl::Seconds(4));
  }
  EXPECT_LE(cluster_.ledger().grants_made(), 8) << "lease went back and forth";
  cluster_.Pass(absl::Minutes(4));
  EXPECT_EQ(Row(10).leased, 0) << "now it is idle";
}

TEST_F(EnforcersTest, MoreThanTheStoreCanCountIsHeldByOthers) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 4'000'000'000'000'000'000);
  std::vector<v1::Operation> open;
  v1::OperationResult last;
  for (int i = 0; i < 12; ++i) {
    open.push_back(cluster_.Reserve(kMaxHoldNanos));
    last = cluster_.Call(0, open.back());
    if (!last.has_admitted()) break;
  }
  EXPECT_GE(open.size(), 8u);
  EXPECT_EQ(last.refused().reason(), v1::REASON_BUDGET_HELD) << last.ShortDebugString();
  EXPECT_LE(Row(10).leased, int64_t{1} << 53);
  EXPECT_TRUE(cluster_.Call(1, EnforcerWorld::Void(open[0], 1)).has_done());
  Admit(0, cluster_.Reserve(kMaxHoldNanos));
}

TEST_F(EnforcersTest, ALoweredCapIsInForceWhenBothHaveApplied) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 100 * kDollar);
  const v1::Operation first = cluster_.Reserve(kDollar);
  const v1::Admitted admitted = Admit(0, first);
  EXPECT_GT(Row(10).leased, 2 * kDollar);
  cluster_.SetBudget(EnforcerWorld::Rule(1), 2 * kDollar);
  cluster_.Settle();
  EXPECT_EQ(Free(10), 0);
  Admit(1, cluster_.Reserve(kDollar));
  EXPECT_EQ(Refuse(0, cluster_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_HELD);
  EXPECT_EQ(Row(10).cap, 2 * kDollar);
}

TEST_F(EnforcersTest, AStoppingEnforcerLeavesTheLeaseToTheOther) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 100 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  const int64_t leased = Row(10).leased;
  cluster_.enforcer(0).Drain(absl::ZeroDuration());
  cluster_.Settle();
  EXPECT_EQ(Row(10).leased, leased);
  EXPECT_EQ(cluster_.Call(0, cluster_.Reserve(kDollar)).failed().reason(), "LEDGER_UNAVAILABLE");
  Admit(1, cluster_.Reserve(kDollar));
}

// --- limits ---------------------------------------------------------------------------------------
TEST_F(EnforcersTest, LimitsCountWhatBothAdmitted) {
  ledger::v1::AccountLimits limits;
  limits.set_org_id(1);
  limits.set_account_id(3);
  limits.mutable_limits()->set_requests_per_minute(6);
  limits.mutable_limits()->set_concurrency(4);
  cluster_.SetLimits(limits);
  std::vector<v1::Operation> open;
  for (int i = 0; i < 4; ++i) {
    open.push_back(cluster_.Reserve(0));
    Admit(i % 2, open.back());
  }
  EXPECT_EQ(Refuse(0, cluster_.Reserve(0)).reason(), v1::REASON_CONCURRENCY);
  EXPECT_EQ(Refuse(1, cluster_.Reserve(0)).reason(), v1::REASON_CONCURRENCY);
  EXPECT_TRUE(cluster_.Call(1, EnforcerWorld::Void(open[0], 1)).has_done());
  EXPECT_TRUE(cluster_.Call(0, EnforcerWorld::Void(open[1], 1)).has_done());
  Admit(0, cluster_.Reserve(0));
  Admit(1, cluster_.Reserve(0));
  EXPECT_TRUE(cluster_.Call(1, EnforcerWorld::Void(open[2], 1)).has_done());
  const v1::Refused refused = Refuse(0, cluster_.Reserve(0));
  EXPECT_EQ(refused.reason(), v1::REASON_REQUEST_RATE) << "six in a minute, wherever";
  EXPECT_EQ(refused.retry_after_ms(), 10'000);
}

TEST_F(EnforcersTest, SlotsDoNotLeakAndRefreshedOnesStay) {
  ledger::v1::AccountLimits limits;
  limits.set_org_id(1);
  limits.set_account_id(3);
  limits.mutable_limits()->set_concurrency(2);
  cluster_.SetLimits(limits);
  const v1::Operation streams = cluster_.Reserve(0), lost = cluster_.Reserve(0);
  Admit(0, streams);
  Admit(1, lost);
  for (int i = 0; i < 3; ++i) {  // ten minutes is their time to live
    EXPECT_EQ(i < 2 ? Refuse(0, cluster_.Reserve(0)).reason() : v1::REASON_CONCURRENCY,
              v1::REASON_CONCURRENCY);
    cluster_.Pass(absl::Minutes(4));
    EXPECT_TRUE(cluster_.Call(i % 2, EnforcerWorld::Refresh(streams, 1)).has_done());
  }
  Admit(0, cluster_.Reserve(0));
  EXPECT_EQ(Refuse(1, cluster_.Reserve(0)).reason(), v1::REASON_CONCURRENCY) << "one still streams";
}

// --- another incarnation --------------------------------------------------------------------------
TEST_F(EnforcersTest, AnotherStoreIsServedUnderOneNewEpochAtOnce) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 10 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  Admit(1, cluster_.Reserve(kDollar));
  const int64_t lost = Row(10).leased;
  cluster_.store().Lose();
  cluster_.Hint();
  cluster_.Settle();
  EXPECT_EQ(cluster_.ledger().epoch(1), 2) << "without being asked, and once for both";
  EXPECT_EQ(Row(10).lost, lost);
  if (lost < 10 * kDollar) {
    EXPECT_EQ(Admit(0, cluster_.Reserve(kDollar / 100)).epoch(), 2);
    EXPECT_EQ(Admit(1, cluster_.Reserve(kDollar / 100)).epoch(), 2);
  }
  EXPECT_TRUE(cluster_.ledger().edge_registered(1, 2, "edge"));
}

TEST_F(EnforcersTest, AFlushedStoreIsNoticedByItsScripts) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 100 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  Admit(1, cluster_.Reserve(kDollar));
  cluster_.store().Flush();
  EXPECT_EQ(Admit(0, cluster_.Reserve(kDollar)).epoch(), 2) << "nobody told it";
  EXPECT_EQ(Admit(1, cluster_.Reserve(kDollar)).epoch(), 2);
  EXPECT_EQ(Free(10) + Held(10), Row(10).leased);
}

TEST_F(EnforcersTest, WhoeverWaitsForMoneyGoesOnUnderTheNextEpoch) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  v1::Operation waits = cluster_.Reserve(kDollar / 2);
  waits.mutable_reserve()->set_wait_ms(10'000);
  const uint64_t number = cluster_.Send(1, waits);
  cluster_.Settle();
  cluster_.store().Lose();
  cluster_.Hint();
  cluster_.Settle();
  EXPECT_EQ(cluster_.Result(number)->refused().reason(), v1::REASON_BUDGET_BLOCKED) << "never exhausted";
}

TEST_F(EnforcersTest, AnEnforcerWithAnOldEpochAdmitsNothing) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 100 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  Admit(1, cluster_.Reserve(kDollar));
  const v1::Operation old = cluster_.Reserve(kDollar);
  const uint64_t number = cluster_.Send(1, old);  // its script is under way
  cluster_.store().Lose();
  EXPECT_EQ(Admit(0, cluster_.Reserve(kDollar)).epoch(), 2);
  cluster_.Settle();
  EXPECT_EQ(cluster_.Result(number)->admitted().epoch(), 2) << "under the epoch that is open, or not at all";
}

TEST_F(EnforcersTest, AFailbackIsAnotherEpoch) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 1000 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  cluster_.store().Lose();
  cluster_.Hint();
  EXPECT_EQ(Admit(1, cluster_.Reserve(kDollar)).epoch(), 2);
  cluster_.store().leading = 0;  // leads again, as it was: the same identity
  cluster_.Hint();
  cluster_.Pass(absl::Seconds(3));
  EXPECT_EQ(Admit(0, cluster_.Reserve(kDollar)).epoch(), 3);
  EXPECT_EQ(Free(10) + Held(10), Row(10).leased) << "its old lease and holds were wiped";
}

TEST_F(EnforcersTest, AZombieStoreDoesNotPingPong) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 1'000'000 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  cluster_.store().Lose();
  cluster_.Connect(0, 0);  // a stale address: the old one still answers there
  cluster_.Connect(1, 1);
  cluster_.Settle();
  const int64_t before = cluster_.ledger().epoch(1);
  for (int i = 0; i < 600; ++i) {
    cluster_.Send(i % 2, cluster_.Reserve(kDollar / 1000));
    cluster_.Pass(absl::Milliseconds(100));
    cluster_.PushRules(0);
    cluster_.PushRules(1);
  }
  EXPECT_LE(cluster_.ledger().epoch(1) - before, 12) << "in a minute";
}

// --- outages --------------------------------------------------------------------------------------
TEST_F(EnforcersTest, WithoutTheLedgerBothGoOnFromTheSharedLease) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 8 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  Admit(1, cluster_.Reserve(kDollar));
  ASSERT_EQ(Row(10).avail, 0);
  cluster_.CutLedger(-1, true);
  for (int i = 0; i < 6; ++i) Admit(i % 2, cluster_.Reserve(kDollar));
  const v1::Refused refused = Refuse(0, cluster_.Reserve(kDollar));
  EXPECT_EQ(refused.reason(), v1::REASON_LEDGER_UNAVAILABLE);
  EXPECT_GT(refused.retry_after_ms(), 0);
  cluster_.CutLedger(-1, false);
  cluster_.Pass(absl::Seconds(3));
  EXPECT_EQ(Refuse(0, cluster_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_HELD);
}

TEST_F(EnforcersTest, WithoutTheStoreReservationsFailAndSettlementsWait) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 8 * kDollar);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  const v1::Admitted admitted = Admit(0, reserve);
  cluster_.store().down = true;
  EXPECT_EQ(cluster_.Call(0, cluster_.Reserve(kDollar)).failed().reason(), "STORE_UNAVAILABLE");
  EXPECT_EQ(cluster_.Call(1, cluster_.Reserve(kDollar)).failed().reason(), "STORE_UNAVAILABLE");
  const uint64_t settle = cluster_.Send(1, EnforcerWorld::Settle(reserve, admitted.epoch(), kDollar / 2));
  cluster_.Pass(absl::Seconds(5));
  EXPECT_EQ(cluster_.Result(settle), nullptr);
  cluster_.store().down = false;
  cluster_.Pass(absl::Seconds(1));
  ASSERT_NE(cluster_.Result(settle), nullptr);
  EXPECT_TRUE(cluster_.Result(settle)->has_done());
  EXPECT_EQ(Held(10), kDollar / 2);
  Admit(0, cluster_.Reserve(kDollar));
  EXPECT_EQ(cluster_.ledger().epoch(1), 1) << "the same store: the same epoch";
}

TEST_F(EnforcersTest, ANewEnforcerServesWhileTheLedgerDoesNotAnswerIfItKnowsTheRules) {
  cluster_.SetBudget(EnforcerWorld::Rule(1), 8 * kDollar);
  Admit(0, cluster_.Reserve(kDollar));
  cluster_.Kill(1);  // its successor has the rules from the watch, and then the ledger goes
  cluster_.CutLedger(-1, true);
  cluster_.Settle();
  EXPECT_EQ(cluster_.Call(1, cluster_.Reserve(kDollar)).failed().reason(), "LEDGER_UNAVAILABLE")
      << "the edge is not on the epoch's roster as far as this one knows";
  cluster_.CutLedger(-1, false);
  Admit(1, cluster_.Reserve(kDollar));
}

class OpenOnOutageTest : public EnforcersTest {
 protected:
  OpenOnOutageTest() {
    ledger::v1::BudgetRule rule = EnforcerWorld::Rule(1);
    rule.set_on_outage(common::v1::OUTAGE_POLICY_OPEN);
    cluster_.SetBudget(rule, kDollar);
  }

  // Posted truthfully: nobody had set it aside, so it is overrun.
  void PostAsOverrun(const v1::Operation& reserve, const v1::Admitted& open) {
    ASSERT_THAT(open.budgets(), SizeIs(1));
    EXPECT_EQ(open.budgets(0).budget_id(), 10);
    EXPECT_EQ(open.budgets(0).period(), "total");
    EXPECT_EQ(open.budgets(0).amount_nanousd(), 0);
    EXPECT_FALSE(open.budgets(0).observe());
    const FakeLedger::Row before = Row(10);
    Spend(0, 1, reserve, open, kDollar / 2);
    EXPECT_EQ(Row(10).overrun, before.overrun + kDollar / 2);
    EXPECT_EQ(Row(10).spent, before.spent + kDollar / 2);
  }
};

TEST_F(OpenOnOutageTest, LetsPassWithoutLeaseWhenTheLedgerIsAway) {
  Admit(0, cluster_.Reserve(kDollar));
  cluster_.CutLedger(-1, true);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  PostAsOverrun(reserve, Admit(0, reserve));
}

TEST_F(OpenOnOutageTest, LetsPassWhenTheStoreIsAway) {
  Admit(0, cluster_.Reserve(kDollar / 2));
  cluster_.store().down = true;
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  const v1::Admitted open = Admit(0, reserve);
  EXPECT_EQ(open.epoch(), 1) << "a token that edges fence like any other";
  cluster_.store().down = false;
  PostAsOverrun(reserve, open);
}

TEST_F(OpenOnOutageTest, LetsPassBeforeThereIsAnEpoch) {
  cluster_.CutLedger(-1, true);
  const v1::Operation reserve = cluster_.Reserve(kDollar);
  const v1::Admitted open = Admit(0, reserve);
  EXPECT_EQ(open.epoch(), 0);
  cluster_.CutLedger(-1, false);
  PostAsOverrun(reserve, open);
}

TEST_F(OpenOnOutageTest, DoesNotOpenTheOthersOnItsPath) {
  cluster_.SetBudget(EnforcerWorld::Rule(2), kDollar);
  cluster_.store().down = true;
  EXPECT_EQ(cluster_.Call(0, cluster_.Reserve(kDollar)).failed().reason(), "STORE_UNAVAILABLE");
  EXPECT_TRUE(cluster_.Call(0, cluster_.Reserve(kDollar, {1, 7})).has_admitted());
}

TEST_F(OpenOnOutageTest, AHoldThatWasMadeAfterAllBecomesFreeAgain) {
  Admit(0, cluster_.Reserve(0));
  const v1::Operation reserve = cluster_.Reserve(kDollar / 2);
  const v1::Admitted hold = Admit(1, reserve);  // the answer is lost
  cluster_.store().down = true;
  const v1::Admitted open = Admit(0, reserve);  // sent again
  cluster_.store().down = false;
  EXPECT_EQ(cluster_.ledger().Post(EnforcerWorld::Entry(reserve, open, kDollar / 2)),
            ledger::v1::POST_OUTCOME_POSTED);
  cluster_.Pass(absl::Minutes(15));
  EXPECT_EQ(Row(10).suspense, 0);
  EXPECT_EQ(Row(10).overrun, kDollar / 2);
}

}  // namespace
}  // namespace tollhouse::enforcer
