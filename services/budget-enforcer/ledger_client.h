// The ledger's RPCs that the enforcer calls, asynchronously, each with a deadline.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tollhouse/ledger/v1/ledger.pb.h"

namespace grpc {
class Channel;
}

namespace tollhouse::enforcer {

// Thread-safe. Callbacks run on a gRPC thread, exactly once; errors carry the ledger's reason.
class LedgerClient {
 public:
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  LedgerClient(std::shared_ptr<grpc::Channel> channel, absl::Duration timeout);
  ~LedgerClient();  // Stop()

  void RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                     Done<ledger::v1::RegisterEpochResponse> done);
  void RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                    Done<ledger::v1::RegisterEdgeResponse> done);
  void GrantLease(const ledger::v1::GrantLeaseRequest& request,
                  Done<ledger::v1::GrantLeaseResponse> done);
  void AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                         Done<ledger::v1::AcknowledgeGrantsResponse> done);
  void ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                   Done<ledger::v1::ReturnLeaseResponse> done);
  void PostExpired(const ledger::v1::PostExpiredRequest& request,
                   Done<ledger::v1::PostExpiredResponse> done);

  // Cancels what is under way and waits for its callbacks; later calls answer CANCELLED at once.
  // Idempotent. Not from within a callback.
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::enforcer
