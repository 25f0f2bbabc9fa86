// Accounts: paths, tombstones, limits.
#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/base/strings.h"
#include "services/ledger/core/names.h"
#include "services/ledger/store/sql_store.h"

namespace tollhouse::ledger {
namespace {

absl::Status NotFound(std::string_view path) {
  return MakeError(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND",
                   absl::StrCat("no account '", Absl(path), "'"));
}

absl::Status Exists(std::string_view path) {
  return MakeError(absl::StatusCode::kAlreadyExists, "ACCOUNT_EXISTS",
                   absl::StrCat("there is an account '", Absl(path), "' already"));
}

absl::Status BadArgument(std::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", message);
}

template <typename ProtoMap>
std::string Encode(const ProtoMap& tags) {
  return EncodeTags(std::map<std::string, std::string>(tags.begin(), tags.end()));
}

v1::Account ToProto(const AccountRow& row) {
  v1::Account out;
  out.set_id(row.id);
  out.set_kind(row.kind);
  out.set_path(row.path);
  out.set_owner(row.owner);
  out.set_cost_center(row.cost_center);
  for (const auto& [key, value] : DecodeTags(row.tags)) (*out.mutable_tags())[key] = value;
  out.set_require_budget(row.require_budget);
  const int64_t micros = absl::ToUnixMicros(row.created_at);
  out.mutable_created_at()->set_seconds(micros / 1'000'000);
  out.mutable_created_at()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
  *out.mutable_tag_rules() = row.tag_rules.rules();
  return out;
}

bool Limited(const common::v1::Limits& limits) {
  return limits.requests_per_minute() > 0 || limits.tokens_per_minute() > 0 ||
         limits.concurrency() > 0 || limits.max_output_tokens() > 0 ||
         limits.max_request_cost_nanousd() > 0;
}

v1::AccountLimits LimitsOf(const AccountRow& row) {
  v1::AccountLimits out;
  out.set_org_id(row.org_id);
  out.set_account_id(row.id);
  out.set_path(row.path);
  *out.mutable_limits() = row.limits;
  return out;
}

v1::AccountView AccountViewOf(const AccountRow& row) {
  v1::AccountView view;
  view.set_account_id(row.id);
  view.set_kind(row.kind);
  view.set_path(row.path);
  for (const auto& [key, value] : DecodeTags(row.tags)) (*view.mutable_tags())[key] = value;
  *view.mutable_limits() = row.limits;
  *view.mutable_tag_rules() = row.tag_rules.rules();
  return view;
}

// What an account of this kind at this depth may be.
absl::Status CheckKind(common::v1::AccountKind kind, size_t depth, std::string_view path) {
  const bool fits = kind == common::v1::ACCOUNT_KIND_KEY ? depth >= 2 && depth <= 4
                                                         : static_cast<size_t>(kind) == depth;
  if (fits) return absl::OkStatus();
  return BadArgument(absl::StrCat(
      "'", Absl(path), "' has ", depth,
      depth == 1 ? " name" : " names", "; an org has 1, a team 2 (org/team), a user 3 (org/team/user)"));
}

}  // namespace

std::string SqlStore::SelectAccounts(std::string_view where) {
  return absl::StrCat(
      "SELECT id, org_id, parent_id, kind, path, owner, cost_center, tags, "
      "require_budget, requests_per_minute, tokens_per_minute, concurrency, "
      "max_output_tokens, max_request_cost, created_at, deleted_at IS NOT NULL, tag_rules "
      "FROM accounts WHERE ",
      Absl(where), " ORDER BY path");
}

absl::StatusOr<std::vector<AccountRow>> SqlStore::ReadAccounts(sql::Rows& rows) {
  std::vector<AccountRow> out;
  while (rows.Next()) {
    AccountRow row;
    row.id = rows.Int(0);
    row.org_id = rows.Int(1);
    row.parent_id = rows.Int(2);
    row.kind = static_cast<common::v1::AccountKind>(rows.Int(3));
    row.path = rows.Text(4);
    row.owner = rows.Text(5);
    row.cost_center = rows.Text(6);
    row.tags = rows.Text(7);
    row.require_budget = rows.Bool(8);
    row.limits.set_requests_per_minute(rows.Int(9));
    row.limits.set_tokens_per_minute(rows.Int(10));
    row.limits.set_concurrency(rows.Int(11));
    row.limits.set_max_output_tokens(rows.Int(12));
    row.limits.set_max_request_cost_nanousd(rows.Int(13));
    row.created_at = FromColumn(rows.Int(14));
    row.deleted = rows.Bool(15);
    if (!row.tag_rules.ParseFromString(rows.Text(16))) {
      return absl::DataLossError(
          absl::StrCat("the tag rules of account ", row.id, " are unreadable"));
    }
    out.push_back(std::move(row));
  }
  TH_RETURN_IF_ERROR(rows.status());
  return out;
}

absl::StatusOr<AccountRow> SqlStore::AccountByPath(sql::Connection& c, std::string_view path) {
  TH_ASSIGN_OR_RETURN(std::vector<AccountRow> rows,
                      QueryAccounts(c, "path = ?1 AND deleted_at IS NULL", path));
  if (rows.empty()) return NotFound(path);
  return std::move(rows.front());
}

absl::StatusOr<AccountRow> SqlStore::AccountById(sql::Connection& c, int64_t id) {
  TH_ASSIGN_OR_RETURN(std::vector<AccountRow> rows, QueryAccounts(c, "id = ?1", id));
  if (rows.empty()) return NotFound(absl::StrCat("id ", id));
  return std::move(rows.front());
}

absl::StatusOr<std::vector<AccountRow>> SqlStore::ChainOf(sql::Connection& c,
                                                             int64_t account_id) {
  std::vector<AccountRow> chain;
  for (int64_t id = account_id; id != 0;) {
    TH_ASSIGN_OR_RETURN(AccountRow row, AccountById(c, id));
    id = row.parent_id;
    chain.push_back(std::move(row));
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

absl::StatusOr<std::vector<AccountRow>> SqlStore::Subtree(sql::Connection& c,
                                                             std::string_view path) {
  if (path.empty()) return QueryAccounts(c, "deleted_at IS NULL");
  // '0' follows '/': a range scan of the path index.
  return QueryAccounts(c, "deleted_at IS NULL AND (path = ?1 OR (path > ?1 || '/' AND path < ?1 || '0'))",
                       path);
}

absl::StatusOr<AccountRow> SqlStore::InsertAccount(Txn& t, const AccountRow& account,
                                                      std::string_view client_request_id) {
  AccountRow row = account;
  row.created_at = t.now;
  {
    TH_ASSIGN_OR_RETURN(
        sql::Rows rows,
        t.c.Query("INSERT INTO accounts (org_id, parent_id, kind, path, owner, cost_center, tags, "
                  "require_budget, client_request_id, created_at) "
                  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, nullif(?9, ''), ?10) RETURNING id",
                  row.org_id, row.parent_id, row.kind, row.path, row.owner, row.cost_center,
                  row.tags, row.require_budget, client_request_id, ToColumn(t.now)));
    if (rows.Next()) row.id = rows.Int(0);
    TH_RETURN_IF_ERROR(rows.status());
  }
  if (row.parent_id == 0) {
    row.org_id = row.id;
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE accounts SET org_id = id WHERE id = ?1", row.id).status());
    TH_RETURN_IF_ERROR(t.c.Execute("INSERT INTO orgs (org_id) VALUES (?1)", row.id).status());
    t.orgs[row.id].next_raise_end = absl::InfiniteFuture();
    t.orgs[row.id].head = ChainGenesis(row.id, 0);
  }
  t.changes.add_changed_account_ids(row.id);
  TH_RETURN_IF_ERROR(Materialize(t, row));
  TH_RETURN_IF_ERROR(CheckBudgetCount(t, {row}));
  return row;
}

absl::StatusOr<v1::CreateAccountResponse> SqlStore::CreateAccount(
    audit::Call* audit, const v1::CreateAccountRequest& request, int64_t* version) {
  TH_ASSIGN_OR_RETURN(const std::vector<std::string> names, SplitPath(request.path()));
  TH_RETURN_IF_ERROR(CheckKind(request.kind(), names.size(), request.path()));
  v1::CreateAccountResponse out;
  TH_RETURN_IF_ERROR(Write(
      OrgOf(request.path()),
      [&](Txn& t) -> absl::Status {
        out.Clear();
        absl::StatusOr<AccountRow> present = AccountByPath(t.c, request.path());
        if (present.ok()) {
          if (!request.if_absent() || present->kind != request.kind())
            return Exists(request.path());
          if (audit != nullptr) audit->SetBefore(ToProto(*present));
          present->owner = request.owner();
          present->cost_center = request.cost_center();
          present->tags = Encode(request.tags());
          present->require_budget = request.require_budget();
          TH_RETURN_IF_ERROR(t.c.Execute("UPDATE accounts SET owner = ?2, cost_center = ?3, tags = ?4, "
                                         "require_budget = ?5 WHERE id = ?1",
                                         present->id, present->owner, present->cost_center,
                                         present->tags, present->require_budget)
                                 .status());
          t.changes.add_changed_account_ids(present->id);
          *out.mutable_account() = ToProto(*present);
          if (audit != nullptr) audit->SetAfter(out.account());
          return absl::OkStatus();
        }
        if (!absl::IsNotFound(present.status())) return present.status();
        AccountRow row;
        if (names.size() > 1) {
          TH_ASSIGN_OR_RETURN(const AccountRow parent, AccountByPath(t.c, ParentOf(request.path())));
          if (parent.kind == common::v1::ACCOUNT_KIND_KEY) {
            return BadArgument("a key has no accounts below it");
          }
          row.org_id = parent.org_id;
          row.parent_id = parent.id;
        }
        row.kind = request.kind();
        row.path = request.path();
        row.owner = request.owner();
        row.cost_center = request.cost_center();
        row.tags = Encode(request.tags());
        row.require_budget = request.require_budget();
        TH_ASSIGN_OR_RETURN(row, InsertAccount(t, row, ""));
        *out.mutable_account() = ToProto(row);
        out.set_created(true);
        if (audit != nullptr) audit->SetAfter(out.account());
        return absl::OkStatus();
      },
      version, audit));
  return out;
}

absl::StatusOr<v1::CreateKeyAccountResponse> SqlStore::CreateKeyAccount(
    const v1::CreateKeyAccountRequest& request, int64_t* version) {
  const std::string path = absl::StrCat(request.parent_path(), "/", request.name());
  v1::CreateKeyAccountResponse out;
  const auto answer = [&](const AccountRow& row) {
    out.set_account_id(row.id);
    out.set_path(row.path);
    out.set_org_id(row.org_id);
    return absl::OkStatus();
  };
  TH_RETURN_IF_ERROR(Write(
      OrgOf(path),
      [&](Txn& t) -> absl::Status {
        if (!request.client_request_id().empty()) {
          TH_ASSIGN_OR_RETURN(
              const std::vector<AccountRow> before,
              QueryAccounts(t.c, "org_id = ?1 AND client_request_id = ?2",
                            t.orgs.empty() ? 0 : t.orgs.rbegin()->first,
                            request.client_request_id()));
          if (!before.empty()) {
            if (before.front().path != path) return Exists(before.front().path);
            return answer(before.front());
          }
        }
        TH_RETURN_IF_ERROR(CheckName(request.name()));
        TH_ASSIGN_OR_RETURN(const AccountRow parent, AccountByPath(t.c, request.parent_path()));
        if (parent.kind == common::v1::ACCOUNT_KIND_KEY) {
          return BadArgument("a key has no accounts below it");
        }
        if (const auto present = AccountByPath(t.c, path); present.ok()) return Exists(path);
        AccountRow row;
        row.org_id = parent.org_id;
        row.parent_id = parent.id;
        row.kind = common::v1::ACCOUNT_KIND_KEY;
        row.path = path;
        row.tags = Encode(request.tags());
        TH_ASSIGN_OR_RETURN(row, InsertAccount(t, row, request.client_request_id()));
        return answer(row);
      },
      version));
  return out;
}

absl::Status SqlStore::TombstoneSubtree(Txn& t, const AccountRow& top,
                                           std::vector<std::string>* paths) {
  TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> accounts, Subtree(t.c, top.path));
  for (const AccountRow& account : accounts) {
    paths->push_back(account.path);
    TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> budgets,
                        QueryBudgets(t.c, "b.account_id = ?1", account.id));
    for (const BudgetDefinition& budget : budgets) TH_RETURN_IF_ERROR(TombstoneBudget(t, budget));
    if (Limited(account.limits)) {
      v1::AccountLimits& removed = *t.changes.add_limits() = LimitsOf(account);
      removed.clear_limits();
    }
    TH_RETURN_IF_ERROR(
        t.c.Execute("DELETE FROM webhooks WHERE account_id = ?1", account.id).status());
    TH_RETURN_IF_ERROR(t.c.Execute("UPDATE accounts SET deleted_at = ?2 WHERE id = ?1", account.id,
                                   ToColumn(t.now))
                           .status());
  }
  t.changes.add_changed_account_ids(top.id);
  return absl::OkStatus();
}

absl::Status SqlStore::DeleteKeyAccount(int64_t account_id, int64_t* version) {
  return Write(
      [account_id](sql::Connection& c) -> absl::StatusOr<std::vector<int64_t>> {
        TH_ASSIGN_OR_RETURN(const AccountRow row, AccountById(c, account_id));
        return std::vector<int64_t>{row.org_id};
      },
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const AccountRow row, AccountById(t.c, account_id));
        if (row.kind != common::v1::ACCOUNT_KIND_KEY) return NotFound(row.path);
        std::vector<std::string> paths;
        return row.deleted ? absl::OkStatus() : TombstoneSubtree(t, row, &paths);
      },
      version);
}

absl::StatusOr<v1::Account> SqlStore::GetAccount(std::string_view path) {
  v1::Account out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    TH_ASSIGN_OR_RETURN(const AccountRow row, AccountByPath(c, path));
    out = ToProto(row);
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<v1::ListAccountsResponse> SqlStore::ListAccounts(
    const v1::ListAccountsRequest& request) {
  v1::ListAccountsResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    if (!request.below().empty()) TH_RETURN_IF_ERROR(AccountByPath(c, request.below()).status());
    TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> rows, Subtree(c, request.below()));
    for (const AccountRow& row : rows) {
      if (request.kind() == common::v1::ACCOUNT_KIND_UNSPECIFIED || row.kind == request.kind()) {
        *out.add_accounts() = ToProto(row);
      }
    }
    return absl::OkStatus();
  }));
  return out;
}

absl::Status SqlStore::PublishSubtree(Txn& t, std::string_view path) {
  TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> accounts, Subtree(t.c, path));
  for (const AccountRow& account : accounts) {
    if (Limited(account.limits)) *t.changes.add_limits() = LimitsOf(account);
    TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> budgets,
                        QueryBudgets(t.c, "b.account_id = ?1", account.id));
    for (const BudgetDefinition& budget : budgets) t.changed_rules.insert(budget.id);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Account> SqlStore::MoveAccount(audit::Call* audit,
                                                  const v1::MoveAccountRequest& request,
                                                  int64_t* version) {
  TH_ASSIGN_OR_RETURN(const std::vector<std::string> names, SplitPath(request.new_path()));
  v1::Account out;
  TH_RETURN_IF_ERROR(Write(
      OrgOf(request.path()),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(AccountRow row, AccountByPath(t.c, request.path()));
        if (audit != nullptr) audit->SetBefore(ToProto(row));
        if (request.path() == request.new_path()) {
          out = ToProto(row);
          return absl::OkStatus();
        }
        TH_RETURN_IF_ERROR(CheckKind(row.kind, names.size(), request.new_path()));
        if (IsAtOrBelow(request.new_path(), request.path())) {
          return BadArgument("an account cannot move below itself");
        }
        if (AccountByPath(t.c, request.new_path()).ok()) return Exists(request.new_path());
        int64_t parent_id = 0;
        if (names.size() > 1) {
          TH_ASSIGN_OR_RETURN(const AccountRow parent,
                              AccountByPath(t.c, ParentOf(request.new_path())));
          if (parent.org_id != row.org_id) {
            return BadArgument("an account moves within its org only");
          }
          if (parent.kind == common::v1::ACCOUNT_KIND_KEY) {
            return BadArgument("a key has no accounts below it");
          }
          parent_id = parent.id;
        }
        TH_RETURN_IF_ERROR(t.c.Execute("UPDATE accounts SET parent_id = ?2 WHERE id = ?1", row.id,
                                       parent_id)
                               .status());
        TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> moved, Subtree(t.c, request.path()));
        for (const AccountRow& account : moved) {
          TH_RETURN_IF_ERROR(t.c.Execute("UPDATE accounts SET path = ?2 WHERE id = ?1", account.id,
                                         request.new_path() +
                                             account.path.substr(request.path().size()))
                                 .status());
        }
        // Templates above the new place apply now, those above the old one no longer.
        TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> now_there,
                            Subtree(t.c, request.new_path()));
        for (const AccountRow& account : now_there) {
          TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> made,
                              QueryBudgets(t.c, "b.account_id = ?1 AND b.template_id > 0", account.id));
          for (const BudgetDefinition& budget : made) {
            TH_ASSIGN_OR_RETURN(const BudgetDefinition* const made_by,
                                LoadBudget(t, budget.template_id));
            if (made_by == nullptr || !IsAtOrBelow(account.path, made_by->spec.path)) {
              TH_RETURN_IF_ERROR(TombstoneBudget(t, budget));
            }
          }
          TH_RETURN_IF_ERROR(Materialize(t, account));
        }
        TH_RETURN_IF_ERROR(CheckBudgetCount(t, now_there));
        for (const AccountRow& account : now_there) {
          TH_ASSIGN_OR_RETURN(const std::vector<BudgetDefinition> budgets,
                              QueryBudgets(t.c, "b.account_id = ?1", account.id));
          for (const BudgetDefinition& budget : budgets) {
            TH_RETURN_IF_ERROR(ForgetBudget(t, budget.id));
          }
        }
        TH_RETURN_IF_ERROR(PublishSubtree(t, request.new_path()));
        t.changes.add_changed_account_ids(row.id);
        TH_ASSIGN_OR_RETURN(row, AccountById(t.c, row.id));
        out = ToProto(row);
        if (audit != nullptr) audit->SetAfter(out);
        return absl::OkStatus();
      },
      version, audit));
  return out;
}

absl::StatusOr<std::vector<std::string>> SqlStore::DeleteAccount(audit::Call* audit,
                                                                 std::string_view path,
                                                                 bool dry_run, int64_t* version) {
  std::vector<std::string> paths;
  if (dry_run) {
    *version = 0;
    TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
      TH_RETURN_IF_ERROR(AccountByPath(c, path).status());
      TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> rows, Subtree(c, path));
      for (const AccountRow& row : rows) paths.push_back(row.path);
      return absl::OkStatus();
    }));
    return paths;
  }
  TH_RETURN_IF_ERROR(Write(
      OrgOf(path),
      [&](Txn& t) -> absl::Status {
        paths.clear();
        const absl::StatusOr<AccountRow> row = AccountByPath(t.c, path);
        if (absl::IsNotFound(row.status())) {
          TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> tombstones,
                              QueryAccounts(t.c, "path = ?1", path));
          return tombstones.empty() ? row.status() : absl::OkStatus();
        }
        TH_RETURN_IF_ERROR(row.status());
        if (audit != nullptr) audit->SetBefore(ToProto(*row));
        return TombstoneSubtree(t, *row, &paths);
      },
      version, audit));
  return paths;
}

absl::StatusOr<v1::ResolveAccountResponse> SqlStore::ResolveAccount(
    const v1::ResolveAccountRequest& request) {
  v1::ResolveAccountResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    int64_t id = request.account_id();
    if (request.by_case() == v1::ResolveAccountRequest::kPath) {
      TH_ASSIGN_OR_RETURN(const AccountRow row, AccountByPath(c, request.path()));
      id = row.id;
    }
    if (id <= 0) return NotFound(absl::StrCat("id ", id));
    TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> chain, ChainOf(c, id));
    if (chain.back().deleted) return NotFound(chain.back().path);
    for (const AccountRow& row : chain) *out.add_chain() = AccountViewOf(row);
    out.set_require_budget(chain.front().require_budget);
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<v1::ResolveAccountsResponse> SqlStore::ResolveAccounts(
    const v1::ResolveAccountsRequest& request) {
  if (request.account_ids_size() > 1024) return BadArgument("at most 1024 accounts at once");
  std::map<int64_t, AccountRow> rows;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    rows.clear();
    std::set<int64_t> wanted(request.account_ids().begin(), request.account_ids().end());
    while (!wanted.empty()) {  // a level of the tree at a time
      std::vector<AccountRow> found;
      if (c.dialect() == sql::Dialect::kPostgres) {
        const std::vector<int64_t> ids(wanted.begin(), wanted.end());
        TH_ASSIGN_OR_RETURN(found, QueryAccounts(c, "id = ANY (?1)", sql::Array::Ints(ids)));
      } else {
        for (const int64_t id : wanted) {
          TH_ASSIGN_OR_RETURN(std::vector<AccountRow> one, QueryAccounts(c, "id = ?1", id));
          std::move(one.begin(), one.end(), std::back_inserter(found));
        }
      }
      wanted.clear();
      for (AccountRow& row : found) {
        if (row.deleted) continue;
        if (row.parent_id != 0 && !rows.contains(row.parent_id)) wanted.insert(row.parent_id);
        const int64_t id = row.id;
        rows.emplace(id, std::move(row));
      }
    }
    return absl::OkStatus();
  }));
  std::vector<const AccountRow*> sorted;
  for (const auto& [id, row] : rows) sorted.push_back(&row);
  // A parent's path is shorter than those below it.
  std::sort(sorted.begin(), sorted.end(), [](const AccountRow* a, const AccountRow* b) {
    return a->path.size() < b->path.size();
  });
  v1::ResolveAccountsResponse out;
  for (const AccountRow* row : sorted) {
    v1::ResolvedAccount& account = *out.add_accounts();
    *account.mutable_account() = AccountViewOf(*row);
    account.set_parent_id(row->parent_id);
    account.set_require_budget(row->require_budget);
  }
  return out;
}

absl::StatusOr<v1::SetLimitsResponse> SqlStore::SetLimits(audit::Call* audit,
                                                          const v1::SetLimitsRequest& request,
                                                          int64_t* version) {
  v1::SetLimitsResponse out;
  TH_RETURN_IF_ERROR(Write(
      OrgOf(request.path()),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(AccountRow row, AccountByPath(t.c, request.path()));
        common::v1::Limits& limits = row.limits;
        if (audit != nullptr) audit->SetBefore(limits);
        if (request.has_requests_per_minute()) {
          limits.set_requests_per_minute(request.requests_per_minute());
        }
        if (request.has_tokens_per_minute()) {
          limits.set_tokens_per_minute(request.tokens_per_minute());
        }
        if (request.has_concurrency()) limits.set_concurrency(request.concurrency());
        if (request.has_max_output_tokens()) {
          limits.set_max_output_tokens(request.max_output_tokens());
        }
        if (request.has_max_request_cost_nanousd()) {
          limits.set_max_request_cost_nanousd(request.max_request_cost_nanousd());
        }
        TH_RETURN_IF_ERROR(
            t.c.Execute("UPDATE accounts SET requests_per_minute = ?2, tokens_per_minute = ?3, "
                        "concurrency = ?4, max_output_tokens = ?5, max_request_cost = ?6 WHERE id = ?1",
                        row.id, limits.requests_per_minute(), limits.tokens_per_minute(),
                        limits.concurrency(), limits.max_output_tokens(),
                        limits.max_request_cost_nanousd())
                .status());
        *t.changes.add_limits() = LimitsOf(row);
        t.changes.add_changed_account_ids(row.id);
        out.set_path(row.path);
        *out.mutable_limits() = limits;
        if (audit != nullptr) audit->SetAfter(limits);
        return absl::OkStatus();
      },
      version, audit));
  return out;
}

absl::StatusOr<v1::AccountTagRules> SqlStore::SetTagRules(audit::Call* audit,
                                                          const v1::SetTagRulesRequest& request,
                                                          int64_t* version) {
  v1::AccountTagRules rules;
  *rules.mutable_rules() = request.rules();
  std::sort(rules.mutable_rules()->begin(), rules.mutable_rules()->end(),
            [](const auto& a, const auto& b) { return a.tag() < b.tag(); });
  const std::string encoded = Serialize(rules);
  TH_RETURN_IF_ERROR(Write(
      OrgOf(request.path()),
      [&](Txn& t) -> absl::Status {
        TH_ASSIGN_OR_RETURN(const AccountRow row, AccountByPath(t.c, request.path()));
        if (audit != nullptr) {
          audit->SetBefore(row.tag_rules);
          audit->SetAfter(rules);
        }
        t.changes.add_changed_account_ids(row.id);
        return t.c
            .Execute("UPDATE accounts SET tag_rules = ?2 WHERE id = ?1", row.id, sql::Blob{encoded})
            .status();
      },
      version, audit));
  rules.set_path(request.path());
  return rules;
}

absl::StatusOr<v1::ListTagRulesResponse> SqlStore::ListTagRules(
    const v1::ListTagRulesRequest& request) {
  v1::ListTagRulesResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    if (!request.path().empty()) TH_RETURN_IF_ERROR(AccountByPath(c, request.path()).status());
    TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> rows, Subtree(c, request.path()));
    for (const AccountRow& row : rows) {
      const bool wanted = request.below() || request.path().empty() || row.path == request.path();
      if (!wanted || row.tag_rules.rules().empty()) continue;
      *out.add_rules() = row.tag_rules;
      out.mutable_rules()->rbegin()->set_path(row.path);
    }
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<v1::ListLimitsResponse> SqlStore::ListLimits(const v1::ListLimitsRequest& request) {
  v1::ListLimitsResponse out;
  TH_RETURN_IF_ERROR(database_->Read([&](sql::Connection& c) -> absl::Status {
    if (!request.path().empty()) TH_RETURN_IF_ERROR(AccountByPath(c, request.path()).status());
    TH_ASSIGN_OR_RETURN(const std::vector<AccountRow> rows, Subtree(c, request.path()));
    for (const AccountRow& row : rows) {
      const bool wanted = request.below() || request.path().empty() || row.path == request.path();
      if (wanted && Limited(row.limits)) *out.add_limits() = LimitsOf(row);
    }
    return absl::OkStatus();
  }));
  return out;
}

}  // namespace tollhouse::ledger
