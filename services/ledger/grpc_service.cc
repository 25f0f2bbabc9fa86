#include "services/ledger/grpc_service.h"

#include <deque>

#include "libs/base/error.h"
#include "libs/base/status_macros.h"
#include "libs/obs/log.h"
#include "libs/rpc/replicated_watch.h"
#include "libs/rpc/status.h"
#include "libs/sql/for_caller.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::ledger {

namespace {

constexpr int kEntriesMax = 4096;
constexpr int kRequestsInFlight = 8;  // per Post stream

absl::Status TooMany() {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", "at most 4096 entries at once");
}

// One Post stream: requests are posted in order, several may wait for their COMMIT.
class PostStream final : public grpc::ServerBidiReactor<v1::PostRequest, v1::PostResponse> {
 public:
  explicit PostStream(Poster* poster) : poster_(poster) {}

  // Deletes itself through the last shared reference: gRPC holds one until OnDone, each request in
  // flight another.
  static PostStream* Start(Poster* poster) {
    auto stream = std::make_shared<PostStream>(poster);
    stream->self_ = stream;
    stream->StartRead(&stream->request_);
    return stream.get();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      absl::MutexLock lock(&mutex_);
      reads_done_ = true;
      FinishIfIdle();
      return;
    }
    if (request_.entries_size() > kEntriesMax) {
      absl::MutexLock lock(&mutex_);
      Fail(TooMany());
      return;
    }
    bool read_on = false;
    {
      absl::MutexLock lock(&mutex_);
      read_on = ++in_flight_ < kRequestsInFlight;
      paused_ = !read_on;
    }
    poster_->Submit(std::move(request_), [self = self_](absl::StatusOr<v1::PostResponse> answer) {
      self->Posted(std::move(answer));
    });
    if (read_on) ReadNext();
  }

  void OnWriteDone(bool ok) override {
    bool read_on = false;
    {
      absl::MutexLock lock(&mutex_);
      answers_.pop_front();
      --in_flight_;
      if (!ok) {
        Fail(absl::CancelledError("the client has gone"));
        return;
      }
      if (!answers_.empty()) StartWrite(&answers_.front());
      read_on = std::exchange(paused_, false) && !finished_;
      FinishIfIdle();
    }
    if (read_on) ReadNext();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    Fail(absl::CancelledError("the client has gone"));
  }

  void OnDone() override {
    const std::shared_ptr<PostStream> last = std::move(self_);
  }

 private:
  void ReadNext() {
    request_.Clear();
    StartRead(&request_);
  }

  void Posted(absl::StatusOr<v1::PostResponse> answer) {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
    if (!answer.ok()) {
      Fail(sql::ForCaller(answer.status(), "ledger"));
      return;
    }
    answers_.push_back(*std::move(answer));
    if (answers_.size() == 1) StartWrite(&answers_.front());
  }

  void Fail(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(finished_, true)) return;
    Finish(rpc::ToGrpc(status));
  }

  void FinishIfIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (reads_done_ && in_flight_ == 0) Fail(absl::OkStatus());
  }

  Poster* const poster_;
  std::shared_ptr<PostStream> self_;  // until OnDone
  v1::PostRequest request_;           // of the read under way
  absl::Mutex mutex_;
  std::deque<v1::PostResponse> answers_ ABSL_GUARDED_BY(mutex_);  // the first is being written
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // read and not yet answered
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

using LedgerWatch = rpc::ReplicatedWatch<v1::WatchRequest, v1::WatchResponse>;
using Base = v1::LedgerService::WithCallbackMethod_Watch<
    v1::LedgerService::WithCallbackMethod_Post<v1::LedgerService::Service>>;

class LedgerServiceImpl final : public Base {
 public:
  LedgerServiceImpl(Store* store, Poster* poster, LedgerWatch* watch,
                    absl::Duration acknowledge_timeout)
      : store_(store), poster_(poster), watch_(watch), acknowledge_timeout_(acknowledge_timeout) {}

  grpc::ServerBidiReactor<v1::WatchRequest, v1::WatchResponse>* Watch(
      grpc::CallbackServerContext* context) override {
    return watch_->Serve(context);
  }

  grpc::ServerBidiReactor<v1::PostRequest, v1::PostResponse>* Post(
      grpc::CallbackServerContext*) override {
    return PostStream::Start(poster_);
  }

  grpc::Status PostBatch(grpc::ServerContext*, const v1::PostRequest* request,
                         v1::PostResponse* response) override {
    if (request->entries_size() > kEntriesMax) return rpc::ToGrpc(TooMany());
    return Reply(poster_->Post(*request), response);
  }

  grpc::Status ResolveAccount(grpc::ServerContext*, const v1::ResolveAccountRequest* request,
                              v1::ResolveAccountResponse* response) override {
    return Reply(store_->ResolveAccount(*request), response);
  }

  grpc::Status ResolveAccounts(grpc::ServerContext*, const v1::ResolveAccountsRequest* request,
                               v1::ResolveAccountsResponse* response) override {
    return Reply(store_->ResolveAccounts(*request), response);
  }

  grpc::Status GetBudgets(grpc::ServerContext*, const v1::GetBudgetsRequest* request,
                          v1::GetBudgetsResponse* response) override {
    return Reply(BudgetsOnPath(request->account_id()), response);
  }

  grpc::Status CreateKeyAccount(grpc::ServerContext*, const v1::CreateKeyAccountRequest* request,
                                v1::CreateKeyAccountResponse* response) override {
    int64_t version = 0;
    absl::StatusOr<v1::CreateKeyAccountResponse> created =
        store_->CreateKeyAccount(*request, &version);
    // A budget that a template gave it is in force before the key can be used.
    watch_->WaitAcknowledged(version, acknowledge_timeout_);
    return Reply(std::move(created), response);
  }

  grpc::Status DeleteKeyAccount(grpc::ServerContext*, const v1::DeleteKeyAccountRequest* request,
                                v1::DeleteKeyAccountResponse*) override {
    int64_t version = 0;
    return Reply(store_->DeleteKeyAccount(request->account_id(), &version));
  }

  grpc::Status RegisterEpoch(grpc::ServerContext*, const v1::RegisterEpochRequest* request,
                             v1::RegisterEpochResponse* response) override {
    int64_t version = 0;
    const absl::StatusOr<int64_t> epoch = store_->RegisterEpoch(*request, &version);
    if (epoch.ok()) response->set_epoch(*epoch);
    return Reply(epoch.status());
  }

  grpc::Status RegisterEdge(grpc::ServerContext*, const v1::RegisterEdgeRequest* request,
                            v1::RegisterEdgeResponse*) override {
    return Reply(store_->RegisterEdge(*request));
  }

  grpc::Status GrantLease(grpc::ServerContext*, const v1::GrantLeaseRequest* request,
                          v1::GrantLeaseResponse* response) override {
    return Reply(store_->GrantLease(*request), response);
  }

  grpc::Status AcknowledgeGrants(grpc::ServerContext*, const v1::AcknowledgeGrantsRequest* request,
                                 v1::AcknowledgeGrantsResponse*) override {
    return Reply(store_->AcknowledgeGrants(*request));
  }

  grpc::Status ListGrants(grpc::ServerContext*, const v1::ListGrantsRequest* request,
                          v1::ListGrantsResponse* response) override {
    return Reply(store_->ListGrants(*request), response);
  }

  grpc::Status ReturnLease(grpc::ServerContext*, const v1::ReturnLeaseRequest* request,
                           v1::ReturnLeaseResponse*) override {
    return Reply(store_->ReturnLease(*request));
  }

  grpc::Status PostExpired(grpc::ServerContext*, const v1::PostExpiredRequest* request,
                           v1::PostExpiredResponse*) override {
    return Reply(store_->PostExpired(*request));
  }

  grpc::Status AnnounceHolds(grpc::ServerContext*, const v1::AnnounceHoldsRequest* request,
                             v1::AnnounceHoldsResponse*) override {
    return Reply(store_->AnnounceHolds(*request));
  }

  grpc::Status ListPendingAnnouncements(grpc::ServerContext*,
                                        const v1::ListPendingAnnouncementsRequest* request,
                                        v1::ListPendingAnnouncementsResponse* response) override {
    return Reply(store_->ListPendingAnnouncements(request->edge_id()), response);
  }

 private:
  static grpc::Status Reply(const absl::Status& status) {
    return rpc::ToGrpc(sql::ForCaller(status, "ledger"));
  }

  template <typename Response>
  static grpc::Status Reply(absl::StatusOr<Response> answer, Response* response) {
    if (answer.ok()) *response = *std::move(answer);
    return Reply(answer.status());
  }

  absl::StatusOr<v1::GetBudgetsResponse> BudgetsOnPath(int64_t account_id) {
    v1::ResolveAccountRequest resolve;
    resolve.set_account_id(account_id);
    TH_ASSIGN_OR_RETURN(const v1::ResolveAccountResponse account, store_->ResolveAccount(resolve));
    v1::GetBudgetsResponse answer;
    for (const v1::AccountView& view : account.chain()) {
      v1::ListBudgetsRequest list;
      list.set_path(view.path());
      TH_ASSIGN_OR_RETURN(v1::ListBudgetsResponse own, store_->ListBudgets(list));
      for (v1::Budget& budget : *own.mutable_budgets()) {
        // A template is not a budget, it makes them.
        if (budget.for_each().empty()) *answer.add_budgets() = std::move(budget);
      }
    }
    return answer;
  }

  Store* const store_;
  Poster* const poster_;
  LedgerWatch* const watch_;
  const absl::Duration acknowledge_timeout_;
};

class InternalServiceImpl final : public InternalService {
 public:
  InternalServiceImpl(std::unique_ptr<LedgerWatch> watch, Store* store, Poster* poster,
                      absl::Duration acknowledge_timeout)
      : acknowledge_timeout_(acknowledge_timeout),
        watch_(std::move(watch)),
        service_(store, poster, watch_.get(), acknowledge_timeout) {
    store->SetChanged([this] { watch_->Wake(); });
  }

  grpc::Service* service() override { return &service_; }

  std::vector<std::string> WaitAcknowledged(int64_t version) override {
    return watch_->WaitAcknowledged(version, acknowledge_timeout_);
  }

  void Shutdown() override { watch_->Shutdown(); }

 private:
  const absl::Duration acknowledge_timeout_;
  const std::unique_ptr<LedgerWatch> watch_;
  LedgerServiceImpl service_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<InternalService>> MakeInternalService(
    Store* store, Poster* poster, absl::Duration acknowledge_timeout, sql::ChangeFeedOptions changes) {
  TH_ASSIGN_OR_RETURN(std::unique_ptr<LedgerWatch> watch,
                      LedgerWatch::Start(
                          std::move(changes), [store] { return store->Snapshot(); }, &LedgerWatch::Parse));
  return std::make_unique<InternalServiceImpl>(std::move(watch), store, poster, acknowledge_timeout);
}

}  // namespace tollhouse::ledger
