#include "services/edge/settler.h"

#include <atomic>
#include <utility>

#include "libs/obs/log.h"
#include "services/edge/batch_stream.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::edge {

using ledger::v1::LedgerService;
using ledger::v1::PostRequest;
using ledger::v1::PostResponse;

struct Settler::Impl {
  using Stream = BatchStream<PostRequest, PostResponse>;

  Impl(std::shared_ptr<grpc::ChannelInterface> channel, Journal* journal,
       Settlements::ToEnforcer to_enforcer, Settlements::Refused refused)
      : stub(LedgerService::NewStub(channel)),
        settlements(journal, std::move(to_enforcer), std::move(refused)),
        stream(Stream::Hooks{
            [this](grpc::ClientContext* context, Stream::Reactor* reactor) {
              stub->async()->Post(context, reactor);
            },
            [this] { settlements.Requeue(); },
            [this](bool, PostRequest* request) { return settlements.Fill(request); },
            [this](PostResponse& response) {
              settlements.Received(response);
              stream.Kick();
            },
            [this](const grpc::Status& status) {
              if (stopping) return;
              obs::Warning("ledger_post_stream_broken",
                           {{"code", static_cast<int>(status.error_code())},
                            {"message", status.error_message()}});
            }}) {}

  const std::unique_ptr<LedgerService::Stub> stub;
  Settlements settlements;
  std::atomic<bool> stopping = false;
  Stream stream;  // last: its callbacks use the rest
};

Settler::Settler(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal,
                 Settlements::ToEnforcer to_enforcer, Settlements::Refused refused)
    : impl_(std::make_unique<Impl>(std::move(ledger), journal, std::move(to_enforcer),
                                   std::move(refused))) {}

Settler::~Settler() { Stop(); }

void Settler::Start() { impl_->stream.Start(); }

void Settler::Stop() {
  impl_->stopping = true;
  impl_->stream.Stop();
}

void Settler::Submit(std::shared_ptr<const ledger::v1::Entry> entry) {
  if (impl_->settlements.Submit(std::move(entry))) impl_->stream.Kick();
}

int64_t Settler::backlog() const { return impl_->settlements.backlog(); }

bool Settler::WaitIdle(absl::Duration timeout) const {
  return impl_->settlements.WaitIdle(timeout);
}

}  // namespace tollhouse::edge
