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
                     std::string boot_id)
    : stub_(std::make_unique<Stub>(Stub{ledger::v1::LedgerService::NewStub(ledger)})),
      journal_(journal),
      boot_id_(std::move(boot_id)) {}

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
  for (const ledger::v1::Epoch& newest : epochs) {
    if (newest.epoch() <= 1) continue;
    // The fence stands before the change is acknowledged.
    journal_->CloseEpoch(newest.org_id(), newest.epoch() - 1);
    if (snapshot) continue;
    ledger::v1::Epoch closed = newest;
    closed.set_epoch(newest.epoch() - 1);
    absl::MutexLock lock(&mutex_);
    queue_.push_back(std::move(closed));
  }
  if (snapshot) {
    absl::MutexLock lock(&mutex_);
    look_ = true;
  }
}

absl::Status Announcer::Announce(const ledger::v1::Epoch& closed, absl::Duration timeout) {
  ledger::v1::AnnounceHoldsRequest request;
  request.set_org_id(closed.org_id());
  request.set_epoch(closed.epoch());
  request.set_edge_id(journal_->edge_id());
  request.set_boot_id(boot_id_);
  for (ledger::v1::Entry& hold : journal_->CloseEpoch(closed.org_id(), closed.epoch())) {
    *request.add_unsettled() = std::move(hold);
  }
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
  ledger::v1::ListPendingAnnouncementsRequest request;
  request.set_edge_id(journal_->edge_id());
  grpc::ClientContext context;
  SetDeadline(&context, timeout);
  ledger::v1::ListPendingAnnouncementsResponse response;
  TH_RETURN_IF_ERROR(
      rpc::FromGrpc(stub_->ledger->ListPendingAnnouncements(&context, request, &response)));
  closed->assign(response.epochs().begin(), response.epochs().end());
  return absl::OkStatus();
}

absl::Status Announcer::AnnouncePending(absl::Duration timeout) {
  std::vector<ledger::v1::Epoch> closed;
  TH_RETURN_IF_ERROR(Pending(timeout, &closed));
  for (const ledger::v1::Epoch& epoch : closed) TH_RETURN_IF_ERROR(Announce(epoch, timeout));
  return absl::OkStatus();
}

void Announcer::Run() {
  bool failed = false;
  for (;;) {
    bool look = false;
    std::vector<ledger::v1::Epoch> work;
    {
      absl::MutexLock lock(&mutex_);
      const auto wanted = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || (!failed && (look_ || !queue_.empty()));
      };
      mutex_.AwaitWithTimeout(absl::Condition(&wanted), failed ? kRetry : absl::InfiniteDuration());
      if (stopping_) return;
      look = look_;
      work.assign(queue_.begin(), queue_.end());
    }
    failed = false;
    std::vector<ledger::v1::Epoch> pending;
    if (look) {
      const absl::Status status = Pending(kCallTimeout, &pending);
      if (!status.ok()) failed = true;
    }
    work.insert(work.end(), pending.begin(), pending.end());
    for (const ledger::v1::Epoch& closed : work) {
      const absl::Status status = Announce(closed, kCallTimeout);
      if (status.ok()) continue;
      failed = true;
      obs::Warning("announce_failed", {{"org_id", closed.org_id()},
                                       {"epoch", closed.epoch()},
                                       {"error", std::string(status.message())}});
    }
    if (failed) continue;
    absl::MutexLock lock(&mutex_);
    if (look) look_ = false;
    // What was added meanwhile stands behind what was done.
    const size_t done = work.size() - pending.size();
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<int64_t>(done));
  }
}

}  // namespace tollhouse::edge
