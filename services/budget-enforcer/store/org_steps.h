// How a batch and a query act on one org's state, for every store that keeps the core itself.
#pragma once

#include <vector>

#include "services/budget-enforcer/store/hold_store.h"

namespace tollhouse::enforcer {

// Steps through the events in order; one effect each.
std::vector<StoreEffect> StepAll(OrgState& state, const std::vector<StoreEvent>& events);

// What a read answers.
StoreView ViewOf(const OrgState& state, const StoreQuery& query);

}  // namespace tollhouse::enforcer
