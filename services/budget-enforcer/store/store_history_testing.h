// Random histories through two HoldStores' worlds: the state machine in memory and RedisStore.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "services/budget-enforcer/store/hold_store.h"

namespace tollhouse::enforcer {

// Waits for what a store does elsewhere. The batch's status and effects are set on return.
void RunAndWait(HoldStore& store, StoreBatch& batch);
absl::StatusOr<StoreView> ReadAndWait(HoldStore& store, int64_t org_id, const StoreQuery& query);
absl::StatusOr<std::string> IdentifyAndWait(HoldStore& store, int64_t org_id);

// Everything that an effect or a view says, in a fixed order; TickEffect.more is left out.
std::string Describe(const StoreEffect& effect);
std::string Describe(StoreView view);

struct HistoryOptions {
  int steps = 300;
  CoreOptions core;
  std::function<void()> flush;  // FLUSHALL; null: never
};

// Runs one random history of `org_id`, unknown to `store` so far, and the same through an OrgState:
// every effect after every batch, and every view. The first difference, or nullopt.
std::optional<std::string> FirstDifference(HoldStore& store, int64_t org_id, uint64_t seed,
                                           const HistoryOptions& options);

}  // namespace tollhouse::enforcer
