#include "services/budget-enforcer/grpc_ledger_client.h"

#include <grpcpp/channel.h>

#include <utility>

#include "libs/rpc/unary_calls.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::enforcer {

using namespace ledger::v1;  // the messages of the service behind this

struct GrpcLedgerClient::Impl {
  std::unique_ptr<LedgerService::Stub> stub;
  absl::Duration timeout;
  rpc::UnaryCalls calls;  // last: its callbacks use the rest
};

GrpcLedgerClient::GrpcLedgerClient(std::shared_ptr<grpc::Channel> channel, absl::Duration timeout)
    : impl_(std::make_unique<Impl>()) {
  impl_->stub = LedgerService::NewStub(channel);
  impl_->timeout = timeout;
}

GrpcLedgerClient::~GrpcLedgerClient() { Stop(); }

void GrpcLedgerClient::Stop() { impl_->calls.Stop(); }

void GrpcLedgerClient::RegisterEpoch(const RegisterEpochRequest& request,
                                     Done<RegisterEpochResponse> done) {
  impl_->calls.Start<RegisterEpochResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->RegisterEpoch(args...); }, std::move(done));
}

void GrpcLedgerClient::RegisterEdge(const RegisterEdgeRequest& request,
                                    Done<RegisterEdgeResponse> done) {
  impl_->calls.Start<RegisterEdgeResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->RegisterEdge(args...); }, std::move(done));
}

void GrpcLedgerClient::GrantLease(const GrantLeaseRequest& request,
                                  Done<GrantLeaseResponse> done) {
  impl_->calls.Start<GrantLeaseResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->GrantLease(args...); }, std::move(done));
}

void GrpcLedgerClient::AcknowledgeGrants(const AcknowledgeGrantsRequest& request,
                                         Done<AcknowledgeGrantsResponse> done) {
  impl_->calls.Start<AcknowledgeGrantsResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->AcknowledgeGrants(args...); }, std::move(done));
}

void GrpcLedgerClient::ListGrants(const ListGrantsRequest& request,
                                  Done<ListGrantsResponse> done) {
  impl_->calls.Start<ListGrantsResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->ListGrants(args...); }, std::move(done));
}

void GrpcLedgerClient::ReturnLease(const ReturnLeaseRequest& request,
                                   Done<ReturnLeaseResponse> done) {
  impl_->calls.Start<ReturnLeaseResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->ReturnLease(args...); }, std::move(done));
}

void GrpcLedgerClient::PostExpired(const PostExpiredRequest& request,
                                   Done<PostExpiredResponse> done) {
  impl_->calls.Start<PostExpiredResponse>(
      impl_->timeout, request,
      [this](auto... args) { impl_->stub->async()->PostExpired(args...); }, std::move(done));
}

}  // namespace tollhouse::enforcer
