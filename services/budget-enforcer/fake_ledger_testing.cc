#include "services/budget-enforcer/fake_ledger_testing.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "libs/rpc/status.h"

namespace tollhouse::enforcer {

using namespace ledger::v1;  // the messages of the service this stands in for

FakeLedger::FakeLedger() : hub_([this] { return Snapshot(); }) {}

WatchResponse FakeLedger::Snapshot() {
  absl::MutexLock lock(&mutex_);
  WatchResponse all;
  all.set_snapshot(true);
  for (const auto& [id, rule] : rules_) *all.add_budgets() = rule;
  for (const auto& [id, limits] : limits_) *all.add_limits() = limits;
  for (const auto& [org, epoch] : epochs_) {
    Epoch* out = all.add_epochs();
    out->set_org_id(org);
    out->set_epoch(epoch.first);
    out->set_incarnation(epoch.second);
  }
  return all;
}

void FakeLedger::SetBudget(const BudgetRule& rule, int64_t cap) {
  WatchResponse change;
  {
    absl::MutexLock lock(&mutex_);
    rules_[rule.budget_id()] = rule;
    caps_[rule.budget_id()] = cap;
    BudgetRule published = rule;
    for (auto& [key, row] : rows_) {
      if (key.first != rule.budget_id()) continue;
      // A lowered cap follows as lease comes back.
      const int64_t fixed = row.leased + row.suspense + row.spent - row.overrun;
      published.set_recall(cap < fixed);
      row.cap = std::max(cap, fixed);
      row.avail = row.cap - fixed;
    }
    *change.add_budgets() = published;
    rules_[rule.budget_id()] = published;
    Check();
  }
  hub_.WaitAcknowledged(hub_.Publish(change), absl::Seconds(20));
}

void FakeLedger::SetLimits(const AccountLimits& limits) {
  WatchResponse change;
  {
    absl::MutexLock lock(&mutex_);
    limits_[limits.account_id()] = limits;
    *change.add_limits() = limits;
  }
  hub_.WaitAcknowledged(hub_.Publish(change), absl::Seconds(20));
}

void FakeLedger::CloseEpoch(int64_t org_id) {
  for (auto& [key, row] : rows_) {
    if (rules_[key.first].org_id() != org_id) continue;
    row.suspense += row.leased;
    row.lost = row.suspense;
    row.leased = 0;
  }
  items_.clear();
}

void FakeLedger::ReclaimLost(int64_t org_id) {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, row] : rows_) {
    if (rules_[key.first].org_id() != org_id) continue;
    row.suspense -= row.lost;
    row.avail += row.lost;
    row.lost = 0;
  }
  Check();
}

void FakeLedger::OpenForeignEpoch(int64_t org_id) {
  WatchResponse change;
  {
    absl::MutexLock lock(&mutex_);
    CloseEpoch(org_id);
    auto& epoch = epochs_[org_id];
    epoch = {epoch.first + 1, "somebody else"};
    Epoch* out = change.add_epochs();
    out->set_org_id(org_id);
    out->set_epoch(epoch.first);
    out->set_incarnation(epoch.second);
  }
  hub_.WaitAcknowledged(hub_.Publish(change), absl::Seconds(20));
}

void FakeLedger::SetFault(Fault fault) {
  absl::MutexLock lock(&mutex_);
  fault_ = fault;
}

FakeLedger::Row& FakeLedger::RowOf(int64_t budget_id, const std::string& period) {
  auto [it, made] = rows_.try_emplace(Key{budget_id, period});
  if (made) it->second.cap = it->second.avail = caps_[budget_id];
  return it->second;
}

FakeLedger::Row FakeLedger::row(int64_t budget_id, const std::string& period) {
  absl::MutexLock lock(&mutex_);
  return RowOf(budget_id, period);
}

int64_t FakeLedger::epoch(int64_t org_id) {
  absl::MutexLock lock(&mutex_);
  return epochs_[org_id].first;
}

int FakeLedger::grants_made() {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(grants_.size());
}

std::vector<int64_t> FakeLedger::listed_grants() {
  absl::MutexLock lock(&mutex_);
  std::vector<int64_t> ids;
  for (const auto& [epoch, grants] : listed_) {
    if (epochs_[epoch.first].first != epoch.second) continue;
    for (const auto& [id, grant] : grants) ids.push_back(id);
  }
  return ids;
}

int64_t FakeLedger::expired_holds() {
  absl::MutexLock lock(&mutex_);
  return expired_;
}

std::vector<std::string> FakeLedger::problems() {
  absl::MutexLock lock(&mutex_);
  return problems_;
}

bool FakeLedger::edge_registered(int64_t org_id, int64_t epoch, const std::string& edge_id) {
  absl::MutexLock lock(&mutex_);
  return edges_.contains({org_id, epoch, edge_id});
}

bool FakeLedger::WaitFor(const std::function<bool()>& condition) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&condition), absl::Seconds(20));
}

bool FakeLedger::WaitForRow(int64_t budget_id, const std::string& period,
                            const std::function<bool(const Row&)>& good) {
  return WaitFor([&] { return good(RowOf(budget_id, period)); });
}

void FakeLedger::Check() {
  for (const auto& [key, row] : rows_) {
    if (std::min({row.avail, row.leased, row.suspense, row.spent, row.overrun, row.lost}) < 0 ||
        row.avail + row.leased + row.suspense + row.spent != row.cap + row.overrun) {
      problems_.push_back(absl::StrCat("budget ", key.first, " ", key.second, ": cap ", row.cap,
                                       " overrun ", row.overrun, " avail ", row.avail, " leased ",
                                       row.leased, " suspense ", row.suspense, " spent ", row.spent));
    }
  }
}

grpc::Status FakeLedger::Closed() const {
  return rpc::ToGrpc(
      MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_CLOSED", "the epoch is closed"));
}

bool FakeLedger::Fails(grpc::Status* status) {
  if (fault_ != Fault::kUnavailable) return false;
  *status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "down");
  return true;
}

grpc::Status FakeLedger::RegisterEpoch(grpc::ServerContext*, const RegisterEpochRequest* request,
                                       RegisterEpochResponse* response) {
  WatchResponse change;
  {
    absl::MutexLock lock(&mutex_);
    grpc::Status status;
    if (Fails(&status)) return status;
    auto& epoch = epochs_[request->org_id()];
    if (epoch.first > 0 && epoch.second == request->incarnation()) {
      response->set_epoch(epoch.first);
      return grpc::Status::OK;
    }
    if (epoch.first != request->expected_epoch()) {
      return rpc::ToGrpc(MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_MOVED",
                                   "another epoch is open",
                                   {{"epoch", std::to_string(epoch.first)}, {"incarnation", epoch.second}}));
    }
    CloseEpoch(request->org_id());
    epoch = {epoch.first + 1, request->incarnation()};
    response->set_epoch(epoch.first);
    Epoch* out = change.add_epochs();
    out->set_org_id(request->org_id());
    out->set_epoch(epoch.first);
    out->set_incarnation(epoch.second);
    Check();
  }
  hub_.Publish(change);
  return grpc::Status::OK;
}

grpc::Status FakeLedger::RegisterEdge(grpc::ServerContext*, const RegisterEdgeRequest* request,
                                      RegisterEdgeResponse*) {
  absl::MutexLock lock(&mutex_);
  grpc::Status status;
  if (Fails(&status)) return status;
  if (epochs_[request->org_id()].first != request->epoch()) return Closed();
  edges_.insert({request->org_id(), request->epoch(), request->edge_id()});
  return grpc::Status::OK;
}

grpc::Status FakeLedger::GrantLease(grpc::ServerContext*, const GrantLeaseRequest* request,
                                    GrantLeaseResponse* response) {
  absl::MutexLock lock(&mutex_);
  grpc::Status status;
  if (Fails(&status)) return status;
  if (epochs_[request->org_id()].first != request->epoch()) return Closed();
  const std::pair<int64_t, int64_t> epoch{request->org_id(), request->epoch()};
  auto [grant, made] = grants_.try_emplace({epoch.first, epoch.second, request->request_id()});
  if (request->request_id().empty()) problems_.push_back("a lease request without an id");
  if (made) {
    grant->second.set_grant_id(++last_grants_[epoch]);
    for (const auto& item : request->items()) {
      Row& row = RowOf(item.budget_id(), item.period());
      const int64_t room = item.leased_max_nanousd() == 0
                               ? row.avail
                               : std::min(row.avail, item.leased_max_nanousd() - row.leased);
      const int64_t granted = room < item.need_nanousd() ? 0 : std::min(room, item.want_nanousd());
      row.avail -= granted;
      row.leased += granted;
      auto* out = grant->second.add_items();
      out->set_budget_id(item.budget_id());
      out->set_period(item.period());
      out->set_granted_nanousd(granted);
      BudgetState* state = out->mutable_state();
      state->set_cap_nanousd(row.cap);
      state->set_overrun_nanousd(row.overrun);
      state->set_avail_nanousd(row.avail);
      state->set_leased_nanousd(row.leased);
      state->set_suspense_nanousd(row.suspense);
      state->set_lost_lease_nanousd(row.lost);
      state->set_spent_nanousd(row.spent);
    }
    listed_[epoch][grant->second.grant_id()] = grant->second;
    Check();
  }
  if (fault_ == Fault::kReplyLost) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "reply lost");
  *response = grant->second;
  return grpc::Status::OK;
}

grpc::Status FakeLedger::AcknowledgeGrants(grpc::ServerContext*, const AcknowledgeGrantsRequest* request,
                                           AcknowledgeGrantsResponse*) {
  absl::MutexLock lock(&mutex_);
  grpc::Status status;
  if (Fails(&status)) return status;
  for (int64_t id : request->grant_ids()) listed_[{request->org_id(), request->epoch()}].erase(id);
  return grpc::Status::OK;
}

grpc::Status FakeLedger::ListGrants(grpc::ServerContext*, const ListGrantsRequest* request,
                                    ListGrantsResponse* response) {
  absl::MutexLock lock(&mutex_);
  grpc::Status status;
  if (Fails(&status)) return status;
  if (epochs_[request->org_id()].first != request->epoch()) return Closed();
  for (const auto& [id, grant] : listed_[{request->org_id(), request->epoch()}]) {
    auto* out = response->add_grants();
    out->set_grant_id(id);
    for (const auto& item : grant.items()) {
      if (item.granted_nanousd() == 0) continue;
      auto* amount = out->add_amounts();
      amount->set_budget_id(item.budget_id());
      amount->set_period(item.period());
      amount->set_amount_nanousd(item.granted_nanousd());
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeLedger::ReturnLease(grpc::ServerContext*, const ReturnLeaseRequest* request,
                                     ReturnLeaseResponse*) {
  absl::MutexLock lock(&mutex_);
  grpc::Status status;
  if (Fails(&status)) return status;
  if (epochs_[request->org_id()].first != request->epoch()) return Closed();
  if (!returns_.insert({request->org_id(), request->epoch(), request->return_id()}).second) {
    return grpc::Status::OK;
  }
  for (const auto& held : request->amounts()) {
    Row& row = RowOf(held.budget_id(), held.period());
    row.leased -= held.amount_nanousd();
    const int64_t surplus = std::max<int64_t>(0, row.cap - caps_[held.budget_id()]);
    const int64_t gone = std::min(surplus, held.amount_nanousd());
    row.cap -= gone;
    row.avail += held.amount_nanousd() - gone;
  }
  Check();
  if (fault_ == Fault::kReplyLost) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "reply lost");
  return grpc::Status::OK;
}

grpc::Status FakeLedger::PostExpired(grpc::ServerContext*, const PostExpiredRequest* request,
                                     PostExpiredResponse*) {
  absl::MutexLock lock(&mutex_);
  grpc::Status status;
  if (Fails(&status)) return status;
  if (epochs_[request->org_id()].first != request->epoch()) return grpc::Status::OK;
  for (const auto& hold : request->holds()) {
    if (items_.contains(hold.hold_id())) continue;
    ++expired_;
    Item& item = items_[hold.hold_id()];
    item.epoch = request->epoch();
    Entry posted;
    const bool terminal = journal_.contains(hold.hold_id());
    if (terminal) posted.ParseFromString(journal_[hold.hold_id()]);
    for (const auto& covers : hold.covers()) {
      Row& row = RowOf(covers.budget_id(), covers.period());
      row.leased -= covers.amount_nanousd();
      if (!terminal) {
        row.suspense += covers.amount_nanousd();
        item.covers[{covers.budget_id(), covers.period()}] = covers.amount_nanousd();
        continue;
      }
      int64_t named = 0;  // of this budget by the entry: 0 if it was admitted without a hold
      for (const auto& held : posted.budgets()) {
        if (held.budget_id() == covers.budget_id() && held.period() == covers.period()) {
          named = held.amount_nanousd();
        }
      }
      const int64_t took = posted.epoch() == request->epoch()
                               ? std::min({posted.cost_nanousd(), named, covers.amount_nanousd()})
                               : 0;
      row.leased += took;  // the entry took this before
      row.avail += covers.amount_nanousd() - took;
    }
  }
  Check();
  return grpc::Status::OK;
}

PostOutcome FakeLedger::Post(const Entry& entry) {
  absl::MutexLock lock(&mutex_);
  auto [it, made] = journal_.try_emplace(entry.hold_id(), entry.SerializeAsString());
  if (!made) return POST_OUTCOME_DUPLICATE;
  const int64_t open_epoch = epochs_[entry.account_ids(0)].first;
  std::map<Key, int64_t> items;  // in suspense, to be freed but for what was used
  if (auto item = items_.find(entry.hold_id()); item != items_.end()) items = item->second.covers;
  for (const auto& [key, covers] : items) {
    rows_[key].suspense -= covers;
    rows_[key].avail += covers;
  }
  for (const auto& held : entry.budgets()) {
    if (held.observe()) continue;
    Row& row = RowOf(held.budget_id(), held.period());
    const int64_t used = std::min(entry.cost_nanousd(), held.amount_nanousd());
    const int64_t excess = entry.cost_nanousd() - used;
    if (items.contains({held.budget_id(), held.period()})) {
      row.avail -= used;
    } else if (entry.epoch() == open_epoch) {
      row.leased -= used;
    } else {
      row.suspense -= used;
      row.lost -= used;
    }
    row.spent += used + excess;
    row.overrun += excess;
  }
  Check();
  return POST_OUTCOME_POSTED;
}

}  // namespace tollhouse::enforcer
