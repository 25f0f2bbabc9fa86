// Nanoseconds per step of the hold state machine: holds on four budgets, with and without limits.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "services/budget-enforcer/core/core.h"
#include "services/budget-enforcer/core/core_testing.h"

namespace tollhouse::enforcer {
namespace {

// CPU time of this thread: a busy machine does not change it much.
int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void Check(bool good) {
  if (!good) std::abort();
}

void Measure(const char* name, const std::vector<LimitAsk>& limits, int open_holds) {
  OrgState state;
  state.Step(InitEpoch{1});
  const char kMonth[] = "2026-11@Europe/Berlin";
  std::vector<BudgetAmount> lease, asks;
  for (int64_t id = 1; id <= 4; ++id) {
    lease.push_back({id, kMonth, kMaxHoldNanos});
    asks.push_back({id, kMonth, 1'000'000});
  }
  Check(Grant(state, 1, lease).applied);
  constexpr int kBatch = 10'000, kRounds = 40;
  uint64_t number = 0;
  for (int i = 0; i < open_holds; ++i) {
    TestReserve reserve(TestHoldId(++number), asks, limits);
    Check(state.Step(*reserve).outcome == Outcome::kDone);
  }
  int64_t reserve_ns = 0, settle_ns = 0, acknowledge_ns = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t now_ms = kNoonMs + round * 1000;
    TestReserve reserve(TestHoldId(0), asks, limits);
    reserve.event.now_ms = now_ms;
    const Reserve& event = *reserve;
    const uint64_t first = number + 1;
    int64_t start = NowNs();
    for (int i = 0; i < kBatch; ++i) {
      reserve.event.hold_id = TestHoldId(++number, now_ms);
      Check(state.Step(event).outcome == Outcome::kDone);
    }
    reserve_ns += NowNs() - start;
    start = NowNs();
    for (int i = 0; i < kBatch; ++i) {
      Check(state.Step(Settle{1, now_ms, TestHoldId(first + i, now_ms), 600'000, 100}).applied);
    }
    settle_ns += NowNs() - start;
    start = NowNs();
    for (int i = 0; i < kBatch; ++i) {
      Check(state.Step(Acknowledge{1, now_ms, TestHoldId(first + i, now_ms), 600'000}).applied);
    }
    acknowledge_ns += NowNs() - start;
    state.Step(Tick{1, now_ms});
  }
  const int64_t count = int64_t{kBatch} * kRounds;
  std::printf("%-28s reserve %4lld ns  settle %4lld ns  acknowledge %4lld ns\n", name,
              static_cast<long long>(reserve_ns / count), static_cast<long long>(settle_ns / count),
              static_cast<long long>(acknowledge_ns / count));
}

}  // namespace
}  // namespace tollhouse::enforcer

int main() {
  using tollhouse::enforcer::kMaxRate;
  using tollhouse::enforcer::Measure;
  Measure("4 budgets", {}, 0);
  Measure("4 budgets, 100k open holds", {}, 100'000);
  Measure("4 budgets, 2 x 3 limits",
          {{1, kMaxRate, kMaxRate, 1'000'000'000}, {2, kMaxRate, kMaxRate, 1'000'000'000}}, 0);
  return 0;
}
