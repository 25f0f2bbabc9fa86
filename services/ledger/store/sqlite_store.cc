#include "services/ledger/store/sqlite_store.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "libs/obs/log.h"

namespace tollhouse::ledger {

absl::Time FromColumn(int64_t micros) {
  if (micros == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (micros == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixMicros(micros);
}

std::string Serialize(const google::protobuf::MessageLite& message) {
  std::string out;
  {
    google::protobuf::io::StringOutputStream stream(&out);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return out;
}

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& path,
                                                               const Clock* clock) {
  const sql::Migration migrations[] = {{1, kSchema1}, {2, kSchema2}};
  TH_ASSIGN_OR_RETURN(std::unique_ptr<sql::Database> database,
                      sql::OpenSqlite(path, migrations));
  return std::unique_ptr<SqliteStore>(new SqliteStore(std::move(database), clock));
}

absl::Status SqliteStore::Write(const std::function<absl::Status(Txn&)>& body, int64_t* version) {
  if (version != nullptr) *version = 0;
  absl::MutexLock lock(&mutex_);
  std::optional<Txn> txn;
  absl::Time next_raise_end = next_raise_end_;
  const absl::Status status = database_->Write([&](sql::Connection& c) -> absl::Status {
    txn.emplace(Txn{.c = c, .now = clock_->Wall()});
    Txn& t = *txn;
    {
      TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query("SELECT coalesce(max(sequence), 0) FROM journal"));
      if (rows.Next()) t.next_sequence = rows.Int(0) + 1;
      TH_RETURN_IF_ERROR(rows.status());
    }
    if (t.now >= next_raise_end_) {
      TH_RETURN_IF_ERROR(EndRaises(t));
      t.raises_changed = true;
    }
    TH_RETURN_IF_ERROR(body(t));
    TH_RETURN_IF_ERROR(Finish(t));
    if (t.raises_changed) {
      TH_ASSIGN_OR_RETURN(sql::Rows rows,
                          c.Query("SELECT min(until) FROM raises WHERE ended = 0"));
      next_raise_end = absl::InfiniteFuture();
      if (rows.Next() && !rows.IsNull(0)) next_raise_end = FromColumn(rows.Int(0));
      TH_RETURN_IF_ERROR(rows.status());
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  Txn& t = *txn;
  next_raise_end_ = next_raise_end;
  {
    absl::MutexLock counters_lock(&counters_mutex_);
    counters_.entries_posted += t.counters.entries_posted;
    counters_.entries_duplicate += t.counters.entries_duplicate;
    counters_.entries_conflicting += t.counters.entries_conflicting;
    counters_.entries_rejected += t.counters.entries_rejected;
    counters_.entries_above_hold += t.counters.entries_above_hold;
    counters_.suspense_resolved_auto += t.counters.suspense_resolved_auto;
    counters_.cover_missing += t.counters.cover_missing;
  }
  for (const Txn::AlertLog& alert : t.alerts) {
    obs::Warning("budget_threshold_reached", {{"budget", alert.budget},
                                              {"period", alert.period},
                                              {"threshold_pct", alert.threshold_pct},
                                              {"spent_nanousd", alert.spent}});
  }
  const bool changed = t.changes.budgets_size() > 0 || t.changes.deleted_budget_ids_size() > 0 ||
                       t.changes.limits_size() > 0 || t.changes.changed_account_ids_size() > 0 ||
                       t.changes.epochs_size() > 0;
  if (changed && publish_ != nullptr) {
    const int64_t published = publish_(std::move(t.changes));
    if (version != nullptr) *version = published;
  }
  if (t.deliveries_added && deliveries_added_ != nullptr) deliveries_added_();
  return absl::OkStatus();
}

absl::Status SqliteStore::Finish(Txn& t) {
  for (auto& [key, loaded] : t.rows) {
    LoadedRow& r = *loaded;
    for (auto& [epoch, amounts] : r.epochs) {
      if (!amounts.dirty) continue;
      TH_RETURN_IF_ERROR(
          t.c.Execute("INSERT INTO epoch_amounts (row_id, epoch, leased, lost, org_id) "
                      "VALUES (?1, ?2, ?3, ?4, ?5) "
                      "ON CONFLICT DO UPDATE SET leased = ?3, lost = ?4",
                      r.id, epoch, amounts.leased, amounts.lost, r.budget->org_id)
              .status());
      amounts.dirty = false;
    }
    if (r.row == r.stored) continue;
    TH_RETURN_IF_ERROR(
        t.c.Execute("UPDATE budget_rows SET target = ?2, cap = ?3, overrun = ?4, avail = ?5, "
                    "leased = ?6, suspense = ?7, spent = ?8 WHERE id = ?1",
                    r.id, r.row.target, r.row.cap, r.row.overrun, r.row.avail, r.row.leased,
                    r.row.suspense, r.row.spent)
            .status());
    if (r.row.WantsLeaseBack() != r.stored.WantsLeaseBack() && r.start <= t.now && t.now < r.end) {
      t.changed_rules.insert(r.budget->id);
    }
    if (r.row.spent > r.stored.spent || r.row.target != r.stored.target) {
      TH_RETURN_IF_ERROR(RecordAlerts(t, r));
    }
    r.stored = r.row;
  }
  for (const int64_t id : std::exchange(t.changed_rules, {})) {
    TH_ASSIGN_OR_RETURN(const BudgetDefinition* const budget, LoadBudget(t, id));
    if (budget == nullptr || budget->deleted || budget->is_template()) continue;
    v1::BudgetRule rule = RuleOf(*budget);
    TH_ASSIGN_OR_RETURN(const bool recall, NeedsRecall(t.c, *budget, t.now));
    rule.set_recall(recall);
    *t.changes.add_budgets() = std::move(rule);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::WatchResponse> SqliteStore::Snapshot() {
  v1::WatchResponse out;
  out.set_snapshot(true);
  const absl::Time now = clock_->Wall();
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> budgets,
                        QueryBudgets(c, "b.for_each = 0", 0));
    for (const BudgetDefinition& budget : budgets) {
      v1::BudgetRule rule = RuleOf(budget);
      TH_ASSIGN_OR_RETURN(const bool recall, NeedsRecall(c, budget, now));
      rule.set_recall(recall);
      *out.add_budgets() = std::move(rule);
    }
    TH_ASSIGN_OR_RETURN(
        const std::vector<AccountRow> limited,
        QueryAccounts(c,
                      "deleted_at IS NULL AND (requests_per_minute > 0 OR tokens_per_minute > 0 OR "
                      "concurrency > 0 OR max_output_tokens > 0 OR max_request_cost > 0)",
                      "", 0));
    for (const AccountRow& account : limited) {
      v1::AccountLimits& limits = *out.add_limits();
      limits.set_org_id(account.org_id);
      limits.set_account_id(account.id);
      limits.set_path(account.path);
      *limits.mutable_limits() = account.limits;
    }
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        c.Query("SELECT org_id, epoch, incarnation FROM epochs WHERE closed_at IS NULL"));
    while (rows.Next()) {
      v1::Epoch& epoch = *out.add_epochs();
      epoch.set_org_id(rows.Int(0));
      epoch.set_epoch(rows.Int(1));
      epoch.set_incarnation(rows.Text(2));
    }
    return rows.status();
  }));
  return out;
}

StoreCounters SqliteStore::counters() const {
  absl::MutexLock lock(&counters_mutex_);
  return counters_;
}

}  // namespace tollhouse::ledger
