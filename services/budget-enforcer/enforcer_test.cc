// The whole enforcer through its gRPC stream, against a ledger that checks its books.
#include <grpcpp/grpcpp.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libs/base/error.h"
#include "libs/rpc/status.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using Row = FakeLedger::Row;

constexpr int64_t kDollar = 1'000'000'000;

class EnforcerTest : public ::testing::Test {
 protected:
  v1::OperationResult Call(v1::Operation op) { return world_.session().Call(std::move(op)); }

  v1::Admitted Admit(const v1::Operation& op) {
    v1::OperationResult result = Call(op);
    EXPECT_TRUE(result.has_admitted()) << result.ShortDebugString();
    return result.admitted();
  }

  v1::Refused Refuse(const v1::Operation& op) {
    v1::OperationResult result = Call(op);
    EXPECT_TRUE(result.has_refused()) << result.ShortDebugString();
    return result.refused();
  }

  // After an outage: the ledger is found to be back by a call in the background.
  void WaitForLedger() {
    world_.clock().Advance(absl::Seconds(5));
    for (int i = 0; i < 10'000; ++i) {
      v1::Operation probe = world_.Reserve(kMaxHoldNanos);
      if (Call(probe).refused().reason() != v1::REASON_LEDGER_UNAVAILABLE) return;
    }
    ADD_FAILURE() << "the ledger is still called away";
  }

  // Settles everywhere, as an edge does.
  void Spend(const v1::Operation& reserve, const v1::Admitted& admitted, int64_t cost) {
    EXPECT_TRUE(Call(world_.Settle(reserve, admitted.epoch(), cost)).has_done());
    EXPECT_EQ(world_.ledger().Post(world_.Entry(reserve, admitted, cost)), ledger::v1::POST_OUTCOME_POSTED);
    EXPECT_TRUE(Call(world_.Acknowledge(reserve, admitted.epoch(), cost)).has_done());
  }

  EnforcerWorld world_;
};

TEST_F(EnforcerTest, AHoldGoesFromReserveToAcknowledge) {
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  world_.ledger().SetBudget(world_.Rule(3), 5 * kDollar);
  v1::Operation reserve = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(reserve);
  EXPECT_EQ(admitted.epoch(), 1);
  ASSERT_THAT(admitted.budgets(), SizeIs(2));
  EXPECT_EQ(admitted.budgets(0).budget_id(), 10);
  EXPECT_EQ(admitted.budgets(0).period(), "total");
  EXPECT_EQ(admitted.budgets(0).amount_nanousd(), kDollar);
  EXPECT_EQ(admitted.tightest_budget(), "account-3#total");
  EXPECT_EQ(admitted.tightest_remaining_nanousd(), 4 * kDollar);
  EXPECT_TRUE(world_.ledger().edge_registered(1, 1, "edge-1"));
  Spend(reserve, admitted, kDollar / 4);
  EXPECT_EQ(world_.ledger().row(10).spent, kDollar / 4);
}

TEST_F(EnforcerTest, ReserveAgainAnswersTheSameHold) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  v1::Operation reserve = world_.Reserve(kDollar);
  v1::Admitted first = Admit(reserve);
  v1::Admitted again = Admit(reserve);
  ASSERT_THAT(again.budgets(), SizeIs(1));
  EXPECT_EQ(again.budgets(0).SerializeAsString(), first.budgets(0).SerializeAsString());
  reserve.mutable_reserve()->set_fingerprint("g");
  EXPECT_EQ(Call(reserve).failed().reason(), "HOLD_CONFLICT");
}

TEST_F(EnforcerTest, WithoutBudgetsEverythingIsAdmittedUnlessOneIsRequired) {
  v1::Operation reserve = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(reserve);
  EXPECT_THAT(admitted.budgets(), IsEmpty());
  EXPECT_EQ(admitted.tightest_remaining_nanousd(), -1);
  v1::Operation strict = world_.Reserve(kDollar);
  strict.mutable_reserve()->set_require_budget(true);
  EXPECT_EQ(Refuse(strict).reason(), v1::REASON_NO_BUDGET);
}

TEST_F(EnforcerTest, AnExhaustedBudgetIsRefusedForGoodAndNamed) {
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  world_.ledger().SetBudget(world_.Rule(2, "month"), kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  Spend(first, Admit(first), kDollar * 9 / 10);
  v1::Refused refused = Refuse(world_.Reserve(kDollar / 2));
  EXPECT_EQ(refused.reason(), v1::REASON_BUDGET_EXHAUSTED);
  ASSERT_THAT(refused.violations(), SizeIs(1));
  const v1::Violation& violation = refused.violations(0);
  EXPECT_EQ(violation.budget(), "account-2#month");
  EXPECT_EQ(violation.limit_nanousd(), kDollar);
  EXPECT_EQ(violation.spent_nanousd(), kDollar * 9 / 10);
  EXPECT_EQ(violation.held_nanousd(), 0);
  EXPECT_EQ(violation.needed_nanousd(), kDollar / 2);
  // November ends in Berlin at 23:00 UTC.
  absl::Time reset;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, "2026-11-30T23:00:00Z", &reset, nullptr));
  EXPECT_EQ(violation.resets_at().seconds(), absl::ToUnixSeconds(reset));
  EXPECT_GE(refused.retry_after_ms(), absl::ToInt64Milliseconds(reset - world_.clock().Wall()));
  // What is left can still be spent to the last nano-dollar.
  v1::Operation last = world_.Reserve(kDollar / 10);
  Spend(last, Admit(last), kDollar / 10);
  EXPECT_EQ(Refuse(world_.Reserve(1)).reason(), v1::REASON_BUDGET_EXHAUSTED);
}

TEST_F(EnforcerTest, EveryExhaustedBudgetIsNamed) {
  world_.ledger().SetBudget(world_.Rule(1), 10);
  world_.ledger().SetBudget(world_.Rule(2), 1000);
  world_.ledger().SetBudget(world_.Rule(4), 5);
  v1::Refused refused = Refuse(world_.Reserve(100));
  ASSERT_THAT(refused.violations(), SizeIs(2));
  EXPECT_EQ(refused.violations(0).budget(), "account-1#total");
  EXPECT_EQ(refused.violations(1).budget(), "account-4#total");
}

TEST_F(EnforcerTest, MoneyHeldByOthersIsRetryable) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(first);
  v1::Refused refused = Refuse(world_.Reserve(kDollar / 2));
  EXPECT_EQ(refused.reason(), v1::REASON_BUDGET_HELD);
  EXPECT_GT(refused.retry_after_ms(), 0);
  EXPECT_EQ(refused.violations(0).held_nanousd(), kDollar);
}

TEST_F(EnforcerTest, AReservationWaitsForMoneyThatOthersHold) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(first);
  v1::Operation second = world_.Reserve(kDollar / 2);
  second.mutable_reserve()->set_wait_ms(10'000);
  const uint64_t waiting = world_.session().Send({second});
  // Somebody who does not wait is answered, so the one who does has been tried.
  EXPECT_EQ(Refuse(world_.Reserve(kDollar / 2)).reason(), v1::REASON_BUDGET_HELD);
  EXPECT_FALSE(world_.session().Arrived(waiting));
  Spend(first, admitted, kDollar / 4);
  EXPECT_TRUE(world_.session().Wait(waiting).has_admitted());
}

TEST_F(EnforcerTest, AWaitEndsWithAnHonestRefusal) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(first);
  v1::Operation second = world_.Reserve(kDollar / 2);
  second.mutable_reserve()->set_wait_ms(10'000);
  const uint64_t waiting = world_.session().Send({second});
  EXPECT_EQ(Refuse(world_.Reserve(kDollar / 2)).reason(), v1::REASON_BUDGET_HELD);
  world_.clock().Advance(absl::Seconds(11));
  v1::OperationResult result = world_.session().Wait(waiting);
  ASSERT_TRUE(result.has_refused()) << result.ShortDebugString();
  EXPECT_EQ(result.refused().reason(), v1::REASON_BUDGET_HELD);
}

TEST_F(EnforcerTest, AWaitEndsEarlyWhenTheMoneyIsSpent) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(first);
  v1::Operation second = world_.Reserve(kDollar / 2);
  second.mutable_reserve()->set_wait_ms(10'000);
  const uint64_t waiting = world_.session().Send({second});
  EXPECT_EQ(Refuse(world_.Reserve(kDollar / 2)).reason(), v1::REASON_BUDGET_HELD);
  Spend(first, admitted, kDollar);
  world_.clock().Advance(absl::Seconds(1));
  v1::OperationResult result = world_.session().Wait(waiting);
  EXPECT_EQ(result.refused().reason(), v1::REASON_BUDGET_EXHAUSTED);
}

TEST_F(EnforcerTest, LostLeaseBlocksAsInfrastructure) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  Admit(world_.Reserve(kDollar));
  world_.Restart(true);
  ASSERT_TRUE(world_.ledger().WaitForRow(10, "total", [](const Row& r) { return r.lost == kDollar; }))
      << "an old epoch is closed at start, without being asked";
  v1::Refused refused = Refuse(world_.Reserve(kDollar / 2));
  EXPECT_EQ(refused.reason(), v1::REASON_BUDGET_BLOCKED);
  EXPECT_GT(refused.retry_after_ms(), 0);
  EXPECT_EQ(world_.ledger().epoch(1), 2);
}

TEST_F(EnforcerTest, ALimitOfZeroIsExhaustedAndNotBlocked) {
  world_.ledger().SetBudget(world_.Rule(1), 0);
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_EXHAUSTED);
}

TEST_F(EnforcerTest, ACleanStopGivesFreeLeaseBack) {
  world_.ledger().SetBudget(world_.Rule(1), 100 * kDollar);
  Admit(world_.Reserve(kDollar));
  world_.Restart(false);
  const Row row = world_.ledger().row(10);
  EXPECT_EQ(row.lost + row.leased, kDollar) << "only the open hold stays behind";
}

TEST_F(EnforcerTest, WithoutTheLedgerRequestsGoOnFromTheLease) {
  world_.ledger().SetBudget(world_.Rule(1), 8 * kDollar);
  Admit(world_.Reserve(kDollar));
  ASSERT_TRUE(world_.ledger().WaitForRow(10, "total", [](const Row& r) { return r.avail == 0; }));
  world_.ledger().SetFault(FakeLedger::Fault::kUnavailable);
  for (int i = 0; i < 7; ++i) Admit(world_.Reserve(kDollar));
  v1::Refused refused = Refuse(world_.Reserve(kDollar));
  EXPECT_EQ(refused.reason(), v1::REASON_LEDGER_UNAVAILABLE);
  EXPECT_EQ(refused.violations(0).budget(), "account-1#total");
  EXPECT_GT(refused.retry_after_ms(), 0);
  world_.ledger().SetFault(FakeLedger::Fault::kNone);
  WaitForLedger();
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_HELD);
}

TEST_F(EnforcerTest, ABudgetThatIsOpenOnOutageLetsPassAndCounts) {
  ledger::v1::BudgetRule rule = world_.Rule(1);
  rule.set_on_outage(common::v1::OUTAGE_POLICY_OPEN);
  world_.ledger().SetBudget(rule, kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(first);
  world_.ledger().SetFault(FakeLedger::Fault::kUnavailable);
  v1::Operation second = world_.Reserve(kDollar);
  v1::Admitted open = Admit(second);
  ASSERT_THAT(open.budgets(), SizeIs(1));
  EXPECT_EQ(open.budgets(0).amount_nanousd(), 0);
  EXPECT_FALSE(open.budgets(0).observe());
  world_.ledger().SetFault(FakeLedger::Fault::kNone);
  Spend(second, open, kDollar / 2);
  EXPECT_EQ(world_.ledger().row(10).overrun, kDollar / 2) << "posted truthfully";
}

TEST_F(EnforcerTest, WithoutAnEpochNothingIsAdmitted) {
  world_.ledger().SetFault(FakeLedger::Fault::kUnavailable);
  EXPECT_EQ(Call(world_.Reserve(1)).failed().reason(), "LEDGER_UNAVAILABLE");
  world_.ledger().SetFault(FakeLedger::Fault::kNone);
  world_.clock().Advance(absl::Seconds(5));
  Admit(world_.Reserve(1));
}

TEST_F(EnforcerTest, AGrantWhoseReplyIsLostIsAddedOnce) {
  world_.ledger().SetBudget(world_.Rule(1), 4 * kDollar);
  world_.ledger().SetFault(FakeLedger::Fault::kReplyLost);
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_LEDGER_UNAVAILABLE);
  world_.ledger().SetFault(FakeLedger::Fault::kNone);
  WaitForLedger();
  for (int i = 0; i < 4; ++i) Admit(world_.Reserve(kDollar));
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_HELD);
  world_.clock().Advance(absl::Seconds(1));
  EXPECT_TRUE(world_.ledger().WaitFor([&] { return true; }));
  EXPECT_EQ(world_.ledger().row(10).leased, 4 * kDollar);
}

TEST_F(EnforcerTest, GrantsAreAcknowledged) {
  world_.ledger().SetBudget(world_.Rule(1), 4 * kDollar);
  Admit(world_.Reserve(kDollar));
  for (int i = 0; i < 2000 && !world_.ledger().listed_grants().empty(); ++i) Admit(world_.Reserve(0));
  EXPECT_THAT(world_.ledger().listed_grants(), IsEmpty());
}

TEST_F(EnforcerTest, AnExpiredHoldBecomesSuspenseOnce) {
  world_.ledger().SetBudget(world_.Rule(1), 4 * kDollar);
  v1::Operation reserve = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(reserve);
  world_.clock().Advance(absl::Minutes(11));
  ASSERT_TRUE(world_.ledger().WaitForRow(10, "total", [](const Row& r) { return r.suspense == kDollar; }));
  EXPECT_EQ(world_.ledger().expired_holds(), 1);
  EXPECT_TRUE(Call(world_.Settle(reserve, 1, kDollar / 2)).has_done());
  world_.ledger().Post(world_.Entry(reserve, admitted, kDollar / 2));
  const Row row = world_.ledger().row(10);
  EXPECT_EQ(row.suspense, 0);
  EXPECT_EQ(row.spent, kDollar / 2);
}

TEST_F(EnforcerTest, ARefreshedHoldDoesNotExpire) {
  world_.ledger().SetBudget(world_.Rule(1), 4 * kDollar);
  v1::Operation reserve = world_.Reserve(kDollar);
  Admit(reserve);
  for (int i = 0; i < 3; ++i) {
    world_.clock().Advance(absl::Minutes(9));
    EXPECT_TRUE(Call(world_.Refresh(reserve, 1)).has_done());
  }
  EXPECT_EQ(world_.ledger().expired_holds(), 0);
  EXPECT_EQ(Call(world_.Refresh(reserve, 7)).failed().reason(), "EPOCH_CLOSED");
}

TEST_F(EnforcerTest, ALoweredCapIsInForceWhenTheChangeIsAcknowledged) {
  world_.ledger().SetBudget(world_.Rule(1), 100 * kDollar);
  v1::Operation first = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(first);
  world_.ledger().SetBudget(world_.Rule(1), 2 * kDollar);
  Admit(world_.Reserve(kDollar));
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_HELD);
  EXPECT_TRUE(
      world_.ledger().WaitForRow(10, "total", [](const Row& r) { return r.cap == 2 * kDollar; }));
}

TEST_F(EnforcerTest, CreditsOfARecalledBudgetDoNotStay) {
  world_.ledger().SetBudget(world_.Rule(1), 100 * kDollar);
  v1::Operation first = world_.Reserve(50 * kDollar);
  v1::Admitted admitted = Admit(first);
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  Spend(first, admitted, 10 * kDollar);
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_EXHAUSTED);
  EXPECT_EQ(world_.ledger().row(10).cap, 10 * kDollar);
}

TEST_F(EnforcerTest, ARaisedCapIsInForceAtOnce) {
  world_.ledger().SetBudget(world_.Rule(1), kDollar);
  Admit(world_.Reserve(kDollar));
  EXPECT_EQ(Refuse(world_.Reserve(kDollar)).reason(), v1::REASON_BUDGET_HELD);
  world_.ledger().SetBudget(world_.Rule(1), 2 * kDollar);
  Admit(world_.Reserve(kDollar));
}

TEST_F(EnforcerTest, IdleLeaseGoesBack) {
  world_.ledger().SetBudget(world_.Rule(1), 100 * kDollar);
  v1::Operation reserve = world_.Reserve(kDollar);
  Spend(reserve, Admit(reserve), kDollar / 2);
  world_.clock().Advance(absl::Minutes(3));
  EXPECT_TRUE(world_.ledger().WaitForRow(10, "total", [](const Row& r) { return r.leased == 0; }));
  Admit(world_.Reserve(kDollar));
}

TEST_F(EnforcerTest, AForeignEpochFencesThisOne) {
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  v1::Operation reserve = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(reserve);
  world_.ledger().OpenForeignEpoch(1);
  const uint64_t waiting = world_.session().Send({world_.Reserve(kDollar)});
  EXPECT_TRUE(Call(world_.Settle(reserve, 1, kDollar / 2)).has_done()) << "the ledger owns it now";
  EXPECT_FALSE(world_.session().Arrived(waiting));
  EXPECT_EQ(world_.ledger().epoch(1), 2) << "the other one is not taken over from at once";
  // After a while it serves again under an epoch of its own.
  world_.clock().Advance(absl::Seconds(2));
  EXPECT_EQ(world_.session().Wait(waiting).admitted().epoch(), 3);
}

TEST_F(EnforcerTest, EpochsOfSomebodyElseAreFollowed) {
  world_.ledger().OpenForeignEpoch(1);
  world_.ledger().OpenForeignEpoch(1);
  EXPECT_EQ(Admit(world_.Reserve(1)).epoch(), 3);
}

TEST_F(EnforcerTest, FiltersChooseTheBudgets) {
  ledger::v1::BudgetRule model = world_.Rule(1), tag = world_.Rule(2), provider = world_.Rule(3);
  (*model.mutable_match())["model"] = "gpt-4o";
  (*tag.mutable_match())["use_case"] = "batch";
  (*provider.mutable_match())["provider"] = "anthropic";
  world_.ledger().SetBudget(model, 10 * kDollar);
  world_.ledger().SetBudget(tag, 10 * kDollar);
  world_.ledger().SetBudget(provider, 10 * kDollar);
  v1::Operation plain = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(plain);
  ASSERT_THAT(admitted.budgets(), SizeIs(1));
  EXPECT_EQ(admitted.budgets(0).budget_id(), 10);
  v1::Operation tagged = world_.Reserve(kDollar);
  (*tagged.mutable_reserve()->mutable_tags())["use_case"] = "batch";
  tagged.mutable_reserve()->set_provider("anthropic");
  tagged.mutable_reserve()->set_model("claude");
  admitted = Admit(tagged);
  ASSERT_THAT(admitted.budgets(), SizeIs(2));
  EXPECT_EQ(admitted.budgets(0).budget_id(), 20);
  EXPECT_EQ(admitted.budgets(1).budget_id(), 30);
}

TEST_F(EnforcerTest, TightBudgetsHoldTheEstimateAndObservedOnesNothing) {
  ledger::v1::BudgetRule tight = world_.Rule(2), observe = world_.Rule(3);
  tight.set_bound(common::v1::BOUND_POLICY_TIGHT);
  observe.set_mode(common::v1::BUDGET_MODE_OBSERVE);
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  world_.ledger().SetBudget(tight, 10 * kDollar);
  world_.ledger().SetBudget(observe, 0);
  v1::Operation reserve = world_.Reserve(kDollar);
  v1::Admitted admitted = Admit(reserve);
  ASSERT_THAT(admitted.budgets(), SizeIs(3));
  EXPECT_EQ(admitted.budgets(0).amount_nanousd(), kDollar);
  EXPECT_EQ(admitted.budgets(1).amount_nanousd(), kDollar / 2);
  EXPECT_EQ(admitted.budgets(2).amount_nanousd(), 0);
  EXPECT_TRUE(admitted.budgets(2).observe());
  Spend(reserve, admitted, kDollar * 3 / 4);
  EXPECT_EQ(world_.ledger().row(20).overrun, kDollar / 4);
}

TEST_F(EnforcerTest, LimitsRefuseWithTheirNameAndTime) {
  ledger::v1::AccountLimits limits;
  limits.set_org_id(1);
  limits.set_account_id(3);
  limits.set_path("acme/payments/sarah");
  limits.mutable_limits()->set_requests_per_minute(2);
  limits.mutable_limits()->set_concurrency(5);
  world_.ledger().SetLimits(limits);
  Admit(world_.Reserve(1));
  Admit(world_.Reserve(1));
  v1::Refused refused = Refuse(world_.Reserve(1));
  EXPECT_EQ(refused.reason(), v1::REASON_REQUEST_RATE);
  EXPECT_EQ(refused.retry_after_ms(), 30'000);
  EXPECT_EQ(refused.violations(0).budget(), "acme/payments/sarah");
  EXPECT_EQ(refused.violations(0).limit(), 2);
  world_.clock().Advance(absl::Seconds(30));
  Admit(world_.Reserve(1));
  limits.mutable_limits()->Clear();
  world_.ledger().SetLimits(limits);
  for (int i = 0; i < 10; ++i) Admit(world_.Reserve(1));
}

TEST_F(EnforcerTest, AVoidBeforeItsReserveWins) {
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  Admit(world_.Reserve(kDollar));
  v1::Operation reserve = world_.Reserve(kDollar);
  EXPECT_TRUE(Call(world_.Void(reserve, 1)).has_done());
  EXPECT_EQ(Call(reserve).failed().reason(), "HOLD_FINISHED");
}

TEST_F(EnforcerTest, MalformedOperationsFailAlone) {
  v1::Operation empty, short_id = world_.Reserve(1), negative = world_.Reserve(-1),
                huge = world_.Reserve(kMaxHoldNanos + 1), no_path = world_.Reserve(1, {}),
                old = world_.Reserve(1);
  short_id.mutable_reserve()->set_hold_id("short");
  (*old.mutable_reserve()->mutable_hold_id())[2] ^= 1;  // 49 days off
  const uint64_t first =
      world_.session().Send({empty, short_id, negative, huge, no_path, old, world_.Reserve(1)});
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(world_.session().Wait(first + i).failed().reason(), "BAD_OPERATION") << i;
  }
  EXPECT_EQ(world_.session().Wait(first + 5).failed().reason(), "HOLD_STALE");
  EXPECT_TRUE(world_.session().Wait(first + 6).has_admitted());
}

TEST_F(EnforcerTest, UnaryTwinsDoTheSame) {
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  auto stub = v1::EnforcerService::NewStub(world_.channel());
  auto call = [&](auto method, std::vector<v1::Operation> ops, v1::ResultBatch* results) {
    grpc::ClientContext context;
    v1::OperationBatch batch;
    batch.mutable_edge()->set_edge_id("edge-2");
    batch.mutable_edge()->set_boot_id("boot");
    for (auto& op : ops) *batch.add_operations() = op;
    return rpc::FromGrpc(method(&context, batch, results));
  };
  auto reserve_call = [&](auto* c, const auto& b, auto* r) { return stub->Reserve(c, b, r); };
  auto settle_call = [&](auto* c, const auto& b, auto* r) { return stub->Settle(c, b, r); };
  auto void_call = [&](auto* c, const auto& b, auto* r) { return stub->Void(c, b, r); };
  v1::Operation a = world_.Reserve(kDollar), b = world_.Reserve(kDollar);
  v1::ResultBatch results;
  ASSERT_TRUE(call(reserve_call, {a, b}, &results).ok());
  ASSERT_THAT(results.results(), SizeIs(2));
  EXPECT_TRUE(results.results(0).has_admitted());
  EXPECT_TRUE(world_.ledger().edge_registered(1, 1, "edge-2"));
  v1::ResultBatch settled, voided, wrong;
  EXPECT_TRUE(call(settle_call, {world_.Settle(a, 1, 5)}, &settled).ok());
  EXPECT_TRUE(settled.results(0).has_done());
  EXPECT_TRUE(call(void_call, {world_.Void(b, 1)}, &voided).ok());
  EXPECT_TRUE(voided.results(0).has_done());
  EXPECT_EQ(ReasonOf(call(void_call, {a}, &wrong)), "BAD_OPERATION");
  EXPECT_EQ(ReasonOf(call(reserve_call, std::vector<v1::Operation>(1025, a), &wrong)), "BAD_OPERATION");
}

TEST_F(EnforcerTest, ASessionMustNameItsEdge) {
  TestSession nameless(world_.channel(), "");
  EXPECT_EQ(ReasonOf(rpc::FromGrpc(nameless.Finish())), "EDGE_MISSING");
}

TEST_F(EnforcerTest, AdminsSeeHoldsAndLeases) {
  world_.ledger().SetBudget(world_.Rule(1), 10 * kDollar);
  v1::Operation open = world_.Reserve(kDollar), settled = world_.Reserve(kDollar, {1, 2, 7});
  Admit(open);
  Admit(settled);
  Call(world_.Settle(settled, 1, 300));
  auto stub = v1::EnforcerAdminService::NewStub(world_.channel());
  auto list = [&](int64_t account) {
    grpc::ClientContext context;
    v1::ListHoldsRequest request;
    request.set_account_id(account);
    v1::ListHoldsResponse response;
    EXPECT_TRUE(stub->ListHolds(&context, request, &response).ok());
    return response;
  };
  v1::ListHoldsResponse all = list(1);
  ASSERT_THAT(all.holds(), SizeIs(2));
  EXPECT_EQ(all.holds(0).state(), "open");
  EXPECT_EQ(all.holds(0).amount_nanousd(), kDollar);
  EXPECT_EQ(all.holds(0).account_id(), 4);
  EXPECT_EQ(all.holds(0).edge_id(), "edge-1");
  EXPECT_EQ(all.holds(1).state(), "settled");
  EXPECT_EQ(all.holds(1).amount_nanousd(), 300);
  EXPECT_THAT(list(7).holds(), SizeIs(1));
  EXPECT_THAT(list(9).holds(), SizeIs(0));
  grpc::ClientContext context;
  v1::GetBudgetHoldsRequest request;
  request.add_budget_ids(10);
  v1::GetBudgetHoldsResponse response;
  ASSERT_TRUE(stub->GetBudgetHolds(&context, request, &response).ok());
  ASSERT_THAT(response.held(), SizeIs(1));
  EXPECT_EQ(response.held(0).held_nanousd(), kDollar + 300);
  EXPECT_EQ(response.held(0).period(), "total");
}

}  // namespace
}  // namespace tollhouse::enforcer
