#include "services/budget-enforcer/store/memory_store.h"

#include <utility>

#include "libs/base/error.h"
#include "services/budget-enforcer/store/org_steps.h"

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
  {
    absl::MutexLock lock(&org->mutex);
    batch->effects = StepAll(org->state, batch->events);
  }
  done();
}

void MemoryStore::Read(int64_t org_id, const StoreQuery& query,
                       std::function<void(absl::StatusOr<StoreView>)> done) {
  StoreView view;
  if (Org* const org = Find(org_id, false); org != nullptr) {
    absl::MutexLock lock(&org->mutex);
    view = ViewOf(org->state, query);
  }
  done(std::move(view));
}

}  // namespace tollhouse::enforcer
