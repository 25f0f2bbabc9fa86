// A ledger in memory that keeps its books like the real one and checks them after every call.
#pragma once

#include <grpcpp/server.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "libs/rpc/watch_hub.h"
#include "tollhouse/ledger/v1/ledger.grpc.pb.h"

namespace tollhouse::enforcer {

// Thread-safe. Rows are made at their first grant with the cap set for their budget.
class FakeLedger final
    : public ledger::v1::LedgerService::WithCallbackMethod_Watch<ledger::v1::LedgerService::Service> {
 public:
  struct Row {
    int64_t cap = 0, overrun = 0, avail = 0, leased = 0, suspense = 0, lost = 0, spent = 0;
  };
  enum class Fault { kNone, kUnavailable, kReplyLost };  // kReplyLost: done, but the answer says it is not

  FakeLedger();

  // Adds or changes a budget and publishes it; returns when all watchers have acknowledged.
  void SetBudget(const ledger::v1::BudgetRule& rule, int64_t cap);
  void SetLimits(const ledger::v1::AccountLimits& limits);
  // Every edge has announced what it had open under closed epochs: the rest of their lease is free again.
  void ReclaimLost(int64_t org_id);
  // Registers an epoch for somebody else and publishes it.
  void OpenForeignEpoch(int64_t org_id);
  void SetFault(Fault fault);
  void Shutdown() { hub_.Shutdown(); }

  // All rules as a watcher gets them at first.
  ledger::v1::WatchResponse Snapshot();

  Row row(int64_t budget_id, const std::string& period = "total");
  int64_t epoch(int64_t org_id);
  int grants_made();
  std::vector<int64_t> listed_grants();  // of open epochs, not acknowledged
  int64_t expired_holds();
  // What a broken enforcer would have caused; empty if all is well.
  std::vector<std::string> problems();
  bool edge_registered(int64_t org_id, int64_t epoch, const std::string& edge_id);
  // Waits until `condition` holds, at most 20 s of real time.
  bool WaitFor(const std::function<bool()>& condition_locked);
  bool WaitForRow(int64_t budget_id, const std::string& period, const std::function<bool(const Row&)>& good);

  // Posts an entry like an edge; returns what was posted.
  ledger::v1::PostOutcome Post(const ledger::v1::Entry& entry);

  grpc::ServerBidiReactor<ledger::v1::WatchRequest, ledger::v1::WatchResponse>* Watch(
      grpc::CallbackServerContext* context) override {
    return hub_.Serve(context);
  }
  grpc::Status RegisterEpoch(grpc::ServerContext*, const ledger::v1::RegisterEpochRequest* request,
                             ledger::v1::RegisterEpochResponse* response) override;
  grpc::Status RegisterEdge(grpc::ServerContext*, const ledger::v1::RegisterEdgeRequest* request,
                            ledger::v1::RegisterEdgeResponse* response) override;
  grpc::Status GrantLease(grpc::ServerContext*, const ledger::v1::GrantLeaseRequest* request,
                          ledger::v1::GrantLeaseResponse* response) override;
  grpc::Status AcknowledgeGrants(grpc::ServerContext*, const ledger::v1::AcknowledgeGrantsRequest* request,
                                 ledger::v1::AcknowledgeGrantsResponse* response) override;
  grpc::Status ListGrants(grpc::ServerContext*, const ledger::v1::ListGrantsRequest* request,
                          ledger::v1::ListGrantsResponse* response) override;
  grpc::Status ReturnLease(grpc::ServerContext*, const ledger::v1::ReturnLeaseRequest* request,
                           ledger::v1::ReturnLeaseResponse* response) override;
  grpc::Status PostExpired(grpc::ServerContext*, const ledger::v1::PostExpiredRequest* request,
                           ledger::v1::PostExpiredResponse* response) override;

 private:
  using Key = std::pair<int64_t, std::string>;
  struct Item {  // a hold in suspense
    int64_t epoch = 0;
    std::map<Key, int64_t> covers;
  };

  Row& RowOf(int64_t budget_id, const std::string& period);
  void Check();
  grpc::Status Closed() const;
  bool Fails(grpc::Status* status);
  void CloseEpoch(int64_t org_id);

  rpc::WatchHub<ledger::v1::WatchRequest, ledger::v1::WatchResponse> hub_;
  absl::Mutex mutex_;
  Fault fault_ = Fault::kNone;
  std::map<int64_t, ledger::v1::BudgetRule> rules_;
  std::map<int64_t, int64_t> caps_;
  std::map<int64_t, ledger::v1::AccountLimits> limits_;
  std::map<Key, Row> rows_;
  std::map<int64_t, std::pair<int64_t, std::string>> epochs_;  // org -> newest, incarnation
  std::set<std::tuple<int64_t, int64_t, std::string>> edges_;
  std::map<std::tuple<int64_t, int64_t, std::string>, ledger::v1::GrantLeaseResponse> grants_;
  using OrgEpoch = std::pair<int64_t, int64_t>;
  std::map<OrgEpoch, int64_t> last_grants_;
  std::map<OrgEpoch, std::map<int64_t, ledger::v1::GrantLeaseResponse>> listed_;
  std::set<std::tuple<int64_t, int64_t, int64_t>> returns_;
  std::map<std::string, Item> items_;
  std::map<std::string, std::string> journal_;  // hold -> entry as posted
  int64_t expired_ = 0;
  std::vector<std::string> problems_;
};

}  // namespace tollhouse::enforcer
