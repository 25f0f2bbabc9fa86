// Budget rows within a transaction, and the journal lines that say how they changed.
#include <cstdlib>

#include "services/ledger/core/names.h"
#include "services/ledger/store/sqlite_store.h"

namespace tollhouse::ledger {

absl::StatusOr<const BudgetDefinition*> SqliteStore::LoadBudget(Txn& t, int64_t budget_id) {
  const auto found = t.budgets.find(budget_id);
  if (found != t.budgets.end()) return found->second.get();
  TH_ASSIGN_OR_RETURN(std::vector<BudgetDefinition> read,
                      QueryAllBudgets(t.c, "b.id = ?1", budget_id, ""));
  std::unique_ptr<BudgetDefinition> budget;
  if (!read.empty()) budget = std::make_unique<BudgetDefinition>(std::move(read.front()));
  return (t.budgets[budget_id] = std::move(budget)).get();
}

namespace {

constexpr std::string_view kSelectRow =
    "SELECT id, budget_id, period, period_start, period_end, target, cap, overrun, avail, leased, "
    "suspense, spent FROM budget_rows WHERE ";

}  // namespace

absl::StatusOr<SqliteStore::LoadedRow*> SqliteStore::AddRow(Txn& t, sql::Rows& rows) {
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    return nullptr;
  }
  auto loaded = std::make_unique<LoadedRow>();
  loaded->id = rows.Int(0);
  const int64_t budget_id = rows.Int(1);
  loaded->period = rows.Text(2);
  loaded->start = FromColumn(rows.Int(3));
  loaded->end = FromColumn(rows.Int(4));
  loaded->row = {rows.Money(5), rows.Money(6), rows.Money(7), rows.Money(8),
                 rows.Money(9), rows.Money(10), rows.Money(11)};
  loaded->stored = loaded->row;
  TH_ASSIGN_OR_RETURN(loaded->budget, LoadBudget(t, budget_id));
  LoadedRow* const row = loaded.get();
  t.rows_by_id[row->id] = row;
  t.rows[{budget_id, row->period}] = std::move(loaded);
  return row;
}

absl::StatusOr<SqliteStore::LoadedRow*> SqliteStore::FindRow(Txn& t, int64_t budget_id,
                                                             std::string_view period) {
  const auto found = t.rows.find({budget_id, std::string(period)});
  if (found != t.rows.end()) return found->second.get();
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      t.c.Query(std::string(kSelectRow) + "budget_id = ?1 AND period = ?2",
                                budget_id, period));
  return AddRow(t, rows);
}

absl::StatusOr<SqliteStore::LoadedRow*> SqliteStore::FindRowById(Txn& t, int64_t row_id) {
  const auto found = t.rows_by_id.find(row_id);
  if (found != t.rows_by_id.end()) return found->second;
  TH_ASSIGN_OR_RETURN(sql::Rows rows, t.c.Query(std::string(kSelectRow) + "id = ?1", row_id));
  return AddRow(t, rows);
}

absl::StatusOr<SqliteStore::LoadedRow*> SqliteStore::LoadRow(Txn& t, int64_t org_id,
                                                             int64_t budget_id,
                                                             std::string_view period,
                                                             absl::Time at) {
  TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRow(t, budget_id, period));
  if (row != nullptr) return row->budget->org_id == org_id ? row : nullptr;
  TH_ASSIGN_OR_RETURN(const BudgetDefinition* const budget, LoadBudget(t, budget_id));
  if (budget == nullptr || budget->org_id != org_id || budget->is_template()) return nullptr;
  for (const absl::Time moment : {t.now, at}) {
    const Period now = PeriodAt(budget->window, budget->zone, moment);
    if (now.key == period) return OpenRow(t, *budget, now, NanoUsd(0));
    if (now.end == absl::InfiniteFuture()) continue;
    // Clocks of enforcers and edges may be a little off.
    for (const absl::Time neighbour : {now.start - absl::Nanoseconds(1), now.end}) {
      const Period near = PeriodAt(budget->window, budget->zone, neighbour);
      if (near.key == period) return OpenRow(t, *budget, near, NanoUsd(0));
    }
  }
  return nullptr;
}

absl::StatusOr<SqliteStore::LoadedRow*> SqliteStore::OpenRow(Txn& t, const BudgetDefinition& budget,
                                                             const Period& period,
                                                             NanoUsd spent_before) {
  int64_t id = 0;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("INSERT INTO budget_rows (org_id, budget_id, period, period_start, period_end, "
                  "target, cap, overrun, avail, leased, suspense, spent) "
                  "VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, 0, 0, 0, 0) RETURNING id",
                  budget.org_id, budget.id, period.key, ToColumn(period.start), ToColumn(period.end)));
    if (rows.Next()) id = rows.Int(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRowById(t, id));
  TH_ASSIGN_OR_RETURN(const int64_t sequence, WriteMovement(t, budget.org_id, Movement::kOpen));
  const BudgetRow before = row->row;
  row->row.SetTarget(budget.target());
  row->row.Charge(spent_before);
  TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, 0, before, NanoUsd(0)));
  return row;
}

absl::StatusOr<SqliteStore::LoadedRow::PerEpoch*> SqliteStore::EpochOf(Txn& t, LoadedRow& row,
                                                                       int64_t epoch) {
  const auto [entry, fresh] = row.epochs.try_emplace(epoch);
  if (fresh) {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT leased, lost FROM epoch_amounts WHERE row_id = ?1 AND epoch = ?2", row.id,
                  epoch));
    if (rows.Next()) {
      entry->second.leased = rows.Money(0);
      entry->second.lost = rows.Money(1);
    }
    TH_RETURN_IF_ERROR(rows.status());
  }
  return &entry->second;
}

absl::StatusOr<NanoUsd> SqliteStore::SpentBefore(Txn& t, const BudgetDefinition& budget,
                                                 const Period& period) {
  NanoUsd spent;
  const std::map<std::string, std::string> match = DecodeTags(budget.spec.match);
  if (match.empty()) {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT coalesce(sum(cost), 0) FROM account_entries WHERE "
                                  "account_id = ?1 AND started_at >= ?2 AND started_at < ?3",
                                  budget.account_id, ToColumn(period.start), ToColumn(period.end)));
    if (rows.Next()) spent = rows.Money(0);
    TH_RETURN_IF_ERROR(rows.status());
    return spent;
  }
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      t.c.Query("SELECT e.cost, j.entry FROM account_entries e JOIN journal j USING (sequence) WHERE "
                "e.account_id = ?1 AND e.started_at >= ?2 AND e.started_at < ?3 AND e.cost <> 0",
                budget.account_id, ToColumn(period.start), ToColumn(period.end)));
  v1::Entry entry;
  while (rows.Next()) {
    const std::string_view bytes = rows.View(1);
    if (!entry.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) continue;
    bool matches = true;
    for (const auto& [key, value] : match) {
      if (key == "model") {
        matches = matches && entry.model() == value;
      } else if (key == "provider") {
        matches = matches && entry.provider() == value;
      } else {
        const auto tag = entry.tags().find(key);
        matches = matches && tag != entry.tags().end() && tag->second == value;
      }
    }
    if (matches) spent += rows.Money(0);
  }
  TH_RETURN_IF_ERROR(rows.status());
  return spent;
}

absl::StatusOr<int64_t> SqliteStore::WriteMovement(Txn& t, int64_t org_id, Movement kind,
                                                   std::string_view note) {
  const int64_t sequence = t.next_sequence++;
  TH_RETURN_IF_ERROR(
      t.c.Execute("INSERT INTO journal (sequence, org_id, kind, at, note) VALUES (?1, ?2, ?3, ?4, ?5)",
                  sequence, org_id, kind, ToColumn(t.now), note)
          .status());
  return sequence;
}

absl::Status SqliteStore::WriteLine(Txn& t, int64_t sequence, LoadedRow& row, int64_t epoch,
                                    const BudgetRow& before, NanoUsd d_lost) {
  const BudgetRow& after = row.row;
  if (!after.Conserved()) std::abort();
  if (after == before && d_lost == NanoUsd(0)) return absl::OkStatus();
  const NanoUsd d_leased = after.leased - before.leased;
  if (d_leased != NanoUsd(0) || d_lost != NanoUsd(0)) {
    TH_ASSIGN_OR_RETURN(LoadedRow::PerEpoch* const amounts, EpochOf(t, row, epoch));
    amounts->leased += d_leased;
    amounts->lost += d_lost;
    amounts->dirty = true;
  }
  // One movement may touch a row several times: once as the hold's, once for a duplicate.
  row.line_ordinal = row.line_sequence == sequence ? row.line_ordinal + 1 : 0;
  row.line_sequence = sequence;
  return t.c
      .Execute("INSERT INTO lines (sequence, row_id, ordinal, epoch, d_cap, d_overrun, d_avail, "
               "d_leased, d_suspense, d_spent, d_lost) "
               "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
               sequence, row.id, row.line_ordinal, epoch, after.cap - before.cap,
               after.overrun - before.overrun, after.avail - before.avail, d_leased,
               after.suspense - before.suspense, after.spent - before.spent, d_lost)
      .status();
}

}  // namespace tollhouse::ledger
