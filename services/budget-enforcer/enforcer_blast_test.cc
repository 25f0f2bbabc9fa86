// The last dollar: many callers at once against a cap that fits k of their requests, at each level of
// the hierarchy in turn. The provider's meter never passes the cap; what is left at the final refusal
// is less than one hold; the ledger and the meter agree.
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "libs/testing/seed.h"
#include "services/budget-enforcer/enforcer_testing.h"

namespace tollhouse::enforcer {
namespace {

constexpr int64_t kHold = 1'000'003;

class BlastTest : public ::testing::TestWithParam<std::tuple<int, int64_t>> {};

TEST_P(BlastTest, NobodyPassesTheCapAndNothingIsStranded) {
  const auto [callers, level] = GetParam();
  const uint64_t seed = testing::TestSeed();
  const int64_t fits = std::max(1, callers / 3);
  const int64_t cap = fits * kHold + kHold / 2;
  EnforcerWorld world({}, true);
  world.ledger().SetBudget(world.Rule(level), cap);
  // The other levels have room, so that all-or-none is exercised.
  for (int64_t other = 1; other <= 4; ++other) {
    if (other != level) world.ledger().SetBudget(world.Rule(other), 1000 * cap);
  }
  std::vector<std::unique_ptr<TestSession>> sessions;
  for (int i = 0; i < std::min(callers, 8); ++i) {
    sessions.push_back(world.NewSession("edge-" + std::to_string(i)));
  }
  std::atomic<int64_t> billed = 0, admitted = 0, held = 0, other = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < callers; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937_64 random(seed + i);
      TestSession& session = *sessions[i % sessions.size()];
      while (true) {
        v1::Operation reserve = world.Reserve(kHold);
        reserve.mutable_reserve()->set_wait_ms(static_cast<int64_t>(random() % 2000));
        const v1::OperationResult result = session.Call(reserve);
        if (!result.has_admitted()) {
          if (result.refused().reason() == v1::REASON_BUDGET_HELD) {
            ++held;
            continue;
          }
          other += result.refused().reason() != v1::REASON_BUDGET_EXHAUSTED;
          EXPECT_EQ(result.refused().violations_size(), 1) << result.ShortDebugString();
          return;
        }
        ++admitted;
        if (random() % 16 == 0) {
          session.Call(world.Void(reserve, result.admitted().epoch()));
          world.ledger().Post(world.Entry(reserve, result.admitted(), 0));
          continue;
        }
        const int64_t cost = 1 + static_cast<int64_t>(random() % kHold);
        EXPECT_LE(billed += cost, cap) << "the provider billed more than the cap";
        EXPECT_TRUE(session.Call(world.Settle(reserve, result.admitted().epoch(), cost)).has_done());
        world.ledger().Post(world.Entry(reserve, result.admitted(), cost));
        session.Call(world.Acknowledge(reserve, result.admitted().epoch(), cost));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(other, 0) << "only an exhausted budget is final";
  const FakeLedger::Row row = world.ledger().row(level * 10);
  EXPECT_EQ(row.spent, billed) << "the ledger and the provider's meter agree";
  EXPECT_LE(row.spent, cap);
  EXPECT_LT(cap - row.spent, kHold) << "more was left than one hold at the final refusal";
  EXPECT_EQ(row.overrun, 0);
  EXPECT_GE(admitted, fits);
  // Refusals left no trace: everything that is leased is free.
  auto stub = v1::EnforcerAdminService::NewStub(world.channel());
  grpc::ClientContext context;
  v1::GetBudgetHoldsRequest request;
  for (int64_t id = 1; id <= 4; ++id) request.add_budget_ids(id * 10);
  v1::GetBudgetHoldsResponse holds;
  ASSERT_TRUE(stub->GetBudgetHolds(&context, request, &holds).ok());
  for (const auto& budget : holds.held()) EXPECT_EQ(budget.held_nanousd(), 0);
  // And nothing leaked: what the ledger calls leased is in the store, once the last calls are done.
  EXPECT_TRUE(world.ledger().WaitForRow(level * 10, "total", [&](const FakeLedger::Row& now) {
    grpc::ClientContext again;
    v1::GetBudgetHoldsResponse view;
    if (!stub->GetBudgetHolds(&again, request, &view).ok()) return false;
    int64_t here = 0;
    for (const auto& budget : view.held()) {
      if (budget.budget_id() == level * 10) here += budget.lease_remaining_nanousd();
    }
    return here == now.leased;
  })) << "lease leaked";
}

INSTANTIATE_TEST_SUITE_P(All, BlastTest,
                         ::testing::Combine(::testing::Values(1, 10, 100, 1000),
                                            ::testing::Values<int64_t>(1, 2, 3, 4)));

}  // namespace
}  // namespace tollhouse::enforcer
