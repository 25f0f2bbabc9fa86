// Budgets: definitions, templates, raises, and the views of them.
#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sql_store.h"
#include "services/ledger/validate.h"

namespace tollhouse::ledger {
namespace {

constexpr int64_t kBudgetsPerRequestMax = 32;

absl::Status NoBudget(std::string_view what) {
  return MakeError(absl::StatusCode::kNotFound, "BUDGET_NOT_FOUND",
                   absl::StrCat("no budget ", Absl(what)));
}

std::vector<int> ParseList(std::string_view text) {
  std::vector<int> out;
  if (text.empty()) return out;
  for (const absl::string_view part : absl::StrSplit(Absl(text), ',')) {
    int value = 0;
    if (absl::SimpleAtoi(part, &value)) out.push_back(value);
  }
  return out;
}

}  // namespace

std::string BudgetDefinition::display_id() const {
  return BudgetDisplayId(spec.path, spec.name, spec.window, spec.match, NameOf(spec.for_each));
}

std::string SqlStore::SelectBudgets(std::string_view where) {
  return absl::StrCat("SELECT b.id, b.org_id, b.account_id, b.template_id, b.created_at, "
                      "b.deleted_at IS NOT NULL, a.path, b.name, b.window_name, b.time_zone, b.anchor, "
                      "b.match, b.for_each, b.limit_nanos, b.hard_pct, b.soft_pct, b.mode, "
                      "b.bound, b.on_outage, coalesce((SELECT sum(amount) FROM raises r "
                      "WHERE r.budget_id = b.id AND r.ended = 0), 0) "
                      "FROM budgets b JOIN accounts a ON a.id = b.account_id WHERE ",
                      Absl(where), " ORDER BY a.path, b.id");
}

absl::StatusOr<std::vector<BudgetDefinition>> SqlStore::ReadBudgets(sql::Rows& rows) {
  std::vector<BudgetDefinition> out;
  while (rows.Next()) {
    BudgetDefinition b;
    b.id = rows.Int(0);
    b.org_id = rows.Int(1);
    b.account_id = rows.Int(2);
    b.template_id = rows.Int(3);
    b.created_at = FromColumn(rows.Int(4));
    b.deleted = rows.Bool(5);
    b.spec.path = rows.Text(6);
    b.spec.name = rows.Text(7);
    b.spec.window = rows.Text(8);
    b.spec.time_zone = rows.Text(9);
    b.spec.anchor = rows.Text(10);
    b.spec.match = rows.Text(11);
    b.spec.for_each = static_cast<common::v1::AccountKind>(rows.Int(12));
    b.spec.limit_nanos = rows.Int(13);
    b.spec.hard_pct = static_cast<int>(rows.Int(14));
    b.spec.soft_pct = ParseList(rows.View(15));
    b.spec.mode = static_cast<common::v1::BudgetMode>(rows.Int(16));
    b.spec.bound = static_cast<common::v1::BoundPolicy>(rows.Int(17));
    b.spec.on_outage = static_cast<common::v1::OutagePolicy>(rows.Int(18));
    b.raised = rows.Money(19);
    absl::CivilDay anchor;
    if (!b.spec.anchor.empty()) absl::ParseCivilTime(b.spec.anchor, &anchor);
    TH_ASSIGN_OR_RETURN(b.window, ParseWindow(b.spec.window, anchor));
    TH_ASSIGN_OR_RETURN(b.zone, ParseTimeZone(b.spec.time_zone));
    out.push_back(std::move(b));
  }
  TH_RETURN_IF_ERROR(rows.status());
  return out;
}

absl::StatusOr<std::optional<BudgetDefinition>> SqlStore::FindBudget(sql::Connection& c,
                                                                        int64_t account_id,
                                                                        const BudgetSpec& spec) {
  TH_ASSIGN_OR_RETURN(
      std::vector<BudgetDefinition> found,
      spec.name.empty()
          ? QueryBudgets(c, absl::StrCat("b.account_id = ?1 AND b.name = '' AND "
                                         "b.window_name || '#' || b.match = ?2 AND b.for_each = ",
                                         static_cast<int>(spec.for_each)),
                         account_id, absl::StrCat(spec.window, "#", spec.match))
          : QueryBudgets(c, absl::StrCat("b.account_id = ?1 AND b.name = ?2 AND b.for_each = ",
                                         static_cast<int>(spec.for_each)),
                         account_id, spec.name));
  if (found.empty()) return std::nullopt;
  return std::move(found.front());
}

absl::StatusOr<BudgetDefinition> SqlStore::BudgetByKey(sql::Connection& c, const BudgetKey& key) {
  TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(c, key.path));
  TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> all,
                      QueryBudgets(c, "b.account_id = ?1", account.id));
  std::vector<BudgetDefinition> fitting;
  for (const BudgetDefinition& budget : all) {
    if (!key.name.empty() ? budget.spec.name == key.name || budget.display_id() == key.name
                          : (key.window.empty() || budget.spec.window == key.window) &&
                                ((key.window.empty() && key.match.empty()) ||
                                 budget.spec.match == key.match)) {
      fitting.push_back(budget);
    }
  }
  // Concrete before template, unnamed before named: what was said exactly wins.
  const auto rank = [&](const BudgetDefinition& b) {
    return (b.is_template() ? 2 : 0) + (key.name.empty() && !b.spec.name.empty() ? 1 : 0);
  };
  std::stable_sort(fitting.begin(), fitting.end(),
                   [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  if (fitting.empty()) {
    return NoBudget(absl::StrCat("at '", key.path, "'",
                                 key.name.empty() ? "" : absl::StrCat(" named '", key.name, "'"),
                                 key.window.empty() ? "" : absl::StrCat(" for the window ", key.window)));
  }
  if (fitting.size() > 1 && rank(fitting[0]) == rank(fitting[1])) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                     absl::StrCat("'", key.path, "' has several such budgets; give window and match, or the name"));
  }
  return fitting.front();
}

absl::Status SqlStore::ForgetBudget(Txn& t, int64_t budget_id) {
  const auto found = t.budgets.find(budget_id);
  if (found == t.budgets.end() || found->second == nullptr) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(std::vector<BudgetDefinition> read,
                      QueryAllBudgets(t.c, "b.id = ?1", budget_id));
  *found->second = std::move(read.front());
  return absl::OkStatus();
}

absl::StatusOr<BudgetDefinition> SqlStore::UpsertBudget(Txn& t, const AccountRow& account,
                                                           const BudgetSpec& wanted,
                                                           int64_t template_id, bool* created) {
  *created = false;
  BudgetSpec spec = wanted;
  TH_ASSIGN_OR_RETURN(const std::optional<BudgetDefinition> present,
                      FindBudget(t.c, account.id, spec));
  if (present.has_value() && template_id > 0 && present->template_id != template_id) {
    // What somebody set, and what a nearer template made, stays.
    if (present->template_id == 0) return *present;
    TH_ASSIGN_OR_RETURN(const BudgetDefinition* const other, LoadBudget(t, present->template_id));
    TH_ASSIGN_OR_RETURN(const BudgetDefinition* const ours, LoadBudget(t, template_id));
    if (other != nullptr && ours != nullptr && !other->deleted &&
        other->spec.path.size() > ours->spec.path.size()) {
      return *present;
    }
  }
  TH_ASSIGN_OR_RETURN(const Window window, ParseWindow(spec.window));
  if (window.kind == Window::Kind::kDays && spec.anchor.empty()) {
    TH_ASSIGN_OR_RETURN(const absl::TimeZone zone, ParseTimeZone(spec.time_zone));
    const bool keep = present.has_value() && present->spec.window == spec.window;
    spec.anchor = keep ? present->spec.anchor : absl::FormatCivilTime(absl::ToCivilDay(t.now, zone));
  }
  const std::string soft = absl::StrJoin(spec.soft_pct, ",");
  if (present.has_value() && present->spec.window == spec.window &&
      present->spec.time_zone == spec.time_zone && present->spec.anchor == spec.anchor &&
      present->spec.match == spec.match) {
    TH_RETURN_IF_ERROR(
        t.c.Execute("UPDATE budgets SET template_id = ?2, limit_nanos = ?3, hard_pct = ?4, "
                    "soft_pct = ?5, mode = ?6, bound = ?7, on_outage = ?8 WHERE id = ?1",
                    present->id, template_id, spec.limit_nanos, spec.hard_pct, soft, spec.mode,
                    spec.bound, spec.on_outage)
            .status());
    TH_RETURN_IF_ERROR(ForgetBudget(t, present->id));
    t.changed_rules.insert(present->id);
    TH_RETURN_IF_ERROR(RefreshTargets(t, present->id));
    TH_ASSIGN_OR_RETURN(const BudgetDefinition* const updated, LoadBudget(t, present->id));
    return *updated;
  }
  if (present.has_value()) {  // another definition is another budget
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE budgets SET deleted_at = ?2 WHERE id = ?1", present->id,
                                   ToColumn(t.now))
                           .status());
    TH_RETURN_IF_ERROR(ForgetBudget(t, present->id));
    if (!present->is_template()) t.changes.add_deleted_budget_ids(present->id);
  }
  int64_t id = 0;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("INSERT INTO budgets (org_id, account_id, name, window_name, time_zone, anchor, match, "
                  "for_each, template_id, limit_nanos, hard_pct, soft_pct, mode, bound, on_outage, "
                  "created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, "
                  "?15, ?16) RETURNING id",
                  account.org_id, account.id, spec.name, spec.window, spec.time_zone, spec.anchor,
                  spec.match, spec.for_each, template_id, spec.limit_nanos, spec.hard_pct, soft,
                  spec.mode, spec.bound, spec.on_outage, ToColumn(t.now)));
    if (rows.Next()) id = rows.Int(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  if (present.has_value()) {
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE raises SET budget_id = ?2 WHERE budget_id = ?1 AND ended = 0",
                                   present->id, id)
                           .status());
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE budgets SET template_id = ?2 WHERE template_id = ?1 AND "
                                   "deleted_at IS NULL AND template_id > 0",
                                   present->id, id)
                           .status());
  } else {
    *created = true;
  }
  TH_ASSIGN_OR_RETURN(const BudgetDefinition* const budget, LoadBudget(t, id));
  if (!budget->is_template()) {
    const Period period = PeriodAt(budget->window, budget->zone, t.now);
    TH_ASSIGN_OR_RETURN(const NanoUsd spent, SpentBefore(t, *budget, period));
    TH_RETURN_IF_ERROR(OpenRow(t, *budget, period, spent).status());
    t.changed_rules.insert(id);
  }
  return *budget;
}

absl::Status SqlStore::Materialize(Txn& t, const AccountRow& account) {
  TH_ASSIGN_OR_RETURN(std::vector<BudgetDefinition> templates,
                      QueryBudgets(t.c, absl::StrCat("b.org_id = ?1 AND b.for_each = ",
                                                     static_cast<int>(account.kind)),
                                   account.org_id));
  for (const BudgetDefinition& budget : templates) {  // by path: the nearest last
    if (budget.account_id == account.id || !IsAtOrBelow(account.path, budget.spec.path)) continue;
    BudgetSpec spec = budget.spec;
    spec.path = account.path;
    spec.for_each = common::v1::ACCOUNT_KIND_UNSPECIFIED;
    bool created = false;
    TH_RETURN_IF_ERROR(UpsertBudget(t, account, spec, budget.id, &created).status());
  }
  return absl::OkStatus();
}

absl::Status SqlStore::CheckBudgetCount(Txn& t, const std::vector<AccountRow>& accounts) {
  std::map<std::string, int64_t, std::less<>> counts;  // by path, 0 where there is none
  for (const AccountRow& account : accounts) {
    int64_t sum = 0;
    for (std::string path = account.path; !path.empty(); path = ParentOf(path)) {
      const auto [entry, fresh] = counts.try_emplace(path, 0);
      if (fresh) {
        TH_ASSIGN_OR_RETURN(sql::Rows rows,
                            t.c.Query("SELECT count(*) FROM budgets b JOIN accounts a ON "
                                      "a.id = b.account_id WHERE a.path = ?1 AND a.deleted_at IS NULL "
                                      "AND b.deleted_at IS NULL AND b.for_each = 0",
                                      path));
        if (rows.Next()) entry->second = rows.Int(0);
        TH_RETURN_IF_ERROR(rows.status());
      }
      sum += entry->second;
    }
    if (sum > kBudgetsPerRequestMax) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "TOO_MANY_BUDGETS",
                       absl::StrCat(sum, " budgets would apply to '", account.path,
                                    "'; at most 32 may: delete one, or set fewer for each"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::SetBudgetResponse> SqlStore::SetBudget(audit::Call* audit,
                                                          const BudgetSpec& spec,
                                                          int64_t* version) {
  v1::SetBudgetResponse out;
  TH_RETURN_IF_ERROR(Write(
      OrgOf(spec.path),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(t.c, spec.path));
        if (spec.for_each != common::v1::ACCOUNT_KIND_UNSPECIFIED && spec.for_each <= account.kind) {
          return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                           absl::StrCat("'", spec.path, "' has no ", Absl(NameOf(spec.for_each)),
                                        "s below it"));
        }
        if (audit != nullptr) {
          TH_ASSIGN_OR_RETURN(const std::optional<BudgetDefinition> before,
                              FindBudget(t.c, account.id, spec));
          TH_RETURN_IF_ERROR(RecordBefore(t, before));
        }
        bool created = false;
        TH_ASSIGN_OR_RETURN(const BudgetDefinition budget,
                            UpsertBudget(t, account, spec, 0, &created));
        TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> below, Subtree(t.c, spec.path));
        if (budget.is_template()) {
          for (const AccountRow& each : below) {
            if (each.kind == spec.for_each) TH_RETURN_IF_ERROR(Materialize(t, each));
          }
        }
        TH_RETURN_IF_ERROR(CheckBudgetCount(t, below));
        TH_RETURN_IF_ERROR(Finish(t));
        TH_ASSIGN_OR_RETURN(*out.mutable_budget(), ViewOf(t.c, budget, t.now));
        out.set_created(created);
        if (audit != nullptr) {
          audit->SetResource(out.budget().id(), spec.path);
          audit->SetAfter(out.budget());
        }
        return absl::OkStatus();
      },
      version, audit));
  return out;
}

absl::Status SqlStore::RecordBefore(Txn& t, const std::optional<BudgetDefinition>& budget) {
  if (t.audit == nullptr || !budget.has_value()) return absl::OkStatus();
  TH_ASSIGN_OR_RETURN(const v1::Budget view, ViewOf(t.c, *budget, t.now));
  t.audit->SetResource(view.id(), view.path());
  t.audit->SetBefore(view);
  return absl::OkStatus();
}

absl::Status SqlStore::TombstoneBudget(Txn& t, const BudgetDefinition& budget) {
  TH_RETURN_IF_ERROR(t.c.Execute("UPDATE budgets SET deleted_at = ?2 WHERE id = ?1", budget.id,
                                 ToColumn(t.now))
                         .status());
  TH_RETURN_IF_ERROR(ForgetBudget(t, budget.id));
  t.changed_rules.erase(budget.id);
  if (!budget.is_template()) {
    t.changes.add_deleted_budget_ids(budget.id);
    return absl::OkStatus();
  }
  TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> made,
                      QueryBudgets(t.c, "b.template_id = ?1", budget.id));
  for (const BudgetDefinition& each : made) TH_RETURN_IF_ERROR(TombstoneBudget(t, each));
  return absl::OkStatus();
}

absl::StatusOr<std::string> SqlStore::DeleteBudget(audit::Call* audit, const BudgetKey& key,
                                                   int64_t* version) {
  std::string id;
  TH_RETURN_IF_ERROR(Write(
      OrgOf(key.path),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const BudgetDefinition budget, BudgetByKey(t.c, key));
        id = budget.display_id();
        TH_RETURN_IF_ERROR(RecordBefore(t, budget));
        return TombstoneBudget(t, budget);
      },
      version, audit));
  return id;
}

absl::Status SqlStore::RefreshTargets(Txn& t, int64_t budget_id) {
  TH_ASSIGN_OR_RETURN(const BudgetDefinition* const budget, LoadBudget(t, budget_id));
  std::vector<int64_t> open;
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        t.c.Query("SELECT id FROM budget_rows WHERE budget_id = ?1 AND period_end > ?2",
                                  budget_id, ToColumn(t.now)));
    while (rows.Next()) open.push_back(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
  }
  for (const int64_t id : open) {
    TH_ASSIGN_OR_RETURN(LoadedRow* const row, FindRowById(t, id));
    if (row->row.target == budget->target()) continue;
    TH_ASSIGN_OR_RETURN(const int64_t sequence,
                        WriteMovement(t, budget->org_id, Movement::kCap));
    const BudgetRow before = row->row;
    row->row.SetTarget(budget->target());
    TH_RETURN_IF_ERROR(WriteLine(t, sequence, *row, 0, before, NanoUsd(0)));
  }
  return absl::OkStatus();
}

absl::Status SqlStore::EndRaises(Txn& t, int64_t org_id) {
  std::set<int64_t> budgets;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("SELECT budget_id FROM raises WHERE org_id = ?1 AND ended = 0 AND until <= ?2", org_id,
                  ToColumn(t.now)));
    while (rows.Next()) budgets.insert(rows.Int(0));
    TH_RETURN_IF_ERROR(rows.status());
  }
  TH_RETURN_IF_ERROR(
      t.c.Execute("UPDATE raises SET ended = 1 WHERE org_id = ?1 AND ended = 0 AND until <= ?2", org_id,
                  ToColumn(t.now))
          .status());
  for (const int64_t id : budgets) {
    TH_RETURN_IF_ERROR(ForgetBudget(t, id));
    TH_RETURN_IF_ERROR(RefreshTargets(t, id));
    t.changed_rules.insert(id);
  }
  return RefreshNextRaiseEnd(t, org_id);
}

absl::Status SqlStore::RefreshNextRaiseEnd(Txn& t, int64_t org_id) {
  TH_ASSIGN_OR_RETURN(
      sql::Rows rows,
      t.c.Query("SELECT min(until) FROM raises WHERE org_id = ?1 AND ended = 0", org_id));
  OrgState& org = t.orgs.at(org_id);
  org.next_raise_end = rows.Next() && !rows.IsNull(0) ? FromColumn(rows.Int(0)) : absl::InfiniteFuture();
  org.dirty = true;
  return rows.status();
}

absl::StatusOr<std::optional<absl::Time>> SqlStore::EndRaises() {
  const absl::Time now = clock_->Wall();
  std::vector<int64_t> due;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("SELECT org_id FROM orgs WHERE next_raise_end <= ?1", ToColumn(now)));
    while (rows.Next()) due.push_back(rows.Int(0));
    return rows.status();
  }));
  for (const int64_t org : due) {  // every transaction of an org ends its due raises first
    TH_RETURN_IF_ERROR(Write(Org(org), [](Txn&) { return absl::OkStatus(); }));
  }
  std::optional<absl::Time> next;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(sql::Rows rows, c.Query("SELECT min(next_raise_end) FROM orgs"));
    if (rows.Next() && FromColumn(rows.Int(0)) != absl::InfiniteFuture()) next = FromColumn(rows.Int(0));
    return rows.status();
  }));
  return next;
}

absl::StatusOr<v1::Budget> SqlStore::RaiseBudget(audit::Call* audit, const BudgetKey& key,
                                                 int64_t by_nanos, absl::Time until,
                                                 std::string_view reason,
                                                 std::string_view client_request_id,
                                                 int64_t* version) {
  v1::Budget out;
  TH_RETURN_IF_ERROR(Write(
      OrgOf(key.path),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const BudgetDefinition budget, BudgetByKey(t.c, key));
        if (budget.is_template()) {
          return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                           "a template has no money to raise; raise a budget it made");
        }
        TH_RETURN_IF_ERROR(RecordBefore(t, budget));
        bool repeated = false;
        if (!client_request_id.empty()) {
          TH_ASSIGN_OR_RETURN(sql::Rows rows,
                              t.c.Query("SELECT 1 FROM raises WHERE org_id = ?1 AND "
                                        "client_request_id = ?2",
                                        budget.org_id, client_request_id));
          repeated = rows.Next();
          TH_RETURN_IF_ERROR(rows.status());
        }
        if (!repeated) {
          if (until <= t.now) {
            return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT",
                             "`until` has passed: a raise ends in the future");
          }
          if (static_cast<__int128>(budget.limit().nanos()) + by_nanos > kMaxCap.nanos()) {
            return MakeError(absl::StatusCode::kInvalidArgument, "BAD_AMOUNT",
                             "limit and raises together are more than $4,000,000,000");
          }
          TH_RETURN_IF_ERROR(
              t.c.Execute("INSERT INTO raises (org_id, budget_id, amount, until, reason, "
                          "client_request_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5, nullif(?6, ''), ?7)",
                          budget.org_id, budget.id, by_nanos, ToColumn(until), reason,
                          client_request_id, ToColumn(t.now))
                  .status());
          TH_RETURN_IF_ERROR(RefreshNextRaiseEnd(t, budget.org_id));
          TH_RETURN_IF_ERROR(ForgetBudget(t, budget.id));
          TH_RETURN_IF_ERROR(RefreshTargets(t, budget.id));
          t.changed_rules.insert(budget.id);
        }
        TH_ASSIGN_OR_RETURN(const BudgetDefinition* const raised, LoadBudget(t, budget.id));
        TH_RETURN_IF_ERROR(Finish(t));
        TH_ASSIGN_OR_RETURN(out, ViewOf(t.c, *raised, t.now));
        if (audit != nullptr) audit->SetAfter(out);
        return absl::OkStatus();
      },
      version, audit));
  return out;
}

v1::BudgetRule SqlStore::RuleOf(const BudgetDefinition& budget) {
  v1::BudgetRule rule;
  rule.set_budget_id(budget.id);
  rule.set_org_id(budget.org_id);
  rule.set_account_id(budget.account_id);
  rule.set_display_id(budget.display_id());
  rule.set_window(budget.spec.window);
  rule.set_time_zone(budget.spec.time_zone);
  rule.set_anchor(budget.spec.anchor);
  for (const auto& [key, value] : DecodeTags(budget.spec.match)) (*rule.mutable_match())[key] = value;
  rule.set_mode(budget.spec.mode);
  rule.set_bound(budget.spec.bound);
  rule.set_on_outage(budget.spec.on_outage);
  return rule;
}

absl::StatusOr<bool> SqlStore::NeedsRecall(sql::Connection& c, const BudgetDefinition& budget,
                                              absl::Time now) {
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      c.Query("SELECT 1 FROM budget_rows WHERE budget_id = ?1 AND leased > 0 AND "
                              "(cap > target OR overrun > 0) AND period_end > ?2",
                              budget.id, ToColumn(now)));
  const bool recall = rows.Next();
  TH_RETURN_IF_ERROR(rows.status());
  return recall;
}

absl::StatusOr<v1::Budget> SqlStore::ViewOf(sql::Connection& c, const BudgetDefinition& budget,
                                               absl::Time now) {
  v1::Budget out;
  out.set_id(budget.display_id());
  out.set_budget_id(budget.id);
  out.set_path(budget.spec.path);
  out.set_name(budget.spec.name);
  out.set_window(budget.spec.window);
  for (const auto& [key, value] : DecodeTags(budget.spec.match)) (*out.mutable_match())[key] = value;
  out.set_mode(std::string(NameOf(budget.spec.mode)));
  out.set_hard_pct(budget.spec.hard_pct);
  out.set_limit_nanousd(budget.spec.limit_nanos);
  for (const int pct : budget.spec.soft_pct) out.add_soft_pct(pct);
  out.set_time_zone(budget.spec.time_zone);
  out.set_bound(std::string(NameOf(budget.spec.bound)));
  out.set_on_outage(std::string(NameOf(budget.spec.on_outage)));
  out.set_for_each(std::string(NameOf(budget.spec.for_each)));
  out.set_anchor(budget.spec.anchor);
  if (budget.template_id > 0) {
    TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> made_by,
                        QueryAllBudgets(c, "b.id = ?1", budget.template_id));
    if (!made_by.empty()) out.set_from_template(made_by.front().display_id());
  }
  if (budget.is_template()) return out;

  NanoUsd raised;  // the raises in force now, ended on the books or not
  {
    TH_ASSIGN_OR_RETURN(sql::Rows rows,
                        c.Query("SELECT coalesce(sum(amount), 0) FROM raises WHERE budget_id = ?1 AND "
                                "ended = 0 AND until > ?2",
                                budget.id, ToColumn(now)));
    if (rows.Next()) raised = rows.Money(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  out.set_raised_nanousd(raised.nanos());
  const Period period = PeriodAt(budget.window, budget.zone, now);
  out.set_period(period.key);
  if (period.end != absl::InfiniteFuture()) SetTime(period.end, out.mutable_resets_at());
  const NanoUsd target = TargetCap(NanoUsd(budget.spec.limit_nanos), raised, budget.spec.hard_pct);
  out.set_cap_nanousd(target.nanos());
  TH_ASSIGN_OR_RETURN(sql::Rows rows,
                      c.Query("SELECT cap, overrun, leased, suspense, spent FROM budget_rows WHERE "
                              "budget_id = ?1 AND period = ?2",
                              budget.id, period.key));
  if (rows.Next()) {
    out.set_cap_nanousd(rows.Int(0));
    out.set_overrun_nanousd(rows.Int(1));
    out.set_leased_nanousd(rows.Int(2));
    out.set_suspense_nanousd(rows.Int(3));
    out.set_spent_nanousd(rows.Int(4));
  }
  TH_RETURN_IF_ERROR(rows.status());
  out.set_available_nanousd(
      std::max<int64_t>(0, target.nanos() - out.spent_nanousd() - out.suspense_nanousd()));
  return out;
}

absl::StatusOr<v1::ListBudgetsResponse> SqlStore::ListBudgets(
    const v1::ListBudgetsRequest& request) {
  v1::ListBudgetsResponse out;
  std::string path = request.path();
  std::string id = request.id();
  if (const size_t hash = id.find('#'); path.empty() && hash != std::string::npos) {
    path = id.substr(0, hash);
  }
  const absl::Time now = clock_->Wall();
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    std::vector<BudgetDefinition> budgets;
    if (path.empty()) {
      TH_ASSIGN_OR_RETURN(budgets, QueryBudgets(c, "1 = 1"));
    } else {
      TH_ASSIGN_OR_RETURN(const AccountRow account, AccountByPath(c, path));
      if (request.below()) {
        TH_ASSIGN_OR_RETURN(
            budgets, QueryBudgets(c, "b.org_id = ?1 AND (a.path = ?2 OR (a.path > ?2 || '/' AND "
                                     "a.path < ?2 || '0'))",
                                  account.org_id, path));
      } else {
        TH_ASSIGN_OR_RETURN(budgets, QueryBudgets(c, "b.account_id = ?1", account.id));
      }
    }
    for (const BudgetDefinition& budget : budgets) {
      if (!request.window().empty() && budget.spec.window != request.window()) continue;
      if (!id.empty() && budget.display_id() != id && budget.spec.name != id) continue;
      TH_ASSIGN_OR_RETURN(*out.add_budgets(), ViewOf(c, budget, now));
    }
    if (!id.empty() && out.budgets_size() == 0) return NoBudget(absl::StrCat("'", id, "'"));
    return absl::OkStatus();
  }));
  return out;
}

}  // namespace tollhouse::ledger
