#include "services/budget-enforcer/ledger_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "libs/rpc/status.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::enforcer {

struct LedgerClient::Impl {
  Impl(std::shared_ptr<grpc::Channel> channel, absl::Duration deadline)
      : stub(ledger::v1::LedgerService::NewStub(channel)), timeout(deadline) {}

  // `method` is a unary call of stub->async().
  template <typename Request, typename Response, typename Method>
  void Start(Method method, const Request& request, Done<Response> done) {
    struct Call {
      grpc::ClientContext context;
      Request request;
      Response response;
    };
    auto call = std::make_shared<Call>();
    call->request = request;
    call->context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
    bool refused = false;
    {
      absl::MutexLock lock(&mutex);
      refused = stopped;
      if (!refused) running.insert(&call->context);
    }
    if (refused) {
      done(absl::CancelledError("the enforcer is stopping"));
      return;
    }
    method(&call->context, &call->request, &call->response,
           [this, call, done = std::move(done)](const grpc::Status& status) {
             if (status.ok()) {
               done(std::move(call->response));
             } else {
               done(rpc::FromGrpc(status));
             }
             absl::MutexLock lock(&mutex);
             running.erase(&call->context);
           });
  }

  const std::unique_ptr<ledger::v1::LedgerService::Stub> stub;
  const absl::Duration timeout;
  absl::Mutex mutex;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  absl::flat_hash_set<grpc::ClientContext*> running ABSL_GUARDED_BY(mutex);
};

LedgerClient::LedgerClient(std::shared_ptr<grpc::Channel> channel, absl::Duration timeout)
    : impl_(std::make_unique<Impl>(std::move(channel), timeout)) {}

LedgerClient::~LedgerClient() { Stop(); }

void LedgerClient::RegisterEpoch(const ledger::v1::RegisterEpochRequest& request,
                                 Done<ledger::v1::RegisterEpochResponse> done) {
  impl_->Start(
      [this](auto... args) { impl_->stub->async()->RegisterEpoch(std::move(args)...); }, request,
      std::move(done));
}

void LedgerClient::RegisterEdge(const ledger::v1::RegisterEdgeRequest& request,
                                Done<ledger::v1::RegisterEdgeResponse> done) {
  impl_->Start(
      [this](auto... args) { impl_->stub->async()->RegisterEdge(std::move(args)...); }, request,
      std::move(done));
}

void LedgerClient::GrantLease(const ledger::v1::GrantLeaseRequest& request,
                              Done<ledger::v1::GrantLeaseResponse> done) {
  impl_->Start([this](auto... args) { impl_->stub->async()->GrantLease(std::move(args)...); },
               request, std::move(done));
}

void LedgerClient::AcknowledgeGrants(const ledger::v1::AcknowledgeGrantsRequest& request,
                                     Done<ledger::v1::AcknowledgeGrantsResponse> done) {
  impl_->Start(
      [this](auto... args) { impl_->stub->async()->AcknowledgeGrants(std::move(args)...); },
      request, std::move(done));
}

void LedgerClient::ReturnLease(const ledger::v1::ReturnLeaseRequest& request,
                               Done<ledger::v1::ReturnLeaseResponse> done) {
  impl_->Start([this](auto... args) { impl_->stub->async()->ReturnLease(std::move(args)...); },
               request, std::move(done));
}

void LedgerClient::PostExpired(const ledger::v1::PostExpiredRequest& request,
                               Done<ledger::v1::PostExpiredResponse> done) {
  impl_->Start([this](auto... args) { impl_->stub->async()->PostExpired(std::move(args)...); },
               request, std::move(done));
}

void LedgerClient::Stop() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->stopped = true;
  for (grpc::ClientContext* context : impl_->running) context->TryCancel();
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(impl_->mutex) {
    return impl_->running.empty();
  };
  impl_->mutex.Await(absl::Condition(&idle));
}

}  // namespace tollhouse::enforcer
