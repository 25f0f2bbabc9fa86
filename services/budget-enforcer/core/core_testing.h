// Short words for tests of the hold state machine.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "services/budget-enforcer/core/core.h"

namespace tollhouse::enforcer {

// 2026-11-21 12:00:00 UTC.
inline constexpr int64_t kNoonMs = 1'795'262'400'000;

// A UUIDv7-shaped id made at `made_ms`; different for different `number`.
inline Uuid TestHoldId(uint64_t number, int64_t made_ms = kNoonMs) {
  Uuid id;
  for (int i = 0; i < 6; ++i) id.bytes[i] = static_cast<uint8_t>(made_ms >> (40 - 8 * i));
  for (int i = 0; i < 8; ++i) id.bytes[15 - i] = static_cast<uint8_t>(number >> (8 * i));
  return id;
}

// A Reserve that owns what its event points to.
struct TestReserve {
  std::vector<BudgetAmount> budgets;
  std::vector<LimitAsk> limits;
  std::vector<int64_t> account_ids{1, 2};
  Reserve event;

  TestReserve(const Uuid& id, std::vector<BudgetAmount> asks, std::vector<LimitAsk> limit_asks = {})
      : budgets(std::move(asks)), limits(std::move(limit_asks)) {
    event.epoch = 1;
    event.now_ms = kNoonMs;
    event.hold_id = id;
    event.fingerprint[0] = 7;
    event.time_to_live_ms = 60'000;
    event.edge_id = "edge";
    event.boot_id = "boot";
  }

  const Reserve& operator*() {
    event.budgets = budgets;
    event.limits = limits;
    event.account_ids = account_ids;
    return event;
  }
};

// One (budget, period) of a lease: free and held, zeros if it is not there.
inline std::pair<int64_t, int64_t> FreeAndHeld(const OrgState& state, int64_t budget_id,
                                               std::string_view period = "total") {
  auto lease = state.Lease(budget_id, period);
  return lease ? std::pair(lease->free_nanos, lease->held_nanos) : std::pair<int64_t, int64_t>(0, 0);
}

inline GrantEffect Grant(OrgState& state, int64_t grant_id, std::vector<BudgetAmount> amounts,
                         int64_t epoch = 1) {
  return state.Step(AddGrant{epoch, grant_id, amounts});
}

}  // namespace tollhouse::enforcer
