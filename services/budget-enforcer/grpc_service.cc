#include "services/budget-enforcer/grpc_service.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "libs/base/account_path.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/rpc/permission.h"
#include "libs/rpc/status.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"

namespace tollhouse::enforcer {
namespace {

constexpr int kUnaryOperationsMax = 1024;
constexpr int kResultsPerMessageMax = 4096;
// A caller that does not read its results is not read from either.
constexpr size_t kBacklogMax = 65'536;

grpc::Status Draining() {
  return rpc::ToGrpc(MakeError(absl::StatusCode::kUnavailable, "DRAINING", "the enforcer is shutting down"));
}

}  // namespace

// --- the batch stream ----------------------------------------------------------------------------
class SessionService::Impl final
    : public v1::EnforcerService::WithCallbackMethod_Session<
          v1::EnforcerService::WithCallbackMethod_Reserve<v1::EnforcerService::WithCallbackMethod_Settle<
              v1::EnforcerService::WithCallbackMethod_Void<v1::EnforcerService::Service>>>> {
 public:
  explicit Impl(Enforcer* enforcer) : enforcer_(enforcer) {}

  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
      grpc::CallbackServerContext*) override {
    auto sink = std::make_shared<SessionSink>();
    auto reactor = std::make_unique<SessionReactor>(this, sink);
    SessionReactor* const raw = reactor.get();
    bool refused;
    {
      absl::MutexLock lock(&mutex_);
      refused = shutdown_;
      sessions_.emplace(raw, std::move(reactor));
    }
    if (refused) {
      raw->End(Draining());
    } else {
      raw->Begin();
    }
    return raw;
  }

  grpc::ServerUnaryReactor* Reserve(grpc::CallbackServerContext* context, const v1::OperationBatch* request,
                                    v1::ResultBatch* response) override {
    return Unary(context, request, response, {v1::Operation::kReserve});
  }
  grpc::ServerUnaryReactor* Settle(grpc::CallbackServerContext* context, const v1::OperationBatch* request,
                                   v1::ResultBatch* response) override {
    return Unary(context, request, response,
                 {v1::Operation::kSettle, v1::Operation::kAcknowledge, v1::Operation::kRefresh});
  }
  grpc::ServerUnaryReactor* Void(grpc::CallbackServerContext* context, const v1::OperationBatch* request,
                                 v1::ResultBatch* response) override {
    return Unary(context, request, response, {v1::Operation::kVoid, v1::Operation::kAcknowledge});
  }
  grpc::Status ReadBudgetHolds(grpc::ServerContext*, const v1::ReadBudgetHoldsRequest* request,
                               v1::GetBudgetHoldsResponse* response) override {
    const std::vector<int64_t> ids(request->budget_ids().begin(), request->budget_ids().end());
    for (auto& held : enforcer_->BudgetHolds(ids)) *response->add_held() = std::move(held);
    return grpc::Status::OK;
  }

  void Shutdown() {
    std::vector<std::shared_ptr<SessionSink>> sinks;
    {
      absl::MutexLock lock(&mutex_);
      shutdown_ = true;
      for (const auto& [raw, reactor] : sessions_) sinks.push_back(reactor->sink());
    }
    for (const auto& sink : sinks) sink->End(Draining());
  }

 private:
  class SessionReactor;

  // Between the enforcer, which may answer long after the stream is gone, and the reactor. While a
  // write is under way results gather; the next one takes all of them: at once when idle, in
  // batches under load.
  class SessionSink final : public ResultSink {
   public:
    void Deliver(std::vector<v1::OperationResult> results) override {
      absl::MutexLock lock(&mutex_);
      if (reactor_ == nullptr || ended_) return;
      for (v1::OperationResult& result : results) waiting_.push_back(std::move(result));
      WriteNext();
    }

    bool closed() const override {
      absl::MutexLock lock(&mutex_);
      return reactor_ == nullptr || ended_;
    }

    void Attach(SessionReactor* reactor) {
      absl::MutexLock lock(&mutex_);
      reactor_ = reactor;
    }
    void Detach() {
      absl::MutexLock lock(&mutex_);
      reactor_ = nullptr;
    }

    void Written(bool ok) {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) {
        waiting_.clear();
        return;
      }
      WriteNext();
    }

    // Reads the next message, now or when the backlog is gone.
    void Read() {
      absl::MutexLock lock(&mutex_);
      read_wanted_ = true;
      MaybeRead();
    }

    void End(const grpc::Status& status) {
      absl::MutexLock lock(&mutex_);
      if (reactor_ == nullptr || ended_) return;
      ended_ = true;
      reactor_->Finish(status);
    }

   private:
    void MaybeRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (!read_wanted_ || ended_ || reactor_ == nullptr || waiting_.size() > kBacklogMax) return;
      read_wanted_ = false;
      reactor_->StartNextRead();
    }

    void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (writing_ || ended_ || reactor_ == nullptr || waiting_.empty()) return;
      response_.Clear();
      const size_t count = std::min<size_t>(waiting_.size(), kResultsPerMessageMax);
      response_.mutable_results()->Reserve(static_cast<int>(count));
      for (size_t i = 0; i < count; ++i) *response_.add_results() = std::move(waiting_[i]);
      waiting_.erase(waiting_.begin(), waiting_.begin() + count);
      writing_ = true;
      reactor_->StartWrite(&response_);
      MaybeRead();
    }

    mutable absl::Mutex mutex_;
    SessionReactor* reactor_ ABSL_GUARDED_BY(mutex_) = nullptr;  // until it is done
    bool ended_ ABSL_GUARDED_BY(mutex_) = false;
    bool writing_ ABSL_GUARDED_BY(mutex_) = false;
    bool read_wanted_ ABSL_GUARDED_BY(mutex_) = false;
    v1::SessionResponse response_;  // of the write under way
    std::vector<v1::OperationResult> waiting_ ABSL_GUARDED_BY(mutex_);
  };

  class SessionReactor final : public grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse> {
   public:
    SessionReactor(Impl* service, std::shared_ptr<SessionSink> sink)
        : service_(service), sink_(std::move(sink)) {
      sink_->Attach(this);
    }

    const std::shared_ptr<SessionSink>& sink() const { return sink_; }
    void Begin() { sink_->Read(); }
    void End(const grpc::Status& status) { sink_->End(status); }
    void StartNextRead() { StartRead(&request_); }

    void OnReadDone(bool ok) override {
      if (!ok) {
        sink_->End(grpc::Status::OK);
        return;
      }
      auto arrival = std::make_shared<Arrival>();
      if (edge_.edge_id().empty()) {
        edge_ = request_.edge();
        if (edge_.edge_id().empty() || edge_.boot_id().empty()) {
          sink_->End(rpc::ToGrpc(MakeError(absl::StatusCode::kUnauthenticated, "EDGE_MISSING",
                                           "the first message must name edge_id and boot_id")));
          return;
        }
      }
      arrival->edge = edge_;
      arrival->operations.Swap(request_.mutable_operations());
      request_.Clear();
      if (!arrival->operations.empty()) service_->enforcer_->Execute(std::move(arrival), sink_);
      sink_->Read();
    }

    void OnWriteDone(bool ok) override { sink_->Written(ok); }
    void OnCancel() override { sink_->End(grpc::Status::CANCELLED); }

    void OnDone() override {
      sink_->Detach();
      std::unique_ptr<SessionReactor> self;  // outlives the lock
      absl::MutexLock lock(&service_->mutex_);
      const auto it = service_->sessions_.find(this);
      self = std::move(it->second);
      service_->sessions_.erase(it);
    }

   private:
    Impl* const service_;
    const std::shared_ptr<SessionSink> sink_;
    v1::Edge edge_;
    v1::SessionRequest request_;
  };

  // --- the unary twins ---
  class UnarySink final : public ResultSink {
   public:
    UnarySink(grpc::ServerUnaryReactor* reactor, v1::ResultBatch* response, int expected)
        : reactor_(reactor), response_(response), missing_(expected) {}

    void Deliver(std::vector<v1::OperationResult> results) override {
      absl::MutexLock lock(&mutex_);
      for (v1::OperationResult& result : results) {
        *response_->add_results() = std::move(result);
        --missing_;
      }
      if (missing_ == 0) reactor_->Finish(grpc::Status::OK);
    }
    // A unary call ends when all of its results are there, even for a caller that has gone.
    bool closed() const override { return false; }

   private:
    absl::Mutex mutex_;
    grpc::ServerUnaryReactor* const reactor_;
    v1::ResultBatch* const response_;
    int missing_;
  };

  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context, const v1::OperationBatch* request,
                                  v1::ResultBatch* response,
                                  std::initializer_list<v1::Operation::KindCase> kinds) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    auto refuse = [&](absl::Status status) {
      reactor->Finish(rpc::ToGrpc(status));
      return reactor;
    };
    {
      absl::MutexLock lock(&mutex_);
      if (shutdown_) {
        reactor->Finish(Draining());
        return reactor;
      }
    }
    if (request->edge().edge_id().empty() || request->edge().boot_id().empty()) {
      return refuse(MakeError(absl::StatusCode::kUnauthenticated, "EDGE_MISSING",
                              "the call must name edge_id and boot_id"));
    }
    if (request->operations_size() > kUnaryOperationsMax) {
      return refuse(MakeError(absl::StatusCode::kInvalidArgument, "BAD_OPERATION",
                              absl::StrCat("at most ", kUnaryOperationsMax, " operations at once")));
    }
    for (const v1::Operation& op : request->operations()) {
      if (std::find(kinds.begin(), kinds.end(), op.kind_case()) == kinds.end()) {
        return refuse(MakeError(absl::StatusCode::kInvalidArgument, "BAD_OPERATION",
                                "an operation is of another kind than the call"));
      }
    }
    if (request->operations_size() == 0) {
      reactor->Finish(grpc::Status::OK);
      return reactor;
    }
    auto arrival = std::make_shared<Arrival>();
    arrival->edge = request->edge();
    arrival->operations = request->operations();
    const int expected = request->operations_size();
    enforcer_->Execute(std::move(arrival), std::make_shared<UnarySink>(reactor, response, expected));
    return reactor;
  }

  Enforcer* const enforcer_;
  absl::Mutex mutex_;
  bool shutdown_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<SessionReactor*, std::unique_ptr<SessionReactor>> sessions_ ABSL_GUARDED_BY(mutex_);
};

SessionService::SessionService(Enforcer* enforcer) : impl_(std::make_unique<Impl>(enforcer)) {}
SessionService::~SessionService() = default;
grpc::Service* SessionService::service() { return impl_.get(); }
void SessionService::Shutdown() { impl_->Shutdown(); }

// --- admin ---------------------------------------------------------------------------------------
class AdminService::Impl final : public v1::EnforcerAdminService::Service {
 public:
  Impl(Enforcer* enforcer, std::shared_ptr<const rpc::Authenticator> authenticator, Resolve resolve)
      : enforcer_(enforcer), authenticator_(std::move(authenticator)), resolve_(std::move(resolve)) {}

  grpc::Status ListHolds(grpc::ServerContext* context, const v1::ListHoldsRequest* request,
                         v1::ListHoldsResponse* response) override {
    const auto caller = rpc::Authorize(authenticator_.get(), *context, *request);
    if (!caller.ok()) return rpc::ToGrpc(caller.status());
    const absl::StatusOr<int64_t> account = Within(caller->subtree, request->account_id());
    if (!account.ok()) return rpc::ToGrpc(account.status());
    const int size = request->page_size() <= 0 ? 1000 : std::min(request->page_size(), 10'000);
    for (v1::HoldView& hold : enforcer_->ListHolds(*account, size)) {
      *response->add_holds() = std::move(hold);
    }
    return grpc::Status::OK;
  }

  grpc::Status GetBudgetHolds(grpc::ServerContext* context, const v1::GetBudgetHoldsRequest* request,
                              v1::GetBudgetHoldsResponse* response) override {
    const auto caller = rpc::Authorize(authenticator_.get(), *context, *request);
    if (!caller.ok()) return rpc::ToGrpc(caller.status());
    const std::vector<int64_t> ids(request->budget_ids().begin(), request->budget_ids().end());
    for (auto& held : enforcer_->BudgetHolds(ids, caller->subtree)) *response->add_held() = std::move(held);
    return grpc::Status::OK;
  }

 private:
  // The account, if it lies in the subtree; the subtree's top for 0.
  absl::StatusOr<int64_t> Within(const std::string& subtree, int64_t account_id) const {
    if (subtree.empty()) return account_id;
    ledger::v1::ResolveAccountRequest request;
    if (account_id == 0) {
      request.set_path(subtree);
    } else {
      request.set_account_id(account_id);
    }
    const auto resolved = resolve_(request);
    // Of what is not there a caller learns no more than of what is not his.
    if (!resolved.ok() && !absl::IsNotFound(resolved.status())) return resolved.status();
    if (resolved.ok() && resolved->chain_size() > 0) {
      const ledger::v1::AccountView& account = *resolved->chain().rbegin();
      if (IsAtOrBelow(account.path(), subtree)) return account.account_id();
    }
    return MakeError(absl::StatusCode::kPermissionDenied, "FORBIDDEN",
                     absl::StrCat("this token sees the holds of ", subtree, " only"));
  }

  Enforcer* const enforcer_;
  const std::shared_ptr<const rpc::Authenticator> authenticator_;
  const Resolve resolve_;
};

AdminService::AdminService(Enforcer* enforcer, std::shared_ptr<const rpc::Authenticator> authenticator,
                           Resolve resolve)
    : impl_(std::make_unique<Impl>(enforcer, std::move(authenticator), std::move(resolve))) {}
AdminService::~AdminService() = default;
grpc::Service* AdminService::service() { return impl_.get(); }

}  // namespace tollhouse::enforcer
