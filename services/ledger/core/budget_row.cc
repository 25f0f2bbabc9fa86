#include "services/ledger/core/budget_row.h"

#include <algorithm>
#include <cstdlib>

namespace tollhouse::ledger {
namespace {

constexpr NanoUsd kZero{0};

void Take(NanoUsd& column, NanoUsd amount) {
  if (amount < kZero || column < amount) std::abort();
  column -= amount;
}

}  // namespace

bool BudgetRow::Conserved() const {
  return cap >= kZero && overrun >= kZero && avail >= kZero && leased >= kZero &&
         suspense >= kZero && spent >= kZero &&
         static_cast<__int128>(avail.nanos()) + leased.nanos() + suspense.nanos() + spent.nanos() ==
             static_cast<__int128>(cap.nanos()) + overrun.nanos();
}

void BudgetRow::SetTarget(NanoUsd wanted) {
  target = wanted;
  if (target > cap) {
    const NanoUsd more = target - cap;
    cap = target;
    Credit(more);
  } else {
    ShrinkToTarget();
  }
}

NanoUsd BudgetRow::Lease(NanoUsd need, NanoUsd want) {
  if (avail < need) return kZero;
  const NanoUsd granted = std::min(avail, std::max(need, want));
  Take(avail, granted);
  leased += granted;
  return granted;
}

void BudgetRow::ReturnLease(NanoUsd amount) {
  Take(leased, amount);
  Credit(amount);
}

void BudgetRow::Suspend(NanoUsd amount) {
  Take(leased, amount);
  suspense += amount;
}

NanoUsd BudgetRow::SuspendFromAvailable(NanoUsd amount) {
  const NanoUsd taken = std::min(avail, amount);
  Take(avail, taken);
  suspense += taken;
  return taken;
}

void BudgetRow::Release(NanoUsd amount) {
  Take(suspense, amount);
  Credit(amount);
}

void BudgetRow::SettleLeased(NanoUsd used, NanoUsd cost) {
  Take(leased, used);
  spent += used;
  Charge(cost - used);
}

void BudgetRow::SettleSuspense(NanoUsd used, NanoUsd cost) {
  Take(suspense, used);
  spent += used;
  Charge(cost - used);
}

void BudgetRow::Charge(NanoUsd cost) {
  const NanoUsd available = std::min(avail, cost);
  Take(avail, available);
  overrun += cost - available;
  spent += cost;
}

void BudgetRow::Refund(NanoUsd cost) {
  Take(spent, cost);
  Credit(cost);
}

void BudgetRow::Credit(NanoUsd amount) {
  const NanoUsd repaid = std::min(overrun, amount);
  overrun -= repaid;
  avail += amount - repaid;
  ShrinkToTarget();
}

void BudgetRow::ShrinkToTarget() {
  if (cap <= target) return;
  const NanoUsd surplus = std::min(avail, cap - target);
  Take(avail, surplus);
  cap -= surplus;
}

NanoUsd TargetCap(NanoUsd limit, NanoUsd raised, int hard_pct) {
  const __int128 target =
      (static_cast<__int128>(limit.nanos()) + raised.nanos()) * hard_pct / 100;
  return target > kMaxCap.nanos() ? kMaxCap : NanoUsd(static_cast<int64_t>(target));
}

bool ThresholdReached(NanoUsd spent, NanoUsd limit, int pct) {
  return spent > kZero &&
         static_cast<__int128>(spent.nanos()) * 100 >= static_cast<__int128>(limit.nanos()) * pct;
}

}  // namespace tollhouse::ledger
