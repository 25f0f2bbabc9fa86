// Holds in this process's memory: the embedded default. An incarnation ends with the process.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/budget-enforcer/store/hold_store.h"

namespace tollhouse::enforcer {

// Runs the core under one lock per org; `done` is called before Run and Read return.
class MemoryStore final : public HoldStore {
 public:
  // `incarnation` must never be used again by another process.
  explicit MemoryStore(std::string incarnation, CoreOptions options = {})
      : incarnation_(std::move(incarnation)), options_(options) {}

  void Identify(int64_t org_id, std::function<void(absl::StatusOr<std::string>)> done) override;
  void SetIncarnationChanged(std::function<void()>) override {}  // it never does
  int64_t max_lease_nanos() const override { return kMaxLeaseNanos; }
  bool shared() const override { return false; }
  void Run(StoreBatch* batch, std::function<void()> done) override;
  void Read(int64_t org_id, const StoreQuery& query,
            std::function<void(absl::StatusOr<StoreView>)> done) override;

 private:
  struct Org {
    explicit Org(CoreOptions options) : state(options) {}
    absl::Mutex mutex;
    OrgState state ABSL_GUARDED_BY(mutex);
  };

  // Null if unknown and not to be made.
  Org* Find(int64_t org_id, bool make);

  const std::string incarnation_;
  const CoreOptions options_;
  absl::Mutex mutex_;
  absl::flat_hash_map<int64_t, std::unique_ptr<Org>> orgs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tollhouse::enforcer
