// The arithmetic of one budget row, the durable end of the escrow chain.
#pragma once

#include "libs/base/money.h"

namespace tollhouse::ledger {

// One (budget, period). At all times
//     avail + leased + suspense + spent = cap + overrun      and every term >= 0
// (invariant I1, also a CHECK of the database), and overrun > 0 only while avail = 0. `target` is
// what the owner wants escrowed, `cap` what is: the cap follows the target at once where there is
// room, and as money comes back to avail where there is not.
//
// Each operation keeps the invariants or aborts the process: callers clamp amounts to what the row
// and the epoch really hold, so that an abort is a bug here and never bad input.
struct BudgetRow {
  NanoUsd target;
  NanoUsd cap;
  NanoUsd overrun;
  NanoUsd avail;
  NanoUsd leased;
  NanoUsd suspense;
  NanoUsd spent;

  friend bool operator==(const BudgetRow&, const BudgetRow&) = default;

  // I1.
  bool Conserved() const;
  // Enforcers should return what is free of their leases: the target was lowered below the cap, or
  // more was billed than was held and the budget is overrun.
  bool WantsLeaseBack() const {
    return leased > NanoUsd() && (cap > target || overrun > NanoUsd());
  }

  // Raises or lowers what the owner wants.
  void SetTarget(NanoUsd wanted);

  // avail -> leased: as much of [need, want] as there is, or nothing if there is less than need.
  NanoUsd Lease(NanoUsd need, NanoUsd want);
  // leased -> avail.
  void ReturnLease(NanoUsd amount);

  // leased -> suspense: an expired or suspended hold, or the lease of an epoch that closes.
  void Suspend(NanoUsd amount);
  // avail -> suspense: for a hold whose lease is gone already; at most what is available. Returns it.
  NanoUsd SuspendFromAvailable(NanoUsd amount);
  // suspense -> avail.
  void Release(NanoUsd amount);

  // leased -> spent for `used`; the rest of `cost` from avail, then overrun.
  void SettleLeased(NanoUsd used, NanoUsd cost);
  // suspense -> spent for `used` (a closed epoch keeps what is unused); the rest of `cost` as above.
  void SettleSuspense(NanoUsd used, NanoUsd cost);
  // Without any hold: avail -> spent, what is not there goes to overrun. Nothing is refused here.
  void Charge(NanoUsd cost);
  // spent -> avail: a reversing entry.
  void Refund(NanoUsd cost);

 private:
  // `amount` has left another column: it pays down overrun first, then is available, and what is
  // available beyond the target leaves the cap.
  void Credit(NanoUsd amount);
  void ShrinkToTarget();
};

// (limit + raised) x hard_pct / 100, rounded down and at most kMaxCap. limit, raised >= 0.
NanoUsd TargetCap(NanoUsd limit, NanoUsd raised, int hard_pct);

// Whether spent has reached pct % of limit. A budget without any spend has reached nothing.
bool ThresholdReached(NanoUsd spent, NanoUsd limit, int pct);

}  // namespace tollhouse::ledger
