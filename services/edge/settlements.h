// The ends of holds that the ledger has not answered for: what is sent next, what an answer means.
// Settler brings them over the wire.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/uuid.h"
#include "services/edge/journal.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::edge {

// Status of a VOID that the edge posts because the ledger asked what became of an expired hold.
inline constexpr std::string_view kNeverForwarded = "never_forwarded";

// Whether this entry, answered with POST_OUTCOME_CONFLICT, only came too late: a hold that was suspended,
// or asked after, when it had ended already; or voided when it had ended for nothing.
bool EndStands(const ledger::v1::Entry& entry, const ledger::v1::PostResult& conflict);

// Thread-safe. No I/O but the journal's.
class Settlements {
 public:
  // Where operations for the enforcer go: any session will do, the same for all of a hold, so that
  // they arrive in order.
  using ToEnforcer =
      std::function<void(std::string_view hold_id, enforcer::v1::Operation operation)>;
  // An outcome that cannot be (CONFLICT of a result, REJECTED); for metrics.
  using Refused = std::function<void(const ledger::v1::Entry& entry,
                                     const ledger::v1::PostResult& result)>;

  // `journal` must outlive it.
  Settlements(Journal* journal, ToEnforcer to_enforcer, Refused refused)
      : journal_(journal), to_enforcer_(std::move(to_enforcer)), refused_(std::move(refused)) {}

  // The end of a hold, complete. For whatever was forwarded the journal must have it already. The
  // enforcer is told at once (Settle, Void; a suspended hold stays whole until the ledger has it).
  // False: not an entry of a hold, ignored.
  bool Submit(std::shared_ptr<const ledger::v1::Entry> entry);

  // A new stream to the ledger begins: everything without an answer is sent again.
  void Requeue();
  // The next batch into an empty request. False: nothing waits, or a batch is without its answer; a
  // backlog of full ones goes out several at a time.
  bool Fill(ledger::v1::PostRequest* request);
  // What the ledger has is acknowledged to the enforcer and forgotten by the journal; anything that
  // is not an answer stays.
  void Received(const ledger::v1::PostResponse& response);

  // Entries that the ledger has not answered for.
  int64_t backlog() const;
  // Waits for an empty backlog; false after `timeout`.
  bool WaitIdle(absl::Duration timeout) const;

 private:
  using EntryPtr = std::shared_ptr<const ledger::v1::Entry>;

  bool Conclude(const ledger::v1::Entry& entry, const ledger::v1::PostResult& result);

  Journal* const journal_;
  const ToEnforcer to_enforcer_;
  const Refused refused_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<Uuid, EntryPtr> pending_ ABSL_GUARDED_BY(mutex_);
  std::deque<Uuid> queue_ ABSL_GUARDED_BY(mutex_);  // of pending, to be sent on this stream
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;       // batches without their answer
};

}  // namespace tollhouse::edge
