#include "services/budget-enforcer/store/memory_store.h"

#include <utility>

#include "libs/base/error.h"

namespace tollhouse::enforcer {

MemoryStore::Org* MemoryStore::Find(int64_t org_id, bool make) {
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (auto it = orgs_.find(org_id); it != orgs_.end()) return it->second.get();
  }
  if (!make) return nullptr;
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<Org>& org = orgs_[org_id];
  if (org == nullptr) org = std::make_unique<Org>(options_);
  return org.get();
}

void MemoryStore::Identify(int64_t, std::function<void(absl::StatusOr<std::string>)> done) {
  done(incarnation_);
}

void MemoryStore::Run(StoreBatch* batch, std::function<void()> done) {
  batch->status = absl::OkStatus();
  batch->effects.clear();
  if (!batch->incarnation.empty() && batch->incarnation != incarnation_) {
    batch->status = MakeError(absl::StatusCode::kFailedPrecondition, "INCARNATION_CHANGED",
                              "the hold store is another one than the epoch was registered for");
    return done();
  }
  Org* const org = Find(batch->org_id, true);
  batch->effects.reserve(batch->events.size());
  {
    absl::MutexLock lock(&org->mutex);
    OrgState& state = org->state;
    for (const StoreEvent& event : batch->events) {
      std::visit([&](const auto& e) { batch->effects.emplace_back(state.Step(e)); }, event);
    }
  }
  done();
}

void MemoryStore::Read(int64_t org_id, const StoreQuery& query,
                       std::function<void(absl::StatusOr<StoreView>)> done) {
  StoreView view;
  if (Org* const org = Find(org_id, false); org != nullptr) {
    absl::MutexLock lock(&org->mutex);
    const OrgState& state = org->state;
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
  }
  done(std::move(view));
}

}  // namespace tollhouse::enforcer
