// Where holds and leases live: one state of the core per org, in memory or in Redis.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/budget-enforcer/core/core.h"

namespace tollhouse::enforcer {

using StoreEvent = std::variant<InitEpoch, Reserve, Settle, Void, Acknowledge, Refresh, Expire,
                                ExpiredPosted, Tick, AddGrant, TakeOut, ReturnPosted>;
using StoreEffect =
    std::variant<Outcome, ReserveEffect, HoldEffect, TickEffect, GrantEffect, TakeOutEffect>;

// Events of one org that run in order as one script: nothing of another batch comes between them.
struct StoreBatch {
  int64_t org_id = 0;
  // With InitEpoch: what Identify answered when the epoch was registered. If it is another one by
  // now, nothing runs: FAILED_PRECONDITION (INCARNATION_CHANGED).
  std::string incarnation;
  std::vector<StoreEvent> events;  // what their views point to must live until the batch is done
  // Set by Run. Not OK: it is unknown which events were applied; running the batch again is safe.
  absl::Status status;
  std::vector<StoreEffect> effects;  // if OK: one per event, of the alternative that its Step returns
};

// What a read of one org answers; only the parts that were asked for are filled.
struct StoreView {
  int64_t epoch = 0;
  std::vector<HoldRecord> holds;
  std::vector<LeaseRecord> leases;
  std::vector<ReturnRecord> returns;
};

struct StoreQuery {
  enum class What { kHold, kHolds, kExpired, kLeases, kReturns };
  What what = What::kLeases;
  Uuid hold_id;      // kHold
  size_t max = 256;  // kExpired
};

// Thread-safe. `done` is called exactly once, on the caller's thread or on another one, with no
// lock of the store held.
class HoldStore {
 public:
  virtual ~HoldStore() = default;

  // The identity (R12) of what holds this org's leases now, asked of the store: equal only while
  // nothing that was held can have been lost or rolled back. It changes when the store's process
  // restarts or another one leads, and when the org's data are gone (FLUSHALL). An epoch is
  // registered for an identity, and its InitEpoch runs with StoreBatch.incarnation; from then on
  // every event of that epoch answers kEpochClosed under any other identity. Not OK: the store
  // cannot be reached or cannot be written.
  virtual void Identify(int64_t org_id, std::function<void(absl::StatusOr<std::string>)> done) = 0;

  // `changed` is called when an identity may be another one than before, on any thread, with no lock
  // of the store held: a hint to ask again. To be set once, before the first Run.
  virtual void SetIncarnationChanged(std::function<void()> changed) = 0;

  // The largest sum of free lease and holds of one (budget, period) that fits; AddGrant of more is
  // kBad. At most kMaxLeaseNanos.
  virtual int64_t max_lease_nanos() const = 0;

  // True if what is held outlives this process and other enforcers work on it at the same time.
  virtual bool shared() const = 0;

  // `batch` must live until `done`. Runs of one org keep the order in which they were submitted.
  virtual void Run(StoreBatch* batch, std::function<void()> done) = 0;

  // A consistent view of one org; of an unknown org: epoch 0 and nothing.
  virtual void Read(int64_t org_id, const StoreQuery& query,
                    std::function<void(absl::StatusOr<StoreView>)> done) = 0;
};

}  // namespace tollhouse::enforcer
