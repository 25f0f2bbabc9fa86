// The ledger's RPCs that the enforcer calls, asynchronously.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace tollhouse::enforcer {

// Thread-safe. Each callback runs at most once, on the caller's thread before the call returns or on
// another one; one that never runs (a crash) is destroyed. Errors carry the ledger's reason; one of
// UNAVAILABLE, DEADLINE_EXCEEDED and the like means: done or not, ask again.
class LedgerClient {
 public:
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  virtual ~LedgerClient() = default;

  virtual void RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                             Done<ledger::v1::RegisterEpochResponse> done) = 0;
  virtual void RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                            Done<ledger::v1::RegisterEdgeResponse> done) = 0;
  virtual void GrantLease(const ledger::v1::GrantLeaseRequest& request,
                          Done<ledger::v1::GrantLeaseResponse> done) = 0;
  virtual void AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                                 Done<ledger::v1::AcknowledgeGrantsResponse> done) = 0;
  virtual void ListGrants(const ledger::v1::ListGrantsRequest& request,
                          Done<ledger::v1::ListGrantsResponse> done) = 0;
  virtual void ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                           Done<ledger::v1::ReturnLeaseResponse> done) = 0;
  virtual void PostExpired(const ledger::v1::PostExpiredRequest& request,
                           Done<ledger::v1::PostExpiredResponse> done) = 0;
};

}  // namespace tollhouse::enforcer
