#include "services/budget-enforcer/store/org_steps.h"

#include <utility>

namespace tollhouse::enforcer {

std::vector<StoreEffect> StepAll(OrgState& state, const std::vector<StoreEvent>& events) {
  std::vector<StoreEffect> effects;
  effects.reserve(events.size());
  for (const StoreEvent& event : events) {
    std::visit([&](const auto& e) { effects.emplace_back(state.Step(e)); }, event);
  }
  return effects;
}

StoreView ViewOf(const OrgState& state, const StoreQuery& query) {
  StoreView view;
  view.epoch = state.epoch();
  switch (query.what) {
    case StoreQuery::What::kHold:
      if (auto hold = state.Hold(query.hold_id)) view.holds.push_back(*std::move(hold));
      break;
    case StoreQuery::What::kHolds:
      view.holds = state.Holds();
      break;
    case StoreQuery::What::kExpired:
      view.holds = state.ExpiredHolds(query.max);
      break;
    case StoreQuery::What::kLeases:
      view.leases = state.Leases();
      break;
    case StoreQuery::What::kReturns:
      view.returns = state.Returns();
      break;
  }
  return view;
}

}  // namespace tollhouse::enforcer
