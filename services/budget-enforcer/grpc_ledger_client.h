// LedgerClient over gRPC.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "services/budget-enforcer/ledger_client.h"

namespace grpc {
class Channel;
}

namespace tollhouse::enforcer {

// Callbacks run on a gRPC thread, exactly once, at the latest after the time-out.
class GrpcLedgerClient final : public LedgerClient {
 public:
  GrpcLedgerClient(std::shared_ptr<grpc::Channel> channel, absl::Duration timeout);
  ~GrpcLedgerClient() override;  // Stop()

  // Cancels what is under way and waits for its callbacks; later calls answer CANCELLED at once.
  // Idempotent. Not from within a callback.
  void Stop();

  void RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                     Done<ledger::v1::RegisterEpochResponse> done) override;
  void RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                    Done<ledger::v1::RegisterEdgeResponse> done) override;
  void GrantLease(const ledger::v1::GrantLeaseRequest& request,
                  Done<ledger::v1::GrantLeaseResponse> done) override;
  void AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                         Done<ledger::v1::AcknowledgeGrantsResponse> done) override;
  void ListGrants(const ledger::v1::ListGrantsRequest& request,
                  Done<ledger::v1::ListGrantsResponse> done) override;
  void ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                   Done<ledger::v1::ReturnLeaseResponse> done) override;
  void PostExpired(const ledger::v1::PostExpiredRequest& request,
                   Done<ledger::v1::PostExpiredResponse> done) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::enforcer
