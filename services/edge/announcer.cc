#include "services/edge/announcer.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <utility>

#include "libs/base/status_macros.h"
#include "libs/obs/log.h"
#include "libs/rpc/status.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::edge {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(10);
constexpr absl::Duration kRetry = absl::Milliseconds(500);

void SetDeadline(grpc::ClientContext* context, absl::Duration timeout) {
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
}

}  // namespace

struct Announcer::Stub {
  std::unique_ptr<ledger::v1::LedgerService::Stub> ledger;
};

Announcer::Announcer(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal,
                     std::string boot_id, Submit submit, absl::Duration interval)
    : stub_(std::make_unique<Stub>(Stub{ledger::v1::LedgerService::NewStub(ledger)})),
      announcements_(journal, std::move(boot_id)),
      submit_(std::move(submit)),
      interval_(interval) {}

Announcer::~Announcer() { Stop(); }

void Announcer::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Announcer::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Announcer::OnEpochs(bool snapshot, const std::vector<ledger::v1::Epoch>& epochs) {
  announcements_.OnEpochs(snapshot, epochs);
  absl::MutexLock wake(&mutex_);  // Run looks again
}

absl::Status Announcer::Announce(const ledger::v1::Epoch& closed, absl::Duration timeout) {
  const ledger::v1::AnnounceHoldsRequest request = announcements_.Report(closed);
  grpc::ClientContext context;
  SetDeadline(&context, timeout);
  ledger::v1::AnnounceHoldsResponse response;
  TH_RETURN_IF_ERROR(rpc::FromGrpc(stub_->ledger->AnnounceHolds(&context, request, &response)));
  obs::Info("holds_announced", {{"org_id", closed.org_id()},
                                {"epoch", closed.epoch()},
                                {"unsettled", request.unsettled_size()}});
  return absl::OkStatus();
}

absl::Status Announcer::Pending(absl::Duration timeout, std::vector<ledger::v1::Epoch>* closed) {
  grpc::ClientContext context;
  SetDeadline(&context, timeout);
  ledger::v1::ListPendingAnnouncementsResponse response;
  TH_RETURN_IF_ERROR(rpc::FromGrpc(
      stub_->ledger->ListPendingAnnouncements(&context, announcements_.Look(), &response)));
  closed->assign(response.epochs().begin(), response.epochs().end());
  std::vector<ledger::v1::Entry> voids = announcements_.NeverForwarded(response.expired());
  if (!voids.empty()) {
    obs::Info("expired_holds_voided", {{"holds", static_cast<int64_t>(voids.size())}});
  }
  for (ledger::v1::Entry& entry : voids) submit_(std::move(entry));
  return absl::OkStatus();
}

absl::Status Announcer::AnnouncePending(absl::Duration timeout) {
  std::vector<ledger::v1::Epoch> closed;
  TH_RETURN_IF_ERROR(Pending(timeout, &closed));
  for (const ledger::v1::Epoch& epoch : closed) TH_RETURN_IF_ERROR(Announce(epoch, timeout));
  return absl::OkStatus();
}

void Announcer::Run() {
  bool failed = false, look = false;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      const auto wanted = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || (!failed && announcements_.Waiting());
      };
      look = !mutex_.AwaitWithTimeout(absl::Condition(&wanted), failed ? kRetry : interval_) || look;
      if (stopping_) return;
    }
    failed = false;
    const Announcements::Work work = announcements_.Take();
    std::vector<ledger::v1::Epoch> closed;
    if (work.look > 0 || look) failed = !Pending(kCallTimeout, &closed).ok();
    look = failed;
    closed.insert(closed.begin(), work.closed.begin(), work.closed.end());
    for (const ledger::v1::Epoch& epoch : closed) {
      const absl::Status status = Announce(epoch, kCallTimeout);
      if (status.ok()) continue;
      failed = true;
      obs::Warning("announce_failed", {{"org_id", epoch.org_id()},
                                       {"epoch", epoch.epoch()},
                                       {"error", std::string(status.message())}});
    }
    if (!failed) announcements_.Done(work);
  }
}

}  // namespace tollhouse::edge
