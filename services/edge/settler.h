// Brings the ends of holds to where they count: the enforcer (the lease gets back what was not used)
// and the ledger (the entry is posted exactly once), then lets the journal forget them.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "services/edge/journal.h"
#include "services/edge/settlements.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class ChannelInterface;
}

namespace tollhouse::edge {

// Thread-safe.
class Settler {
 public:
  Settler(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal,
          Settlements::ToEnforcer to_enforcer, Settlements::Refused refused);
  ~Settler();

  void Start();
  // Idempotent. What is not posted is posted after the next start.
  void Stop();

  // See Settlements.
  void Submit(std::shared_ptr<const ledger::v1::Entry> entry);
  int64_t backlog() const;
  bool WaitIdle(absl::Duration timeout) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
