// Budget rows within a transaction, and the journal lines that say how they changed.
#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "libs/base/strings.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {

absl::StatusOr<const BudgetDefinition*> SqlStore::LoadBudget(Txn& t, int64_t budget_id) {
  const auto found = t.budgets.find(budget_id);
  if (found != t.budgets.end()) return found->second.get();
  TH_ASSIGN_OR_RETURN(std::vector<BudgetDefinition> read,
                      QueryAllBudgets(t.c, "b.id = ?1", budget_id));
  std::unique_ptr<BudgetDefinition> budget;
  if (!read.empty()) budget = std::make_unique<BudgetDefinition>(std::move(read.front()));
  return (t.budgets[budget_id] = std::move(budget)).get();
}

std::string SqlStore::SelectRows(std::string_view where) {
  return absl::StrCat("SELECT id, budget_id, period, period_start, period_end, target, cap, overrun, "
                      "avail, leased, suspense, spent FROM budget_rows WHERE ",
                      Absl(where), " ORDER BY id");
}

std::string SqlStore::SelectBudgetsOfRows(std::string_view where) {
  return SelectBudgets(
      absl::StrCat("b.id IN (SELECT budget_id FROM budget_rows WHERE ", Absl(where), ")"));
}

absl::Status SqlStore::AddBudgets(Txn& t, sql::Rows& rows) {
  TH_ASSIGN_OR_RETURN(std::vector<BudgetDefinition> budgets, ReadBudgets(rows));
  for (BudgetDefinition& budget : budgets) {
    const int64_t id = budget.id;
    t.budgets.try_emplace(id, std::make_unique<BudgetDefinition>(std::move(budget)));
  }
  return absl::OkStatus();
}

absl::Status SqlStore::AddRows(Txn& t, sql::Rows& rows) {
  for (;;) {
    TH_ASSIGN_OR_RETURN(const LoadedRow* const row, AddRow(t, rows));
    if (row == nullptr) return absl::OkStatus();
  }
}

absl::Status SqlStore::PreloadRowsOf(
    Txn& t, const absl::flat_hash_set<std::pair<int64_t, std::string_view>>& names) {
  if (t.c.dialect() == sql::Dialect::kSqlite || names.empty()) return absl::OkStatus();
  std::vector<int64_t> budgets;
  std::vector<std::string_view> periods;
  for (const auto& [budget, period] : names) {
    budgets.push_back(budget);
    periods.push_back(period);
  }
  return PreloadRows(t,
                     "(budget_id, period) IN (SELECT * FROM unnest(CAST(?1 AS bigint[]), "
                     "CAST(?2 AS text[])))",
                     sql::Array::Ints(budgets), sql::Array::Texts(periods));
}

absl::StatusOr<SqlStore::LoadedRow*> SqlStore::AddRow(Txn& t, sql::Rows& rows) {
  if (!rows.Next()) {
    TH_RETURN_IF_ERROR(rows.status());
    return nullptr;
  }
  std::unique_ptr<LoadedRow>& loaded = t.rows[rows.Int(0)];
  if (loaded != nullptr) return loaded.get();  // what this transaction has made of it
  loaded = std::make_unique<LoadedRow>();
  loaded->id = rows.Int(0);
  const int64_t budget_id = rows.Int(1);
  loaded->period = rows.Text(2);
  loaded->start = FromColumn(rows.Int(3));
  loaded->end = FromColumn(rows.Int(4));
  loaded->row = {rows.Money(5), rows.Money(6), rows.Money(7), rows.Money(8),
                 rows.Money(9), rows.Money(10), rows.Money(11)};
  loaded->stored = loaded->row;
  TH_ASSIGN_OR_RETURN(loaded->budget, LoadBudget(t, budget_id));
  t.rows_by_budget[budget_id].push_back(loaded.get());
  return loaded.get();
}

absl::StatusOr<SqlStore::LoadedRow*> SqlStore::FindRow(Txn& t, int64_t budget_id,
                                                       std::string_view period) {
  const auto found = t.rows_by_budget.find(budget_id);
  if (found != t.rows_by_budget.end()) {
    for (LoadedRow* const row : found->second) {
      if (row->period == period) return row;
    }
  }
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      t.c.Query(SelectRows("budget_id = ?1 AND period = ?2"), budget_id, period));
  return AddRow(t, rows);
}

absl::StatusOr<SqlStore::LoadedRow*> SqlStore::FindRowById(Txn& t, int64_t row_id) {
  const auto found = t.rows.find(row_id);
  if (found != t.rows.end()) return found->second.get();
  TH_ASSIGN_OR_RETURN(sql::Rows rows, t.c.Query(SelectRows("id = ?1"), row_id));
  return AddRow(t, rows);
}

absl::StatusOr<SqlStore::LoadedRow*> SqlStore::LoadRow(Txn& t, int64_t org_id, int64_t budget_id,
                                                       std::string_view period, absl::Time at) {
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

absl::StatusOr<SqlStore::LoadedRow*> SqlStore::OpenRow(Txn& t, const BudgetDefinition& budget,
                                                       const Period& period, NanoUsd spent_before) {
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

absl::StatusOr<SqlStore::LoadedRow::Lost*> SqlStore::LostOf(Txn& t, LoadedRow& row, int64_t epoch) {
  const auto [entry, fresh] = row.lost.try_emplace(epoch);
  if (fresh) {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT lost FROM lost_leases WHERE org_id = ?1 AND row_id = ?2 AND epoch = ?3",
                  row.budget->org_id, row.id, epoch));
    if (rows.Next()) entry->second.amount = rows.Money(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  return &entry->second;
}

absl::Status SqlStore::PreloadLost(Txn& t, int64_t org_id, int64_t epoch) {
  std::map<int64_t, NanoUsd> lost;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT row_id, lost FROM lost_leases WHERE org_id = ?1 AND epoch = ?2", org_id, epoch));
    while (rows.Next()) lost[rows.Int(0)] = rows.Money(1);
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (auto& [id, row] : t.rows) {
    if (row->budget->org_id == org_id) row->lost.try_emplace(epoch, LoadedRow::Lost{lost[id]});
  }
  return absl::OkStatus();
}

absl::StatusOr<NanoUsd> SqlStore::SpentBefore(Txn& t, const BudgetDefinition& budget,
                                              const Period& period) {
  const std::map<std::string, std::string> match = DecodeTags(budget.spec.match);
  SpendGroups groups;
  for (const auto& [key, value] : match) {
    (key == "model" ? groups.model : key == "provider" ? groups.provider : groups.tags) = true;
  }
  TH_ASSIGN_OR_RETURN(const AccountRow account, AccountById(t.c, budget.account_id));
  TH_ASSIGN_OR_RETURN(const auto sums, SumSpend(t.c, account, ToColumn(period.start),
                                                ToColumn(period.end), groups));
  NanoUsd spent;
  for (const auto& [key, sum] : sums) {
    const std::map<std::string, std::string> tags = DecodeTags(key.tags);
    const bool matches = std::all_of(match.begin(), match.end(), [&](const auto& wanted) {
      if (wanted.first == "model") return key.model == wanted.second;
      if (wanted.first == "provider") return key.provider == wanted.second;
      const auto tag = tags.find(wanted.first);
      return tag != tags.end() && tag->second == wanted.second;
    });
    if (matches) spent += NanoUsd(sum.cost);
  }
  return spent;
}

absl::StatusOr<int64_t> SqlStore::WriteMovement(Txn& t, int64_t org_id, Movement kind,
                                                std::string_view note) {
  const auto found = t.orgs.find(org_id);
  if (found == t.orgs.end()) {
    return absl::InternalError(absl::StrCat("org ", org_id, " is changed without its lock"));
  }
  OrgState& org = found->second;
  org.movements.push_back({++org.last_sequence, kind, std::string(note)});
  return org.last_sequence;
}

absl::Status SqlStore::WriteLine(Txn& t, int64_t sequence, LoadedRow& row, int64_t epoch,
                                 const BudgetRow& before, NanoUsd d_lost, Terminal* terminal) {
  const BudgetRow& after = row.row;
  if (!after.Conserved()) std::abort();
  const LineDelta delta = {.cap = after.cap - before.cap,
                           .overrun = after.overrun - before.overrun,
                           .avail = after.avail - before.avail,
                           .leased = after.leased - before.leased,
                           .suspense = after.suspense - before.suspense,
                           .spent = after.spent - before.spent,
                           .lost = d_lost};
  if (delta == LineDelta()) return absl::OkStatus();
  const auto org = t.orgs.find(row.budget->org_id);
  if (org == t.orgs.end()) {
    return absl::InternalError(absl::StrCat("row ", row.id, " is changed without its org's lock"));
  }
  if (d_lost != NanoUsd(0)) {
    TH_ASSIGN_OR_RETURN(LoadedRow::Lost* const lost, LostOf(t, row, epoch));
    lost->amount += d_lost;
    lost->dirty = true;
  }
  org->second.lines[{terminal == nullptr ? sequence : 0, row.id, epoch}] += delta;
  if (terminal != nullptr) {
    terminal->lines.reserve(terminal->rows.size());
    terminal->lines.push_back({row.id, epoch, delta});
  }
  return absl::OkStatus();
}

}  // namespace tollhouse::ledger
