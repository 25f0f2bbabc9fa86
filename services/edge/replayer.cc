#include "services/edge/replayer.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/base/uuid.h"
#include "libs/obs/log.h"
#include "libs/rpc/status.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::edge {
namespace {

constexpr size_t kBatch = 512;
constexpr absl::Duration kCallTimeout = absl::Seconds(30);
constexpr absl::Duration kRetry = absl::Milliseconds(500);

}  // namespace

struct Replayer::Stub {
  std::unique_ptr<ledger::v1::LedgerService::Stub> ledger;
};

Replayer::Replayer(std::shared_ptr<grpc::ChannelInterface> ledger, Journal* journal,
                   Refused refused)
    : stub_(std::make_unique<Stub>(Stub{ledger::v1::LedgerService::NewStub(ledger)})),
      journal_(journal),
      refused_(std::move(refused)),
      wanted_(journal->replayed_generation()),
      replayed_(wanted_) {}

Replayer::~Replayer() { Stop(); }

void Replayer::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Replayer::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }
  if (thread_.joinable()) thread_.join();
}

void Replayer::OnGeneration(int64_t generation) {
  absl::MutexLock lock(&mutex_);
  wanted_ = std::max(wanted_, generation);
}

bool Replayer::WaitIdle(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return replayed_ == wanted_;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&idle), timeout);
}

void Replayer::Run() {
  for (;;) {
    int64_t generation = 0;
    {
      absl::MutexLock lock(&mutex_);
      const auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || replayed_ < wanted_;
      };
      mutex_.Await(absl::Condition(&work));
      if (stopping_) return;
      generation = wanted_;
    }
    const absl::Status status = Replay(generation);
    absl::MutexLock lock(&mutex_);
    if (status.ok()) {
      replayed_ = generation;
      continue;
    }
    if (stopping_) return;
    obs::Error("journal_not_replayed", {{"generation", generation},
                                        {"error", std::string(status.message())}});
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kRetry);
  }
}

absl::Status Replayer::Replay(int64_t generation) {
  obs::Info("replay_begins", {{"generation", generation}});
  Journal::Retained retained = journal_->ReadRetained();
  int64_t count = 0;
  for (;;) {
    TH_ASSIGN_OR_RETURN(const std::vector<ledger::v1::Entry> entries, retained.Next(kBatch));
    if (entries.empty()) break;
    TH_RETURN_IF_ERROR(Post(entries));
    count += static_cast<int64_t>(entries.size());
  }
  TH_RETURN_IF_ERROR(journal_->SetReplayedGeneration(generation));
  obs::Info("replay_done", {{"generation", generation}, {"entries", count}});
  return absl::OkStatus();
}

absl::Status Replayer::Post(const std::vector<ledger::v1::Entry>& entries) {
  ledger::v1::PostRequest request;
  for (const ledger::v1::Entry& entry : entries) *request.add_entries() = entry;
  for (;;) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         absl::ToChronoMilliseconds(kCallTimeout));
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return absl::CancelledError("the edge stops");
      call_ = &context;
    }
    ledger::v1::PostResponse response;
    const absl::Status status =
        rpc::FromGrpc(stub_->ledger->PostBatch(&context, request, &response));
    absl::MutexLock lock(&mutex_);
    call_ = nullptr;
    if (status.ok() && response.results_size() == request.entries_size()) {
      for (int i = 0; i < response.results_size(); ++i) {
        const ledger::v1::PostResult& result = response.results(i);
        const bool suspend = entries[i].kind() == ledger::v1::ENTRY_KIND_SUSPEND;
        if (result.outcome() != ledger::v1::POST_OUTCOME_REJECTED &&
            (suspend || result.outcome() != ledger::v1::POST_OUTCOME_CONFLICT)) {
          continue;
        }
        const auto id = UuidFromRaw(entries[i].hold_id());
        obs::Error("ledger_refused_replayed_entry",
                   {{"hold_id", id.ok() ? id->ToString() : "?"},
                    {"outcome", static_cast<int>(result.outcome())},
                    {"message", result.message()}});
        refused_(entries[i], result);
      }
      return absl::OkStatus();
    }
    if (stopping_) return absl::CancelledError("the edge stops");
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kRetry);
  }
}

}  // namespace tollhouse::edge
