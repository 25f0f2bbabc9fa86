// Holds in Redis, for any number of enforcers at once: every batch is one call of run.lua.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/redis/client.h"
#include "services/budget-enforcer/store/hold_store.h"
#include "services/budget-enforcer/store/redis_codec.h"

namespace tollhouse::enforcer {

struct RedisStoreOptions {
  // The same in every enforcer on one Redis. max_lease_nanos counts up to kMaxExact.
  CoreOptions core;
  // Events in one script call, as far as batches can be joined: while a call of an org is under way,
  // the batches that come meanwhile are gathered for the next one.
  size_t events_max = 256;
  // With so many gathered a second call of the org is sent before the first one's answer.
  size_t events_ahead = 64;
  // Events of an org that may wait for their call; more fail (RESOURCE_EXHAUSTED, REDIS_OVERLOADED).
  size_t waiting_max = 100'000;
  // An event's time counts at most as Redis' own and this much, so that one enforcer whose clock runs
  // ahead cannot expire what others hold.
  absl::Duration clock_ahead_max = absl::Seconds(1);
  absl::Duration timeout = absl::Seconds(1);  // of one call, without the time that it is gathered
  std::string run_script{kRunScript};  // tests break it, to see that they would notice
};

// Statuses of batches and reads are those of redis::Client: a batch that timed out may have been
// applied, wholly or not at all. `done` runs on the client's IO thread (on the caller's when nothing
// was sent) and must not block. A batch that cannot be expressed fails with INVALID_ARGUMENT
// (BAD_ARGUMENT): names of 64 KB, InitEpoch without incarnation.
class RedisStore final : public HoldStore {
 public:
  static absl::StatusOr<std::unique_ptr<RedisStore>> Create(redis::Options redis,
                                                           RedisStoreOptions options = {});
  // Answers what is still open. Not on the client's IO thread.
  ~RedisStore() override;

  void Identify(int64_t org_id, std::function<void(absl::StatusOr<std::string>)> done) override;
  void SetIncarnationChanged(std::function<void()> changed) override;
  int64_t max_lease_nanos() const override { return options_.core.max_lease_nanos; }
  bool shared() const override { return true; }
  void Run(StoreBatch* batch, std::function<void()> done) override;
  // Of kHolds and kLeases each record is consistent in itself, the whole is read in pages; UNAVAILABLE
  // (EPOCH_MOVED) if another epoch was opened between them. Of kReturns at most 256, the oldest first.
  void Read(int64_t org_id, const StoreQuery& query,
            std::function<void(absl::StatusOr<StoreView>)> done) override;

  // Why it cannot be used now, if so.
  absl::Status Health() const { return client_->Health(); }
  absl::Status WaitUntilConnected(absl::Duration timeout) const {
    return client_->WaitUntilConnected(timeout);
  }

 private:
  struct Waiting {
    StoreBatch* batch = nullptr;
    std::function<void()> done;
  };
  struct Call;
  struct Org;
  struct Reading;

  RedisStore(std::unique_ptr<redis::Client> client, RedisStoreOptions options);

  Org* FindOrg(int64_t org_id);
  void Send(Org* org);
  void Answered(Org* org, std::unique_ptr<Call> call, const absl::StatusOr<redis::Reply>& reply);
  void ReadPage(std::shared_ptr<Reading> reading);

  const RedisStoreOptions options_;
  const redis::Script run_, read_, identify_;
  absl::Mutex mutex_;
  absl::flat_hash_map<int64_t, std::unique_ptr<Org>> orgs_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> changed_;
  std::atomic<bool> stopping_{false};
  std::unique_ptr<redis::Client> client_;
};

}  // namespace tollhouse::enforcer
