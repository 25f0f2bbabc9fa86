// Brings the ends of holds to where they count: the enforcer (the lease gets back what was not used)
// and the ledger (the entry is posted exactly once), then lets the journal forget them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "services/edge/journal.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

// Thread-safe.
class Settler {
 public:
  // Where operations for the enforcer go: any session will do, the same for all of a hold, so that
  // they arrive in order.
  using ToEnforcer =
      std::function<void(std::string_view hold_id, enforcer::v1::Operation operation)>;
  // An outcome that cannot be (CONFLICT of a result, REJECTED); for metrics.
  using Refused = std::function<void(const ledger::v1::Entry& entry,
                                     const ledger::v1::PostResult& result)>;

  Settler(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal, ToEnforcer to_enforcer,
          Refused refused);
  ~Settler();

  void Start();
  // Idempotent. What is not posted is posted after the next start.
  void Stop();

  // The end of a hold, complete. For whatever was forwarded the journal must have it already. The
  // enforcer is told at once (Settle, Void; a suspended hold stays whole until the ledger has it).
  void Submit(std::shared_ptr<const ledger::v1::Entry> entry);

  // Entries that the ledger has not answered for.
  int64_t backlog() const;
  // Waits for an empty backlog; false after `timeout`.
  bool WaitIdle(absl::Duration timeout) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
